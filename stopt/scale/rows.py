"""Rows out of one file: text lines, JSONL, CSV, TSV and Parquet, from its start or from where another row ended."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from typing import IO, Any

from stopt.errors import MissingExtra, SourceError, suggest
from stopt.examples import pair_members
from stopt.scale.sources import (
    Columns,
    InputFile,
    InputFormat,
    Problem,
    Reading,
    Row,
    opened,
    unicode_problem,
)

__all__ = ["Start", "read_rows"]

# csv's own limit of 128 KiB is less than many documents have; without any, a quote that is never closed takes in the file
LONGEST_CELL = 2**26
PARQUET_ROWS = 4096  # decoded at a time
_BOM = b"\xef\xbb\xbf"
_PAIR_HINT = "a tab between the two texts, or columns that --column names: --column query,document"
_ID_HINT = "ids are whole numbers or texts, the same for all rows"

Start = tuple[int, int]  # bytes (of Parquet rows) before the first row, and lines


def read_rows(
    file: InputFile, columns: Columns, start: Start = (0, 0), reading: Reading | None = None
) -> Iterator[Row]:
    """Read the rows of a file.

    Args:
        file: The file.
        columns: Which members of a row are read.
        start: Where to begin: ``(row.end, row.line)`` of the row before.
        reading: Is told how far the file has been read, where that is not ``row.end``.

    Raises:
        SourceError: If the file cannot be read, or has no such column.
        MissingExtra: If it is Parquet, and pyarrow is not installed.
    """
    reading = reading or Reading()
    if file.format is InputFormat.PARQUET:
        yield from _parquet(file, columns, start[0], reading)
        return
    with opened(file, reading) as stream:
        match file.format:
            case InputFormat.JSONL:
                yield from _jsonl(_lines(stream, start), columns)
            case InputFormat.CSV:
                yield from _csv(file, stream, columns, start)
            case InputFormat.TSV:
                yield from _tsv(file, stream, columns, start)
            case _:
                yield from _plain(file, stream, columns, start)


Line = tuple[int, int, bytes]  # its number, where the next begins, its bytes


def _lines(stream: IO[bytes], start: Start) -> Iterator[Line]:
    """Lines of a stream; only a line feed ends one, and a byte order mark is no text."""
    end, number = start
    if end:
        stream.seek(end)
    for number, raw in enumerate(stream, number + 1):  # noqa: B020  (the numbers go on from there)
        end += len(raw)
        yield number, end, raw.removeprefix(_BOM) if number == 1 else raw


def _decoded(raw: bytes) -> str:
    """A line as text; bytes that are none become lone surrogates, which `unicode_problem` names."""
    return raw.decode("utf-8", "surrogateescape").rstrip("\r\n")


def _row(line: int, end: int, id_: Any, texts: Sequence[Any]) -> Row:
    """A row of one text or two, checked."""
    problem = None
    for text in texts:
        if not isinstance(text, str):
            problem = Problem(
                "has no text" if text is None else f"has {type(text).__name__} where a text is expected",
                "leave it out, or put a text there",
            )
        problem = problem or (unicode_problem(text) if isinstance(text, str) else None)
    if id_ is not None:
        problem = problem or _id_problem(id_)
    if problem:
        return Row(line, end, None if id_ is None or _id_problem(id_) else id_, None, problem)
    return Row(line, end, id_, texts[0] if len(texts) == 1 else (texts[0], texts[1]))


_NO_ID = object()  # what stands for an id that is not there; None is that none is wanted


def _id_problem(id_: Any) -> Problem | None:
    if id_ is _NO_ID:
        return Problem("has no id", _ID_HINT)
    if isinstance(id_, str):
        problem = unicode_problem(id_)
        return Problem(f"has an id that {problem.reason}", problem.hint) if problem else None
    if type(id_) is not int or not -(2**63) <= id_ < 2**63:
        return Problem(f"has the id {id_!r}", _ID_HINT)
    return None


# ---- lines ----------------------------------------------------------------------------------------------------------


def _plain(file: InputFile, stream: IO[bytes], columns: Columns, start: Start) -> Iterator[Row]:
    if columns.pairs:
        yield from _tabbed(file, stream, columns, start)
        return
    for line, end, raw in _lines(stream, start):
        yield _row(line, end, None, (_decoded(raw),))


def _tsv(file: InputFile, stream: IO[bytes], columns: Columns, start: Start) -> Iterator[Row]:
    """A header and rows with tabs; of pairs the header may be missing."""
    if columns.pairs and columns.id is None:
        yield from _tabbed(file, stream, columns, start)
        return
    header: list[str] | None = None
    for line, end, raw in _with_header(stream, start):
        cells = _decoded(raw).split("\t")
        if header is None:
            header = cells
            places = _places(file, columns, header)
        elif raw.strip(b"\r\n"):
            yield _of_cells(line, end, cells, len(header), places)


def _tabbed(file: InputFile, stream: IO[bytes], columns: Columns, start: Start) -> Iterator[Row]:
    """Pairs with a tab between them; more columns have a header with the usual names, or those of ``columns``."""
    first, second, named = 0, 1, False
    for line, end, raw in _with_header(stream, start):
        cells = _decoded(raw).split("\t")
        if line == 1:
            lowered = [cell.strip().lower() for cell in cells]
            wanted = "," in columns.text
            found = pair_members(cells if wanted else lowered, columns.text)
            if found:
                names = cells if wanted else lowered
                first, second, named = names.index(found[0]), names.index(found[1]), True
                continue
            if wanted:
                raise _no_columns(file, columns.text, cells)
        if start[0] and line == 1:
            continue
        if len(cells) <= max(first, second) or (not named and len(cells) != 2):
            what = "a single text" if len(cells) == 1 else f"{len(cells)} columns"
            problem = Problem(f"is {what}, and a cross-encoder reads pairs", _PAIR_HINT)
            yield Row(line, end, None, None, problem)
        else:
            yield _row(line, end, None, (cells[first], cells[second]))


def _with_header(stream: IO[bytes], start: Start) -> Iterator[Line]:
    """The first line, and those from ``start`` on."""
    if not start[0]:
        yield from _lines(stream, start)
        return
    yield from _first_only(stream)
    yield from _lines(stream, start)


def _first_only(stream: IO[bytes]) -> Iterator[Line]:
    for found in _lines(stream, (0, 0)):
        yield found
        return


def _of_cells(line: int, end: int, cells: list[str], width: int, places: tuple[list[int], int | None]) -> Row:
    """A row of a table with a header of ``width`` columns."""
    if len(cells) != width:
        return Row(
            line,
            end,
            None,
            None,
            Problem(f"has {len(cells)} columns, the header {width}", "quote texts that have separators"),
        )
    texts, id_place = places
    return _row(line, end, None if id_place is None else cells[id_place], [cells[each] for each in texts])


def _places(file: InputFile, columns: Columns, header: Sequence[str]) -> tuple[list[int], int | None]:
    """Which cells of a table have the texts and the id."""
    names = list(header)
    wanted = _text_names(file, columns, names)
    if columns.id is not None and columns.id not in names:
        raise _no_columns(file, columns.id, names)
    return [names.index(name) for name in wanted], None if columns.id is None else names.index(columns.id)


def _text_names(file: InputFile, columns: Columns, names: Sequence[str]) -> tuple[str, ...]:
    if columns.pairs:
        if (pair := pair_members(names, columns.text)) is None:
            raise SourceError(
                f"{file.name} has no columns with the two texts of a pair; it has {', '.join(names) or 'none'}",
                "name them with a comma: --column query,document",
            )
        return pair
    name = columns.text or "text"
    if name not in names:
        raise _no_columns(file, name, names)
    return (name,)


def _no_columns(file: InputFile, name: str, names: Sequence[str]) -> SourceError:
    return SourceError(
        f"{file.name} has no column {name!r}; it has {', '.join(names) or 'none'}",
        _which(name, names),
    )


def _which(name: str, names: Sequence[str]) -> str:
    """What to do about a column that is not there."""
    if not names:
        return "is this the right file?"
    if get_close_matches(name, names, n=1):
        return suggest(name, list(names))
    return "name one that is there: --column for the text, --id-column for the id"


# ---- JSONL ----------------------------------------------------------------------------------------------------------


def _jsonl(lines: Iterator[Line], columns: Columns) -> Iterator[Row]:
    for line, end, raw in lines:
        if not raw.strip():
            continue
        text = _decoded(raw)
        if problem := unicode_problem(text):
            yield Row(line, end, None, None, problem)
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            problem = Problem(f"is not JSON: {error}", "JSONL has one object per line")
            yield Row(line, end, None, None, problem)
            continue
        yield _of_record(line, end, record, columns)


def _of_record(line: int, end: int, record: Any, columns: Columns) -> Row:
    members = record if isinstance(record, dict) else {}
    id_ = None if columns.id is None else members.get(columns.id, _NO_ID)
    if id_ is None and columns.id is not None:
        id_ = _NO_ID
    has = (", ".join(members) if isinstance(record, dict) else type(record).__name__) or "nothing"
    if columns.pairs:
        pair = record
        if isinstance(record, dict):
            found = pair_members(list(record), columns.text)
            pair = [record[name] for name in found] if found else None
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(each, str) for each in pair):
            return _row(line, end, id_, pair)
        return Row(line, end, None, None, Problem(f"has no pair of texts; it has: {has}", _PAIR_HINT))
    name = columns.text or "text"
    if isinstance(members.get(name), str):
        return _row(line, end, id_, (members[name],))
    problem = Problem(
        f"has no text {name!r}; it has: {has}", "name another member with --column, where the command has it"
    )
    return Row(line, end, id_ if id_ is not None and not _id_problem(id_) else None, None, problem)


# ---- CSV ------------------------------------------------------------------------------------------------------------


class _Fed:
    """Lines for csv's reader, which takes as many as a record has; knows where the last one ended."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self.line = 0
        self.end = 0

    def __iter__(self) -> _Fed:
        return self

    def __next__(self) -> str:
        self.line, self.end, raw = next(self._lines)
        return raw.decode("utf-8", "surrogateescape")


