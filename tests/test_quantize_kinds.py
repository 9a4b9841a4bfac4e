"""`quantize` of sparse encoders and cross-encoders: what stays in float, and what they are calibrated with."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest

from stopt.artifact import Manifest
from stopt.convert.calibration import read_calibration
from stopt.convert.quantize import quantize
from stopt.convert.sensitive import GraphNode, head_of, onnx_head, openvino_head
from stopt.errors import InputError, SourceError
from stopt.spec import Backend
from stopt.steps import (
    CalibrationOptions,
    DynamicOptions,
    StaticOnnxOptions,
    StaticOpenVinoOptions,
    Target,
    WeightFormat,
    WeightOptions,
)

TEXTS = ["one text", "and a longer one, with more words"]
PAIRS = [("one text", "another"), ("and a longer one", "with more words")]
FEW = CalibrationOptions(num_samples=16)
# tiny random models: their files are looked at, not their quality
LENIENT = {
    "splade": {"min_cosine": 0.5, "min_agreement": 0.1},
    "cross-encoder": {"max_abs": 1.0, "min_agreement": -1.0},
}
# matrix products behind the last layer, by kind and architecture
HEADS = {
    ("splade", "bert"): ("predictions/transform/dense", "predictions/decoder"),
    ("splade", "distilbert"): ("vocab_transform", "vocab_projector"),
    ("splade", "roberta"): ("lm_head/dense", "lm_head/decoder"),
    ("splade", "modernbert"): ("head/dense", "decoder"),
    ("cross-encoder", "bert"): ("pooler/dense", "classifier"),
    ("cross-encoder", "distilbert"): ("pre_classifier", "classifier"),
    ("cross-encoder", "roberta"): ("classifier/dense", "classifier/out_proj"),
    ("cross-encoder", "modernbert"): ("head/dense", "classifier"),
    ("cross-encoder", "deberta-v2"): ("pooler/dense", "classifier"),
}


def make(folder: Path, kind: str, options: Any) -> str:
    (made,) = quantize(folder, options)
    assert made.parity.passed
    return made.file


def shared(kind: str) -> dict[str, Any]:
    return {"check_texts": PAIRS if kind == "cross-encoder" else TEXTS, **LENIENT[kind]}


def kept(folder: Path, file: str) -> list[str]:
    manifest = Manifest.read(folder)
    assert manifest is not None
    return list(manifest.files[file].options.get("kept_float", []))


@pytest.mark.parametrize(("kind", "architecture"), list(HEADS))
def test_the_head_is_found_in_both_graphs(exported, kind, architecture) -> None:
    folder = exported(architecture, kind=kind)
    wanted = HEADS[kind, architecture]
    _, products = onnx_head(onnx.load(folder / "onnx/model.onnx").graph)
    assert [name.rpartition("/")[0] for name in reversed(products)] == [
        next(name.rpartition("/")[0] for name in products if name.rpartition("/")[0].endswith(each))
        for each in wanted
    ]
    assert len(products) == len(wanted)
    _, products = openvino_head(openvino.Core().read_model(folder / "openvino/openvino_model.xml"))
    products = [name for name in products if "MatMul" in name]
    assert len(products) == len(wanted)
    for each in wanted:
        assert any(each.replace("/", ".") in name for name in products)


def test_the_two_sides_of_an_approximated_gelu_are_no_layer() -> None:
    """The last layer's sum has two products behind it, GELU's only one."""
    nodes = {
        "attention": GraphNode("MatMul", ("input",)),
        "layer": GraphNode("MatMul", ("attention",)),
        "sum": GraphNode("Add", ("attention", "layer")),
        "transform": GraphNode("MatMul", ("sum",)),
        "cube": GraphNode("Pow", ("transform",)),
        "gelu": GraphNode("Add", ("transform", "cube")),
        "decoder": GraphNode("MatMul", ("gelu",)),
    }
    assert set(head_of(nodes, "decoder")) == {"decoder", "gelu", "cube", "transform"}


def test_attention_ends_the_head() -> None:
    nodes = {"scores": GraphNode("MatMul", ("query", "key")), "last": GraphNode("MatMul", ("scores",))}
    assert head_of(nodes, "last") == ["last"]


@pytest.mark.parametrize("kind", ["splade", "cross-encoder"])
def test_dynamic_int8_leaves_the_head_in_float(exported, tmp_path, kind) -> None:
    folder = shutil.copytree(exported("bert", kind=kind), tmp_path / "model")
    file = make(folder, kind, DynamicOptions(Target.AVX2, **shared(kind)))
    assert len(kept(folder, file)) == 2
    graph = onnx.load(folder / file).graph
    products = {node.name: node.op_type for node in graph.node if node.op_type in ("MatMul", "Gemm")}
    # ONNX Runtime makes a product and a sum of a Gemm
    assert all(name in products or f"{name}_MatMul" in products for name in kept(folder, file))
    assert any(node.op_type == "MatMulInteger" for node in graph.node)


def test_sentence_transformers_own_bits_are_an_option_away(exported, tmp_path) -> None:
    from sentence_transformers import SparseEncoder, export_dynamic_quantized_onnx_model

    folder = shutil.copytree(exported("bert", kind="splade"), tmp_path / "model")
    options = DynamicOptions(Target.AVX2, keep_head=False, **shared("splade"))
    file = make(folder, "splade", options)
    assert kept(folder, file) == []
    theirs = SparseEncoder(
        str(folder), device="cpu", backend="onnx", model_kwargs={"file_name": "onnx/model.onnx"}
    )
    export_dynamic_quantized_onnx_model(theirs, "avx2", str(tmp_path / "theirs"))
    assert (tmp_path / "theirs" / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize("kind", ["splade", "cross-encoder"])
def test_static_int8_for_onnx_leaves_the_head_in_float(exported, tmp_path, kind) -> None:
    folder = shutil.copytree(exported("bert", kind=kind), tmp_path / "model")
    file = make(folder, kind, StaticOnnxOptions(calibration=FEW, **shared(kind)))
    graph = onnx.load(folder / file).graph
    names, _ = onnx_head(onnx.load(folder / "onnx/model.onnx").graph)
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    made = {node.name: node for node in graph.node}
    for name in kept(folder, file):
        # ONNX Runtime makes a product and a sum of a Gemm
        assert (made.get(name) or made[f"{name}_MatMul"]).input[1] in weights
    assert names
    assert any(node.op_type == "DequantizeLinear" for node in graph.node)


def test_static_int8_for_openvino_leaves_the_head_in_float(exported, tmp_path) -> None:
    folder = shutil.copytree(exported("bert", kind="splade"), tmp_path / "model")
    file = make(folder, "splade", StaticOpenVinoOptions(calibration=FEW, **shared("splade")))
    model = openvino.Core().read_model(folder / file)
    inputs = {
        node.get_friendly_name(): [value.get_node().get_type_name() for value in node.input_values()]
        for node in model.get_ops()
        if node.get_type_name() == "MatMul"
    }
    products = [name for name in kept(folder, file) if name in inputs]
    assert len(products) == 2
    assert all("FakeQuantize" not in inputs[name] for name in products)
    assert any("FakeQuantize" in found for found in inputs.values())
    # the table that the projection shares is stored once, in float
    assert any("word_embeddings" in name for name in kept(folder, file))


def test_dense_models_have_no_head(exported, tmp_path) -> None:
    folder = shutil.copytree(exported("bert"), tmp_path / "model")
    (made,) = quantize(folder, DynamicOptions(Target.AVX2, check_texts=TEXTS))
    assert kept(folder, made.file) == []


def test_compressed_weights_of_other_kinds(exported, tmp_path) -> None:
    for kind in ("splade", "cross-encoder"):
        folder = shutil.copytree(exported("bert", kind=kind), tmp_path / kind)
        for options in (
            WeightOptions(Backend.OPENVINO, WeightFormat.INT8, **shared(kind)),
            WeightOptions(Backend.ONNX, WeightFormat.FP16, **shared(kind)),
        ):
            assert (folder / make(folder, kind, options)).is_file()


@pytest.mark.parametrize("level", ["O1", "O2", "O3", "O4"])
def test_optimised_files_of_other_kinds(exported, tmp_path, level) -> None:
    from stopt.convert.optimize import optimize
    from stopt.steps import Level, OptimizeOptions

    for kind in ("splade", "cross-encoder"):
        folder = shutil.copytree(exported("bert", kind=kind), tmp_path / f"{kind}-{level}")
        (made,) = optimize(folder, OptimizeOptions(Level(level), **shared(kind)))
        assert made.parity.passed
        if level != "O4":
            source = {"source_file": made.file}
            file = make(folder, kind, DynamicOptions(Target.AVX2, **source, **shared(kind)))
            assert len(kept(folder, file)) == 2


# ---- calibration ----------------------------------------------------------------------------------------------------


def write_pairs(file: Path, count: int = 20) -> Path:
    rows = [{"query": f"question {n}", "document": f"answer {n}"} for n in range(count)]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


def test_cross_encoders_are_calibrated_with_pairs(exported, tmp_path) -> None:
    folder = shutil.copytree(exported("bert", kind="cross-encoder"), tmp_path / "model")
    calibration = CalibrationOptions(texts=write_pairs(tmp_path / "pairs.jsonl"), num_samples=16)
    file = make(
        folder, "cross-encoder", StaticOpenVinoOptions(calibration=calibration, **shared("cross-encoder"))
    )
    manifest = Manifest.read(folder)
    assert manifest is not None
    described = manifest.files[file].options["calibration"]
    assert (described["source"], described["samples"]) == ("pairs.jsonl", 16)


def test_pairs_come_from_files_of_any_kind(tmp_path) -> None:
    pairs = [(f"question {n}", f"answer {n}") for n in range(20)]
    jsonl = write_pairs(tmp_path / "a.jsonl")
    tsv, table = tmp_path / "a.tsv", tmp_path / "a.csv"
    tsv.write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    table.write_text(
        "id,question,answer\n" + "".join(f"{n},{a},{b}\n" for n, (a, b) in enumerate(pairs)), encoding="utf-8"
    )
    for file, column in ((jsonl, "text"), (tsv, "text"), (table, "text"), (table, "question,answer")):
        found = read_calibration(CalibrationOptions(texts=file, column=column), pairs=True)
        assert list(found.texts) == pairs
    shipped = read_calibration(CalibrationOptions(num_samples=50), pairs=True)
    assert len(shipped.texts) == 50
    assert all(len(pair) == 2 for pair in shipped.texts)
    hashes = {
        read_calibration(CalibrationOptions(texts=file), pairs=True).describe()["sha256"]
        for file in (jsonl, tsv)
    }
    assert len(hashes) == 1


def test_what_is_no_pair_is_refused(tmp_path) -> None:
    single = tmp_path / "a.txt"
    single.write_text("one text\n" * 20, encoding="utf-8")
    with pytest.raises(InputError, match="is a single text, and a cross-encoder reads pairs"):
        read_calibration(CalibrationOptions(texts=single), pairs=True)
    with pytest.raises(InputError, match="has pairs of texts") as caught:
        read_calibration(CalibrationOptions(texts=write_pairs(tmp_path / "b.jsonl")))
    assert caught.value.hint == "give one text per line; pairs are for cross-encoders"
    table = tmp_path / "c.csv"
    table.write_text("left,right\na,b\n", encoding="utf-8")
    with pytest.raises(
        SourceError, match="no columns with the two texts of a pair; it has left, right"
    ) as column:
        read_calibration(CalibrationOptions(texts=table), pairs=True)
    assert column.value.hint == "name them with a comma: --column query,document"


def test_pairs_are_tokenised_together(tiny) -> None:
    from stopt.convert.calibration import CalibrationData
    from stopt.reading import read_spec
    from stopt.runtime.options import TorchOptions
    from stopt.runtime.pipeline import Pipeline

    folder = tiny("bert", kind="cross-encoder")
    pipeline = Pipeline.open(folder, read_spec(folder), TorchOptions(dtype="float32"), "cpu")
    (batch,) = CalibrationData("here", [("one", "two")]).batches(pipeline)
    assert set(np.unique(batch.token_type_ids)) == {0, 1}


def test_the_functions_of_sentence_transformers_take_every_class(exported, tmp_path) -> None:
    from stopt import export_optimized_onnx_model
    from stopt.runtime.cross_encoder import CrossEncoder
    from stopt.runtime.sparse_encoder import SparseEncoder

    for kind, cls in (
        ("splade", SparseEncoder),
        ("cross-encoder", CrossEncoder),
        ("inference-free", SparseEncoder),
    ):
        folder = shutil.copytree(exported("bert", kind=kind), tmp_path / kind)
        export_optimized_onnx_model(cls(folder, backend="onnx"), "O1", folder)
        (file,) = folder.rglob("model_O1.onnx")
        manifest = Manifest.read(folder)
        assert manifest is not None
        assert manifest.files[file.relative_to(folder).as_posix()].parity["passed"]
