"""``check``: every converted file of a folder against the original weights in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from stopt import hub
from stopt.artifact import Manifest, engine_files, locate
from stopt.errors import ArtifactError, OptionError, UnsupportedModel
from stopt.examples import Example
from stopt.folder import contained
from stopt.parity import ParityReport, Reference, compare, samples_for, token_mismatch, tolerance_for
from stopt.parts import parts_of, read_model
from stopt.quality import QualityReport, Retrieval, StsPairs, read_retrieval, read_sts
from stopt.runtime.arrays import numpy_array
from stopt.runtime.encoding import EncodeOptions, encode
from stopt.runtime.options import OnnxOptions, OpenVinoOptions, TorchOptions, parse_model_kwargs
from stopt.runtime.pipeline import Pipeline, RunOptions
from stopt.runtime.scoring import ScoreOptions
from stopt.runtime.scoring import score as run_pairs
from stopt.runtime.sparse_arrays import SparseRows, collect_rows
from stopt.spec import SENTENCE, Activation, Backend, ModelKind, ModelSpec, TransformerSpec
from stopt.trust import trust_of

__all__ = ["CheckOptions", "check"]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What is checked, and how strictly.

    Attributes:
        file_name: The file, or files, as ``model_kwargs={"file_name": ...}`` names them; None checks every file there is.
        dtype: Precision that OpenVINO is to run in; None is float32, as when serving.
        texts: Texts to check with, pairs for a cross-encoder; None takes those that ship with stopt.
        min_cosine: Smallest cosine with torch that passes; None is the default of each file's precision.
        max_abs: Largest difference that passes; None is the default of each file's precision.
        sts: TSV file of sentence pairs with scores, to correlate with.
        retrieval: Folder of a retrieval set in BEIR's layout, to search in; not for cross-encoders.
        min_agreement: Smallest agreement that passes, of a sparse encoder's active dimensions or a cross-encoder's order;
            None is the default of each file's precision.
        task: The model's task, as optimum names it. A hint: another one is an error.
        library: The library whose model it is; a hint as well.
        trust_remote_code: Run the code that the model's config.json names, in torch.
    """

    file_name: str | Sequence[str] | None = None
    dtype: str | None = None
    texts: Sequence[Example] | None = None
    min_cosine: float | None = None
    max_abs: float | None = None
    sts: Path | None = None
    retrieval: Path | None = None
    min_agreement: float | None = None
    task: str | None = None
    library: str | None = None
    trust_remote_code: bool = False


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
    code = hub.CODE if chosen.trust_remote_code else ()
    source = hub.fetch(model, [*hub.WEIGHTS, *hub.CONVERTED, *code])
    root = source.folder
    spec = read_model(source, chosen.task, chosen.library)
    files = _files(root, parts_of(spec), chosen.file_name)
    trust_of(source, parts_of(spec), allowed=chosen.trust_remote_code)
    tolerance_for("float32", spec.kind, **_thresholds(chosen))  # those that mean nothing are refused at once
    benchmarks = _benchmarks(chosen, spec)
    manifest = Manifest.read(root)
    measured: dict[str, _Measured] = {}
    reports = []
    for part, backend, file in files:
        if part.front.path not in measured:
            engine = "torch" if isinstance(part.front, TransformerSpec) else "numpy"
            say(f"running the original weights in {engine}")
            measured[part.front.path] = _measure(source, spec, part, chosen, benchmarks, say)
        known = measured[part.front.path]
        name = file.relative_to(root).as_posix()
        what = "pairs" if part.kind is ModelKind.CROSS_ENCODER else "texts"
        say(f"checking {name} with {len(known.reference.texts)} {what}")
        parsed = parse_model_kwargs(backend, {"dtype": chosen.dtype} if backend is Backend.OPENVINO else {})
        assert isinstance(parsed, OnnxOptions | OpenVinoOptions)
        candidate = known.pipeline.with_file(file, parsed)
        recorded = manifest.files[name].precision if manifest and name in manifest.files else ""
        precision = _precision(name, recorded, candidate.session.precision)
        tolerance = tolerance_for(precision, spec.kind, **_thresholds(chosen))
        report = compare(known.reference, candidate, tolerance, precision=precision, name=name)
        routes = {**known.others, "": candidate}
        quality = [
            QualityReport(metric, figures[metric], found[metric])
            for benchmark, figures in zip(benchmarks, known.figures, strict=True)
            for found in [_benchmark(benchmark, routes, name, say)]
            for metric in figures
        ]
        reports.append(replace(report, quality=tuple(quality)))
    return reports


@dataclass(frozen=True, slots=True)
class _Measured:
    """A part of a model in torch, and what was measured of it.

    Attributes:
        pipeline: The part.
        others: Of a Router, the routes of queries and documents that are not this part.
        reference: What torch makes of the texts to check with.
        figures: Of each benchmark.
    """

    pipeline: Pipeline
    others: Mapping[str, Pipeline]
    reference: Reference
    figures: Sequence[Mapping[str, float]]


