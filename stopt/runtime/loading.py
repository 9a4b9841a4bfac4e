"""From a name and keywords to a :class:`~stopt.runtime.pipeline.Pipeline`: which engine, which file, converted or not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from glob import escape
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from stopt import hub
from stopt.artifact import MANIFEST, default_file, engine_files, engine_files_among, is_plain, locate
from stopt.certificate import Seal, identity
from stopt.counts import require_count
from stopt.errors import ArtifactError, MissingExtra, OptionError, SourceError, StoptError, suggest
from stopt.folder import contained
from stopt.parts import parts_of
from stopt.preflight import data_names
from stopt.reading import has_table, read_spec
from stopt.runtime.devices import describe_machine
from stopt.runtime.options import EngineOptions, OnnxOptions, TorchOptions, parse_backend, parse_model_kwargs
from stopt.runtime.pipeline import Pipeline
from stopt.spec import (
    ENGINES,
    Backend,
    ModelKind,
    ModelSpec,
    SparseStaticEmbedding,
    StaticEmbedding,
    TransformerSpec,
)
from stopt.staging import settle

__all__ = ["LoadRequest", "open_pipeline", "with_backend"]

logger = logging.getLogger("stopt")

T = TypeVar("T")

_ENGINE_PACKAGES = {Backend.ONNX: "onnxruntime", Backend.OPENVINO: "openvino", Backend.TORCH: "torch"}
# how names of files tell their precision: optimum's and stopt's
_PRECISION_MARKS = {"float16": ("O4", "fp16", "float16"), "bfloat16": ("bf16", "bfloat16")}
_PROCESSOR_KEYS = ("model_max_length", "padding_side", "truncation_side")


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What a caller asks to be loaded; the fields are the public classes' keywords.

    Attributes:
        reference: Model folder or Hub id.
        backend: Engine; None picks one whose plain file is there.
        device: ``cpu``, ``cuda`` …; None leaves it to the engine.
        model_kwargs: Options of the engine.
        processor_kwargs: Options of the tokenizer: model_max_length, padding_side, truncation_side.
        revision: Revision of a Hub repository.
        token: Hub token.
        cache_folder: Where fetched files are kept.
        local_files_only: Use the cache only.
        threads: Threads of the CPU; None is all that this process may use.
        kind: The kind that the model must be of; None takes any.
        verify: Whether files are held against the hashes in the folder's ``stopt.json``, if it has one.
    """

    reference: str | Path
    backend: str | None = None
    device: str | None = None
    model_kwargs: Mapping[str, Any] | None = None
    processor_kwargs: Mapping[str, Any] | None = None
    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_folder: str | Path | None = None
    local_files_only: bool = False
    threads: int | None = None
    kind: ModelKind | None = None
    verify: bool = True

    def fetch(self, wanted: Sequence[str]) -> hub.Source:
        """Have the small files of the model here, and the large ones that match ``wanted``."""
        return hub.fetch(
            self.reference,
            wanted,
            revision=self.revision,
            token=self.token,
            cache_folder=self.cache_folder,
            local_files_only=self.local_files_only,
        )

    def open(self, device: str | None, threads: int) -> Pipeline:
        """Open it on a device with a number of threads, as a worker does; see :func:`open_pipeline`."""
        return open_pipeline(replace(self, device=device, threads=threads))

    def pinned_to(self, source: hub.Source) -> LoadRequest:
        """The same request for exactly the commit that was found, so that the Hub is not asked again."""
        return replace(self, reference=source.pinned, revision=None)


def open_pipeline(request: LoadRequest) -> Pipeline:
    """Find the model, choose its file, convert it if there is none and that is possible, and open it.

    Raises:
        StoptError: One of the many that finding, reading and opening raise; see :mod:`stopt.errors`.
    """
    return _settled(request, _open_pipeline)


