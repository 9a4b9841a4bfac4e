"""ONNX Runtime."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from stopt.errors import CorruptModel, OptionError, ResourceLimitError, StoptError, suggest
from stopt.heads import FINGERPRINT, SERVED, Head
from stopt.heads.onnx import Onnx, fuse
from stopt.runtime.accelerators import KINDS, PROVIDERS, onnx_devices
from stopt.runtime.arrays import Array
from stopt.runtime.batching import BatchLimits
from stopt.runtime.devices import describe_machine
from stopt.runtime.forks import leave_in_copies
from stopt.runtime.modules import Features
from stopt.runtime.opened import OpenedFiles
from stopt.runtime.options import OnnxOptions
from stopt.runtime.sessions import are_same, batches_within, feed, overlapped, result_name, tokens_within
from stopt.runtime.tokenizer import Batch
from stopt.spec import SENTENCE, Backend, ModelSpec

__all__ = ["OnnxSession"]

_CPU, _CUDA = PROVIDERS["cpu"], PROVIDERS["cuda"]
# kinds of device that no other provider runs on; TensorRT, ROCm and DirectML call theirs cuda too
_OF_ONE_PROVIDER = ("cpu", "mps")
_NUMBERED = {
    _CUDA,
    PROVIDERS["npu"],
    "TensorrtExecutionProvider",
    "ROCMExecutionProvider",
    "DmlExecutionProvider",
}
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
_GPU_BATCH = 16_384

# tokens of a batch that one thread runs; fewer leave it idle between operators, more leave the cache
BATCH_TOKENS = 256
RUN_COST = 10  # by measurement: 5 to 40 are as fast, none at all is a sixth slower for calls of few texts


class OnnxSession:
    """An .onnx file in ONNX Runtime.

    On a CPU it is opened twice: with all threads on one batch, which answers a query soonest; and, when the first call
    comes that has several batches, with one thread on each of as many batches, which gets most done.

    Args:
        file: The graph; external data lies beside it.
        files: Both, as they were before.
        spec: The model.
        options: Provider, threads and session options.
        device: ``cpu``, ``cuda`` or ``cuda:N``; must not contradict the provider.
        head: Modules to put behind the graph.
    """

    backend = Backend.ONNX

    def __init__(
        self,
        file: Path,
        files: OpenedFiles,
        spec: ModelSpec,
        options: OnnxOptions,
        device: str | None,
        head: Head | None,
    ) -> None:
        self.file, self.files = file, files
        self._options, self._head, self._spec = options, head, spec
        self.device, self._provider_options = _choose_provider(options, device)
        self._threads = options.threads or describe_machine().threads
        self._alone = self._open(self._threads)
        self._inputs = [node.name for node in self._alone.get_inputs()]
        outputs = {node.name: node.type for node in self._alone.get_outputs()}
        own = self._alone.get_modelmeta().custom_metadata_map.get(FINGERPRINT)
        if head and SERVED + head.target in outputs:
            self._output, self._feature, self.fused = SERVED + head.target, head.target, len(head.modules)
        elif head and own == head.fingerprint:
            self._output, self._feature, self.fused = head.target, head.target, len(head.modules)
        else:
            self._output, self._feature = result_name(list(outputs), file, spec)
            # where there is nothing else it was pooled when it was made
            self.fused = len(spec.modules) if self._feature == SENTENCE else 0
        self.precision = _DTYPES.get(outputs[self._output], outputs[self._output])
        tokens = BATCH_TOKENS if self.device == _CPU else _GPU_BATCH
        cost = RUN_COST if self.device == _CPU else None
        self.limits = BatchLimits(tokens=tokens_within(tokens, spec), run_cost=cost)
        self._opening = Lock()
        leave_in_copies(self, waits_at_exit=True)

    def run(self, batch: Batch) -> Features:
        """Run one batch; see :class:`~stopt.runtime.sessions.Session`."""
        return self._run(self._alone, batch)

    def map(self, batches: Iterable[Batch]) -> Iterator[Features]:
        """Run many batches side by side; see :class:`~stopt.runtime.sessions.Session`."""
        batches = iter(batches)
        first = list(islice(batches, 2))
        if len(first) < 2:
            yield from map(self.run, first)
            return
        with self._opening:
            session, workers = self._side_by_side

        def submit(batch: Batch) -> Callable[[], Features]:
            return workers.submit(self._run, session, batch).result

        yield from overlapped(chain(first, batches), submit, 2 * self._threads)

    def constant(self, array: npt.NDArray[np.float32]) -> Array:
        """Weights for numpy modules: as they are."""
        return array

    @cached_property
    def _side_by_side(self) -> tuple[ort.InferenceSession, ThreadPoolExecutor]:
        """A session whose runs take one thread each, and the threads; where outputs are wide, fewer with more each."""
        workers = 1
        if self.device == _CPU and self._options.session_options is None:
            workers = batches_within(self._threads, BATCH_TOKENS, self._spec)
        session = self._alone
        if workers > 1 and are_same(self.files, self.file):
            again = self._open(self._threads // workers)
            session = again if are_same(self.files, self.file) else self._alone
        if session is self._alone:
            workers = 1
        return session, ThreadPoolExecutor(workers, thread_name_prefix="stopt-onnx")

    def _run(self, session: ort.InferenceSession, batch: Batch) -> Features:
        inputs = feed(batch, self._inputs, self.file)
        try:
            found = session.run([self._output], inputs)
        except Exception as error:  # as below
            raise _failed(self.file, error, len(batch.input_ids)) from error
        return {"attention_mask": batch.attention_mask, self._feature: found[0]}

    def _open(self, threads: int) -> ort.InferenceSession:
        provider = self.device
        # CPU stays in the list for the operators that a GPU provider leaves to it; that the asked one took part is
        # checked below, since ONNX Runtime only logs when it did not
        providers = [(provider, self._provider_options)] + ([(_CPU, {})] if provider != _CPU else [])
        source = self._fused_bytes() or str(self.file)
        folder = self.file.parent if isinstance(source, bytes) else None
        options = self._options.session_options or _session_options(threads, folder)
        try:
            session = ort.InferenceSession(source, options, providers=providers)
        except Exception as error:  # a dozen classes of the binding, none public
            raise CorruptModel(
                f"{self.file} cannot be opened by ONNX Runtime {ort.__version__}: {error}",
                _why(self.file, str(error)),
            ) from error
        # kept for a session on other providers in the place of one that failed, which is not wanted: a second copy of
        # all weights (onnxruntime 1.32)
        session.disable_fallback()
        session._model_bytes = None
        active = session.get_providers()
        if provider not in active:
            raise OptionError(
                f"{provider} did not start; ONNX Runtime fell back to {', '.join(active)}",
                "check the driver and libraries of that provider, or ask for provider='CPUExecutionProvider'",
            )
        return session

    def _fused_bytes(self) -> bytes | None:
        """The file with the head behind its graph; None if there is none, or the graph cannot take it."""
        if self._head is None:
            return None
        with self.file.open("rb") as file:
            try:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                model = Onnx.read(memoryview(data))
            except ValueError:  # empty, or not ONNX: ONNX Runtime says in which way
                return None
        output, feature = result_name(list(model.outputs), self.file, self._spec)
        if feature != self._head.source or model.metadata.get(FINGERPRINT) == self._head.fingerprint:
            return None
        return fuse(model, self._head, output, SERVED + self._head.target)


def _failed(file: Path, error: Exception, texts: int) -> StoptError:
    """What a run that failed is to the user: too little memory, or a graph that does not do what it says."""
    if "allocate" in str(error):
        return ResourceLimitError(
            f"{file} needs more memory for a batch of {texts} than there is: {error}", "use smaller batches"
        )
    return CorruptModel(
        f"{file} failed in ONNX Runtime {ort.__version__}: {error}",
        "export it again with `stopt export --force`",
    )


def _session_options(threads: int, data: Path | None) -> ort.SessionOptions:
    """Options of a session; ``data`` is the folder of data files for a graph that is not opened by its path."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; what matters of the rest is checked and raised
    options.intra_op_num_threads = threads
    # with as many shapes as texts have lengths, what these keep for each grows without end
    options.enable_mem_pattern = False
    if data is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(data))
    return options


