"""Everything in a model folder that stopt may come to open, checked at once; and what it never opens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stopt.errors import ResourceLimitError, StoptError
from stopt.folder import contained
from stopt.preflight.onnx import vet_onnx
from stopt.preflight.openvino import vet_openvino
from stopt.preflight.safetensors import vet_safetensors
from stopt.preflight.tokenizer import vet_tokenizer
from stopt.preflight.verdict import Verdict

__all__ = ["Survey", "kind_of", "survey"]

MAX_FILES = 10_000
MAX_DEPTH = 4  # folders inside of folders; a Router's modules lie two deep

_GRAPHS = {".onnx": "onnx", ".xml": "openvino", ".safetensors": "safetensors"}
_VETS = {
    "onnx": vet_onnx,
    "openvino": vet_openvino,
    "safetensors": vet_safetensors,
    "tokenizer": vet_tokenizer,
}
# formats that can run code when they are opened, code itself, and settings that engines must not take from a model
_IGNORED_SUFFIXES = {
    *(
        ".bin",
        ".ckpt",
        ".dill",
        ".h5",
        ".joblib",
        ".keras",
        ".npy",
        ".npz",
        ".pickle",
        ".pkl",
        ".pt",
        ".pt2",
        ".pth",
    ),
    *(
        ".7z",
        ".blob",
        ".dll",
        ".dylib",
        ".engine",
        ".gguf",
        ".gz",
        ".ort",
        ".plan",
        ".py",
        ".pyc",
        ".sh",
        ".so",
    ),
    *(".jinja", ".msgpack", ".ot", ".pyd", ".tar", ".tflite", ".zip"),
}
_IGNORED_NAMES = {"ov_config.json", "session_options.json"}


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found in a folder.

    Attributes:
        checked: Files that break no rule.
        refused: What was wrong with the others.
        ignored: Files, relative to the folder, that could do something if they were opened, which they never are.
    """

    checked: tuple[Verdict, ...]
    refused: tuple[StoptError, ...]
    ignored: tuple[str, ...]

    def raise_if_refused(self) -> None:
        """Raise what was found first, with the number of the other findings.

        Raises:
            StoptError: If a file breaks a rule.
        """
        if not self.refused:
            return
        first = self.refused[0]
        others = len(self.refused) - 1
        if others:
            first = type(first)(
                f"{first.message}; {others} more of its files are refused as well", first.hint
            )
        raise first


def kind_of(file: Path) -> str | None:
    """What a file is opened as, going by its name: ``onnx``, ``openvino``, ``safetensors``, ``tokenizer``; None for others."""
    if file.name == "tokenizer.json":
        return "tokenizer"
    # the tokenizer graphs that optimum-cli writes for OpenVINO are not for serving
    return None if file.stem.endswith(("_tokenizer", "_detokenizer")) else _GRAPHS.get(file.suffix)


def survey(root: Path) -> Survey:
    """Check every graph, tokenizer and weights file of a folder.

    Raises:
        ResourceLimitError: If it has more files than any model.
    """
    checked, refused, ignored = [], [], []
    for name in _names(root):
        file = root / name
        kind = kind_of(file)
        if kind is not None:
            try:
                checked.append(_VETS[kind](contained(root, name)))
            except StoptError as error:
                refused.append(error)
        elif _is_ignored(file):
            ignored.append(name)
    return Survey(tuple(checked), tuple(refused), tuple(ignored))


def _is_ignored(file: Path) -> bool:
    weights = file.suffix == ".bin" and file.with_suffix(".xml").exists()
    return not weights and (file.suffix.lower() in _IGNORED_SUFFIXES or file.name in _IGNORED_NAMES)


def _names(root: Path) -> Iterator[str]:
    """Regular files of a folder, links included that lead to such, hidden ones left out."""
    number = 0
    for folder, folders, files in os.walk(root):
        inside = Path(folder).relative_to(root)
        folders[:] = (
            sorted(each for each in folders if not each.startswith("."))
            if len(inside.parts) < MAX_DEPTH
            else []
        )
        for name in sorted(files):
            number += 1
            if number > MAX_FILES:
                raise ResourceLimitError(
                    f"{root} has more than {MAX_FILES:,} files", "is this the folder of a model?"
                )
            if (Path(folder) / name).is_file():
                yield (inside / name).as_posix()