def with_backend(request: LoadRequest) -> LoadRequest:
    """Name the engine in a request that leaves it open, and log which one was picked; any other stays as it is.

    For several processes that are to open the same: it is said once, and all have the same one.

    Raises:
        StoptError: As :func:`open_pipeline`, where no engine can be picked.
    """
    return _settled(request, _with_backend)


def _settled(request: LoadRequest, step: Callable[[LoadRequest], T]) -> T:
    """Do something with a model; where its folder is given new files just then, once more."""
    manifest = Path(request.reference) / MANIFEST
    before = identity(manifest)
    try:
        return step(request)
    except StoptError:
        if identity(manifest) == before and not settle(manifest.parent):
            raise
    return step(request)


def _with_backend(request: LoadRequest) -> LoadRequest:
    backend = parse_backend(request.backend) or _backend_of_file(request.model_kwargs)
    if backend is None:
        source = request.fetch([pattern for each in ENGINES for pattern in _wanted(each, None)])
        request = request.pinned_to(source)
        backend = _pick_backend(source.folder, request.kind)
    return replace(request, backend=backend.value)


def _open_pipeline(request: LoadRequest) -> Pipeline:
    request = _with_backend(request)
    backend = parse_backend(request.backend)
    assert backend is not None
    options = parse_model_kwargs(backend, request.model_kwargs, request.threads)
    wanted = _wanted(backend, getattr(options, "file_name", None), options.subfolder)
    source = request.fetch(wanted)
    request = request.pinned_to(source)
    _check_listed(source, backend, getattr(options, "file_name", None), wanted)
    if data := _data_of(source, wanted):
        wanted += data
        source = request.fetch(wanted)
    if has_table(source.folder):
        source = request.fetch([*wanted, *hub.WEIGHTS])
    seal = Seal.of(source.folder, verify=request.verify)
    seal.check_small()
    spec = _with_processor(read_spec(source.folder, request.kind), request.processor_kwargs)
    _check_table(spec, options, request.device)
    _check_precision(source.folder, str(request.reference), spec, options)
    root = source.folder
    if not isinstance(options, TorchOptions) and _must_convert(root, spec, backend, options):
        from stopt.convert.cache import converted_folder

        root = converted_folder(
            request.fetch(hub.WEIGHTS), backend, kind=request.kind, fresh=options.export is True
        )
        options = replace(options, file_name=None, subfolder="")
        seal = Seal.of(root, verify=request.verify)
    read = _read_by(seal, spec, options)
    with seal.watching(read):
        pipeline = Pipeline.open(root, spec, options, request.device, home=source.folder)
    # the processor is looked at for such files alone: opening is to be quick
    overflowing = seal.in_8_bits(read)
    if (
        overflowing
        and pipeline.session.device.lower().startswith("cpu")
        and describe_machine().int8_overflows
    ):
        for name in overflowing:
            logger.warning(
                "%s has weights of 8 bits, whose products overflow on this processor, which has no VNNI: its vectors may be "
                "others than it was checked with; see them with `stopt check`, make it with `stopt quantize --reduce-range`",
                root / name,
            )
    return pipeline


def _read_by(seal: Seal, spec: ModelSpec, options: EngineOptions) -> list[str]:
    """The large files that opening a model reads, as far as its manifest names them."""
    if isinstance(options, TorchOptions) or isinstance(spec.front, SparseStaticEmbedding):
        return seal.weights()
    backend = Backend.ONNX if isinstance(options, OnnxOptions) else Backend.OPENVINO
    fronts = [part.front.path for part in parts_of(spec)]
    files = [locate(seal.root, backend, options.file_name, options.subfolder, front) for front in fronts]
    return [*(part for file in files for part in seal.parts(file)), *seal.weights(without=fronts)]


