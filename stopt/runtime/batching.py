"""Which texts are run together: an order by length, cut into batches by a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stopt.runtime.tokenizer import Ints

__all__ = ["BatchLimits", "plan_batches"]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a batch may get.

    Attributes:
        texts: Texts in it at most; None is no limit.
        tokens: Tokens in it at most, padding included; one text alone may have more. None is no limit.
        length_step: Its length is rounded up to a multiple of this many tokens: engines prepare for every new shape.
    """

    texts: int | None = None
    tokens: int | None = None
    length_step: int = 1

    def length(self, tokens: int) -> int:
        """The length that a batch is padded to whose longest text has ``tokens``."""
        return -(-max(1, tokens) // self.length_step) * self.length_step

    def size(self, length: int) -> int | None:
        """Texts of that length that fit; None is any number."""
        fits = None if self.tokens is None else max(1, self.tokens // length)
        return fits if self.texts is None else self.texts if fits is None else min(fits, self.texts)


def plan_batches(lengths: Sequence[int], limits: BatchLimits) -> Iterator[Ints]:
    """Group texts of similar length, longest first, so that little is padding and memory trouble shows at once.

    Args:
        lengths: (N,) tokens of each text.
        limits: How large a batch may get.

    Yields:
        Positions of the texts of one batch, each position in exactly one batch.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    start = 0
    while start < len(order):
        size = limits.size(limits.length(lengths[order[start]])) or len(order)
        yield order[start : start + size]
        start += size
