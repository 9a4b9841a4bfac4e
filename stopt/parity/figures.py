"""The figures of a comparison, from the arrays of both sides; shapes as in :mod:`stopt.parity`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.quality import rank_overlap, spearman
from stopt.runtime.modules import activate
from stopt.spec import Activation, ModelKind, ModelSpec, Similarity

__all__ = ["score_figures", "vector_figures"]

Floats = npt.NDArray[np.floating[Any]]

TOP = 10  # heaviest dimensions of a sparse vector that are looked at
ROWS = 64  # of wide vectors, compared at a time


def vector_figures(spec: ModelSpec, expected: Floats, found: Sequence[Floats]) -> tuple[dict[str, Any], int]:
    """Compare embeddings.

    Args:
        spec: The model.
        expected: (N, E) torch's.
        found: The candidate's, once for every way of batching; the first is every text alone.

    Returns:
        Fields of a :class:`~stopt.parity.ParityReport`, and the row that is furthest off.
    """
    cosines, errors = (
        np.stack(each) for each in zip(*(_apart(each, expected) for each in found), strict=True)
    )
    batches = [_apart(each, found[0]) for each in found[1:]]
    figures = {
        "nonfinite_rows": sum(int((~_finite(each)).sum()) for each in found),
        "min_cosine": float(cosines.min()),
        "mean_cosine": float(cosines.mean()),
        "max_abs": float((errors / max(1.0, float(np.abs(expected).max()))).max()),
        "batch_cosine": float(min(each.min() for each, _ in batches)),
        "batch_abs": float(max(each.max() for _, each in batches)),
    }
    if spec.kind is ModelKind.SPARSE:
        figures["rank_overlap"] = rank_overlap(expected, found[-1], function=spec.similarity)
        figures["active_overlap"] = float(np.mean([_active_overlap(each, expected) for each in found]))
        figures["top_overlap"] = float(np.mean([_top_overlap(each, expected) for each in found]))
    else:
        figures["rank_overlap"] = rank_overlap(expected, found[-1], function=Similarity.COSINE)
    return figures, int(cosines.min(axis=0).argmin())


def score_figures(spec: ModelSpec, expected: Floats, found: Sequence[Floats]) -> tuple[dict[str, Any], int]:
    """Compare the scores of pairs; as :func:`vector_figures`, with (N, L) logits for L labels."""
    activation = spec.activation or Activation.IDENTITY
    seen = activate(expected, activation)
    largest = max(1.0, float(np.abs(seen).max()))
    scores = [activate(np.nan_to_num(each), activation) for each in found]
    errors = np.stack(
        [
            np.where(_finite(logits), np.abs(each - seen).max(axis=-1) / largest, np.inf)
            for logits, each in zip(found, scores, strict=True)
        ]
    )
    figures = {
        "nonfinite_rows": sum(int((~_finite(each)).sum()) for each in found),
        "max_abs": float(errors.max()),
        "mean_score_error": float(errors.mean()),
        "rank_agreement": min(_rank_agreement(each, expected) for each in found),
        "batch_abs": float(max(np.abs(each - scores[0]).max() for each in scores[1:])),
    }
    return figures, int(errors.max(axis=0).argmax())


def _rank_agreement(found: Floats, expected: Floats) -> float:
    """Spearman's correlation per label, averaged; labels without any order to agree on are left out."""
    if not np.isfinite(found).all():
        return -1.0
    columns = [
        spearman(found[:, label], expected[:, label]) if np.ptp(found[:, label]) > 0 else 0.0
        for label in range(expected.shape[1])
        if np.ptp(expected[:, label]) > 0
    ]
    return float(np.mean(columns)) if columns else 1.0


def _finite(a: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray(np.isfinite(a).all(axis=-1))


def _blocks(a: Floats, b: Floats) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Rows of both in float64, a few at a time: a vocabulary is wide."""
    for start in range(0, len(a), ROWS):
        rows = slice(start, start + ROWS)
        yield a[rows].astype(np.float64), b[rows].astype(np.float64)


def _apart(a: Floats, b: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Cosine and largest difference of the rows; as far apart as can be where one is not finite."""
    cosines, errors = [], []
    for x, y in _blocks(a, b):
        finite = _finite(x) & _finite(y)
        x, y = (np.where(finite[:, np.newaxis], each, 0.0) for each in (x, y))
        cosines.append(np.where(finite, _cosines(x, y), -1.0))
        errors.append(np.where(finite, np.abs(x - y).max(axis=-1), np.inf))
    return np.concatenate(cosines), np.concatenate(errors)


def _cosines(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cosine of the vectors on the last axis; two zero vectors agree."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    both_zero = (np.abs(a).max(axis=-1) == 0) & (np.abs(b).max(axis=-1) == 0)
    return np.where(both_zero, 1.0, np.sum(a * b, axis=-1) / np.maximum(norms, 1e-300))


def _active_overlap(a: Floats, b: Floats) -> float:
    """Share of the dimensions active in either row that are so in both, averaged."""
    both = np.count_nonzero((a != 0) & (b != 0), axis=-1)
    either = np.count_nonzero((a != 0) | (b != 0), axis=-1)
    return float(np.where(either == 0, 1.0, both / np.maximum(either, 1)).mean())


def _top_overlap(a: Floats, b: Floats) -> float:
    """Share of each row's heaviest dimensions that are the same in both, averaged; those that are zero do not count."""
    shared = []
    for x, y in zip(np.nan_to_num(a), b, strict=True):
        depth = min(TOP, int(np.count_nonzero(y)))
        heaviest = (np.argpartition(-each, depth - 1)[:depth] for each in (x, y)) if depth else ()
        shared.append(len(np.intersect1d(*heaviest)) / depth if depth else 1.0)
    return float(np.mean(shared))
