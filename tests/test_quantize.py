"""`quantize`: the bits that sentence-transformers makes, vectors that do not depend on the batch, and what is refused."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import sentence_transformers
from external import with_external_data
from safetensors.numpy import load_file, save_file

from stopt import SentenceTransformer
from stopt.artifact import sha256
from stopt.convert.calibration import read_calibration
from stopt.convert.optimize import optimize
from stopt.convert.produce import Produced
from stopt.convert.quantize import quantize, quantize_products
from stopt.convert.run import plan
from stopt.convert.run import run as run_recipe
from stopt.convert.smoothing import smooth
from stopt.errors import ConversionError, InputError, OptionError, ParityError, StoptError
from stopt.reading import read_spec
from stopt.recipe import Recipe
from stopt.runtime.devices import describe_machine
from stopt.runtime.options import OnnxOptions
from stopt.runtime.pipeline import Pipeline
from stopt.runtime.sessions import feed
from stopt.spec import Backend
from stopt.steps import (
    CalibrationMethod,
    CalibrationOptions,
    DynamicOptions,
    ExportOptions,
    Level,
    OptimizeOptions,
    Preset,
    QuantizeOptions,
    StaticOnnxOptions,
    StaticOpenVinoOptions,
    Target,
    WeightFormat,
    WeightOptions,
)

Tiny = Callable[..., Path]

CHECK = ("one text", "and a longer one, with more words")
SHARED = {"check_texts": CHECK}
FEW = CalibrationOptions(num_samples=16)
TEXTS = [
    "A short text.",
    "",
    "Another text, which is much longer than the first one, so that the first is padded.",
    "日本語",
    "The guitar on the stage.",
]

PLAIN = "onnx/model.onnx"
DYNAMIC = {
    Target.ARM64: "onnx/model_qint8_arm64.onnx",
    Target.AVX2: "onnx/model_quint8_avx2.onnx",
    Target.AVX512: "onnx/model_qint8_avx512.onnx",
    Target.AVX512_VNNI: "onnx/model_qint8_avx512_vnni.onnx",
}
STATIC = "onnx/model_qint8_quantized.onnx"
OV_STATIC = "openvino/openvino_model_qint8_quantized.xml"


def make(folder: Path, options: QuantizeOptions) -> Produced:
    (made,) = quantize(folder, options)
    return made


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def record(folder: Path, file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "stopt.json").read_text("utf-8"))["files"][file]
    return found


def graph(file: Path) -> Any:
    return onnx.load(file).graph


def operators(file: Path) -> Counter[str]:
    return Counter(node.op_type for node in graph(file).node)


def opened(folder: Path, file: str) -> SentenceTransformer:
    if file.endswith(".onnx"):
        return SentenceTransformer(folder, backend="onnx", model_kwargs={"file_name": file})
    options = {"file_name": file, "dtype": "float32"}
    return SentenceTransformer(folder, backend="openvino", model_kwargs=options)


def batch_size(file: str) -> int:
    """Dynamic int8 depends on the batch, and batches are not cut as sentence-transformers cuts them."""
    return 1 if file.endswith(tuple(f"{target.value}.onnx" for target in Target)) else 32


def vectors(folder: Path, file: str) -> np.ndarray:
    return opened(folder, file).encode(TEXTS, batch_size=batch_size(file))


def theirs(folder: Path, file: str) -> np.ndarray:
    backend, options = "onnx", {"provider": "CPUExecutionProvider"}
    if file.endswith(".xml"):
        backend, options = "openvino", {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
    model = sentence_transformers.SentenceTransformer(
        str(folder), backend=backend, model_kwargs={"file_name": file, **options}, local_files_only=True
    )
    return model.encode(TEXTS, batch_size=batch_size(file))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture
def plain(exported: Tiny, tmp_path: Path) -> Path:
    """Tiny BERT with both plain files, to be changed at will."""
    return shutil.copytree(exported("bert"), tmp_path / "model")


@pytest.fixture(scope="module")
def quantized(exported: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny BERT with files of every kind. Not to be changed."""
    folder = shutil.copytree(exported("bert"), tmp_path_factory.mktemp("quantized") / "model")
    before = content(folder)
    for target in Target:
        make(folder, DynamicOptions(target, **SHARED))
    make(folder, StaticOnnxOptions(calibration=FEW, **SHARED))
    make(folder, StaticOpenVinoOptions(calibration=FEW, **SHARED))
    make(folder, WeightOptions(Backend.ONNX, WeightFormat.FP16, **SHARED))
    make(folder, WeightOptions(Backend.OPENVINO, WeightFormat.FP16, **SHARED))
    make(folder, WeightOptions(Backend.OPENVINO, WeightFormat.INT8, **SHARED))
    after = content(folder)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"stopt.json"}, "the source is never modified"
    return folder


