"""A corpus cut into chunks of rows: what is encoded in one call. Where it is cut depends on the numbers of the rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from stopt.scale.crew import Texts
from stopt.scale.job import EncodeJob
from stopt.scale.rows import Start, read_rows
from stopt.scale.sources import Columns, InputFile, InputFormat, Problem, Reading, Row

__all__ = ["Chunk", "Corpus", "IdType", "Place"]

IdType = type[int] | type[str] | None


class Place(NamedTuple):
    """A place in a corpus, between two rows.

    Attributes:
        number: Rows before it.
        file: Which of the files it is in.
        start: Where in the file.
    """

    number: int = 0
    file: int = 0
    start: Start = (0, 0)


class Chunk(NamedTuple):
    """Rows that are encoded in one call.

    Attributes:
        shard: Number of the shard that they belong to.
        place: Where the first begins.
        rows: The rows, each with the file that it is in.
        share: Share of the input that had been read when it was, 0 to 1; 0 where its size is not known.
    """

    shard: int
    place: Place
    rows: Sequence[tuple[InputFile, Row]]
    share: float

    @property
    def first(self) -> int:
        """Number of the first row, from 0."""
        return self.place.number

    @property
    def end(self) -> int:
        """Number of the row behind the last."""
        return self.place.number + len(self.rows)

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
        id_type: Type of the rows' ids; None is the first one's.
        place: Where to begin.
        rows: Rows that are read; None is all.
    """

    def __init__(
        self,
        files: Sequence[InputFile],
        columns: Columns,
        *,
        id_type: IdType = None,
        place: Place = Place(),  # noqa: B008  (immutable)
        rows: int | None = None,
    ) -> None:
        self._files, self._columns = files, columns
        self._place, self._number = place, rows
        self._total = sum(file.size_bytes for file in files)
        self._at: tuple[int, InputFile, Reading, Row] | None = None
        self.id_type = id_type

    @property
    def _share(self) -> float:
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
        place = self._place
        number = place.number
        for index, row in islice(self._rows(), self._number):
            rows.append((self._files[index], row))
            number += 1
            if number % shard_size == 0 or (number % shard_size) % chunk_size == 0:
                yield Chunk(place.number // shard_size, place, rows, self._share)
                rows, place = [], Place(number, index, (row.end, row.line))
        if rows or not number:
            yield Chunk(place.number // shard_size, place, rows, self._share)

    def _rows(self) -> Iterator[tuple[int, Row]]:
        """Rows, each with the number of its file."""
        before = sum(file.size_bytes for file in self._files[: self._place.file])
        for index, file in enumerate(self._files[self._place.file :], self._place.file):
            reading = Reading()
            start = self._place.start if index == self._place.file else (0, 0)
            for row in read_rows(file, self._columns, start, reading):
                self._at = before, file, reading, row
                yield index, self._checked(row)
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
