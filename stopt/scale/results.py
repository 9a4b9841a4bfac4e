"""Chunks to results, in the order of the rows, with what they are of; rows that have none, with the reason."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from stopt.errors import InputError
from stopt.runtime.sparse_arrays import SparseRows
from stopt.runtime.tokenizer import Text
from stopt.scale.chunks import Chunk, IdType
from stopt.scale.crew import Mapper, Texts
from stopt.scale.encoder import Block, Encoded
from stopt.scale.formats import Rows
from stopt.scale.records import Rejected
from stopt.spec import ModelKind

__all__ = ["Refused", "combined", "encoded", "look", "stop_at"]

# a row without a result, and what to do about it
Refused = tuple[Rejected, str]


def encoded(chunks: Iterable[Chunk], mapper: Mapper) -> Iterator[tuple[Chunk, Encoded]]:
    """Chunks with their results, in order; chunks are taken as the mapper asks for them."""
    waiting: deque[Chunk] = deque()

    def texts() -> Iterator[Texts]:
        for chunk in chunks:
            waiting.append(chunk)
            yield chunk.texts()

    for found in mapper(texts()):
        yield waiting.popleft(), found


def combined(chunk: Chunk, found: Encoded, kind: ModelKind, id_type: IdType) -> tuple[Rows, list[Refused]]:
    """A chunk's results with what they are of; and rows that have none, with a hint each."""
    ids: list[int | str] = []
    texts: list[Text] = []
    refused: list[Refused] = []
    place = 0
    for number, (file, row) in enumerate(chunk.rows, chunk.first):
        reason, hint = row.problem or ("", "")
        if row.text is not None:
            reason = found.refused.get(place, "")
            hint = "find out where it comes from: stopt check compares a model with torch"
            place += 1
        if reason or row.text is None:
            refused.append((Rejected(number, file.name, row.line, row.id, reason), hint))
        else:
            ids.append(number if row.id is None else row.id)
            texts.append(row.text)
    return Rows(ids, texts, found.block, kind, id_type, found.tokens), refused


def stop_at(refused: Sequence[Refused]) -> None:
    """Raise for the first row that could not be encoded.

    Raises:
        InputError: If there is one; says which.
    """
    if refused:
        (found, hint) = refused[0]
        raise InputError(f"line {found.line} of {found.file} {found.reason}", hint, index=found.number)


def look(block: Block) -> tuple[tuple[int, ...], str, int]:
    """Return the shape of one result of a block, their dtype, and of sparse vectors how many values are not zero."""
    if isinstance(block, SparseRows):
        return (block.width,), str(block.values.dtype), len(block.values)
    return block.shape[1:], str(block.dtype), 0