# ---- dynamic int8 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", list(Target))
def test_dynamic_int8_has_the_bits_that_sentence_transformers_makes(
    quantized, exported, tmp_path, target
) -> None:
    model = sentence_transformers.SentenceTransformer(
        str(exported("bert")), backend="onnx", model_kwargs={"provider": "CPUExecutionProvider"}
    )
    sentence_transformers.export_dynamic_quantized_onnx_model(model, target.value, str(tmp_path))
    file = DYNAMIC[target]
    assert sha256(quantized / file) == sha256(tmp_path / file)


@pytest.mark.parametrize("target", list(Target))
def test_dynamic_int8_is_recorded_with_its_effective_values(quantized, target) -> None:
    found = record(quantized, DYNAMIC[target])
    assert (found["precision"], found["backend"]) == ("int8", "onnx")
    options = found["options"]
    assert options["target"] == target.value
    assert (options["per_channel"], options["reduce_range"]) == (True, False)
    assert options["weights"] == ("QUInt8" if target is Target.AVX2 else "QInt8")
    assert "MatMul" in options["operators"]
    assert found["parity"]["passed"] is True


def scales(file: Path) -> list[int]:
    """Number of scales of each quantised weight of a product."""
    found = {tensor.name: tensor for tensor in graph(file).initializer}
    products = [node for node in graph(file).node if node.op_type == "MatMulInteger"]
    names = [
        node.input[1].removesuffix("_quantized") + "_scale" for node in products if node.input[1] in found
    ]
    return [int(np.prod(found[name].dims)) for name in names]


def test_per_channel_is_effective(quantized, plain) -> None:
    assert min(scales(quantized / DYNAMIC[Target.AVX2])) > 1
    made = make(plain, DynamicOptions(Target.AVX2, per_channel=False, **SHARED))
    assert set(scales(plain / made.file)) == {1}
    assert record(plain, made.file)["options"]["per_channel"] is False


def test_reduced_range_is_effective(quantized, plain) -> None:
    def largest(file: Path) -> int:
        tensors = [
            each
            for each in graph(file).initializer
            if each.name.endswith("MatMul_quantized") or "onnx::MatMul" in each.name
        ]
        arrays = [onnx.numpy_helper.to_array(each) for each in tensors if each.name.endswith("_quantized")]
        return max(int(np.abs(array.astype(int)).max()) for array in arrays)

    assert largest(quantized / DYNAMIC[Target.AVX512]) == 127
    made = make(plain, DynamicOptions(Target.AVX512, reduce_range=True, **SHARED))
    assert largest(plain / made.file) <= 64
    assert record(plain, made.file)["options"]["reduce_range"] is True


def test_exclusions_are_effective(quantized, plain) -> None:
    everything = operators(quantized / DYNAMIC[Target.AVX2])
    node = next(node.name for node in graph(plain / PLAIN).node if node.op_type == "MatMul")
    made = make(
        plain,
        DynamicOptions(Target.AVX2, nodes_to_exclude=(node,), op_types_to_exclude=("Gather",), **SHARED),
    )
    found = operators(plain / made.file)
    assert found["MatMul"] == everything["MatMul"] + 1
    assert found["MatMulInteger"] == everything["MatMulInteger"] - 1
    assert node in [each.name for each in graph(plain / made.file).node if each.op_type == "MatMul"]
    # without Gather, the embeddings stay float
    tables = [tensor for tensor in graph(plain / made.file).initializer if "word_embeddings" in tensor.name]
    assert [tensor.data_type for tensor in tables] == [onnx.TensorProto.FLOAT]
    options = record(plain, made.file)["options"]
    assert options["nodes_to_exclude"] == [node]
    assert options["op_types_to_exclude"] == ["Gather"]
    assert "Gather" not in options["operators"]


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_node_to_exclude_that_does_not_exist(plain, static) -> None:
    before = content(plain)
    options: QuantizeOptions = DynamicOptions(nodes_to_exclude=("nonsense",), **SHARED)
    if static:
        options = StaticOnnxOptions(calibration=FEW, nodes_to_exclude=("nonsense",), **SHARED)
    with pytest.raises(OptionError, match=r"has no node 'nonsense'") as caught:
        make(plain, options)
    assert caught.value.hint
    assert content(plain) == before


