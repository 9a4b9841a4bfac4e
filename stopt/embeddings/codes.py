"""The arithmetic of codes: embeddings to steps and bits, and back, at the speed of memory.

Work goes block by block through the processor's cache into one array, the result, so that nothing else of its size is
ever allocated. Shapes are (N, E); callers have checked them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.errors import InputError, OptionError, suggest
from stopt.runtime.devices import describe_machine

__all__ = [
    "Precision",
    "bits_of",
    "extremes_of",
    "parse_precision",
    "require_finite",
    "signs_of",
    "steps_of",
    "values_of",
]

# values worked on at a time: 1 MiB of float32, the level-2 cache of current server cores
BLOCK = 2**18
# from here on threads gain more than their start costs; beyond so many, memory is the limit
PARALLEL = 2**22
MOST_THREADS = 8


class Precision(StrEnum):
    """How embeddings are stored."""

    FLOAT32 = "float32"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"

    @property
    def dtype(self) -> np.dtype[Any]:
        """What codes are stored as."""
        names = {Precision.BINARY: "int8", Precision.UBINARY: "uint8"}
        return np.dtype(names.get(self, self.value))

    @property
    def is_binary(self) -> bool:
        """Whether a dimension is one bit."""
        return self in (Precision.BINARY, Precision.UBINARY)

    @property
    def has_ranges(self) -> bool:
        """Whether the codes mean something only together with ranges."""
        return self in (Precision.INT8, Precision.UINT8)


def parse_precision(name: str | None) -> Precision:
    """Turn the ``precision`` keyword into the enum; None is float32.

    Raises:
        OptionError: If there is no such precision.
    """
    if name is None:
        return Precision.FLOAT32
    try:
        return Precision(name)
    except ValueError:
        known = [str(precision) for precision in Precision]
        raise OptionError(f"precision {name!r} is not supported", suggest(str(name), known)) from None


def steps_of(
    values: npt.NDArray[Any], precision: Precision, ranges: npt.NDArray[Any], finite: bool
) -> npt.NDArray[Any]:
    """Return the number of the step of its dimension's range that each value is in.

    Args:
        values: (N, E) floats.
        precision: int8 or uint8.
        ranges: (2, E), minima and maxima.
        finite: Whether the values are known to be.

    Raises:
        InputError: If a value is not finite, or a range overflows its dtype.
    """
    lowest, highest = ranges[0], ranges[1]
    with np.errstate(over="ignore"):
        steps = (highest - lowest) / 255
    if not np.isfinite(steps).all():
        raise InputError(
            f"the range of dimension {int(np.argmin(np.isfinite(steps)))} is too wide for {steps.dtype}",
            "quantise float32 embeddings",
        )
    steps = np.where(steps == 0, steps.dtype.type(1), steps)  # a constant dimension
    out = np.empty(values.shape, precision.dtype)
    codes = out.view(np.uint8)

    def fill(start: int, stop: int) -> None:
        scratch = np.empty(0)
        for rows in _blocks(start, stop, values.shape[1]):
            block = values[rows]
            if not finite:
                require_finite(block, rows.start)
            if scratch.shape[0] < len(block):
                scratch = np.empty(block.shape, np.result_type(block, lowest, steps))
            scaled = scratch[: len(block)]
            # dividing rather than multiplying by a reciprocal: the bits depend on it
            with np.errstate(over="ignore"):
                np.divide(np.subtract(block, lowest, out=scaled), steps, out=scaled)
            # clipped first, the cast's rounding towards zero is the floor
            np.clip(scaled, 0, 255, out=scaled)
            np.copyto(codes[rows], scaled, casting="unsafe")
            np.bitwise_xor(codes[rows], _flip(precision), out=codes[rows])

    _in_parts(values.shape, fill)
    return out


def extremes_of(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (2, E), the smallest and the largest value of each dimension of (N, E), N being at least one.

    A dimension that has NaN in it has NaN for both.
    """
    found: list[npt.NDArray[Any]] = []

    def look(start: int, stop: int) -> None:
        for rows in _blocks(start, stop, values.shape[1]):
            block = values[rows]
            found.append(np.stack((block.min(axis=0), block.max(axis=0))))

    _in_parts(values.shape, look)
    together = np.stack(found)
    return np.stack((together[:, 0].min(axis=0), together[:, 1].max(axis=0)))


def require_finite(values: npt.NDArray[Any], first: int = 0) -> None:
    """Make sure that (N, E) values have codes; ``first`` is the number of the first row.

    Raises:
        InputError: If one is NaN or infinity; says in which row.
    """
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argmin(finite.all(axis=1)))
        raise InputError(
            f"embedding {first + row} has NaN or infinity in it, for which there is no code",
            "find out where it comes from: stopt check compares a model with torch",
            index=first + row,
        )


def bits_of(values: npt.NDArray[Any], precision: Precision) -> npt.NDArray[Any]:
    """Pack one bit per value, set where it is above zero: (N, E) floats to (N, ceil(E / 8)) bytes."""
    out = np.empty((len(values), -(-values.shape[1] // 8)), precision.dtype)
    codes = out.view(np.uint8)

    def fill(start: int, stop: int) -> None:
        for rows in _blocks(start, stop, values.shape[1]):
            np.bitwise_xor(np.packbits(values[rows] > 0, axis=-1), _flip(precision), out=codes[rows])

    _in_parts(values.shape, fill)
    return out


def values_of(
    codes: npt.NDArray[Any], precision: Precision, scale: npt.NDArray[Any], offset: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """Turn numbers of steps into values, ``number * scale + offset``: (N, E) int8 or uint8 to float32."""
    out = np.empty(codes.shape, np.float32)

    def fill(start: int, stop: int) -> None:
        for rows in _blocks(start, stop, codes.shape[1]):
            # int8's numbers without its minus 128 first, so that both give the same bits
            np.multiply(codes[rows].view(np.uint8) ^ _flip(precision), scale, out=out[rows])
            np.add(out[rows], offset, out=out[rows])

    _in_parts(codes.shape, fill)
    return out


def signs_of(codes: npt.NDArray[Any], precision: Precision, width: int) -> npt.NDArray[np.float32]:
    """Turn bits into -1 and 1: (N, ceil(E / 8)) bytes to (N, E) float32, E being ``width``."""
    out = np.empty((len(codes), width), np.float32)

    def fill(start: int, stop: int) -> None:
        for rows in _blocks(start, stop, width):
            bits = np.unpackbits(codes[rows].view(np.uint8) ^ _flip(precision), axis=-1, count=width)
            np.multiply(bits, 2, out=out[rows], dtype=np.float32)
            np.subtract(out[rows], 1, out=out[rows])

    _in_parts(out.shape, fill)
    return out


def _flip(precision: Precision) -> np.uint8:
    """What signed codes differ by from unsigned ones: minus 128 is the highest bit the other way."""
    return np.uint8(0x80 if precision.dtype == np.int8 else 0)


def _blocks(start: int, stop: int, width: int) -> Iterator[slice]:
    size = max(1, BLOCK // max(1, width))
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


def _in_parts(shape: tuple[int, ...], fill: Callable[[int, int], None]) -> None:
    """Let threads fill a part of the rows each; numpy lets go of the interpreter while it computes."""
    threads = min(_threads(), MOST_THREADS) if shape[0] * shape[1] >= PARALLEL else 1
    if threads == 1:
        fill(0, shape[0])
        return
    edges = [shape[0] * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, edges[:-1], edges[1:]))


@cache
def _threads() -> int:
    return describe_machine().threads
