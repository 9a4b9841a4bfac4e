"""``check``: every converted file of a folder against the original weights in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from stopt import hub
from stopt.artifact import Manifest, engine_files, locate
from stopt.errors import ArtifactError, OptionError, UnsupportedModel
from stopt.folder import contained
from stopt.parity import ParityReport, Reference, compare, sample_texts, token_mismatch, tolerance_for
from stopt.quality import QualityReport, Retrieval, StsPairs, read_retrieval, read_sts
from stopt.reading import read_spec
from stopt.runtime.encoding import EncodeOptions, encode
from stopt.runtime.modules import load_modules
from stopt.runtime.options import OnnxOptions, OpenVinoOptions, TorchOptions, parse_model_kwargs
from stopt.runtime.pipeline import Pipeline
from stopt.runtime.sessions import open_file
from stopt.spec import Backend

__all__ = ["CheckOptions", "check"]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What is checked, and how strictly.

    Attributes:
        file_name: The file, or files, as ``model_kwargs={"file_name": ...}`` names them; None checks every file there is.
        dtype: Precision that OpenVINO is to run in; None is its own choice, as when serving.
        texts: Texts to check with; None takes those that ship with stopt.
        min_cosine: Smallest cosine with torch that passes; None is the default of each file's precision.
        max_abs: Largest difference that passes; None is the default of each file's precision.
        sts: TSV file of sentence pairs with scores, to correlate with.
        retrieval: Folder of a retrieval set in BEIR's layout, to search in.
    """

    file_name: str | Sequence[str] | None = None
    dtype: str | None = None
    texts: Sequence[str] | None = None
    min_cosine: float | None = None
    max_abs: float | None = None
    sts: Path | None = None
    retrieval: Path | None = None


def check(
    model: str | Path, options: CheckOptions | None = None, say: Say = lambda _: None
) -> list[ParityReport]:
    """Compare files with torch.

    Args:
        model: A model folder, or a Hub id of a repository with converted files.
        options: What and how strictly; None is every file, with default thresholds.
        say: Is told in words what is being done.

    Returns:
        One report per file; see :attr:`ParityReport.passed`.

    Raises:
        ArtifactError: If there is no file to check.
        SourceError: If the original weights are missing.
        UnsupportedModel: If stopt tokenises differently from transformers.
    """
    chosen = options or CheckOptions()
    source = hub.fetch(model, [*hub.WEIGHTS, "*.onnx*", "openvino/*"])
    root = source.folder
    spec = read_spec(root)
    files = _files(root, chosen.file_name)
    benchmarks = _benchmarks(chosen)
    say("running the original weights in torch")
    pipeline = Pipeline.open(root, spec, TorchOptions(dtype="float32"), "cpu")
    reference = Reference.measure(pipeline, list(chosen.texts or sample_texts()))
    if mismatch := token_mismatch(pipeline, reference.texts):
        raise UnsupportedModel(source.name, [f"stopt and transformers tokenise differently: {mismatch}"])
    expected = [_measure(benchmark, pipeline, "torch", say) for benchmark in benchmarks]
    manifest = Manifest.read(root)
    reports = []
    for backend, file in files:
        name = file.relative_to(root).as_posix()
        say(f"checking {name} with {len(reference.texts)} texts")
        parsed = parse_model_kwargs(backend, {"dtype": chosen.dtype} if backend is Backend.OPENVINO else {})
        assert isinstance(parsed, OnnxOptions | OpenVinoOptions)
        session = open_file(file, parsed, "cpu")
        candidate = replace(pipeline, session=session, modules=load_modules(root, spec, session.constant))
        recorded = manifest.files[name].precision if manifest and name in manifest.files else ""
        precision = _precision(name, recorded, session.precision)
        tolerance = tolerance_for(precision, min_cosine=chosen.min_cosine, max_abs=chosen.max_abs)
        report = compare(reference, candidate, tolerance, precision=precision, name=name)
        quality = [
            QualityReport(metric, figures[metric], found[metric])
            for benchmark, figures in zip(benchmarks, expected, strict=True)
            for found in [_measure(benchmark, candidate, name, say)]
            for metric in figures
        ]
        reports.append(replace(report, quality=tuple(quality)))
    return reports


def _benchmarks(options: CheckOptions) -> list[StsPairs | Retrieval]:
    found: list[StsPairs | Retrieval] = []
    if options.sts is not None:
        found.append(read_sts(options.sts))
    if options.retrieval is not None:
        found.append(read_retrieval(options.retrieval))
    return found


def _measure(benchmark: StsPairs | Retrieval, pipeline: Pipeline, name: str, say: Say) -> dict[str, float]:
    """Run a benchmark, with the prompts that the model has for queries and documents."""
    say(f"measuring {benchmark.name} with {name}")
    prompts = pipeline.spec.prompts

    def embed(texts: Sequence[str], prompt: str) -> Any:
        return encode(pipeline, list(texts), EncodeOptions(prompt=prompts.get(prompt) or ""))

    return benchmark.measure(embed, pipeline.spec.similarity)


def _files(root: Path, file_name: str | Sequence[str] | None) -> list[tuple[Backend, Path]]:
    """The files to check, with their engines."""
    engines = (Backend.ONNX, Backend.OPENVINO)
    if file_name is None:
        found = [
            (backend, contained(root, name)) for backend in engines for name in engine_files(root, backend)
        ]
        if not found:
            raise ArtifactError(f"{root} has no converted file to check", f"make one: stopt export {root}")
        return found
    return [_file(root, name) for name in ([file_name] if isinstance(file_name, str) else file_name)]


def _file(root: Path, name: str) -> tuple[Backend, Path]:
    match PurePosixPath(name).suffix:
        case ".onnx":
            backend = Backend.ONNX
        case ".xml":
            backend = Backend.OPENVINO
        case _:
            raise OptionError(
                f"file name {name!r} is neither an .onnx nor an .xml file",
                f"see which files there are: stopt inspect {root}",
            )
    return backend, locate(root, backend, name)


def _precision(name: str, recorded: str, running: str) -> str:
    """Precision that a file's deviation is to be explained by: int8 weights, else what the engine computes in."""
    if "int8" in (recorded or name):
        return "int8"
    if recorded == "float16" or name.endswith("_O4.onnx"):
        return "float16"
    return running if running in ("float16", "bfloat16") else "float32"
