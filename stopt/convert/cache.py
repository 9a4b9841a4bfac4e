"""Conversions made while loading: once, into stopt's own cache, never into the user's folder."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from stopt import __version__, hub
from stopt.artifact import default_file
from stopt.cache import cache_root
from stopt.certificate import ADDED_LATER
from stopt.convert.export import export
from stopt.parts import parts_of, within
from stopt.reading import read_spec
from stopt.spec import Backend, ModelKind, ModelSpec, Task, TransformerSpec
from stopt.steps import ExportOptions

__all__ = ["converted_folder"]

logger = logging.getLogger("stopt")


def converted_folder(
    source: hub.Source, backend: Backend, *, kind: ModelKind | None = None, fresh: bool = False
) -> Path:
    """Return a folder with the model converted for ``backend``, converting it unless that was done before.

    Args:
        source: The model.
        backend: ONNX or OpenVINO.
        kind: What the model is opened as, where its folder leaves that open.
        fresh: Convert even so.

    Raises:
        StoptError: As :func:`stopt.convert.export.export` does.
    """
    parts = parts_of(read_spec(source.folder, kind))
    folder = cache_root() / "converted" / f"{source.folder.name}-{_fingerprint(source.folder, parts[0].kind)}"
    files = [folder / within(part, default_file(backend)) for part in parts]
    if fresh or not all(file.is_file() for file in files):
        logger.warning("converting %s for backend %r, once, into %s", source.name, backend.value, folder)
        task = "fill-mask" if kind is ModelKind.SPARSE and _is_masked(parts[0]) else None
        export(source.folder, ExportOptions((backend,), output=folder, force=True, task=task))
    return folder


def _is_masked(part: ModelSpec) -> bool:
    return isinstance(part.front, TransformerSpec) and part.front.task is Task.MASKED_LM


def _fingerprint(folder: Path, kind: ModelKind) -> str:
    """A short hash that changes when a file of the folder, what it is opened as, or stopt does; ranges are no such file."""
    digest = hashlib.sha256(f"{__version__}\0{kind.value}".encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ADDED_LATER:
            status = path.stat()
            digest.update(f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
