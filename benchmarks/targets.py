"""What was to be reached, and what was: ratios within one run, and absolute figures where those were asked for."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contenders import TORCH

Results = Mapping[str, Mapping[str, Any]]

# with what is not int8 in bfloat16, asked for, as OpenVINO has it by default in sentence-transformers' row
INT8 = "stopt openvino int8 bf16"
BF16, DYNAMIC = "stopt openvino bf16", "stopt onnx int8"
THEIRS, OURS = "sentence-transformers ", "stopt "

# the same kind of file, and who else runs it
COUNTERPARTS: Mapping[str, Sequence[str]] = {
    "stopt torch": (TORCH,),
    "stopt torch bf16": ("sentence-transformers torch bf16",),
    "stopt onnx": (
        "sentence-transformers onnx",
        "sentence-transformers onnx O3",
        "CTranslate2 float32",
        "fastembed float32",
    ),
    DYNAMIC: ("sentence-transformers onnx int8", "fastembed int8"),
    "stopt openvino f32": ("sentence-transformers openvino f32", "CTranslate2 float32"),
    BF16: ("sentence-transformers openvino",),
    INT8: ("sentence-transformers openvino int8", "CTranslate2 int8", "CTranslate2 int8, batches of 8"),
    "stopt openvino int8": (
        "sentence-transformers openvino int8",
        "CTranslate2 int8",
        "CTranslate2 int8, batches of 8",
    ),
}


@dataclass(frozen=True, slots=True)
class Target:
    """One figure to reach.

    Attributes:
        what: In words.
        must: What it must be.
        reach: What would be better still; None if nothing was said.
        value: What was measured; None if it was not.
        unit: Put after figures: ``x``, `` s``, `` MB``, `` %``.
        smaller: Whether less is better.
    """

    what: str
    must: float
    reach: float | None
    value: float | None
    unit: str = "x"
    smaller: bool = False

    def wanted(self) -> str:
        sign = "≤" if self.smaller else "≥"
        better = f" · {self.reach:g}{self.unit}" if self.reach is not None else ""
        return f"{sign} {self.must:g}{self.unit}{better}"

    def found(self) -> str:
        return f"{self.value:.4f}" if not self.unit else f"{self.value:.2f}{self.unit}"

    def verdict(self) -> str:
        if self.value is None:
            return ""
        met = self.value <= self.must if self.smaller else self.value >= self.must
        return "reached" if met else "missed"


def judged(results: Results) -> list[Target]:
    return list(_judged(results))


def _judged(results: Results) -> Iterator[Target]:
    mixed, short = "throughput", "throughput-short"
    yield Target(
        "OpenVINO int8, mixed text, against ST torch", 7.2, 10, _faster(results, mixed, INT8, _only(TORCH))
    )
    yield Target(
        "OpenVINO int8, mixed text, against ST's fastest of those run",
        1.4,
        1.8,
        _faster(results, mixed, INT8, _of(THEIRS)),
    )
    yield Target(
        "OpenVINO int8, mixed text, against CTranslate2 int8",
        3,
        None,
        _faster(results, mixed, INT8, _only("CTranslate2 int8")),
    )
    yield Target(
        "OpenVINO int8, worst of STS-B and retrieval, share of torch's", 99.5, None, _kept(results), " %"
    )
    yield Target(
        "OpenVINO int8, short text, against ST torch", 11, 15, _faster(results, short, INT8, _only(TORCH))
    )
    yield Target(
        "OpenVINO int8, short text, against ST's fastest of those run",
        1.9,
        None,
        _faster(results, short, INT8, _of(THEIRS)),
    )
    yield Target(
        "OpenVINO bf16, mixed text, against ST torch", 4.6, 6, _faster(results, mixed, BF16, _only(TORCH))
    )
    yield Target(
        "OpenVINO bf16, smallest cosine", 0.9999, None, _figure(results, mixed, BF16, "cosine_min"), ""
    )
    same = _only("sentence-transformers onnx int8")
    yield Target(
        "ONNX dynamic int8, mixed text, against ST with the same file",
        1.5,
        None,
        _faster(results, mixed, DYNAMIC, same),
    )
    yield Target(
        "ONNX dynamic int8, short text, against ST with the same file",
        2.3,
        None,
        _faster(results, short, DYNAMIC, same),
    )
    # the ceiling takes part in runs of all contenders
    runs = (_figure(results, each, INT8, "share_of_int8_ceiling") for each in (mixed, f"{mixed}-all"))
    share = next((each for each in runs if each is not None), None)
    yield Target(
        "whole pipeline, share of the int8 ceiling", 48, 60, None if share is None else 100 * share, " %"
    )
    for name in (INT8, DYNAMIC):
        what = f"one query of 32 tokens, {name.removeprefix(OURS)}, over the bare engine"
        yield Target(what, 1.1, None, _figure(results, "latency", name, "ratio_to_bare"), "x", smaller=True)
    for name, seconds, megabytes in ((DYNAMIC, 0.4, 130), (INT8, 0.9, 260)):
        engine = name.removeprefix(OURS)
        yield Target(
            f"cold start, {engine}",
            seconds,
            None,
            _figure(results, "cold-start", name, "start_s"),
            " s",
            smaller=True,
        )
        yield Target(
            f"memory then, {engine}",
            megabytes,
            None,
            _figure(results, "cold-start", name, "memory_mb"),
            " MB",
            smaller=True,
        )
    yield Target(
        "cross-encoder, 100 passages, against ST's best", 2, 3, _faster(results, "rerank", None, _of(THEIRS))
    )
    yield Target(
        "SPLADE, 1,000 documents, against ST's best of those run",
        2,
        3,
        _faster(results, "sparse", None, _of(THEIRS)),
    )

    for engine in ("onnx", "openvino int8"):
        pooled = f"{OURS}{engine}, pool of 2"
        yield Target(
            f"pool of 2, {engine}, over one process",
            0.95,
            None,
            _figure(results, "pool", pooled, "ratio_to_one_process"),
        )
        yield Target(
            f"pool of 2, {engine}, over ST's default pool", 3, None, _figure(results, "pool", pooled, "ratio")
        )
        yield Target(
            f"pool of 2, {engine}, 32 texts, over one process",
            20,
            None,
            _figure(results, "pool", pooled, "overhead_ms"),
            " ms",
            smaller=True,
        )


def _only(name: str) -> Callable[[str], bool]:
    return lambda other: other == name


def _of(prefix: str) -> Callable[[str], bool]:
    return lambda other: other.startswith(prefix)


def _faster(results: Results, file: str, ours: str | None, rival: Callable[[str], bool]) -> float | None:
    """How many times as fast as the fastest rival, median over the rounds; without a name the fastest of stopt's."""
    rows = results.get(file, {}).get("rows", {})
    mine = _fastest(rows, _only(ours) if ours else _of(OURS))
    other = _fastest(rows, rival)
    if mine is None or other is None:
        return None
    return statistics.median(b / a for a, b in zip(mine, other, strict=True))


def _fastest(rows: Mapping[str, Any], wanted: Callable[[str], bool]) -> list[float] | None:
    """Seconds per round of the one with the smallest median."""
    found = [row["seconds"] for name, row in rows.items() if wanted(name)]
    return min(found, key=statistics.median) if found else None


def _figure(results: Results, file: str, name: str, key: str) -> float | None:
    value = results.get(file, {}).get("rows", {}).get(name, {}).get(key)
    return None if value is None else float(value)


def _kept(results: Results) -> float | None:
    """The smallest share of torch's figure that static int8 keeps, in percent."""
    rows = results.get("quality", {}).get("rows", {})
    if INT8 not in rows or TORCH not in rows:
        return None
    metrics = [key for key in rows[TORCH] if key.endswith(("spearman", "ndcg@10"))]
    return 100 * min(rows[INT8][key] / rows[TORCH][key] for key in metrics)
