"""Embedding codes: bit for bit those of sentence-transformers."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sentence_transformers.util.quantization import quantize_embeddings as reference

from stopt.embeddings.quantization import parse_precision, quantize_embeddings
from stopt.errors import InputError, OptionError, StoptWarning

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
CODES = ("int8", "uint8")
DTYPES = ("float16", "float32", "float64")


def _embeddings(rows: int = 120, width: int = 20, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(dtype)


def _assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_codes_equal_sentence_transformers(precision: str, dtype: str) -> None:
    embeddings = _embeddings(dtype=dtype)
    _assert_same(quantize_embeddings(embeddings, precision), reference(embeddings, precision))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("precision", CODES)
def test_given_ranges_are_used_and_values_beyond_them_clipped(precision: str, dtype: str) -> None:
    embeddings = _embeddings(dtype=dtype) * 3
    ranges = np.stack([np.full(20, -1), np.full(20, 1)]).astype(dtype)
    codes = quantize_embeddings(embeddings, precision, ranges=ranges)
    _assert_same(codes, reference(embeddings, precision, ranges=ranges))


@pytest.mark.parametrize("ranges_dtype", DTYPES)
def test_ranges_of_another_dtype_decide_the_arithmetic_as_in_sentence_transformers(ranges_dtype: str) -> None:
    ranges = np.stack([np.full(20, -0.7), np.full(20, 0.9)]).astype(ranges_dtype)
    embeddings = _embeddings()
    codes = quantize_embeddings(embeddings, "int8", ranges=ranges)
    _assert_same(codes, reference(embeddings, "int8", ranges=ranges))


@pytest.mark.parametrize("precision", CODES)
def test_calibration_embeddings_give_the_ranges(precision: str) -> None:
    embeddings, calibration = _embeddings(5), _embeddings(150, seed=1)
    codes = quantize_embeddings(embeddings, precision, calibration_embeddings=calibration)
    _assert_same(codes, reference(embeddings, precision, calibration_embeddings=calibration))


def test_ranges_win_over_calibration_embeddings() -> None:
    embeddings, calibration = _embeddings(5), _embeddings(150, seed=1)
    ranges = np.stack([np.full(20, -2), np.full(20, 2)]).astype(np.float32)
    both = quantize_embeddings(embeddings, "int8", ranges, calibration)
    _assert_same(both, quantize_embeddings(embeddings, "int8", ranges))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "convert",
    [list, torch.from_numpy, lambda rows: list(torch.from_numpy(rows)), np.asfortranarray],
    ids=["list of rows", "tensor", "list of tensors", "column order"],
)
def test_every_form_of_embeddings_gives_the_same_codes(precision: str, convert: Any) -> None:
    embeddings = _embeddings()
    codes = quantize_embeddings(convert(embeddings), precision)
    assert np.array_equal(codes, reference(embeddings, precision))


def test_nested_lists_of_numbers_are_accepted() -> None:
    embeddings = _embeddings(3, 8)
    assert np.array_equal(
        quantize_embeddings(embeddings.tolist(), "ubinary"), reference(embeddings, "ubinary")
    )


def test_bfloat16_tensors_are_quantised_as_float32() -> None:
    tensor = torch.from_numpy(_embeddings()).bfloat16()
    _assert_same(quantize_embeddings(tensor, "int8"), reference(tensor.float(), "int8"))


@pytest.mark.parametrize("precision", CODES)
def test_a_constant_dimension_gets_the_lowest_code(precision: str) -> None:
    embeddings = np.ones((120, 4), np.float32)
    _assert_same(quantize_embeddings(embeddings, precision), reference(embeddings, precision))


def test_one_embedding_is_all_lowest_codes_with_a_warning() -> None:
    with pytest.warns(StoptWarning, match=r"int8 ranges come from only 1 embedding.*calibration_embeddings"):
        codes = quantize_embeddings(_embeddings(1), "int8")
    assert np.all(codes == -128)


def test_no_warning_with_a_hundred_embeddings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize_embeddings(_embeddings(100), "int8")


def test_codes_of_values_beyond_the_range_are_the_extremes() -> None:
    ranges = np.array([[-1.0], [1.0]], np.float32)
    codes = quantize_embeddings(np.array([[-9.0], [9.0]], np.float32), "int8", ranges=ranges)
    assert codes.ravel().tolist() == [-128, 127]


@pytest.mark.parametrize(("precision", "high", "low"), [("binary", 127, -128), ("ubinary", 255, 0)])
def test_eight_signs_fill_a_byte(precision: str, high: int, low: int) -> None:
    codes = quantize_embeddings(np.array([[0.1] * 8, [-0.1] * 8], np.float32), precision)
    assert codes.ravel().tolist() == [high, low]


def test_zero_and_nan_are_zero_bits_and_the_first_value_is_the_highest_bit() -> None:
    row = np.array([[0.0, -1.0, np.nan, 1.0]], np.float32)
    assert quantize_embeddings(row, "ubinary").tolist() == [[16]]


def test_rows_are_packed_separately() -> None:
    assert quantize_embeddings(np.ones((3, 10), np.float32), "ubinary").tolist() == [[255, 192]] * 3


@given(
    embeddings=hnp.arrays(
        np.float32,
        st.tuples(st.integers(100, 104), st.integers(1, 9)),
        elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    ),
    precision=st.sampled_from(PRECISIONS),
)
def test_any_finite_embeddings_give_the_bits_of_sentence_transformers(
    embeddings: np.ndarray, precision: str
) -> None:
    _assert_same(quantize_embeddings(embeddings, precision), reference(embeddings, precision))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(4, np.float32),
        np.zeros((2, 2, 2), np.float32),
        np.zeros((2, 2), np.int8),
        np.zeros((2, 2), np.uint8),
        np.empty(0),
        [],
        "text",
        [["a"]],
    ],
    ids=["1-D", "3-D", "int8", "uint8", "empty", "no rows", "text", "list of texts"],
)
def test_what_is_not_a_matrix_of_floats_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"expected float embeddings of shape \(N, E\)") as caught:
        quantize_embeddings(wrong, "int8")
    assert "precision='float32'" in caught.value.hint


@pytest.mark.parametrize("shape", [(20, 2), (2,), (2, 19), (3, 20)])
def test_ranges_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"ranges have shape .*, expected \(2, 20\)") as caught:
        quantize_embeddings(_embeddings(), "int8", ranges=np.zeros(shape))
    assert "smallest value" in caught.value.hint


@pytest.mark.parametrize("calibration", [_embeddings(width=19), _embeddings(rows=0)], ids=["width", "empty"])
def test_calibration_that_gives_no_ranges_is_refused(calibration: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"ranges cannot be taken from .*, expected \(M, 20\)") as caught:
        quantize_embeddings(_embeddings(), "int8", calibration_embeddings=calibration)
    assert "same model" in caught.value.hint


@pytest.mark.parametrize("name", ["int4", "INT8", "", 8])
def test_unknown_precision_is_refused_with_the_known_ones(name: Any) -> None:
    with pytest.raises(OptionError, match="is not supported") as caught:
        parse_precision(name)
    assert "int8" in caught.value.hint


def test_no_precision_is_float32() -> None:
    assert parse_precision(None) == "float32"
