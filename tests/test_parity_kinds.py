"""The comparison with torch, of sparse vectors and of scores."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stopt.errors import ParityError
from stopt.parity import ParityReport, Reference, compare, sample_pairs, token_mismatch, tolerance_for
from stopt.parity.figures import score_figures, vector_figures
from stopt.reading import read_spec
from stopt.runtime.options import TorchOptions
from stopt.runtime.pipeline import Pipeline
from stopt.spec import Activation, ModelKind, ModelSpec

TEXTS = ("one text", "and another one, which is longer than the first", "the third")
PAIRS = (
    ("one text", "another"),
    ("What is the capital?", "Paris is the capital of France."),
    ("a man", "the lazy dog"),
    ("how do I cook rice?", "boil water, add the rice and wait"),
)


def torch_pipeline(folder: Path) -> Pipeline:
    return Pipeline.open(folder, read_spec(folder), TorchOptions(dtype="float32"), "cpu")


@dataclass(frozen=True)
class Distorted:
    """A pipeline whose results are changed on their way out."""

    pipeline: Pipeline
    distort: Callable[[Any], Any]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipeline, name)

    def run(self, batch: Any) -> dict[str, Any]:
        features = self.pipeline.run(batch)
        name = self.pipeline.spec.feature
        return {**features, name: self.distort(features[name].numpy().copy())}


@pytest.fixture(scope="module")
def sparse(tiny: Callable[..., Path]) -> tuple[Reference, Pipeline]:
    pipeline = torch_pipeline(tiny("bert", kind="splade"))
    return Reference.measure(pipeline, TEXTS), pipeline


@pytest.fixture(scope="module")
def cross(tiny: Callable[..., Path]) -> tuple[Reference, Pipeline]:
    pipeline = torch_pipeline(tiny("bert", kind="cross-encoder"))
    return Reference.measure(pipeline, PAIRS), pipeline


def judge(
    measured: tuple[Reference, Pipeline], distort: Callable[[Any], Any], precision: str = "float32"
) -> ParityReport:
    reference, pipeline = measured
    candidate: Any = Distorted(pipeline, distort)
    tolerance = tolerance_for(precision, pipeline.spec.kind)
    return compare(reference, candidate, tolerance, precision=precision, name="file.onnx")


def test_the_model_itself_passes(sparse, cross) -> None:
    report = judge(sparse, lambda x: x)
    assert report.passed
    assert (report.active_overlap, report.top_overlap, report.kind) == (1, 1, ModelKind.SPARSE)
    assert report.texts == len(TEXTS) + 3
    report = judge(cross, lambda x: x)
    assert report.passed
    assert report.rank_agreement == pytest.approx(1)
    assert report.max_abs < 1e-5
    assert report.texts == len(PAIRS) + 5
    assert report.tokens == 128


def test_the_report_has_the_figures_of_its_kind_only(sparse, cross) -> None:
    document = json.loads(json.dumps(judge(cross, lambda x: x).as_dict(), allow_nan=False))
    assert document["kind"] == "cross-encoder"
    assert {"mean_score_error", "rank_agreement"} < set(document)
    assert not {"min_cosine", "rank_overlap", "active_overlap"} & set(document)
    document = judge(sparse, lambda x: x).as_dict()
    assert {"min_cosine", "active_overlap", "top_overlap"} < set(document)
    assert "rank_agreement" not in document


def test_dimensions_that_come_up_are_caught(sparse) -> None:
    """Too small to show in a cosine: half of the zeros become active."""

    def distort(vectors: Any) -> Any:
        zeros = (vectors == 0) & (np.arange(vectors.shape[1]) % 2 == 0)
        return np.where(zeros, 1e-6, vectors)

    report = judge(sparse, distort)
    assert report.min_cosine > 0.99999
    assert [failure.rsplit(" ", 3)[0] for failure in report.failures] == ["overlap of active dimensions"]


def test_another_order_is_caught_though_scores_are_squeezed(cross) -> None:
    """Scores near 1 all look alike; their logits do not."""
    reference, pipeline = cross
    shifted = replace(reference, vectors=reference.vectors + 30)
    candidate: Any = Distorted(pipeline, lambda logits: 30 - logits)
    tolerance = tolerance_for("float32", ModelKind.CROSS_ENCODER)
    report = compare(shifted, candidate, tolerance, precision="float32", name="file.onnx")
    assert report.max_abs < 1e-4
    assert report.rank_agreement == pytest.approx(-1)
    assert report.failures[0].startswith("rank agreement -1")


def test_a_shift_of_scores_is_caught_though_the_order_is_right(cross) -> None:
    report = judge(cross, lambda logits: logits + 0.5)
    assert report.rank_agreement == pytest.approx(1)
    assert report.failures[0].startswith("largest error of a score")
    with pytest.raises(ParityError, match="worst pair: '") as caught:
        report.raise_if_failed()
    assert "--max-abs and --min-agreement" in caught.value.hint


def test_scores_that_are_not_finite_are_caught(cross) -> None:
    report = judge(cross, lambda logits: np.full_like(logits, np.nan), "int8")
    assert report.nonfinite_rows == 3 * report.texts
    assert report.failures[0].endswith("scores have NaN or infinite values")
    assert report.rank_agreement == -1


def test_scores_that_depend_on_their_company_show(cross) -> None:
    report = judge(cross, lambda logits: logits + 0.2 * len(logits), "int8")
    assert report.batch_abs > 0.01
    assert report.depends_on_batch
    assert not judge(cross, lambda logits: logits).depends_on_batch


# ---- figures of cases made by hand ----------------------------------------------------------------------------------


def spec_of(kind: ModelKind, spec: ModelSpec, activation: Activation | None = None) -> ModelSpec:
    return replace(spec, kind=kind, activation=activation)


def test_figures_of_vectors_made_by_hand(sparse) -> None:
    spec = sparse[1].spec
    expected = np.array([[3.0, 0, 4, 0], [0, 0, 2, 1], [0, 0, 0, 0]])
    found = np.array([[3.0, 1, 4, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    figures, worst = vector_figures(spec, expected, [found, found])
    assert figures["active_overlap"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert figures["top_overlap"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert figures["max_abs"] == pytest.approx(2 / 4)
    assert worst == 1


def test_figures_of_scores_made_by_hand(cross) -> None:
    spec = spec_of(ModelKind.CROSS_ENCODER, cross[1].spec, Activation.SIGMOID)
    expected = np.array([[0.0], [2.0], [-2.0], [4.0]])
    found = np.array([[0.0], [4.0], [-2.0], [2.0]])
    sigmoid = 1 / (1 + np.exp(-np.array([2.0, 4.0])))
    figures, worst = score_figures(spec, expected, [found, expected])
    assert figures["max_abs"] == pytest.approx(sigmoid[1] - sigmoid[0])
    assert figures["mean_score_error"] == pytest.approx(2 * (sigmoid[1] - sigmoid[0]) / 8)
    assert figures["rank_agreement"] == pytest.approx(0.8)
    assert figures["batch_abs"] == pytest.approx(sigmoid[1] - sigmoid[0])
    assert worst in (1, 3)


def test_large_scores_are_compared_relative_to_the_largest(cross) -> None:
    spec = spec_of(ModelKind.CROSS_ENCODER, cross[1].spec, None)
    figures, _ = score_figures(spec, np.array([[10.0], [-2.0]]), [np.array([[10.0], [-1.0]])] * 2)
    assert figures["max_abs"] == pytest.approx(0.1)


@pytest.mark.parametrize("kind", list(ModelKind))
@pytest.mark.parametrize(
    "precision", ["float32", "approximate", "weights-int8", "float16", "bfloat16", "int8"]
)
def test_every_kind_has_a_tolerance_for_every_precision(kind, precision) -> None:
    tolerance = tolerance_for(precision, kind)
    assert tolerance.reason
    assert (tolerance.min_cosine is None) == (kind is ModelKind.CROSS_ENCODER)
    assert (tolerance.min_agreement is None) == (kind is ModelKind.DENSE)


# ---- samples and tokens ---------------------------------------------------------------------------------------------


def test_sample_pairs_are_related_and_not() -> None:
    pairs = sample_pairs()
    assert len(pairs) > 40
    related = sum(second.startswith(first) for first, second in pairs)
    assert 0.4 < related / len(pairs) < 0.6


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_pairs_have_the_tokens_of_transformers(tiny, architecture) -> None:
    pipeline = torch_pipeline(tiny(architecture, kind="cross-encoder"))
    long = "word " * 300
    assert token_mismatch(pipeline, [*sample_pairs(), ("a", ""), ("", ""), ("a", long), (long, long)]) == ""
