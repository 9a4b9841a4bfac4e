"""What every conversion does around its own work: find, stage, check against torch, record, move into place.

A conversion is a list of :class:`Product`; :func:`produce` makes them in order in a hidden folder beside their
destination and moves them in together, after every one has passed. A failure, an interrupt or a full disk leaves
nothing behind.
"""

from __future__ import annotations

import filecmp
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from time import perf_counter
from typing import Any

from stopt import hub
from stopt.artifact import (
    MANIFEST,
    FileRecord,
    Manifest,
    default_file,
    describe_parts,
    engine_files,
)
from stopt.convert.origin import copy_sidecars, default_target, describe_inputs, origin
from stopt.errors import (
    ArtifactError,
    ConversionError,
    CorruptModel,
    OptionError,
    UnsupportedModel,
    suggest,
)
from stopt.folder import contained
from stopt.interrupts import postponed
from stopt.overlap import require_apart
from stopt.parity import (
    ParityReport,
    Reference,
    Tolerance,
    compare,
    samples_for,
    token_mismatch,
    tolerance_for,
)
from stopt.parts import parts_of, read_model, within
from stopt.runtime.options import OnnxOptions, OpenVinoOptions, TorchOptions
from stopt.runtime.pipeline import Pipeline
from stopt.runtime.trial import admit_graph
from stopt.spec import Backend, ModelSpec, TransformerSpec
from stopt.staging import commit, held, staging
from stopt.steps import ConversionOptions
from stopt.trust import trust_of

__all__ = [
    "ConversionOptions",
    "Produced",
    "Product",
    "Say",
    "Workshop",
    "derived_name",
    "move_model",
    "package_versions",
    "produce",
]

Say = Callable[[str], None]

_PACKAGES = (
    "stopt",
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
    "optimum-intel",
    "nncf",
    "onnx",
    "onnxruntime",
    "openvino",
)


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where a conversion works, and with what.

    Attributes:
        target: The model folder that gains the files.
        staged: Hidden folder in it, where they are made.
        pipeline: The model in torch, float32.
        say: Is told in words what is being done.
    """

    target: Path
    staged: Path
    pipeline: Pipeline
    say: Say

    def find(self, name: str) -> Path:
        """Return a file made before in this conversion, else the one in the model folder, else the source's."""
        name = within(self.pipeline.spec, name)
        folders = (self.staged, self.target, self.pipeline.root)
        return next((folder / name for folder in folders if (folder / name).is_file()), self.target / name)


@dataclass(frozen=True, slots=True)
class Product:
    """One file to be made.

    Attributes:
        name: Where it belongs, relative to the model folder.
        backend: Engine that runs it.
        precision: Precision that its deviation from torch is judged by.
        options: How it is made, for the manifest.
        make: Writes it (and its data files, beside it) to the given path; returns what it found out, for the manifest.
        needs: Files that must be there before, relative to the model folder.
        step: The step of a recipe that makes it, so that it can be made again.
    """

    name: str
    backend: Backend
    precision: str
    options: Mapping[str, Any]
    make: Callable[[Workshop, Path], Mapping[str, Any]]
    needs: tuple[str, ...] = ()
    step: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Produced:
    """One file that was made.

    Attributes:
        folder: The model folder.
        file: The file in it, relative, with ``/``.
        size_bytes: Its size, data files included.
        seconds: Time that making and checking it took.
        parity: The check.
    """

    folder: Path
    file: str
    size_bytes: int
    seconds: float
    parity: ParityReport


