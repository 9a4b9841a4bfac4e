"""Small corpora for tests: files of every format with the same rows, and folders compared byte by byte."""

import csv
import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow
from pyarrow import parquet

__all__ = ["FORMATS", "PAIRS", "TEXTS", "texts_of", "tree", "write_pairs", "write_texts"]

TEXTS = [
    "a first text",
    "",
    "the third one, longer",
    '  "quoted", kept ',
    "café 今日",
    "nul \0 inside",
    "the last",
]
PAIRS = [
    ("a question", "an answer"),
    ("What is the capital?", "Paris, it is."),
    ("one", ""),
    ("two", "three"),
]
FORMATS = ("txt", "txt.gz", "jsonl", "ndjson", "jsonl.gz", "csv", "csv.gz", "tsv", "parquet")


def texts_of(number: int) -> list[str]:
    """As many texts, all different."""
    words = [
        "how",
        "do",
        "I",
        "cook",
        "rice",
        "the",
        "guitar",
        "on",
        "stage",
        "boil",
        "water",
        "capital",
        "of",
        "France",
    ]
    return [" ".join(words[each % 7 : each % 7 + 1 + each % 5]) + f" {each}" for each in range(number)]


def write_texts(folder: Path, ending: str, texts: Sequence[str] = TEXTS, name: str = "corpus") -> Path:
    """Write a file with the texts in the column ``text`` and ids ``d0``, ``d1`` … in the column ``key``."""
    rows = [{"key": f"d{number}", "text": text} for number, text in enumerate(texts)]
    return _write(folder / f"{name}.{ending}", rows, [row["text"] for row in rows])


def write_pairs(folder: Path, ending: str, pairs: Sequence[tuple[str, str]] = PAIRS) -> Path:
    """Write a file with pairs in the columns ``query`` and ``document``."""
    rows = [{"query": first, "document": second} for first, second in pairs]
    return _write(folder / f"pairs.{ending}", rows, [f"{first}\t{second}" for first, second in pairs])


def _write(file: Path, rows: Sequence[dict[str, str]], lines: Sequence[str]) -> Path:
    names = list(rows[0])
    match file.name.partition(".")[2].removesuffix(".gz"):
        case "txt":
            data = "".join(f"{line}\n" for line in lines)
        case "tsv":
            data = "".join("\t".join(cells) + "\n" for cells in [names, *(row.values() for row in rows)])
        case "csv":
            with file.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, names)
                writer.writeheader()
                writer.writerows(rows)
            data = file.read_text(encoding="utf-8")
        case "parquet":
            table = pyarrow.table({name: [row[name] for row in rows] for name in names})
            parquet.write_table(table, file, row_group_size=3)
            return file
        case _:
            data = "".join(json.dumps(row) + "\n" for row in rows)
    compress = gzip.compress if file.suffix == ".gz" else bytes
    file.write_bytes(compress(data.encode("utf-8")))
    return file


def tree(folder: Path) -> dict[str, str]:
    """Hash of every file in a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
