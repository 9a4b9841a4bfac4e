"""Which files of a folder may be pushed: those that were compared with torch, as they were then, and nothing outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from stopt import hub
from stopt.artifact import MANIFEST, FileRecord, Manifest, describe_parts, engine_files, is_models_own, sha256
from stopt.embeddings.ranges import RANGES
from stopt.errors import ArtifactError, CorruptModel, OptionError, suggest
from stopt.folder import contained
from stopt.parts import parts_of
from stopt.preflight import vet_onnx, vet_openvino
from stopt.spec import Backend, ModelSpec

__all__ = ["Selection", "select"]


@dataclass(frozen=True, slots=True)
class Selection:
    """What is pushed.

    Attributes:
        records: Converted files by path, with what is known of them.
        checked: Those of them that passed a check.
        own: Files of the model itself that were asked for by name.
        all_own: All files of the model itself.
        left_out: Converted files that stay here.
        manifest: The folder's manifest, or an empty one.
        inputs: Files of the model that the converted ones were made from, as recorded.
    """

    records: Mapping[str, FileRecord]
    checked: frozenset[str]
    own: tuple[str, ...]
    all_own: tuple[str, ...]
    left_out: tuple[str, ...]
    manifest: Manifest
    inputs: Mapping[str, hub.Content]


def select(root: Path, spec: ModelSpec, include: Sequence[str], *, unchecked: bool) -> Selection:
    """Choose the files, and see that each may be pushed.

    Args:
        root: The model folder.
        spec: The model.
        include: Patterns of files, the model's own among them; empty is every converted file.
        unchecked: Take files that were not compared with torch, or are too far from it, too.

    Raises:
        ArtifactError: If there are none, or one has not passed a check.
        CorruptModel: If a file is not the one that was checked.
        UntrustedModel: If a file is, or refers to, something outside the folder.
        OptionError: If a pattern fits nothing.
    """
    manifest = Manifest.read(root)
    known = dict(manifest.files) if manifest else {}
    others = {
        name: _unrecorded(root, backend, name)
        for part in parts_of(spec)
        for backend in (Backend.ONNX, Backend.OPENVINO)
        for name in engine_files(root, backend, part.front.path)
        if name not in known
    }
    candidates = {**known, **others} if unchecked else known
    all_own = tuple(_models_own(root))
    records = {name: record for name, record in candidates.items() if _wanted(name, record, include)}
    own = tuple(name for name in all_own if include and _matches(name, include))
    _check_patterns(include, [*candidates, *others, *all_own])
    if not records and not own:
        _nothing(root, others)
    checked = frozenset(
        name for name, record in records.items() if name in known and record.parity.get("passed") is True
    )
    for name, record in records.items():
        if name not in checked and not unchecked:
            reasons = "; ".join(map(str, record.parity.get("failures") or ["its check is not recorded"]))
            raise ArtifactError(
                f"{name} has not passed a check: {reasons}",
                "convert it again, or push it as it is: --unchecked",
            )
        _check_file(root, name, record)
    left_out = tuple(sorted(name for name in others if name not in records))
    manifest = manifest or Manifest({"name": None, "revision": None})
    inputs = _inputs(root, manifest)
    return Selection(records, checked, own, all_own, left_out, manifest, inputs)


def _wanted(name: str, record: FileRecord, patterns: Sequence[str]) -> bool:
    return not patterns or any(_matches(each, patterns) for each in (name, *record.parts))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) or fnmatch(PurePosixPath(name).name, pattern) for pattern in patterns)


def _check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(_matches(name, [pattern]) for name in names):
            raise OptionError(f"no file of the model matches --include {pattern}", suggest(pattern, names))


def _nothing(root: Path, others: Mapping[str, FileRecord]) -> None:
    """Say why there is nothing to push."""
    if others:
        raise ArtifactError(
            f"{root} has converted files that stopt has not checked: {', '.join(others)}",
            f"convert with stopt, or push them as they are: --unchecked (see also: stopt check {root})",
        )
    raise ArtifactError(f"{root} has no converted files", f"make some: stopt export {root}")


def _unrecorded(root: Path, backend: Backend, name: str) -> FileRecord:
    """What can be said of a file that another tool made."""
    file = contained(root, name)
    parts = [name, *(_beside(name, each) for each in _data_files(file))]
    for part in parts:
        contained(root, part)
    known = describe_parts(root, [part for part in parts if (root / part).is_file()])
    return FileRecord(backend.value, "unknown", known, {}, {}, {})


def _data_files(file: Path) -> tuple[str, ...]:
    """The data files of a graph, as it names them; one that breaks a rule of the preflight is not read on."""
    if file.suffix == ".xml":
        vet_openvino(file)
        return (f"{file.stem}.bin",)
    return vet_onnx(file).data


def _beside(name: str, location: str) -> str:
    """Path of a data file, which a graph names relative to its own folder."""
    folder = PurePosixPath(name).parent.as_posix()
    return location if folder == "." else f"{folder}/{location}"


def _check_file(root: Path, name: str, record: FileRecord) -> None:
    """See that a file is what was recorded, with all of its data, and that none of it is outside the folder."""
    parts = record.parts
    for part, known in parts.items():
        path = contained(root, part)
        if not path.is_file():
            raise CorruptModel(f"{part} is missing, which {MANIFEST} records", "convert it again")
        if (found := sha256(path)) != known["sha256"]:
            raise CorruptModel(
                f"{part} is not the file that was checked: its sha256 is {found[:12]}…, {MANIFEST} has "
                f"{str(known['sha256'])[:12]}…",
                "convert it again",
            )
    for location in _data_files(contained(root, name)):
        part = _beside(name, location)
        contained(root, part)
        if part not in parts:
            raise CorruptModel(
                f"{name} has data in {part}, which {MANIFEST} does not record", "convert it again"
            )


def _inputs(root: Path, manifest: Manifest) -> dict[str, hub.Content]:
    """The recorded files of the model that are here.

    Raises:
        CorruptModel: If one is not what it was when the files were made from it.
    """
    found = {}
    for name, part in manifest.inputs.items():
        path = contained(root, name)
        if not path.is_file() or name == RANGES:
            continue
        if sha256(path) != part["sha256"]:
            raise CorruptModel(
                f"{name} is not the file that the converted ones were made from",
                "convert them again: --force",
            )
        found[name] = hub.Content(path, str(part["sha256"]), path.stat().st_size)
    return found


def _models_own(root: Path) -> list[str]:
    """The files that the model itself consists of, going by their names."""
    names = (path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file())
    return [name for name in names if is_models_own(name)]
