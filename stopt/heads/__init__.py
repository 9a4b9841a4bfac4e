"""The modules that follow a transformer, as operators behind it in its own graph.

Token embeddings, or a vocabulary of logits per token, are wide; what pooling makes of them is not. With the modules in
the graph the wide arrays never leave the engine. :func:`build_head` reads what is needed from a model folder and
:meth:`Head.apply` writes it with the operators of whichever engine: :mod:`stopt.heads.onnx` when a file is loaded or
written, :mod:`stopt.heads.openvino` when a model is loaded. The same modules over arrays are
:mod:`stopt.runtime.modules`; the tests hold the two against each other and against sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol, assert_never

import numpy as np
import numpy.typing as npt

from stopt.heads.activations import activate, log1p
from stopt.runtime.modules import LAYER_NORM_EPSILON, MEAN_EPSILON, NORM_EPSILON, module_weights
from stopt.spec import (
    SCORES,
    TOKENS,
    Activation,
    Dense,
    LayerNorm,
    ModelSpec,
    ModuleSpec,
    Normalize,
    Pooling,
    PoolingMode,
    SpladePooling,
    TransformerSpec,
)

__all__ = ["FINGERPRINT", "POOLING_MASK", "SERVED", "Head", "Operators", "build_head"]

# key of a head's fingerprint among a file's metadata
FINGERPRINT = "stopt.head"
# prefix of names that are given when a file is opened, which may have modules under their own names in it
SERVED = "served_"

# input of the graph beside the attention mask, where pooling leaves out tokens that attention does not
POOLING_MASK = "pooling_mask"
# texts are shorter than this many tokens; up to it, float32 counts exactly
_LONGER_THAN_ANY_TEXT = 2.0**20

Value = Any  # a value in a graph, of the engine's own kind


class Operators(Protocol):
    """The operators that modules are made of, in one engine's spelling; broadcasting as in numpy."""

    def constant(self, array: npt.NDArray[Any]) -> Value:
        """A float32 or int64 array."""

    def to_float(self, x: Value) -> Value:
        """``x`` as float32."""

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value:
        """0 keeps an axis, -1 takes what is left."""

    def binary(self, name: str, a: Value, b: Value) -> Value:
        """``Add``, ``Sub``, ``Mul``, ``Div``, ``Max``, ``MatMul``, ``Equal`` or ``Greater``."""

    def unary(self, name: str, x: Value) -> Value:
        """``Abs``, ``Erf``, ``Exp``, ``Log``, ``Relu``, ``Sigmoid``, ``Sqrt`` or ``Tanh``."""

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        """``a`` where the condition holds, else ``b``."""

    def running_sum(self, x: Value) -> Value:
        """Sums of (B, T) up to each column, that column included."""

    def reduce(self, name: str, x: Value, axis: int, *, keep: bool) -> Value:
        """``Sum``, ``Max`` or ``Mean`` over one axis."""

    def weighted_sum(self, tokens: Value, weights: Value) -> Value:
        """(B, D) from (B, T, D) and (B, T)."""

    def concat(self, values: list[Value]) -> Value:
        """Arrays side by side on the last axis."""


