"""A corpus cut into chunks of rows: what is encoded in one call. Where it is cut depends on the numbers of the rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from stopt.scale.crew import Texts
from stopt.scale.job import EncodeJob
from stopt.scale.rows import read_rows
from stopt.scale.sources import Columns, InputFile, InputFormat, Problem, Reading, Row

__all__ = ["Chunk", "Corpus", "IdType"]

IdType = type[int] | type[str] | None


class Chunk(NamedTuple):
    """Rows that are encoded in one call.

    Attributes:
        shard: Number of the shard that they belong to.
        first: Number of the first, from 0.
        rows: The rows, each with the file that it is in.
    """

    shard: int
    first: int
    rows: Sequence[tuple[InputFile, Row]]

    def texts(self) -> Texts:
        """The texts of those that have one."""
        numbered = [
            (row.text, number)
            for number, (_, row) in enumerate(self.rows, self.first)
            if row.text is not None
        ]
        return Texts([text for text, _ in numbered], [number for _, number in numbered])

    def digest(self, into: Any) -> None:
        """Hash what was read, so that it is known again."""
        for _, row in self.rows:
            into.update(
                repr((row.id, row.text, row.problem and row.problem.reason)).encode("utf-8", "surrogatepass")
            )


class Corpus:
    """The rows of several files, one after the other.

    Args:
        files: The files.
        columns: Which members are read.
    """

    def __init__(self, files: Sequence[InputFile], columns: Columns) -> None:
        self._files, self._columns = files, columns
        self._total = sum(file.size_bytes for file in files)
        self._at: tuple[int, InputFile, Reading, Row] | None = None
        self.id_type: IdType = None

    @property
    def share(self) -> float:
        """Share of the input that has been read; 0 where its size is not known."""
        if self._at is None or not self._total:
            return 0.0
        before, file, reading, row = self._at
        return min(1.0, (before + _bytes_read(file, reading, row)) / self._total)

    def chunks(self, job: EncodeJob, *, needs_all: bool = False) -> Iterator[Chunk]:
        """Cut the rows into chunks; where codes depend on all texts, into one; of no row, one without any."""
        chunk_size = shard_size = 2**62
        if not needs_all:
            shard_size, chunk_size = job.shard_size, min(job.chunk_size, job.shard_size)
        rows: list[tuple[InputFile, Row]] = []
        first = number = 0
        for each in self._rows():
            rows.append(each)
            number += 1
            if number % shard_size == 0 or (number % shard_size) % chunk_size == 0:
                yield Chunk(first // shard_size, first, rows)
                rows, first = [], number
        if rows or not number:
            yield Chunk(first // shard_size, first, rows)

    def _rows(self) -> Iterator[tuple[InputFile, Row]]:
        before = 0
        for file in self._files:
            reading = Reading()
            for row in read_rows(file, self._columns, reading=reading):
                self._at = before, file, reading, row
                yield file, self._checked(row)
            before += file.size_bytes

    def _checked(self, row: Row) -> Row:
        """The row, if its id is of the same type as the first one's."""
        if row.id is None:
            return row
        if self.id_type is None:
            self.id_type = str if isinstance(row.id, str) else int
        if isinstance(row.id, self.id_type):
            return row
        problem = Problem(
            f"has the id {row.id!r}, where others are {_TYPES[self.id_type]}", "give all ids one type"
        )
        return row._replace(id=None, text=None, problem=problem)


_TYPES = {int: "numbers", str: "texts"}


def _bytes_read(file: InputFile, reading: Reading, row: Row) -> float:
    if file.is_compressed:
        return reading.done_bytes
    return reading.bytes_per_row * row.end if file.format is InputFormat.PARQUET else row.end
