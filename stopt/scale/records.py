"""What is known of a job's shards: numbers alone, however many rows of them could not be encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stopt.errors import CorruptModel
from stopt.folder import read_json_object

__all__ = ["Made", "Record", "Rejected"]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not be encoded.

    Attributes:
        number: Number of the row in the corpus, from 0.
        file: The file that it is in.
        line: Its line, from 1.
        id: Its id, if it has one.
        reason: What is wrong with it.
    """

    number: int
    file: str
    line: int
    id: int | str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Made:
    """What a shard was made of, and what became of it.

    Attributes:
        first_row: Number of its first row.
        rows: Rows that were read for it.
        written: Rows that it has.
        rejected: Rows that could not be encoded.
        text_sha256: Hash of what was read, hexadecimal: the same input has the same.
        shape: Shape of its results, without the number of rows.
        dtype: Their dtype.
        active: Of sparse vectors: values that are not zero.
    """

    first_row: int
    rows: int
    written: int
    rejected: int
    text_sha256: str
    shape: Sequence[int]
    dtype: str
    active: int


@dataclass(frozen=True, slots=True)
class Record(Made):
    """What is known of a complete shard.

    Attributes:
        shard: Its number, from 0.
        file: Its name.
        size_bytes: Its size.
        sha256: Hash of the file, hexadecimal.
        rejected_bytes: Size of the lines that say which rows could not be encoded.
    """

    shard: int
    file: str
    size_bytes: int
    sha256: str
    rejected_bytes: int

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read one that a job has left.

        Raises:
            CorruptModel: If it is none.
        """
        try:
            return cls(**read_json_object(path))
        except TypeError as error:
            raise CorruptModel(
                f"{path} is no record of a shard: {error}", "delete it: the shard is made again"
            ) from error
