"""Exhaustive search in numpy: the best k of every query, in blocks that fit a processor's cache.

Ties go to the smaller id, so that results depend neither on the sizes of blocks nor on the machine. Shapes: Q queries,
N documents, E dimensions, W words of 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.errors import InputError

__all__ = ["ROWS", "Best", "as_words", "best_of", "blocks", "search_bits", "search_floats"]

Floats = npt.NDArray[np.floating[Any]]
Ids = npt.NDArray[np.int64]

ROWS = 16_384  # documents scored at a time: 25 MB of 384 floats, 128 kB of one word each
GROUPS = 1024  # see best_of


class Best:
    """The best k documents of every query so far.

    Args:
        queries: Number of queries.
        k: Documents to keep, at most.
    """

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self._scores: list[npt.NDArray[Any]] = [np.empty(0, np.float32)] * queries
        self._ids: list[Ids] = [np.empty(0, np.int64)] * queries

    def offer(self, query: int, scores: npt.NDArray[Any], first: int) -> None:
        """Consider (n,) scores of one query; those of documents from number ``first`` on."""
        known = self._scores[query]
        if (
            len(known) == self._k
        ):  # nothing below the k-th has a chance, nor has a later one with the same score
            ids = np.flatnonzero(scores > known[-1])
            if len(ids) > 4 * self._k:
                ids = ids[best_of(scores[ids], self._k)]
        else:
            ids = best_of(scores, self._k)
        if len(ids) == 0:
            return
        merged = np.concatenate([known, scores[ids]])
        order = np.argsort(-merged, kind="stable")[: self._k]
        self._scores[query] = merged[order]
        self._ids[query] = np.concatenate([self._ids[query], ids + first])[order]

    def arrays(self) -> tuple[npt.NDArray[np.float32], Ids]:
        """Return (Q, k) scores, falling, and ids; where there are fewer documents, ``-inf`` and -1."""
        scores = np.full((len(self._scores), self._k), -np.inf, np.float32)
        ids = np.full(scores.shape, -1, np.int64)
        for row, (found, places) in enumerate(zip(self._scores, self._ids, strict=True)):
            scores[row, : len(found)], ids[row, : len(places)] = found, places
        return scores, ids


def best_of(scores: npt.NDArray[Any], k: int) -> Ids:
    """Return where the k largest of (N,) scores are, rising; of equal ones the first, and fewer if there are fewer."""
    count = len(scores)
    if k >= count:
        return np.arange(count)
    if 4 * k <= GROUPS < count // 4:
        # the k-th largest of the groups' maxima is a floor that at least k scores reach, and few more do
        whole = count - count % GROUPS
        maxima = scores[:whole].reshape(GROUPS, -1).max(axis=1)
        above = np.flatnonzero(scores >= np.partition(maxima, GROUPS - k)[GROUPS - k])
    else:
        above = np.flatnonzero(scores >= np.partition(scores, count - k)[count - k])
    order = np.argsort(-scores[above].astype(np.float64), kind="stable")[:k]
    return np.sort(above[order])


def search_floats(
    queries: Floats,
    documents: int,
    rows: Callable[[slice], Floats],
    k: int,
    block: int = ROWS,
) -> tuple[npt.NDArray[np.float32], Ids]:
    """Find the documents with the largest inner products.

    Args:
        queries: (Q, E).
        documents: How many there are, N.
        rows: Gives a block of documents, (n, E) floats.
        k: Documents to find for each query.
        block: Documents scored at a time.

    Returns:
        (Q, k) scores and ids as :meth:`Best.arrays` has them.

    Raises:
        InputError: If a score is not finite; says of which document.
    """
    best = Best(len(queries), k)
    for part in blocks(documents, block):
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is an error of its own
            scores = queries @ rows(part).T
        if not np.isfinite(scores).all():
            row = part.start + int(np.argmin(np.isfinite(scores).all(axis=0)))
            raise InputError(
                f"the score of corpus embedding {row} is not finite: NaN or infinity in it, or values too large",
                "find out where it comes from: stopt check compares a model with torch",
                index=row,
            )
        for query, row in enumerate(scores):
            best.offer(query, row, part.start)
    return best.arrays()


def search_bits(
    queries: npt.NDArray[np.uint64], documents: npt.NDArray[np.uint64], k: int
) -> tuple[npt.NDArray[np.float32], Ids]:
    """Find the documents that differ from each query in the fewest bits.

    Args:
        queries: (Q, W), see :func:`as_words`.
        documents: (W, N): word by word, so that a block of one word is one stretch of memory.
        k: Documents to find for each query.

    Returns:
        (Q, k) Hamming distances, **negated** so that larger is closer, and ids, as :meth:`Best.arrays` has them.
    """
    words, count = documents.shape
    best = Best(len(queries), k)
    distances = np.empty(count, np.int16)
    differing, bits = np.empty(ROWS, np.uint64), np.empty(ROWS, np.uint8)
    for number, query in enumerate(queries):
        for part in blocks(count, ROWS):
            here = distances[part]
            differs, counted = differing[: len(here)], bits[: len(here)]
            here[:] = 0
            for word in range(words):
                np.bitwise_xor(documents[word, part], query[word], out=differs)
                np.bitwise_count(differs, out=counted)
                np.subtract(here, counted, out=here)
        best.offer(number, distances, 0)
    return best.arrays()


def as_words(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Read (N, B) packed bits as (N, ceil(B / 8)) words; the bits added are zeros."""
    missing = -codes.shape[1] % 8
    padded = np.pad(codes, ((0, 0), (0, missing))) if missing else np.ascontiguousarray(codes)
    return padded.view(np.uint64)


def blocks(count: int, size: int) -> Iterator[slice]:
    """Cut ``count`` rows into slices of ``size``; the last may be shorter."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
