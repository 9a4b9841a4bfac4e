"""Outlying channels of feed-forward networks are split: the same vectors, ranges that reach less far."""

import json
import shutil
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as opset

from stopt.convert.quantize import quantize
from stopt.convert.splitting import copies, split_channels
from stopt.steps import CalibrationOptions, StaticOpenVinoOptions

RNG = np.random.default_rng(5)
HIDDEN, CHANNELS = 8, 40
OUTLIER = 3


def network(*, turned: bool, bias: bool, activation: str = "gelu", read_twice: bool = False) -> ov.Model:
    """Product, activation, product, with a channel that reaches far."""
    first = RNG.standard_normal((CHANNELS, HIDDEN)).astype(np.float32)
    first[OUTLIER] *= 30
    second = RNG.standard_normal((HIDDEN, CHANNELS)).astype(np.float32)
    x = opset.parameter([-1, HIDDEN], np.float32, name="x")
    x.output(0).set_names({"x"})
    inner = opset.matmul(x, opset.constant(first if turned else first.T.copy()), False, turned, name="first")
    if bias:
        inner = opset.add(inner, opset.constant(RNG.standard_normal((1, CHANNELS)).astype(np.float32)))
    active = {"gelu": lambda y: opset.gelu(y, "erf"), "softmax": lambda y: opset.softmax(y, -1)}[activation](
        inner
    )
    result = opset.matmul(
        active, opset.constant(second if turned else second.T.copy()), False, turned, name="second"
    )
    outputs = [result, opset.reduce_max(active, opset.constant(np.array([1])))] if read_twice else [result]
    return ov.Model(outputs, [x])


def run(model: ov.Model, feed: dict[str, Any]) -> np.ndarray:
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    return np.array(ov.Core().compile_model(model, "CPU", config)(feed)[0])


def read_by(model: ov.Model, name: str) -> ov.Model:
    """The model with what a product reads as its output."""
    other = model.clone()
    node = next(each for each in other.get_ops() if each.get_friendly_name() == name)
    return ov.Model([node.input_value(0)], other.get_parameters())


FEEDS = [{"x": RNG.standard_normal((6, HIDDEN)).astype(np.float32)} for _ in range(3)]


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_split_network_gives_the_same_with_smaller_shares(turned, bias) -> None:
    model = network(turned=turned, bias=bias)
    before = [run(model, feed) for feed in FEEDS]
    assert split_channels(model, FEEDS) == 16
    after = [run(model, feed) for feed in FEEDS]
    np.testing.assert_allclose(np.concatenate(after), np.concatenate(before), rtol=1e-4, atol=1e-3)
    inner = run(read_by(model, "second"), FEEDS[0])
    assert inner.shape[1] == CHANNELS + 16
    same = np.flatnonzero((inner == inner[:, [OUTLIER]]).all(axis=0))
    weights = next(each for each in model.get_ops() if each.get_friendly_name() == "second").input_value(1)
    columns = weights.get_node().data if turned else weights.get_node().data.T
    assert len(same) > 8  # most copies are the outlier's, and its weight is shared out evenly
    assert np.ptp(columns[:, same], axis=1).max() == 0


@pytest.mark.parametrize(
    ("options", "leave"),
    [
        ({"activation": "softmax"}, ()),  # a copy of a channel would change all the others
        ({"read_twice": True}, ()),  # somebody else counts on the channels
        ({}, ("second",)),  # stays in float
        ({}, ("first",)),
    ],
)
def test_other_graphs_are_left_alone(options, leave) -> None:
    model = network(turned=True, bias=True, **options)
    size = len(model.get_ops())
    assert split_channels(model, FEEDS, leave) == 0
    assert len(model.get_ops()) == size
    assert run(read_by(model, "second"), FEEDS[0]).shape[1] == CHANNELS


def test_copies_go_to_those_that_reach_furthest() -> None:
    assert copies(np.array([1, 8, 3, 1], np.float32), 4).tolist() == [1, 4, 2, 1]
    assert copies(np.ones(3, np.float32), 0).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("split", "added"), [(True, 2 * 16), (False, None)])  # two layers
def test_every_layer_of_a_model_is_split_unless_told_otherwise(exported, tmp_path, split, added) -> None:
    folder = shutil.copytree(exported("bert"), tmp_path / "model")
    options = StaticOpenVinoOptions(
        calibration=CalibrationOptions(num_samples=16), split_outliers=split, check_texts=("one", "two texts")
    )
    (made,) = quantize(folder, options)
    record = json.loads((folder / "stopt.json").read_text("utf-8"))["files"][made.file]["options"]
    assert (record["split_outliers"], record.get("split_channels")) == (split, added)
