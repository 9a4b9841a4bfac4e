"""Is a converted file the model? Its vectors against torch's, over real text in many shapes of batch.

The reference is always torch in float32 with the original weights (itself held against sentence-transformers in the
tests). Every text is run alone and in mixed, padded batches, so that what padding or company does to a vector shows
up as a number. Token ids are compared with transformers' own tokenizer as well: stopt tokenises by itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.errors import ParityError
from stopt.quality import QualityReport, rank_overlap
from stopt.runtime.batching import plan_batches
from stopt.runtime.encoding import numpy_array
from stopt.runtime.pipeline import Pipeline
from stopt.runtime.tokenizer import Tokens, lower_case

__all__ = [
    "ParityReport",
    "Reference",
    "Tolerance",
    "check_texts",
    "compare",
    "sample_texts",
    "token_mismatch",
    "tolerance_for",
]

Floats = npt.NDArray[np.float32]

# texts of a batch; 1 is every text alone, without padding
BATCH_SIZES = (1, 7, 32)
REFERENCE_BATCH = 16
# static int8 and bfloat16 stay above: float rounding now and then crosses the border of a step
BATCH_NOISE = 0.999
# a text past the limit is made only up to this many tokens; beyond, one text would take minutes
LONGEST_TEXT = 2048


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far from torch a file may be.

    Attributes:
        min_cosine: Smallest cosine of any text's vector with torch's.
        mean_cosine: Smallest mean of these.
        max_abs: Largest difference of any component, relative to the largest component where that exceeds 1; None
            where the cosines say it all.
        reason: Why these values.
    """

    min_cosine: float
    mean_cosine: float
    max_abs: float | None
    reason: str


_TOLERANCES = {
    "float32": Tolerance(0.99999, 0.99999, 1e-3, "the same arithmetic in another order"),
    "approximate": Tolerance(0.9999, 0.9999, 1e-2, "float32 with GELU approximated"),
    "weights-int8": Tolerance(0.98, 0.99, None, "8-bit weights, float activations"),
    "float16": Tolerance(0.999, 0.9995, None, "11 bits of mantissa"),
    "bfloat16": Tolerance(0.998, 0.999, None, "8 bits of mantissa; engines keep sums in float32"),
    "int8": Tolerance(
        0.90, 0.98, None, "8-bit weights and activations; retrieval stays within about 1 % at a mean of .98"
    ),
}


