"""The module at the front and its tokenizer: a transformer, or a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stopt.reading.files import Reading
from stopt.reading.tables import (
    read_sparse_static_embedding,
    read_sparse_static_tokenizer,
    read_static_embedding,
    read_static_tokenizer,
)
from stopt.reading.transformer import read_config, read_settings, read_tokenizer_with_limit, read_transformer
from stopt.spec import FrontSpec, ModelKind, Task, TokenizerSpec

__all__ = ["Front", "read_front"]

# what a plain transformers folder is loaded for
_PLAIN_TASKS = {
    ModelKind.DENSE: Task.FEATURES,
    ModelKind.SPARSE: Task.MASKED_LM,
    ModelKind.CROSS_ENCODER: Task.CLASSIFICATION,
}


@dataclass(frozen=True, slots=True)
class Front:
    """What was read of a module at the front.

    Attributes:
        front: The module; None if it cannot be read, with the reason noted.
        tokenizer: Its tokenizer.
        config: The transformer's config.json; empty for a table.
    """

    front: FrontSpec | None
    tokenizer: TokenizerSpec
    config: Mapping[str, Any] = field(default_factory=dict)


def read_front(reading: Reading, name: str, path: str, *, plain: bool) -> Front:
    """Read the module at the front; what is unsupported goes into the reading's reasons.

    Args:
        reading: The model folder.
        name: The module's class.
        path: Its folder in the model's.
        plain: Whether the folder has no modules.json, so that its kind decides about the task.

    Raises:
        SourceError: If a file is missing.
        UntrustedModel: If it names code of its own.
        CorruptModel: If a file is not valid.
    """
    match name:
        case "StaticEmbedding":
            return Front(read_static_embedding(reading, path), read_static_tokenizer(reading, path))
        case "SparseStaticEmbedding" | "IDF":
            return Front(
                read_sparse_static_embedding(reading, path), read_sparse_static_tokenizer(reading, path)
            )
        case _:
            config = read_config(reading, path)
            settings = read_settings(reading, path)
            task = Task.MASKED_LM if name == "MLMTransformer" else Task.FEATURES
            if plain:
                task = _PLAIN_TASKS[reading.kind]
                if reading.kind is ModelKind.CROSS_ENCODER and _generates(config):
                    settings = {**settings, "transformer_task": "text-generation"}
            transformer = read_transformer(reading, path, config, settings, task)
            return Front(transformer, read_tokenizer_with_limit(reading, path, config, settings), config)


def _generates(config: Mapping[str, Any]) -> bool:
    listed = config.get("architectures")
    return isinstance(listed, list) and bool(listed) and str(listed[0]).endswith("ForCausalLM")
