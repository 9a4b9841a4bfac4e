"""Where a corpus comes from: files of several formats, read row by row, each row with the place it came from.

A row that has no usable text is a row nevertheless, with the reason: whether that ends the job is not decided here. Empty
texts and NUL are texts like any other; what is not Unicode is none.
"""

from __future__ import annotations

import glob
import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, NamedTuple

from stopt.errors import OptionError, SourceError

__all__ = [
    "STDIN",
    "Columns",
    "InputFile",
    "InputFormat",
    "Problem",
    "Reading",
    "Row",
    "find_inputs",
    "opened",
]

STDIN = Path("-")


class InputFormat(StrEnum):
    """How the rows of a file are written."""

    LINES = "txt"
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


_ENDINGS = {
    ".txt": InputFormat.LINES,
    ".jsonl": InputFormat.JSONL,
    ".ndjson": InputFormat.JSONL,
    ".csv": InputFormat.CSV,
    ".tsv": InputFormat.TSV,
    ".parquet": InputFormat.PARQUET,
}


@dataclass(frozen=True, slots=True)
class Columns:
    """Which members of a row are read.

    Attributes:
        text: Name of the column with the text, or of two with a comma for pairs; empty is ``text``, and for pairs the
            names that data sets usually have.
        id: Name of the column with the row's id; None numbers the rows.
        pairs: Whether a row has two texts.
    """

    text: str = ""
    id: str | None = None
    pairs: bool = False


class Problem(NamedTuple):
    """Why a row has no usable text, and what to do about it."""

    reason: str
    hint: str


class Row(NamedTuple):
    """One row of a file.

    Attributes:
        line: Number of its line, from 1; of a Parquet file, number of the row.
        end: Where the next row begins: bytes from the start of the (decompressed) file, or rows.
        id: Its id; None if rows are numbered.
        text: The text, or the two; None if there is a problem.
        problem: What is wrong with it.
    """

    line: int
    end: int
    id: int | str | None
    text: str | tuple[str, str] | None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of a corpus.

    Attributes:
        path: The file; :data:`STDIN` is standard input.
        format: How its rows are written.
        size_bytes: Its size; of standard input 0.
        name: What it is called in messages: as it was given.
    """

    path: Path
    format: InputFormat
    size_bytes: int
    name: str

    @property
    def is_compressed(self) -> bool:
        """Whether it is gzip."""
        return self.path.suffix == ".gz"


@dataclass(slots=True)
class Reading:
    """How far a file has been read, for progress.

    Attributes:
        done_bytes: Of a compressed file: bytes on the disk.
        bytes_per_row: Of a Parquet file: bytes on the disk, on average.
    """

    done_bytes: int = 0
    bytes_per_row: float = 0.0


def find_inputs(given: Sequence[str | Path], *, jsonl: bool = False) -> list[InputFile]:
    """Find the files that a corpus consists of.

    Args:
        given: Files, patterns such as ``data/*.jsonl``, folders (their files of known formats), or ``-``.
        jsonl: Whether files that do not tell by their name are JSONL, and not one text per line.

    Returns:
        The files: as given, those of a pattern or folder by name.

    Raises:
        SourceError: If one is not there, or nothing fits a pattern.
        OptionError: If standard input is given beside files.
    """
    texts = [str(each) for each in given] or ["-"]
    if "-" in texts and len(texts) > 1:
        raise OptionError("standard input is given beside files", "give one of the two")
    found = [
        InputFile(path, _format(path, jsonl), _size(path), "stdin" if path == STDIN else str(path))
        for text in texts
        for path in _matching(text)
    ]
    seen = set[InputFile]()
    for each in found:
        if each in seen:
            raise OptionError(f"{each.path} is given twice", "give every file once")
        seen.add(each)
    return found


def _matching(text: str) -> list[Path]:
    """The files that an argument stands for."""
    path = Path(text)
    if path == STDIN or path.is_file():
        return [path]
    if path.is_dir():
        found = [each for each in sorted(path.iterdir()) if each.is_file() and _ending(each) in _ENDINGS]
        found = [each for each in found if not each.name.startswith((".", "_"))]
        if not found:
            raise SourceError(
                f"the folder {path} has no file of a format that is read", f"known: {', '.join(_ENDINGS)}"
            )
        return found
    if not glob.has_magic(text):
        if path.exists():  # a pipe, such as the shell's <(...)
            return [path]
        raise SourceError(f"{path} cannot be read: No such file or directory", "name a text file")
    found = [Path(each) for each in sorted(glob.glob(text, recursive=True)) if Path(each).is_file()]  # noqa: PTH207
    if not found:
        raise SourceError(f"no file fits {text!r}", "check the folder; ** reaches into folders")
    return found


def _ending(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _format(path: Path, jsonl: bool) -> InputFormat:
    known = _ENDINGS.get(_ending(path))
    if jsonl and known in (None, InputFormat.LINES):
        return InputFormat.JSONL
    return known or InputFormat.LINES


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def opened(file: InputFile, reading: Reading) -> Iterator[IO[bytes]]:
    """Open a file's bytes, decompressed; errors while it is read are named.

    Raises:
        SourceError: If it cannot be read, or is cut short.
    """
    try:
        if file.path == STDIN:
            yield sys.stdin.buffer
        elif file.is_compressed:
            with file.path.open("rb") as raw, gzip.GzipFile(fileobj=_Counted(raw, reading)) as stream:
                yield io.BufferedReader(stream)
        else:
            with file.path.open("rb") as raw:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"{file.name} is not a whole gzip file: {error}", "fetch it again") from error
    except OSError as error:
        raise SourceError(
            f"{file.name} cannot be read: {error.strerror or error}", "name a text file"
        ) from error


class _Counted(io.RawIOBase):
    """A compressed file that says how far it has been read."""

    def __init__(self, raw: IO[bytes], reading: Reading) -> None:
        self._raw, self._reading = raw, reading

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self._reading.done_bytes += len(data)
        return data

    def seek(self, place: int, whence: int = 0) -> int:
        return self._raw.seek(place, whence)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


_SURROGATE = re.compile("[\ud800-\udfff]")


def unicode_problem(text: str) -> Problem | None:
    """Say why a text is not valid Unicode; None if it is."""
    if text.isascii() or not (found := _SURROGATE.search(text)):
        return None
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that the decoder passed on
        return Problem(
            f"is not UTF-8 text: byte 0x{code - 0xDC00:02x} at character {found.start()}",
            "convert it: iconv -t utf-8",
        )
    return Problem(
        f"has a lone surrogate, U+{code:04X} at character {found.start()}: not valid Unicode",
        "decode it properly where it comes from, or replace it: text.encode('utf-8', 'replace').decode()",
    )
