"""How large the values can get that an engine computes of a graph's constants when it opens it.

A file of a few hundred bytes can ask for a terabyte: ``ConstantOfShape``, or a constant multiplied with itself. An upper
bound is kept for every value that follows from constants alone. Where there is none the file is not refused: it has a
doubt, and is tried in a process with limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

from stopt.errors import ResourceLimitError
from stopt.preflight.operators import OWN_DOMAINS

__all__ = ["Constant", "Sizes"]

# elements of one value that is asked for outright: attention masks of 16,384 tokens have as many
MAX_ELEMENTS = 1 << 28
# elements of all values that an engine may compute when it opens a file: 1 GB in float32, or what weights in few bits
# become when they are turned into floats, in several steps
MAX_COMPUTED = 1 << 28
MAX_COMPUTED_PER_BYTE = 16

Shape = tuple[int, ...]


class Constant(NamedTuple):
    """A value that is known before anything runs.

    Attributes:
        shape: Its shape; None if only the number of elements is known.
        elements: How many it has at most.
        values: The integers in it, if they are few and known.
    """

    shape: Shape | None
    elements: int
    values: tuple[int, ...] | None = None


# give no more elements than their first input has
_NO_LARGER = frozenset(
    [
        "Abs",
        "Acos",
        "And",
        "ArgMax",
        "ArgMin",
        "Asin",
        "Atan",
        "BitShift",
        "Cast",
        "CastLike",
        "Ceil",
        "Celu",
        "Clip",
        "Compress",
        "Cos",
        "CumSum",
        "DepthToSpace",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Elu",
        "Erf",
        "Exp",
        "Flatten",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Hardmax",
        "Identity",
        "IsInf",
        "IsNaN",
        "LayerNormalization",
        "LeakyRelu",
        "Log",
        "LogSoftmax",
        "LpNormalization",
        "Mish",
        "Neg",
        "Not",
        "QuantizeLinear",
        "Reciprocal",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "Relu",
        "Reshape",
        "ReverseSequence",
        "Round",
        "ScatterElements",
        "ScatterND",
        "Selu",
        "Shape",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Size",
        "Slice",
        "Softmax",
        "Softplus",
        "Softsign",
        "SpaceToDepth",
        "Split",
        "Sqrt",
        "Squeeze",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
        "TopK",
        "Transpose",
        "Trilu",
        "Unique",
        "Unsqueeze",
    ]
)
# of these, the ones that give its shape as well, whatever else they are given
_SAME_SHAPE = frozenset(
    (
        *(
            "Abs",
            "Ceil",
            "Clip",
            "CumSum",
            "DequantizeLinear",
            "Erf",
            "Exp",
            "Floor",
            "Gelu",
            "LayerNormalization",
        ),
        *(
            "Log",
            "Neg",
            "Not",
            "QuantizeLinear",
            "Relu",
            "Round",
            "Sigmoid",
            "Sign",
            "Softmax",
            "Sqrt",
            "Tanh",
            "Trilu",
        ),
    )
)
# give at most as many elements as the product of what their inputs have
_PRODUCTS = frozenset(
    [
        "Add",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "Div",
        "Equal",
        "Gather",
        "GatherElements",
        "GatherND",
        "Gemm",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "MatMul",
        "MatMulInteger",
        "Max",
        "Mean",
        "Min",
        "Mod",
        "Mul",
        "Or",
        "PRelu",
        "Pow",
        "QLinearMatMul",
        "Sub",
        "Sum",
        "Where",
        "Xor",
    ]
)


class Sizes:
    """The constants of a graph and of those around it.

    Args:
        name: What to call the file.

    Attributes:
        constants: What is known so far, by name.
        computed: Elements that come to be when the file is opened, as far as they are bounded.
        doubts: Reasons why a bound is not known.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.constants: dict[str, Constant] = {}
        self.doubts: list[str] = []
        self.computed = 0
        self._outer: list[dict[str, Constant]] = []

    def enter(self) -> None:
        """Begin a graph inside of the one at hand, which sees its values."""
        self._outer.append(self.constants)
        self.constants = {}

    def leave(self) -> None:
        """End the graph that was begun last."""
        self.constants = self._outer.pop()

    def doubted(self, stored: int) -> tuple[str, ...]:
        """Return the doubts, given how many bytes the file has with its data."""
        if self.computed > max(MAX_COMPUTED, MAX_COMPUTED_PER_BYTE * stored):
            self.doubts.append(f"{self.computed:,} values may have to be computed of its constants")
        return tuple(dict.fromkeys(self.doubts))

    def node(
        self,
        domain: str,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: Mapping[str, Constant | tuple[int, ...]],
    ) -> None:
        """Note what is known of a node's outputs.

        Raises:
            ResourceLimitError: If it asks outright for more elements than any model needs.
        """
        if domain not in OWN_DOMAINS:
            return
        if operator == "Constant":
            self.constants[outputs[0] if outputs else ""] = _constant(attributes)
            return
        known = [self._find(name) for name in inputs if name]
        asked = self._asked(operator, known)
        if asked is not None and asked > MAX_ELEMENTS:
            raise ResourceLimitError(
                f"{self.name}: a node {operator} asks for {asked:,} values",
                "do not use this model unless you trust its source; `stopt export` makes a file of the original weights",
            )
        constants = [each for each in known if each is not None]
        if len(constants) < len(known) or not known:
            return
        result = _result(operator, constants, asked, attributes)
        if result is None:
            self.doubts.append(f"how large its constants get depends on a node {operator}")
            return
        self.computed += result.elements
        self.constants.update(dict.fromkeys(outputs, result))

    def _find(self, name: str) -> Constant | None:
        found = self.constants.get(name)
        if found is None:
            for outer in reversed(self._outer):
                if found := outer.get(name):
                    break
        return found

    def _asked(self, operator: str, known: Sequence[Constant | None]) -> int | None:
        """The number of elements that a node asks for by a constant; for Tile and Expand how many times its input's."""
        place = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}.get(operator)
        if place is None or len(known) <= place:
            return None
        shape = known[place]
        if shape is None or shape.values is None:
            return None
        return prod(max(1, size) for size in shape.values)