def produce(
    model: str | Path, options: ConversionOptions, products: Sequence[Product], say: Say = lambda _: None
) -> list[Produced]:
    """Make files for a model, check each against torch, and move them into place together.

    Args:
        model: A model folder or a Hub id.
        options: Where to, and how strictly they are checked.
        products: What to make; one may use files made before it.
        say: Is told in words what is being done.

    Returns:
        What was made, in order.

    Raises:
        StoptError: If the model cannot be read, converted or written (see :mod:`stopt.errors`);
            :class:`~stopt.errors.ParityError` if a file is not the model. Nothing is left behind by a failure.
    """
    wanted = [*hub.WEIGHTS, *(hub.CODE if options.trust_remote_code else ())]
    source = hub.fetch(model, wanted, revision=options.revision, token=options.token)
    parts = parts_of(read_model(source, options.task, options.library))
    trust = trust_of(source, parts, allowed=options.trust_remote_code)
    target = options.output or default_target(source)
    if not (target.exists() and target.samefile(source.folder)):
        require_apart(target, [source.folder])
    placed = [(part, _placed(product, part)) for part in parts for product in products]
    _check_files(target, source.folder, placed, options.force)
    tolerances = [_tolerance(product, part, options) for part, product in placed]
    certificate = Manifest(origin(source), describe_inputs(source.folder), trust=trust)
    table = not any(isinstance(part.front, TransformerSpec) for part in parts)
    say(f"running {source.name} in {'numpy' if table else 'torch'}")
    measured = {part.front.path: _measure(source, part, options) for part in parts}
    with staging(target) as staged:
        same = target.exists() and target.samefile(source.folder)
        code = trust.get("code", ())
        sidecars = [] if same else copy_sidecars(source.folder, staged, target, options.force, code)
        made: list[tuple[Produced, FileRecord]] = []
        for number, ((part, product), tolerance) in enumerate(zip(placed, tolerances, strict=True), start=1):
            say(f"[{number}/{len(placed)}] making {product.name}")
            pipeline, reference = measured[part.front.path]
            workshop = Workshop(target, staged, pipeline, say)
            made.append(_make(product, workshop, reference, tolerance, options.task))
        with postponed(), held(target):
            if not same:  # another run may have replaced what was the same when this one began
                sidecars += copy_sidecars(source.folder, staged, target, options.force, code)
            _move_in(staged, target, sidecars, made, certificate, force=options.force)
    return [produced for produced, _ in made]


def _move_in(
    staged: Path,
    target: Path,
    sidecars: Sequence[str],
    made: Sequence[tuple[Produced, FileRecord]],
    certificate: Manifest,
    *,
    force: bool,
) -> None:
    """Put all files in place at once, with a manifest that has what other runs have put there meanwhile."""
    names = [*sidecars, *(part for _, record in made for part in record.parts), MANIFEST]
    for name in names[:-1]:
        place = target / name
        if not force and place.exists() and not filecmp.cmp(staged / name, place, shallow=False):
            raise ArtifactError(
                f"{place} was made by another run meanwhile",
                "replace it with --force, or name another folder: -o FOLDER",
            )
    there = Manifest.read(target)
    old = there.files if there else {}
    replaced = [part for each, _ in made if each.file in old for part in old[each.file].parts]
    if there is not None and _same_model(there, certificate):
        certificate = replace(certificate, source=there.source, files=there.files)
    for produced, record in made:
        certificate = certificate.with_file(produced.file, record)
    certificate.write(staged)
    commit(staged, target, names, remove=set(replaced) - set(certificate.listed))


