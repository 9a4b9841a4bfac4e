"""What transformers and sentence-transformers change of a tokenizer when they load it."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors

from stopt.spec import TokenizerSpec

__all__ = ["apply_overrides", "lower_case", "state_of"]


def apply_overrides(tokenizer: Tokenizer, spec: TokenizerSpec) -> None:
    """Change the tokenizer as the constructors of transformers' classes do, then lower-case as sentence-transformers does."""
    overrides = spec.overrides
    if (settings := overrides.get("normalizer")) and isinstance(
        tokenizer.normalizer, normalizers.BertNormalizer
    ):
        state = {**state_of(tokenizer.normalizer), **settings}  # type: ignore[dict-item]
        state.pop("type")
        tokenizer.normalizer = normalizers.BertNormalizer(**state)
    prefix = overrides.get("add_prefix_space")
    if prefix is not None and tokenizer.pre_tokenizer is not None:
        state = state_of(tokenizer.pre_tokenizer)
        if state.get("add_prefix_space", prefix) != prefix:
            tokenizer.pre_tokenizer = getattr(pre_tokenizers, state.pop("type"))(
                **{**state, "add_prefix_space": prefix}
            )
    if tokens := overrides.get("bos_eos"):
        tokenizer.post_processor = _bos_eos_template(tokenizer, *tokens)  # type: ignore[misc]
    if spec.lower_case:
        lower_case(tokenizer)


def lower_case(tokenizer: Tokenizer) -> None:
    """Put lower-casing first in the normaliser, unless it is there already."""
    normalizer = tokenizer.normalizer
    rest = (
        list(normalizer)
        if isinstance(normalizer, normalizers.Sequence)
        else [normalizer]
        if normalizer
        else []
    )
    if not any(isinstance(part, normalizers.Lowercase) for part in rest):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])


def _bos_eos_template(tokenizer: Tokenizer, bos: str | None, eos: str | None) -> Any:
    around = [f"{bos}:{{}} " if bos else "", f" {eos}:{{}}" if eos else ""]
    single = f"{around[0]}$A:{{}}{around[1]}".replace("{}", "0")
    second = f"{around[0]}$B:{{}}{around[1]}".replace("{}", "1")
    specials = [(token, tokenizer.token_to_id(token)) for token in (bos, eos) if token]
    return processors.TemplateProcessing(single=single, pair=f"{single} {second}", special_tokens=specials)


def state_of(component: Any) -> dict[str, Any]:
    """The constructor arguments of a part of a tokenizer, and its class name under ``type``."""
    state: dict[str, Any] = json.loads(component.__getstate__())
    return state
