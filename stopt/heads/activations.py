"""Activation functions of ``torch.nn`` in the few operators that every engine has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stopt.spec import Activation

if TYPE_CHECKING:
    from stopt.heads import Operators

__all__ = ["activate", "log1p"]

Value = Any
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017, arXiv:1706.02515


def activate(ops: Operators, x: Value, activation: Activation) -> Value:
    """Apply an activation function with its default arguments."""
    return _ACTIVATIONS[activation](ops, x)


def log1p(ops: Operators, x: Value) -> Value:
    """``log(1 + x)`` for x ≥ 0, exact for small x too: where 1 + x rounds to 1, x itself is the answer."""
    one = _number(ops, 1)
    sum_ = ops.binary("Add", x, one)
    lost = ops.binary("Equal", sum_, one)
    # log(s) / (s - 1) is smooth, so that s's own rounding cancels (Goldberg 1991, theorem 4)
    rest = ops.where(lost, one, ops.binary("Sub", sum_, one))
    return ops.where(lost, x, ops.binary("Mul", x, ops.binary("Div", ops.unary("Log", sum_), rest)))


def _number(ops: Operators, value: float) -> Value:
    return ops.constant(np.array(value, np.float32))


def _scaled(ops: Operators, x: Value, factor: float) -> Value:
    return ops.binary("Mul", x, _number(ops, factor))


def _clipped(ops: Operators, x: Value, low: float, high: float) -> Value:
    """``x`` between two bounds."""
    above = ops.binary("Max", x, _number(ops, low))
    negated = ops.binary("Max", _scaled(ops, above, -1), _number(ops, -high))
    return _scaled(ops, negated, -1)


def _negative_part(ops: Operators, x: Value) -> Value:
    """``x`` where it is below 0, else 0."""
    return _scaled(ops, ops.unary("Relu", _scaled(ops, x, -1)), -1)


def _softplus(ops: Operators, x: Value) -> Value:
    small = ops.unary("Exp", _scaled(ops, ops.unary("Abs", x), -1))  # never overflows
    return ops.binary("Add", ops.unary("Relu", x), log1p(ops, small))


def _gelu(ops: Operators, x: Value) -> Value:
    erf = ops.unary("Erf", _scaled(ops, x, 1 / math.sqrt(2)))
    return ops.binary("Mul", _scaled(ops, x, 0.5), ops.binary("Add", erf, _number(ops, 1)))


def _exponential(ops: Operators, x: Value, alpha: float = 1) -> Value:
    """``x`` above 0, ``alpha (exp(x) - 1)`` below."""
    below = ops.binary("Sub", ops.unary("Exp", _negative_part(ops, x)), _number(ops, 1))
    return ops.binary("Add", ops.unary("Relu", x), _scaled(ops, below, alpha))


def _leaky(ops: Operators, x: Value) -> Value:
    return ops.binary("Add", ops.unary("Relu", x), _scaled(ops, _negative_part(ops, x), 0.01))


def _softsign(ops: Operators, x: Value) -> Value:
    return ops.binary("Div", x, ops.binary("Add", ops.unary("Abs", x), _number(ops, 1)))


_ACTIVATIONS: Mapping[Activation, Callable[[Operators, Value], Value]] = {
    Activation.IDENTITY: lambda _, x: x,
    Activation.TANH: lambda ops, x: ops.unary("Tanh", x),
    Activation.RELU: lambda ops, x: ops.unary("Relu", x),
    Activation.RELU6: lambda ops, x: _clipped(ops, x, 0, 6),
    Activation.HARDTANH: lambda ops, x: _clipped(ops, x, -1, 1),
    Activation.GELU: _gelu,
    Activation.SIGMOID: lambda ops, x: ops.unary("Sigmoid", x),
    Activation.LOG_SIGMOID: lambda ops, x: _scaled(ops, _softplus(ops, _scaled(ops, x, -1)), -1),
    Activation.SILU: lambda ops, x: ops.binary("Mul", x, ops.unary("Sigmoid", x)),
    Activation.SOFTPLUS: _softplus,
    Activation.MISH: lambda ops, x: ops.binary("Mul", x, ops.unary("Tanh", _softplus(ops, x))),
    Activation.SOFTSIGN: _softsign,
    Activation.LEAKY_RELU: _leaky,
    Activation.ELU: _exponential,
    Activation.SELU: lambda ops, x: _scaled(ops, _exponential(ops, x, _SELU_ALPHA), _SELU_SCALE),
}
