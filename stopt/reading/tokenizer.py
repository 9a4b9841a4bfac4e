"""Read what surrounds tokenizer.json: limits, sides, special tokens, and what transformers applies on top.

transformers builds a fast tokenizer from tokenizer.json and then lets the defaults of its Python class and
tokenizer_config.json change it. Serving without transformers has to know those changes; they are the table below
(read off transformers 4.57; ``tests/test_tokenizer.py`` compares with it live).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stopt.errors import CorruptModel, UnsupportedModel
from stopt.reading.files import Reading
from stopt.spec import TokenizerSpec

__all__ = ["read_tokenizer"]

# transformers writes int(1e30) for "no limit"
NO_LIMIT = 10**9


@dataclass(frozen=True, slots=True)
class _Family:
    """Defaults of a tokenizer class of transformers, and what its constructor changes."""

    pad_token: str | None = None
    padding_side: str = "right"
    token_types: bool = False
    bert_normalizer: bool = (
        False  # do_lower_case, strip_accents, tokenize_chinese_chars replace tokenizer.json's
    )
    chinese_chars: bool = True  # whether tokenize_chinese_chars is among them
    lower_case: bool = True  # the class's default for do_lower_case, where bert_normalizer
    adds_bos_eos: bool = False  # the post-processor is rebuilt from add_bos_token and add_eos_token
    bos_token: str | None = None
    eos_token: str | None = None


_BERT = _Family("[PAD]", token_types=True, bert_normalizer=True)
_BPE = _Family("<pad>")
_LLAMA = _Family(None, padding_side="left", adds_bos_eos=True, bos_token="<s>", eos_token="</s>")

_FAMILIES: Mapping[str, _Family] = {
    "Albert": _Family("<pad>", token_types=True),
    "Bart": _BPE,
    "Barthez": _BPE,
    "Bert": _BERT,
    "BigBird": _BPE,
    "Blenderbot": _BPE,
    "Bloom": _BPE,
    "Camembert": _BPE,
    "CodeLlama": _LLAMA,
    "ConvBert": _BERT,
    "Deberta": _Family("[PAD]", token_types=True),
    "DebertaV2": _Family("[PAD]", token_types=True),
    "DistilBert": _Family("[PAD]", bert_normalizer=True),
    "Electra": _BERT,
    "FNet": _Family("<pad>", token_types=True),
    "Funnel": _Family("<pad>", token_types=True, bert_normalizer=True),
    "GPT2": _Family(),
    "GPTNeoX": _Family(),
    "Gemma": _Family("<pad>", "left", adds_bos_eos=True, bos_token="<bos>", eos_token="<eos>"),
    "Herbert": _Family("<pad>", token_types=True),
    "LayoutLM": _BERT,
    "Llama": _LLAMA,
    "Longformer": _BPE,
    "Lxmert": _BERT,
    "MBart": _BPE,
    "MBart50": _BPE,
    "MPNet": _Family("<pad>", bert_normalizer=True, chinese_chars=False),
    "MT5": _BPE,
    "MobileBert": _BERT,
    "Nllb": _BPE,
    "Pegasus": _BPE,
    "Qwen2": _Family("<|endoftext|>"),
    "RemBert": _Family("<pad>", token_types=True),
    "Roberta": _BPE,
    "SqueezeBert": _BERT,
    "T5": _BPE,
    "XLMRoberta": _BPE,
    "XLNet": _Family("<pad>", "left", token_types=True),
}
_GENERIC = _Family(token_types=True)

# the tokenizer class that transformers picks where tokenizer_config.json names none
_CLASS_OF_MODEL_TYPE = {
    "albert": "Albert",
    "bert": "Bert",
    "camembert": "Camembert",
    "deberta": "Deberta",
    "deberta-v2": "DebertaV2",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "gemma": "Gemma",
    "gemma2": "Gemma",
    "gemma3_text": "Gemma",
    "llama": "Llama",
    "mistral": "Llama",
    "mpnet": "MPNet",
    "mt5": "MT5",
    "qwen2": "Qwen2",
    "qwen3": "Qwen2",
    "roberta": "Roberta",
    "t5": "T5",
    "xlm-roberta": "XLMRoberta",
    "xlnet": "XLNet",
}

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SIDES = ("left", "right")


def read_tokenizer(
    reading: Reading,
    path: str,
    model: Mapping[str, Any],
    arguments: Mapping[str, Any],
    *,
    lower_case: bool,
    position_limit: int | None,
) -> TokenizerSpec:
    """Read the tokenizer's files, apart from tokenizer.json's own vocabulary.

    Args:
        reading: The model folder.
        path: Folder of the tokenizer in it.
        model: The transformer's config.json; empty where there is none.
        arguments: Tokenizer arguments of the model's own files; they win over tokenizer_config.json.
        lower_case: ``do_lower_case`` of sentence_bert_config.json.
        position_limit: Tokens the transformer has positions for; None is no limit.

    Returns:
        The spec, with the tokenizer's own limit as ``max_seq_length``.

    Raises:
        UnsupportedModel: If there is no tokenizer.json.
        CorruptModel: If a value is not of its kind.
    """
    if not reading.file(path, "tokenizer.json").is_file():
        raise UnsupportedModel(
            str(reading.root),
            [
                f"there is no tokenizer.json in {reading.file(path)}, and slow tokenizers need transformers to run"
            ],
            "save a fast one beside the model: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    config_file = reading.file(path, "tokenizer_config.json")
    own = reading.optional(path, "tokenizer_config.json", transformers=True)
    roles = {**reading.optional(path, "special_tokens_map.json"), **own}
    config = {**own, **arguments}

    class_name = str(
        config.get("tokenizer_class")
        or model.get("tokenizer_class")
        or _CLASS_OF_MODEL_TYPE.get(model.get("model_type", ""), "")
    )
    family = _FAMILIES.get(class_name.removesuffix("Fast").removesuffix("Tokenizer"), _GENERIC)
    tokens = {role: text for role in _ROLES if (text := _token_text(roles.get(role)))}
    overrides = _overrides(config, family, tokens)
    names = config.get("model_input_names")
    return TokenizerSpec(
        path=path,
        max_seq_length=_limit(config, config_file),
        position_limit=position_limit,
        lower_case=lower_case,
        padding_side=_side(config, "padding_side", family.padding_side, config_file),
        truncation_side=_side(config, "truncation_side", "right", config_file),
        pad_token=tokens.get("pad_token", family.pad_token),
        pad_type_id=_pad_type_id(config, config_file),
        token_types=_has_token_types(model)
        and ("token_type_ids" in names if isinstance(names, list) else family.token_types),
        special_tokens=frozenset(tokens.values()),
        vocabulary=reading.positive(model, "vocab_size") if model.get("vocab_size") is not None else None,
        overrides=overrides,
    )


def _has_token_types(model: Mapping[str, Any]) -> bool:
    """Whether the transformer tells token types apart; a single type, or none, need not be fed."""
    kinds = model.get("type_vocab_size", 2 if model.get("model_type") == "xlnet" else 0)
    return isinstance(kinds, int) and kinds > 1


def _overrides(config: Mapping[str, Any], family: _Family, tokens: Mapping[str, str]) -> dict[str, object]:
    """What transformers changes in the tokenizer that tokenizer.json describes, by component."""
    changes: dict[str, object] = {}
    if (prefix := config.get("add_prefix_space", False)) is not None:  # null leaves tokenizer.json's
        changes["add_prefix_space"] = bool(prefix)
    if family.bert_normalizer:
        settings = {
            "lowercase": bool(config.get("do_lower_case", family.lower_case)),
            "strip_accents": config.get("strip_accents"),
        }
        if not isinstance(settings["strip_accents"], bool | None):
            raise CorruptModel(
                f"strip_accents is {settings['strip_accents']!r} in tokenizer_config.json, expected true or false"
            )
        if family.chinese_chars:
            settings["handle_chinese_chars"] = bool(config.get("tokenize_chinese_chars", True))
        changes["normalizer"] = settings
    if family.adds_bos_eos:
        add_bos, add_eos = config.get("add_bos_token", True), config.get("add_eos_token", False)
        changes["bos_eos"] = (
            tokens.get("bos_token", family.bos_token) if add_bos else None,
            tokens.get("eos_token", family.eos_token) if add_eos else None,
        )
    return changes


def _limit(config: Mapping[str, Any], file: Path) -> int | None:
    limit = config.get("model_max_length")
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int | float) or limit < 1:
        raise CorruptModel(f"{file}: model_max_length is {limit!r}, expected a positive number of tokens")
    return None if limit > NO_LIMIT else int(limit)


def _pad_type_id(config: Mapping[str, Any], file: Path) -> int:
    number = config.get("pad_token_type_id") or 0
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise CorruptModel(f"{file}: pad_token_type_id is {number!r}, expected a token type")
    return number


def _side(config: Mapping[str, Any], key: str, default: str, file: Path) -> str:
    side = config.get(key, default)
    if side not in _SIDES:
        raise CorruptModel(f"{file}: {key} is {side!r}, expected 'left' or 'right'")
    return str(side)


def _token_text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
