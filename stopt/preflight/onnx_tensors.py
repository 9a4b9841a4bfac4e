"""The tensors of an .onnx file: that their data are where they may be, and as many as their shapes say."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

from stopt.errors import CorruptModel, ResourceLimitError, UntrustedModel
from stopt.preflight.places import data_file, whole_number
from stopt.preflight.protobuf import BYTES, FIXED32, FIXED64, INTEGER, Reader, Rule, Span
from stopt.preflight.sizes import Constant

__all__ = ["AGAIN", "HINT", "PAIR", "Tensors"]

MAX_DIMENSIONS = 32
MAX_DIMENSION = 1 << 31
SMALL = 64  # integers of a constant that are looked at: a shape has a handful

HINT = (
    "do not use this model unless you trust its source; `stopt export` makes a file of the original weights"
)
AGAIN = "fetch the file again, or export it with `stopt export --force`"

_WORD, _TEXT, _WORDS, _TEXTS = Rule(INTEGER), Rule(BYTES), Rule(INTEGER | BYTES, True), Rule(BYTES, True)
_TENSOR = {1: _WORDS, 2: _WORD, 3: _TEXT, 4: Rule(FIXED32 | BYTES, True), 5: _WORDS, 6: _TEXTS, 7: _WORDS}
_TENSOR |= {8: _TEXT, 9: _TEXT, 10: Rule(FIXED64 | BYTES, True), 11: _WORDS, 12: _TEXT, 13: _TEXTS}
_TENSOR |= {14: _WORD, 16: _TEXTS}
_SPARSE = {1: _TEXT, 2: _TEXT, 3: _WORDS}
PAIR = {1: _TEXT, 2: _TEXT}

# bits of an element by TensorProto's data type; a text has none of its own
_BITS = {
    1: 32,
    2: 8,
    3: 8,
    4: 16,
    5: 16,
    6: 32,
    7: 64,
    8: 0,
    9: 8,
    10: 16,
    11: 64,
    12: 32,
    13: 64,
    14: 64,
    15: 128,
}
_BITS |= {16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}
_INT32, _INT64, _STRING = 6, 7, 8
_DATA_FIELDS = (4, 5, 7, 10, 11)
_EXTERNAL_KEYS = {"location", "offset", "length", "checksum", "basepath"}


class Tensors:
    """What checks the tensors of one file.

    Args:
        file: The file.
        reader: Its fields.
        size: Its bytes.

    Attributes:
        sizes: Its data files by name, with their bytes.
        dense: Elements of sparse tensors, which an engine makes dense.
    """

    def __init__(self, file: Path, reader: Reader, size: int) -> None:
        self._file, self._reader, self._size = file, reader, size
        self.sizes: dict[str, int] = {}
        self.dense = 0

    def sparse(self, span: Span) -> None:
        """Check a sparse tensor: its values, its indices, and what it becomes when made dense."""
        sparse = self._reader.fields("sparse tensor", _SPARSE, *span)
        shape = self.shape(sparse.get(3, []), "a sparse tensor")
        stored = sum(self.tensor(each)[1].elements for number in (1, 2) for each in sparse.get(number, ()))
        # an engine makes it dense
        self.dense += prod(shape)
        if stored > self._size:
            raise CorruptModel(f"{self._file} has a sparse tensor that is not all there", AGAIN)

    def tensor(self, span: Span) -> tuple[str, Constant]:
        """Check one tensor: its data are where they may be, and as many as its shape says."""
        tensor = self._reader.fields("tensor", _TENSOR, *span)
        name = self._reader.name_of(tensor, 8)
        shape = self.shape(tensor.get(1, []), name)
        kind = tensor[2][0][0] if 2 in tensor else 0
        elements = prod(shape)
        if kind not in _BITS or 3 in tensor:
            raise CorruptModel(f"{self._file}: tensor {name!r:.100} is of no type that stopt knows", AGAIN)
        external = 14 in tensor and tensor[14][0][0] == 1
        if external != (13 in tensor) or (
            external and any(number in tensor for number in (9, *_DATA_FIELDS))
        ):
            raise CorruptModel(
                f"{self._file}: tensor {name!r:.100} has its data in two places, or none", AGAIN
            )
        needed = -(-elements * _BITS[kind] // 8)
        if external:
            self._external(tensor[13], name, needed)
        elif 9 in tensor:
            start, end = tensor[9][0]
            if end - start != needed or kind == _STRING or any(number in tensor for number in _DATA_FIELDS):
                raise self._short(name, shape, end - start)
        elif kind == _STRING:
            if len(tensor.get(6, ())) != elements:
                raise self._short(name, shape, len(tensor.get(6, ())))
        else:
            stored = sum(
                (end - start) if end else 1
                for number in _DATA_FIELDS
                for start, end in tensor.get(number, ())
            )
            # at least a byte holds an element, or two of four bits, or four of two
            if elements > stored * max(1, 8 // _BITS[kind]):
                raise self._short(name, shape, stored)
        return name, Constant(shape, elements, self._integers(tensor, kind, elements))

    def _integers(self, tensor: dict[int, list[Span]], kind: int, elements: int) -> tuple[int, ...] | None:
        """The values of a small tensor of integers, if they are in the file."""
        if kind not in (_INT32, _INT64) or elements > SMALL:
            return None
        if 9 in tensor:
            start, end = tensor[9][0]
            data, width = self._reader.data, _BITS[kind] // 8
            return tuple(
                int.from_bytes(data[at : at + width], "little", signed=True)
                for at in range(start, end, width)
            )
        return self._reader.integers(tensor.get(5 if kind == _INT32 else 7, []), SMALL)

    def _external(self, spans: list[Span], name: str, needed: int) -> None:
        """Check where the data of a tensor lie that are not in the file."""
        entries = dict[str, str]()
        for span in spans:
            pair = self._reader.fields("data entry", PAIR, *span)
            key, value = self._reader.name_of(pair, 1), self._reader.name_of(pair, 2)
            if key not in _EXTERNAL_KEYS or key in entries:
                raise UntrustedModel(f"{self._file}: tensor {name!r:.100} has its data by {key!r:.100}", HINT)
            entries[key] = value
        location = entries.get("location", "")
        if location not in self.sizes:
            self.sizes[location] = data_file(self._file, location).st_size
        size = self.sizes[location]
        offset, length = (
            whole_number(entries.get("offset", "0")),
            whole_number(entries.get("length", str(needed))),
        )
        if offset is None or length is None or length != needed or offset + length > size:
            said = f"offset {entries.get('offset', '0')!r:.40}, length {entries.get('length', 'none')!r:.40}"
            raise CorruptModel(
                f"{self._file}: tensor {name!r:.100} needs {needed:,} bytes of {location!r:.200}, which has {size:,} ({said})",
                "fetch both files again",
            )

    def shape(self, spans: list[Span], name: str) -> tuple[int, ...]:
        """Read a shape.

        Raises:
            ResourceLimitError: If it has more axes, or longer ones, than any model.
        """
        shape = self._reader.integers(spans, MAX_DIMENSIONS)
        if shape is None or any(not 0 <= size <= MAX_DIMENSION for size in shape):
            raise ResourceLimitError(
                f"{self._file}: {name!r:.100} has the shape {'x'.join(map(str, shape or ()))[:80] or 'of too many axes'}",
                HINT,
            )
        return shape

    def _short(self, name: str, shape: Sequence[int], stored: int) -> CorruptModel:
        return CorruptModel(
            f"{self._file}: tensor {name!r:.100} of shape {'x'.join(map(str, shape)) or 'one'} has {stored:,} bytes of data",
            AGAIN,
        )