def _measure(
    source: hub.Source,
    spec: ModelSpec,
    part: ModelSpec,
    options: CheckOptions,
    benchmarks: Sequence[StsPairs | Retrieval],
    say: Say,
) -> _Measured:
    samples = samples_for(part.kind, options.texts)
    torch = TorchOptions(dtype="float32", trust_remote_code=options.trust_remote_code)
    pipeline = Pipeline.open(source.folder, part, torch, "cpu")
    reference = Reference.measure(pipeline, samples)
    if mismatch := token_mismatch(pipeline, reference.texts):
        raise UnsupportedModel(source.name, [f"stopt and transformers tokenise differently: {mismatch}"])
    others = {
        name: Pipeline.open(source.folder, route, torch, "cpu")
        for name, route in spec.routes.items()
        if benchmarks and name in ("query", "document") and route.front.path != part.front.path
    }
    figures = [_benchmark(benchmark, {**others, "": pipeline}, "torch", say) for benchmark in benchmarks]
    return _Measured(pipeline, others, reference, figures)


def _thresholds(options: CheckOptions) -> dict[str, float | None]:
    return {
        "min_cosine": options.min_cosine,
        "max_abs": options.max_abs,
        "min_agreement": options.min_agreement,
    }


def _benchmarks(options: CheckOptions, spec: ModelSpec) -> list[StsPairs | Retrieval]:
    found: list[StsPairs | Retrieval] = []
    cross = spec.kind is ModelKind.CROSS_ENCODER
    if options.sts is not None:
        if cross and spec.embedding_dimension != 1:
            raise OptionError(
                f"the model gives {spec.embedding_dimension} scores for a pair, and correlation needs one",
                "leave --sts out",
            )
        found.append(read_sts(options.sts))
    if options.retrieval is not None:
        if cross:
            raise OptionError(
                "a cross-encoder scores pairs, and a collection has too many of them to be searched with one",
                "measure it with --sts",
            )
        found.append(read_retrieval(options.retrieval))
    return found


def _benchmark(
    benchmark: StsPairs | Retrieval, routes: Mapping[str, Pipeline], name: str, say: Say
) -> dict[str, float]:
    """Run a benchmark, with the prompts that the model has for queries and documents, and a Router's routes for them."""
    say(f"measuring {benchmark.name} with {name}")
    spec = routes[""].spec

    def embed(texts: Sequence[str], role: str) -> Any:
        pipeline = routes.get(role, routes[""])
        options = RunOptions(spec.prompts.get(role) or "")
        if spec.kind is ModelKind.DENSE:
            return encode(pipeline, list(texts), EncodeOptions(options))
        batches = (
            (rows, SparseRows.from_dense(numpy_array(found[SENTENCE])))
            for rows, found in pipeline.stream(texts, options)
        )
        return collect_rows(batches, len(texts)).to_csr()

    def score(pairs: Sequence[tuple[str, str]]) -> Any:
        options = ScoreOptions(RunOptions(), spec.activation or Activation.IDENTITY)
        return run_pairs(routes[""], pairs, options)

    if spec.kind is ModelKind.CROSS_ENCODER:
        assert isinstance(benchmark, StsPairs)
        return benchmark.measure_scores(score)
    return benchmark.measure(embed, spec.similarity)


def _files(
    root: Path, parts: Sequence[ModelSpec], file_name: str | Sequence[str] | None
) -> list[tuple[ModelSpec, Backend, Path]]:
    """The files to check, with the parts of the model that they are and their engines."""
    if file_name is not None:
        names = [file_name] if isinstance(file_name, str) else file_name
        return [_file(root, parts, name) for name in names]
    found = []
    for part in parts:
        for backend in (Backend.ONNX, Backend.OPENVINO):
            present = engine_files(root, backend, part.front.path)
            found += [(part, backend, contained(root, name)) for name in present]
    if not found:
        raise ArtifactError(f"{root} has no converted file to check", f"make one: stopt export {root}")
    return found


def _file(root: Path, parts: Sequence[ModelSpec], name: str) -> tuple[ModelSpec, Backend, Path]:
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
    part = next((part for part in parts if name.startswith(f"{part.front.path}/")), parts[0])
    return part, backend, locate(root, backend, name, part=part.front.path)


def _precision(name: str, recorded: str, running: str) -> str:
    """Precision that a file's deviation is to be explained by: int8 weights, else what the engine computes in."""
    if "int8" in (recorded or name):
        return "int8"
    if recorded == "float16" or name.endswith("_O4.onnx"):
        return "float16"
    return running if running in ("float16", "bfloat16") else "float32"