def _constant(attributes: Mapping[str, Constant | tuple[int, ...]]) -> Constant:
    """What a node Constant is; of texts and numbers in attributes of their own nothing but that they are there."""
    found = attributes.get("value", attributes.get("value_ints", attributes.get("value_int")))
    if isinstance(found, Constant):
        return found
    if found is not None:
        return Constant((len(found),) if "value_ints" in attributes else (), len(found), found)
    # floats and texts are in the file themselves, which is not larger than they are
    return Constant(None, 1 << 16)


def _result(
    operator: str,
    inputs: Sequence[Constant],
    asked: int | None,
    attributes: Mapping[str, Constant | tuple[int, ...]],
) -> Constant | None:
    """What a node makes of constants; None if that is not bounded by what is known."""
    first = inputs[0]
    match operator:
        case "ConstantOfShape" | "Expand" | "Tile":
            if asked is None:
                return None
            return Constant(None, asked * (1 if operator == "ConstantOfShape" else first.elements))
        case "Concat":
            return Constant(None, sum(each.elements for each in inputs), _joined(inputs))
        case "Range":
            return _range([each.values for each in inputs])
        case "Cast" | "Identity":
            return first
        case "Reshape" | "Squeeze" | "Transpose" | "Unsqueeze":
            return _arranged(operator, inputs, attributes)
        case _ if operator in _SAME_SHAPE:
            return Constant(first.shape, first.elements)
        case _ if operator in _NO_LARGER:
            return Constant(None, max(first.elements, 16))  # Shape gives as many as there are axes
        case _ if operator in _PRODUCTS:
            return _product(operator, inputs)
        case _:
            return None


def _arranged(
    operator: str, inputs: Sequence[Constant], attributes: Mapping[str, Constant | tuple[int, ...]]
) -> Constant:
    """The same elements in another shape, or another order."""
    first = inputs[0]
    given = inputs[1].values if len(inputs) == 2 else None
    match operator:
        case "Transpose":
            order = given if len(inputs) == 2 else attributes.get("perm")
            return Constant(_permuted(first.shape, order), first.elements)
        case "Unsqueeze":
            axes = given if len(inputs) == 2 else attributes.get("axes")
            return Constant(_unsqueezed(first.shape, axes), first.elements, first.values)
        case "Reshape":
            return Constant(_reshaped(first, given), first.elements, first.values)
        case _:
            return Constant(None, first.elements, first.values)


def _joined(inputs: Sequence[Constant]) -> tuple[int, ...] | None:
    values = [each.values for each in inputs]
    return None if None in values else tuple(value for each in values for value in each or ())


def _range(limits: Sequence[tuple[int, ...] | None]) -> Constant | None:
    if len(limits) != 3 or not all(each and len(each) == 1 for each in limits):
        return None
    start, stop, step = (each[0] for each in limits if each)
    return Constant(None, max(0, (stop - start) // step + 1)) if step else None


def _reshaped(first: Constant, wanted: tuple[int, ...] | None) -> Shape | None:
    """The shape that is asked for, where it says it outright."""
    fits = wanted is not None and min(wanted, default=1) > 0 and prod(wanted) == first.elements
    return wanted if fits else None


def _unsqueezed(shape: Shape | None, axes: object) -> Shape | None:
    if shape is None or not isinstance(axes, tuple):
        return None
    ones = {axis % (len(shape) + len(axes)) for axis in axes}
    rest = iter(shape)
    return tuple(1 if axis in ones else next(rest, 1) for axis in range(len(shape) + len(axes)))


def _permuted(shape: Shape | None, order: object) -> Shape | None:
    known = shape is not None and isinstance(order, tuple) and sorted(order) == list(range(len(shape)))
    return tuple(shape[axis] for axis in order) if known and shape and isinstance(order, tuple) else None


def _product(operator: str, inputs: Sequence[Constant]) -> Constant:
    """The result of a node that combines its inputs' elements each with each at most."""
    if all(each.values is not None and len(each.values) == 1 for each in inputs) and operator in (
        "Add",
        "Mul",
        "Sub",
    ):
        a, b = (each.values[0] for each in inputs[:2] if each.values)
        return Constant((), 1, ({"Add": a + b, "Mul": a * b, "Sub": a - b}[operator],))
    if operator == "MatMul" and len(inputs) == 2 and len(inputs[1].shape or ()) == 2:
        first, (inner, outer) = inputs[0], inputs[1].shape or (1, 1)
        shape = None if not first.shape else (*first.shape[:-1], outer)
        return Constant(shape, max(1, first.elements // max(1, inner)) * outer)
    shapes = [each.shape for each in inputs]
    if (
        operator not in ("MatMul", "MatMulInteger", "QLinearMatMul", "Gemm", "Gather", "GatherND")
        and None not in shapes
    ):
        axes = max(len(shape or ()) for shape in shapes)
        padded = [(1,) * (axes - len(shape or ())) + (shape or ()) for shape in shapes]
        shape = tuple(max(sizes) for sizes in zip(*padded, strict=True))
        return Constant(shape, prod(shape))
    return Constant(None, prod(max(1, each.elements) for each in inputs))
