"""An OpenVINO IR (.xml with its .bin) before OpenVINO parses it.

The XML is read as a stream by expat, without declarations of any kind; of the weights a few small shapes are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import BinaryIO
from xml.parsers import expat

from stopt.errors import CorruptModel, ResourceLimitError, UntrustedModel
from stopt.preflight.places import data_file, whole_number
from stopt.preflight.sizes import Constant, Sizes
from stopt.preflight.verdict import Verdict

__all__ = ["vet_openvino"]

MAX_XML_BYTES = 128_000_000  # MiniLM's has 0.2 MB, a language model's with 100 layers about 20
MAX_LAYERS = 100_000  # MiniLM has 388
MANY_LAYERS = 10_000  # OpenVINO needs 25 s for 20,000
MAX_ELEMENTS = 4_000_000
MAX_DEPTH = 40  # of XML elements; those of a body inside of a body stand 11 deep
MAX_BODIES = 4  # graphs inside of graphs
MAX_CHAIN = 20_000  # layers one after the other, which OpenVINO follows by recursion; MiniLM has 140
MAX_DIMENSION = 1 << 31
SMALL = 64  # integers of a constant that are looked at

_BODIES = {"body", "then_body", "else_body"}
_LOOPS = {"TensorIterator", "Loop"}
_VERSION = re.compile(r"opset[0-9]{1,2}")
_DIMENSION = re.compile(rb"<dim>\s*(-?[0-9]{1,30})\s*</dim>")
_WIDTHS = {"boolean": 8, "bf16": 16, "nf4": 4, "f4e2m1": 4, "f8e4m3": 8, "f8e5m2": 8, "f8e8m0": 8}
_BITS = {f"{sign}{bits}": bits for sign in "iuf" for bits in (1, 2, 3, 4, 6, 8, 16, 32, 64)} | _WIDTHS
_INTEGERS = {"i32": 4, "i64": 8}

# ONNX's names for what OpenVINO calls otherwise, as far as sizes go
_SAME = {
    "Broadcast": "Expand",
    "Convert": "Cast",
    "ConvertLike": "Cast",
    "Divide": "Div",
    "FakeConvert": "Cast",
    "FakeQuantize": "Cast",
    "LogicalAnd": "And",
    "LogicalNot": "Not",
    "LogicalOr": "Or",
    "Maximum": "Max",
    "Minimum": "Min",
    "Multiply": "Mul",
    "Negative": "Neg",
    "NotEqual": "Equal",
    "Power": "Pow",
    "Result": "Identity",
    "Select": "Where",
    "ShapeOf": "Shape",
    "StridedSlice": "Slice",
    "Subtract": "Sub",
    "VariadicSplit": "Split",
}
_HINT = (
    "do not use this model unless you trust its source; `stopt export` makes a file of the original weights"
)
_AGAIN = "fetch the .xml and the .bin again, or export them with `stopt export --force`"


def vet_openvino(file: Path) -> Verdict:
    """Check an .xml file and its .bin without an engine.

    Raises:
        UntrustedModel: If it declares entities, or has layers of an extension.
        CorruptModel: If it is no IR, or names weights that are not there.
        ResourceLimitError: If it is larger, or nested deeper, than any model.
    """
    size = file.stat().st_size
    if size > MAX_XML_BYTES:
        raise ResourceLimitError(
            f"{file} has {size:,} bytes, too many for a graph without its weights", _HINT
        )
    text = file.read_bytes()
    if text[:1] != b"<" or b"\0" in text:
        raise CorruptModel(f"{file} is not an OpenVINO graph in UTF-8", _AGAIN)
    if b"<!" in text:
        raise UntrustedModel(
            f"{file} has a declaration or comment (<!), which no graph of OpenVINO has", _HINT
        )
    dimensions = _DIMENSION.findall(text)
    if any(not -1 <= int(number) <= MAX_DIMENSION for number in set(dimensions)):
        raise ResourceLimitError(
            f"{file} has a dimension of more than {MAX_DIMENSION:,}, or a negative one", _HINT
        )
    weights = file.with_suffix(".bin")
    available = data_file(file, weights.name, linked=True).st_size
    with weights.open("rb") as stream:
        walk = _Walk(file, stream, available)
        walk.parse(text)
    if walk.dimensions != len(dimensions):
        raise CorruptModel(f"{file} has a dimension that is no number", _AGAIN)
    return Verdict(file, (weights.name,), walk.sizes.doubted(len(text) + available))


@dataclass(slots=True)
class _Graph:
    """Layers and edges of one graph: the file's, or the body of a layer."""

    layers: dict[int, str] = field(default_factory=dict)
    inputs: dict[int, dict[int, int]] = field(default_factory=dict)
    constants: dict[int, Constant] = field(default_factory=dict)
    depth: int = 0


