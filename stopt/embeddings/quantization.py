"""Embeddings in fewer bytes: int8 and binary codes, bit for bit as sentence-transformers 5.7 makes them, and back.

``tests/test_quantization.py`` compares the bits with it live. What is checked and documented here is computed in
:mod:`stopt.embeddings.codes`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from stopt.counts import require_count
from stopt.embeddings.codes import (
    Precision,
    bits_of,
    extremes_of,
    parse_precision,
    require_finite,
    signs_of,
    steps_of,
    values_of,
)
from stopt.embeddings.ranges import Ranges, require_ordered
from stopt.errors import InputError, OptionError, StoptWarning
from stopt.runtime.arrays import numpy_array

__all__ = [
    "FEW",
    "Precision",
    "dequantize_embeddings",
    "parse_precision",
    "quantize_embeddings",
    "scale_and_offset",
    "truncate_embeddings",
]

# sentence-transformers warns below this many embeddings, too
FEW = 100


def quantize_embeddings(
    embeddings: Any,
    precision: str,
    ranges: Ranges | npt.NDArray[Any] | None = None,
    calibration_embeddings: Any = None,
) -> npt.NDArray[Any]:
    """Quantise embeddings.

    Args:
        embeddings: (N, E) floats: an array, a tensor, or a list of rows; (E,) for one.
        precision: ``float32``, ``int8``, ``uint8``, ``binary`` or ``ubinary``.
        ranges: :class:`Ranges`, or (2, E), for int8 and uint8: the smallest and largest value of each dimension.
        calibration_embeddings: (M, E), to take them from; without either they are those of ``embeddings``.

    Returns:
        (N, E) int8 or uint8, each dimension's range in 256 equal steps, values beyond it clipped; or (N, ceil(E / 8))
        int8 or uint8, one bit per dimension, set where it is above zero (so not for NaN), most significant first
        (``binary`` is ``ubinary`` minus 128); or (N, E) float32. One row less deep for (E,), empty for no embeddings.

    Raises:
        OptionError: If the precision is unknown.
        InputError: If the embeddings are not floats of that shape, have NaN or infinity where int8 and uint8 have no
            code for it, or the ranges do not fit them.
    """
    chosen = parse_precision(precision)
    values = _float_array(embeddings)
    if values.shape == (0,):  # what encode([]) returns
        return np.empty(0, chosen.dtype)
    rows = np.atleast_2d(values)
    match chosen:
        case Precision.FLOAT32:
            codes = rows.astype(np.float32)
        case Precision.INT8 | Precision.UINT8:
            given = _range_of(values, chosen, ranges, calibration_embeddings)
            codes = steps_of(rows, chosen, *given)
        case Precision.BINARY | Precision.UBINARY:
            codes = bits_of(rows, chosen)
        case _:
            assert_never(chosen)
    return codes.reshape(codes.shape[-1]) if values.ndim == 1 else codes


def dequantize_embeddings(
    codes: Any,
    precision: str,
    ranges: Ranges | npt.NDArray[Any] | None = None,
    *,
    dimension: int | None = None,
) -> npt.NDArray[np.float32]:
    """Turn codes back into floats, as near to the embeddings as the codes say.

    Args:
        codes: What :func:`quantize_embeddings` returned: (N, E) or, for binary, (N, ceil(E / 8)); or one of them.
        precision: What it was told.
        ranges: For int8 and uint8 the ranges it used.
        dimension: For binary and ubinary the number of dimensions E; None is eight per byte.

    Returns:
        (N, E) float32: the middle of each value's step; for binary and ubinary -1 and 1.

    Raises:
        OptionError: If the precision is unknown, or int8 and uint8 come without ranges.
        InputError: If the codes are not of that precision, or ranges or dimension do not fit them.
    """
    chosen = parse_precision(precision)
    values = numpy_array(codes)
    if values.dtype != chosen.dtype or values.ndim not in (1, 2):
        raise InputError(
            f"{chosen.value} codes are {chosen.dtype} of shape (N, E), got {values.dtype} of shape {values.shape}",
            "give the precision that they were quantised with",
        )
    rows = np.atleast_2d(values)
    match chosen:
        case Precision.FLOAT32:
            found = rows.astype(np.float32)
        case Precision.INT8 | Precision.UINT8:
            if ranges is None:
                raise OptionError(
                    f"{chosen.value} codes mean nothing without ranges",
                    "give the ranges that they were made with",
                )
            found = values_of(rows, chosen, *scale_and_offset(_given(ranges, rows.shape[1])))
        case Precision.BINARY | Precision.UBINARY:
            found = signs_of(rows, chosen, _width(rows.shape[1], dimension))
        case _:
            assert_never(chosen)
    return found.reshape(found.shape[-1]) if values.ndim == 1 else found


def scale_and_offset(ranges: Ranges | npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return what turns codes 0 to 255 into values: ``code * scale + offset``, float32 (E,) each.

    int8 codes are 128 less. A value is taken to be in the middle of its step; a dimension that had one value in
    calibration keeps it.
    """
    low, high = ranges.array if isinstance(ranges, Ranges) else np.asarray(ranges)
    steps = (high - low) / 255
    constant = steps == 0
    scale = np.where(constant, 1, steps)
    return scale.astype(np.float32), np.where(constant, low, low + steps / 2).astype(np.float32)


