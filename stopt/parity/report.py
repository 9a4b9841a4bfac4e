"""What a comparison with torch found, what is allowed, and what of it was exceeded.

Dense vectors are judged by cosine and largest difference; sparse ones also by which of their dimensions are active. A
reranker's scores are judged after its activation, as callers see them, and its order by its logits: an activation never
changes the order, but it may squeeze scores together until nothing is left of their differences.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from stopt.errors import OptionError, ParityError
from stopt.quality import QualityReport
from stopt.spec import ModelKind

__all__ = ["ParityReport", "Tolerance", "judged", "tolerance_for"]

# static int8 and bfloat16 stay above: float rounding now and then crosses the border of a step
BATCH_NOISE = 0.999
# scores of static int8 and bfloat16 stay below
BATCH_SCORE_NOISE = 0.01


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far from torch a file may be.

    Attributes:
        min_cosine: Smallest cosine of any text's vector with torch's; None for a cross-encoder, which has none.
        mean_cosine: Smallest mean of these.
        max_abs: Largest difference of any component, or of any score, relative to the largest of them where that exceeds
            1; None where the cosines say it all.
        reason: Why these values.
        min_agreement: Of a sparse encoder, smallest mean overlap of the active dimensions; of a cross-encoder, smallest
            rank correlation of the scores; None for dense models.
    """

    min_cosine: float | None
    mean_cosine: float | None
    max_abs: float | None
    reason: str
    min_agreement: float | None = None


_SAME = "the same arithmetic in another order"
_GELU = "float32 with GELU approximated"
_WEIGHTS = "8-bit weights, float activations"
_FP16 = "11 bits of mantissa"
_BF16 = "8 bits of mantissa; engines keep sums in float32"

_TOLERANCES = {
    ModelKind.DENSE: {
        "float32": Tolerance(0.99999, 0.99999, 1e-3, _SAME),
        "approximate": Tolerance(0.9999, 0.9999, 1e-2, _GELU),
        "weights-int8": Tolerance(0.98, 0.99, None, _WEIGHTS),
        "float16": Tolerance(0.999, 0.9995, None, _FP16),
        "bfloat16": Tolerance(0.998, 0.999, None, _BF16),
        "int8": Tolerance(
            0.90,
            0.98,
            None,
            "8-bit weights and activations; retrieval stays within about 1 % at a mean of .98",
        ),
    },
    # overlaps are of dimensions that are zero or not: small weights come and go with every rounding
    ModelKind.SPARSE: {
        "float32": Tolerance(0.99999, 0.99999, 1e-3, _SAME, 0.999),
        "approximate": Tolerance(0.9999, 0.9999, 1e-2, _GELU, 0.99),
        "weights-int8": Tolerance(0.97, 0.98, None, _WEIGHTS, 0.85),
        "float16": Tolerance(0.999, 0.9995, None, _FP16, 0.98),
        "bfloat16": Tolerance(0.99, 0.995, None, _BF16, 0.90),
        "int8": Tolerance(
            0.90, 0.97, None, "8-bit weights and activations, the vocabulary's projection in float", 0.80
        ),
    },
    ModelKind.CROSS_ENCODER: {
        "float32": Tolerance(None, None, 1e-4, _SAME, 0.9999),
        "approximate": Tolerance(None, None, 1e-2, _GELU, 0.999),
        "weights-int8": Tolerance(None, None, 0.1, _WEIGHTS, 0.97),
        "float16": Tolerance(None, None, 2e-2, _FP16, 0.995),
        "bfloat16": Tolerance(None, None, 5e-2, _BF16, 0.99),
        "int8": Tolerance(None, None, 0.25, "8-bit weights and activations, the classifier in float", 0.95),
    },
}


