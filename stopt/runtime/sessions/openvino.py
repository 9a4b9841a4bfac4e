"""OpenVINO."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from itertools import chain, islice
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
import openvino as ov

from stopt.errors import CorruptModel, OptionError
from stopt.heads import SERVED, Head
from stopt.heads.openvino import fingerprint, fuse
from stopt.runtime.arrays import Array
from stopt.runtime.batching import BatchLimits
from stopt.runtime.devices import describe_machine
from stopt.runtime.forks import leave_in_copies
from stopt.runtime.modules import Features
from stopt.runtime.opened import OpenedFiles
from stopt.runtime.options import OpenVinoOptions
from stopt.runtime.sessions import are_same, batches_within, feed, overlapped, result_name, tokens_within
from stopt.runtime.tokenizer import Batch
from stopt.spec import SENTENCE, Backend, ModelSpec

__all__ = ["OpenVinoSession"]

_PRECISION = "INFERENCE_PRECISION_HINT"
_HINTS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_DTYPES = {"float": "float32", "float16": "float16", "bf16": "bfloat16", "f32": "float32", "f16": "float16"}
# properties that settle how work is spread; where the caller sets one, it holds for every call
_SPREADING = {"PERFORMANCE_HINT", "NUM_STREAMS", "PERFORMANCE_HINT_NUM_REQUESTS"}

# Intel's devices under torch's names; any other is OpenVINO's own, or an error
_OWN_NAMES = {"cpu": "CPU", "gpu": "GPU", "xpu": "GPU", "npu": "NPU"}

# tokens of a batch that one stream runs
BATCH_TOKENS = 1024
# a new number of places takes 15 to 25 ms and 5 to 8 MB of code for the int8 products of MiniLM, which oneDNN keeps for the
# process: of this step there are some forty (benchmarks/README.md)
LENGTH_STEP = 8
# 1.5 ms in int8, where a token takes 0.07 on one thread; costlier tokens want less of it, and hardly notice
RUN_COST = 24
# plans of operators for shapes that were seen: OpenVINO keeps 5,000
PLANS = 96


class OpenVinoSession:
    """An .xml file, with its .bin, in OpenVINO.

    On a CPU it is compiled twice: with all threads on one batch, which answers a query soonest; and, when the first
    call comes that has several batches, with a stream of one thread for each of as many batches, which gets most done.

    Args:
        file: The .xml file.
        files: It and its .bin, as they were before.
        spec: The model.
        options: Device, properties, precision and threads.
        device: ``cpu`` or an OpenVINO device; must not contradict the options'.
        head: Modules to put behind the model.
    """

    backend = Backend.OPENVINO

    def __init__(
        self,
        file: Path,
        files: OpenedFiles,
        spec: ModelSpec,
        options: OpenVinoOptions,
        device: str | None,
        head: Head | None,
    ) -> None:
        self.file, self.files = file, files
        self._spec, self._head = spec, head
        self.device = _choose_device(options, device)
        if not file.with_suffix(".bin").is_file():
            raise CorruptModel(
                f"{file.with_suffix('.bin')} is missing, the weights of {file.name}", "fetch it too"
            )
        self._threads = options.threads or describe_machine().threads
        self._config = self._properties(options)
        # what the caller chose is the likelier cause where it does not compile
        self._asked = bool(options.ov_config or options.dtype or options.device or device)
        self._at_once = batches_within(self._threads, tokens_within(BATCH_TOKENS, spec), spec)
        self._spread = (
            self.device == "CPU" and self._at_once > 1 and not _SPREADING & {*(options.ov_config or {})}
        )
        model, self._output, self._feature, self.fused = self._read()
        self._inputs = [port.get_any_name() for port in model.inputs]
        self._alone = self._compile(model, {"PERFORMANCE_HINT": "LATENCY"})
        self._free = deque[ov.InferRequest]()
        self.precision = self._precision()
        if options.dtype not in (None, "auto", self.precision):
            raise OptionError(
                f"OpenVINO computes in {self.precision} on {self.device} where {options.dtype} is asked for",
                f"use dtype={self.precision!r}, or 'auto'; or backend='torch'",
            )
        cost = RUN_COST if self.device == "CPU" else None
        tokens = tokens_within(BATCH_TOKENS, spec)
        self.limits = BatchLimits(tokens=tokens, length_step=LENGTH_STEP, run_cost=cost)
        self._opening = Lock()
        leave_in_copies(self)

    def run(self, batch: Batch) -> Features:
        """Run one batch; see :class:`~stopt.runtime.sessions.Session`."""
        request = _taken(self._free, self._alone)
        inputs = feed(batch, self._inputs, self.file)
        with _failing(self.file):
            outputs = request.infer(inputs, share_inputs=True, share_outputs=True)
        found = np.array(outputs[self._output])
        self._free.append(request)
        return {"attention_mask": batch.attention_mask, self._feature: found}

    def map(self, batches: Iterable[Batch]) -> Iterator[Features]:
        """Run many batches in streams side by side; see :class:`~stopt.runtime.sessions.Session`."""
        batches = iter(batches)
        first = list(islice(batches, 2))
        if len(first) < 2:
            yield from map(self.run, first)
            return
        with self._opening:
            compiled, streams = self._streams
        free = deque[ov.InferRequest]()

        def submit(batch: Batch) -> Callable[[], Features]:
            request = _taken(free, compiled)
            inputs = feed(
                batch, self._inputs, self.file
            )  # kept by `wait` for as long as the engine reads them
            request.start_async(inputs, share_inputs=True)

            def wait() -> Features:
                with _failing(self.file):
                    request.wait()
                found = np.array(request.get_tensor(self._output).data)
                inputs.clear()
                free.append(request)
                return {"attention_mask": batch.attention_mask, self._feature: found}

            return wait

        yield from overlapped(chain(first, batches), submit, 2 * streams)

    def constant(self, array: npt.NDArray[np.float32]) -> Array:
        """Weights for numpy modules: as they are."""
        return array

    @cached_property
    def _streams(self) -> tuple[ov.CompiledModel, int]:
        """The model compiled for many batches at a time, and how many."""
        own = self._alone, int(self._alone.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        if not self._spread or not are_same(self.files, self.file):
            return own
        compiled = self._compile(self._read()[0], {"NUM_STREAMS": self._at_once})
        if not are_same(self.files, self.file):  # replaced meanwhile
            return own
        # weights are arranged at the first inference, for all streams; that is not left to two of them at once
        ones = np.ones((1, LENGTH_STEP), np.int64)
        compiled.create_infer_request().infer(feed(Batch(ones, ones, 0 * ones), self._inputs, self.file))
        return compiled, self._at_once

    def _properties(self, options: OpenVinoOptions) -> dict[str, object]:
        """OpenVINO's properties; float32 unless another precision is asked for, which it would not wait for itself."""
        config: dict[str, object] = {}
        if self.device == "CPU":
            config["INFERENCE_NUM_THREADS"] = self._threads
            if self._threads < describe_machine().threads:
                # bound to cores, those of several processes would all be bound to the first ones
                config["ENABLE_CPU_PINNING"] = False
            config["CPU_RUNTIME_CACHE_CAPACITY"] = PLANS
        if options.dtype != "auto":
            config[_PRECISION] = _HINTS[options.dtype or "float32"]
        told = (options.ov_config or {}).get(_PRECISION)
        if options.dtype is not None and told is not None and str(told) != config.get(_PRECISION):
            raise OptionError(
                f"dtype {options.dtype!r} contradicts ov_config, whose {_PRECISION} is {told!r}",
                "give one of the two",
            )
        return {**config, **(options.ov_config or {})}

    def _read(self) -> tuple[ov.Model, str, str, int]:
        """The model with its head; its output, the feature that this is, and how many modules are inside."""
        try:
            model = _core().read_model(str(self.file))
        except RuntimeError as error:
            hint = f"{self.file.name} or its .bin may be cut short: fetch both again, or export them with `stopt export --force`"
            raise CorruptModel(
                f"{self.file} cannot be read by OpenVINO {ov.__version__}: {_brief(error)}", hint
            ) from error
        names = [name for port in model.outputs for name in port.get_names()]
        output, feature = result_name(names, self.file, self._spec)
        if (head := self._head) and feature == head.source:
            if fingerprint(model) == head.fingerprint:
                return model, head.target, head.target, len(head.modules)
            name = SERVED + head.target
            return fuse(model, head, output, name), name, head.target, len(head.modules)
        return model, output, feature, len(self._spec.modules) if feature == SENTENCE else 0

    def _compile(self, model: ov.Model, spreading: dict[str, object]) -> ov.CompiledModel:
        config: dict[str, object] = {**spreading, **self._config}
        try:
            return _core().compile_model(model, self.device, config)
        except (RuntimeError, TypeError) as error:
            if not self._asked:
                raise CorruptModel(
                    f"{self.file} cannot be compiled by OpenVINO {ov.__version__}: {_brief(error)}",
                    "export it again with `stopt export --force`",
                ) from error
            raise OptionError(
                f"OpenVINO cannot compile {self.file.name} for {self.device} with {config}: {_brief(error)}",
                f"devices here: {', '.join(_core().available_devices)}; properties are listed in OpenVINO's documentation",
            ) from error

    def _precision(self) -> str:
        name = str(self._alone.get_property(_PRECISION).get_type_name())
        return _DTYPES.get(name, name)


