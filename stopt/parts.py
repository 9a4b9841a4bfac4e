"""The parts of a model that a conversion makes files for, and where these belong.

A model has one transformer, and its files lie in the model folder; the transformers of a Router's routes have theirs
beside them, where sentence-transformers looks for them.
"""

from __future__ import annotations

from stopt import hub
from stopt.errors import OptionError, suggest
from stopt.reading import read_spec
from stopt.spec import ModelSpec, Task, TransformerSpec

__all__ = ["parts_of", "read_model", "within"]


def read_model(source: hub.Source, task: str | None, library: str | None) -> ModelSpec:
    """Read a model, and hold it against what the caller believes it to be.

    Args:
        source: The model.
        task: One of :data:`stopt.steps.TASKS`, or None.
        library: One of :data:`stopt.steps.LIBRARIES`, or None.

    Raises:
        OptionError: If the model is something else.
        StoptError: As :func:`~stopt.reading.read_spec` does.
    """
    from stopt.steps import LIBRARIES, TASKS  # the options of conversions, which serving has no use for

    if library is not None and library not in LIBRARIES:
        raise OptionError(
            f"library {library!r} has no models that stopt converts", suggest(library, LIBRARIES)
        )
    if task is None:
        return read_spec(source.folder)
    if task not in TASKS:
        raise OptionError(f"task {task!r} is unknown", suggest(task, list(TASKS)))
    spec = read_spec(source.folder, TASKS[task])
    found = spec.front.task if isinstance(spec.front, TransformerSpec) else Task.FEATURES
    if task in ("feature-extraction", "fill-mask") and found.value != task:
        raise OptionError(
            f"{source.name} is a {spec.kind.value} model with the task {found.value}, not {task}",
            "leave --task out: it is read from the folder",
        )
    return spec


def parts_of(spec: ModelSpec) -> list[ModelSpec]:
    """List the models with a transformer of their own: the routes of a Router, the main one first, or the model itself."""
    found = {spec.front.path: spec}
    for route in spec.routes.values():
        if isinstance(route.front, TransformerSpec):
            found.setdefault(route.front.path, route)
    return list(found.values())


def within(part: ModelSpec, name: str) -> str:
    """Where a file of a part of a model belongs, relative to the model folder; a full name stays as it is."""
    path = part.front.path
    return name if not path or name.startswith(f"{path}/") else f"{path}/{name}"
