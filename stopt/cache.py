"""Where stopt keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_root"]


def cache_root() -> Path:
    """Return the folder of the cache: ``$STOPT_CACHE``, else ``stopt`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if named := os.environ.get("STOPT_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stopt"
