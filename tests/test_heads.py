"""Modules inside of a graph give what the same modules give over arrays, in both engines."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from stopt.heads import POOLING_MASK, build_head
from stopt.heads import openvino as openvino_head
from stopt.heads.onnx import Onnx, fuse
from stopt.heads.wire import fields, integer, message, read_integer
from stopt.runtime.modules import load_modules, without_prompt
from stopt.spec import (
    SENTENCE,
    Activation,
    Dense,
    LayerNorm,
    ModelKind,
    ModelSpec,
    ModuleSpec,
    Normalize,
    Pooling,
    PoolingMode,
    SparseAutoEncoder,
    SpladePooling,
    StaticEmbedding,
    Task,
    TokenizerSpec,
    TransformerSpec,
)

WIDTH, VOCABULARY = 6, 11
RIGHT = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
LEFT = RIGHT[:, ::-1].copy()
TABLE = np.random.default_rng(0).normal(size=(VOCABULARY, WIDTH)).astype(np.float32) * 3
IDS = np.random.default_rng(1).integers(0, VOCABULARY, RIGHT.shape)


def backbone(opset: int = 17) -> onnx.ModelProto:
    """A graph from token ids to rows of a table: all that a head needs in front of it."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "sequence"])
    tokens = helper.make_tensor_value_info(
        "last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", WIDTH]
    )
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        # OpenVINO would drop an input that nothing depends on
        helper.make_node("Cast", ["attention_mask"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "zero"], ["nothing"]),
        helper.make_node("Reshape", ["nothing", "column"], ["column of nothing"]),
        helper.make_node("Add", ["rows", "column of nothing"], ["last_hidden_state"]),
    ]
    constants = {"table": TABLE, "zero": np.float32([0]), "column": np.int64([0, -1, 1])}
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "backbone", [ids, mask], [tokens], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def spec_of(*modules: ModuleSpec) -> ModelSpec:
    front = TransformerSpec("", "bert", WIDTH)
    return ModelSpec(ModelKind.DENSE, front, TokenizerSpec("", None), modules, {})


def expected(root: Path, spec: ModelSpec, mask: np.ndarray, prompt_length: int) -> np.ndarray:
    features: dict[str, Any] = {
        "token_embeddings": TABLE[IDS],
        "attention_mask": mask,
        "prompt_length": prompt_length,
    }
    for module in load_modules(root, spec.modules, lambda array: array):
        features = module(features)
    return features[SENTENCE]


def in_onnx(root: Path, spec: ModelSpec, mask: np.ndarray, prompt_length: int, opset: int = 17) -> np.ndarray:
    head = build_head(root, spec)
    data = fuse(
        Onnx.read(memoryview(backbone(opset).SerializeToString())), head, "last_hidden_state", SENTENCE
    )
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_outputs()] == [SENTENCE]
    feeds = {"input_ids": IDS, "attention_mask": mask, POOLING_MASK: without_prompt(mask, prompt_length)}
    names = {node.name for node in session.get_inputs()}
    return session.run(None, {name: array for name, array in feeds.items() if name in names})[0]


def in_openvino(root: Path, spec: ModelSpec, mask: np.ndarray, prompt_length: int) -> np.ndarray:
    core = ov.Core()
    model = core.read_model(backbone().SerializeToString())
    model = openvino_head.fuse(model, build_head(root, spec), "last_hidden_state", SENTENCE)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    feeds = {"input_ids": IDS, "attention_mask": mask, POOLING_MASK: without_prompt(mask, prompt_length)}
    names = {name for port in model.inputs for name in port.get_names()}
    return compiled({name: array for name, array in feeds.items() if name in names})[SENTENCE]


def dense(root: Path, activation: Activation, *, bias: bool = True) -> Dense:
    rng = np.random.default_rng(2)
    weights = {"linear.weight": rng.normal(size=(4, WIDTH)).astype(np.float32)}
    if bias:
        weights["linear.bias"] = rng.normal(size=4).astype(np.float32)
    (root / "dense").mkdir(exist_ok=True)
    save_file(weights, root / "dense" / "model.safetensors")
    return Dense("dense", WIDTH, 4, bias, activation)


def layer_norm(root: Path) -> LayerNorm:
    rng = np.random.default_rng(3)
    weights = {name: rng.normal(size=WIDTH).astype(np.float32) for name in ("norm.weight", "norm.bias")}
    (root / "norm").mkdir(exist_ok=True)
    save_file(weights, root / "norm" / "model.safetensors")
    return LayerNorm("norm", WIDTH)


@pytest.fixture(params=[in_onnx, in_openvino], ids=["onnx", "openvino"])
def engine(request: pytest.FixtureRequest) -> Any:
    return request.param


def compare(engine: Any, root: Path, *modules: ModuleSpec, mask: np.ndarray = RIGHT, prompt: int = 0) -> None:
    spec = spec_of(*modules)
    found = engine(root, spec, mask, prompt)
    wanted = expected(root, spec, mask, prompt)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("mask", [RIGHT, LEFT], ids=["right", "left"])