def _wanted(backend: Backend, file_name: str | None, subfolder: str = "") -> list[str]:
    """Patterns of a backend's large files in a Hub repository: of the model, and of the routes of a Router."""
    if backend is Backend.TORCH:
        return list(hub.WEIGHTS)
    name = file_name or default_file(backend).partition("/")[2]
    stem = name.removesuffix(".xml")
    files = [f"{stem}.xml", f"{stem}.bin"] if backend is Backend.OPENVINO else [name]
    base = f"{subfolder.strip('/')}/" if subfolder.strip("/") else ""
    places = [f"{escape(base)}{within}" for within in ("", f"{backend.value}/")]
    return [f"{route}{place}{escape(file)}" for file in files for place in places for route in ("", "*_*/")]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _check_listed(source: hub.Source, backend: Backend, file_name: str | None, wanted: Sequence[str]) -> None:
    """See that a named file is one of the repository's, of which only the wanted ones are here to be listed."""
    if file_name is None or not source.listed or any(_matches(name, wanted) for name in source.listed):
        return
    present = engine_files_among(source.listed, backend)
    raise ArtifactError(
        f"{source.name} has no {file_name}; its {backend.value} files: {', '.join(present) or 'none'}",
        suggest(file_name, present) if present else f"make one: stopt export {source.name}",
    )


def _data_of(source: hub.Source, wanted: Sequence[str]) -> list[str]:
    """Patterns of the files that fetched graphs have their weights in, which only the graphs know."""
    graphs = [
        name
        for name in source.listed
        if name.endswith(".onnx") and _matches(name, wanted) and (source.folder / name).is_file()
    ]
    return [
        escape((PurePosixPath(name).parent / each).as_posix())
        for name in graphs
        for each in data_names(contained(source.folder, name))
    ]


def _backend_of_file(model_kwargs: Mapping[str, Any] | None) -> Backend | None:
    """The engine that a named file is for."""
    name = str((model_kwargs or {}).get("file_name") or "")
    return Backend.ONNX if name.endswith(".onnx") else Backend.OPENVINO if name.endswith(".xml") else None


def _pick_backend(root: Path, kind: ModelKind | None) -> Backend:
    """An engine that is installed and whose plain file is there: ONNX, then OpenVINO, then the original weights.

    Those of a table need no engine.
    """
    front = read_spec(root, kind).front
    if not isinstance(front, TransformerSpec):
        return Backend.TORCH
    plain = [
        backend
        for backend in (Backend.ONNX, Backend.OPENVINO)
        if any(map(is_plain, engine_files(root, backend, front.path)))
    ]
    usable = [backend for backend in plain if find_spec(_ENGINE_PACKAGES[backend])]
    has_weights = any(contained(root, front.path).glob("model*.safetensors"))
    if has_weights and find_spec("torch") and find_spec("transformers"):
        usable.append(Backend.TORCH)
    if usable:
        others = f" (also possible: {', '.join(usable[1:])})" if usable[1:] else ""
        ambiguous = len(usable) > 1 and usable[1] is not Backend.TORCH
        logger.log(
            logging.WARNING if ambiguous else logging.INFO,
            "backend=%r picked for %s%s; backend= chooses",
            usable[0].value,
            root,
            others,
        )
        return usable[0]
    if plain or has_weights:
        missing = plain[0] if plain else Backend.TORCH
        raise MissingExtra(_ENGINE_PACKAGES[missing], missing.value)
    present = [
        name
        for backend in (Backend.ONNX, Backend.OPENVINO)
        for name in engine_files(root, backend, front.path)
    ]
    if present:
        raise ArtifactError(
            f"{root} has no unquantised file to pick; it has {', '.join(present)}",
            f"name the one to use: model_kwargs={{'file_name': {present[0]!r}}}",
        )
    raise SourceError(
        f"{root} has neither weights as safetensors nor converted files",
        "fetch the model again; weights that are a pickle must be saved as safetensors first",
    )


