"""Texts and pairs of texts out of files: what a model is checked and calibrated with.

A cross-encoder reads pairs. They come as JSONL (objects with two texts, or lists of two), or with tabs between them; the
same files hold single texts for every other model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stopt.errors import InputError, SourceError
from stopt.folder import read_texts

__all__ = ["PAIR_MEMBERS", "Example", "as_pairs", "as_texts", "pair_members", "parse_pairs", "read_examples"]

Example = str | tuple[str, str]

# names of the two texts that data sets use
PAIR_MEMBERS = (
    ("query", "document"),
    ("query", "passage"),
    ("question", "answer"),
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("premise", "hypothesis"),
)
_HOW = "two texts with a tab between them, or JSONL with two texts in every line"


def pair_members(names: Sequence[str], column: str = "") -> tuple[str, str] | None:
    """Tell which two of some names have the texts of a pair.

    Args:
        names: Names of columns or members.
        column: The two names, with a comma; anything else leaves it to the usual names.
    """
    first, comma, second = (part.strip() for part in column.partition(","))
    if comma:
        return (first, second) if first in names and second in names else None
    return next((pair for pair in PAIR_MEMBERS if set(pair) <= set(names)), None)


def read_examples(file: Path, column: str = "text") -> list[Example]:
    """Read a file of texts or pairs; lines without text are left out.

    Args:
        file: One text per line, or JSONL. Lines with tabs are taken as they are: see :func:`as_pairs`.
        column: Member of JSONL objects that has the text, or two with a comma for a pair.

    Raises:
        SourceError: If it cannot be read, or a line of it is not like the first.
    """
    found: list[Example]
    if file.suffix in (".jsonl", ".ndjson") and _has_pairs(file, column):
        found = list(parse_pairs(read_texts(file, jsonl=False), column, str(file)))
    else:
        found = list(read_texts(file, column))
    return [each for each in found if (each if isinstance(each, str) else "".join(each)).strip()]


def as_texts(examples: Sequence[Example], name: str) -> list[str]:
    """Make sure that examples are single texts.

    Raises:
        InputError: If one is a pair.
    """
    for number, each in enumerate(examples, start=1):
        if not isinstance(each, str):
            raise InputError(
                f"{name} has pairs of texts (the first is number {number}), and the model reads single texts",
                "give one text per line; pairs are for cross-encoders",
                index=number - 1,
            )
    return [each for each in examples if isinstance(each, str)]


def as_pairs(examples: Sequence[Example], name: str) -> list[tuple[str, str]]:
    """Make sure that examples are pairs; texts with tabs in them are rows of a table.

    A table has two columns, or more of them and a header with the usual names (``score, sentence1, sentence2``).

    Raises:
        InputError: If one is a single text; says which.
    """
    members: tuple[int, int] | None = None
    pairs = []
    for number, each in enumerate(examples, start=1):
        if not isinstance(each, str):
            pairs.append((each[0], each[1]))
            continue
        cells = each.split("\t")
        if number == 1 and (header := pair_members([cell.strip().lower() for cell in cells])):
            lowered = [cell.strip().lower() for cell in cells]
            members = (lowered.index(header[0]), lowered.index(header[1]))
            continue
        first, second = members or (0, 1)
        if len(cells) <= max(first, second) or (members is None and len(cells) != 2):
            what = "a single text" if len(cells) == 1 else f"{len(cells)} columns"
            raise InputError(
                f"number {number} of {name} is {what}, and a cross-encoder reads pairs",
                _HOW,
                index=number - 1,
            )
        pairs.append((cells[first], cells[second]))
    return pairs


def _has_pairs(file: Path, column: str) -> bool:
    """Whether the first line of a JSONL file is a pair; what cannot be read is left to the reader of texts."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            record = json.loads(next((line for line in lines if line.strip()), ""))
    except (OSError, ValueError):
        return False
    if isinstance(record, dict):
        return "," in column or (column not in record and pair_members(list(record)) is not None)
    return isinstance(record, list)


def parse_pairs(lines: Iterable[str], column: str, name: str) -> list[tuple[str, str]]:
    """Read pairs out of lines of JSONL.

    Args:
        lines: Objects with two texts, or lists of two.
        column: The two members, with a comma; anything else leaves it to the usual names.
        name: What to call the lines.

    Raises:
        SourceError: If a line is no such thing; says which.
    """
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise SourceError(
                f"line {number} of {name} is not JSON: {error}", "JSONL has one object per line"
            ) from error
        pair: Any = record
        if isinstance(record, dict):
            members = pair_members(list(record), column)
            pair = [record[member] for member in members] if members else None
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            has = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            raise SourceError(
                f"line {number} of {name} has no pair of texts; it has: {has or 'nothing'}",
                f"name the two members: --column query,document; or give {_HOW}",
            )
        pairs.append((pair[0], pair[1]))
    return pairs
