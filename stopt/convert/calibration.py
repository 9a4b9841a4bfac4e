"""Texts that static quantisation takes the ranges of activations from: the user's own, or those that ship with stopt.

They are run as they would be when serving: at their natural length, one at a time, with the model's prompts before
them; never padded to a maximum, which would make ranges of padding. A cross-encoder is calibrated with pairs.
"""

from __future__ import annotations

import csv
import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stopt.errors import InputError, MissingExtra, SourceError, suggest
from stopt.examples import Example, as_pairs, as_texts, pair_members, read_examples
from stopt.parity.samples import pairs_of, shipped
from stopt.runtime.pipeline import Pipeline
from stopt.runtime.tokenizer import Batch, Text
from stopt.steps import FEW_TEXTS, CalibrationOptions

__all__ = ["CalibrationData", "read_calibration"]


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Calibration texts, chosen.

    Attributes:
        source: Where they come from, in words.
        texts: The texts, or pairs.
    """

    source: str
    texts: Sequence[Text]

    def describe(self) -> dict[str, Any]:
        """Return what the manifest records: source, number, and a hash of the texts in order."""
        parts = (text if isinstance(text, str) else "\1".join(text) for text in self.texts)
        digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass"))
        return {"source": self.source, "samples": len(self.texts), "sha256": digest.hexdigest()}

    def batches(self, pipeline: Pipeline) -> Iterator[Batch]:
        """Tokenise each text by itself, the model's prompts taking turns before them."""
        prompts = list(dict.fromkeys(text for text in pipeline.spec.prompts.values() if text)) or [""]
        for index, text in enumerate(self.texts):
            prompt = prompts[index % len(prompts)]
            prefixed = prompt + text if isinstance(text, str) else (prompt + text[0], text[1])
            yield pipeline.tokenizer.pad(pipeline.tokenizer.tokenize([prefixed]))


def read_calibration(options: CalibrationOptions, *, pairs: bool = False) -> CalibrationData:
    """Read and choose calibration texts.

    Args:
        options: Where from, and how many.
        pairs: Whether the model reads pairs of texts.

    Raises:
        SourceError: If a file or data set cannot be read, or has no such column.
        InputError: If there are too few texts, or single texts where pairs are needed, or the reverse.
        MissingExtra: If reading needs a package of the ``data`` extra.
    """
    what = "pairs" if pairs else "texts"
    texts: list[Text]
    if options.dataset is not None:
        source, found = (
            f"dataset {options.dataset} [{options.split}] {options.column}",
            _dataset(options, pairs),
        )
    elif options.texts is not None:
        source, found = options.texts.name, _file(options.texts, options.column, pairs)
    elif pairs:
        source, found = "pairs made of texts that ship with stopt", list(pairs_of(shipped("calibration")))
    else:
        source, found = "texts that ship with stopt", list(shipped("calibration"))
    texts = list(as_pairs(found, source) if pairs else as_texts(found, source))
    texts = [text for text in texts if (text if isinstance(text, str) else "".join(text)).strip()]
    if len(texts) < FEW_TEXTS:
        raise InputError(
            f"{source} has {len(texts)} {what} to calibrate with, too few for ranges that hold",
            f"give {FEW_TEXTS} at least, better hundreds, of the kind that will be encoded",
        )
    if len(texts) > options.num_samples:
        texts = random.Random(options.seed).sample(texts, options.num_samples)
    return CalibrationData(source, texts)


def _file(file: Path, column: str, pairs: bool) -> list[Example]:
    match file.suffix:
        case ".tsv" if pairs:
            return read_examples(file, column)
        case ".csv" | ".tsv":
            return _csv(file, column, pairs)
        case ".parquet":
            return _parquet(file, column, pairs)
        case _:
            return read_examples(file, column)


def _columns(place: object, column: str, names: Sequence[str], pairs: bool) -> tuple[str, ...]:
    """The columns that have the text, or the two texts of a pair."""
    if not pairs:
        _require_column(place, column, names)
        return (column,)
    if (found := pair_members(names, column)) is None:
        raise SourceError(
            f"{place} has no columns with the two texts of a pair; it has {', '.join(names) or 'none'}",
            "name them with a comma: --column query,document",
        )
    return found


def _examples(rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...]) -> list[Example]:
    """The texts or pairs of rows; those that lack one are left out."""
    found: list[Example] = []
    for row in rows:
        parts = [row[name] for name in columns]
        if all(isinstance(part, str) for part in parts):
            found.append(parts[0] if len(parts) == 1 else (parts[0], parts[1]))
    return found


def _csv(file: Path, column: str, pairs: bool) -> list[Example]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ",")
            columns = _columns(file, column, reader.fieldnames or (), pairs)
            return _examples([{name: row[name] or "" for name in columns} for row in reader], columns)
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}", "name a text file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"{file} is not a CSV file in UTF-8: {error}", "convert it: iconv -t utf-8"
        ) from error


def _parquet(file: Path, column: str, pairs: bool) -> list[Example]:
    if find_spec("pyarrow") is None:
        raise MissingExtra("pyarrow", "data")
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
        columns = _columns(file, column, table.schema_arrow.names, pairs)
        rows = table.read(columns=list(columns)).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise SourceError(f"{file} cannot be read as Parquet: {error}", "is it complete?") from error
    return _examples(rows, columns)


def _dataset(options: CalibrationOptions, pairs: bool) -> list[Example]:
    if find_spec("datasets") is None:
        raise MissingExtra("datasets", "data")
    from datasets import load_dataset

    try:
        rows = load_dataset(options.dataset, options.dataset_config, split=options.split)
    except Exception as error:  # the library raises whatever its loaders met
        raise SourceError(
            f"data set {options.dataset} cannot be loaded: {error}", "check its name, configuration and split"
        ) from error
    columns = _columns(options.dataset, options.column, rows.column_names, pairs)
    # no more than needed is read: a split may have millions of rows
    chosen = rows.shuffle(seed=options.seed).select(range(min(len(rows), 2 * options.num_samples)))
    return _examples(list(chosen.select_columns(list(columns))), columns)


def _require_column(place: object, column: str, columns: Sequence[str]) -> None:
    if column not in columns:
        raise SourceError(
            f"{place} has no column {column!r}; it has {', '.join(columns) or 'none'}",
            suggest(column, list(columns)) if columns else "is this the right file?",
        )
