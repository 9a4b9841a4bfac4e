"""What codes are worth: the inner product of a query's floats with a document's codes.

A code stands for the value ``code * scale + offset`` of its dimension, so that a float query can be compared with
quantised documents without turning them back into floats. sentence-transformers 5.7 leaves scale and offset out when it
rescores (its issue 4058). Shapes: Q queries, K candidates, E dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.embeddings.codes import Precision
from stopt.embeddings.quantization import scale_and_offset
from stopt.embeddings.ranges import Ranges

__all__ = [
    "Found",
    "Ids",
    "Levels",
    "as_stored",
    "counted",
    "present",
    "rescored",
    "rounded_weights",
    "signed_weights",
    "stored_precision",
]

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Found = tuple[Floats, Ids]

CANDIDATES = 2**22  # values of candidates that are floats at a time: 16 MB


@dataclass(frozen=True, slots=True)
class Levels:
    """What the codes of each dimension stand for.

    Attributes:
        scale: (E,) float32.
        offset: (E,) float32; a code, counted from 0, is worth ``code * scale + offset``.
    """

    scale: Floats
    offset: Floats

    @classmethod
    def of_ranges(cls, ranges: Ranges) -> Levels:
        """Those of int8 and uint8: the middle of each step."""
        return cls(*scale_and_offset(ranges))

    @classmethod
    def of_signs(cls, dimension: int) -> Levels:
        """Those of binary and ubinary: signs, scaled so that a document has unit length."""
        half = np.full(dimension, 1 / np.sqrt(dimension), np.float32)
        return cls(2 * half, -half)

    def weigh(self, queries: Floats) -> tuple[Floats, Floats]:
        """Return (Q, E) weights and (Q,) constants: a score is ``weights @ codes + constant``."""
        return queries * self.scale, queries @ self.offset


def stored_precision(precision: Precision) -> Precision:
    """Return the precision whose codes are kept: one of each pair that differs in 128 only."""
    match precision:
        case Precision.UINT8:
            return Precision.INT8
        case Precision.BINARY:
            return Precision.UBINARY
        case _:
            return precision


def as_stored(codes: npt.NDArray[Any], precision: Precision) -> npt.NDArray[Any]:
    """Turn codes into those of :func:`stored_precision`: contiguous float32, int8 or, for bits, uint8."""
    codes = np.ascontiguousarray(codes)
    match precision:
        case Precision.UINT8:
            return (codes ^ np.uint8(0x80)).view(np.int8)
        case Precision.BINARY:
            return codes.view(np.uint8) ^ np.uint8(0x80)
        case _:
            return codes


def rescored(
    queries: Floats, ids: Ids, rows: Callable[[Ids], npt.NDArray[Any]], levels: Levels | None, top_k: int
) -> tuple[Floats, Ids]:
    """Order candidates by the inner product of the float queries with what their codes stand for.

    Args:
        queries: (Q, E).
        ids: (Q, K) candidates, -1 where there is none.
        rows: Gives the codes of (n,) ids, counted from 0: (n, E), or (n, ceil(E / 8)) packed bits with ``levels`` of
            signs; floats without ``levels``.
        levels: What the codes stand for; None for floats.
        top_k: Candidates to keep for each query.

    Returns:
        (Q, <= top_k) scores, falling, and ids; where there is none ``-inf`` and -1.
    """
    count, width = ids.shape[1], queries.shape[1]
    weights, constants = (
        (queries, np.zeros(len(queries), np.float32)) if levels is None else levels.weigh(queries)
    )
    scores = np.full(ids.shape, -np.inf, np.float32)
    step = max(1, CANDIDATES // max(1, count * width))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        found = rows(np.maximum(ids[part], 0).reshape(-1)).astype(np.float32).reshape(-1, count, width)
        scores[part] = np.matmul(found, weights[part, :, None])[..., 0] + constants[part, None]
    scores[ids < 0] = -np.inf
    order = np.lexsort((ids, -scores), axis=1)[:, :top_k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)


def present(scores: npt.NDArray[Any], ids: Ids) -> Found:
    """Return what was found as float32, with ``-inf`` where there is no id."""
    return np.where(ids < 0, np.float32(-np.inf), scores).astype(np.float32), ids


def counted(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return codes counted from 0: int8 ones without their minus 128, all others as they are."""
    return codes.view(np.uint8) ^ np.uint8(0x80) if codes.dtype == np.int8 else codes


def signed_weights(levels: Levels, queries: Floats) -> tuple[Floats, Floats]:
    """Return weights and constants as :meth:`Levels.weigh` does, for codes that count from -128."""
    weights, constants = levels.weigh(queries)
    return weights, constants + 128 * weights.sum(axis=1)


def rounded_weights(levels: Levels, queries: Floats) -> tuple[npt.NDArray[np.int8], Floats, Floats]:
    """Return weights rounded to int8, for kernels that multiply integers; what one is worth; and the constants."""
    weights, constants = signed_weights(levels, queries)
    factors = np.maximum(np.abs(weights).max(axis=1, initial=0), np.finfo(np.float32).tiny) / 127
    return np.round(weights / factors[:, None]).astype(np.int8), factors, constants
