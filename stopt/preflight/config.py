"""Configuration files that ask for code: keys by which model libraries have been talked into running some.

They are refused at any depth, because the libraries that act on them read nested configurations too: see CVE-2026-4372
(``_attn_implementation_internal``) and CVE-2026-5241 (nested ``trust_remote_code``) of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stopt.errors import UntrustedModel

__all__ = ["ATTENTIONS", "refuse_code"]

_CODE = {"auto_map", "custom_pipelines"}
# by which transformers would take another configuration or other weights than those that were checked
_ELSEWHERE = {"configuration_files", "transformers_weights"}
# those that transformers has; any other name is a place on the Hub, to fetch code from
ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
_HINT = "stopt never runs code from a model; use one whose architecture transformers has built in"


def refuse_code(file: Path, config: Any) -> None:
    """Make sure that a parsed configuration asks for no code of its own.

    Args:
        file: The file that it is from, for messages.
        config: Its value.

    Raises:
        UntrustedModel: If it does; names the key.
    """
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        if not isinstance(value, dict):
            continue
        for key, each in value.items():
            if reason := _reason(key, each, read_by_others=file.name == "config.json"):
                raise UntrustedModel(f"{file} {reason}", _HINT)
        waiting += value.values()


def _reason(key: str, value: Any, *, read_by_others: bool) -> str | None:
    if key in _CODE and value:
        return f"names code of its own ({key})"
    if key in _ELSEWHERE and read_by_others and value:
        return f"names other files to use in its place ({key})"
    # sentence-transformers leaves it out where it reads it, in its own files
    if key == "trust_remote_code" and read_by_others and value not in (False, None):
        return "asks to be trusted (trust_remote_code)"
    if "attn_implementation" in key and (name := _foreign_attention(value)) is not None:
        return f"names an attention of its own, {name!r:.120} ({key[:60]})"
    return None


def _foreign_attention(value: Any) -> str | None:
    """The first name of an attention that is not one of transformers' own: it would be fetched from the Hub."""
    values = value.values() if isinstance(value, Mapping) else [value]
    return next((each for each in values if isinstance(each, str) and each not in ATTENTIONS), None)
