"""Read a sentence-transformers folder into a :class:`~stopt.spec.ModelSpec`.

Understands every layout that sentence-transformers wrote since its first release, of dense models, sparse encoders and
cross-encoders: historic and current class paths, legacy and current keys, folders without modules.json. What it does
not understand it refuses, all reasons at once. Opens configuration files only, and the headers of tables: no weights,
no code, nothing outside the folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stopt.errors import CorruptModel, SourceError, UnsupportedModel, suggest
from stopt.reading.files import Reading
from stopt.reading.fronts import read_front
from stopt.reading.kinds import choose_kind
from stopt.reading.modules import (
    FRONTS,
    SPARSE_MODULES,
    TABLES,
    Entry,
    check_widths,
    default_pooling,
    note_unknown,
    read_entries,
    read_modules,
)
from stopt.reading.router import Routing, read_routing
from stopt.reading.scoring import score_activation
from stopt.spec import ModelKind, ModelSpec, ModuleSpec, Similarity, SpladePooling, TransformerSpec

__all__ = ["has_table", "read_spec"]


def read_spec(folder: str | Path, kind: ModelKind | None = None) -> ModelSpec:
    """Read the model in ``folder`` as data.

    Args:
        folder: A folder as sentence-transformers writes it; or a plain transformers folder, read as
            sentence-transformers' classes do: a classifier is a cross-encoder, anything else a dense model (mean
            pooling, or the last token for causal language models), a masked language model with ``kind`` sparse a
            SPLADE model; or a plain model2vec folder.
        kind: The kind that the model must be of; None reads it from the folder.

    Raises:
        SourceError: If the folder or a file it must have is missing.
        OptionError: If the model is of another kind; says which.
        UnsupportedModel: If the model needs something stopt does not do; lists every reason.
        UntrustedModel: If it asks for code of its own, or names a path outside the folder.
        CorruptModel: If a file is not valid, or contradicts another.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise SourceError(f"{root} {what}", "name the folder of a sentence-transformers model")
    reading = Reading(root)
    model = reading.optional("config_sentence_transformers.json")
    entries = read_entries(reading)
    plain = not entries
    config = reading.optional("config.json", transformers=True) if plain else {}
    routing = read_routing(reading, entries)
    everything = [
        *entries,
        *(entry for chain in (routing.chains.values() if routing else ()) for entry in chain),
    ]
    reading = replace(reading, kind=choose_kind(reading, everything, model, config, kind))
    note_unknown(reading, list(dict.fromkeys(everything)))
    if routing:
        spec = _read_routes(reading, routing, model)
    else:
        spec = _read_chain(reading, entries or _default_entries(config), model, plain=plain)
    if reading.reasons or spec is None:
        raise UnsupportedModel(str(root), list(dict.fromkeys(reading.reasons)))
    return spec


def has_table(folder: str | Path) -> bool:
    """Tell whether the model in ``folder`` starts with a table, whose file has to be there for it to be read.

    Raises:
        StoptError: As :func:`read_spec`, if modules.json is not valid.
    """
    reading = Reading(Path(folder))
    entries = read_entries(reading) or _default_entries(reading.optional("config.json", transformers=True))
    return entries[0][0] in TABLES


def _default_entries(config: Mapping[str, Any]) -> list[Entry]:
    """The modules of a folder without modules.json, apart from how it pools."""
    if config.get("model_type") == "model2vec":
        return [("StaticEmbedding", ""), *([("Normalize", "")] if config.get("normalize") is True else [])]
    return [("Transformer", "")]


def _read_chain(
    reading: Reading, entries: Sequence[Entry], model: Mapping[str, Any], *, plain: bool
) -> ModelSpec | None:
    """Read modules that follow one another; None if they cannot be run, with the reason noted.

    Args:
        reading: The model folder.
        entries: The modules.
        model: config_sentence_transformers.json.
        plain: Whether the folder has no modules.json.
    """
    name, path = entries[0]
    if name not in FRONTS:
        reasons = reading.reasons or [f"its first module is {name}, expected Transformer"]
        raise UnsupportedModel(str(reading.root), list(dict.fromkeys(reasons)))
    if name in SPARSE_MODULES and reading.kind is not ModelKind.SPARSE:
        return None
    read = read_front(reading, name, path, plain=plain)
    modules = read_modules(reading, entries[1:])
    if isinstance(read.front, TransformerSpec) and plain:
        modules = _default_modules(reading.kind, read.config)
    if reading.reasons or read.front is None:
        return None
    check_widths(reading, read.front, modules)
    sparse = reading.kind is ModelKind.SPARSE
    spec = ModelSpec(
        kind=reading.kind,
        front=read.front,
        tokenizer=read.tokenizer,
        modules=modules,
        prompts=_prompts(reading, model),
        default_prompt_name=_default_prompt(reading, model),
        similarity=_similarity(reading, model, Similarity.DOT if sparse else Similarity.COSINE),
    )
    if reading.kind is ModelKind.CROSS_ENCODER:
        return replace(
            spec, activation=score_activation(reading, model, read.config, spec.embedding_dimension)
        )
    if reading.kind is ModelKind.DENSE and model.get("truncate_dim") is not None:
        return replace(spec, truncate_dim=reading.positive(model, "truncate_dim"))
    return spec


def _default_modules(kind: ModelKind, config: Mapping[str, Any]) -> tuple[ModuleSpec, ...]:
    match kind:
        case ModelKind.DENSE:
            return (default_pooling(config),)
        case ModelKind.SPARSE:
            return (SpladePooling(),)
        case ModelKind.CROSS_ENCODER:
            return ()


def _read_routes(reading: Reading, routing: Routing, model: Mapping[str, Any]) -> ModelSpec | None:
    """Read each route as a model, and put them into the one that is converted.

    A mapping for any task whatever is applied to the tasks that have a name; others stay errors.
    """
    read = {route: _read_chain(reading, chain, model, plain=False) for route, chain in routing.chains.items()}
    specs = {route: spec for route, spec in read.items() if spec is not None}
    if len(specs) < len(read) or reading.reasons:
        return None
    heavy = [route for route, spec in specs.items() if isinstance(spec.front, TransformerSpec)] or [*specs]
    main = routing.tasks.get("document")
    main = main if main in heavy else heavy[0]
    routes = {task: specs[route] for task, route in routing.tasks.items()}
    default = routing.default
    if default is not None and routing.tasks.get(default) != default:
        default = next((task for task, route in routing.tasks.items() if route == default), None)
        if default is None:  # no task leads to it, only naming none does
            default = f"default: {routing.default}"
            routes[default] = specs[str(routing.default)]
    return replace(specs[main], routes=MappingProxyType(routes), default_route=default)


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


def _similarity(reading: Reading, model: Mapping[str, Any], default: Similarity) -> Similarity:
    name = model.get("similarity_fn_name") or default
    known = [str(similarity) for similarity in Similarity]
    if name not in known:
        raise UnsupportedModel(str(reading.root), [f"similarity {name!r} ({suggest(str(name), known)})"])
    return Similarity(name)
