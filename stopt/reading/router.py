"""Router, formerly Asym: sub-models by the task that a call names, each read as a model of its own."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stopt.errors import CorruptModel
from stopt.reading.files import Reading, section
from stopt.reading.modules import ROUTERS, Entry, class_name

__all__ = ["Routing", "read_routing"]

_MODALITY = "text"
_HELPERS = ("query", "document")  # tasks that encode_query and encode_document name
_MAX_KEY = 200  # characters of a key of route_mappings

Mappings = dict[tuple[str | None, str | None], str]


@dataclass(frozen=True, slots=True)
class Routing:
    """The routes of a Router.

    Attributes:
        chains: The modules of each route from the first to the last, those outside of the Router included.
        tasks: The route of each task that has one.
        default: The route of calls that name no task; None if that is an error.
    """

    chains: Mapping[str, tuple[Entry, ...]]
    tasks: Mapping[str, str]
    default: str | None


def read_routing(reading: Reading, entries: Sequence[Entry]) -> Routing | None:
    """Read the Router among the modules; None without one.

    Raises:
        SourceError: If its configuration is missing.
        CorruptModel: If it is not valid.
        UntrustedModel: If a module in it is not one of sentence-transformers, or its folder is outside the model's.
    """
    place = next((place for place, (name, _) in enumerate(entries) if name in ROUTERS), None)
    if place is None:
        return None
    path = entries[place][1]
    config = reading.optional(path, "router_config.json") or reading.required(path, "config.json")
    types, structure = config.get("types"), config.get("structure")
    where = f"{reading.root}: the configuration of its Router"
    if not isinstance(types, dict) or not isinstance(structure, dict) or not structure:
        raise CorruptModel(f"{where} has no 'types' and 'structure'")
    chains: dict[str, tuple[Entry, ...]] = {}
    for route, names in structure.items():
        if not isinstance(names, list) or not names:
            raise CorruptModel(f"{where} has the route {route!r:.60} without modules")
        inner = tuple(_entry(reading, path, name, types, where) for name in names)
        chains[route] = (*entries[:place], *inner, *entries[place + 1 :])
    parameters = section(config, "parameters")
    mappings = _mappings(parameters, where)
    default = parameters.get("default_route")
    if default is None and reading.flag(parameters, "allow_empty_key", default=True):
        default = next(iter(chains))
    for route in (*mappings.values(), *([] if default is None else [default])):
        if not isinstance(route, str) or route not in chains:
            raise CorruptModel(f"{where} names the route {route!r:.60}; it has {', '.join(chains)}")
    known = {*_HELPERS, *chains, *(task for task, _ in mappings if task is not None)}
    found = {task: _resolve(task, mappings, chains) for task in sorted(known)}
    return Routing(
        chains,
        {task: route for task, route in found.items() if route is not None},
        _resolve(None, mappings, chains) or default,
    )


def _entry(reading: Reading, path: str, name: Any, types: Mapping[str, Any], where: str) -> Entry:
    """A module of a route: its class, and its folder below the Router's."""
    kind = types.get(name) if isinstance(name, str) else None
    if not isinstance(kind, str):
        raise CorruptModel(f"{where} has no type for the module {name!r:.60}")
    folder = f"{path}/{name}" if path else name
    reading.file(folder)
    found = class_name(reading, kind)
    if found in ROUTERS:
        reading.reasons.append(f"a {found} inside of a Router")
    return found, folder


def _mappings(parameters: Mapping[str, Any], where: str) -> Mappings:
    """route_mappings with its keys, texts such as ``"('query', 'text')"``, as pairs; those for other media left out."""
    found: Mappings = {}
    for text, route in section(parameters, "route_mappings").items():
        try:
            key = ast.literal_eval(text) if len(text) <= _MAX_KEY else None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            key = None
        if not isinstance(key, tuple) or len(key) != 2 or not isinstance(key[0], str | None):
            raise CorruptModel(
                f"{where} has the route mapping {text!r:.60}, expected \"('task', 'modality')\""
            )
        if key[1] in (None, _MODALITY):
            found[key] = route
    return found


def _resolve(task: str | None, mappings: Mappings, routes: Mapping[str, object]) -> str | None:
    """The route of a task for text, in sentence-transformers' order; None if there is none but the default."""
    for key in ((task, _MODALITY), (task, None), (None, _MODALITY), (None, None)):
        if key in mappings:
            return mappings[key]
    return next((name for name in (task, _MODALITY) if name in routes), None)
