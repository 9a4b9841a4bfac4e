"""A head behind an ONNX graph.

The graph is edited as bytes (:mod:`stopt.heads.wire`): serving a model needs neither the onnx package nor a second copy
of the weights in its objects. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.heads import FINGERPRINT, POOLING_MASK, Head
from stopt.heads.wire import Field, fields, integer, message, read_integer, text

__all__ = ["Onnx", "fuse"]

_MODEL_GRAPH, _MODEL_OPSETS, _MODEL_METADATA = 7, 8, 14
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12
_ELEMENT_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int64): 7}
_INT, _INTS = 2, 7  # kinds of attributes
# from here on the operators used have the form that is written; older files are pooled outside of the graph
_MINIMUM_OPSET = 13
_AXES_AS_INPUT = {"Sum": 13, "Max": 18, "Mean": 18}


@dataclass(frozen=True, slots=True)
class Onnx:
    """An ONNX file seen as far as a head is concerned.

    Attributes:
        data: Its bytes.
        graph: Where the graph lies.
        opset: Version of ONNX's own operators.
        inputs: Names of its inputs.
        outputs: Its outputs by name.
        types: Element types of the outputs, as onnx.proto numbers them.
        metadata: What is noted about the file.
    """

    data: memoryview
    graph: Field
    opset: int
    inputs: tuple[str, ...]
    outputs: Mapping[str, Field]
    types: Mapping[str, int]
    metadata: Mapping[str, str]

    @classmethod
    def read(cls, data: memoryview) -> Onnx:
        """Look at a file's structure; weights are skipped.

        Raises:
            ValueError: If it is not an ONNX file.
        """
        top = list(fields(data))
        graphs = [field for field in top if field.number == _MODEL_GRAPH]
        if len(graphs) != 1:
            raise ValueError(f"it has {len(graphs)} graphs")
        opsets = (_opset(data, field) for field in top if field.number == _MODEL_OPSETS)
        inside = list(fields(data, graphs[0].value, graphs[0].end))
        outputs = {_first_text(data, field): field for field in inside if field.number == _OUTPUT}
        return cls(
            data,
            graphs[0],
            max((version for domain, version in opsets if domain in ("", "ai.onnx")), default=0),
            tuple(_first_text(data, field) for field in inside if field.number == _INPUT),
            outputs,
            {name: _element_type(data, field) for name, field in outputs.items()},
            dict(_note(data, field) for field in top if field.number == _MODEL_METADATA),
        )


def fuse(model: Onnx, head: Head, output: str, name: str, *, keep: bool = False) -> bytes | None:
    """Put a head behind a graph.

    Args:
        model: The graph.
        head: The modules.
        output: The graph's output that they read.
        name: Name of the output that they become; names of nodes begin with it.
        keep: Whether ``output`` stays one, after the new one, and the head is noted in the file.

    Returns:
        The bytes of the file; None if the graph is older than the operators that are needed, or not in float32.
    """
    if model.opset < _MINIMUM_OPSET or model.types[output] != _ELEMENT_TYPES[np.dtype(np.float32)]:
        return None
    ops = _OnnxOperators(model.opset, name)
    mask = "attention_mask"
    features = head.apply(ops, output, mask, POOLING_MASK if head.wants_pooling_mask else mask)
    ops.parts.append(message(_NODE, text(1, features[head.target]), text(2, name), text(4, "Identity")))
    added = [*ops.parts, message(_OUTPUT, text(1, name), _tensor_type(1, ("batch_size", "width")))]
    if head.wants_pooling_mask:
        added.append(
            message(_INPUT, text(1, POOLING_MASK), _tensor_type(7, ("batch_size", "sequence_length")))
        )
    dropped = list(model.outputs.values())
    if not keep:
        return _spliced(model, dropped, added)
    kept = bytes(model.data[model.outputs[output].start : model.outputs[output].end])
    note = message(_MODEL_METADATA, text(1, FINGERPRINT), text(2, head.fingerprint))
    return _spliced(model, dropped, [*added, kept]) + note


def _spliced(model: Onnx, dropped: list[Field], added: list[bytes]) -> bytes:
    """The file with some fields of its graph left out and others put at the end."""
    data, graph = model.data, model.graph
    pieces: list[bytes | memoryview] = []
    position = graph.value
    for field in sorted(dropped, key=lambda field: field.start):
        pieces.append(data[position : field.start])
        position = field.end
    pieces += [data[position : graph.end], *added]
    size = sum(map(len, pieces))
    key = message(_MODEL_GRAPH)[:1]
    return b"".join([data[: graph.start], key, _size(size), *pieces, data[graph.end :]])


def _size(value: int) -> bytes:
    return integer(1, value)[1:]  # a number without its key


class _OnnxOperators:
    """Nodes and constants, written one after the other; a value is its name."""

    def __init__(self, opset: int, prefix: str) -> None:
        self.parts: list[bytes] = []
        self._opset, self._prefix = opset, prefix
        self._count = 0

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}/{self._count}"

    def _node(self, kind: str, *inputs: str, attributes: tuple[bytes, ...] = ()) -> str:
        name = self._name()
        parts = [*(text(1, value) for value in inputs), text(2, name), text(3, name), text(4, kind)]
        self.parts.append(message(_NODE, *parts, *attributes))
        return name

    def constant(self, array: npt.NDArray[Any]) -> str:
        name = self._name()
        dims = (integer(1, size) for size in array.shape)
        kind = integer(2, _ELEMENT_TYPES[array.dtype])
        raw = message(9, np.ascontiguousarray(array).tobytes())
        self.parts.append(message(_INITIALIZER, *dims, kind, text(8, name), raw))
        return name

    def to_float(self, x: str) -> str:
        return self._node("Cast", x, attributes=(_attribute("to", 1),))

    def reshape(self, x: str, shape: tuple[int, ...]) -> str:
        return self._node("Reshape", x, self.constant(np.array(shape, np.int64)))

    def binary(self, name: str, a: str, b: str) -> str:
        return self._node(name, a, b)

    def unary(self, name: str, x: str) -> str:
        return self._node(name, x)

    def where(self, condition: str, a: str, b: str) -> str:
        return self._node("Where", condition, a, b)

    def running_sum(self, x: str) -> str:
        return self._node("CumSum", x, self.constant(np.array(1, np.int64)))

    def reduce(self, name: str, x: str, axis: int, *, keep: bool) -> str:
        attributes = (_attribute("keepdims", int(keep)),)
        if self._opset >= _AXES_AS_INPUT[name]:
            axes = self.constant(np.array([axis], np.int64))
            return self._node(f"Reduce{name}", x, axes, attributes=attributes)
        return self._node(f"Reduce{name}", x, attributes=(*attributes, _attribute("axes", [axis])))

    def weighted_sum(self, tokens: str, weights: str) -> str:
        # a matrix product, so that no second (B, T, D) array comes to be
        product = self.binary("MatMul", self.reshape(weights, (0, 1, -1)), tokens)
        return self.reduce("Sum", product, 1, keep=False)

    def concat(self, values: list[str]) -> str:
        return self._node("Concat", *values, attributes=(_attribute("axis", -1),))


def _attribute(name: str, value: int | list[int]) -> bytes:
    if isinstance(value, int):
        return message(5, text(1, name), integer(3, value), integer(20, _INT))
    return message(5, text(1, name), *(integer(8, each) for each in value), integer(20, _INTS))


def _tensor_type(element: int, axes: tuple[str, ...]) -> bytes:
    """The type of an input or output, its axes of any length."""
    shape = message(2, *(message(1, text(2, axis)) for axis in axes))
    return message(2, message(1, integer(1, element), shape))


def _first_text(data: memoryview, parent: Field) -> str:
    """Field 1, the name."""
    found = next((field for field in fields(data, parent.value, parent.end) if field.number == 1), None)
    return "" if found is None else bytes(data[found.value : found.end]).decode()


def _opset(data: memoryview, parent: Field) -> tuple[str, int]:
    """Domain and version of an operator set."""
    domain, version = "", 0
    for field in fields(data, parent.value, parent.end):
        if field.number == 1:
            domain = bytes(data[field.value : field.end]).decode()
        elif field.number == 2:
            version = read_integer(data, field.value)[0]
    return domain, version


def _note(data: memoryview, parent: Field) -> tuple[str, str]:
    """Key and value of an entry of the metadata."""
    found = {field.number: field for field in fields(data, parent.value, parent.end)}
    key, value = (
        "" if n not in found else bytes(data[found[n].value : found[n].end]).decode() for n in (1, 2)
    )
    return key, value


def _element_type(data: memoryview, parent: Field) -> int:
    """Element type of a tensor's ValueInfoProto: field 2 (type), 1 (tensor_type), 1 (elem_type); 0 if it is not said."""
    place = parent
    for number in (2, 1):
        inner = (field for field in fields(data, place.value, place.end) if field.number == number)
        found = next(inner, None)
        if found is None:
            return 0
        place = found
    inner = (field for field in fields(data, place.value, place.end) if field.number == 1)
    found = next(inner, None)
    return 0 if found is None else read_integer(data, found.value)[0]
