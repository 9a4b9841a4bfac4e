"""Where a conversion comes from: the original model's own files, copied beside the converted ones and recorded."""

from __future__ import annotations

import filecmp
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from stopt import hub
from stopt.artifact import MANIFEST, describe_parts
from stopt.certificate import ADDED_LATER
from stopt.errors import ArtifactError
from stopt.folder import contained

__all__ = ["copy_sidecars", "default_target", "describe_inputs", "origin"]

_CARD_KEYS, _CARD_CHARACTERS = ("license", "base_model"), 20_000
_CONVERTED_FOLDERS = {"onnx", "openvino"}
_SIDECAR_SUFFIXES = {".json", ".md", ".model", ".safetensors", ".txt"}


def origin(source: hub.Source) -> dict[str, str | None]:
    """What the manifest says of the source: a Hub id, or the name of a folder without the path, which is nobody's business."""
    name, revision = (source.name, source.revision) if source.revision else hub.cached_as(source.folder)
    return {"name": name or source.folder.resolve().name, "revision": revision, **_card(source.folder)}


def _card(folder: Path) -> dict[str, str | None]:
    """License and base model that a model's card names in its first lines."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:_CARD_CHARACTERS]
    except OSError:
        return {}
    if not text.startswith("---\n"):
        return {}
    block = text[4:].partition("\n---")[0]
    found = {
        key: re.search(rf"^{key}:[ \t]*(?:\n-[ \t]*)?([^\s#]+)", block, re.MULTILINE) for key in _CARD_KEYS
    }
    return {key: match[1].strip("\"'") for key, match in found.items() if match}


def default_target(source: hub.Source) -> Path:
    """The model's own folder; for one out of the Hub's cache, a folder of its name here."""
    return (
        source.folder if source.revision is None else Path(source.name.partition("@")[0].rpartition("/")[2])
    )


def copy_sidecars(
    source: Path, staged: Path, target: Path, force: bool, code: Collection[str] = ()
) -> list[str]:
    """Copy the model's own files to the staging folder, those left out that are there or that the target has already.

    Args:
        source: The model folder.
        staged: The staging folder.
        target: The folder that gains the files.
        force: Whether files of it may be replaced.
        code: Files of code that was trusted, which belong to the model as well then.

    Returns:
        What was copied, relative to both folders.
    """
    copied = []
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if not path.is_file() or not (_belongs(name) or name in code):
            continue
        contained(source, name)
        if (staged / name).is_file():
            continue
        if (target / name).is_file():
            if filecmp.cmp(path, target / name, shallow=False):
                continue
            if not force:
                raise ArtifactError(
                    f"{target} has another {name} than {source}",
                    "choose an empty folder, or replace it with --force",
                )
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, staged / name)
        copied.append(name)
    return copied


def _belongs(name: str) -> bool:
    """Whether a file is part of the original model, going by its name: no converted files, pickles or hidden files."""
    parts = name.split("/")
    return (
        not any(part.startswith(".") for part in parts)
        and not _CONVERTED_FOLDERS.intersection(parts[:-1])
        and name != MANIFEST
        and (Path(name).suffix in _SIDECAR_SUFFIXES or _is_license(name))
    )


def describe_inputs(folder: Path) -> dict[str, Mapping[str, str | int]]:
    """sha256 and size of the files that decide a vector, and of all that tokenizers may read."""
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    chosen = [
        name
        for name in names
        if _belongs(name) and not name.endswith(".md") and not _is_license(name) and name not in ADDED_LATER
    ]
    return {**describe_parts(folder, chosen)}


def _is_license(name: str) -> bool:
    return PurePosixPath(name).name.startswith("LICENSE")
