"""An .onnx file before ONNX Runtime or onnx parse it: every tensor, node, subgraph and function of it is visited.

Field numbers are those of onnx.proto. Weights are skipped; of a 90 MB model about 100 kB are read.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stopt.errors import CorruptModel, ResourceLimitError, UntrustedModel
from stopt.preflight.onnx_tensors import AGAIN, HINT, PAIR, SMALL, Tensors
from stopt.preflight.operators import LOOPS, OWN_DOMAINS, is_known
from stopt.preflight.protobuf import BYTES, FIXED32, INTEGER, Reader, Rule, Span
from stopt.preflight.sizes import Constant, Sizes
from stopt.preflight.verdict import Verdict

__all__ = ["vet_onnx"]

MAX_NODES = 200_000  # those of functions counted as often as they are called; MiniLM has 524
MANY_NODES = 20_000  # engines need more than twice the time for twice the nodes
MAX_DEPTH = 16  # graphs inside of graphs; torch's exporter makes one or two

_WORD, _TEXT, _WORDS, _TEXTS = Rule(INTEGER), Rule(BYTES), Rule(INTEGER | BYTES, True), Rule(BYTES, True)
_MODEL = {1: _WORD, 2: _TEXT, 3: _TEXT, 4: _TEXT, 5: _WORD, 6: _TEXT, 7: _TEXT, 8: _TEXTS, 14: _TEXTS}
_MODEL |= {20: _TEXTS, 25: _TEXTS, 26: _TEXTS}
_GRAPH = {1: _TEXTS, 2: _TEXT, 5: _TEXTS, 10: _TEXT} | dict.fromkeys((11, 12, 13, 14, 15, 16), _TEXTS)
_NODE = {
    1: _TEXTS,
    2: _TEXTS,
    3: _TEXT,
    4: _TEXT,
    5: _TEXTS,
    6: _TEXT,
    7: _TEXT,
    8: _TEXT,
    9: _TEXTS,
    10: _TEXTS,
}
_ATTRIBUTE = {
    1: _TEXT,
    2: Rule(FIXED32),
    3: _WORD,
    4: _TEXT,
    5: _TEXT,
    6: _TEXT,
    13: _TEXT,
    14: _TEXT,
    20: _WORD,
}
_ATTRIBUTE |= {7: Rule(FIXED32 | BYTES, True), 8: _WORDS, 21: _TEXT, 22: _TEXT}
_ATTRIBUTE |= dict.fromkeys((9, 10, 11, 15, 23), _TEXTS)
# fields of an attribute with graphs, types or sparse tensors in them
_NESTED = {6: "_graph", 11: "_graph", 14: "_type", 15: "_type", 22: "_sparse", 23: "_sparse"}
_FUNCTION = {1: _TEXT, 10: _TEXT, 8: _TEXT, 13: _TEXT} | dict.fromkeys((4, 5, 6, 7, 9, 11, 12, 14), _TEXTS)
_OPSET = {1: _TEXT, 2: _WORD}
_VALUE = {1: _TEXT, 2: _TEXT, 3: _TEXT, 4: _TEXTS}
_TYPE = dict.fromkeys((1, 4, 5, 6, 7, 8, 9), _TEXT)
_TENSOR_TYPE = {1: _WORD, 2: _TEXT}
_MAP_TYPE = {1: _WORD, 2: _TEXT}
_ELEMENT_OF = {1: _TEXT}
_SHAPE = {1: _TEXTS}
_DIMENSION = {1: _WORD, 2: _TEXT, 3: _TEXT}


class _Function(NamedTuple):
    """A function of the file: how many nodes it has itself, and the functions that they call."""

    nodes: int
    calls: Sequence[tuple[str, str]]


def vet_onnx(file: Path) -> Verdict:
    """Check an .onnx file without an engine.

    Args:
        file: The file; its data files, if it has any, lie beside it.

    Raises:
        UntrustedModel: If it names data outside its folder, an operator with code of its own, or settings for the engine.
        CorruptModel: If it is no ONNX file, or a tensor is not all there.
        ResourceLimitError: If it is larger, or nested deeper, than any model.
    """
    with file.open("rb") as stream:
        try:
            # not closed here: an error's traceback may hold on to parts of it
            mapped = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError as error:
            raise CorruptModel(f"{file} is empty", AGAIN) from error
    if bytes(mapped[4:8]) == b"ORTM":
        raise UntrustedModel(f"{file} is in ONNX Runtime's own format, which stopt does not check", HINT)
    walk = _Walk(mapped, file)
    walk.model()
    return walk.verdict()


class _Walk:
    """One pass through a file."""

    def __init__(self, data: memoryview, file: Path) -> None:
        self._file = file
        self._size = len(data)
        self._reader = Reader(data, str(file))
        self._read = self._reader.fields
        self._functions: dict[tuple[str, str], _Function] = {}
        self._names: set[tuple[str, str]] = set()
        self._calls: list[tuple[str, str]] = []
        self._nodes = 0
        self._tensors = Tensors(file, self._reader, self._size)
        self._name = self._reader.name_of
        self.sizes = Sizes(str(file))

    def model(self) -> None:
        model = self._read("model", _MODEL, 0, self._size)
        if 7 not in model:
            raise CorruptModel(f"{self._file} has no graph", AGAIN)
        if 20 in model:
            raise UntrustedModel(f"{self._file} has graphs for training, which serving has no use for", HINT)
        for span in model.get(14, ()):
            self._note(span)
        for span in model.get(8, ()):
            self._read("operator set", _OPSET, *span)
        functions = [self._read("function", _FUNCTION, *span) for span in model.get(25, ())]
        for function in functions:
            name = self._name(function, 10), self._name(function, 1)
            if name[0] in OWN_DOMAINS or is_known(*name):
                raise UntrustedModel(f"{self._file} redefines the operator {name[1]!r:.100}", HINT)
            self._names.add(name)
        for function in functions:
            self._function(function)
        self._calls = []
        self._nodes = 0
        self._graph(model[7][0], 0)
        self._bound_calls()

    def verdict(self) -> Verdict:
        """What was found."""
        data = self._tensors.sizes
        self.sizes.computed += self._tensors.dense
        return Verdict(self._file, tuple(sorted(data)), self.sizes.doubted(self._size + sum(data.values())))

    def _function(self, function: dict[int, list[Span]]) -> None:
        self._calls, before = [], self._nodes
        for span in function.get(11, ()):
            self._attribute(span, 0)
        outer, self.sizes = self.sizes, Sizes(str(self._file))  # what its inputs are is not known here
        for span in function.get(7, ()):
            self._node(span, 0)
        outer.doubts += self.sizes.doubts
        outer.computed += self.sizes.computed
        self.sizes = outer
        for span in function.get(12, ()):
            self._value(span)
        for span in function.get(14, ()):
            self._note(span)
        name = self._name(function, 10), self._name(function, 1)
        self._functions[name] = _Function(self._nodes - before, self._calls)

    def _bound_calls(self) -> None:
        """Count the nodes with every call of a function written out, as an engine does."""
        known: dict[tuple[str, str], int] = {}

        def count(name: tuple[str, str], depth: int) -> int:
            if depth > MAX_DEPTH:
                raise ResourceLimitError(
                    f"{self._file} has functions that call each other more than {MAX_DEPTH} deep", HINT
                )
            if name not in known:
                nodes, calls = self._functions[name]
                known[name] = nodes + sum(count(each, depth + 1) for each in calls)
            return known[name]

        nodes = self._nodes + sum(count(name, 1) for name in self._calls)
        self._limit(nodes)
        if nodes > MANY_NODES:
            self.sizes.doubts.append(f"it has {nodes:,} nodes")

    def _limit(self, nodes: int) -> None:
        if nodes > MAX_NODES:
            raise ResourceLimitError(f"{self._file} has more than {MAX_NODES:,} nodes", HINT)

    def _graph(self, span: Span, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ResourceLimitError(f"{self._file} has graphs nested more than {MAX_DEPTH} deep", HINT)
        graph = self._read("graph", _GRAPH, *span)
        self.sizes.enter()
        for each in graph.get(5, ()):
            name, constant = self._tensors.tensor(each)
            self.sizes.constants[name] = constant
        for each in graph.get(15, ()):
            self._sparse(each)
        for number in (11, 12, 13):
            for each in graph.get(number, ()):
                self._value(each)
        for each in graph.get(16, ()):
            self._note(each)
        for each in graph.get(1, ()):
            self._node(each, depth)
        self.sizes.leave()

    def _node(self, span: Span, depth: int) -> None:
        node = self._read("node", _NODE, *span)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._limit(self._nodes)
        domain, operator = self._operator(node)
        attributes: dict[str, Constant | tuple[int, ...]] = {}
        for each in node.get(5, ()):
            name, value = self._attribute(each, depth)
            if value is not None:
                attributes[name] = value
        for each in node.get(9, ()):
            self._note(each)
        text = self._reader.text
        inputs = [text(each) for each in node.get(1, ())]
        outputs = [text(each) for each in node.get(2, ())]
        self.sizes.node(domain, operator, inputs, outputs, attributes)

    def _operator(self, node: dict[int, list[Span]]) -> tuple[str, str]:
        """The operator of a node, once it is known to be one that an engine has, or a function of the file."""
        domain, name = self._name(node, 7), self._name(node, 4)
        if (domain, name) in self._names:
            self._calls.append((domain, name))
        elif not is_known(domain, name):
            raise UntrustedModel(
                f"{self._file} has the operator {domain}::{name}"[:300]
                + ", which stopt does not let an engine run",
                HINT,
            )
        elif name in LOOPS:
            raise ResourceLimitError(f"{self._file} has the operator {name}, which may run for ever", HINT)
        return domain, name

    def _attribute(self, span: Span, depth: int) -> tuple[str, Constant | tuple[int, ...] | None]:
        """Check an attribute, with the tensors, graphs and types in it; return its name, and its value if it is small."""
        attribute = self._read("attribute", _ATTRIBUTE, *span)
        value: Constant | tuple[int, ...] | None = None
        for number in attribute.keys() & _NESTED.keys():
            visit = getattr(self, _NESTED[number])
            for each in attribute[number]:
                visit(each, depth + 1)
        for number in attribute.keys() & {5, 10}:
            for each in attribute[number]:
                value = self._tensors.tensor(each)[1]
        for number in attribute.keys() & {3, 8}:
            value = self._reader.integers(attribute[number], SMALL)
        return self._name(attribute, 1), value

    def _sparse(self, span: Span, _: int = 0) -> None:
        self._tensors.sparse(span)

    def _value(self, span: Span) -> None:
        for each in self._read("value", _VALUE, *span).get(2, ()):
            self._type(each, 0)

    def _type(self, span: Span, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ResourceLimitError(f"{self._file} has types nested more than {MAX_DEPTH} deep", HINT)
        for number, spans in self._read("type", _TYPE, *span).items():
            match number:
                case 1 | 8:
                    for each in self._read("tensor type", _TENSOR_TYPE, *spans[0]).get(2, ()):
                        self._declared(each)
                case 4 | 9:
                    for each in self._read("type", _ELEMENT_OF, *spans[0]).get(1, ()):
                        self._type(each, depth + 1)
                case 5:
                    for each in self._read("type", _MAP_TYPE, *spans[0]).get(2, ()):
                        self._type(each, depth + 1)
                case _:
                    pass

    def _declared(self, span: Span) -> None:
        """The shape that a value is said to have."""
        axes = self._read("shape", _SHAPE, *span).get(1, ())
        sizes = [self._read("dimension", _DIMENSION, *axis).get(1) for axis in axes]
        self._tensors.shape([size[0] for size in sizes if size and size[0][0] != (1 << 64) - 1], "a value")

    def _note(self, span: Span) -> None:
        key, _ = self._pair(span, "note")
        if key == "ort_config":
            raise UntrustedModel(f"{self._file} has settings for ONNX Runtime in it (ort_config)", HINT)

    def _pair(self, span: Span, what: str) -> tuple[str, str]:
        pair = self._read(what, PAIR, *span)
        return self._name(pair, 1), self._name(pair, 2)
