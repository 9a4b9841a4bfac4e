"""How results are written: Parquet, numpy's and SciPy's files, JSONL; shard by shard, and shards put together in one file.

The same rows make the same bytes, always.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from stopt.errors import MissingExtra
from stopt.runtime.sparse_arrays import SparseRows
from stopt.runtime.tokenizer import Text
from stopt.scale.encoder import Block
from stopt.scale.job import Format
from stopt.spec import ModelKind

__all__ = ["Rows", "Writer", "formats_of", "join", "json_rows", "open_writer", "write_json"]

Id = int | str

_FORMATS: Mapping[ModelKind, tuple[Format, ...]] = {
    ModelKind.DENSE: (Format.NPY, Format.JSONL, Format.PARQUET),
    ModelKind.SPARSE: (Format.NPZ, Format.JSONL, Format.PARQUET),
    ModelKind.CROSS_ENCODER: (Format.NPY, Format.JSONL, Format.PARQUET),
}


@dataclass(frozen=True, slots=True)
class Rows:
    """Results with what they are of.

    Attributes:
        ids: Ids of the rows: numbers, or texts.
        texts: The texts, or pairs.
        block: The results.
        kind: What the model is.
        id_type: ``int`` or ``str``, where the corpus has ids of its own; None numbers the rows.
        tokens: Of sparse vectors in JSONL: what the values stand for.
    """

    ids: Sequence[Id]
    texts: Sequence[Text]
    block: Block
    kind: ModelKind
    id_type: type[int] | type[str] | None = None
    tokens: Sequence[Sequence[str | None]] = ()


class Writer(Protocol):
    """A file being written."""

    def add(self, rows: Rows) -> None:
        """Write rows behind those that are there."""

    def close(self) -> None:
        """Complete the file."""


def formats_of(kind: ModelKind) -> tuple[Format, ...]:
    """How results of a kind of model can be written."""
    return _FORMATS[kind]


def open_writer(path: Path, format_: Format) -> Writer:
    """Open a new file.

    Raises:
        MissingExtra: If a package is missing.
    """
    match format_:
        case Format.PARQUET:
            require_pyarrow()
            return _ParquetWriter(path)
        case Format.NPY:
            return _NpyWriter(path)
        case Format.NPZ:
            return _NpzWriter(path)
        case Format.JSONL:
            return _JsonlWriter(path)


def join(parts: Sequence[Path], format_: Format, target: Path) -> None:
    """Put complete files together, in order, a little at a time."""
    if len(parts) == 1:
        shutil.copyfile(parts[0], target)
        return
    match format_:
        case Format.PARQUET:
            _join_parquet(parts, target)
        case Format.NPY:
            _join_npy(parts, target)
        case Format.NPZ:
            _join_npz(parts, target)
        case Format.JSONL:
            with target.open("wb") as file:
                for part in parts:
                    with part.open("rb") as source:
                        shutil.copyfileobj(source, file)


def json_rows(rows: Rows) -> Iterator[dict[str, Any]]:
    """Rows as JSON objects."""
    if isinstance(rows.block, SparseRows):
        results = _sparse_results(rows.block, rows.tokens)
    else:
        results = _named_results(rows.block, _column_name(rows))
    for id_, text, result in zip(rows.ids, rows.texts, results, strict=True):
        named = {} if rows.id_type is None else {"id": id_}
        yield {**named, **({"text": text} if isinstance(text, str) else {"texts": list(text)}), **result}


def _named_results(block: npt.NDArray[Any], name: str) -> Iterator[dict[str, Any]]:
    for values in block:
        yield {name: values.tolist()}


def _sparse_results(block: SparseRows, tokens: Sequence[Sequence[str | None]]) -> Iterator[dict[str, Any]]:
    """Active dimensions, the strongest first."""
    for (columns, values), decoded in zip(block.strongest_first(), tokens, strict=True):
        yield {"indices": columns.tolist(), "values": values.tolist(), "tokens": list(decoded)}


def _column_name(rows: Rows) -> str:
    """What results that are an array are called."""
    if rows.kind is not ModelKind.CROSS_ENCODER:
        return "embedding"
    return "score" if isinstance(rows.block, np.ndarray) and rows.block.ndim == 1 else "scores"


def write_json(file: Any, rows: Rows) -> None:
    """Write rows as JSONL to a text file."""
    for row in json_rows(rows):
        json.dump(row, file, ensure_ascii=False)
        file.write("\n")


class _JsonlWriter:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def add(self, rows: Rows) -> None:
        write_json(self._file, rows)

    def close(self) -> None:
        self._file.close()


# ---- numpy ----------------------------------------------------------------------------------------------------------

# numpy pads a header to a multiple of 64 and leaves room for the number of rows to grow: that of a matrix has this many
_HEADER_BYTES = 128


class _NpyWriter:
    """Rows are appended; the header, which has their number, is written last into the room that was left for it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._rows = 0
        self._like: npt.NDArray[Any] | None = None

    def add(self, rows: Rows) -> None:
        assert isinstance(rows.block, np.ndarray)
        if self._like is None:
            self._like = rows.block[:0]
            self._file.write(b"\0" * _HEADER_BYTES)
        self._file.write(np.ascontiguousarray(rows.block).data)
        self._rows += len(rows.block)

    def close(self) -> None:
        if self._file.closed:
            return
        if self._like is not None:
            self._file.seek(0)
            _write_header(self._file, self._like, self._rows)
        self._file.close()


def _write_header(file: IO[bytes], like: npt.NDArray[Any], rows: int) -> None:
    from numpy.lib import format as npy

    shape = (rows, *like.shape[1:])
    npy.write_array_header_1_0(
        file, {"descr": npy.dtype_to_descr(like.dtype), "fortran_order": False, "shape": shape}
    )
    assert file.tell() == _HEADER_BYTES