def _check_table(spec: ModelSpec, options: EngineOptions, device: str | None) -> None:
    """See that nothing is asked of a table that numpy does not do."""
    engine = isinstance(spec.front, StaticEmbedding) and not isinstance(options, TorchOptions)
    if isinstance(spec.front, TransformerSpec) or engine:
        return
    if device not in (None, "cpu"):
        raise OptionError(
            f"device {device!r} has no use: the model is a table, which numpy reads on the CPU",
            "leave it out",
        )
    if isinstance(options, TorchOptions):
        asked = {"attn_implementation": options.attn_implementation, "compile": options.compile or None}
        asked["dtype"] = None if options.dtype in ("auto", "float32") else options.dtype
        if found := [key for key, value in asked.items() if value is not None]:
            raise OptionError(
                f"{' and '.join(found)} in model_kwargs has no use: the model is a table, which numpy reads as float32",
                "leave it out",
            )


def _check_precision(root: Path, name: str, spec: ModelSpec, options: EngineOptions) -> None:
    """See that an ONNX file has the precision that was asked for, which is built into it."""
    dtype = options.dtype
    if not isinstance(options, OnnxOptions) or dtype in (None, "auto", "float32"):
        return
    marks = _PRECISION_MARKS.get(dtype, ())

    def has_it(file: str | None) -> bool:
        return file is not None and any(mark in Path(file).stem for mark in marks)

    if has_it(options.file_name):
        return
    found = [file for file in engine_files(root, Backend.ONNX, spec.front.path) if has_it(file)]
    if found:
        hint = f"name a file that has it: model_kwargs={{'file_name': {found[0]!r}}}"
    elif dtype == "float16":
        hint = f"make a file that has it, for GPUs: stopt optimize {name} -O4"
    else:
        hint = f"backend='openvino' and backend='torch' compute in {dtype}"
    raise OptionError(
        f"an ONNX file has its precision built in; dtype {dtype!r} cannot change that of "
        f"{options.file_name or default_file(Backend.ONNX)}",
        hint,
    )


def _must_convert(root: Path, spec: ModelSpec, backend: Backend, options: EngineOptions) -> bool:
    """Whether the model is to be converted first; only where no file was named and none is there, or on request."""
    if isinstance(options, TorchOptions) or isinstance(spec.front, SparseStaticEmbedding):
        return False
    if options.export is False:
        return False
    from stopt.convert import require_convert

    if options.export is True:
        if options.file_name is not None:
            raise OptionError(
                "export=True makes a new plain file; file_name names an existing one", "give one of the two"
            )
        require_convert()
        return True
    present = engine_files(root, backend, spec.front.path)
    if options.file_name is not None or options.subfolder or any(map(is_plain, present)):
        return False
    try:
        require_convert()
    except MissingExtra as error:
        raise ArtifactError(
            f"{root} has no plain file for backend {backend.value!r}, and stopt cannot make one without its convert extra",
            f"on a machine with `pip install 'stopt[convert]'`: stopt export {root} --backend {backend.value}",
        ) from error
    return True


def _with_processor(spec: ModelSpec, given: Mapping[str, Any] | None) -> ModelSpec:
    """Apply the caller's tokenizer options over the model's."""
    changes: dict[str, Any] = dict(given or {})
    for key in changes:
        if key not in _PROCESSOR_KEYS:
            raise OptionError(
                f"processor_kwargs has {key!r}, which is not supported", suggest(key, _PROCESSOR_KEYS)
            )
    for key in ("padding_side", "truncation_side"):
        if changes.get(key, "left") not in ("left", "right"):
            raise OptionError(f"{key} is {changes[key]!r}", "'left' or 'right'")
    if "model_max_length" in changes:
        changes["max_seq_length"] = check_length(changes.pop("model_max_length"), spec)
    return replace(spec, tokenizer=replace(spec.tokenizer, **changes))


def check_length(length: Any, spec: ModelSpec) -> int:
    """Check a number of tokens against the model's position table.

    Raises:
        OptionError: If it is not a positive number, or more than the model has positions for.
    """
    number = require_count(length, "max_seq_length", "a positive number of tokens")
    limit = spec.tokenizer.position_limit
    if limit is not None and number > limit:
        raise OptionError(
            f"max_seq_length {number} is more than the model's {limit} positions", f"use at most {limit}"
        )
    return number
