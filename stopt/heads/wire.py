"""Just enough of protocol buffers to add nodes to an ONNX file without parsing its weights.

A message is a row of fields, each a key (number and wire type) and a value; a nested message is a field of bytes. So an
ONNX graph can be cut at the borders of its fields and put together anew, whatever else is in it.
Source: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Field", "fields", "integer", "message", "read_integer", "text"]

_VARINT, _BYTES = 0, 2
_MORE, _SEVEN_BITS = 0x80, 0x7F


class Field(NamedTuple):
    """Where a field lies in its message: key included from ``start``, the value alone from ``value``, up to ``end``."""

    number: int
    start: int
    value: int
    end: int


def fields(data: memoryview, start: int = 0, end: int | None = None) -> Iterator[Field]:
    """Walk over the fields of a message; values are skipped, not read.

    Raises:
        ValueError: If the bytes are not a message.
    """
    end = len(data) if end is None else end
    position = start
    while position < end:
        key, value = read_integer(data, position)
        match key & 7:
            case 0:
                after = read_integer(data, value)[1]
            case 1:
                after = value + 8
            case 2:
                size, value = read_integer(data, value)
                after = value + size
            case 5:
                after = value + 4
            case kind:
                raise ValueError(f"wire type {kind} at byte {position}")
        if after > end:
            raise ValueError(f"field {key >> 3} at byte {position} is cut short")
        yield Field(key >> 3, position, value, after)
        position = after


def read_integer(data: memoryview, position: int) -> tuple[int, int]:
    """Read a varint; returns it and the position after it.

    Raises:
        ValueError: If it does not end.
    """
    result = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        result |= (byte & _SEVEN_BITS) << shift
        if byte < _MORE:
            return result, position
    raise ValueError(f"number at byte {position} does not end")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > _SEVEN_BITS:
        out.append(value & _SEVEN_BITS | _MORE)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    """A field with a number in it; negative ones in two's complement of 64 bits."""
    return _varint(number << 3 | _VARINT) + _varint(value % 2**64)


def message(number: int, *parts: bytes) -> bytes:
    """A field with bytes, or with the fields of a nested message, in it."""
    return _varint(number << 3 | _BYTES) + _varint(sum(map(len, parts))) + b"".join(parts)


def text(number: int, value: str) -> bytes:
    """A field with text in it."""
    return message(number, value.encode())