# ---- all kinds ------------------------------------------------------------------------------------------------------

OTHERS = {
    STATIC: "int8",
    OV_STATIC: "int8",
    "onnx/model_fp16.onnx": "float16",
    "openvino/openvino_model_fp16.xml": "float16",
    "openvino/openvino_model_int8.xml": "weights-int8",
}


@pytest.mark.parametrize(("file", "precision"), OTHERS.items())
def test_names_are_those_of_sentence_transformers(quantized, file, precision) -> None:
    found = record(quantized, file)
    assert found["precision"] == precision
    parts = {file} if file.endswith(".onnx") else {file, file.replace(".xml", ".bin")}
    assert set(found["parts"]) == parts
    assert found["options"]["step"] == "quantize"


# the same file in the same engine: but for the order of additions, and where that crosses a step of 8 bits
@pytest.mark.parametrize(
    ("file", "tolerance"),
    [
        (DYNAMIC[Target.AVX512_VNNI], 1e-5),
        (STATIC, 1e-5),
        ("onnx/model_fp16.onnx", 1e-5),
        (OV_STATIC, 1e-5),
        ("openvino/openvino_model_fp16.xml", 1e-5),
        ("openvino/openvino_model_int8.xml", 1e-5),
    ],
)
def test_sentence_transformers_has_the_same_vectors(quantized, file, tolerance) -> None:
    assert np.abs(vectors(quantized, file) - theirs(quantized, file)).max() < tolerance


# ---- static int8 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "distance"), [(STATIC, 1e-6), (OV_STATIC, 1e-4)])
def test_static_int8_does_not_depend_on_the_batch(quantized, file, distance) -> None:
    model = opened(quantized, file)
    texts = [*TEXTS, "word " * 90, *(f"{text} and more" for text in TEXTS)]
    alone = np.concatenate([model.encode([text]) for text in texts])
    for size in (2, 5, len(texts)):
        assert (1 - cosines(model.encode(texts, batch_size=size), alone)).max() < distance
    assert not record(quantized, file)["parity"]["batch_cosine"] < 0.999


def test_dynamic_int8_says_how_far_it_depends_on_the_batch(quantized) -> None:
    parity = record(quantized, DYNAMIC[Target.AVX512_VNNI])["parity"]
    assert parity["batch_cosine"] < 0.99999
    assert parity["batch_abs"] > 1e-4
    assert 0 < parity["rank_overlap"] <= 1


@pytest.mark.parametrize("file", [STATIC, OV_STATIC])
def test_calibration_is_recorded(quantized, file) -> None:
    assert record(quantized, file)["options"]["calibration"] == read_calibration(FEW).describe()


def test_products_with_weights_are_quantised_and_attentions_own_are_not(quantized, exported) -> None:
    weights = {tensor.name for tensor in graph(exported("bert") / PLAIN).initializer}
    products = [node for node in graph(exported("bert") / PLAIN).node if node.op_type == "MatMul"]
    weighted = {node.name for node in products if node.input[1] in weights}
    static = graph(quantized / STATIC)
    producers = {output: node for node in static.node for output in node.output}
    dequantised = {
        node.name
        for node in static.node
        if node.op_type == "MatMul"
        and all(producers.get(name) and producers[name].op_type == "DequantizeLinear" for name in node.input)
    }
    assert weighted
    assert dequantised == weighted


