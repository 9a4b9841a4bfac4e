"""Splitting of outlying channels before an OpenVINO model is quantised.

In the feed-forward network of a trained transformer a handful of channels reaches several times as far as all the others,
for a few tokens; one 8-bit range for all of them leaves the rest with few steps. Such a channel is computed several times
over, and each copy counts for its share in the product that follows: the same sum, of values that are as small as the
others' once they are smoothed (outlier channel splitting, Zhao et al. 2019, arXiv:1901.09504). It takes no operator that
was not there before, and a hundredth more channels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["copies", "split_channels"]

SHARE = 100  # one channel in so many is added,
STEP = 16  # rounded up to what products are made in
# activations through which a copied channel is a copy still
_UNARY = {"Gelu", "HSwish", "Mish", "Relu", "Sigmoid", "SoftPlus", "Swish", "Tanh"}

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Network:
    """Two products of a model with an activation between them.

    Attributes:
        first: The product that makes the channels.
        bias: The addition behind it, if there is one.
        second: The product that reads them.
    """

    first: Any
    bias: Any | None
    second: Any


def split_channels(
    model: Any, feeds: Sequence[Mapping[str, npt.NDArray[Any]]], leave: Collection[str] = ()
) -> int:
    """Split the channels that reach furthest, in every feed-forward network.

    Args:
        model: The ``openvino.Model`` with weights in float32; it is changed.
        feeds: Inputs to see the channels with.
        leave: Names of products that stay in float, and so are left as they are.

    Returns:
        How many channels there are more than before.
    """
    found = [network for operator in model.get_ordered_ops() if (network := _network(operator, leave))]
    peaks = _peaks(model, [network.second.get_friendly_name() for network in found], feeds) if found else []
    added = 0
    for network, peak in zip(found, peaks, strict=True):
        extra = -(-len(peak) // (SHARE * STEP)) * STEP
        _split(network, copies(peak, extra))
        added += extra
    if found:
        model.validate_nodes_and_infer_types()
    return added


def copies(peaks: Floats, extra: int) -> Counts:
    """How often each channel is to be there, given how far it reaches: one copy at a time for the furthest."""
    counts = np.ones(len(peaks), np.int64)
    for _ in range(extra):
        counts[np.argmax(peaks / counts)] += 1
    return counts


def _network(second: Any, leave: Collection[str]) -> _Network | None:
    """The feed-forward network that ends in an operator; None if it is none, or others read what is inside."""
    if not _is_product(second) or second.get_friendly_name() in leave:
        return None
    node, activations = _only_source(second), 0
    while node is not None and node.get_type_name() in _UNARY:
        node, activations = _only_source(node), activations + 1
    bias = None
    if node is not None and node.get_type_name() == "Add" and _is_weight(node.input_value(1)):
        bias, node = node, _only_source(node)
    if node is None or not activations or not _is_product(node) or node.get_friendly_name() in leave:
        return None
    channels = _channels(node, made=True)
    if bias is not None and bias.input_value(1).get_node().get_data().size != channels:
        return None
    return _Network(node, bias, second) if channels == _channels(second, made=False) else None


def _only_source(node: Any) -> Any | None:
    """The operator that makes a node's first input, if nothing else reads it."""
    value = node.input_value(0)
    return value.get_node() if len(value.get_target_inputs()) == 1 else None


def _is_product(node: Any) -> bool:
    kind: str = node.get_type_name()
    return kind == "MatMul" and not node.get_attributes()["transpose_a"] and _is_weight(node.input_value(1))


def _is_weight(value: Any) -> bool:
    constant: bool = value.get_node().get_type_name() == "Constant"
    return constant and value.get_element_type().get_type_name() == "f32"


def _axis(product: Any, *, made: bool) -> int:
    """The axis of a product's weights that stands for the channels it makes, or else for those it reads."""
    turned: bool = product.get_attributes()["transpose_b"]
    return -2 if turned == made else -1


def _channels(product: Any, *, made: bool) -> int:
    shape = product.input_value(1).get_shape()
    return int(shape[_axis(product, made=made)]) if len(shape) == 2 else 0


def _peaks(model: Any, names: list[str], feeds: Sequence[Mapping[str, npt.NDArray[Any]]]) -> list[Floats]:
    """Largest absolute value of each channel that the named products read."""
    import openvino as ov

    watched = model.clone()
    operators = {operator.get_friendly_name(): operator for operator in watched.get_ops()}
    own = len(watched.outputs)
    watched.add_outputs([operators[name].input_value(0) for name in names])
    compiled = ov.Core().compile_model(watched, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    places = range(own, own + len(names))
    peaks: list[Floats] = []
    for feed in feeds:
        values = compiled(dict(feed))
        new = [np.abs(values[place]).reshape(-1, values[place].shape[-1]).max(axis=0) for place in places]
        peaks = [np.maximum(a, b) for a, b in zip(peaks, new, strict=True)] if peaks else new
    return peaks


def _split(network: _Network, counts: Counts) -> None:
    """Repeat channels where they are made, and share them out where they are read."""
    rows = np.repeat(np.arange(len(counts)), counts)
    _replace(network.first, lambda weights: weights.take(rows, _axis(network.first, made=True)))
    if network.bias is not None:
        _replace(network.bias, lambda bias: bias.take(rows, -1))
    axis = _axis(network.second, made=False)
    shape = [1, 1]
    shape[axis] = -1
    shares = (1 / counts[rows]).astype(np.float32).reshape(shape)
    _replace(network.second, lambda weights: weights.take(rows, axis) * shares)


def _replace(node: Any, change: Any) -> None:
    """Change the constant that a node reads; other readers of it keep theirs."""
    from openvino import opset13 as opset

    old = node.input_value(1).get_node()
    new = opset.constant(np.ascontiguousarray(change(old.get_data())))
    new.set_friendly_name(f"{node.get_friendly_name()}/split")
    node.input(1).replace_source_output(new.output(0))
