"""Making files: heavy packages (torch, transformers, optimum, nncf, onnx) live here and never in the runtime."""

from __future__ import annotations

from importlib.util import find_spec

from stopt.errors import MissingExtra

__all__ = ["require_convert"]


def require_convert() -> None:
    """Make sure that the convert extra is installed.

    Raises:
        MissingExtra: If one of its packages is not.
    """
    for package in ("torch", "transformers", "optimum", "onnx", "onnxruntime", "openvino"):
        if find_spec(package) is None:
            raise MissingExtra(package, "convert")