def truncate_embeddings(embeddings: Any, truncate_dim: int | None) -> Any:
    """Keep the leading dimensions of embeddings.

    Args:
        embeddings: (..., E) floats, an array or a tensor, or a list of numbers or rows.
        truncate_dim: How many; None, or more than there are, is all.

    Returns:
        (..., truncate_dim), a view of what was given (of an array made from a list).

    Raises:
        OptionError: If the number is not a positive integer.
        InputError: If these are not floats: codes are made after truncation.
    """
    if truncate_dim is None:
        return embeddings
    require_count(truncate_dim, "truncate_dim", "a positive number of dimensions, or None for all")
    values = _stacked(embeddings) if isinstance(embeddings, Sequence) else embeddings
    if getattr(values, "ndim", 0) < 1 or "float" not in str(getattr(values, "dtype", "")):
        raise InputError(
            f"expected float embeddings, got {getattr(values, 'dtype', type(values).__name__)}",
            "truncate before quantising",
        )
    return values[..., :truncate_dim]


# -- what is given -------------------------------------------------------------------------------------------


def _range_of(
    values: npt.NDArray[Any], precision: Precision, ranges: Any, calibration: Any
) -> tuple[npt.NDArray[Any], bool]:
    """(2, E) ranges, and whether they show that the values are finite."""
    width = values.shape[-1]
    if ranges is not None:
        return _given(ranges, width), False
    if calibration is None and values.ndim == 1:
        raise InputError(
            "one embedding alone has no ranges",
            "give ranges, or calibration_embeddings of a few hundred texts",
        )
    source = values if calibration is None else _float_array(calibration)
    if calibration is None and not len(values):
        return np.zeros((2, width), values.dtype), True
    if source.ndim != 2 or len(source) == 0 or source.shape[1] != width:
        raise InputError(
            f"ranges cannot be taken from embeddings of shape {source.shape}, expected (M, {width})",
            "calibrate with embeddings of the same model",
        )
    if calibration is None and len(values) < FEW:
        warnings.warn(
            f"{precision.value} ranges come from only {len(values)} embedding(s), and codes of separate calls cannot "
            "be compared: pass `ranges`, or `calibration_embeddings` of a few hundred typical texts",
            StoptWarning,
            stacklevel=3,
        )
    found = extremes_of(source)
    if not np.isfinite(found).all():
        require_finite(source)
    return found, calibration is None


def _given(ranges: Any, width: int) -> npt.NDArray[Any]:
    if isinstance(ranges, Ranges):
        given: npt.NDArray[Any] = ranges.array
    else:
        given = numpy_array(ranges)
    if given.shape != (2, width):
        raise InputError(
            f"ranges have shape {given.shape}, expected (2, {width})",
            "the first row is the smallest value of each dimension, the second the largest",
        )
    if not isinstance(ranges, Ranges):
        if not np.issubdtype(given.dtype, np.number):
            raise InputError(f"ranges are {given.dtype}, expected numbers", "give what calibration returned")
        require_ordered(given[0], given[1])
    return given


def _width(width: int, dimension: int | None) -> int:
    """Dimensions that so many bytes hold."""
    if dimension is None:
        return 8 * width
    if -(-dimension // 8) != width or dimension < 0:
        raise InputError(
            f"{width} bytes hold {max(0, 8 * width - 7)} to {8 * width} dimensions, not {dimension}",
            "give the dimension that the embeddings had",
        )
    return dimension


def _float_array(embeddings: Any) -> npt.NDArray[Any]:
    """The embeddings as (N, E), (E,) or, for none, (0,) floats; no copy of an array."""
    values = _stacked(embeddings) if isinstance(embeddings, Sequence) else numpy_array(embeddings)
    if values.dtype in (np.int8, np.uint8):
        raise InputError(
            f"expected float embeddings of shape (N, E), got {values.dtype}: these are codes already",
            "quantise what encode() returned with precision='float32', once",
        )
    if values.ndim not in (1, 2) or not np.issubdtype(values.dtype, np.floating):
        raise InputError(
            f"expected float embeddings of shape (N, E), got {values.dtype} of shape {values.shape}",
            "give what encode() returned with precision='float32'",
        )
    return values


def _stacked(rows: Sequence[Any]) -> npt.NDArray[Any]:
    if isinstance(rows, str) or not len(rows):
        return np.asarray(rows)
    try:
        return np.stack([numpy_array(row) for row in rows])
    except ValueError as error:
        raise InputError(
            f"expected float embeddings of shape (N, E), got rows that differ in shape: {error}",
            "encode all with the same model and the same truncate_dim",
        ) from error