@pytest.mark.parametrize("mode", PoolingMode)
def test_pooling(engine, tmp_path, mode, mask) -> None:
    compare(engine, tmp_path, Pooling((mode,)), mask=mask)


@pytest.mark.parametrize("mode", PoolingMode)
def test_pooling_where_no_token_is_real(engine, tmp_path, mode) -> None:
    compare(engine, tmp_path, Pooling((mode,)), mask=np.array([[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]))


@pytest.mark.parametrize("mask", [RIGHT, LEFT], ids=["right", "left"])
@pytest.mark.parametrize("mode", PoolingMode)
def test_pooling_without_the_prompt(engine, tmp_path, mode, mask) -> None:
    compare(engine, tmp_path, Pooling((mode,), include_prompt=False), mask=mask, prompt=1)


def test_several_modes_side_by_side(engine, tmp_path) -> None:
    compare(engine, tmp_path, Pooling((PoolingMode.MAX, PoolingMode.CLS, PoolingMode.MEAN)))


@pytest.mark.parametrize("activation", Activation)
def test_dense_with_every_activation(engine, tmp_path, activation) -> None:
    compare(engine, tmp_path, Pooling((PoolingMode.MEAN,)), dense(tmp_path, activation))


def test_a_chain_of_modules(engine, tmp_path) -> None:
    plain = dense(tmp_path, Activation.TANH, bias=False)
    compare(engine, tmp_path, Pooling((PoolingMode.MEAN,)), layer_norm(tmp_path), plain, Normalize())


@pytest.mark.parametrize("double_log", [False, True])
@pytest.mark.parametrize("maximum", [False, True])
def test_splade(engine, tmp_path, maximum, double_log) -> None:
    compare(engine, tmp_path, SpladePooling(maximum, double_log))


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_onnx_operator_sets(tmp_path, opset) -> None:
    spec = spec_of(Pooling((PoolingMode.MAX,)), layer_norm(tmp_path), Normalize())
    found = in_onnx(tmp_path, spec, RIGHT, 0, opset)
    np.testing.assert_allclose(found, expected(tmp_path, spec, RIGHT, 0), rtol=2e-6, atol=2e-6)


def test_an_older_graph_is_left_alone(tmp_path) -> None:
    head = build_head(tmp_path, spec_of(Pooling((PoolingMode.MEAN,))))
    model = Onnx.read(memoryview(backbone(12).SerializeToString()))
    assert fuse(model, head, "last_hidden_state", SENTENCE) is None


def test_the_new_output_comes_first_where_the_old_is_kept(tmp_path) -> None:
    head = build_head(tmp_path, spec_of(Pooling((PoolingMode.MEAN,))))
    model = Onnx.read(memoryview(backbone().SerializeToString()))
    data = fuse(model, head, "last_hidden_state", SENTENCE, keep=True)
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_outputs()] == [SENTENCE, "last_hidden_state"]
    pooled, tokens = session.run(None, {"input_ids": IDS, "attention_mask": RIGHT})
    np.testing.assert_array_equal(tokens, TABLE[IDS])
    assert pooled.shape == (3, WIDTH)


def test_what_no_graph_takes_stays_outside(tmp_path) -> None:
    auto = SparseAutoEncoder("sae", WIDTH, 8, 2)
    assert build_head(tmp_path, spec_of(Pooling((PoolingMode.MEAN,)), auto)).modules == (
        Pooling((PoolingMode.MEAN,)),
    )
    table = ModelSpec(ModelKind.DENSE, StaticEmbedding("", "w", 3, 2), TokenizerSpec("", None), (), {})
    assert build_head(tmp_path, table) is None
    front = TransformerSpec("", "bert", WIDTH, task=Task.CLASSIFICATION, head_size=1)
    reranker = ModelSpec(ModelKind.CROSS_ENCODER, front, TokenizerSpec("", None), (), {})
    assert build_head(tmp_path, reranker) is None


# ---- the wire format -------------------------------------------------------------------------------------------------


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_integers_come_back(value: int) -> None:
    data = memoryview(integer(9, value))
    (field,) = fields(data)
    assert (field.number, read_integer(data, field.value)) == (9, (value, len(data)))


@given(st.lists(st.tuples(st.integers(1, 2**20), st.binary(max_size=300))))
def test_messages_come_back(parts: list[tuple[int, bytes]]) -> None:
    data = memoryview(b"".join(message(number, value) for number, value in parts))
    assert [(field.number, bytes(data[field.value : field.end])) for field in fields(data)] == parts


def test_onnx_agrees_on_what_a_graph_has() -> None:
    model = backbone(19)
    read = Onnx.read(memoryview(model.SerializeToString()))
    assert (read.opset, read.inputs, [*read.outputs]) == (
        19,
        ("input_ids", "attention_mask"),
        ["last_hidden_state"],
    )
    assert read.types == {"last_hidden_state": TensorProto.FLOAT}


@given(st.data())
def test_bytes_that_are_no_message_are_an_error_or_nothing(data: st.DataObject) -> None:
    whole = backbone().SerializeToString()
    position = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    if position < len(damaged):
        damaged[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):  # of which UnicodeDecodeError is one
        Onnx.read(memoryview(bytes(damaged)))
