"""Smooth quantisation of ONNX graphs: outlying channels of activations are divided down, and weights multiplied up.

A transformer's activations have a few channels far larger than the rest; one 8-bit range for all leaves the rest with a
handful of steps. Dividing each channel by a factor before the matrix product, and multiplying the weights' row by it,
changes nothing in float and evens the ranges out (Xiao et al. 2022, arXiv:2211.10438). Activations are (T, C), weights
(C, N); the factor of a channel is ``max|x|^alpha / max|w|^(1 - alpha)``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

__all__ = ["smooth"]

SMALLEST = 1e-5  # a channel that is never active, and a row of zeros, keep a factor


def smooth(
    graph: Any,
    feeds: Iterable[Mapping[str, npt.NDArray[Any]]],
    alpha: float,
    leave: Collection[str] = (),
) -> Any:
    """Smooth the matrix products of a graph.

    Args:
        graph: The ``onnx.ModelProto``; it is changed.
        feeds: Inputs to take the activations from.
        alpha: How far outliers move from activations into weights: 0 not at all, 1 altogether.
        leave: Names of nodes that are left as they are.

    Returns:
        The graph.
    """
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.graph.node:
        if node.name in leave:
            continue
        if node.op_type == "MatMul" and node.input[1] in weights and len(weights[node.input[1]].dims) == 2:
            readers.setdefault(node.input[0], []).append(node)
    if not readers:  # a table of token embeddings has no products
        return graph
    peaks = _channel_peaks(graph, list(readers), feeds)
    for activation, nodes in readers.items():
        tensors = [weights[name] for name in dict.fromkeys(node.input[1] for node in nodes)]
        arrays = [numpy_helper.to_array(tensor) for tensor in tensors]
        rows = np.maximum(np.abs(np.concatenate(arrays, axis=1)).max(axis=1), SMALLEST)
        factors = np.maximum(peaks[activation], SMALLEST) ** alpha / rows ** (1 - alpha)
        factors = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
        for tensor, array in zip(tensors, arrays, strict=True):
            tensor.CopyFrom(
                numpy_helper.from_array((array * factors[:, None]).astype(array.dtype), tensor.name)
            )
        _divide(graph, activation, nodes, factors)
    return graph


def _divide(graph: Any, activation: str, nodes: list[Any], factors: npt.NDArray[np.float32]) -> None:
    """Let ``nodes`` read ``activation`` divided by the factors of its channels."""
    name = f"{activation}_smoothed"
    graph.graph.initializer.append(numpy_helper.from_array(1 / factors, f"{name}_factors"))
    first = min(list(graph.graph.node).index(node) for node in nodes)
    for node in nodes:
        node.input[0] = name
    graph.graph.node.insert(
        first, helper.make_node("Mul", [activation, f"{name}_factors"], [name], name=name)
    )


def _channel_peaks(
    graph: Any, names: list[str], feeds: Iterable[Mapping[str, npt.NDArray[Any]]]
) -> dict[str, npt.NDArray[np.float32]]:
    """Largest absolute value of each channel of the named activations."""
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    present = {output.name for output in watched.graph.output}
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
        if name not in present
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    peaks: dict[str, npt.NDArray[np.float32]] = {}
    for feed in feeds:
        for name, values in zip(names, session.run(names, dict(feed)), strict=True):
            peak = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            peaks[name] = np.maximum(peaks[name], peak) if name in peaks else peak
    return peaks
