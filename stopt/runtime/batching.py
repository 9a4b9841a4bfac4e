"""Which texts are run together: an order by length, cut into batches by a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stopt.runtime.tokenizer import Ints

__all__ = ["BatchLimits", "plan_batches"]


# results have places for padding all the same, so one long text may not take many short ones along
PLACES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a batch may get.

    Attributes:
        texts: Texts in it at most; None is no limit.
        tokens: Tokens in it at most, padding included where there is any; one text alone may have more. None is no
            limit.
        length_step: Its length is rounded up to a multiple of this many tokens: engines prepare for every new shape.
        padding_free: Whether the engine leaves padding out.
    """

    texts: int | None = None
    tokens: int | None = None
    length_step: int = 1
    padding_free: bool = False

    def length(self, tokens: int) -> int:
        """The length that a batch is padded to whose longest text has ``tokens``."""
        return -(-max(1, tokens) // self.length_step) * self.length_step

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
    start = 0
    while start < len(order):
        size = limits.size(falling[start:])
        yield order[start : start + size]
        start += size
