"""Embedding codes: bit for bit those of sentence-transformers, and back to floats."""

import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sentence_transformers.util.quantization import quantize_embeddings as reference

from stopt.embeddings import codes as arithmetic
from stopt.embeddings.quantization import (
    dequantize_embeddings,
    parse_precision,
    quantize_embeddings,
    scale_and_offset,
    truncate_embeddings,
)
from stopt.embeddings.ranges import Ranges
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_blocks_and_threads_change_no_bit(
    precision: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = _embeddings(1000, 13, dtype)
    monkeypatch.setattr(arithmetic, "BLOCK", 100)
    monkeypatch.setattr(arithmetic, "PARALLEL", 1)
    monkeypatch.setattr(arithmetic, "_threads", lambda: 3)
    _assert_same(quantize_embeddings(embeddings, precision), reference(embeddings, precision))


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_nothing_of_the_size_of_the_result_is_allocated_beside_it(precision: str) -> None:
    embeddings = _embeddings(150_000, 128)
    tracemalloc.start()
    try:
        codes = quantize_embeddings(embeddings, precision)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 1.1 times the result for a million rows; what blocks need does not grow with it
    threads = arithmetic.MOST_THREADS
    assert peak < codes.nbytes + threads * 4 * arithmetic.BLOCK * 1.5 + 1e6
    assert peak < embeddings.nbytes / 1.5


# ---- one embedding, none, and what is no embedding ------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_embedding_gives_the_row_it_would_be_in_a_matrix(precision: str) -> None:
    embeddings, ranges = _embeddings(), np.stack([np.full(20, -2), np.full(20, 2)]).astype(np.float32)
    one = quantize_embeddings(embeddings[3], precision, ranges)
    _assert_same(one, reference(embeddings, precision, ranges)[3])


@pytest.mark.parametrize("precision", CODES)
def test_one_embedding_with_calibration_is_as_in_sentence_transformers(precision: str) -> None:
    embeddings = _embeddings()
    one = quantize_embeddings(embeddings[3], precision, calibration_embeddings=embeddings)
    _assert_same(one, reference(embeddings[3], precision, calibration_embeddings=embeddings))


@pytest.mark.parametrize("precision", CODES)
def test_one_embedding_alone_has_no_ranges(precision: str) -> None:
    with pytest.raises(InputError, match="one embedding alone has no ranges") as caught:
        quantize_embeddings(np.zeros(4, np.float32), precision)
    assert "calibration_embeddings" in caught.value.hint


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("none", [[], np.empty(0), torch.empty(0)], ids=["list", "array", "tensor"])
def test_no_embeddings_have_no_codes(none: Any, precision: str) -> None:
    codes = quantize_embeddings(none, precision)
    assert codes.shape == (0,)
    assert codes.dtype == parse_precision(precision).dtype


@pytest.mark.parametrize(
    ("precision", "width"), [("float32", 20), ("int8", 20), ("uint8", 20), ("binary", 3), ("ubinary", 3)]
)
def test_no_rows_keep_their_width(precision: str, width: int) -> None:
    codes = quantize_embeddings(np.empty((0, 20), np.float32), precision)
    assert codes.shape == (0, width)
    assert codes.dtype == parse_precision(precision).dtype


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 2, 2), np.float32),
        np.zeros((2, 2), np.int32),
        np.float32(1),
        "text",
        [["a"]],
        [[0.1], [0.1, 0.2]],
        None,
    ],
    ids=["3-D", "int32", "scalar", "text", "list of texts", "ragged", "None"],
)
def test_what_is_not_a_matrix_of_floats_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"expected float embeddings of shape \(N, E\)") as caught:
        quantize_embeddings(wrong, "int8")
    assert "encode" in caught.value.hint


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_codes_are_not_quantised_again(precision: str, dtype: str) -> None:
    with pytest.raises(InputError, match=f"got {dtype}: these are codes already") as caught:
        quantize_embeddings(np.zeros((2, 2), dtype), precision)
    assert "once" in caught.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", CODES)
@pytest.mark.parametrize(
    "ranges", [None, np.array([[-1.0] * 20, [1.0] * 20], np.float32)], ids=["own", "given"]
)
def test_values_without_a_code_are_refused_with_their_row(precision: str, value: float, ranges: Any) -> None:
    embeddings = _embeddings()
    embeddings[70, 3] = value
    with pytest.raises(InputError, match="embedding 70 has NaN or infinity") as caught:
        quantize_embeddings(embeddings, precision, ranges)
    assert caught.value.index == 70
    assert "stopt check" in caught.value.hint


