"""Configuration files that ask for code: keys by which model libraries have been talked into running some.

They are refused at any depth, because the libraries that act on them read nested configurations too: see CVE-2026-4372
(``_attn_implementation_internal``) and CVE-2026-5241 (nested ``trust_remote_code``) of transformers. One key has a use:
``auto_map`` at the top of config.json and tokenizer_config.json, by which a model brings its own classes. A converted file
needs none of them, so whoever serves one may leave it unread; a conversion acts on it only where its user said so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stopt.errors import UntrustedModel

__all__ = ["ATTENTIONS", "AUTO_MAP", "refuse_code"]

AUTO_MAP = "auto_map"

_CODE = {AUTO_MAP, "custom_pipelines"}
_OWN_CLASSES = ("config.json", "tokenizer_config.json")
# by which transformers would take another configuration or other weights than those that were checked
_ELSEWHERE = {"configuration_files", "transformers_weights"}
# those that transformers has; any other name is a place on the Hub, to fetch code from
ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
_HINT = "stopt never runs code from a model; use one whose architecture transformers has built in"
_HINT_OWN = (
    "stopt never runs code from a model to serve it, and else only if it is told to: read that code, and if you trust it, "
    "convert the model with --trust-remote-code"
)


def refuse_code(file: Path, config: Any, *, unread: bool = False) -> None:
    """Make sure that a parsed configuration asks for no code of its own.

    Args:
        file: The file that it is from, for messages.
        config: Its value.
        unread: Whether ``auto_map`` may be at its top, because nobody will act on it, or its
            user trusts it.

    Raises:
        UntrustedModel: If it does; names the key.
    """
    if file.name in _OWN_CLASSES and isinstance(config, dict) and config.get(AUTO_MAP):
        if not unread:
            raise UntrustedModel(f"{file} names code of its own ({AUTO_MAP})", _HINT_OWN)
        config = {key: value for key, value in config.items() if key != AUTO_MAP}
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
