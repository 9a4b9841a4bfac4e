"""Read a sentence-transformers folder into a :class:`~stopt.spec.ModelSpec`.

Understands every dense layout that sentence-transformers wrote since its first release: historic and current
class paths, legacy and current keys, folders without modules.json. What it does not understand it refuses, all
reasons at once. Opens configuration files only: no weights, no code, nothing outside the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stopt.errors import CorruptModel, SourceError, UnsupportedModel, suggest
from stopt.reading.files import Reading
from stopt.reading.modules import default_pooling, read_entries, read_modules
from stopt.reading.transformer import read_config, read_settings, read_tokenizer_with_limit, read_transformer
from stopt.spec import ModelKind, ModelSpec, Similarity

__all__ = ["read_spec"]


def read_spec(folder: str | Path) -> ModelSpec:
    """Read the model in ``folder`` as data.

    Args:
        folder: A folder as sentence-transformers writes it, or a plain transformers folder (mean pooling, or the
            last token for causal language models).

    Raises:
        SourceError: If the folder or a file it must have is missing.
        UnsupportedModel: If the model needs something stopt does not do; lists every reason.
        UntrustedModel: If it asks for code of its own, or names a path outside the folder.
        CorruptModel: If a file is not valid, or contradicts another.
    """
    root = Path(folder)
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise SourceError(f"{root} {kind}", "name the folder of a sentence-transformers model")
    reading = Reading(root)
    model = reading.optional("config_sentence_transformers.json")
    if model.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        reading.reasons.append(f"it is a {model['model_type']}, not a dense embedding model")
    entries = read_entries(reading)
    path = entries[0][1] if entries else ""
    config = read_config(reading, path)
    settings = read_settings(reading, path)
    transformer = read_transformer(reading, path, config, settings)
    modules = read_modules(reading, entries, transformer) if entries else (default_pooling(config),)
    tokenizer = read_tokenizer_with_limit(reading, path, config, settings)
    if reading.reasons:
        raise UnsupportedModel(str(root), reading.reasons)
    return ModelSpec(
        kind=ModelKind.DENSE,
        transformer=transformer,
        tokenizer=tokenizer,
        modules=modules,
        prompts=_prompts(reading, model),
        default_prompt_name=_default_prompt(reading, model),
        similarity=_similarity(reading, model),
        truncate_dim=None if model.get("truncate_dim") is None else reading.positive(model, "truncate_dim"),
    )


def _prompts(reading: Reading, model: Mapping[str, Any]) -> dict[str, str | None]:
    prompts = model.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise CorruptModel(
            f"{reading.root}: 'prompts' in config_sentence_transformers.json is not names with texts"
        )
    return prompts


def _default_prompt(reading: Reading, model: Mapping[str, Any]) -> str | None:
    name = model.get("default_prompt_name")
    if not isinstance(name, str | None):
        raise CorruptModel(f"{reading.root}: default_prompt_name is {name!r}, expected a name")
    return name


def _similarity(reading: Reading, model: Mapping[str, Any]) -> Similarity:
    name = model.get("similarity_fn_name") or Similarity.COSINE
    known = [str(similarity) for similarity in Similarity]
    if name not in known:
        raise UnsupportedModel(str(reading.root), [f"similarity {name!r} ({suggest(str(name), known)})"])
    return Similarity(name)