def test_calibration_without_finite_values_is_refused() -> None:
    with pytest.raises(InputError, match="embedding 0 has NaN or infinity"):
        quantize_embeddings(_embeddings(), "int8", calibration_embeddings=np.full((5, 20), np.nan))


# ---- ranges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", CODES)
def test_ranges_of_a_model_are_those_of_an_array(precision: str) -> None:
    embeddings, calibration = _embeddings(5), _embeddings(150, seed=1)
    codes = quantize_embeddings(embeddings, precision, Ranges.of(calibration))
    _assert_same(codes, reference(embeddings, precision, calibration_embeddings=calibration))


def test_ranges_may_be_a_tensor() -> None:
    ranges = torch.tensor([[-1.0] * 20, [1.0] * 20])
    _assert_same(
        quantize_embeddings(_embeddings(), "int8", ranges), reference(_embeddings(), "int8", ranges.numpy())
    )


@pytest.mark.parametrize("shape", [(20, 2), (2,), (2, 19), (3, 20)])
def test_ranges_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"ranges have shape .*, expected \(2, 20\)") as caught:
        quantize_embeddings(_embeddings(), "int8", ranges=np.zeros(shape))
    assert "smallest value" in caught.value.hint


@pytest.mark.parametrize(
    ("low", "high", "message", "hint"),
    [
        ([0, 5], [1, 2], "the minimum of dimension 1 is above its maximum", "smallest value"),
        ([0, np.nan], [1, 2], "NaN or infinity", "finite"),
        ([0, 0], [1, np.inf], "NaN or infinity", "finite"),
        (["a", "b"], ["c", "d"], "expected numbers", "calibration"),
    ],
    ids=["upside down", "NaN", "infinity", "texts"],
)
def test_what_is_no_range_is_refused(low: Any, high: Any, message: str, hint: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        quantize_embeddings(_embeddings(width=2), "int8", np.array([low, high]))
    assert hint in caught.value.hint


def test_a_range_that_overflows_its_dtype_is_refused() -> None:
    ranges = np.array([[-60000], [60000]], np.float16)
    with pytest.raises(InputError, match="range of dimension 0 is too wide for float16") as caught:
        quantize_embeddings(np.zeros((2, 1), np.float16), "int8", ranges)
    assert "float32" in caught.value.hint


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


# ---- back to floats -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [Ranges.from_array, np.asarray, torch.from_numpy])
@pytest.mark.parametrize("precision", CODES)
def test_dequantised_values_are_half_a_step_off_at_most(precision: str, form: Any) -> None:
    embeddings = _embeddings(500, 32)
    array = np.stack((embeddings.min(0), embeddings.max(0)))
    codes = quantize_embeddings(embeddings, precision, array)
    values = dequantize_embeddings(codes, precision, form(array))
    half = (array[1] - array[0]) / 255 / 2
    assert values.dtype == np.float32
    assert np.all(np.abs(values - embeddings) <= half * (1 + 1e-4))


def test_both_forms_of_codes_stand_for_the_same_values() -> None:
    embeddings, ranges = _embeddings(), Ranges.of(_embeddings())
    signed, unsigned = (
        dequantize_embeddings(quantize_embeddings(embeddings, name, ranges), name, ranges) for name in CODES
    )
    assert signed.tobytes() == unsigned.tobytes()


@pytest.mark.parametrize("precision", CODES)
def test_codes_of_dequantised_values_are_the_codes(precision: str) -> None:
    embeddings, ranges = _embeddings(500), Ranges.of(_embeddings(500))
    codes = quantize_embeddings(embeddings, precision, ranges)
    again = quantize_embeddings(dequantize_embeddings(codes, precision, ranges), precision, ranges)
    assert np.array_equal(codes, again)


def test_a_constant_dimension_keeps_its_value() -> None:
    embeddings = np.full((120, 3), 0.25, np.float32)
    ranges = Ranges.of(embeddings)
    assert np.array_equal(
        dequantize_embeddings(quantize_embeddings(embeddings, "int8", ranges), "int8", ranges), embeddings
    )


def test_scale_and_offset_are_what_dequantising_does() -> None:
    ranges = Ranges.of(_embeddings())
    codes = quantize_embeddings(_embeddings(), "uint8", ranges)
    scale, offset = scale_and_offset(ranges)
    assert scale.dtype == offset.dtype == np.float32
    np.testing.assert_allclose(
        codes * scale + offset, dequantize_embeddings(codes, "uint8", ranges), atol=1e-6
    )


@pytest.mark.parametrize("width", [16, 20])
@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits_become_signs(precision: str, width: int) -> None:
    embeddings = _embeddings(50, width)
    signs = dequantize_embeddings(quantize_embeddings(embeddings, precision), precision, dimension=width)
    assert signs.dtype == np.float32
    assert np.array_equal(signs, np.where(embeddings > 0, 1, -1))


def test_bits_without_a_dimension_are_eight_per_byte() -> None:
    assert dequantize_embeddings(np.array([[128, 1]], np.uint8), "ubinary").shape == (1, 16)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_code_becomes_one_embedding(precision: str) -> None:
    ranges = Ranges.of(_embeddings())
    codes = quantize_embeddings(_embeddings(), precision, ranges)
    options: Any = {"dimension": 20} if "binary" in precision else {"ranges": ranges}
    one, all_of_them = (dequantize_embeddings(each, precision, **options) for each in (codes[7], codes))
    assert np.array_equal(one, all_of_them[7])


@pytest.mark.parametrize("precision", CODES)
def test_codes_without_ranges_are_not_dequantised(precision: str) -> None:
    codes = np.zeros((2, 3), precision)
    with pytest.raises(OptionError, match=f"{precision} codes mean nothing without ranges") as caught:
        dequantize_embeddings(codes, precision)
    assert "ranges that they were made with" in caught.value.hint


@pytest.mark.parametrize(
    ("codes", "precision"),
    [
        (np.zeros((2, 3), np.uint8), "int8"),
        (np.zeros((2, 3), np.int8), "ubinary"),
        (np.zeros((2, 3), np.float32), "int8"),
        (np.zeros((2, 3, 4), np.int8), "int8"),
        (np.int8(1), "int8"),
    ],
)
def test_codes_of_another_precision_are_refused(codes: Any, precision: str) -> None:
    with pytest.raises(InputError, match=f"{precision} codes are u?int8 of shape") as caught:
        dequantize_embeddings(codes, precision, np.zeros((2, 3)))
    assert "precision" in caught.value.hint


def test_ranges_of_another_width_are_refused_when_dequantising() -> None:
    with pytest.raises(InputError, match=r"ranges have shape \(2, 4\), expected \(2, 3\)"):
        dequantize_embeddings(np.zeros((2, 3), np.int8), "int8", np.zeros((2, 4)))


@pytest.mark.parametrize("dimension", [8, 17, -3, 0])
def test_a_dimension_that_the_bytes_do_not_hold_is_refused(dimension: int) -> None:
    with pytest.raises(InputError, match=f"2 bytes hold 9 to 16 dimensions, not {dimension}") as caught:
        dequantize_embeddings(np.zeros((1, 2), np.uint8), "ubinary", dimension=dimension)
    assert "dimension that the embeddings had" in caught.value.hint


# ---- truncation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [1, 7, 20, 30, None])
def test_truncation_keeps_the_leading_dimensions(dimension: int | None) -> None:
    from sentence_transformers.util import truncate_embeddings as theirs

    embeddings = _embeddings(4)
    tensor = torch.from_numpy(embeddings)
    assert np.array_equal(truncate_embeddings(embeddings, dimension), theirs(embeddings, dimension))
    assert torch.equal(truncate_embeddings(tensor, dimension), theirs(tensor, dimension))
    assert np.array_equal(truncate_embeddings(embeddings[0], dimension), embeddings[0, :dimension])
    assert np.array_equal(truncate_embeddings(list(embeddings), dimension), embeddings[:, :dimension])


def test_truncation_copies_nothing() -> None:
    embeddings = _embeddings(4)
    assert np.shares_memory(truncate_embeddings(embeddings, 5), embeddings)


@pytest.mark.parametrize("dimension", [0, -1, 2.5, True, "8"])
def test_what_is_no_number_of_dimensions_is_refused(dimension: Any) -> None:
    with pytest.raises(OptionError, match="truncate_dim is") as caught:
        truncate_embeddings(_embeddings(), dimension)
    assert "positive" in caught.value.hint


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 8), np.int8), np.zeros((2, 8), np.uint8), np.float32(1), None]
)
def test_codes_are_not_truncated(wrong: Any) -> None:
    with pytest.raises(InputError, match="expected float embeddings") as caught:
        truncate_embeddings(wrong, 4)
    assert "before quantising" in caught.value.hint