def _choose_provider(options: OnnxOptions, device: str | None) -> tuple[str, dict[str, object]]:
    """The provider asked for, else CUDA where this build and machine have it, else CPU; never another."""
    available = ort.get_available_providers()
    settings = dict(options.provider_options or {})
    kind, _, number = (device or "").partition(":")
    if kind and kind not in PROVIDERS and (options.provider is None or kind not in KINDS):
        raise OptionError(
            f"device {device!r} has no ONNX Runtime provider of that name",
            f"name it: model_kwargs={{'provider': ...}} with one of {', '.join(available)}",
        )
    named = PROVIDERS.get(kind)
    wanted = options.provider or named
    if wanted is None:
        return (_CUDA if "cuda:0" in onnx_devices() else _CPU), settings
    if wanted not in available:
        hint = f"it has {', '.join(available)}; other builds have more, for CUDA onnxruntime-gpu in onnxruntime's place"
        raise OptionError(
            f"provider {wanted!r} is not in this build of ONNX Runtime",
            suggest(wanted, available) if options.provider else hint,
        )
    if kind in _OF_ONE_PROVIDER and wanted != named:
        raise OptionError(f"device {device!r} contradicts provider {wanted!r}", "give one of the two")
    if number and wanted in _NUMBERED:
        if not number.isdecimal():
            raise OptionError(f"device {device!r} is no device of ONNX Runtime", f"such as '{kind}:0'")
        if str(settings.setdefault("device_id", number)) != number:
            raise OptionError(
                f"device {device!r} contradicts provider_options, whose device_id is {settings['device_id']!r}",
                "give one of the two",
            )
    return wanted, settings


def _why(file: Path, message: str) -> str:
    if "external data" in message.lower() or "_data" in message or ".data" in message:
        return "fetch the file again together with its data files (.onnx_data, .onnx.data)"
    if "opset" in message or "IR version" in message:
        return "update onnxruntime, or export the model again with `stopt export --force`"
    return f"{file.name} may be cut short: fetch it again, or export it with `stopt export --force`"