def test_options_of_static_int8_for_onnx_are_effective(plain) -> None:
    node = next(node.name for node in graph(plain / PLAIN).node if node.op_type == "MatMul")
    options = StaticOnnxOptions(
        calibration=FEW,
        smooth_quant_alpha=-1,
        per_channel=False,
        nodes_to_exclude=(node,),
        op_types_to_exclude=("Gather",),
        **SHARED,
    )
    made = make(plain, options)
    found = graph(plain / made.file)
    assert not any(name.endswith("_smoothed") for each in found.node for name in each.output)
    scale = [each for each in found.initializer if "MatMul" in each.name and each.name.endswith("_scale")]
    assert {int(np.prod(each.dims)) for each in scale} == {1}
    tables = [each for each in found.initializer if "word_embeddings" in each.name]
    assert [each.data_type for each in tables] == [onnx.TensorProto.FLOAT]
    # its activation is read by others too, but its weights are as they were
    excluded = next(each for each in found.node if each.name == node)
    kept = next(each for each in found.initializer if each.name == excluded.input[1])
    assert kept.data_type == onnx.TensorProto.FLOAT
    recorded = record(plain, made.file)["options"]
    assert recorded["operators"] == ["MatMul"]
    assert (recorded["smooth_quant_alpha"], recorded["per_channel"]) == (-1, False)


@pytest.mark.parametrize("method", [CalibrationMethod.ENTROPY, CalibrationMethod.PERCENTILE])
def test_ranges_are_made_in_other_ways(quantized, plain, method) -> None:
    made = make(plain, StaticOnnxOptions(calibration=FEW, method=method, percentile=99.99, **SHARED))
    assert made.file == STATIC
    assert sha256(plain / STATIC) != sha256(quantized / STATIC)
    assert record(plain, STATIC)["options"]["method"] == method.value


def test_options_of_static_int8_for_openvino_are_effective(quantized, plain) -> None:
    import openvino

    def fakes(file: Path) -> int:
        model = openvino.Core().read_model(file)
        return sum(node.get_type_name() == "FakeQuantize" for node in model.get_ops())

    graph_ = openvino.Core().read_model(plain / "openvino/openvino_model.xml")
    product = next(node.get_friendly_name() for node in graph_.get_ops() if node.get_type_name() == "MatMul")
    options = StaticOpenVinoOptions(
        calibration=FEW, preset=Preset.PERFORMANCE, smooth_quant_alpha=0.5, ignored_scope=(product,), **SHARED
    )
    made = make(plain, options)
    assert fakes(plain / made.file) < fakes(quantized / OV_STATIC)
    recorded = record(plain, made.file)["options"]
    assert (recorded["preset"], recorded["smooth_quant_alpha"]) == ("performance", 0.5)
    assert recorded["ignored_scope"] == [product]


def test_reduced_range_of_static_int8_is_effective_and_said(plain) -> None:
    import openvino

    def source(node):
        """What the second input of a product is made of: its weights, before they become floats."""
        node = node.input_value(1).get_node()
        while node.get_type_name() in ("Convert", "Subtract", "Multiply"):
            node = node.input_value(0).get_node()
        return node

    def largest(file: Path) -> int:
        """Largest integer of a matrix that is multiplied with; a table that is looked up in cannot overflow."""
        if file.suffix == ".onnx":
            weights = [
                onnx.numpy_helper.to_array(each)
                for each in graph(file).initializer
                if each.data_type == onnx.TensorProto.INT8 and "MatMul" in each.name and len(each.dims) == 2
            ]
        else:
            model = openvino.Core().read_model(file)
            products = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
            found = [source(node) for node in products]
            weights = [node.data for node in found if node.get_element_type() == openvino.Type.i8]
        assert weights
        return max(int(np.abs(each.astype(int)).max()) for each in weights)

    for file, kind in ((STATIC, StaticOnnxOptions), (OV_STATIC, StaticOpenVinoOptions)):
        # without VNNI 8 bits are further off than is allowed otherwise
        options = {"calibration": FEW, "min_cosine": 0.5, **SHARED}
        made = make(plain, kind(reduce_range=False, **options))
        assert (made.file, largest(plain / file) >= 127) == (file, True)
        assert record(plain, file)["options"]["reduce_range"] is False
        said: list[str] = []
        quantize(plain, kind(reduce_range=True, force=True, **options), said.append)
        assert "weights of 7 bits, exact on processors without VNNI too" in "\n".join(said)
        assert largest(plain / file) <= 64
        assert record(plain, file)["options"]["reduce_range"] is True


