"""Lists of the files of a commit, kept for as long as stopt's cache is: a commit never changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from stopt.artifact import write_text
from stopt.cache import cache_root
from stopt.errors import ArtifactError, StoptError
from stopt.folder import read_json_object

__all__ = ["Listing", "read", "write"]

Listing = Mapping[str, int]  # size (bytes) by path in the repository


def read(name: str, commit: str) -> Listing:
    """Return the files of a commit; empty if they are not known, or what is kept cannot be read."""
    try:
        found = read_json_object(_file(name, commit))
    except StoptError:  # the Hub is asked again
        return {}
    return {key: value for key, value in found.items() if isinstance(value, int)}


def write(name: str, commit: str, files: Listing) -> None:
    """Keep the files of a commit; a cache that cannot be written to is done without."""
    file = _file(name, commit)
    with suppress(OSError, ArtifactError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(dict(files)))


def _file(name: str, commit: str) -> Path:
    return cache_root() / "listings" / name.replace("/", "--") / f"{commit}.json"
