"""Embeddings as callers give them to a search: arrays, tensors and lists, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.embeddings.codes import Precision
from stopt.errors import InputError
from stopt.runtime.arrays import numpy_array
from stopt.runtime.modules import NORM_EPSILON

__all__ = [
    "array",
    "lengths",
    "matrix",
    "not_finite",
    "require_codes",
    "require_embeddings",
    "require_same_width",
]


def matrix(values: Any, what: str, *, integers: bool = False) -> npt.NDArray[Any]:
    """Return (N, E) from an array, a tensor or a list of either; (1, E) from (E,).

    Args:
        values: Embeddings.
        what: What they are called in errors: ``query`` or ``corpus``.
        integers: Whether codes, int8 or uint8, are fine, too.

    Raises:
        InputError: If they are something else.
    """
    found = array(values)
    if found.shape == (0,):  # what encode([]) returns
        return np.empty((0, 0), np.float32)
    found = found[None, :] if found.ndim == 1 else found
    if found.dtype in (np.int8, np.uint8) and found.ndim == 2:
        if integers:
            return found
        raise InputError(
            f"{what} embeddings are {found.dtype}: these are codes already",
            "give what encode() returned with precision='float32'",
        )
    if found.ndim != 2 or not np.issubdtype(found.dtype, np.floating):
        raise InputError(
            f"expected {what} embeddings of shape (N, E), got {found.dtype} of shape {found.shape}",
            "give what encode() returned",
        )
    return found.astype(np.float32) if found.dtype == np.float16 else found


def array(values: Any) -> npt.NDArray[Any]:
    """Return an array, a tensor or a list of either as an array; no copy of an array."""
    if isinstance(values, list | tuple) and values:
        return np.stack([array(value) for value in values])
    found: npt.NDArray[Any] = numpy_array(values)
    return found


def lengths(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the (N,) lengths of (N, E) vectors, a little more than nothing for zeros."""
    squares: npt.NDArray[Any] = np.einsum("ij,ij->i", values, values)
    found: npt.NDArray[Any] = np.maximum(np.sqrt(squares), NORM_EPSILON)
    return found


def require_codes(values: npt.NDArray[Any], precision: Precision, what: str) -> None:
    """Make sure that codes are of a precision.

    Raises:
        InputError: If they are not.
    """
    if precision is Precision.FLOAT32 or values.dtype != precision.dtype:
        raise InputError(
            f"{what} embeddings are {values.dtype}, but the precision is {precision.value}",
            "give the corpus_precision that they were quantised with, or floats",
        )


def require_same_width(first: int, second: int, what: str = "queries", unit: str = "") -> None:
    """Make sure that ``first`` and ``second``, where there are any, are the same.

    Raises:
        InputError: If they are not.
    """
    if first != second and first and second:
        raise InputError(
            f"{what} of {first}{unit or ' dimensions'} do not fit a corpus of {second}{unit}",
            "encode both with the same model and the same truncate_dim",
        )


def require_embeddings(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.float32]:
    """Return (N, E) floats as contiguous float32.

    Raises:
        InputError: If one has NaN or infinity; says which.
    """
    finite = np.isfinite(values)
    if not finite.all():
        raise not_finite(what, int(np.argmin(finite.all(axis=1))))
    return np.ascontiguousarray(values, np.float32)


def not_finite(what: str, row: int) -> InputError:
    """The error of an embedding that has NaN or infinity in it."""
    return InputError(
        f"{what} embedding {row} has NaN or infinity in it",
        "find out where it comes from: stopt check compares a model with torch",
        index=row,
    )
