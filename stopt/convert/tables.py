"""A static embedding model as a graph: the table, the mean, and the modules after it.

From ``input_ids`` and ``attention_mask`` (without special tokens) to ``sentence_embedding``: for runtimes that read graphs
and nothing else. stopt and sentence-transformers read the table itself.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper

from stopt.convert.exporters import silent
from stopt.convert.graphs import save_openvino
from stopt.errors import UnsupportedModel
from stopt.heads import Head
from stopt.heads.onnx import Onnx, fuse
from stopt.runtime.modules import module_weights, read_weights
from stopt.spec import (
    SENTENCE,
    TOKENS,
    Backend,
    ModelSpec,
    Pooling,
    PoolingMode,
    SparseAutoEncoder,
    StaticEmbedding,
)

__all__ = ["export_table"]

_OPSET = 17
_LARGEST = 2_000_000_000  # bytes of a table that one ONNX file can hold


def export_table(root: Path, spec: ModelSpec, backend: Backend, file: Path) -> None:
    """Write the graph of a static embedding model.

    Args:
        root: The model folder.
        spec: The model; its front is a :class:`~stopt.spec.StaticEmbedding`.
        backend: ONNX or OpenVINO.
        file: Where to.

    Raises:
        UnsupportedModel: If the table is larger than an ONNX file, or a module has no operators.
    """
    front = spec.front
    assert isinstance(front, StaticEmbedding)
    if 4 * front.tokens * front.width > _LARGEST:
        raise UnsupportedModel(
            str(root), ["its table is larger than the 2 GB of an ONNX file"], "serve it as it is"
        )
    if any(isinstance(module, SparseAutoEncoder) for module in spec.modules):
        raise UnsupportedModel(
            str(root), ["a sparse autoencoder stays outside of graphs"], "serve the model as it is"
        )
    table = read_weights(root, front.path, {front.tensor: (front.tokens, front.width)})[front.tensor]
    axes = ["batch_size", "sequence_length"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, axes)
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info(TOKENS, TensorProto.FLOAT, [*axes, front.width])
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], [TOKENS], name="table")],
        "static_embedding",
        inputs,
        [output],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8, producer_name="stopt"
    )
    modules = (Pooling((PoolingMode.MEAN,)), *spec.modules)
    weights = {
        (index, name): array
        for index, module in enumerate(modules)
        for name, array in module_weights(root, module).items()
    }
    fused = fuse(Onnx.read(model.SerializeToString()), Head(modules, weights), TOKENS, SENTENCE)
    assert fused is not None
    if backend is Backend.ONNX:
        onnx.checker.check_model(onnx.load_from_string(fused))
        file.write_bytes(fused)
        return
    with silent():
        import openvino

        save_openvino(openvino.convert_model(BytesIO(fused)), file)