@pytest.mark.parametrize("kind", [StaticOnnxOptions, StaticOpenVinoOptions])
@pytest.mark.parametrize(
    ("features", "needed"), [(("avx2",), True), (("avx2", "avx512_vnni"), False), ((), False)]
)
def test_range_of_static_int8_is_what_the_processor_needs_and_is_recorded(
    monkeypatch, kind, features, needed
) -> None:
    """What is made again elsewhere must be the same: the step of a recipe says it, default or not."""
    machine = replace(describe_machine(), features=features)
    monkeypatch.setattr("stopt.convert.quantize.describe_machine", lambda: machine)
    (product,) = quantize_products(kind())
    assert product.options["reduce_range"] is product.step["reduce_range"] is needed
    for asked in (True, False):
        (product,) = quantize_products(kind(reduce_range=asked))
        assert product.options["reduce_range"] is product.step["reduce_range"] is asked


def test_node_to_ignore_that_does_not_exist(plain) -> None:
    before = content(plain)
    with pytest.raises(StoptError, match="nonsense") as caught:
        make(plain, StaticOpenVinoOptions(calibration=FEW, ignored_scope=("nonsense",), **SHARED))
    assert caught.value.hint
    assert content(plain) == before


# ---- smoothing ------------------------------------------------------------------------------------------------------


def test_smoothing_changes_no_result_and_evens_ranges_out(exported) -> None:
    folder = exported("bert")
    pipeline = Pipeline.open(folder, read_spec(folder), OnnxOptions(), "cpu")
    model = onnx.load(folder / PLAIN)
    # a few channels far larger than the rest, as trained models have them
    normalised = next(t for t in model.graph.initializer if t.name.endswith("embeddings.LayerNorm.weight"))
    array = onnx.numpy_helper.to_array(normalised).copy()
    array[[3, 17]] *= 40
    normalised.CopyFrom(onnx.numpy_helper.from_array(array, normalised.name))
    inputs = [port.name for port in model.graph.input]
    feeds = [feed(batch, inputs, folder) for batch in read_calibration(FEW).batches(pipeline)]

    def ranges(model: Any, suffix: str) -> dict[str, tuple[float, np.ndarray]]:
        """Largest value by activation, over its mean channel's, and the result."""
        weights = {tensor.name for tensor in model.graph.initializer}
        products = [
            each for each in model.graph.node if each.op_type == "MatMul" and each.input[1] in weights
        ]
        names = list(dict.fromkeys(each.input[0] for each in products))
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        watched.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
        )
        session = onnxruntime.InferenceSession(watched.SerializeToString())
        found = [session.run([*names, "last_hidden_state"], each) for each in feeds]
        assert all(name.endswith(suffix) for name in names)
        peaks = [
            np.max(
                [np.abs(each[column]).reshape(-1, each[column].shape[-1]).max(axis=0) for each in found],
                axis=0,
            )
            for column in range(len(names))
        ]
        return {
            name.removesuffix("_smoothed"): (float(peak.max() / peak.mean()), found[0][-1])
            for name, peak in zip(names, peaks, strict=True)
        }

    before = ranges(model, "")
    after = ranges(smooth(model, feeds, 0.7), "_smoothed")
    assert set(after) == set(before)
    for name, (spread, result) in after.items():
        expected = before[name][1]
        assert np.abs(result - expected).max() < 1e-5 * max(1, np.abs(expected).max())
        assert spread < before[name][0]
    first = next(iter(after))
    assert after[first][0] < 0.5 * before[first][0]


# ---- one after the other --------------------------------------------------------------------------------------------


