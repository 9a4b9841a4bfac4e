"""Graphs with the model's own modules behind the transformer, for runtimes that have no pooling code."""

from __future__ import annotations

from pathlib import Path

from stopt.convert.exporters import silent
from stopt.convert.graphs import save_openvino
from stopt.errors import ConversionError
from stopt.heads import Head, build_head
from stopt.runtime.sessions import result_name
from stopt.spec import Backend, ModelSpec

__all__ = ["write_fused"]


def write_fused(root: Path, spec: ModelSpec, backend: Backend, source: Path, file: Path) -> None:
    """Put a model's modules behind its plain graph.

    The result gives what the model gives first (``sentence_embedding``, or a cross-encoder's ``scores`` with its
    activation), and what the transformer gives second.

    Args:
        root: The model folder.
        spec: The model.
        backend: ONNX or OpenVINO.
        source: The plain graph.
        file: Where to; the weights' own file goes beside it.

    Raises:
        ConversionError: If the modules cannot all be put there.
    """
    head = build_head(root, spec, activated=True)
    if head is None or len(head.modules) < len(spec.modules):
        missing = type(spec.modules[len(head.modules) if head else 0]).__name__ if spec.modules else "Pooling"
        raise ConversionError(
            f"{missing} cannot be put into a graph", "leave out --fused: stopt runs it after the engine"
        )
    if backend is Backend.ONNX:
        _write_onnx(spec, head, source, file)
    else:
        _write_openvino(spec, head, source, file)


def _write_onnx(spec: ModelSpec, head: Head, source: Path, file: Path) -> None:
    from stopt.heads.onnx import Onnx, fuse

    model = Onnx.read(memoryview(source.read_bytes()))
    output, _ = result_name(list(model.outputs), source, spec)
    data = fuse(model, head, output, head.target, keep=True)
    if data is None:
        raise ConversionError(
            f"{source} is of operator set {model.opset}, too old for a head", "export it again: --force"
        )
    file.write_bytes(data)  # weights in a file of their own stay there, for both graphs


def _write_openvino(spec: ModelSpec, head: Head, source: Path, file: Path) -> None:
    import openvino as ov

    from stopt.heads.openvino import fuse

    with silent():
        model = ov.Core().read_model(source)
        output, _ = result_name([name for port in model.outputs for name in port.get_names()], source, spec)
        save_openvino(fuse(model, head, output, head.target, keep=True), file)
