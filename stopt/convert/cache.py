"""Conversions made while loading: once, into stopt's own cache, never into the user's folder."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from stopt import __version__, hub
from stopt.artifact import default_file
from stopt.convert.export import export
from stopt.spec import Backend
from stopt.steps import ExportOptions

__all__ = ["cache_root", "converted_folder"]

logger = logging.getLogger("stopt")


def cache_root() -> Path:
    """Return the folder of the cache: ``$STOPT_CACHE``, else ``stopt`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if named := os.environ.get("STOPT_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stopt"


def converted_folder(source: hub.Source, backend: Backend, *, fresh: bool = False) -> Path:
    """Return a folder with the model converted for ``backend``, converting it unless that was done before.

    Args:
        source: The model.
        backend: ONNX or OpenVINO.
        fresh: Convert even so.

    Raises:
        StoptError: As :func:`stopt.convert.export.export` does.
    """
    folder = cache_root() / "converted" / f"{source.folder.name}-{_fingerprint(source.folder)}"
    file = folder / default_file(backend)
    if fresh or not file.is_file():
        logger.warning("converting %s for backend %r, once, into %s", source.name, backend.value, folder)
        export(source.folder, ExportOptions((backend,), output=folder, force=True))
    return folder


def _fingerprint(folder: Path) -> str:
    """A short hash that changes when a file of the folder, or stopt, does."""
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            digest.update(f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