@dataclass(frozen=True, slots=True)
class Head:
    """Modules to put behind a transformer.

    Attributes:
        modules: The modules, in order: the model's first, up to one that no graph is to contain.
        weights: Weights of each, by its position and the tensor's name; float32.
        source: Feature that the transformer gives.
        activation: What is done to scores in the end.
    """

    modules: tuple[ModuleSpec, ...]
    weights: Mapping[tuple[int, str], npt.NDArray[np.float32]] = field(repr=False)
    source: str = TOKENS
    activation: Activation | None = None

    @property
    def target(self) -> str:
        """Feature that it gives."""
        return self.modules[-1].target if self.modules else self.source

    @property
    def fingerprint(self) -> str:
        """Hash of all that it does; a file with the same head in it needs no other."""
        digest = sha256(repr((self.modules, self.source, self.activation)).encode())
        for key in sorted(self.weights):
            digest.update(self.weights[key].tobytes())
        return digest.hexdigest()

    @property
    def wants_pooling_mask(self) -> bool:
        """Whether the graph needs the mask of the tokens that are pooled, besides that of the tokens that are real."""
        return any(isinstance(module, Pooling) and not module.include_prompt for module in self.modules)

    def apply(self, ops: Operators, tokens: Value, mask: Value, pooling_mask: Value) -> Mapping[str, Value]:
        """Add the modules to a graph.

        Args:
            ops: The engine's operators.
            tokens: (B, T, D) float32, what the transformer gives; scores are (B, labels).
            mask: (B, T) integers, 1 for real tokens.
            pooling_mask: The same without those of the prompt, where pooling leaves them out; else ``mask``.

        Returns:
            The features that there are then, by name.
        """
        features = {self.source: tokens}
        for index, module in enumerate(self.modules):
            x = features[module.source]
            match module:
                case Pooling():
                    chosen = ops.to_float(mask if module.include_prompt else pooling_mask)
                    pooled = [_pool(ops, x, chosen, mode) for mode in module.modes]
                    y = pooled[0] if len(pooled) == 1 else ops.concat(pooled)
                case SpladePooling():
                    y = _splade(ops, x, ops.to_float(mask), module)
                case Dense():
                    y = ops.binary("MatMul", x, ops.constant(self.weights[index, "linear.weight"].T))
                    if module.bias:
                        y = ops.binary("Add", y, ops.constant(self.weights[index, "linear.bias"]))
                    y = activate(ops, y, module.activation)
                case Normalize():
                    y = _normalize(ops, x)
                case LayerNorm():
                    y = _layer_norm(
                        ops, x, self.weights[index, "norm.weight"], self.weights[index, "norm.bias"]
                    )
                case _:
                    raise AssertionError(f"{module} is in no graph")
            features[module.target] = y
        if self.activation is not None:
            features[SCORES] = activate(ops, features[SCORES], self.activation)
        return features


def build_head(root: Path, spec: ModelSpec, *, activated: bool = False) -> Head | None:
    """Read the modules that can be put behind the transformer's graph.

    Args:
        root: The model folder.
        spec: The model.
        activated: Whether a cross-encoder's activation is put there too; stopt itself leaves it to each call.

    Returns:
        The first modules, as many as can be; None if that is none.

    Raises:
        CorruptModel: If weights are missing or of the wrong shape.
        UnsupportedModel: If weights exist only as a pickle.
    """
    if not isinstance(spec.front, TransformerSpec):
        return None
    if spec.front.target == SCORES:
        return Head((), {}, SCORES, spec.activation) if activated and not spec.modules else None
    modules = tuple(takewhile(_fits, spec.modules))
    if not modules or modules[-1].target == TOKENS:
        return None
    weights = {
        (index, name): array
        for index, module in enumerate(modules)
        for name, array in module_weights(root, module).items()
    }
    activation = spec.activation if activated and modules[-1].target == SCORES else None
    return Head(modules, weights, activation=activation)


def _fits(module: ModuleSpec) -> bool:
    # the graph's output is the sentence embedding; scores made of that are a few products
    fits = isinstance(module, Pooling | SpladePooling | Dense | Normalize | LayerNorm)
    return fits and module.target != SCORES


