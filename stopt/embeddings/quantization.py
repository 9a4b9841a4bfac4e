"""Embeddings in fewer bytes: int8 and binary codes, bit for bit as sentence-transformers 5.7 makes them.

``tests/test_quantization.py`` compares the bits with it live.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from stopt.errors import InputError, OptionError, StoptWarning, suggest

__all__ = ["Precision", "parse_precision", "quantize_embeddings"]

# sentence-transformers warns below this many embeddings, too
FEW = 100


class Precision(StrEnum):
    """How embeddings are stored."""

    FLOAT32 = "float32"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"


def parse_precision(name: str | None) -> Precision:
    """Turn the ``precision`` keyword into the enum; None is float32.

    Raises:
        OptionError: If there is no such precision.
    """
    known = [str(precision) for precision in Precision]
    if name is not None and name not in known:
        raise OptionError(f"precision {name!r} is not supported", suggest(str(name), known))
    return Precision(name or "float32")


def quantize_embeddings(
    embeddings: Any,
    precision: str,
    ranges: npt.NDArray[Any] | None = None,
    calibration_embeddings: Any = None,
) -> npt.NDArray[Any]:
    """Quantise embeddings.

    Args:
        embeddings: (N, E) floats: an array, a tensor, or a list of rows.
        precision: ``float32``, ``int8``, ``uint8``, ``binary`` or ``ubinary``.
        ranges: (2, E), for int8 and uint8: the smallest and largest value of each dimension.
        calibration_embeddings: (M, E), to take them from; without either they are those of ``embeddings``.

    Returns:
        (N, E) int8 or uint8, each dimension's range in 256 equal steps, values beyond it clipped; or (N, ceil(E / 8))
        int8 or uint8, one bit per dimension, set where it is above zero, most significant first (``binary`` is
        ``ubinary`` minus 128); or (N, E) float32.

    Raises:
        OptionError: If the precision is unknown.
        InputError: If the embeddings are not (N, E) floats, or the ranges do not fit them.
    """
    chosen = parse_precision(precision)
    values = _floats(embeddings)
    match chosen:
        case Precision.FLOAT32:
            return values.astype(np.float32)
        case Precision.INT8 | Precision.UINT8:
            codes = _codes(values, _ranges(values, chosen, ranges, calibration_embeddings))
            return codes if chosen is Precision.UINT8 else (codes ^ np.uint8(0x80)).view(np.int8)
        case Precision.BINARY:
            return (np.packbits(values > 0, axis=-1) ^ np.uint8(0x80)).view(np.int8)
        case Precision.UBINARY:
            return np.packbits(values > 0, axis=-1)
        case _:
            assert_never(chosen)


def _codes(values: npt.NDArray[Any], ranges: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Number of the step of its dimension's range that each value is in."""
    lowest, highest = ranges[0], ranges[1]
    steps = (highest - lowest) / 255
    steps = np.where(steps == 0, steps.dtype.type(1), steps)  # a constant dimension
    scaled = (values - lowest) / steps
    # in place, and dividing rather than multiplying by a reciprocal: the bits depend on it
    np.floor(scaled, out=scaled)
    np.clip(scaled, 0, 255, out=scaled)
    codes: npt.NDArray[np.uint8] = scaled.astype(np.uint8)
    return codes


def _ranges(
    values: npt.NDArray[Any], precision: Precision, ranges: npt.NDArray[Any] | None, calibration: Any
) -> npt.NDArray[Any]:
    if ranges is not None:
        given = np.asarray(ranges)
        if given.shape != (2, values.shape[1]):
            raise InputError(
                f"ranges have shape {given.shape}, expected (2, {values.shape[1]})",
                "the first row is the smallest value of each dimension, the second the largest",
            )
        return given
    source = values if calibration is None else _floats(calibration)
    if len(source) == 0 or source.shape[1] != values.shape[1]:
        raise InputError(
            f"ranges cannot be taken from embeddings of shape {source.shape}, expected (M, {values.shape[1]})",
            "calibrate with embeddings of the same model",
        )
    if calibration is None and len(values) < FEW:
        warnings.warn(
            f"{precision.value} ranges come from only {len(values)} embedding(s), and codes of separate calls cannot "
            "be compared: pass `ranges`, or `calibration_embeddings` of a few hundred typical texts",
            StoptWarning,
            stacklevel=3,
        )
    return np.vstack((np.min(source, axis=0), np.max(source, axis=0)))


def _floats(embeddings: Any) -> npt.NDArray[Any]:
    """The embeddings as a matrix of floats; no copy of an array."""
    if isinstance(embeddings, Sequence) and not isinstance(embeddings, str) and len(embeddings):
        values = np.stack([_numpy(row) for row in embeddings])
    else:
        values = _numpy(embeddings)
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.floating):
        raise InputError(
            f"expected float embeddings of shape (N, E), got {values.dtype} of shape {values.shape}",
            "embeddings are quantised once, from what encode() returned with precision='float32'",
        )
    return values


def _numpy(values: Any) -> npt.NDArray[Any]:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
    return np.asarray(values)
