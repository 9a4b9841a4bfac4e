"""OpenVINO."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov

from stopt.errors import CorruptModel, OptionError
from stopt.runtime.arrays import Array
from stopt.runtime.modules import Features
from stopt.runtime.options import OpenVinoOptions
from stopt.runtime.sessions import feed, result_names
from stopt.runtime.tokenizer import Batch
from stopt.spec import Backend

__all__ = ["OpenVinoSession"]

_HINTS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_DTYPES = {"float": "float32", "float16": "float16", "bf16": "bfloat16", "f32": "float32", "f16": "float16"}


class OpenVinoSession:
    """An .xml file, with its .bin, in OpenVINO.

    Args:
        file: The .xml file.
        options: Device, properties and precision.
        device: ``cpu`` or an OpenVINO device; must not contradict the options'.
    """

    backend = Backend.OPENVINO

    def __init__(self, file: Path, options: OpenVinoOptions, device: str | None) -> None:
        self.file = file
        self.device = _choose_device(options, device)
        if not file.with_suffix(".bin").is_file():
            raise CorruptModel(
                f"{file.with_suffix('.bin')} is missing, the weights of {file.name}", "fetch it too"
            )
        config: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY"}
        if options.dtype not in (None, "auto"):
            config["INFERENCE_PRECISION_HINT"] = _HINTS[str(options.dtype)]
        config.update(options.ov_config or {})
        try:
            model = _core().read_model(str(file))
        except RuntimeError as error:
            hint = f"{file.name} or its .bin may be cut short: fetch both again, or export them with `stopt export --force`"
            raise CorruptModel(
                f"{file} cannot be read by OpenVINO {ov.__version__}: {_brief(error)}", hint
            ) from error
        self._inputs = [port.get_any_name() for port in model.inputs]
        self._results = result_names([name for port in model.outputs for name in port.get_names()], file)
        try:
            self._compiled = _core().compile_model(model, self.device, config)
        except (RuntimeError, TypeError) as error:
            raise OptionError(
                f"OpenVINO cannot compile {file.name} for {self.device} with {config}: {_brief(error)}",
                f"devices here: {', '.join(_core().available_devices)}; properties are listed in OpenVINO's documentation",
            ) from error
        self.precision = self._precision()

    def _precision(self) -> str:
        name = str(self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        return _DTYPES.get(name, name)

    def run(self, batch: Batch) -> Features:
        """Run one batch; see :class:`~stopt.runtime.sessions.Session`."""
        request = self._compiled.create_infer_request()
        outputs = request.infer(feed(batch, self._inputs, self.file), share_inputs=True, share_outputs=False)
        results = {feature: outputs[name] for name, feature in self._results.items()}
        return {"attention_mask": batch.attention_mask, **results}

    def constant(self, array: npt.NDArray[np.float32]) -> Array:
        """Weights for numpy modules: as they are."""
        return array


@cache
def _core() -> ov.Core:
    return ov.Core()


def _choose_device(options: OpenVinoOptions, device: str | None) -> str:
    asked = options.device or {None: "CPU", "cpu": "CPU", "cuda": "GPU", "xpu": "GPU"}.get(
        device, str(device)
    )
    if device == "cpu" and options.device and not options.device.upper().startswith("CPU"):
        raise OptionError(
            f"device {device!r} contradicts model_kwargs device {options.device!r}", "give one of the two"
        )
    available = _core().available_devices
    kind = asked.upper().partition(".")[0].partition(":")[0]
    # AUTO, MULTI and HETERO choose among the devices themselves
    if kind not in {"AUTO", "MULTI", "HETERO"} and not any(
        name.partition(".")[0] == kind for name in available
    ):
        raise OptionError(f"OpenVINO has no device {asked!r} here", f"it has {', '.join(available)}")
    return asked


def _brief(error: Exception) -> str:
    """The sentence at the end of OpenVINO's message, without the source lines before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
