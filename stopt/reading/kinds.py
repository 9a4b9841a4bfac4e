"""Which kind of model a folder holds, and whether that is what the caller wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stopt.errors import OptionError
from stopt.reading.files import Reading
from stopt.reading.modules import SPARSE_MODULES, Entry
from stopt.spec import ModelKind

__all__ = ["choose_kind"]

# model_type of config_sentence_transformers.json
_MODEL_TYPES = {
    "SentenceTransformer": ModelKind.DENSE,
    "SparseEncoder": ModelKind.SPARSE,
    "CrossEncoder": ModelKind.CROSS_ENCODER,
}
_NAMES = {
    ModelKind.DENSE: "a dense embedding model",
    ModelKind.SPARSE: "a sparse encoder",
    ModelKind.CROSS_ENCODER: "a cross-encoder",
}
_CLASSES = {
    ModelKind.DENSE: "SentenceTransformer",
    ModelKind.SPARSE: "SparseEncoder",
    ModelKind.CROSS_ENCODER: "CrossEncoder",
}


def choose_kind(
    reading: Reading,
    entries: Sequence[Entry],
    model: Mapping[str, Any],
    config: Mapping[str, Any],
    wanted: ModelKind | None,
) -> ModelKind:
    """Tell the kind of the model in a folder.

    Args:
        reading: The model folder.
        entries: Its modules, those of a Router's routes included; empty without modules.json.
        model: config_sentence_transformers.json; empty without one.
        config: config.json of the folder itself; empty without one.
        wanted: The kind that the caller opens it as; None takes what is found.

    Raises:
        OptionError: If it is of another kind than wanted.
    """
    stated = model.get("model_type")
    if stated is not None and not (isinstance(stated, str) and stated in _MODEL_TYPES):
        dense, sparse, scorer = _NAMES.values()
        reading.reasons.append(f"it is a {stated!s:.60}, not {dense}, {sparse} or {scorer}")
        return wanted or ModelKind.DENSE
    names = {name for name, _ in entries}
    if isinstance(stated, str) and entries:
        found = _MODEL_TYPES[stated]
    elif entries:
        found = _of_modules(names)
    else:
        found = _of_architecture(config, wanted)
    if wanted in (None, found):
        return found
    raise OptionError(
        f"{reading.root} is {_NAMES[found]}, not {_NAMES[wanted]}" if wanted else "",
        f"open it with {_CLASSES[found]}, or leave out --kind or --task: the kind is read from the folder",
    )


def _of_modules(names: set[str]) -> ModelKind:
    if "LogitScore" in names:
        return ModelKind.CROSS_ENCODER
    return ModelKind.SPARSE if names & {*SPARSE_MODULES} else ModelKind.DENSE


def _of_architecture(config: Mapping[str, Any], wanted: ModelKind | None) -> ModelKind:
    """The kind of a plain transformers folder.

    A masked language model is a dense model by its last hidden state and a sparse one by its logits, as
    sentence-transformers' classes have it; so is a causal one, by the class that opens it.
    """
    listed = config.get("architectures")
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    if any(name.endswith("ForSequenceClassification") for name in names):
        return ModelKind.CROSS_ENCODER
    if "sbert_ce_default_activation_function" in config:
        return ModelKind.CROSS_ENCODER
    if wanted is ModelKind.SPARSE and any(name.endswith("ForMaskedLM") for name in names):
        return ModelKind.SPARSE
    if wanted is ModelKind.CROSS_ENCODER and (not names or names[0].endswith("ForCausalLM")):
        return ModelKind.CROSS_ENCODER
    return ModelKind.DENSE
