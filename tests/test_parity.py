"""The comparison with torch: what it must catch, and that its figures are right."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stopt.errors import ParityError
from stopt.parity import (
    ParityReport,
    Reference,
    check_texts,
    compare,
    sample_texts,
    token_mismatch,
    tolerance_for,
)
from stopt.reading import read_spec
from stopt.runtime.options import TorchOptions
from stopt.runtime.pipeline import Pipeline

TEXTS = ("one text", "and another one, which is longer than the first", "the third")
FLOAT32 = tolerance_for("float32")


def torch_pipeline(folder: Path) -> Pipeline:
    return Pipeline.open(folder, read_spec(folder), TorchOptions(dtype="float32"), "cpu")


@pytest.fixture(scope="module")
def pipeline(tiny: Callable[..., Path]) -> Pipeline:
    return torch_pipeline(tiny("bert"))


@pytest.fixture(scope="module")
def reference(pipeline: Pipeline) -> Reference:
    return Reference.measure(pipeline, TEXTS)


@dataclass(frozen=True)
class Distorted:
    """A pipeline whose results are changed on their way out: a converted file that is off in a known way."""

    pipeline: Pipeline
    distort: Callable[[Any, Any], Any]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipeline, name)

    def run(self, batch: Any) -> dict[str, Any]:
        features = self.pipeline.run(batch)
        vectors = features["sentence_embedding"].numpy().copy()
        return {**features, "sentence_embedding": self.distort(vectors, batch)}


def judge(reference: Reference, candidate: Any, tolerance: Any = FLOAT32) -> ParityReport:
    return compare(reference, candidate, tolerance, precision="float32", name="file.onnx")


def test_the_model_itself_passes(reference, pipeline) -> None:
    report = judge(reference, pipeline)
    assert report.passed
    assert report.failure() is None
    report.raise_if_failed()
    assert report.min_cosine == pytest.approx(1, abs=1e-6)
    assert report.batch_cosine == pytest.approx(1, abs=1e-6)
    assert report.texts == len(TEXTS) + 3
    assert report.tokens == 128
    assert report.nonfinite_rows == 0


# ---- what it catches ------------------------------------------------------------------------------------------------


def test_other_weights_are_caught(reference, tiny) -> None:
    report = judge(reference, torch_pipeline(tiny("bert", seed=7)))
    assert not report.passed
    assert report.min_cosine < 0.99
    with pytest.raises(
        ParityError, match=r"file.onnx is not the model that torch runs: smallest cosine"
    ) as caught:
        report.raise_if_failed()
    assert caught.value.report is report
    assert caught.value.exit_code == 3
    assert "--min-cosine" in caught.value.hint


def test_another_pooling_is_caught(reference, tiny) -> None:
    assert not judge(reference, torch_pipeline(tiny("bert", pooling="cls"))).passed


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_is_caught(reference, pipeline, value) -> None:
    def distort(vectors: Any, batch: Any) -> Any:
        if len(vectors) == 1 and batch.attention_mask.sum() == 2:  # the empty text, alone
            vectors[0, 3] = value
        return vectors

    report = judge(reference, Distorted(pipeline, distort))
    assert report.nonfinite_rows == 1
    assert report.failures[0] == "1 vectors have NaN or infinite values"
    assert (report.min_cosine, report.worst_text) == (-1.0, "")
    assert report.batch_cosine == -1.0
    # strict JSON has no NaN
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["max_abs"] is None


def test_a_pooling_that_counts_padding_is_caught(reference, pipeline) -> None:
    @dataclass(frozen=True)
    class Unmasked:
        pipeline: Pipeline

        def __getattr__(self, name: str) -> Any:
            return getattr(self.pipeline, name)

        def run(self, batch: Any) -> dict[str, Any]:
            tokens = self.pipeline.run(batch)["token_embeddings"].numpy()
            return {"sentence_embedding": tokens.mean(axis=1)}

    report = judge(reference, Unmasked(pipeline))
    assert not report.passed
    assert report.batch_cosine < 0.999


def test_a_vector_that_depends_on_its_company_is_caught(reference, pipeline) -> None:
    report = judge(
        reference, Distorted(pipeline, lambda vectors, batch: vectors + 0.1 * vectors.mean(axis=0))
    )
    assert not report.passed
    assert report.batch_abs > 1e-3


def test_another_order_of_rows_is_caught(reference, pipeline) -> None:
    report = judge(reference, Distorted(pipeline, lambda vectors, batch: vectors[::-1]))
    assert not report.passed
    assert report.batch_cosine < 0.99


def test_a_wrong_length_is_caught_though_the_direction_is_right(reference, pipeline) -> None:
    report = judge(reference, Distorted(pipeline, lambda vectors, batch: vectors * 1.01))
    assert report.min_cosine == pytest.approx(1, abs=1e-6)
    assert [failure.split(" ")[:2] for failure in report.failures] == [["largest", "difference"]]


def test_the_worst_text_is_named(reference, pipeline) -> None:
    def distort(vectors: Any, batch: Any) -> Any:
        if len(vectors) == 1 and batch.input_ids.tolist() == [reference.tokens[1].ids.tolist()]:
            vectors[0] = -vectors[0]
        return vectors

    report = judge(reference, Distorted(pipeline, distort))
    assert report.worst_text == TEXTS[1][:60]
    assert report.min_cosine == pytest.approx(-1, abs=1e-6)


def test_a_deviation_within_the_tolerance_passes(reference, pipeline) -> None:
    def distort(vectors: Any, batch: Any) -> Any:
        return vectors * (1 + 0.01 * np.sign(np.arange(vectors.shape[1]) % 2 - 0.5))

    candidate = Distorted(pipeline, distort)
    assert not judge(reference, candidate).passed
    assert judge(reference, candidate, tolerance_for("int8")).passed
    assert judge(reference, candidate, tolerance_for("float32", min_cosine=0.99, max_abs=1)).passed


# ---- figures --------------------------------------------------------------------------------------------------------


def test_figures_of_a_case_made_by_hand(reference, pipeline) -> None:
    expected = np.array([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
    found = np.array([[3.0, 4.0], [2.0, 0.0], [1.0, 1.0]])
    made = replace(reference, texts=["a", "b", "c"], tokens=reference.tokens[:3], vectors=expected)
    rows = {tuple(tokens.ids.tolist()): row for tokens, row in zip(made.tokens, found, strict=True)}

    class Known:
        tokenizer = pipeline.tokenizer

        def run(self, batch: Any) -> dict[str, Any]:
            ids = [
                tuple(each[mask == 1].tolist())
                for each, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
            ]
            return {"sentence_embedding": np.array([rows[each] for each in ids])}

    report = judge(made, Known())
    assert report.min_cosine == pytest.approx(0.0)
    assert report.mean_cosine == pytest.approx((1 + 0 + math.sqrt(0.5)) / 3)
    assert report.max_abs == pytest.approx(2 / 4)  # relative: the largest component is 4
    assert report.worst_text == "b"
    assert (report.batch_cosine, report.batch_abs) == (pytest.approx(1.0), 0.0)
    assert report.failures == (
        "smallest cosine 0.000000 < 0.99999",
        "mean cosine 0.569035 < 0.99999",
        "largest difference 5.00e-01 > 0.001",
    )


def test_a_cosine_is_never_rounded_up_to_its_threshold(reference, pipeline) -> None:
    strict = tolerance_for("float32", min_cosine=1.0)
    noise = Distorted(pipeline, lambda vectors, batch: vectors + 1e-5 * np.cos(np.arange(vectors.shape[1])))
    assert judge(reference, noise, strict).failures[0].startswith("smallest cosine 0.99999")


def test_the_report_is_json(reference, pipeline) -> None:
    report = judge(reference, pipeline)
    document = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert document["passed"] is True
    assert document["failures"] == []
    assert document["tolerance"]["min_cosine"] == 0.99999


# ---- tolerances -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8"])
def test_every_precision_has_a_tolerance_with_a_reason(precision) -> None:
    tolerance = tolerance_for(precision)
    assert tolerance.min_cosine <= tolerance.mean_cosine <= 1
    assert tolerance.reason


def test_less_precision_is_granted_more() -> None:
    order = [tolerance_for(name).min_cosine for name in ("float32", "float16", "bfloat16", "int8")]
    assert order == sorted(order, reverse=True)


def test_own_thresholds_replace_the_defaults() -> None:
    given = tolerance_for("int8", min_cosine=0.5)
    assert (given.min_cosine, given.mean_cosine, given.max_abs) == (0.5, 0.5, None)
    given = tolerance_for("float32", max_abs=0.25)
    assert (given.min_cosine, given.max_abs, given.reason) == (0.99999, 0.25, "given by the caller")


# ---- texts ----------------------------------------------------------------------------------------------------------


def test_sample_texts_are_of_many_lengths_and_scripts() -> None:
    texts = sample_texts()
    assert len(texts) >= 40
    assert len(set(texts)) == len(texts)
    assert min(map(len, texts)) < 30
    assert max(map(len, texts)) > 500
    assert sum(any(ord(letter) > 0x250 for letter in text) for text in texts) > 10


@pytest.mark.parametrize("texts", [["one"], ["one", "two words"], ["", " "], sample_texts()])
def test_missing_lengths_are_added(pipeline, texts) -> None:
    *given, single, empty, long = check_texts(texts, pipeline)
    assert given == list(texts)
    assert (single, empty) == ("a", "")
    limit = pipeline.spec.tokenizer.max_seq_length
    unlimited = pipeline.with_max_seq_length(None)
    lengths = [len(tokens) for tokens in unlimited.tokenizer.tokenize([single, empty, long])]
    assert lengths[0] == 3
    assert lengths[1] == 2
    assert lengths[2] > limit


# ---- tokens ---------------------------------------------------------------------------------------------------------


def test_the_same_tokens_are_no_mismatch(pipeline) -> None:
    assert token_mismatch(pipeline, [*sample_texts(), "", "word " * 500]) == ""


def test_a_changed_tokenizer_is_noticed(tiny_copy) -> None:
    folder = tiny_copy("bert")
    opened = torch_pipeline(folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["the"], vocabulary["is"] = vocabulary["is"], vocabulary["the"]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    found = token_mismatch(opened, ["A man", "the guitar"])
    assert found.startswith("'the guitar' is [")
    assert "to transformers and [" in found