def _cells(reader: Iterator[list[str]]) -> list[str] | None:
    """The next row; None at the end. The limit of a cell, which is the whole process's, is as before afterwards."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(before)


def _csv(file: InputFile, stream: IO[bytes], columns: Columns, start: Start) -> Iterator[Row]:
    """Rows as RFC 4180 has them, with a header; quoted texts may have line feeds in them."""
    fed = _Fed(_lines(stream, (0, 0)))
    header = _cells(csv.reader(fed)) or []
    places = _places(file, columns, header)
    if start[0]:
        fed = _Fed(_lines(stream, start))
    reader = csv.reader(fed)
    while True:
        try:
            cells = _cells(reader)
        except csv.Error as error:
            problem = Problem(f"is not CSV: {error}", "is a quote missing?")
            yield Row(fed.line, fed.end, None, None, problem)
            continue
        if cells is None:
            return
        if cells:
            yield _of_cells(fed.line, fed.end, cells, len(header), places)


# ---- Parquet --------------------------------------------------------------------------------------------------------


def _parquet(file: InputFile, columns: Columns, first: int, reading: Reading) -> Iterator[Row]:
    if find_spec("pyarrow") is None:
        raise MissingExtra("pyarrow", "data")
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file.path) as table:
            names = table.schema_arrow.names
            wanted = list(_text_names(file, columns, names))
            if columns.id is not None and columns.id not in names:
                raise _no_columns(file, columns.id, names)
            reading.bytes_per_row = file.size_bytes / max(1, table.metadata.num_rows)
            groups, number = _from_row(table.metadata, first)
            batches = table.iter_batches(
                PARQUET_ROWS, groups, [*wanted, *([columns.id] if columns.id else [])], use_threads=False
            )
            for batch in batches:
                texts = [batch.column(name).to_pylist() for name in wanted]
                ids = batch.column(columns.id).to_pylist() if columns.id else [None] * len(batch)
                for id_, *parts in zip(ids, *texts, strict=True):
                    number += 1
                    if number > first:
                        named = _NO_ID if columns.id and id_ is None else id_
                        yield _row(number, number, named, parts)
    except (OSError, pyarrow.ArrowException) as error:
        raise SourceError(f"{file.name} cannot be read as Parquet: {error}", "is it complete?") from error


def _from_row(metadata: Any, first: int) -> tuple[list[int], int]:
    """The row groups that have rows from ``first`` on, and the number of rows before them."""
    before = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if before + rows > first:
            return list(range(group, metadata.num_row_groups)), before
        before += rows
    return [], before
