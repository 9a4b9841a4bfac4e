"""Devices: in which order they are found, that each name reaches the engine, and that none is replaced by another.

There is no accelerator where the tests run, so drivers are stood in for: what torch and the engines say is there.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
import torch

from stopt import OptionError, SentenceTransformer
from stopt.runtime import accelerators
from stopt.runtime.accelerators import (
    first_torch_device,
    onnx_devices,
    openvino_devices,
    pool_devices,
    torch_devices,
)
from stopt.runtime.options import OnnxOptions, OpenVinoOptions
from stopt.runtime.sessions import onnx as onnx_session
from stopt.runtime.sessions import openvino as openvino_session
from stopt.spec import Backend

Exported = Callable[..., Path]


def driver(count: int) -> SimpleNamespace:
    return SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count)


@pytest.fixture
def machine(monkeypatch):
    """Put devices of torch's into the machine: ``machine(cuda=2, xpu=1)``."""

    def build(**counts: int) -> None:
        for kind in ("cuda", "npu", "xpu", "hpu"):
            monkeypatch.setattr(torch, kind, driver(counts.get(kind, 0)), raising=False)
        monkeypatch.setattr(torch.backends, "mps", driver(counts.get("mps", 0)))
        plugins = SimpleNamespace(asked=[])
        monkeypatch.setattr(
            accelerators, "find_spec", lambda name: name if name.startswith(("torch_npu", "hab")) else None
        )
        monkeypatch.setattr(accelerators, "import_module", plugins.asked.append)
        monkeypatch.delenv("LOCAL_RANK", raising=False)

    return build


@pytest.mark.parametrize(
    ("there", "first"),
    [
        ({"cuda": 2, "mps": 1, "npu": 1, "xpu": 1, "hpu": 1}, "cuda:0"),
        ({"mps": 1, "npu": 1, "xpu": 1, "hpu": 1}, "mps"),
        ({"npu": 1, "xpu": 1, "hpu": 1}, "npu:0"),
        ({"xpu": 2, "hpu": 1}, "xpu:0"),
        ({"hpu": 1}, "hpu:0"),
        ({}, "cpu"),
    ],
)
def test_the_first_device_there_is_is_used(machine, there, first) -> None:
    machine(**there)
    assert first_torch_device() == first
    assert torch_devices()[-1] == "cpu"
    assert len(torch_devices()) == 1 + sum(there.values())


@pytest.mark.parametrize(
    ("rank", "expected"), [("1", "cuda:1"), ("5", "cuda:0"), ("x", "cuda:0"), ("", "cuda:0")]
)
def test_a_launcher_gives_each_process_its_gpu(machine, monkeypatch, rank, expected) -> None:
    machine(cuda=2)
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert first_torch_device() == expected


def test_this_machines_devices_are_found() -> None:
    assert torch_devices()[-1] == "cpu"
    assert onnx_devices()[-1] == "cpu"
    assert "CPU" in openvino_devices()


# ---- ONNX Runtime ---------------------------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch) -> None:
    """A build of ONNX Runtime with CUDA, and two GPUs."""
    providers = ["CUDAExecutionProvider", "CoreMLExecutionProvider", "CPUExecutionProvider"]
    endpoints = [SimpleNamespace(ep_name=name) for name in [providers[0], providers[0], providers[2]]]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: endpoints)


@pytest.mark.parametrize(
    ("device", "provider", "expected"),
    [
        (None, None, ("CUDAExecutionProvider", {})),
        ("cpu", None, ("CPUExecutionProvider", {})),
        ("cuda", None, ("CUDAExecutionProvider", {})),
        ("cuda:1", None, ("CUDAExecutionProvider", {"device_id": "1"})),
        ("cuda:1", "CUDAExecutionProvider", ("CUDAExecutionProvider", {"device_id": "1"})),
        ("mps", None, ("CoreMLExecutionProvider", {})),
        (None, "CPUExecutionProvider", ("CPUExecutionProvider", {})),
    ],
)
def test_a_device_is_a_provider(gpus, device, provider, expected) -> None:
    assert onnx_session._choose_provider(OnnxOptions(provider=provider), device) == expected


