"""What goes through the pipe between a pool and a worker: a tag, and one pickled value.

Large arrays travel beside the pickle, so that they are copied neither into it nor out of it. Pickles are exchanged only
with processes that the pool has started itself. Errors travel as text: not every exception survives pickling, and some
bring a whole model along.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import traceback
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from stopt import errors
from stopt.errors import StoptError

__all__ = ["Parts", "Report", "Stream", "Tag", "pack", "read", "unpack", "write"]

Tag = tuple[int, int]  # number of the call, number of the chunk in it
Parts = Sequence[bytes | bytearray | memoryview]

_HEAD = struct.Struct("<qqI")
_SIZE = struct.Struct("<Q")
_LONGEST_TEXT = 20_000  # characters of an error's text or traceback


class Stream(Protocol):
    """An unbuffered end of a pipe."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read what is there, at least a byte; 0 at the end."""

    def write(self, data: memoryview, /) -> int | None:
        """Write what there is room for."""


def _read_only(values: dict[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(values)


# the read-only mappings in specs have no pickling of their own; others may be registered later, as torch's are
_REDUCERS: Mapping[type, Any] = ChainMap(
    {MappingProxyType: lambda proxy: (_read_only, (dict(proxy),))}, copyreg.dispatch_table
)


def pack(value: Any) -> Parts:
    """Pickle a value; its arrays follow as they are. Raises whatever the value's own pickling raises."""
    file, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    pickler = pickle.Pickler(file, 5, buffer_callback=buffers.append)
    pickler.dispatch_table = _REDUCERS
    pickler.dump(value)
    return [file.getbuffer(), *(buffer.raw() for buffer in buffers)]


def unpack(parts: Parts) -> Any:
    """Turn :func:`pack`'s parts into the value; arrays keep the parts' memory."""
    return pickle.loads(parts[0], buffers=parts[1:])


def write(stream: Stream, tag: Tag, parts: Parts) -> None:
    """Send a message.

    Raises:
        OSError: If nobody is there to read it.
    """
    sizes = (_SIZE.pack(memoryview(part).nbytes) for part in parts)
    for data in (_HEAD.pack(*tag, len(parts)) + b"".join(sizes), *parts):
        rest = memoryview(data).cast("B")
        while len(rest):
            rest = rest[stream.write(rest) or 0 :]


def read(stream: Stream) -> tuple[Tag, Parts]:
    """Receive a message.

    Raises:
        EOFError: If the other side is gone.
    """
    call, chunk, count = _HEAD.unpack(_exactly(stream, _HEAD.size))
    sizes = [size for (size,) in _SIZE.iter_unpack(_exactly(stream, count * _SIZE.size))]
    return (call, chunk), [_exactly(stream, size) for size in sizes]


def _exactly(stream: Stream, size: int) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while len(rest):
        count = stream.readinto(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return data


@dataclass(frozen=True, slots=True)
class Report:
    """An exception as text.

    Attributes:
        name: Name of its class.
        text: Its message.
        details: The traceback.
        attributes: Of one of stopt's own errors, what it carries; None for any other exception.
    """

    name: str
    text: str
    details: str = ""
    attributes: Mapping[str, Any] | None = field(default=None)

    @classmethod
    def of(cls, error: BaseException) -> Report:
        """Describe an exception, whatever its class does when it is asked for its text."""
        name = type(error).__name__
        try:
            text, details = str(error), "".join(traceback.format_exception(error))
        except BaseException:
            text, details = "(its text cannot be had)", ""
        if not isinstance(error, StoptError) or name not in errors.__all__:
            return cls(name, text[:_LONGEST_TEXT], details[-_LONGEST_TEXT:])
        plain = {key: value for key, value in vars(error).items() if _is_plain(value)}
        return cls(name, error.message[:_LONGEST_TEXT], details[-_LONGEST_TEXT:], plain)

    def known(self) -> StoptError | None:
        """One of stopt's own errors again, with what it carried; None for any other exception."""
        if self.attributes is None:
            return None
        kind = getattr(errors, self.name)
        error: StoptError = kind.__new__(kind, self.text)
        vars(error).update({"message": self.text, "hint": "", **self.attributes})
        return error


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | None) or (
        isinstance(value, tuple) and all(isinstance(each, str | int | float | None) for each in value)
    )
