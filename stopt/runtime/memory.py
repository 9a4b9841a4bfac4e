"""What is done when memory runs out over a chunk of texts: smaller batches, and in the end the text that is too long."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from stopt.errors import CorruptModel, ResourceLimitError, StoptError

__all__ = ["OUT_OF_MEMORY", "ran_out", "within_memory"]

# texts in a batch; where texts are long, no engine's own batches have more
HALVES = (32, 16, 8, 4, 2, 1)

# what Python and the engines say when there is none left
OUT_OF_MEMORY = re.compile(
    r"MemoryError|bad_?\s?alloc|out of memory|[Ff]ailed to allocate|can't allocate memory|more memory"
)

Value = TypeVar("Value")

logger = logging.getLogger("stopt")


def ran_out(error: BaseException) -> bool:
    """Whether an error is about memory."""
    if isinstance(error, StoptError) and not isinstance(error, ResourceLimitError | CorruptModel):
        return False  # which may quote anything
    return isinstance(error, MemoryError) or bool(OUT_OF_MEMORY.search(f"{type(error).__name__}: {error}"))


def within_memory(
    run: Callable[[Sequence[int], int | None], Value], lengths: Sequence[int], positions: Sequence[int]
) -> Value:
    """Run texts in batches that memory has room for: first as asked, then in halves, down to one text at a time.

    Args:
        run: Runs the texts at some places, with as many in a batch at most; None leaves that to the options.
        lengths: (N,) characters of each text.
        positions: (N,) where they stand in the caller's call, for messages.

    Raises:
        ResourceLimitError: If memory runs out over one text alone; says which.
        Exception: Whatever else ``run`` raises.
    """
    failure: Exception | None = None
    for size in _sizes(len(lengths)):
        try:
            found = run(range(len(lengths)), size)
        except Exception as error:
            if not ran_out(error):
                raise
            failure = error
        else:
            if failure is not None:
                logger.warning(_SMALLER, len(lengths), size, type(failure).__name__, failure)
            return found
    assert failure is not None
    _blame(run, lengths, positions)
    raise ResourceLimitError(
        f"memory ran out over {len(lengths)} texts, run one by one: {type(failure).__name__}: {failure}",
        "fewer workers leave more for each",
    ) from failure


_SMALLER = (
    "memory ran out over %d texts, which were then run in batches of %d at most; with smaller ones from the start that is "
    "faster: batch_size=, max_batch_tokens= (%s: %s)"
)


def _sizes(count: int) -> list[int | None]:
    """Texts in a batch, one attempt after the other; None is as asked."""
    return [None, *(size for size in HALVES if size < count)]


def _blame(
    run: Callable[[Sequence[int], int | None], object], lengths: Sequence[int], positions: Sequence[int]
) -> None:
    """Run texts alone, longest first, until memory runs out over one of them.

    Raises:
        ResourceLimitError: When it does.
    """
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        try:
            run([place], None)
        except Exception as error:
            if not ran_out(error):
                raise
            position = int(positions[place])
            raise ResourceLimitError(
                f"memory ran out over input {position} alone, of {lengths[place]:,} characters: {type(error).__name__}: {error}",
                "shorten it, or lower max_seq_length; fewer workers leave more for each",
                positions=(position,),
            ) from error
