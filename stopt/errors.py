"""Every condition a user can meet, as a type.

    StoptError                    exit 1   base; catch it to catch all of the below
    ├── SourceError               the model (folder, Hub repository, file in it) is missing or cannot be read
    ├── UnsupportedModel          the model needs something stopt does not do; .reasons lists all of it
    ├── OptionError               an option's name or value is wrong (also a ValueError)
    ├── InputError                a text to encode is not usable; .index says which (also a ValueError)
    ├── VectorError               the engine made NaN, infinity or a vector of zeros; .rows says of which inputs
    ├── ArtifactError             a converted file is missing, or an output is in the way
    ├── ConversionError           an exporter failed; __cause__ has its own error
    ├── WorkerError               a worker process died or failed; .positions says on which inputs
    ├── ForkError                 an engine or a pool is used in a forked copy of its process
    ├── PushError                 nothing was pushed to the Hub, or what was is not what was sent
    ├── MissingExtra              a package of an optional extra is not installed (also an ImportError)
    ├── ParityError               exit 3   a file's vectors are too far from torch's; .report has the figures
    ├── SpaceError                exit 3   queries and an index are of different models, or of different forms of one
    ├── UntrustedModel            exit 4   the folder wants to run code or to leave itself
    ├── CorruptModel              exit 4   a file is cut short, not what its name says, or contradicts another
    └── ResourceLimitError        exit 4   a file takes more time or memory than a model of its size needs, or a text does

Each carries a ``hint``: the one thing to do next. Misuse by a calling program that no user can cause stays a
plain ``TypeError`` or ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from stopt.parity import ParityReport

__all__ = [
    "ArtifactError",
    "ConversionError",
    "CorruptModel",
    "ForkError",
    "InputError",
    "MissingExtra",
    "OptionError",
    "ParityError",
    "PushError",
    "ResourceLimitError",
    "SourceError",
    "SpaceError",
    "StoptError",
    "StoptWarning",
    "UnsupportedModel",
    "UntrustedModel",
    "VectorError",
    "WorkerError",
    "suggest",
]


class StoptWarning(UserWarning):
    """Something the user can act on, though the work went on."""


class StoptError(Exception):
    """Base of all errors a user can meet.

    Args:
        message: What happened, with the observed and the expected values.
        hint: The one thing to do next; empty if there is nothing to say.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class SourceError(StoptError):
    """The model, or a file it must have, is missing or cannot be read."""


_SUPPORTED = (
    "stopt runs Transformer, StaticEmbedding, SparseStaticEmbedding, Router, Pooling, SpladePooling, SparseAutoEncoder, "
    "Dense, Normalize, LayerNorm, Dropout; sentence-transformers runs the rest"
)


class UnsupportedModel(StoptError):
    """The model needs something stopt does not do.

    Args:
        subject: The model, as the user named it.
        reasons: Every reason found, not only the first.
        hint: The one thing to do next.
    """

    def __init__(self, subject: str, reasons: Sequence[str], hint: str = "") -> None:
        self.reasons = tuple(reasons)
        listed = self.reasons[0] if len(self.reasons) == 1 else "".join(f"\n  - {r}" for r in self.reasons)
        super().__init__(f"{subject} is not supported: {listed}", hint or _SUPPORTED)


class OptionError(StoptError, ValueError):
    """An option's name or value is wrong."""


class InputError(StoptError, ValueError):
    """One of the texts to encode is not usable.

    Args:
        message: What is wrong with it.
        hint: The one thing to do next.
        index: Position of the text in the call; None for the call as a whole.
    """

    def __init__(self, message: str, hint: str = "", *, index: int | None = None) -> None:
        super().__init__(message, hint)
        self.index = index


class VectorError(StoptError):
    """The engine made something that is no vector, or no score, of some inputs.

    Args:
        message: What, and of which inputs.
        hint: The one thing to do next.
        rows: Their positions in the call.
    """

    def __init__(self, message: str, hint: str = "", *, rows: Sequence[int] = ()) -> None:
        super().__init__(message, hint)
        self.rows = tuple(rows)


class ArtifactError(StoptError):
    """A converted file is missing, or an output is in the way."""


class ConversionError(StoptError):
    """An exporter failed. Nothing was written; ``__cause__`` has the exporter's own error."""


class WorkerError(StoptError):
    """A worker process died, or failed with an error that is not one of the above.

    Args:
        message: What happened, with the original error's type and text.
        hint: The one thing to do next.
        chunk: Number of the chunk of the call; None if there was none yet.
        positions: Which of the call's inputs were in it, as far as they are known.
    """

    def __init__(
        self, message: str, hint: str = "", *, chunk: int | None = None, positions: Sequence[int] = ()
    ) -> None:
        super().__init__(message, hint)
        self.chunk = chunk
        self.positions = tuple(map(int, positions))


class ForkError(StoptError):
    """An engine, or a pool, is used in a forked copy of its process, where its threads do not exist."""


class PushError(StoptError):
    """Nothing was pushed to the Hub, or what was pushed is not what was sent."""


class MissingExtra(StoptError, ImportError):
    """A package of an optional extra is not installed.

    Args:
        package: The package that could not be imported.
        extra: The extra of stopt that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(f"{package} is not installed", f"pip install 'stopt[{extra}]'")


class ParityError(StoptError):
    """A file's vectors are further from torch's than the threshold allows."""

    exit_code = 3

    def __init__(self, message: str, hint: str, report: ParityReport) -> None:
        super().__init__(message, hint)
        self.report = report


class SpaceError(StoptError):
    """Queries and the documents of an index are not in the same space: what is near means nothing."""

    exit_code = 3


class UntrustedModel(StoptError):
    """The folder asks for code of its own to run, or for files outside itself."""

    exit_code = 4


class CorruptModel(StoptError):
    """A file is cut short, is not what its name says, or contradicts another file.

    Args:
        message: What is wrong with it.
        hint: The one thing to do next.
    """

    exit_code = 4

    def __init__(
        self,
        message: str,
        hint: str = "fetch the model again; if that does not help, its author must mend it",
    ) -> None:
        super().__init__(message, hint)


class ResourceLimitError(StoptError):
    """Opening a file would take more time or memory than a model of its size needs, or memory ran out over texts.

    Args:
        message: What took too much.
        hint: The one thing to do next.
        positions: Which of the call's inputs memory ran out over, as far as that is known.
    """

    exit_code = 4

    def __init__(self, message: str, hint: str = "", *, positions: Sequence[int] = ()) -> None:
        super().__init__(message, hint)
        self.positions = tuple(positions)


MOST_KNOWN = 20  # names that a hint lists


def suggest(word: str, known: Sequence[str]) -> str:
    """Return ``"Did you mean 'x'?"`` for the known word closest to ``word``, else the list of known words."""
    close = get_close_matches(word, known, n=1)
    listed = sorted(known)[:MOST_KNOWN]
    more = f" and {len(known) - len(listed)} more" if len(known) > len(listed) else ""
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(listed)}{more}"
