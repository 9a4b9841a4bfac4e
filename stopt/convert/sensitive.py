"""What int8 hurts most, found in the graph: the layers between a transformer and its logits.

A masked language model's projection to the vocabulary decides which of thirty thousand weights are zero, a classifier's
last layers are all that a score is made of, and both are a small part of the work. They are what lies behind the last
place where a layer's input is added to its output, which every transformer has and no head: following the graph back from
the logits, that is the first addition whose two sides come from different matrix products. (The two sides of an
approximated GELU come from one.) No names of modules are needed, so it holds for any architecture and either engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["GraphNode", "head_of", "onnx_head", "openvino_head", "products"]

_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul"}
_ATTENTION = {"Attention", "MultiHeadAttention", "GroupQueryAttention", "ScaledDotProductAttention"}
_ADDITIONS = {"Add", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}


@dataclass(frozen=True, slots=True)
class GraphNode:
    """An operator of a graph, as far as it matters here.

    Attributes:
        kind: Its type.
        inputs: Operators that its inputs come from, constants left out.
    """

    kind: str
    inputs: tuple[str, ...]


def head_of(nodes: Mapping[str, GraphNode], output: str) -> list[str]:
    """Find the operators between the last layer of a transformer and an output.

    Args:
        nodes: Operators by name.
        output: The one that makes the output.

    Returns:
        Their names, from the output backwards.
    """
    found: list[str] = []
    waiting = [output]
    while waiting:
        name = waiting.pop()
        if name in found or name not in nodes or _is_layer(nodes, nodes[name]):
            continue
        found.append(name)
        waiting += nodes[name].inputs
    return found


def products(nodes: Mapping[str, GraphNode], names: Iterable[str]) -> list[str]:
    """Choose the matrix products among operators."""
    return [name for name in names if nodes[name].kind in _PRODUCTS]


def _is_layer(nodes: Mapping[str, GraphNode], node: GraphNode) -> bool:
    """Whether an operator belongs to a transformer's layers: attention, or the sum of what went in and came out."""
    if node.kind in _ATTENTION or (node.kind in _PRODUCTS and len(node.inputs) > 1):
        return True
    sides = [_nearest_products(nodes, name) for name in node.inputs] if node.kind in _ADDITIONS else []
    return len(sides) > 1 and any(side != sides[0] for side in sides)


def _nearest_products(nodes: Mapping[str, GraphNode], name: str) -> set[str]:
    """The products that a value is made from, up to the first on each way back."""
    seen: set[str] = set()
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in seen or current not in nodes:
            continue
        seen.add(current)
        if nodes[current].kind in _PRODUCTS | _ATTENTION:
            found.add(current)
        else:
            waiting += nodes[current].inputs
    return found


def onnx_head(graph: Any, output: str = "logits") -> tuple[list[str], list[str]]:
    """Find the head in a ``GraphProto``.

    Args:
        graph: The graph.
        output: Its output that the head makes.

    Returns:
        Names of the nodes of the head, and those of its matrix products.
    """
    constant = {tensor.name for tensor in graph.initializer}
    makers: dict[str, str] = {}
    nodes: dict[str, GraphNode] = {}
    for node in graph.node:  # in order: what a node reads is made before it
        inputs = [name for name in node.input if name and name not in constant]
        if not inputs:
            constant.update(node.output)
            continue
        nodes[node.name] = GraphNode(node.op_type, tuple(makers.get(name, name) for name in inputs))
        makers.update(dict.fromkeys(node.output, node.name))
    names = head_of(nodes, makers.get(output, output))
    return names, products(nodes, names)


def openvino_head(model: Any) -> tuple[list[str], list[str]]:
    """Find the head in an ``openvino.Model``, behind its first output.

    Returns:
        As :func:`onnx_head`; among the products also a table of token embeddings that one of them shares.
    """
    constant: set[str] = set()
    nodes: dict[str, GraphNode] = {}
    for operator in model.get_ordered_ops():
        name, kind = operator.get_friendly_name(), operator.get_type_name()
        sources = [value.get_node().get_friendly_name() for value in operator.input_values()]
        inputs = tuple(source for source in sources if source not in constant)
        if kind == "Constant" or (sources and not inputs):
            constant.add(name)
        elif kind not in ("Parameter", "Result"):
            nodes[name] = GraphNode(kind, inputs)
    last = model.get_results()[0].input_values()[0].get_node().get_friendly_name()
    names = head_of(nodes, last)
    kept = products(nodes, names)
    operators = {operator.get_friendly_name(): operator for operator in model.get_ops()}
    return names, [*kept, *(table for name in kept for table in _tied_tables(operators[name]))]


def _tied_tables(product: Any) -> list[str]:
    """The look-ups of token embeddings in the same table as a product's weights: in int8 it would be stored twice."""
    tables = [value.get_node() for value in product.input_values()]
    return [
        reader.get_node().get_friendly_name()
        for table in tables
        if table.get_type_name() == "Constant"
        for reader in table.output(0).get_target_inputs()
        if reader.get_node().get_type_name() == "Gather"
    ]