def recipe(folder: Path, *steps: Any) -> list[Produced]:
    return run_recipe(Recipe("mine", str(folder), None, tuple(steps)))


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_optimise_then_quantise(exported, tmp_path, level, static) -> None:
    """In one go and in two: the same bytes, quantised in every product."""
    source = f"onnx/model_{level}.onnx"
    second: QuantizeOptions = DynamicOptions(Target.AVX2, source, **SHARED)
    if static:
        second = StaticOnnxOptions(source_file=source, calibration=FEW, **SHARED)
    first = OptimizeOptions(Level(level), **SHARED)
    folders = [shutil.copytree(exported("bert"), tmp_path / name) for name in ("one", "two")]
    _, made = recipe(folders[0], first, second)
    optimize(folders[1], first)
    again = make(folders[1], second)
    suffix = "qint8_quantized" if static else "quint8_avx2"
    assert made.file == again.file == f"onnx/model_{level}_{suffix}.onnx"
    assert sha256(folders[0] / made.file) == sha256(folders[1] / made.file)
    assert np.abs(vectors(folders[0], made.file) - theirs(folders[0], made.file)).max() < 1e-5
    before, after = operators(folders[0] / source), operators(folders[0] / made.file)
    if static:
        weights = {tensor.name for tensor in graph(folders[0] / source).initializer}
        products = [
            node
            for node in graph(folders[0] / source).node
            if node.op_type == "MatMul" and node.input[1] in weights
        ]
        assert len(
            [node for node in graph(folders[0] / made.file).node if node.op_type == "QuantizeLinear"]
        ) >= len({node.input[0] for node in products})
    else:
        assert after["MatMulInteger"] == before["MatMul"]
        assert after["QAttention"] == before["Attention"]
        assert after["MatMul"] == after["Attention"] == 0


def test_export_then_quantise_in_one_go(tiny, tmp_path) -> None:
    steps = (
        ExportOptions((Backend.ONNX, Backend.OPENVINO), output=tmp_path / "out", **SHARED),
        StaticOnnxOptions(calibration=FEW, output=tmp_path / "out", **SHARED),
        StaticOpenVinoOptions(calibration=FEW, output=tmp_path / "out", **SHARED),
    )
    before = content(tiny("bert"))
    made = recipe(tiny("bert"), *steps)
    assert [each.file for each in made] == [product.name for product in plan(steps)]
    assert content(tiny("bert")) == before
    assert opened(tmp_path / "out", STATIC).encode("a").shape == (32,)


def test_same_recipe_twice_gives_the_same_bytes(tiny, tmp_path) -> None:
    for name in ("one", "two"):
        output = tmp_path / name
        steps = (
            ExportOptions((Backend.ONNX, Backend.OPENVINO), output=output, **SHARED),
            OptimizeOptions(Level.O3, output=output, **SHARED),
            DynamicOptions(Target.AVX2, output=output, **SHARED),
            StaticOnnxOptions(calibration=FEW, output=output, **SHARED),
            StaticOpenVinoOptions(calibration=FEW, output=output, **SHARED),
            WeightOptions(output=output, **SHARED),
        )
        recipe(tiny("bert"), *steps)
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert set(one) == set(two)
    # OpenVINO counts up the names of nodes within a process; the manifest has the hashes of these files
    counted = {name for name in one if name.endswith(".xml")}
    assert len(counted) == 3
    assert {name for name in one if one[name] != two[name]} <= {*counted, "stopt.json"}
    for name in counted:
        first, second = (
            re.sub(r'name="(\D*?)_?\d+(/fq_\w+)?"', "", (tmp_path / folder / name).read_text("utf-8"))
            for folder in ("one", "two")
        )
        assert first == second


# ---- data files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        DynamicOptions(Target.AVX2, **SHARED),
        StaticOnnxOptions(calibration=FEW, **SHARED),
        WeightOptions(Backend.ONNX, WeightFormat.FP16, **SHARED),
    ],
    ids=["dynamic", "static", "fp16"],
)
def test_external_data_follows(exported, tmp_path, options) -> None:
    folder = with_external_data(exported("bert"), tmp_path / "model")
    before = content(folder)
    made = make(folder, options)
    after = content(folder)
    assert {name: after[name] for name in before} == before
    new = set(after) - set(before) - {"stopt.json"}
    assert len(new) == 2
    assert all(name.startswith(made.file) for name in new)
    assert set(record(folder, made.file)["parts"]) == new
    # nothing of the source's is needed
    (folder / PLAIN).unlink()
    (folder / f"{PLAIN}_data").unlink()
    assert np.abs(vectors(folder, made.file) - theirs(folder, made.file)).max() < 1e-5