@pytest.mark.parametrize(
    ("device", "options", "message", "hint"),
    [
        (
            "cpu",
            {"provider": "CUDAExecutionProvider"},
            "contradicts provider 'CUDAExecution",
            "give one of the two",
        ),
        (
            "mps",
            {"provider": "CPUExecutionProvider"},
            "contradicts provider 'CPUExecution",
            "give one of the two",
        ),
        ("npu", {}, "provider 'CANNExecutionProvider' is not in this build", "CUDAExecutionProvider"),
        ("xpu", {}, "device 'xpu' has no ONNX Runtime provider of that name", "name it: model_kwargs="),
        ("cuda:one", {}, "device 'cuda:one' is no device of ONNX Runtime", "such as 'cuda:0'"),
        ("cuda:1", {"provider_options": {"device_id": 0}}, "whose device_id is 0", "give one of the two"),
    ],
)
def test_a_device_that_is_not_what_runs_is_an_error(gpus, device, options, message, hint) -> None:
    with pytest.raises(OptionError) as caught:
        onnx_session._choose_provider(OnnxOptions(**options), device)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_build_for_gpus_without_one_serves_on_the_processor(gpus, monkeypatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_ep_devices", list)
    assert onnx_devices() == ["mps", "cpu"]
    assert onnx_session._choose_provider(OnnxOptions(), None) == ("CPUExecutionProvider", {})


# ---- OpenVINO -------------------------------------------------------------------------------------------------------


@pytest.fixture
def intel(monkeypatch):
    """A machine with some of OpenVINO's devices."""

    def build(*devices: str) -> None:
        monkeypatch.setattr(
            openvino_session, "_core", lambda: SimpleNamespace(available_devices=list(devices))
        )

    return build


@pytest.mark.parametrize(
    ("device", "own", "expected"),
    [
        (None, None, "CPU"),
        ("cpu", None, "CPU"),
        ("cpu", "CPU", "CPU"),
        ("xpu", None, "GPU"),
        ("gpu", None, "GPU"),
        ("xpu:1", None, "GPU.1"),
        ("GPU.1", None, "GPU.1"),
        ("npu", None, "NPU"),
        ("npu:0", None, "NPU.0"),
        (None, "gpu.0", "GPU.0"),
        ("AUTO:GPU,CPU", None, "AUTO:GPU,CPU"),
    ],
)
def test_a_device_has_openvinos_name(intel, device, own, expected) -> None:
    intel("CPU", "GPU.0", "GPU.1", "NPU")
    assert openvino_session._choose_device(OpenVinoOptions(device=own), device) == expected


@pytest.mark.parametrize(
    ("device", "own", "message", "hint"),
    [
        ("cuda", None, "OpenVINO has no device 'cuda' here", "it has CPU, GPU"),
        ("xpu:1", None, "OpenVINO has no device 'GPU.1' here", "it has CPU, GPU"),
        ("npu", None, "OpenVINO has no device 'NPU' here", "it has CPU, GPU"),
        ("cpu", "GPU", "device 'cpu' contradicts model_kwargs device 'GPU'", "give one of the two"),
        ("gpu", "CPU", "device 'gpu' contradicts model_kwargs device 'CPU'", "give one of the two"),
    ],
)
def test_openvino_runs_where_it_was_asked_to_or_not_at_all(intel, device, own, message, hint) -> None:
    intel("CPU", "GPU")
    with pytest.raises(OptionError) as caught:
        openvino_session._choose_device(OpenVinoOptions(device=own), device)
    assert (caught.value.message, caught.value.hint) == (message, hint)


# ---- pools ----------------------------------------------------------------------------------------------------------


def test_a_pool_is_on_every_device_of_the_models_kind(machine, gpus) -> None:
    machine(cuda=2)
    assert pool_devices(Backend.TORCH, "cuda:0") == ["cuda:0", "cuda:1"]
    assert pool_devices(Backend.ONNX, "CUDAExecutionProvider") == ["cuda:0", "cuda:1"]
    assert pool_devices(Backend.ONNX, "TensorrtExecutionProvider") == [None]
    assert pool_devices(Backend.OPENVINO, "AUTO") == [None]


@pytest.mark.parametrize(("threads", "workers"), [(1, 1), (3, 3), (4, 4), (64, 4)])
@pytest.mark.parametrize(
    ("backend", "device"),
    [
        (Backend.ONNX, "CPUExecutionProvider"),
        (Backend.OPENVINO, "CPU"),
        (Backend.TORCH, "cpu"),
        (Backend.NUMPY, "cpu"),
    ],
)
def test_a_pool_on_the_processor_has_four_workers_at_most(backend, device, threads, workers) -> None:
    assert pool_devices(backend, device, threads) == ["cpu"] * workers


# ---- the classes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["onnx", "openvino", "torch"])
def test_the_device_of_a_class_reaches_its_engine(exported: Exported, backend) -> None:
    folder = exported("bert")
    model = SentenceTransformer(folder, backend=backend, device="cpu")
    assert model.device.lower().startswith("cpu")
    assert model.encode("a", device="cpu").shape == (32,)
    with pytest.raises(OptionError) as caught:
        SentenceTransformer(folder, backend=backend, device="xpu:3")
    assert caught.value.hint
