"""What kind of model a command was given, for those that differ by it."""

from __future__ import annotations

from stopt.errors import OptionError
from stopt.spec import ModelKind

__all__ = ["require_dense"]

_INSTEAD = {
    ModelKind.SPARSE: "stopt encode gives its vectors, as .npz or JSONL, for an inverted index",
    ModelKind.CROSS_ENCODER: "stopt encode gives the scores of pairs; search with another model, and rerank what it finds",
}


def require_dense(model: str, command: str) -> None:
    """Make sure that a model makes dense embeddings.

    Args:
        model: Model folder or Hub id.
        command: What wants them, as the user called it.

    Raises:
        OptionError: If it does not.
    """
    from stopt import hub
    from stopt.reading import read_spec

    kind = read_spec(hub.fetch(model, ()).folder).kind
    if kind is not ModelKind.DENSE:
        raise OptionError(
            f"{command} works with dense embeddings, and {model} is a {kind.value} model", _INSTEAD[kind]
        )
