"""A model folder on disk: which converted files it has, what is known of them, how new ones get in.

Names and places are sentence-transformers': ``onnx/model.onnx``, ``openvino/openvino_model.xml`` with its
``.bin``. Beside them stopt keeps ``stopt.json``, the manifest; nothing depends on its presence.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from stopt.errors import ArtifactError, CorruptModel, OptionError, suggest
from stopt.folder import contained, parse_json_object, read_json_object
from stopt.spec import Backend

__all__ = [
    "MANIFEST",
    "FileRecord",
    "Manifest",
    "default_file",
    "describe_parts",
    "engine_files",
    "engine_files_among",
    "is_models_own",
    "is_plain",
    "locate",
    "replacing",
    "require_folder_of",
    "sha256",
    "write_text",
]

MANIFEST = "stopt.json"
SCHEMA = 2
_READABLE = (1, 2)  # the first had no sizes of inputs, no steps and no trust

_DEFAULT_NAMES = {Backend.ONNX: "model.onnx", Backend.OPENVINO: "openvino_model.xml"}
_SUFFIXES = {Backend.ONNX: ".onnx", Backend.OPENVINO: ".xml"}


def default_file(backend: Backend) -> str:
    """Where the plain export of a backend belongs, relative to the model folder."""
    return f"{backend.value}/{_DEFAULT_NAMES[backend]}"


def engine_files(root: Path, backend: Backend, part: str = "") -> list[str]:
    """List the files of a backend in a model folder and its ``onnx`` or ``openvino`` folder, sorted.

    Args:
        root: The model folder.
        backend: The engine.
        part: Folder of the transformer in it, such as that of a Router's route: it has its files beside it. If it has
            none, those of the model folder count.

    Returns:
        Paths relative to ``root``, with ``/``. The tokenizer graphs that optimum-cli writes for OpenVINO are left out.
    """
    found = []
    for folder in dict.fromkeys((root / part, root / part / backend.value)):
        for path in sorted(folder.glob(f"*{_SUFFIXES[backend]}")):
            if path.is_file() and not path.stem.endswith(("_tokenizer", "_detokenizer")):
                found.append(path.relative_to(root).as_posix())
    return engine_files(root, backend) if part and not found else found


def engine_files_among(names: Iterable[str], backend: Backend, part: str = "") -> list[str]:
    """Like :func:`engine_files`, for a list of the files of a model folder that is not here."""
    homes = {folder for base in (part, "") for folder in (base, f"{base}/{backend.value}".lstrip("/"))}
    found = []
    for name in sorted(names):
        folder, _, file = name.rpartition("/")
        stem = file.removesuffix(_SUFFIXES[backend])
        tokenizer = stem.endswith(("_tokenizer", "_detokenizer"))
        if folder in homes and file != stem and not tokenizer:
            found.append(name)
    within = [name for name in found if part and name.startswith(f"{part}/")]
    return within or found


def is_plain(file: str) -> bool:
    """Whether a file is the plain, unquantised export, going by its name."""
    return PurePosixPath(file).name in _DEFAULT_NAMES.values()


# what libraries name the files of a model; of another name, a file may be anybody's business
_OWN = re.compile(
    r"(?:[^/]+/){0,3}(?:config|modules|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|merges"
    r"|sentence_\w+_config|config_sentence_transformers|router_config|preprocessor_config|processor_config"
    r"|generation_config|embedding_ranges|model\.safetensors\.index)\.json"
    r"|(?:[^/]+/){0,3}(?:vocab|merges)\.txt"
    r"|(?:[^/]+/){0,3}(?:tokenizer|spm|spiece|sentencepiece[\w.]*)\.model"
    r"|(?:[^/]+/){0,3}model(?:-\d{5}-of-\d{5})?\.safetensors"
    r"|README\.md|LICENSE[\w.]*|NOTICE[\w.]*"
)


def is_models_own(name: str) -> bool:
    """Whether a file is one that a model consists of, going by its name; for what leaves this machine.

    Args:
        name: Path relative to the model folder, with ``/``.
    """
    parts = name.split("/")
    hidden = any(part.startswith(".") for part in parts)
    return (
        not hidden and parts[0] not in {each.value for each in Backend} and _OWN.fullmatch(name) is not None
    )


def locate(
    root: Path, backend: Backend, file_name: str | None = None, subfolder: str = "", part: str = ""
) -> Path:
    """Find the file that a name stands for, as sentence-transformers resolves it.

    Args:
        root: The model folder.
        backend: ONNX or OpenVINO.
        file_name: Path relative to the folder, or to its folder for that backend; None is the plain export.
        subfolder: Folder between ``root`` and the file.
        part: Folder of the transformer in the model folder; its files lie beside it.

    Raises:
        ArtifactError: If it is not there; lists the files that are. Nothing else is used instead.
    """
    name = file_name or _DEFAULT_NAMES[backend]
    base = f"{subfolder.strip('/')}/" if subfolder.strip("/") else ""
    if not name.endswith(_SUFFIXES[backend]):
        raise OptionError(
            f"file_name {name!r} is not a {_SUFFIXES[backend]} file, which backend {backend.value!r} opens",
            suggest(name, engine_files(root, backend)) if engine_files(root, backend) else "",
        )
    within = f"{part}/" if part else ""
    for place in dict.fromkeys((within, "")):
        for candidate in (f"{place}{base}{name}", f"{place}{base}{backend.value}/{name}"):
            path = contained(root, candidate)
            if path.is_file():
                return path
    present = engine_files(root, backend, part)
    if file_name is None and not present:
        raise ArtifactError(
            f"{root} has no file for backend {backend.value!r}",
            f"make one: stopt export {root} --backend {backend.value}",
        )
    listed = ", ".join(present) or "none"
    raise ArtifactError(
        f"{root} has no {base}{name}; its {backend.value} files: {listed}",
        f"{suggest(name, present)}"
        if present
        else f"make one: stopt export {root} --backend {backend.value}",
    )


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What is known of one converted file.

    Attributes:
        backend: Engine that runs it.
        precision: Precision of its weights and arithmetic.
        parts: sha256 (hexadecimal) and size (bytes) of each of its files, by path relative to the model folder.
        options: Options it was made with.
        versions: Packages that took part, with versions.
        parity: Its comparison with torch, the thresholds that it was held to included.
        step: What it was made by, in a recipe's words, so that it can be made again; empty where that is not known.
    """

    backend: str
    precision: str
    parts: Mapping[str, Mapping[str, str | int]]
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    parity: Mapping[str, Any]
    step: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """``stopt.json``: where a folder's converted files come from.

    Attributes:
        source: Hub id or folder name of the original model, its revision if it has one, and the ``license`` and
            ``base_model`` that its card names.
        inputs: sha256 and size of the original files that went in, by path.
        files: Converted files by path, relative to the model folder.
        trust: What the model was allowed when it was converted; see :mod:`stopt.trust`.
    """

    source: Mapping[str, str | None]
    inputs: Mapping[str, Mapping[str, str | int]] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    trust: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Manifest | None:
        """Read a folder's manifest; None if it has none.

        Raises:
            CorruptModel: If it is not one.
            UntrustedModel: If it names files outside the folder.
        """
        path = contained(root, MANIFEST)
        if not path.is_file():
            return None
        manifest = cls._of(read_json_object(path), str(path))
        for name in (*manifest.listed, *manifest.code):
            contained(root, name)
        return manifest

    @classmethod
    def parse(cls, text: str, name: str) -> Manifest:
        """Read a manifest that is no file here.

        Args:
            text: Its text.
            name: What to call it in errors.

        Raises:
            CorruptModel: If it is not one.
        """
        return cls._of(parse_json_object(text, name), name)

    @classmethod
    def _of(cls, document: Mapping[str, Any], path: str) -> Manifest:
        if document.get("schema") not in _READABLE:
            raise CorruptModel(
                f"{path} has schema {document.get('schema')!r}, this stopt reads {SCHEMA} and older",
                "update stopt, or delete the file",
            )
        try:
            files = {name: _record(record) for name, record in document["files"].items()}
            inputs = {name: _part(value) for name, value in document.get("inputs", {}).items()}
            trust = dict(document.get("trust", {}))
            if "code" in trust:
                trust["code"] = {name: _part(value) for name, value in trust["code"].items()}
            return cls(dict(document["source"]), inputs, files, trust)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptModel(
                f"{path} is not a manifest of stopt: {error}", "delete it and export again"
            ) from error

    @property
    def listed(self) -> dict[str, Mapping[str, str | int]]:
        """Every file that it knows, original and converted, with sha256 and, where that was recorded, size."""
        parts = {name: part for record in self.files.values() for name, part in record.parts.items()}
        return {**self.inputs, **parts}

    @property
    def code(self) -> Mapping[str, Mapping[str, str | int]]:
        """Files of the model's own code that a conversion was told to run, with sha256 and size."""
        return self.trust.get("code") or {}

    def is_intact(self, root: Path) -> bool:
        """Whether every converted file is there as it was recorded; hashes them."""
        parts = [(root / name, part) for record in self.files.values() for name, part in record.parts.items()]
        return all(path.is_file() and sha256(path) == part["sha256"] for path, part in parts)

    def with_file(self, name: str, record: FileRecord) -> Manifest:
        """Return a copy in which ``name`` is described by ``record``."""
        return replace(self, files={**self.files, name: record})

    def text(self) -> str:
        """Return what its file holds."""
        document = {"schema": SCHEMA, **asdict(self)}
        return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"

    def write(self, root: Path) -> None:
        """Write it into a folder, in one step."""
        write_text(root / MANIFEST, self.text())


