"""Graphs whose weights are in a file of their own, as those of large models are."""

import shutil
from pathlib import Path

import onnx

__all__ = ["with_external_data"]


def with_external_data(exported: Path, folder: Path) -> Path:
    """Copy an exported model so that ``onnx/model.onnx`` has every weight in ``onnx/model.onnx_data``."""
    shutil.copytree(exported, folder, ignore=shutil.ignore_patterns("onnx", "openvino", "stopt.json"))
    (folder / "onnx").mkdir()
    onnx.save_model(
        onnx.load(exported / "onnx/model.onnx"),
        folder / "onnx/model.onnx",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
    )
    return folder
