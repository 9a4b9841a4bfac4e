"""What ``bench`` found: the figures of each file, and how they are taken from measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.embeddings.similarity import pairwise_similarity
from stopt.quality import spearman
from stopt.spec import Similarity

__all__ = ["BenchReport", "BenchRow", "cosines", "difference", "percentile"]

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class BenchRow:
    """Figures of one file; medians over the rounds where there is a choice.

    Attributes:
        file: The file, relative to the model folder.
        precision: What it computes in.
        device: Where it ran, in the engine's words.
        size_bytes: Its size, external data included.
        texts_per_second: Texts encoded per second.
        tokens_per_second: The same in tokens, cut texts counted as cut, padding not counted.
        speedup: Times the speed of torch; None without torch.
        latency_p50_ms: Median time of one text alone.
        latency_p95_ms: Time that 95 % of them stay within.
        start_s: From starting a process to its first embedding.
        start_memory_bytes: Resident memory at that moment; None where the system does not tell.
        peak_memory_bytes: Largest resident memory, of all the rounds.
        min_cosine: Smallest cosine of a text's vector with torch's; None without torch.
        mean_cosine: Their mean.
        same_order: Of a cross-encoder: rank correlation of its scores with torch's.
        samples: The measurements themselves, in seconds, by name.
    """

    file: str
    precision: str
    device: str
    size_bytes: int
    texts_per_second: float
    tokens_per_second: float
    speedup: float | None
    latency_p50_ms: float
    latency_p95_ms: float
    start_s: float
    start_memory_bytes: int | None
    peak_memory_bytes: int
    min_cosine: float | None
    mean_cosine: float | None
    same_order: float | None
    samples: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All rows of a run, and what they were measured on.

    Attributes:
        model: The model, as the caller named it.
        rows: One per file, the fastest first.
        notes: What was not measured, and why.
        texts: Number of texts.
        tokens: Their tokens, special ones included, cut at the model's limit.
        settings: Batch size, tokens of a batch, threads, rounds, seconds; None is stopt's default.
        machine: Processor, its features, threads, memory.
        versions: Of the packages that took part.
    """

    model: str
    rows: Sequence[BenchRow]
    notes: Sequence[str]
    texts: int
    tokens: int
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return asdict(self)


def cosines(a: Floats, b: Floats) -> Floats:
    """Return (N,): the cosine of each row of (N, E) with the other's; -1 where one is not finite."""
    found = np.asarray(pairwise_similarity(a, b, Similarity.COSINE))
    return np.where(np.isfinite(found), found, -1.0)


def difference(found: Floats, reference: Floats, *, scores: bool) -> dict[str, float | None]:
    """Return how far vectors, or the scores of a cross-encoder, are from torch's, as fields of :class:`BenchRow`.

    Args:
        found: (N, E) vectors; or scores, (N,), or (N, L) for L labels.
        reference: The same in torch.
        scores: Whether they are scores.
    """
    if scores:
        with np.errstate(invalid="ignore", divide="ignore"):  # a single score, or all the same, have no order
            order = spearman(found.ravel(), reference.ravel()) if found.size > 1 else np.nan
        return {"same_order": order if np.isfinite(order) else None}
    apart = cosines(found, reference)
    return {"min_cosine": float(apart.min()), "mean_cosine": float(apart.mean())}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that ``share`` percent stay within: one that was measured, not something between two."""
    return float(np.percentile(values, share, method="higher"))
