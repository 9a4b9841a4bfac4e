"""One reading of one folder: its files, checked values, and what turned out to be unsupported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stopt.errors import CorruptModel
from stopt.folder import contained, read_json_object
from stopt.preflight.config import refuse_code
from stopt.spec import ModelKind

__all__ = ["Reading", "section"]


@dataclass(frozen=True, slots=True)
class Reading:
    """A model folder being read.

    Attributes:
        root: The folder.
        kind: What the model turns text into, once that is known.
        reasons: What was found so far that stopt does not do, in words; reported together at the end.
    """

    root: Path
    kind: ModelKind = ModelKind.DENSE
    reasons: list[str] = field(default_factory=list)

    def file(self, *parts: str) -> Path:
        """Return the path of a file that the model names, inside the folder for certain."""
        return contained(self.root, *parts)

    def required(self, *parts: str, transformers: bool = False) -> dict[str, Any]:
        """Read a JSON object that must be there, and asks for no code of its own.

        Args:
            parts: The file.
            transformers: Whether it is one of those in which transformers looks for the names of a model's own classes.
                Here they are no more than names; who would act on them refuses them.
        """
        path = self.file(*parts)
        config = read_json_object(path)
        refuse_code(path, config, unread=transformers)
        return config

    def optional(self, *parts: str, transformers: bool = False) -> dict[str, Any]:
        """Read a JSON object as :meth:`required` does; empty if there is no such file."""
        there = self.file(*parts).is_file()
        return self.required(*parts, transformers=transformers) if there else {}

    def positive(self, config: Mapping[str, Any], key: str) -> int:
        """Return a member that must be a positive whole number."""
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CorruptModel(f"{self.root}: {key} is {value!r}, expected a positive whole number")
        return value

    def flag(self, config: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
        """Return a member that must be true or false."""
        value = config.get(key, default)
        if not isinstance(value, bool):
            raise CorruptModel(f"{self.root}: {key} is {value!r}, expected true or false")
        return value


def section(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return the objects under ``keys`` as one; later ones win, absent ones count as empty."""
    merged: dict[str, Any] = {}
    for key in keys:
        part = config.get(key) or {}
        if not isinstance(part, dict):
            raise CorruptModel(f"{key!r} in a configuration of the model is not an object")
        merged.update(part)
    return merged
