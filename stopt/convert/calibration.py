"""Texts that static quantisation takes the ranges of activations from: the user's own, or those that ship with stopt.

They are run as they would be when serving: at their natural length, one at a time, with the model's prompts before
them; never padded to a maximum, which would make ranges of padding.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stopt.errors import InputError, MissingExtra, SourceError, suggest
from stopt.folder import read_texts
from stopt.runtime.pipeline import Pipeline
from stopt.runtime.tokenizer import Batch
from stopt.steps import FEW_TEXTS, CalibrationOptions

__all__ = ["CalibrationData", "read_calibration"]


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Calibration texts, chosen.

    Attributes:
        source: Where they come from, in words.
        texts: The texts.
    """

    source: str
    texts: Sequence[str]

    def describe(self) -> dict[str, Any]:
        """Return what the manifest records: source, number, and a hash of the texts in order."""
        digest = hashlib.sha256("\0".join(self.texts).encode("utf-8", "surrogatepass"))
        return {"source": self.source, "samples": len(self.texts), "sha256": digest.hexdigest()}

    def batches(self, pipeline: Pipeline) -> Iterator[Batch]:
        """Tokenise each text by itself, the model's prompts taking turns before them."""
        prompts = list(dict.fromkeys(text for text in pipeline.spec.prompts.values() if text)) or [""]
        for index, text in enumerate(self.texts):
            yield pipeline.tokenizer.pad(pipeline.tokenizer.tokenize([prompts[index % len(prompts)] + text]))


def read_calibration(options: CalibrationOptions) -> CalibrationData:
    """Read and choose calibration texts.

    Raises:
        SourceError: If a file or data set cannot be read, or has no such column.
        InputError: If there are too few texts.
        MissingExtra: If reading needs a package of the ``data`` extra.
    """
    if options.dataset is not None:
        source, texts = f"dataset {options.dataset} [{options.split}] {options.column}", _dataset(options)
    elif options.texts is not None:
        source, texts = options.texts.name, _file(options.texts, options.column)
    else:
        source, texts = "texts that ship with stopt", _shipped()
    texts = [text for text in texts if text.strip()]
    if len(texts) < FEW_TEXTS:
        raise InputError(
            f"{source} has {len(texts)} texts to calibrate with, too few for ranges that hold",
            f"give {FEW_TEXTS} at least, better hundreds, of the kind that will be encoded",
        )
    if len(texts) > options.num_samples:
        texts = random.Random(options.seed).sample(texts, options.num_samples)
    return CalibrationData(source, texts)


def _shipped() -> list[str]:
    text = resources.files("stopt.samples").joinpath("calibration.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["text"] for line in text.splitlines()]


def _file(file: Path, column: str) -> list[str]:
    match file.suffix:
        case ".csv" | ".tsv":
            return _csv(file, column)
        case ".parquet":
            return _parquet(file, column)
        case _:
            return read_texts(file, column)


def _csv(file: Path, column: str) -> list[str]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ",")
            _require_column(file, column, reader.fieldnames or ())
            return [row[column] or "" for row in reader]
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}", "name a text file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"{file} is not a CSV file in UTF-8: {error}", "convert it: iconv -t utf-8"
        ) from error


def _parquet(file: Path, column: str) -> list[str]:
    if find_spec("pyarrow") is None:
        raise MissingExtra("pyarrow", "data")
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
        _require_column(file, column, table.schema_arrow.names)
        values = table.read(columns=[column])[column].to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise SourceError(f"{file} cannot be read as Parquet: {error}", "is it complete?") from error
    return [value for value in values if isinstance(value, str)]


def _dataset(options: CalibrationOptions) -> list[str]:
    if find_spec("datasets") is None:
        raise MissingExtra("datasets", "data")
    from datasets import load_dataset

    try:
        rows = load_dataset(options.dataset, options.dataset_config, split=options.split)
    except Exception as error:  # the library raises whatever its loaders met
        raise SourceError(
            f"data set {options.dataset} cannot be loaded: {error}", "check its name, configuration and split"
        ) from error
    _require_column(options.dataset, options.column, rows.column_names)
    # no more than needed is read: a split may have millions of rows
    chosen = rows.shuffle(seed=options.seed).select(range(min(len(rows), 2 * options.num_samples)))
    return [value for value in chosen[options.column] if isinstance(value, str)]


def _require_column(place: object, column: str, columns: Sequence[str]) -> None:
    if column not in columns:
        raise SourceError(
            f"{place} has no column {column!r}; it has {', '.join(columns) or 'none'}",
            suggest(column, list(columns)) if columns else "is this the right file?",
        )