@contextmanager
def _failing(file: Path) -> Iterator[None]:
    """What a run that fails is to the user: a graph that does not do what it says."""
    try:
        yield
    except RuntimeError as error:
        raise CorruptModel(
            f"{file} failed in OpenVINO {ov.__version__}: {_brief(error)}",
            "export it again with `stopt export --force`",
        ) from error


def _taken(free: deque[ov.InferRequest], compiled: ov.CompiledModel) -> ov.InferRequest:
    """A request that nobody uses; other threads may take one at the same moment."""
    try:
        return free.pop()
    except IndexError:
        return compiled.create_infer_request()


@cache
def _core() -> ov.Core:
    return ov.Core()


def _choose_device(options: OpenVinoOptions, device: str | None) -> str:
    """The device asked for in OpenVINO's words, if it is here; CPU if none was."""
    named = None if device is None else _own_name(device)
    if named and options.device and named.upper() != options.device.upper():
        raise OptionError(
            f"device {device!r} contradicts model_kwargs device {options.device!r}", "give one of the two"
        )
    asked = options.device or named or "CPU"
    available = _core().available_devices
    kind = asked.upper().partition(".")[0].partition(":")[0]
    # these choose among the devices themselves
    if kind in {"AUTO", "MULTI", "HETERO", "BATCH"}:
        return asked
    # one of a kind goes by the kind's name, with or without its number
    names = {each.upper() for each in available}
    names |= {each.partition(".")[0] for each in names} | {f"{each}.0" for each in names if "." not in each}
    if asked.upper() not in names:
        raise OptionError(f"OpenVINO has no device {asked!r} here", f"it has {', '.join(available)}")
    return asked.upper()


def _own_name(device: str) -> str:
    """A device under torch's name, such as ``xpu:1``, in OpenVINO's words; its own names stay as they are."""
    kind, colon, number = device.partition(":")
    name = _OWN_NAMES.get(kind)
    return device if name is None else f"{name}.{number}" if colon else name


def _brief(error: Exception) -> str:
    """The sentence at the end of OpenVINO's message, without the source lines before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