def tolerance_for(
    precision: str, *, min_cosine: float | None = None, max_abs: float | None = None
) -> Tolerance:
    """Return the default tolerance of a precision, with the caller's own values put in.

    Args:
        precision: ``float32``, ``float16``, ``bfloat16`` or ``int8``.
        min_cosine: Replaces the smallest cosine, and bounds the mean too.
        max_abs: Replaces the largest difference.
    """
    default = _TOLERANCES[precision]
    if min_cosine is None and max_abs is None:
        return default
    return Tolerance(
        default.min_cosine if min_cosine is None else min_cosine,
        default.mean_cosine if min_cosine is None else min_cosine,
        default.max_abs if max_abs is None else max_abs,
        "given by the caller",
    )


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Figures of one comparison; all over every text and every way of batching it.

    Attributes:
        candidate: The file.
        precision: Precision that the tolerance is for.
        texts: Number of texts.
        tokens: Number of tokens of the longest text.
        min_cosine: Smallest cosine with torch.
        mean_cosine: Mean cosine with torch.
        max_abs: Largest difference of a component, relative as in :class:`Tolerance`.
        worst_text: Start of the text with the smallest cosine.
        nonfinite_rows: Vectors with a NaN or infinity in them.
        batch_cosine: Smallest cosine of a text's vector in a batch with its vector alone.
        batch_abs: Largest difference of a component between the two.
        rank_overlap: Share of each text's ten nearest texts that stay the same, on average.
        tolerance: What was allowed.
        failures: What of it was exceeded, in words; empty if the file passed.
        quality: Figures on benchmarks, where some were given.
    """

    candidate: str
    precision: str
    texts: int
    tokens: int
    min_cosine: float
    mean_cosine: float
    max_abs: float
    worst_text: str
    nonfinite_rows: int
    batch_cosine: float
    batch_abs: float
    rank_overlap: float
    tolerance: Tolerance
    failures: tuple[str, ...]
    quality: tuple[QualityReport, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the file is within the tolerance."""
        return not self.failures

    @property
    def depends_on_batch(self) -> bool:
        """Whether padding or company moves a text's vector further than rounding does."""
        return self.batch_cosine < BATCH_NOISE

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for JSON, rounded to what they can tell; None where a figure is not a finite number."""
        plain = {
            name: (round(value, 9) if math.isfinite(value) else None) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }
        quality = [{**asdict(each), "kept": round(each.kept, 6)} for each in self.quality]
        return {**plain, "failures": list(self.failures), "passed": self.passed, "quality": quality}

    def failure(self) -> ParityError | None:
        """Return the error that says what is wrong with the file; None if it passed."""
        if self.passed:
            return None
        return ParityError(
            f"{self.candidate} is not the model that torch runs: {'; '.join(self.failures)} "
            f"(worst text: {self.worst_text!r})",
            _REMEDIES.get(
                self.precision,
                "a larger deviation can be allowed with --min-cosine and --max-abs, if it is expected",
            ),
            self,
        )

    def raise_if_failed(self) -> None:
        """Raise :class:`~stopt.errors.ParityError` unless the file passed."""
        if failure := self.failure():
            raise failure


_REMEDIES = {
    "int8": "try static int8 (--static) with texts of your own (--texts), or leave the most sensitive products in float "
    "(--nodes-to-exclude, --ignored-scope); a larger deviation can be allowed with --min-cosine",
    "weights-int8": "try --weight-format fp16; a larger deviation can be allowed with --min-cosine",
}


def sample_texts() -> list[str]:
    """Return the texts that ship with stopt: 45 in 30 languages, from a few words to a page."""
    text = resources.files("stopt.samples").joinpath("texts.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["text"] for line in text.splitlines()]


def check_texts(texts: Sequence[str], pipeline: Pipeline) -> list[str]:
    """Add to ``texts`` the lengths that they lack: a single token, none at all, and past the model's limit."""
    limit = pipeline.spec.tokenizer.max_seq_length
    wanted = min(limit + 16 if limit is not None else 512, LONGEST_TEXT)
    filler = max((text.strip() for text in texts), key=len, default="") or "text"
    tokens = max(len(pipeline.tokenizer.tokenize([filler])[0]) - 2, 1)
    # words again and again; twice the need, since the tokens of a text cut by the limit say little about its length
    past_limit = " ".join([filler] * (2 * wanted // tokens + 1))
    return [*texts, "a", "", past_limit[: wanted * 16]]


@dataclass(frozen=True, slots=True)
class Reference:
    """What torch makes of the texts; measured once, held against any number of files.

    Attributes:
        texts: Texts, in an order that mixes lengths.
        tokens: The same, tokenised.
        vectors: (N, E) float64: their embeddings in torch, float32.
    """

    texts: Sequence[str]
    tokens: Sequence[Tokens]
    vectors: npt.NDArray[np.float64]

    @classmethod
    def measure(cls, pipeline: Pipeline, texts: Sequence[str]) -> Reference:
        """Run texts, and the lengths that they lack (see :func:`check_texts`), through torch.

        Args:
            pipeline: The model in torch, float32.
            texts: Texts, in any order.
        """
        texts = check_texts(texts, pipeline)
        tokens = pipeline.tokenizer.tokenize(texts)
        vectors = np.empty((len(texts), pipeline.spec.embedding_dimension))
        for rows in plan_batches([len(row) for row in tokens], REFERENCE_BATCH):
            vectors[rows] = _vectors(pipeline, [tokens[row] for row in rows], len(rows))
        return cls(texts, tokens, vectors)


def compare(
    reference: Reference, candidate: Pipeline, tolerance: Tolerance, *, precision: str, name: str
) -> ParityReport:
    """Compare a file's vectors with torch's.

    Args:
        reference: What torch makes of the texts.
        candidate: The model from the file.
        tolerance: What is allowed.
        precision: Precision of the candidate, for the report.
        name: The candidate's name, for the report.
    """
    texts, tokens, expected = reference.texts, reference.tokens, reference.vectors
    found = np.stack([_vectors(candidate, tokens, size) for size in BATCH_SIZES])

    finite = np.isfinite(found).all(axis=-1)
    cosines, errors = _apart(found, expected)
    errors /= max(1.0, float(np.abs(expected).max()))
    batch_cosines, batch_errors = _apart(found[1:], found[0])
    worst = int(cosines.min(axis=0).argmin())
    return _judged(
        ParityReport(
            candidate=name,
            precision=precision,
            texts=len(texts),
            tokens=max(len(row) for row in tokens),
            min_cosine=float(cosines.min()),
            mean_cosine=float(cosines.mean()),
            max_abs=float(errors.max()),
            worst_text=texts[worst][:60],
            nonfinite_rows=int((~finite).sum()),
            batch_cosine=float(batch_cosines.min()),
            batch_abs=float(batch_errors.max()),
            rank_overlap=rank_overlap(expected, found[-1]),
            tolerance=tolerance,
            failures=(),
        )
    )


def _judged(report: ParityReport) -> ParityReport:
    """The report with what it exceeds in words."""
    allowed = report.tolerance
    failures = []
    if report.nonfinite_rows:
        failures.append(f"{report.nonfinite_rows} vectors have NaN or infinite values")
    if not report.min_cosine >= allowed.min_cosine:
        failures.append(f"smallest cosine {_down(report.min_cosine)} < {allowed.min_cosine}")
    if not report.mean_cosine >= allowed.mean_cosine:
        failures.append(f"mean cosine {_down(report.mean_cosine)} < {allowed.mean_cosine}")
    if allowed.max_abs is not None and not report.max_abs <= allowed.max_abs:
        failures.append(f"largest difference {report.max_abs:.2e} > {allowed.max_abs:g}")
    return replace(report, failures=tuple(failures))


def _down(cosine: float) -> str:
    """A cosine with as many digits as it takes to see that it is not 1, never rounded up."""
    digits = 6 if cosine < 1 - 1e-6 else 9
    return f"{math.floor(cosine * 10**digits) / 10**digits:.{digits}f}"


def _vectors(pipeline: Pipeline, tokens: Sequence[Tokens], batch_size: int) -> npt.NDArray[np.float64]:
    """(N, E): the embeddings of texts, batched in their order."""
    found = []
    for start in range(0, len(tokens), batch_size):
        features = pipeline.run(pipeline.tokenizer.pad(tokens[start : start + batch_size]))
        found.append(numpy_array(features["sentence_embedding"]).astype(np.float64))
    return np.concatenate(found)


def _apart(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Cosine and largest difference of the vectors on the last axis; as far apart as can be where one is not finite."""
    finite = np.asarray((np.isfinite(a) & np.isfinite(b)).all(axis=-1))
    a, b = (np.where(finite[..., np.newaxis], vectors, 0.0) for vectors in (a, b))
    return np.where(finite, _cosines(a, b), -1.0), np.where(finite, np.abs(a - b).max(axis=-1), np.inf)


def _cosines(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cosine of the vectors on the last axis; two zero vectors agree."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    both_zero = (np.abs(a).max(axis=-1) == 0) & (np.abs(b).max(axis=-1) == 0)
    return np.where(both_zero, 1.0, np.sum(a * b, axis=-1) / np.maximum(norms, 1e-300))


def token_mismatch(pipeline: Pipeline, texts: Iterable[str]) -> str:
    """Compare token ids with transformers' tokenizer.

    Returns:
        The first difference in words; empty if there is none.
    """
    from transformers import AutoTokenizer

    from stopt.runtime.sessions.torch import quiet

    spec = pipeline.spec.tokenizer
    with quiet():
        theirs = AutoTokenizer.from_pretrained(
            Path(pipeline.root) / spec.path, local_files_only=True, trust_remote_code=False
        )
        if spec.lower_case:
            lower_case(theirs.backend_tokenizer)
        texts = list(texts)
        limit = spec.max_seq_length
        for text, ours in zip(texts, pipeline.tokenizer.tokenize(texts), strict=True):
            ids = theirs(text, truncation=limit is not None, max_length=limit)["input_ids"]
            if ids != ours.ids.tolist():
                return f"{text[:60]!r} is {ids[:12]} to transformers and {ours.ids[:12].tolist()} to stopt"
    return ""