def _record(value: Mapping[str, Any]) -> FileRecord:
    """A file's entry in the manifest, whose figures and sizes are numbers where there are any."""
    record = FileRecord(**value)
    for part in record.parts.values():
        if "size_bytes" not in _part(part):
            raise TypeError("a part has no size_bytes")
    if not isinstance(record.options, Mapping) or not isinstance(record.step, Mapping):
        raise TypeError("options and step are tables")
    if not isinstance(record.parity.get("min_cosine", 1.0), float | int):
        raise TypeError("min_cosine is no number")
    return record


def _part(value: Any) -> Mapping[str, str | int]:
    """A file's sha256 and size; of schema 1, inputs have a hash only."""
    part = {"sha256": value} if isinstance(value, str) else dict(value)
    if not isinstance(part["sha256"], str) or not isinstance(part.get("size_bytes", 0), int):
        raise TypeError("a file has no sha256 and size_bytes")
    return part


def require_folder_of(path: Path) -> None:
    """Make sure, before long work, that a file can be put where it is to go.

    Raises:
        ArtifactError: If its folder is not there.
    """
    if not path.parent.is_dir():
        raise ArtifactError(
            f"there is no folder {path.parent} for {path.name}", "make it, or name another place"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file beside ``path`` to write to, which takes its place in one step once it is complete.

    Raises:
        ArtifactError: If it cannot be written; ``path`` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be written: {error.strerror or error}", "name another place"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file in one step: it has its old content or the new, never a part.

    Raises:
        ArtifactError: If it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Hash a file: sha256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_parts(root: Path, files: Iterable[str]) -> dict[str, dict[str, str | int]]:
    """Hash and measure files, for a :class:`FileRecord`."""
    return {
        name: {"sha256": sha256(root / name), "size_bytes": (root / name).stat().st_size}
        for name in sorted(files)
    }
