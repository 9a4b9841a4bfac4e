"""Searching an engine, and ordering what it finds by something better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.embeddings.codes import Precision
from stopt.embeddings.engines import Engine
from stopt.embeddings.quantization import quantize_embeddings
from stopt.embeddings.scoring import Found, Ids, Levels, rescored

__all__ = ["Hits", "Rescoring", "hits", "nearest"]

Hits = list[list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Rescoring:
    """How candidates are ordered once they are found.

    Attributes:
        multiplier: Candidates for each result.
        levels: What the codes of ``rows`` stand for; None if they are floats.
        rows: Gives rows by id, as :func:`stopt.embeddings.scoring.rescored` wants them.
    """

    multiplier: int
    levels: Levels | None
    rows: Callable[[Ids], npt.NDArray[Any]]

    @classmethod
    def of_codes(cls, engine: Engine, levels: Levels, multiplier: int) -> Rescoring:
        """By the codes that were searched."""
        if engine.precision is not Precision.UBINARY:
            return cls(multiplier, levels, engine.rows)
        width = len(levels.scale)
        return cls(
            multiplier,
            levels,
            lambda ids: np.unpackbits(np.ascontiguousarray(engine.rows(ids)), axis=-1, count=width),
        )

    @classmethod
    def of_rows(cls, rows: npt.NDArray[Any], levels: Levels | None, multiplier: int) -> Rescoring:
        """By other embeddings of the same documents: (N, E) floats, or int8 or uint8 with ``levels``."""
        flip = np.uint8(0x80 if rows.dtype == np.int8 else 0)
        if levels is None:
            return cls(multiplier, None, lambda ids: rows[ids])
        return cls(multiplier, levels, lambda ids: rows[ids].view(np.uint8) ^ flip)


def nearest(
    engine: Engine, queries: npt.NDArray[Any], levels: Levels | None, top_k: int, rescoring: Rescoring | None
) -> Found:
    """Find the documents nearest to queries.

    Args:
        engine: Where.
        queries: (Q, E) float32; or (Q, ceil(E / 8)) packed bits, for an engine of bits and without rescoring.
        levels: What int8 codes stand for.
        top_k: Documents for each query.
        rescoring: How to order more candidates than are wanted; None takes the engine's order.

    Returns:
        (Q, <= top_k) scores, the best first and larger being better, and ids, -1 where there is none.
    """
    if not len(queries) or not len(engine):
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    k = min(top_k * (rescoring.multiplier if rescoring else 1), len(engine))
    floats = queries.dtype == np.float32
    coarse = (
        quantize_embeddings(queries, "ubinary")
        if floats and engine.precision is Precision.UBINARY
        else queries
    )
    scores, ids = engine.search(coarse, levels, k)
    if rescoring is None:
        return scores, ids
    return rescored(queries, ids, rescoring.rows, rescoring.levels, top_k)


def hits(scores: npt.NDArray[Any], ids: Ids) -> Hits:
    """Turn (Q, k) scores and ids into sentence-transformers' result; what is not there (-1) is left out."""
    return [
        [
            {"corpus_id": int(place), "score": float(score)}
            for score, place in zip(*row, strict=True)
            if place >= 0
        ]
        for row in zip(scores, ids, strict=True)
    ]
