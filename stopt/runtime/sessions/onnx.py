"""ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from stopt.errors import CorruptModel, OptionError, suggest
from stopt.runtime.arrays import Array
from stopt.runtime.modules import Features
from stopt.runtime.options import OnnxOptions
from stopt.runtime.sessions import feed, result_names
from stopt.runtime.tokenizer import Batch
from stopt.spec import Backend

__all__ = ["OnnxSession"]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxSession:
    """An .onnx file in ONNX Runtime.

    Args:
        file: The graph; external data lies beside it.
        options: Provider and session options.
        device: ``cpu``, ``cuda`` or ``cuda:N``; must not contradict the provider.
    """

    backend = Backend.ONNX

    def __init__(self, file: Path, options: OnnxOptions, device: str | None) -> None:
        self.file = file
        provider, provider_options = _choose_provider(options, device)
        session_options = options.session_options or _session_options()
        # CPU stays in the list for the operators that a GPU provider leaves to it; that the asked one took part is
        # checked below, since ONNX Runtime only logs when it did not
        providers = [(provider, provider_options)] + ([(_CPU, {})] if provider != _CPU else [])
        try:
            self._session = ort.InferenceSession(str(file), session_options, providers=providers)
        except Exception as error:  # a dozen classes of the binding, none public
            raise CorruptModel(
                f"{file} cannot be opened by ONNX Runtime {ort.__version__}: {error}", _why(file, str(error))
            ) from error
        active = self._session.get_providers()
        if provider not in active:
            raise OptionError(
                f"{provider} did not start; ONNX Runtime fell back to {', '.join(active)}",
                "check the driver and libraries of that provider, or ask for provider='CPUExecutionProvider'",
            )
        self.device = provider
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._results = result_names([node.name for node in self._session.get_outputs()], file)
        first = next(node for node in self._session.get_outputs() if node.name in self._results)
        self.precision = {"tensor(float)": "float32", "tensor(float16)": "float16"}.get(
            first.type, first.type
        )

    def run(self, batch: Batch) -> Features:
        """Run one batch; see :class:`~stopt.runtime.sessions.Session`."""
        outputs = self._session.run(list(self._results), feed(batch, self._inputs, self.file))
        return {
            "attention_mask": batch.attention_mask,
            **dict(zip(self._results.values(), outputs, strict=True)),
        }

    def constant(self, array: npt.NDArray[np.float32]) -> Array:
        """Weights for numpy modules: as they are."""
        return array


def _session_options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; what matters of the rest is checked and raised
    return options


def _choose_provider(options: OnnxOptions, device: str | None) -> tuple[str, dict[str, object]]:
    """The provider asked for, else CUDA where this build and machine have it, else CPU; never another."""
    available = ort.get_available_providers()
    settings = dict(options.provider_options or {})
    kind, _, number = (device or "").partition(":")
    if kind not in ("", "cpu", "cuda"):
        raise OptionError(
            f"device {device!r} has no ONNX Runtime provider of that name",
            f"name it: model_kwargs={{'provider': ...}} with one of {', '.join(available)}",
        )
    wanted = options.provider or {"cpu": _CPU, "cuda": _CUDA}.get(kind)
    if wanted is None:
        return (_CUDA if _CUDA in available and _cuda_works() else _CPU), settings
    if wanted not in available:
        raise OptionError(
            f"provider {wanted!r} is not in this build of ONNX Runtime", suggest(wanted, available)
        )
    if kind == "cpu" and wanted != _CPU:
        raise OptionError(f"device {device!r} contradicts provider {wanted!r}", "give one of the two")
    if number and wanted == _CUDA:
        settings.setdefault("device_id", number)
    return wanted, settings


def _cuda_works() -> bool:
    """Whether a CUDA device answers; the provider is listed by every GPU build, with or without a GPU."""
    return (
        any(ep.ep_name == _CUDA for ep in ort.get_ep_devices()) if hasattr(ort, "get_ep_devices") else False
    )


def _why(file: Path, message: str) -> str:
    if "external data" in message.lower() or "_data" in message or ".data" in message:
        return "fetch the file again together with its data files (.onnx_data, .onnx.data)"
    if "opset" in message or "IR version" in message:
        return "update onnxruntime, or export the model again with `stopt export --force`"
    return f"{file.name} may be cut short: fetch it again, or export it with `stopt export --force`"
