"""Which texts are run together: an order by length, cut into batches by what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from stopt.runtime.tokenizer import Ints

__all__ = ["BatchLimits", "plan_batches", "portions", "unfilled"]

# texts are tokenised a few batches ahead of the engine: enough to sort, little enough to start at once
BATCHES_AHEAD = 16
CHARACTERS_PER_TOKEN = 4  # in English; only how far ahead depends on it
TEXTS_AHEAD = 64  # at least
# results have places for padding all the same, so one long text may not take many short ones along
PLACES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a batch may get, and what makes one cheap.

    Attributes:
        texts: Texts in it at most; None is no limit.
        tokens: Tokens in it at most, padding included where there is any; one text alone may have more. None is no
            limit.
        length_step: Engines that prepare for every new shape get few: lengths, and the places of a batch, are multiples
            of this many tokens up to sixteen of them, and then eight to each doubling. 1 is any length.
        padding_free: Whether the engine leaves padding out.
        run_cost: What a run costs whatever is in it, in tokens of work. More padding than that is not taken along to save
            a run. None is batches as full as they get.
    """

    texts: int | None = None
    tokens: int | None = None
    length_step: int = 1
    padding_free: bool = False
    run_cost: int | None = None

    def length(self, tokens: int) -> int:
        """The length that a batch is padded to whose longest text has ``tokens``."""
        return max(1, tokens) if self.length_step == 1 else _graded(max(1, tokens), self.length_step)

    def size(self, lengths: Ints) -> int:
        """How many texts fit in one batch, at least one.

        Args:
            lengths: (N,) tokens of each, in falling order; at least one.
        """
        most = len(lengths) if self.texts is None else min(len(lengths), self.texts)
        if self.tokens is None:
            return most
        longest = self.length(int(lengths[0]))
        if not self.padding_free:
            return max(1, min(most, self.tokens // longest))
        sums = np.cumsum(np.maximum(lengths[: self.tokens], 1))
        real = int(np.searchsorted(sums, self.tokens, side="right"))
        return max(1, min(most, real, self.tokens * PLACES_PER_TOKEN // longest))


def plan_batches(lengths: Sequence[int], limits: BatchLimits) -> Iterator[Ints]:
    """Group texts of similar length, longest first, so that little is padding and memory trouble shows at once.

    Args:
        lengths: (N,) tokens of each text.
        limits: How large a batch may get.

    Yields:
        Positions of the texts of one batch, each position in exactly one batch.
    """
    tokens = np.asarray(lengths, np.int64)
    order = np.argsort(-tokens, kind="stable")
    falling = tokens[order]
    cheapest = limits.run_cost is not None and limits.tokens is not None and not limits.padding_free
    start = 0
    for size in _cheapest(falling, limits) if cheapest else _fullest(falling, limits):
        yield order[start : start + size]
        start += size


def _fullest(falling: Ints, limits: BatchLimits) -> Iterator[int]:
    """Sizes of batches that are as large as they may be."""
    start = 0
    while start < len(falling):
        size = limits.size(falling[start:])
        yield size
        start += size


def _cheapest(falling: Ints, limits: BatchLimits) -> Iterator[int]:
    """Sizes of batches that come to the least work: places, padding included, and what runs cost."""
    assert limits.run_cost is not None
    count = len(falling)
    padded = [limits.length(length) for length in falling.tolist()]
    sizes = {length: _sizes(limits, length) for length in set(padded)}
    works = {length: limits.run_cost + length * counts for length, counts in sizes.items()}
    least = np.zeros(count + 1, np.int64)  # work of the texts from each on
    chosen = [0] * count
    for start in range(count - 1, -1, -1):
        counts = sizes[padded[start]]
        counts = counts[: np.searchsorted(counts, count - start, side="right")]
        work = works[padded[start]][: len(counts)] + least[start + counts]
        # of equal ones the largest: fewer runs
        best = len(work) - 1 - int(np.argmin(work[::-1]))
        least[start], chosen[start] = work[best], int(counts[best])
    start = 0
    while start < count:
        yield chosen[start]
        start += chosen[start]


@lru_cache(maxsize=4096)  # calls of few texts ask for the same ones over and over
def _sizes(limits: BatchLimits, length: int) -> Ints:
    """(C,) rising numbers of texts that a batch of this padded length may have: not all there could be, but few shapes."""
    assert limits.tokens is not None
    most = max(1, limits.tokens // length)
    if limits.texts is not None:
        most = min(most, limits.texts)
    if limits.length_step == 1:
        return np.unique([*_graded_up_to(most, 1), most])
    places = np.array(_graded_up_to(most * length, limits.length_step))
    return np.union1d(places[places % length == 0] // length, [1])


def _graded(number: int, step: int) -> int:
    """Round up to a grade: multiples of ``step`` up to sixteen of them, then eight to each doubling."""
    while number > 16 * step:
        step *= 2
    return -(-number // step) * step


def _graded_up_to(most: int, step: int) -> list[int]:
    """All grades that are not larger."""
    found = list[int]()
    number = step
    while number <= most:
        found.append(number)
        number = _graded(number + 1, step)
    return found


def portions(lengths: Ints, limits: BatchLimits) -> list[int]:
    """Where to end each portion of texts that is tokenised at once, given their lengths in characters."""
    if limits.tokens is None:
        return [len(lengths)]
    budget = BATCHES_AHEAD * limits.tokens * CHARACTERS_PER_TOKEN
    sums = np.cumsum(lengths)
    ends, start = list[int](), 0
    while start < len(lengths):
        reached = int(np.searchsorted(sums, (sums[start - 1] if start else 0) + budget, side="right"))
        start = min(len(lengths), max(reached, start + TEXTS_AHEAD))
        ends.append(start)
    return ends


def unfilled(plan: list[Ints]) -> Ints:
    """Take the last batches, which may be short, from a plan: their texts wait for others of their length."""
    rest = [plan.pop()]
    while plan and len(plan[-1]) > sum(map(len, rest)):
        rest.append(plan.pop())
    return np.concatenate(rest[::-1])