def test_external_data_follows_two_steps(exported, tmp_path) -> None:
    folder = with_external_data(exported("bert"), tmp_path / "model")
    steps = OptimizeOptions(Level.O3, **SHARED), DynamicOptions(Target.AVX2, "onnx/model_O3.onnx", **SHARED)
    first, second = recipe(folder, *steps)
    for made in (first, second):
        assert len(record(folder, made.file)["parts"]) == 2
        assert np.isfinite(vectors(folder, made.file)).all()


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        DynamicOptions(min_cosine=0.999999, check_texts=CHECK),
        StaticOnnxOptions(calibration=FEW, min_cosine=0.999999, check_texts=CHECK),
        StaticOpenVinoOptions(calibration=FEW, min_cosine=0.999999, check_texts=CHECK),
        WeightOptions(min_cosine=0.999999, check_texts=CHECK),
    ],
    ids=["dynamic", "static onnx", "static openvino", "weights"],
)
def test_file_below_the_threshold_does_not_appear(exported, tmp_path, options) -> None:
    folder = shutil.copytree(exported("bert"), tmp_path / "model")
    before = content(tmp_path)
    with pytest.raises(ParityError, match=r"smallest cosine 0\.\d+ < 0\.999999") as caught:
        make(folder, options)
    assert caught.value.exit_code == 3
    assert caught.value.hint
    assert content(tmp_path) == before
    assert not list(folder.glob(".*"))


def test_step_that_fails_undoes_those_before_it(plain) -> None:
    before = content(plain)
    empty = plain.parent / "empty.txt"
    empty.write_text("", "utf-8")
    steps = (
        OptimizeOptions(Level.O1, **SHARED),
        StaticOnnxOptions(calibration=CalibrationOptions(texts=empty), **SHARED),
    )
    with pytest.raises(InputError, match=r"empty\.txt has 0 texts to calibrate with, too few"):
        recipe(plain, *steps)
    assert content(plain) == before


def test_vectors_that_are_not_finite_are_refused(exported, tiny, tmp_path) -> None:
    """A graph that overflows where torch does not: its own weights are altered."""
    folder = shutil.copytree(exported("bert"), tmp_path / "model")
    model = onnx.load(folder / PLAIN)
    table = next(t for t in model.graph.initializer if t.name.endswith("word_embeddings.weight"))
    array = onnx.numpy_helper.to_array(table).copy()
    array[:] = np.nan
    table.CopyFrom(onnx.numpy_helper.from_array(array, table.name))
    onnx.save_model(model, folder / PLAIN)
    before = content(tmp_path)
    with pytest.raises(ParityError, match=r"\d+ vectors have NaN or infinite values"):
        make(folder, WeightOptions(Backend.ONNX, WeightFormat.FP16, min_cosine=-1, **SHARED))
    assert content(tmp_path) == before


def test_weights_that_overflow_float16_are_refused(tiny_copy, tmp_path) -> None:
    folder = tiny_copy("bert")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("embeddings.LayerNorm.weight"))
    weights[name] = weights[name] * np.float32(1e6)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    recipe(folder, ExportOptions((Backend.ONNX,), max_abs=1e9, min_cosine=0.9, **SHARED))
    before = content(folder)
    with pytest.raises(StoptError) as caught:
        make(folder, WeightOptions(Backend.ONNX, WeightFormat.FP16, **SHARED))
    assert caught.value.hint
    assert content(folder) == before


@pytest.mark.parametrize(
    ("source", "options", "found"),
    [
        ("onnx/model_fp16.onnx", DynamicOptions, "float16"),
        ("onnx/model_fp16.onnx", StaticOnnxOptions, "float16"),
        (STATIC, DynamicOptions, "int8"),
        (DYNAMIC[Target.AVX2], StaticOnnxOptions, "int8"),
        (OV_STATIC, StaticOpenVinoOptions, "int8"),
        ("openvino/openvino_model_int8.xml", WeightOptions, "int8"),
    ],
)
def test_source_that_is_not_float32(quantized, source, options, found) -> None:
    before = content(quantized)
    with pytest.raises(ConversionError) as caught:
        make(quantized, options(source_file=source, **SHARED))
    assert caught.value.message == f"{source} has {found} weights; conversions start from float32"
    assert caught.value.hint == "start from another file: --from FILE"
    assert content(quantized) == before


def test_int8_weights_are_for_openvino() -> None:
    with pytest.raises(OptionError, match="weights of ONNX files can be stored as fp16 only") as caught:
        WeightOptions(Backend.ONNX, WeightFormat.INT8)
    assert "--static" in caught.value.hint
