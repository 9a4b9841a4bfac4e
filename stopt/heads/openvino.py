"""A head behind an OpenVINO model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as opset

from stopt.heads import FINGERPRINT, POOLING_MASK, Head

__all__ = ["fingerprint", "fuse"]

_BINARY = {
    "Add": opset.add,
    "Sub": opset.subtract,
    "Mul": opset.multiply,
    "Div": opset.divide,
    "Max": opset.maximum,
    "Equal": opset.equal,
    "Greater": opset.greater,
}
_UNARY = {
    "Abs": opset.abs,
    "Erf": opset.erf,
    "Exp": opset.exp,
    "Log": opset.log,
    "Relu": opset.relu,
    "Sigmoid": opset.sigmoid,
    "Sqrt": opset.sqrt,
    "Tanh": opset.tanh,
}
_REDUCE = {"Sum": opset.reduce_sum, "Max": opset.reduce_max, "Mean": opset.reduce_mean}


def fuse(model: ov.Model, head: Head, output: str, name: str, *, keep: bool = False) -> ov.Model:
    """Put a head behind a model.

    Args:
        model: The model; it shares its nodes with the result and is not to be used any more.
        head: The modules.
        output: The model's output that they read.
        name: Name of the output that they become.
        keep: Whether ``output`` stays one, after the new one, and the head is noted in the model.
    """
    parameters = list(model.get_parameters())
    mask = next(each for each in parameters if "attention_mask" in each.output(0).get_names())
    pooling_mask = mask
    if head.wants_pooling_mask:
        pooling_mask = opset.parameter([-1, -1], np.int64, name=POOLING_MASK)
        pooling_mask.output(0).set_names({POOLING_MASK})
        parameters.append(pooling_mask)
    source = model.output(output).get_node().input_value(0)
    features = head.apply(
        _OpenVinoOperators(), opset.convert(source, "f32"), mask.output(0), pooling_mask.output(0)
    )
    # a node of its own: what an identity changes nothing about may carry the name of the value it came from
    result = opset.convert(features[head.target], "f32").output(0)
    result.set_names({name})
    results = [opset.result(result, name=name)]
    if keep:
        results.append(opset.result(source))
    fused = ov.Model(results, parameters, model.get_friendly_name())
    if keep:
        fused.set_rt_info(head.fingerprint, FINGERPRINT.split("."))
    return fused


def fingerprint(model: ov.Model) -> str | None:
    """The fingerprint of the head that a model was saved with; None if it was not."""
    path = FINGERPRINT.split(".")
    return str(model.get_rt_info(path).astype(str)) if model.has_rt_info(path) else None


class _OpenVinoOperators:
    """OpenVINO's own; a value is a node."""

    def constant(self, array: npt.NDArray[Any]) -> Any:
        return opset.constant(np.array(array, order="C"))  # contiguous, and a scalar stays one

    def to_float(self, x: Any) -> Any:
        return opset.convert(x, "f32")

    def reshape(self, x: Any, shape: tuple[int, ...]) -> Any:
        return opset.reshape(x, self.constant(np.array(shape, np.int64)), special_zero=True)

    def binary(self, name: str, a: Any, b: Any) -> Any:
        if name == "MatMul":
            return opset.matmul(a, b, transpose_a=False, transpose_b=False)
        return _BINARY[name](a, b)

    def unary(self, name: str, x: Any) -> Any:
        return _UNARY[name](x)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return opset.select(condition, a, b)

    def running_sum(self, x: Any) -> Any:
        return opset.cum_sum(x, self.constant(np.array(1, np.int64)))

    def reduce(self, name: str, x: Any, axis: int, *, keep: bool) -> Any:
        return _REDUCE[name](x, self.constant(np.array([axis], np.int64)), keep_dims=keep)

    def weighted_sum(self, tokens: Any, weights: Any) -> Any:
        # no matrix product: where OpenVINO computes in bfloat16, all that comes after the last one stays in float32
        product = self.binary("Mul", tokens, self.reshape(weights, (0, -1, 1)))
        return self.reduce("Sum", product, 1, keep=False)

    def concat(self, values: list[Any]) -> Any:
        return opset.concat(values, axis=-1)
