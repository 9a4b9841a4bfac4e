"""A strict reader of protocol buffers: what a lenient parser would make the best of is refused.

Two readers of one file must not see two models. So unknown fields, groups, wrong wire types and second values of what has
one are errors here, and every field counts against a budget. Values are skipped, not read: weights stay on the disk.
Source: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from stopt.errors import CorruptModel, ResourceLimitError

__all__ = ["BYTES", "FIXED32", "FIXED64", "INTEGER", "Buffer", "Reader", "Rule", "Span"]

INTEGER, FIXED64, BYTES, FIXED32 = (
    1 << 0,
    1 << 1,
    1 << 2,
    1 << 5,
)  # wire types, as a set that a field may have
Buffer = memoryview
Span = tuple[int, int]  # first byte of a value and the byte after it; of an integer its value and 0

# of one file; MiniLM's graph has 12,000, that of a language model with 100 layers about a million
MAX_FIELDS = 4_000_000


class Rule(NamedTuple):
    """What a message may have in a field: the wire types, and whether more than once."""

    kinds: int
    repeated: bool = False


class Reader:
    """The fields of a file's messages.

    Args:
        data: The file.
        name: What to call it in messages.
    """

    def __init__(self, data: Buffer, name: str) -> None:
        self.data = data
        self.name = name
        self._left = MAX_FIELDS

    def fields(self, message: str, rules: Mapping[int, Rule], start: int, end: int) -> dict[int, list[Span]]:
        """Find the fields of a message.

        Args:
            message: Its type, for messages.
            rules: What it may have, by field number.
            start: Its first byte.
            end: The byte after it.

        Returns:
            By field number the places of the values in the file, in order; of integers the values themselves.

        Raises:
            CorruptModel: If the bytes are not such a message.
            ResourceLimitError: If the file has more fields than any model.
        """
        data, found = self.data, dict[int, list[Span]]()
        position = start
        while position < end:
            self._left -= 1
            key = data[position]
            position += 1
            if key >= 0x80:
                key, position = self._integer(position - 1, end)
            number, kind = key >> 3, key & 7
            rule = rules.get(number)
            if rule is None or not rule.kinds >> kind & 1:
                raise self._odd(message, number, kind, rule)
            if kind == 0:
                value, position = self._integer(position, end)
                span = (value, 0)
            else:
                span = self._bytes(position, kind, end)
                position = span[1]
            if position > end:
                raise CorruptModel(
                    f"{self.name} is cut short: field {number} of its {message} ends behind it", _AGAIN
                )
            values = found.get(number)
            if values is None:
                found[number] = [span]
            elif rule.repeated:
                values.append(span)
            else:
                raise CorruptModel(f"{self.name} has two values for field {number} of its {message}", _AGAIN)
        if self._left < 0:
            raise ResourceLimitError(f"{self.name} has more than {MAX_FIELDS:,} fields", _LARGE)
        return found

    def text(self, span: Span) -> str:
        """Read a text; of a long one the beginning.

        Raises:
            CorruptModel: If it is not UTF-8.
        """
        try:
            return str(self.data[span[0] : min(span[1], span[0] + 4096)], "utf-8")
        except UnicodeDecodeError as error:
            raise CorruptModel(f"{self.name} has a text that is not UTF-8", _AGAIN) from error

    def name_of(self, message: Mapping[int, list[Span]], number: int) -> str:
        """Read the text in a field of a message; empty if it is not there."""
        found = message.get(number)
        return self.text(found[0]) if found else ""

    def integers(self, spans: list[Span], most: int) -> tuple[int, ...] | None:
        """Read signed integers, packed or one by one; None if they are more than ``most``."""
        values = list[int]()
        for start, end in spans:
            if end == 0:
                values.append(_signed(start))
                continue
            position = start
            while position < end and len(values) <= most:
                value, position = self._integer(position, end)
                values.append(_signed(value))
        return tuple(values) if len(values) <= most else None

    def _bytes(self, position: int, kind: int, end: int) -> Span:
        """The place of a value of a fixed size, or of one that says its size."""
        if kind != 2:
            return position, position + (8 if kind == 1 else 4)
        size = self.data[position] if position < end else 0x80
        if size < 0x80:
            return position + 1, position + 1 + size
        size, position = self._integer(position, end)
        return position, position + size

    def _integer(self, position: int, end: int) -> tuple[int, int]:
        """Read a number of up to 64 bits; returns it and the position after it."""
        result = 0
        for shift in range(0, 70, 7):
            if position >= end:
                break
            byte = self.data[position]
            position += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                if result >= 1 << 64:
                    break
                return result, position
        raise CorruptModel(f"{self.name} is not an ONNX file, or cut short: a number does not end", _AGAIN)

    def _odd(self, message: str, number: int, kind: int, rule: Rule | None) -> CorruptModel:
        what = "of an unexpected kind" if rule else "that its format does not have"
        return CorruptModel(
            f"{self.name} is not an ONNX file that stopt knows: its {message} has a field {number} (wire type {kind}) {what}",
            _AGAIN,
        )


_AGAIN = "fetch the file again, or export it with `stopt export --force`"
_LARGE = (
    "a model of this size is not for serving; if it is your own, export it again with `stopt export --force`"
)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