def tolerance_for(
    precision: str,
    kind: ModelKind = ModelKind.DENSE,
    *,
    min_cosine: float | None = None,
    max_abs: float | None = None,
    min_agreement: float | None = None,
) -> Tolerance:
    """Return the default tolerance of a precision, with the caller's own values put in.

    Args:
        precision: ``float32``, ``float16``, ``bfloat16`` or ``int8``.
        kind: What the model turns text into.
        min_cosine: Replaces the smallest cosine, and bounds the mean too.
        max_abs: Replaces the largest difference.
        min_agreement: Replaces the smallest agreement.

    Raises:
        OptionError: If a value is given that means nothing for this kind.
    """
    default = _TOLERANCES[kind][precision]
    if min_cosine is not None and kind is ModelKind.CROSS_ENCODER:
        raise OptionError(
            "a cross-encoder makes scores, which have no cosine",
            "bound the error of its scores (--max-abs) or the agreement of its order (--min-agreement)",
        )
    if min_agreement is not None and kind is ModelKind.DENSE:
        raise OptionError(
            "the vectors of a dense model have no active dimensions and no order to agree on",
            "bound their cosine: --min-cosine",
        )
    if min_cosine is None and max_abs is None and min_agreement is None:
        return default
    return Tolerance(
        default.min_cosine if min_cosine is None else min_cosine,
        default.mean_cosine if min_cosine is None else min_cosine,
        default.max_abs if max_abs is None else max_abs,
        "given by the caller",
        default.min_agreement if min_agreement is None else min_agreement,
    )


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Figures of one comparison; all over every text and every way of batching it.

    Attributes:
        candidate: The file.
        precision: Precision that the tolerance is for.
        texts: Number of texts, or of pairs.
        tokens: Number of tokens of the longest.
        max_abs: Largest difference of a component, or of a cross-encoder's score after its activation; relative as in
            :class:`Tolerance`.
        worst_text: Start of the text that is furthest off.
        nonfinite_rows: Vectors, or pairs, with a NaN or infinity.
        batch_abs: Largest difference of a component, or of a score, between a text in a batch and the same text alone.
        tolerance: What was allowed.
        failures: What of it was exceeded, in words; empty if the file passed.
        min_cosine: Smallest cosine with torch; None for a cross-encoder, as are the other figures about vectors.
        mean_cosine: Mean cosine with torch.
        batch_cosine: Smallest cosine of a text's vector in a batch with its vector alone.
        rank_overlap: Share of each text's ten nearest texts that stay the same, on average.
        kind: What the model turns text into.
        active_overlap: Of a sparse encoder, share of the dimensions active in either vector that are so in both: mean.
        top_overlap: Of a sparse encoder, share of each vector's ten heaviest dimensions that stay the same: mean.
        mean_score_error: Of a cross-encoder, mean difference of the scores after its activation; relative as ``max_abs``.
        rank_agreement: Of a cross-encoder, Spearman's correlation of its scores with torch's; with several labels the
            mean over them.
        quality: Figures on benchmarks, where some were given.
    """

    candidate: str
    precision: str
    texts: int
    tokens: int
    max_abs: float
    worst_text: str
    nonfinite_rows: int
    batch_abs: float
    tolerance: Tolerance
    failures: tuple[str, ...] = ()
    min_cosine: float | None = None
    mean_cosine: float | None = None
    batch_cosine: float | None = None
    rank_overlap: float | None = None
    kind: ModelKind = ModelKind.DENSE
    active_overlap: float | None = None
    top_overlap: float | None = None
    mean_score_error: float | None = None
    rank_agreement: float | None = None
    quality: tuple[QualityReport, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the file is within the tolerance."""
        return not self.failures

    @property
    def depends_on_batch(self) -> bool:
        """Whether padding or company moves a text's vector, or score, further than rounding does."""
        if self.batch_cosine is None:
            return self.batch_abs > BATCH_SCORE_NOISE
        return self.batch_cosine < BATCH_NOISE

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for JSON, rounded to what they can tell.

        A figure that is not a finite number is None; figures of other kinds of model are left out.
        """
        plain = {
            name: (round(value, 9) if math.isfinite(value) else None) if isinstance(value, float) else value
            for name, value in asdict(self).items()
            if value is not None
        }
        quality = [{**asdict(each), "kept": round(each.kept, 6)} for each in self.quality]
        return {**plain, "failures": list(self.failures), "passed": self.passed, "quality": quality}

    def failure(self) -> ParityError | None:
        """Return the error that says what is wrong with the file; None if it passed."""
        if self.passed:
            return None
        cross = self.kind is ModelKind.CROSS_ENCODER
        return ParityError(
            f"{self.candidate} is not the model that torch runs: {'; '.join(self.failures)} "
            f"(worst {'pair' if cross else 'text'}: {self.worst_text!r})",
            _REMEDIES.get(self.precision, "").format(_LOOSER[self.kind])
            or f"a larger deviation can be allowed with {_LOOSER[self.kind]}, if it is expected",
            self,
        )

    def raise_if_failed(self) -> None:
        """Raise :class:`~stopt.errors.ParityError` unless the file passed."""
        if failure := self.failure():
            raise failure


_LOOSER = {
    ModelKind.DENSE: "--min-cosine and --max-abs",
    ModelKind.SPARSE: "--min-cosine and --min-agreement",
    ModelKind.CROSS_ENCODER: "--max-abs and --min-agreement",
}
_REMEDIES = {
    "int8": "try static int8 (--static) with texts of your own (--texts), or leave the most sensitive products in float "
    "(--nodes-to-exclude, --ignored-scope); a larger deviation can be allowed with {}",
    "weights-int8": "try --weight-format fp16; a larger deviation can be allowed with {}",
}


def judged(report: ParityReport) -> ParityReport:
    """Return the report with what it exceeds in words."""
    allowed = report.tolerance
    cross = report.kind is ModelKind.CROSS_ENCODER
    failures = []
    if report.nonfinite_rows:
        what = "scores" if cross else "vectors"
        failures.append(f"{report.nonfinite_rows} {what} have NaN or infinite values")
    for name, found, smallest in (
        ("smallest cosine", report.min_cosine, allowed.min_cosine),
        ("mean cosine", report.mean_cosine, allowed.mean_cosine),
        ("overlap of active dimensions", report.active_overlap, allowed.min_agreement),
        ("rank agreement", report.rank_agreement, allowed.min_agreement),
    ):
        if found is not None and smallest is not None and not found >= smallest:
            failures.append(f"{name} {_down(found)} < {smallest}")
    if allowed.max_abs is not None and not report.max_abs <= allowed.max_abs:
        what = "error of a score" if cross else "difference"
        failures.append(f"largest {what} {report.max_abs:.2e} > {allowed.max_abs:g}")
    return replace(report, failures=tuple(failures))


def _down(figure: float) -> str:
    """A figure with as many digits as it takes to see that it is not 1, never rounded up."""
    digits = 6 if figure < 1 - 1e-6 else 9
    return f"{math.floor(figure * 10**digits) / 10**digits:.{digits}f}"
