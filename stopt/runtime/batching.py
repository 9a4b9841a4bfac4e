"""Which texts are run together: an order by length, cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stopt.runtime.tokenizer import Ints

__all__ = ["plan_batches"]


def plan_batches(lengths: Sequence[int], batch_size: int, max_tokens: int | None = None) -> Iterator[Ints]:
    """Group texts of similar length, longest first, so that little is padding and memory trouble shows at once.

    Args:
        lengths: (N,) tokens of each text.
        batch_size: Texts in a batch at most.
        max_tokens: Tokens in a batch at most, padding included; one text alone may have more.

    Yields:
        Positions of the texts of one batch, each position in exactly one batch.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    start = 0
    while start < len(order):
        size = batch_size
        if max_tokens is not None:
            size = min(size, max(1, max_tokens // max(1, lengths[order[start]])))
        yield order[start : start + size]
        start += size
