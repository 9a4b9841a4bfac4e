"""Who takes part in ``bench``: the files of a folder, torch beside them, and what cannot be measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from stopt.artifact import engine_files, locate
from stopt.errors import ArtifactError, MissingExtra, OptionError
from stopt.examples import Example
from stopt.folder import contained
from stopt.parts import parts_of
from stopt.spec import Backend, ModelKind, ModelSpec
from stopt.trust import configurations_with_code

__all__ = ["TORCH", "BenchOptions", "Contender", "choose"]

TORCH = "model.safetensors"
_BACKENDS = {".onnx": Backend.ONNX, ".xml": Backend.OPENVINO}
_CLASSES = {
    ModelKind.DENSE: ("SentenceTransformer", "encode"),
    ModelKind.SPARSE: ("SparseEncoder", "encode"),
    ModelKind.CROSS_ENCODER: ("CrossEncoder", "predict"),
}


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is measured, and for how long.

    Attributes:
        file_names: Files, as ``model_kwargs={"file_name": ...}`` names them; none is every file there is.
        texts: Texts, or pairs for a cross-encoder, to measure with; None takes those that ship with stopt.
        dtypes: Precisions for OpenVINO to run in, each a row of its own; none is its own choice, as when serving.
        device: Where they run, such as ``"cuda"``; None leaves it to each engine.
        torch: Whether the original weights are a row, which the others' vectors and speeds are compared with.
        batch_size: Texts in a batch at most; None is ``encode``'s default.
        max_batch_tokens: Tokens in a batch at most; None is ``encode``'s default.
        threads: Threads of each process; None is the constructor's default.
        rounds: Turns that each file gets.
        seconds: Length of a turn at least; all texts are encoded once at least.
    """

    file_names: Sequence[str] = ()
    texts: Sequence[Example] | None = None
    dtypes: Sequence[str] = ()
    device: str | None = None
    torch: bool = True
    batch_size: int | None = None
    max_batch_tokens: int | None = None
    threads: int | None = None
    rounds: int = 5
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise OptionError(f"rounds is {self.rounds}", "one at least; more make the medians steadier")
        if not self.seconds >= 0:
            raise OptionError(f"seconds is {self.seconds}", "the length of a turn: 0 or more")


@dataclass(frozen=True, slots=True)
class Contender:
    """One row to be.

    Attributes:
        name: What it is called: the file, relative to the model folder.
        backend: Engine that runs it.
        path: The file.
        model_kwargs: How the engine opens it.
    """

    name: str
    backend: Backend
    path: Path
    model_kwargs: Mapping[str, Any]

    def request(self, root: Path, kind: ModelKind, options: BenchOptions) -> dict[str, Any]:
        """Return what its process is told; what the caller left open stays out, for the defaults."""
        init = {
            "model_name_or_path": str(root),
            "backend": self.backend.value,
            "device": options.device,
            "model_kwargs": dict(self.model_kwargs),
            "threads": options.threads,
        }
        call = {"batch_size": options.batch_size, "max_batch_tokens": options.max_batch_tokens}
        name, method = _CLASSES[kind]
        return {
            "class": name,
            "method": method,
            "init": {key: value for key, value in init.items() if value is not None},
            "call": {key: value for key, value in call.items() if value is not None},
        }

    @property
    def size_bytes(self) -> int:
        """Size of the file with what belongs to it: OpenVINO's weights, ONNX' external data, all parts of the weights."""
        match self.backend:
            case Backend.OPENVINO:
                parts = [self.path, self.path.with_suffix(".bin")]
            case Backend.ONNX:
                parts = [self.path, *self.path.parent.glob(f"{self.path.name}[_.]data*")]
            case Backend.TORCH:
                parts = sorted(self.path.parent.glob("model*.safetensors"))
        return sum(part.stat().st_size for part in parts if part.is_file())


def choose(root: Path, spec: ModelSpec, options: BenchOptions) -> tuple[list[Contender], list[str]]:
    """Return the files to measure, and what cannot be measured of those that nobody named.

    Raises:
        ArtifactError: If there is nothing to measure.
        MissingExtra: If a file was named whose engine is not installed.
        OptionError: If a name is no file of an engine.
    """
    found, notes = [], []
    for backend, path in _files(root, options.file_names):
        name = path.relative_to(root).as_posix()
        package = "onnxruntime" if backend is Backend.ONNX else "openvino"
        if not find_spec(package):
            if options.file_names:
                raise MissingExtra(package, backend.value)
            notes.append(
                f"{name} is not measured: {package} is not installed (pip install 'stopt[{backend.value}]')"
            )
            continue
        if backend is Backend.OPENVINO and options.dtypes:
            found += [
                Contender(f"{name} in {dtype}", backend, path, {"file_name": name, "dtype": dtype})
                for dtype in dict.fromkeys(options.dtypes)
            ]
        else:
            found.append(Contender(name, backend, path, {"file_name": name}))
    if not found:
        raise ArtifactError(
            f"{root} has no converted file to measure",
            notes[0] if notes else f"make one: stopt export {root}",
        )
    weights = sorted(contained(root, spec.front.path).glob("model*.safetensors"))
    missing = [package for package in ("torch", "transformers") if not find_spec(package)]
    if not options.torch:
        notes.append("torch was left out: no cosine and no speed relative to it")
    elif missing:
        notes.append(f"no cosine to torch: {missing[0]} is not installed (pip install 'stopt[torch]')")
    elif not weights:
        notes.append(f"no cosine to torch: {root} has no original weights")
    elif configurations_with_code(root, parts_of(spec)):
        notes.append(
            f"no cosine to torch: {root} needs code of its own there, which is never run to serve a model"
        )
    else:
        found.insert(0, Contender(TORCH, Backend.TORCH, weights[0], {"dtype": "float32"}))
    return found, notes


def _files(root: Path, names: Sequence[str]) -> Iterator[tuple[Backend, Path]]:
    if not names:
        for backend in (Backend.ONNX, Backend.OPENVINO):
            for name in engine_files(root, backend):
                yield backend, contained(root, name)
    for name in dict.fromkeys(names):
        suffix = PurePosixPath(name).suffix
        if suffix not in _BACKENDS:
            raise OptionError(
                f"file name {name!r} is neither an .onnx nor an .xml file",
                f"see which files there are: stopt inspect {root}",
            )
        yield _BACKENDS[suffix], locate(root, _BACKENDS[suffix], name)
