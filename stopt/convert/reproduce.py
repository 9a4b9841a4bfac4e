"""Conversions made again from what ``stopt.json`` records of them, and compared with the files that are there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from stopt.artifact import FileRecord, Manifest
from stopt.convert.graphs import canonical_digest
from stopt.convert.produce import Say, package_versions, produce
from stopt.convert.run import plan
from stopt.errors import ArtifactError
from stopt.recipe import step_options
from stopt.trust import require_same_code

__all__ = ["Outcome", "Reproduction", "reproduce"]


class Outcome(StrEnum):
    """How a file that was made again compares with the one that is there."""

    IDENTICAL = "identical"
    EQUIVALENT = "same graph"
    DIFFERENT = "different"
    IMPOSSIBLE = "not possible"


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A file made again.

    Attributes:
        file: Its path, relative to the model folder.
        outcome: How it compares: the same bytes, or the same graph with its parts in another order or other remarks.
        versions: Packages whose versions differ from the recorded ones, as ``recorded -> now``.
        reason: Why it was not possible.
    """

    file: str
    outcome: Outcome
    versions: Mapping[str, str]
    reason: str = ""


def reproduce(
    root: Path,
    manifest: Manifest,
    *,
    texts: Path | None = None,
    trust_remote_code: bool = False,
    say: Say = lambda _: None,
) -> list[Reproduction]:
    """Make every file again that a manifest describes, in a folder that is gone afterwards, and compare.

    Args:
        root: The model folder, with its original weights.
        manifest: Its manifest.
        texts: The file of calibration texts, where the user's own were used; the manifest has its name only.
        trust_remote_code: Run the model's own code again, if it is still the code that was trusted.
        say: Is told in words what is being done.

    Raises:
        UntrustedModel: If the model has code of its own that is not trusted now, or is not what was trusted then.
        StoptError: As :func:`~stopt.convert.produce.produce` does.
    """
    possible = {name: record for name, record in manifest.files.items() if record.step}
    found = {
        name: Reproduction(name, Outcome.IMPOSSIBLE, {}, "how it was made is not recorded")
        for name in manifest.files
        if name not in possible
    }
    for name, record in list(possible.items()):
        if (own := record.step.get("texts")) and texts is None:
            reason = f"calibrated with {own}, which is not here: --texts FILE"
            found[name] = Reproduction(name, Outcome.IMPOSSIBLE, {}, reason)
            del possible[name]
    if possible:
        require_same_code(root, manifest, allowed=trust_remote_code)
    with tempfile.TemporaryDirectory(prefix="stopt-") as folder:
        for shared, steps in _runs(possible, texts):
            options = [step_options(str(step.pop("kind")), step, shared) for step in steps]
            options = [
                replace(each, output=Path(folder), force=True, trust_remote_code=trust_remote_code)
                for each in options
            ]
            produce(root, options[0], plan(options), say)
        made = Manifest.read(Path(folder))
        for name, record in possible.items():
            found[name] = _compare(root, Path(folder), name, record, made)
    return [found[name] for name in manifest.files]


def _runs(
    records: Mapping[str, FileRecord], texts: Path | None
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The steps behind files, each once and after those that it starts from; those with the same task in one run."""
    ordered: list[FileRecord] = []
    waiting = dict(records)
    while waiting:
        ready = [name for name, record in waiting.items() if record.options.get("source_file") not in waiting]
        if not ready:
            raise ArtifactError(
                f"stopt.json has files that are made from each other: {', '.join(sorted(waiting))}",
                "export the model again with --force",
            )
        ordered += [waiting.pop(name) for name in ready]
    tasks: dict[str | None, list[dict[str, Any]]] = {}
    for record in ordered:
        step = dict(record.step)
        steps = tasks.setdefault(step.pop("task", None), [])
        if "texts" in step and texts is not None:
            step["texts"] = texts
        if step not in steps:
            steps.append(step)
    for task, steps in tasks.items():
        yield {"task": task}, steps


def _compare(root: Path, folder: Path, name: str, record: FileRecord, made: Manifest | None) -> Reproduction:
    now = made.files[name] if made and name in made.files else None
    if now is None:
        return Reproduction(name, Outcome.IMPOSSIBLE, {}, "the recorded step makes another file")
    versions = package_versions()
    changed = {
        package: f"{version} -> {versions.get(package, 'not installed')}"
        for package, version in record.versions.items()
        if versions.get(package) != version
    }
    if {part: each["sha256"] for part, each in now.parts.items()} == {
        part: each["sha256"] for part, each in record.parts.items()
    }:
        return Reproduction(name, Outcome.IDENTICAL, changed)
    same = canonical_digest(root / name) == canonical_digest(folder / name)
    return Reproduction(name, Outcome.EQUIVALENT if same else Outcome.DIFFERENT, changed)