class _Walk:
    """One pass through a file."""

    def __init__(self, file: Path, weights: BinaryIO, available: int) -> None:
        self._file, self._weights, self._available = file, weights, available
        self._graphs: list[_Graph] = []
        self._layer: list[tuple[int, str]] = []
        self._path: list[str] = []
        self._elements = self._layers = 0
        self.dimensions = 0
        self.sizes = Sizes(str(file))

    def parse(self, text: bytes) -> None:
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.XmlDeclHandler = self._declaration
        try:
            parser.Parse(text, True)
        except expat.ExpatError as error:
            raise CorruptModel(
                f"{self._file} is not an OpenVINO graph, or cut short: {error}", _AGAIN
            ) from error
        if self._layers > MANY_LAYERS:
            self.sizes.doubts.append(f"it has {self._layers:,} layers")
        if not self._layers:
            raise CorruptModel(f"{self._file} is not an OpenVINO graph: it has no layers", _AGAIN)

    def _declaration(self, _: str, encoding: str | None, __: int) -> None:
        if encoding is not None and encoding.lower() not in ("utf-8", "us-ascii"):
            raise CorruptModel(f"{self._file} is in the encoding {encoding!r:.40}, not in UTF-8", _AGAIN)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        self._path.append(name)
        if self._elements > MAX_ELEMENTS or len(self._path) > MAX_DEPTH:
            raise ResourceLimitError(f"{self._file} has more elements, or deeper ones, than any graph", _HINT)
        if name == "dim":
            self.dimensions += 1
        elif name == "edge":
            self._edge(attributes)
        elif name == "layer":
            self._begin_layer(attributes)
        elif name == "data":
            self._data(attributes)
        elif name == "net" or (name in _BODIES and self._layer):
            if len(self._graphs) > MAX_BODIES or (name == "net" and len(self._path) > 1):
                raise ResourceLimitError(f"{self._file} has graphs nested more than {MAX_BODIES} deep", _HINT)
            self._graphs.append(_Graph(depth=len(self._path)))

    def _end(self, name: str) -> None:
        if name == "layer":
            self._layer.pop()
        elif self._graphs and self._graphs[-1].depth == len(self._path):
            self._finish(self._graphs.pop())
        self._path.pop()

    def _begin_layer(self, attributes: Mapping[str, str]) -> None:
        number, kind, version = (attributes.get(key, "") for key in ("id", "type", "version"))
        at = whole_number(number)
        if not self._graphs or self._path[-2] != "layers" or at is None or not kind:
            raise CorruptModel(
                f"{self._file} has a layer {number!r:.40} that is in no graph, or has no type", _AGAIN
            )
        graph = self._graphs[-1]
        if at in graph.layers:
            raise CorruptModel(f"{self._file} has two layers with the id {at}", _AGAIN)
        if not _VERSION.fullmatch(version):
            raise UntrustedModel(
                f"{self._file} has a layer {kind!r:.80} of the extension {version!r:.80}", _HINT
            )
        if kind in _LOOPS:
            raise ResourceLimitError(f"{self._file} has the layer {kind}, which may run for ever", _HINT)
        self._layers += 1
        if self._layers > MAX_LAYERS:
            raise ResourceLimitError(f"{self._file} has more than {MAX_LAYERS:,} layers", _HINT)
        graph.layers[at] = kind
        self._layer.append((at, kind))

    def _data(self, attributes: Mapping[str, str]) -> None:
        if not self._layer or self._path[-2] != "layer":
            return
        number, kind = self._layer[-1]
        if kind == "Const":
            self._graphs[-1].constants[number] = self._constant(number, attributes)
        elif kind == "Parameter":
            for size in re.findall("[0-9]+", attributes.get("shape", "")):
                if len(size) > 10 or int(size) > MAX_DIMENSION:
                    raise ResourceLimitError(f"{self._file} has an input of the size {size:.40}", _HINT)

    def _constant(self, number: int, attributes: Mapping[str, str]) -> Constant:
        """Check that the weights of a layer are in the .bin, and are as many as its shape says."""
        names = ("offset", "size", "shape", "element_type")
        offset, size = (whole_number(attributes.get(name, "")) for name in names[:2])
        sizes = [
            whole_number(each.strip()) for each in attributes.get("shape", "").split(",") if each.strip()
        ]
        shape = tuple(each for each in sizes if each is not None)
        kind = attributes.get("element_type", "")
        elements = prod(shape)
        if kind == "string":  # tokenizers have them; their graphs are not for serving
            raise UntrustedModel(f"{self._file} has texts in it, which an encoder has no use for", _HINT)
        needed = -(-elements * _BITS.get(kind, 0) // 8)
        bad = len(shape) != len(sizes) or offset is None or size is None or kind not in _BITS
        if bad or offset is None or size is None or offset + size > self._available or size != needed:
            said = ", ".join(f"{name} {attributes.get(name, 'none')!r:.40}" for name in names)
            raise CorruptModel(
                f"{self._file}: the weights of layer {number} are not all in its .bin of {self._available:,} bytes ({said})",
                _AGAIN,
            )
        values = None
        if kind in _INTEGERS and elements <= SMALL:
            width = _INTEGERS[kind]
            self._weights.seek(offset)
            data = self._weights.read(size)
            values = tuple(
                int.from_bytes(data[at : at + width], "little", signed=True) for at in range(0, size, width)
            )
        return Constant(shape, elements, values)

    def _edge(self, attributes: Mapping[str, str]) -> None:
        if not self._graphs:
            return
        names = ("from-layer", "to-layer", "from-port", "to-port")
        source, target, _, port = (whole_number(attributes.get(name, "")) for name in names)
        graph = self._graphs[-1]
        if source is None or target is None or port is None or not {source, target} <= graph.layers.keys():
            raise CorruptModel(f"{self._file} has an edge between layers that are not there", _AGAIN)
        ports = graph.inputs.setdefault(target, {})
        if port in ports:
            raise CorruptModel(f"{self._file} has two edges into one input of layer {target}", _AGAIN)
        ports[port] = source

    def _finish(self, graph: _Graph) -> None:
        """Go through the layers of a graph in the order of its edges."""
        missing = [
            number
            for number, kind in graph.layers.items()
            if kind == "Const" and number not in graph.constants
        ]
        if missing:
            raise CorruptModel(f"{self._file}: layer {missing[0]} has no weights", _AGAIN)
        waiting = {number: set(graph.inputs.get(number, {}).values()) for number in graph.layers}
        readers: dict[int, list[int]] = {}
        for number, sources in waiting.items():
            for source in sources:
                readers.setdefault(source, []).append(number)
        self.sizes.constants = {str(number): constant for number, constant in graph.constants.items()}
        chain = dict.fromkeys(graph.layers, 1)
        ready = [number for number, sources in waiting.items() if not sources]
        done = 0
        while ready:
            number = ready.pop()
            done += 1
            self._bound(graph, number)
            for reader in readers.get(number, ()):
                chain[reader] = max(chain[reader], chain[number] + 1)
                waiting[reader].discard(number)
                if not waiting[reader]:
                    ready.append(reader)
        if done < len(graph.layers):
            raise CorruptModel(f"{self._file} has layers that wait for each other", _AGAIN)
        if max(chain.values(), default=0) > MAX_CHAIN:
            raise ResourceLimitError(
                f"{self._file} has more than {MAX_CHAIN:,} layers one after the other", _HINT
            )

    def _bound(self, graph: _Graph, number: int) -> None:
        kind = graph.layers[number]
        if kind in ("Const", "Parameter"):
            return
        inputs = [str(source) for _, source in sorted(graph.inputs.get(number, {}).items())]
        self.sizes.node("", _SAME.get(kind, kind), inputs, [str(number)], {})
