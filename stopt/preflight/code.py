"""Code that a model names for transformers to import (``auto_map``), and the Python files that it lies in.

Read as data: nothing here imports, compiles or runs any of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stopt.errors import CorruptModel, ResourceLimitError, UntrustedModel
from stopt.folder import contained, read_json_object
from stopt.preflight.config import AUTO_MAP

__all__ = ["NamedCode", "named_code"]

MAX_CODE_FILES = 200
_TOKENIZERS = {"AutoTokenizer", "AutoProcessor", "AutoImageProcessor"}  # which are never loaded with trust
_REFERENCE = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True, slots=True)
class NamedCode:
    """The code that a config.json names.

    Attributes:
        classes: The class that stands for each of transformers' ``Auto`` classes, as ``file.Class``; for a class of
            another repository ``organisation/name--file.Class``.
        files: Python files beside the configuration and below, which the code can import: paths relative to the model
            folder.
        home: Folder of the configuration, relative to the model folder. The files of the classes lie in it, and not in
            folders of it: transformers looks nowhere else (its ``get_cached_module_file``).
    """

    classes: Mapping[str, str]
    files: tuple[str, ...]
    home: str = ""

    def require_here(self, root: Path) -> None:
        """See that all of the code is in the folder, so that what is read is what is run.

        Raises:
            UntrustedModel: If a class is of another repository, whose code could be another one tomorrow.
            CorruptModel: If a file is missing, or something that is no name of a class stands for one.
        """
        for kind, name in self.classes.items():
            if kind in _TOKENIZERS:
                continue
            repository, elsewhere, _ = name.partition("--")
            if elsewhere:
                raise UntrustedModel(
                    f"{root} names code of another repository, {repository[:120]!r}, which can change at any time",
                    "copy that code into the folder and name it in auto_map without the repository; then read it",
                )
            if not _REFERENCE.fullmatch(name):
                raise CorruptModel(f"{root}: {AUTO_MAP} names {name!r:.120}, expected file.Class")
            self._require_file(root, f"{name.partition('.')[0]}.py")

    def _require_file(self, root: Path, file: str) -> None:
        """See that a file is where transformers takes it from."""
        wanted = f"{self.home}/{file}".lstrip("/")
        if wanted in self.files:
            return
        lost = [each for each in self.files if PurePosixPath(each).name == file]
        if lost:
            raise CorruptModel(
                f"{root} has no {wanted}, which its {AUTO_MAP} names; there is {', '.join(lost[:3])}",
                "put it beside config.json, where transformers looks for it",
            )
        raise CorruptModel(
            f"{root} has no {wanted}, which its {AUTO_MAP} names", "fetch the model again with its code"
        )


def named_code(root: Path, path: str = "") -> NamedCode | None:
    """Return the code that a transformer's config.json names; None if it names none.

    Args:
        root: The model folder.
        path: The transformer's folder in it.

    Raises:
        CorruptModel: If an ``auto_map`` is no table of names.
        UntrustedModel: If a Python file is a link out of the folder.
        ResourceLimitError: If there are more Python files than any model has.
    """
    file = contained(root, path, "config.json")
    found = read_json_object(file).get(AUTO_MAP) if file.is_file() else None
    classes = dict(_classes(file, found)) if found else {}
    if not classes:
        return None
    home = contained(root, path)
    names = [each.relative_to(root).as_posix() for each in home.rglob("*.py") if each.is_file()]
    if len(names) > MAX_CODE_FILES:
        raise ResourceLimitError(
            f"{home} has more than {MAX_CODE_FILES} Python files", "is this the folder of a model?"
        )
    for each in names:
        contained(root, each)
    return NamedCode(classes, tuple(sorted(names)), "" if home == root else home.relative_to(root).as_posix())


def _classes(file: Path, found: Any) -> Iterator[tuple[str, str]]:
    """The entries of an ``auto_map``; a tokenizer has a list of two, slow and fast, either of which may be null."""
    if not isinstance(found, dict):
        raise CorruptModel(f"{file}: {AUTO_MAP} is {found!r:.60}, expected names of classes")
    for key, value in found.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str):
                yield key, each
            elif each is not None:
                raise CorruptModel(f"{file}: {AUTO_MAP} names {each!r:.60} for {key[:60]}, expected a class")