def _join_npy(parts: Sequence[Path], target: Path) -> None:
    headers = [_read_header(part) for part in parts]
    shape, _, dtype = headers[0]
    with target.open("wb") as file:
        _write_header(file, np.empty((0, *shape[1:]), dtype), sum(found[0][0] for found in headers))
        for part in parts:
            with part.open("rb") as source:
                source.seek(_HEADER_BYTES)
                shutil.copyfileobj(source, file)


def _read_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    from numpy.lib import format as npy

    with path.open("rb") as file:
        npy.read_magic(file)
        return npy.read_array_header_1_0(file)


# ---- SciPy ----------------------------------------------------------------------------------------------------------


class _NpzWriter:
    """What SciPy reads as a CSR matrix. The file has its parts one after the other, so each call's are in one of their own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: list[Path] = []

    def add(self, rows: Rows) -> None:
        block = rows.block
        assert isinstance(block, SparseRows)
        part = self._path.with_name(f"{self._path.name}.{len(self._parts)}")
        _write_npz(part, lambda name: iter([getattr(block, name)]))
        self._parts.append(part)

    def close(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            _join_npz(parts, self._path)
        for part in parts:
            part.unlink()


def _write_npz(path: Path, arrays: Callable[[str], Iterator[Any]]) -> None:
    """Write a CSR matrix out of the arrays of several; ``arrays`` gives each kind of them, in order."""
    import zipfile

    counts = [np.diff(starts) for starts in arrays("starts")]
    total = int(sum(int(each.sum()) for each in counts))
    rows = sum(map(len, counts))
    width = next(iter(arrays("width")))
    # SciPy has one integer type for both
    narrow = np.int32 if total <= np.iinfo(np.int32).max else np.int64
    starts = np.concatenate([np.zeros(1, np.int64), *counts]).cumsum()
    members: dict[str, tuple[Any, Iterator[Any]]] = {
        "indices": (np.empty(0, narrow), (each.astype(narrow) for each in arrays("columns"))),
        "indptr": (np.empty(0, narrow), iter([starts.astype(narrow)])),
        "format": (np.array(b"csr"), iter([])),
        "shape": (np.empty(0, np.int64), iter([np.array([rows, width])])),
        "data": (np.empty(0, np.float32), iter(arrays("values"))),
        "_is_array": (np.array(True), iter([])),
    }
    sizes = {"indices": total, "indptr": rows + 1, "shape": 2, "data": total}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name, (like, values) in members.items():
            # a fixed date: the same rows make the same bytes
            with file.open(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True
            ) as member:
                if name not in sizes:
                    np.save(member, like)
                    continue
                _write_vector_header(member, like, sizes[name])
                for each in values:
                    member.write(np.ascontiguousarray(each).tobytes())


def _write_vector_header(file: Any, like: npt.NDArray[Any], size: int) -> None:
    from numpy.lib import format as npy

    npy.write_array_header_1_0(
        file, {"descr": npy.dtype_to_descr(like.dtype), "fortran_order": False, "shape": (size,)}
    )


def _join_npz(parts: Sequence[Path], target: Path) -> None:
    def arrays(name: str) -> Iterator[Any]:
        for part in parts:
            with np.load(part) as file:
                match name:
                    case "width":
                        yield int(file["shape"][1])
                    case "starts":
                        yield file["indptr"]
                    case "columns":
                        yield file["indices"]
                    case _:
                        yield file["data"]

    _write_npz(target, arrays)


# ---- Parquet --------------------------------------------------------------------------------------------------------


def require_pyarrow() -> None:
    """Raise :class:`MissingExtra` unless pyarrow is installed."""
    if find_spec("pyarrow") is None:
        raise MissingExtra("pyarrow", "data")


class _ParquetWriter:
    """A row group for each call; embeddings as fixed-size lists, neither compressed nor indexed, for which they are no use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def add(self, rows: Rows) -> None:
        import pyarrow

        table = pyarrow.table({"id": _id_array(rows), **_arrow_columns(rows)})
        if self._writer is None:
            self._writer = _parquet_writer(self._path, table.schema)
        if table.num_rows:
            self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _parquet_writer(path: Path, schema: Any) -> Any:
    from pyarrow import parquet

    return parquet.ParquetWriter(
        path,
        schema,
        compression={name: "zstd" if name == "id" else "none" for name in schema.names},
        use_dictionary=False,
        write_statistics=["id"],
    )


def _id_array(rows: Rows) -> Any:
    import pyarrow

    return pyarrow.array(rows.ids, pyarrow.string() if rows.id_type is str else pyarrow.int64())


def _arrow_columns(rows: Rows) -> dict[str, Any]:
    import pyarrow

    block = rows.block
    if isinstance(block, SparseRows):
        starts = pyarrow.array(block.starts.astype(np.int32))
        return {
            "indices": pyarrow.ListArray.from_arrays(starts, pyarrow.array(block.columns)),
            "values": pyarrow.ListArray.from_arrays(starts, pyarrow.array(block.values)),
        }
    name, flat = _column_name(rows), pyarrow.array(np.ascontiguousarray(block).reshape(-1))
    if block.ndim == 1:
        return {name: flat}
    return {name: pyarrow.FixedSizeListArray.from_arrays(flat, block.shape[1])}


def _join_parquet(parts: Sequence[Path], target: Path) -> None:
    from pyarrow import parquet

    with parquet.ParquetFile(parts[0]) as first:
        writer = _parquet_writer(target, first.schema_arrow)
    with writer:
        for part in parts:
            with parquet.ParquetFile(part) as file:
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group))
