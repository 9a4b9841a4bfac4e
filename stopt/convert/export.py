"""``export``: a model folder gains a plain ONNX or OpenVINO file, proved against torch before it appears."""

from __future__ import annotations

import filecmp
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter

from stopt import hub
from stopt.artifact import (
    MANIFEST,
    FileRecord,
    Manifest,
    commit,
    default_file,
    describe_parts,
    sha256,
    staging,
)
from stopt.convert.exporters import export_graph
from stopt.errors import ArtifactError, UnsupportedModel
from stopt.folder import contained
from stopt.parity import ParityReport, Reference, compare, sample_texts, token_mismatch, tolerance_for
from stopt.reading import read_spec
from stopt.runtime.modules import load_modules
from stopt.runtime.options import OnnxOptions, OpenVinoOptions, TorchOptions
from stopt.runtime.pipeline import Pipeline
from stopt.runtime.sessions import open_file
from stopt.runtime.sessions.torch import TorchSession
from stopt.spec import Backend

__all__ = ["ExportOptions", "Exported", "export"]

_PACKAGES = (
    "stopt",
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
    "optimum-intel",
    "onnx",
    "onnxruntime",
    "openvino",
)
_CONVERTED_FOLDERS = {"onnx", "openvino"}
_SIDECAR_SUFFIXES = {".json", ".md", ".model", ".safetensors", ".txt"}


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How a model is exported.

    Attributes:
        backends: Engines to export for.
        output: Folder to copy the model to first; None exports into the model's own folder (for a Hub id: into a
            folder of its name in the current one).
        force: Replace files that are there.
        texts: Texts to check with; None takes those that ship with stopt.
        min_cosine: Smallest cosine with torch that passes; None is the default for float32.
        max_abs: Largest difference that passes; None is the default for float32.
        revision: Revision of a Hub repository.
        token: Hub token.
    """

    backends: tuple[Backend, ...] = (Backend.ONNX,)
    output: Path | None = None
    force: bool = False
    texts: Sequence[str] | None = None
    min_cosine: float | None = None
    max_abs: float | None = None
    revision: str | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """One exported file.

    Attributes:
        folder: The model folder.
        file: The file in it, relative, with ``/``.
        size_bytes: Its size, data files included.
        seconds: Time the conversion and its check took.
        parity: The check.
    """

    folder: Path
    file: str
    size_bytes: int
    seconds: float
    parity: ParityReport


def export(
    model: str | Path, options: ExportOptions, say: Callable[[str], None] = lambda _: None
) -> list[Exported]:
    """Export a model to each of the backends, check each file against torch, and move it into place.

    Args:
        model: A model folder or a Hub id.
        options: How.
        say: Is told in words what is being done.

    Returns:
        What was made, in the order of ``options.backends``.

    Raises:
        StoptError: If the model cannot be read, exported or written (see :mod:`stopt.errors`);
            :class:`~stopt.errors.ParityError` if a file is not the model. Nothing is left behind by a failure.
    """
    source = hub.fetch(model, hub.WEIGHTS, revision=options.revision, token=options.token)
    spec = read_spec(source.folder)
    target = options.output or (source.folder if source.revision is None else Path(Path(source.name).name))
    for backend in options.backends:
        if (target / default_file(backend)).exists() and not options.force:
            raise ArtifactError(
                f"{target / default_file(backend)} exists already",
                "replace it with --force, or name another folder: -o FOLDER",
            )
    say(f"running {source.name} in torch")
    pipeline = Pipeline.open(source.folder, spec, TorchOptions(dtype="float32"), "cpu")
    reference = Reference.measure(pipeline, list(options.texts or sample_texts()))
    if mismatch := token_mismatch(pipeline, reference.texts):
        raise UnsupportedModel(source.name, [f"stopt and transformers tokenise differently: {mismatch}"])
    with staging(target) as staged:
        sidecars = (
            []
            if _same(target, source.folder)
            else _copy_sidecars(source.folder, staged, target, options.force)
        )
        manifest = Manifest.read(target) or Manifest(
            {"name": Path(source.name).name, "revision": source.revision}
        )
        manifest = replace(manifest, inputs=_hash_inputs(source.folder))
        made = []
        for number, backend in enumerate(options.backends, start=1):
            say(f"[{number}/{len(options.backends)}] exporting to {backend.value}, then checking the file")
            made.append(_export_one(pipeline, reference, staged, backend, options))
        for exported, record in made:
            manifest = manifest.with_file(exported.file, record)
        commit(staged, target, [*sidecars, *(part for _, record in made for part in record.parts)])
        manifest.write(target)
    return [replace(exported, folder=target) for exported, _ in made]


def _export_one(
    pipeline: Pipeline, reference: Reference, staged: Path, backend: Backend, options: ExportOptions
) -> tuple[Exported, FileRecord]:
    """Export for one backend into the staging folder and check the file there."""
    started = perf_counter()
    name = default_file(backend)
    file = staged / name
    assert isinstance(pipeline.session, TorchSession)
    export_graph(pipeline.session.model, backend, file, token_types=pipeline.spec.tokenizer.token_types)
    engine = OnnxOptions() if backend is Backend.ONNX else OpenVinoOptions(dtype="float32")
    session = open_file(file, engine, "cpu")
    modules = load_modules(pipeline.root, pipeline.spec, session.constant)
    candidate = replace(pipeline, session=session, modules=modules)
    tolerance = tolerance_for("float32", min_cosine=options.min_cosine, max_abs=options.max_abs)
    report = compare(reference, candidate, tolerance, precision="float32", name=name)
    report.raise_if_failed()
    parts = describe_parts(
        staged, [path.relative_to(staged).as_posix() for path in sorted(file.parent.iterdir())]
    )
    size = sum(int(part["size_bytes"]) for part in parts.values())
    record = FileRecord(
        backend=backend.value,
        precision="float32",
        parts=parts,
        options={"step": "export"},
        versions=_versions(),
        parity=report.as_dict(),
    )
    return Exported(staged, name, size, perf_counter() - started, report), record


def _copy_sidecars(source: Path, staged: Path, target: Path, force: bool) -> list[str]:
    """Copy the model's own files to the staging folder, those that the target has already left out.

    Returns:
        What was copied, relative to both folders.
    """
    copied = []
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if not path.is_file() or not _belongs(name):
            continue
        contained(source, name)
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
        and parts[0] not in _CONVERTED_FOLDERS
        and name != MANIFEST
        and (Path(name).suffix in _SIDECAR_SUFFIXES or parts[-1].startswith("LICENSE"))
    )


def _hash_inputs(folder: Path) -> dict[str, str]:
    """sha256 of the files that decide a vector."""
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        name: sha256(folder / name) for name in names if _belongs(name) and not name.endswith((".md", ".txt"))
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _same(a: Path, b: Path) -> bool:
    return a.exists() and a.samefile(b)
