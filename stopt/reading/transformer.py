"""config.json and sentence_bert_config.json: the transformer, and how many tokens a text may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, assert_never

from stopt.errors import CorruptModel, SourceError
from stopt.reading.files import Reading, section
from stopt.reading.scoring import count_labels
from stopt.reading.tokenizer import read_tokenizer
from stopt.spec import ModelKind, Task, TokenizerSpec, TransformerSpec

__all__ = ["read_config", "read_settings", "read_tokenizer_with_limit", "read_transformer"]

_SETTINGS_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)

# their position ids start after the padding id, so the table holds that many tokens fewer
_OFFSET_POSITIONS = {
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "luke",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}

# arguments that do not change a vector computed in float32
_MODEL_ARGUMENTS = {
    "add_pooling_layer",
    "attn_implementation",
    "dtype",
    "torch_dtype",
    "trust_remote_code",
    "use_safetensors",
}
_TOKENIZER_ARGUMENTS = {
    "model_max_length",
    "padding_side",
    "truncation_side",
    "trust_remote_code",
    "use_fast",
}


def read_config(reading: Reading, path: str) -> dict[str, Any]:
    """Read the transformer's config.json.

    Raises:
        SourceError: If it is missing.
        UntrustedModel: If it names code of its own.
        CorruptModel: If it does not say what the model is.
    """
    file = reading.file(path, "config.json")
    if not file.is_file():
        hint = "is this the folder of a sentence-transformers model?"
        if reading.file("adapter_config.json").is_file():
            hint = "this is a PEFT adapter: merge it into its base model (merge_and_unload) and save that"
        raise SourceError(f"{file} is missing", hint)
    config = reading.required(path, "config.json", transformers=True)
    if not isinstance(config.get("model_type"), str):
        raise CorruptModel(f"{file} has no model_type", "is this a transformers model?")
    return config


def read_settings(reading: Reading, path: str) -> dict[str, Any]:
    """Read sentence_bert_config.json, under whichever of its names; empty if there is none."""
    found = (reading.optional(path, name) for name in _SETTINGS_FILES)
    return next(filter(None, found), {})


# what the transformer of each kind may do
_TASKS = {
    ModelKind.DENSE: {Task.FEATURES},
    ModelKind.SPARSE: {Task.FEATURES, Task.MASKED_LM},
    ModelKind.CROSS_ENCODER: {Task.FEATURES, Task.CLASSIFICATION},
}


def read_transformer(
    reading: Reading, path: str, config: Mapping[str, Any], settings: Mapping[str, Any], default: Task
) -> TransformerSpec:
    """Describe the transformer; what is unsupported goes into the reading's reasons.

    Args:
        reading: The model folder.
        path: The transformer's folder in it.
        config: Its config.json.
        settings: Its sentence_bert_config.json.
        default: Its task where the settings name none.
    """
    width = next((config[key] for key in ("hidden_size", "d_model", "dim", "n_embd") if key in config), None)
    if isinstance(width, bool) or not isinstance(width, int) or not 0 < width < 10**6:
        raise CorruptModel(f"{reading.root}: config.json has no usable hidden_size (found {width!r})")
    task = _task(reading, settings, default)
    if settings.get("tokenizer_name_or_path"):
        reading.reasons.append("its tokenizer is in another place (tokenizer_name_or_path)")
    arguments = section(settings, "model_args", "model_kwargs")
    _refuse_others(reading, "model", arguments, _MODEL_ARGUMENTS)
    _refuse_others(
        reading, "configuration", section(settings, "config_args", "config_kwargs"), {"trust_remote_code"}
    )
    dtype = arguments.get("dtype") or arguments.get("torch_dtype")
    return TransformerSpec(
        path,
        str(config["model_type"]),
        width,
        str(dtype).removeprefix("torch.") if dtype else None,
        task,
        _head_size(reading, task, config),
    )


def _task(reading: Reading, settings: Mapping[str, Any], default: Task) -> Task:
    name = settings.get("transformer_task", default.value)
    known = _TASKS[reading.kind]
    if name in [task.value for task in known]:
        return Task(name)
    if name in ("text-generation", "any-to-any"):
        why = "which needs chat templates and a graph that generates text"
    else:
        why = f"expected {' or '.join(sorted(known))}"
    reading.reasons.append(f"its transformer does {name!r:.60}, {why}")
    return default


def _head_size(reading: Reading, task: Task, config: Mapping[str, Any]) -> int | None:
    match task:
        case Task.FEATURES:
            return None
        case Task.MASKED_LM:
            return reading.positive(config, "vocab_size")
        case Task.CLASSIFICATION:
            return count_labels(reading, config)
        case _:
            assert_never(task)


def read_tokenizer_with_limit(
    reading: Reading, path: str, config: Mapping[str, Any], settings: Mapping[str, Any]
) -> TokenizerSpec:
    """Describe the tokenizer, with the number of tokens after which a text is cut.

    A limit in sentence_bert_config.json counts as it is, else the smaller of the tokenizer's and the transformer's; none
    may exceed a position table, whose end an engine would read past.
    """
    arguments = section(settings, "tokenizer_args", "processor_kwargs")
    _refuse_others(reading, "tokenizer", arguments, _TOKENIZER_ARGUMENTS)
    processing = section(settings, "processing_kwargs")
    for part in processing:
        _refuse_others(reading, "processing", section(processing, part), {"max_length"})
    table, stated = _positions(config)
    tokenizer = read_tokenizer(
        reading,
        path,
        config,
        arguments,
        lower_case=reading.flag(settings, "do_lower_case"),
        position_limit=table,
    )
    explicit = section(processing, "common", "text")
    if "max_length" in explicit:
        limits = [reading.positive(explicit, "max_length"), table]
    elif "model_max_length" in arguments:
        limits = [tokenizer.max_seq_length, table]
    elif settings.get("max_seq_length") is not None:
        limits = [reading.positive(settings, "max_seq_length"), table]
    else:
        limits = [tokenizer.max_seq_length, stated]
    return replace(tokenizer, max_seq_length=min((n for n in limits if n is not None), default=None))


def _refuse_others(reading: Reading, kind: str, arguments: Mapping[str, Any], known: set[str]) -> None:
    reading.reasons.extend(
        f"{kind} argument {key!r} in sentence_bert_config.json" for key in sorted(arguments.keys() - known)
    )


def _positions(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """How many tokens fit.

    Returns:
        The size of the position table (None where positions are computed, not looked up), and the limit that
        config.json states. Models of the RoBERTa family lose as many positions as their padding id, plus one.
    """
    keys = (
        ("max_position_embeddings", "n_positions")
        if config["model_type"] == "gpt2"
        else ("max_position_embeddings",)
    )
    stated = next((config[key] for key in keys if isinstance(config.get(key), int)), None)
    if stated is None or stated < 1:  # XLNet says -1
        return None, None
    if config["model_type"] in _OFFSET_POSITIONS:
        padding_id = config.get("pad_token_id")
        stated -= (padding_id if isinstance(padding_id, int) else 1) + 1
    computed = (
        any("rope" in key for key in config)
        or config.get("position_biased_input") is False
        or config.get("position_embedding_type", "absolute") in ("rotary", "rope", "alibi")
    )
    return (None if computed else stated), stated
