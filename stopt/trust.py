"""Code that a model brings along: the classes that ``auto_map`` names, in files beside the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stopt.folder import contained, read_json_object
from stopt.preflight import AUTO_MAP
from stopt.spec import ModelSpec

__all__ = ["configurations_with_code"]


def configurations_with_code(root: Path, parts: Iterable[ModelSpec]) -> dict[str, Mapping[str, Any]]:
    """Find the configurations of a model that name classes of its own.

    Args:
        root: The model folder.
        parts: The parts of the model that have files of their own; see :func:`~stopt.parts.parts_of`.

    Returns:
        Those files, by path relative to the folder.
    """
    names = dict.fromkeys(
        f"{path}/{file}".lstrip("/")
        for part in parts
        for path, file in (
            (part.front.path, "config.json"),
            (part.tokenizer.path, "tokenizer_config.json"),
        )
    )
    here = {name: read_json_object(contained(root, name)) for name in names if (root / name).is_file()}
    return {name: config for name, config in here.items() if config.get(AUTO_MAP)}
