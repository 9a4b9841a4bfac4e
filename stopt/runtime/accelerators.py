"""The devices that an engine can use here: what it picks when none is named, and what a pool puts its workers on.

Engines call devices by different names. Callers use torch's (``cuda:0``, ``mps``, ``npu``, ``xpu``, ``hpu``, ``cpu``) or the
engine's own; each session turns them into its own words. An engine's package is imported when it is asked about.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from stopt.runtime.devices import describe_machine
from stopt.spec import Backend

__all__ = [
    "KINDS",
    "PROVIDERS",
    "first_torch_device",
    "onnx_devices",
    "openvino_devices",
    "pool_devices",
    "torch_devices",
]

# sentence-transformers' order: the first that is there is used
KINDS = ("cuda", "mps", "npu", "xpu", "hpu", "cpu")

# torch learns of these from packages of their makers
_PLUGINS = {"npu": "torch_npu", "hpu": "habana_frameworks.torch"}

# ONNX Runtime's name of a device
PROVIDERS: Mapping[str, str] = {
    "cuda": "CUDAExecutionProvider",
    "mps": "CoreMLExecutionProvider",
    "npu": "CANNExecutionProvider",
    "cpu": "CPUExecutionProvider",
}

CPU_WORKERS = 4  # as in sentence-transformers; each has its own copy of what its engine makes of the weights


def torch_devices() -> list[str]:
    """Torch's devices here, in the order in which they are preferred; the processor is the last."""
    import torch

    found = []
    for kind in KINDS[:-1]:
        module = _torch_module(torch, kind)
        if module is not None and module.is_available():
            count = module.device_count() if hasattr(module, "device_count") else 1
            found += [kind] if kind == "mps" else [f"{kind}:{index}" for index in range(count)]
    return [*found, "cpu"]


def _torch_module(torch: Any, kind: str) -> Any:
    """Where torch answers for a kind of device; None where this build does not know it."""
    if kind == "mps":
        return torch.backends.mps
    if kind in _PLUGINS:
        if not find_spec(_PLUGINS[kind].partition(".")[0]):
            return None
        import_module(_PLUGINS[kind])
    return getattr(torch, kind, None)


def first_torch_device() -> str:
    """The device that torch is used on when none is named.

    Of several GPUs it is the one that a launcher of distributed programs gave to this process, in ``LOCAL_RANK``.
    """
    devices = torch_devices()
    rank = os.environ.get("LOCAL_RANK", "")
    mine = f"{devices[0].partition(':')[0]}:{rank}"
    return mine if mine in devices else devices[0]


def onnx_devices() -> list[str]:
    """ONNX Runtime's devices under torch's names: those whose provider is in this build and finds one."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    found = []
    for kind, provider in PROVIDERS.items():
        if kind == "cuda" and provider in available:
            listed = onnxruntime.get_ep_devices() if hasattr(onnxruntime, "get_ep_devices") else []
            found += [f"cuda:{index}" for index in range(sum(each.ep_name == provider for each in listed))]
        elif provider in available:
            found.append(kind)
    return found


def openvino_devices() -> list[str]:
    """OpenVINO's own names of its devices here, such as ``CPU`` and ``GPU.0``."""
    import openvino

    return list(openvino.Core().available_devices)


_LISTED: Mapping[Backend, Callable[[], list[str]]] = {
    Backend.TORCH: torch_devices,
    Backend.ONNX: onnx_devices,
    Backend.OPENVINO: openvino_devices,
}


def pool_devices(backend: Backend, device: str, threads: int | None = None) -> list[str | None]:
    """The devices of a pool's workers where none are named.

    Args:
        backend: The model's engine.
        device: The model's device, in the engine's words.
        threads: Threads of the CPU that workers share; None is all that this process may use.

    Returns:
        Every device of that kind; on the processor four, or as many as there are threads. A single None, which leaves it
        to the options, where the engine has a device that only it knows.
    """
    kind = next((name for name, provider in PROVIDERS.items() if provider == device), device.lower())
    kind = kind.partition(":")[0].partition(".")[0]
    if kind == "cpu":
        return ["cpu"] * min(CPU_WORKERS, threads or describe_machine().threads)
    listed = _LISTED[backend]() if backend in _LISTED else []
    return [each for each in listed if each.lower().partition(":")[0].partition(".")[0] == kind] or [None]
