"""The folder of an index: written in one step, and read with the size and the hash of every file checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.artifact import describe_parts, sha256
from stopt.embeddings.codes import Precision, parse_precision
from stopt.embeddings.engines import Engine, EngineKind, NumpyEngine, parse_engine
from stopt.embeddings.faiss_engine import FaissEngine, import_faiss
from stopt.embeddings.index import IndexOptions, Probes, SearchIndex
from stopt.embeddings.ranges import Ranges
from stopt.embeddings.scoring import stored_precision
from stopt.embeddings.space import Space
from stopt.embeddings.usearch_engine import UsearchEngine, import_usearch
from stopt.errors import ArtifactError, CorruptModel, OptionError, SourceError
from stopt.folder import contained, read_json_object
from stopt.staging import commit, settle, staging

__all__ = ["INDEX", "load_index", "save_index"]

INDEX = "index.json"
SCHEMA = 1
_CODES, _ROWS, _RANGES, _TEXTS, _PROBES = (
    "codes.npy",
    "rescore.npy",
    "ranges.json",
    "texts.jsonl",
    "probes.npy",
)
_NATIVE = {EngineKind.FAISS: "index.faiss", EngineKind.USEARCH: "index.usearch"}
_NAMES = {_CODES, _ROWS, _RANGES, _TEXTS, _PROBES, INDEX, *_NATIVE.values()}


def save_index(index: SearchIndex, folder: str | Path, *, force: bool = False) -> Path:
    """Write an index to a folder, in one step: it is as before, or complete.

    Args:
        index: The index.
        folder: The folder; with ``force`` an index that is there is replaced.
        force: Whether one may be.

    Returns:
        The folder.

    Raises:
        ArtifactError: If it cannot be written, or something else than an index is there.
    """
    target = Path(folder)
    require_free(target, force=force)
    if target.exists():
        with staging(target) as staged:
            _write(index, staged)
            old = [path.name for path in target.iterdir() if path.name in _NAMES]
            new = sorted(path.name for path in staged.iterdir() if path.name != INDEX)
            commit(staged, target, [*new, INDEX], remove=old)
        return target
    with staging(target.absolute().parent) as staged:
        made = staged / "index"
        made.mkdir()
        _write(index, made)
        made.rename(target)
    return target


def _write(index: SearchIndex, folder: Path) -> None:
    """Write all files of an index, that which describes the others last."""
    _write_parts(index, folder)
    document = {
        "schema": SCHEMA,
        "dimension": index.dimension,
        "count": len(index),
        "options": asdict(index.options),
        "space": None if index.space is None else asdict(index.space),
        "files": describe_parts(folder, [path.name for path in folder.iterdir()]),
    }
    (folder / INDEX).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def require_free(target: Path, *, force: bool) -> None:
    """Make sure that an index can be put where it is to go.

    Raises:
        ArtifactError: If an index is there that may not be replaced, or something that is none.
    """
    if not target.exists():
        return
    if not (target / INDEX).is_file():
        raise ArtifactError(f"{target} exists and is no index", "name another place: -o FOLDER")
    if not force:
        raise ArtifactError(f"{target} exists already", "replace it with --force")


def load_index(folder: str | Path) -> SearchIndex:
    """Read an index that :func:`save_index` wrote. Rows that only candidates need stay on disk.

    All files are read through once, to hold them against the hashes in ``index.json``: opening takes as long as sha256 of
    them, and no more memory for it.

    Raises:
        SourceError: If there is no index, or a file of it is missing.
        CorruptModel: If a file is cut short, changed, or not what it should be.
        MissingExtra: If its engine is not installed.
    """
    root = Path(folder)
    settle(root)
    if not (root / INDEX).is_file():
        raise SourceError(f"{root} is no index: it has no {INDEX}", "make one: stopt index FILE")
    document = read_json_object(root / INDEX)
    if document.get("schema") != SCHEMA:
        raise CorruptModel(
            f"{root / INDEX} has schema {document.get('schema')!r}, this stopt reads {SCHEMA}",
            "update stopt, or build the index again",
        )
    try:
        files = {
            str(name): (int(part["size_bytes"]), str(part["sha256"]))
            for name, part in document["files"].items()
        }
        count, dimension = int(document["count"]), int(document["dimension"])
        options = IndexOptions(**document["options"])
        space = None if document["space"] is None else Space(**document["space"])
    except (KeyError, TypeError, ValueError, AttributeError, OptionError) as error:
        raise CorruptModel(f"{root / INDEX} does not describe an index: {error}", _AGAIN) from error
    for name, (size, digest) in files.items():
        _require_whole(contained(root, name), size, digest)
    parts = _Parts(root, files, count, dimension)
    texts, lines = parts.texts()
    return SearchIndex(
        parts.engine(options),
        options,
        dimension,
        Ranges.read(root / _RANGES) if _RANGES in files else None,
        parts.array(_ROWS, (count, dimension)) if _ROWS in files else None,
        space,
        texts,
        lines,
        parts.probes(),
    )


_AGAIN = "build the index again: stopt index FILE"


class _Parts:
    """The files of an index folder, whose sizes and hashes are right."""

    def __init__(self, root: Path, files: Any, count: int, dimension: int) -> None:
        self._root, self._files, self._count, self._dimension = root, files, count, dimension

    def engine(self, options: IndexOptions) -> Engine:
        kind, precision = parse_engine(options.engine), stored_precision(parse_precision(options.precision))
        width = -(-self._dimension // 8) if precision is Precision.UBINARY else self._dimension
        if _CODES in self._files:
            codes = self.array(_CODES, (self._count, width))
            return (
                NumpyEngine(codes, precision) if kind is EngineKind.EXACT else UsearchEngine(precision, codes)
            )
        name = _NATIVE.get(kind, "")
        if name not in self._files:
            raise CorruptModel(f"{self._root / INDEX} names no codes", _AGAIN)
        path = str(self._root / name)
        engine: Engine
        if kind is EngineKind.FAISS:
            faiss = import_faiss()
            read = faiss.read_index_binary if precision is Precision.UBINARY else faiss.read_index
            engine = FaissEngine(self._native(lambda: read(path), name), precision)
        else:
            usearch = import_usearch()
            loaded = self._native(lambda: usearch.Index.restore(path), name)
            engine = UsearchEngine(precision, None, loaded, exact=False)
        if len(engine) != self._count:
            raise CorruptModel(f"{path} has {len(engine)} documents, {INDEX} {self._count}", _AGAIN)
        return engine

    def _native(self, read: Callable[[], Any], name: str) -> Any:
        try:
            found = read()
        except (RuntimeError, ValueError) as error:
            raise CorruptModel(f"{self._root / name} cannot be read: {error}", _AGAIN) from error
        if found is None:
            raise CorruptModel(f"{self._root / name} cannot be read", _AGAIN)
        return found

    def array(self, name: str, shape: tuple[int, ...] | None = None) -> npt.NDArray[Any]:
        """An array, mapped into memory."""
        try:
            found: npt.NDArray[Any] = np.load(self._root / name, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise CorruptModel(f"{self._root / name} is no array: {error}", _AGAIN) from error
        if shape is not None and found.shape != shape:
            raise CorruptModel(f"{self._root / name} has shape {found.shape}, expected {shape}", _AGAIN)
        return found

    def texts(self) -> tuple[list[str], list[int]]:
        if _TEXTS not in self._files:
            return [], []
        with (self._root / _TEXTS).open(encoding="utf-8", newline="\n") as lines:
            records = [json.loads(line) for line in lines]
        if len(records) != self._count:
            raise CorruptModel(
                f"{self._root / _TEXTS} has {len(records)} texts, {INDEX} {self._count}", _AGAIN
            )
        return [record["text"] for record in records], [
            record["line"] for record in records if "line" in record
        ]

    def probes(self) -> Probes | None:
        if _PROBES not in self._files:
            return None
        found = self.array(_PROBES)
        return Probes(np.asarray(found["id"]), np.ascontiguousarray(found["embedding"]))


def _require_whole(path: Path, size: int, digest: str) -> None:
    try:
        actual = path.stat().st_size
    except OSError as error:
        raise SourceError(f"{path} is missing", _AGAIN) from error
    if actual != size:
        raise CorruptModel(f"{path} has {actual:,} bytes, expected {size:,}", _AGAIN)
    if sha256(path) != digest:
        raise CorruptModel(f"{path} has changed since it was written", _AGAIN)


def _write_parts(index: SearchIndex, folder: Path) -> None:
    engine = index.engine
    if isinstance(engine, FaissEngine):
        faiss = import_faiss()
        write = faiss.write_index_binary if engine.precision is Precision.UBINARY else faiss.write_index
        write(engine.index, str(folder / _NATIVE[EngineKind.FAISS]))
    elif isinstance(engine, UsearchEngine) and engine.codes is None:
        engine.index.save(str(folder / _NATIVE[EngineKind.USEARCH]))
    else:
        assert isinstance(engine, NumpyEngine | UsearchEngine)
        np.save(folder / _CODES, engine.stored())
    if index.ranges is not None:
        index.ranges.write(folder / _RANGES)
    if index.rescore_rows is not None:
        np.save(folder / _ROWS, index.rescore_rows)
    if index.texts:
        with (folder / _TEXTS).open("w", encoding="utf-8", newline="\n") as file:
            for place, text in enumerate(index.texts):
                line = {"line": index.lines[place]} if index.lines else {}
                file.write(json.dumps({**line, "text": text}, ensure_ascii=False) + "\n")
    if index.probes is not None:
        width = index.probes.embeddings.shape[1]
        table = np.empty(len(index.probes.ids), [("id", np.int64), ("embedding", np.float32, (width,))])
        table["id"], table["embedding"] = index.probes.ids, index.probes.embeddings
        np.save(folder / _PROBES, table)