def _same_model(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests are of the same weights and code, so that the files of both describe one model."""
    weights = [
        {name: part["sha256"] for name, part in each.inputs.items() if name.endswith(".safetensors")}
        for each in (one, other)
    ]
    return weights[0] == weights[1] and one.code == other.code


def _placed(product: Product, part: ModelSpec) -> Product:
    """The product with its names where the part of the model has its files."""
    options = dict(product.options)
    if "source_file" in options:
        options["source_file"] = within(part, options["source_file"])
    needs = tuple(within(part, name) for name in product.needs)
    return replace(product, name=within(part, product.name), needs=needs, options=options)


def _tolerance(product: Product, part: ModelSpec, options: ConversionOptions) -> Tolerance:
    """What is allowed, the caller's own thresholds put in; known before any work is done."""
    return tolerance_for(
        product.precision,
        part.kind,
        min_cosine=options.min_cosine,
        max_abs=options.max_abs,
        min_agreement=options.min_agreement,
    )


def _measure(source: hub.Source, part: ModelSpec, options: ConversionOptions) -> tuple[Pipeline, Reference]:
    """Run the texts to check with through torch."""
    samples = samples_for(part.kind, options.check_texts)
    torch = TorchOptions(dtype="float32", trust_remote_code=options.trust_remote_code)
    pipeline = Pipeline.open(source.folder, part, torch, "cpu")
    reference = Reference.measure(pipeline, samples)
    if mismatch := token_mismatch(pipeline, reference.texts):
        raise UnsupportedModel(source.name, [f"stopt and transformers tokenise differently: {mismatch}"])
    return pipeline, reference


def _check_files(
    target: Path, source: Path, products: Sequence[tuple[ModelSpec, Product]], force: bool
) -> None:
    """See that what is needed is there and what will be made is not, before any work is done."""
    made: set[str] = set()
    for part, product in products:
        for name in product.needs:
            _check_source(name, product, target)
            found = next((folder for folder in (target, source) if (folder / name).is_file()), None)
            if found is not None and name not in made:
                admit_graph(contained(found, name))
            if name not in made and found is None:
                present = engine_files(target, product.backend, part.front.path)
                raise ArtifactError(
                    f"{target} has no {name}, which {product.name} is made from",
                    suggest(name, present)
                    if present
                    else f"make it first: stopt export {target} --backend {product.backend.value}",
                )
        if (target / product.name).exists() and not force:
            raise ArtifactError(
                f"{target / product.name} exists already",
                "replace it with --force, or name another folder: -o FOLDER",
            )
        made.add(product.name)


def _check_source(name: str, product: Product, target: Path) -> None:
    """See that a file to start from is one of the model folder, and of the engine that the result is for."""
    path, ending = PurePosixPath(name), PurePosixPath(default_file(product.backend)).suffix
    if path.is_absolute() or ".." in path.parts:
        raise OptionError(
            f"{name} is not in the model folder",
            f"name a file in {target}, such as {default_file(product.backend)}",
        )
    if path.suffix != ending:
        raise OptionError(
            f"{name} is no {ending} file, which a file for {product.backend.value} is made from",
            f"such as {default_file(product.backend)}",
        )


def _make(
    product: Product, workshop: Workshop, reference: Reference, tolerance: Tolerance, task: str | None
) -> tuple[Produced, FileRecord]:
    """Make one file in the staging folder and check it there."""
    started = perf_counter()
    file = workshop.staged / product.name
    file.parent.mkdir(parents=True, exist_ok=True)
    before = set(file.parent.iterdir())
    found = product.make(workshop, file)
    # OpenVINO is told float32 so that the figures are the file's, not this machine's choice of arithmetic
    engine = OnnxOptions() if product.backend is Backend.ONNX else OpenVinoOptions(dtype="float32")
    try:
        candidate = workshop.pipeline.with_file(file, engine)
    except CorruptModel as error:
        raise ConversionError(
            f"{product.name} was made, but its engine cannot open it: {error.__cause__ or error.message}",
            "start from the plain export, or leave the operators it names in float",
        ) from error
    try:
        report = compare(reference, candidate, tolerance, precision=product.precision, name=product.name)
    except CorruptModel as error:
        architecture = getattr(workshop.pipeline.spec.front, "model_type", "this architecture")
        raise ConversionError(
            f"{architecture!r} does not convert to {product.backend.value}: {product.name} was made, and fails on texts of "
            f"other lengths or batches than it was traced with: {error.message}",
            "serve it with backend='torch', or try the other backend",
        ) from error
    report.raise_if_failed()
    new = [path.relative_to(workshop.staged).as_posix() for path in set(file.parent.iterdir()) - before]
    parts = describe_parts(workshop.staged, new)
    record = FileRecord(
        backend=product.backend.value,
        precision=product.precision,
        parts=parts,
        options={**product.options, **found},
        versions=package_versions(),
        # texts may be private, and the manifest is published
        parity={key: value for key, value in report.as_dict().items() if key != "worst_text"},
        step=product.step if task is None else {**product.step, "task": task},
    )
    size = sum(int(part["size_bytes"]) for part in parts.values())
    return Produced(workshop.target, product.name, size, perf_counter() - started, report), record


def derived_name(source_file: str, suffix: str) -> str:
    """Name a file made from another: ``onnx/model.onnx`` and ``O3`` give ``onnx/model_O3.onnx``."""
    stem, dot, ending = source_file.rpartition(".")
    return f"{stem}_{suffix}{dot}{ending}"


def move_model(made: Path, file: Path) -> None:
    """Move an .onnx file with its data files to where it belongs; the names of data files are kept, as it has them inside."""
    for path in sorted(made.parent.iterdir()):
        if path.name.startswith(made.name) and path != made:
            path.replace(file.parent / path.name)
    made.replace(file)


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that take part in conversions, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