def _pool(ops: Operators, tokens: Value, mask: Value, mode: PoolingMode) -> Value:
    """(B, D) from (B, T, D) and the float mask (B, T); see :func:`stopt.runtime.modules.pool`."""
    match mode:
        case PoolingMode.MEAN:
            return ops.binary("Div", ops.weighted_sum(tokens, mask), _count(ops, mask))
        case PoolingMode.MEAN_SQRT_LEN:
            return ops.binary("Div", ops.weighted_sum(tokens, mask), ops.unary("Sqrt", _count(ops, mask)))
        case PoolingMode.WEIGHTED_MEAN:
            weights = ops.binary("Mul", mask, _columns(ops, mask))
            return ops.binary("Div", ops.weighted_sum(tokens, weights), _count(ops, weights))
        case PoolingMode.MAX:
            lowest = ops.constant(np.array(-np.inf, np.float32))
            real = ops.binary("Greater", ops.reshape(mask, (0, -1, 1)), _number(ops, 0))
            largest = ops.reduce("Max", ops.where(real, tokens, lowest), 1, keep=False)
            # OpenVINO starts from the lowest finite number
            any_real = ops.binary("Greater", ops.reduce("Max", mask, 1, keep=True), _number(ops, 0))
            return ops.where(any_real, largest, lowest)
        case PoolingMode.CLS:
            # the first real token wins, and the first of all where none is real
            bonus = ops.binary("Mul", mask, _number(ops, _LONGER_THAN_ANY_TEXT))
            return ops.weighted_sum(tokens, _best(ops, ops.binary("Sub", bonus, _columns(ops, mask))))
        case PoolingMode.LAST_TOKEN:
            # where none is real every column wins, and the mask takes it back
            last = _best(ops, ops.binary("Mul", mask, _columns(ops, mask)))
            return ops.weighted_sum(tokens, ops.binary("Mul", last, mask))
        case _:
            assert_never(mode)


def _splade(ops: Operators, logits: Value, mask: Value, module: SpladePooling) -> Value:
    """(B, V) from (B, T, V), in operators that engines run in place: each copy of a text's logits takes 64 MiB.

    log1p(relu(x)) grows with x, so the largest may be taken before it, of far fewer values. What is summed up takes the
    logarithm of 1 + x as it is: its error, below 1e-7 of a value, vanishes in the sum.
    """
    weights = ops.unary("Relu", logits)
    times = 2 if module.double_log else 1
    if module.maximum:
        real = ops.binary("Mul", weights, ops.reshape(mask, (0, -1, 1)))
        return _repeat_log1p(ops, ops.reduce("Max", real, 1, keep=False), times)
    for _ in range(times):
        weights = ops.unary("Log", ops.binary("Add", weights, _number(ops, 1)))
    return ops.weighted_sum(weights, mask)


def _repeat_log1p(ops: Operators, x: Value, times: int) -> Value:
    for _ in range(times):
        x = log1p(ops, x)
    return x


def _count(ops: Operators, weights: Value) -> Value:
    """(B, 1): the sum of weights, never zero."""
    return ops.binary("Max", ops.reduce("Sum", weights, 1, keep=True), _number(ops, MEAN_EPSILON))


def _columns(ops: Operators, mask: Value) -> Value:
    """(B, T): 1, 2, 3 … in every row."""
    zero = ops.binary("Mul", mask, _number(ops, 0))
    return ops.running_sum(ops.binary("Add", zero, _number(ops, 1)))


def _best(ops: Operators, scores: Value) -> Value:
    """(B, T): 1 where a row has its largest score, else 0."""
    return ops.to_float(ops.binary("Equal", scores, ops.reduce("Max", scores, 1, keep=True)))


def _normalize(ops: Operators, x: Value) -> Value:
    norm = ops.unary("Sqrt", ops.reduce("Sum", ops.binary("Mul", x, x), -1, keep=True))
    return ops.binary("Div", x, ops.binary("Max", norm, _number(ops, NORM_EPSILON)))


def _layer_norm(
    ops: Operators, x: Value, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]
) -> Value:
    centred = ops.binary("Sub", x, ops.reduce("Mean", x, -1, keep=True))
    variance = ops.reduce("Mean", ops.binary("Mul", centred, centred), -1, keep=True)
    scale = ops.unary("Sqrt", ops.binary("Add", variance, _number(ops, LAYER_NORM_EPSILON)))
    scaled = ops.binary("Mul", ops.binary("Div", centred, scale), ops.constant(weight))
    return ops.binary("Add", scaled, ops.constant(bias))


def _number(ops: Operators, value: float) -> Value:
    return ops.constant(np.array(value, np.float32))
