"""`export` of sparse encoders, cross-encoders, routers and static models: sentence-transformers loads what it writes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stopt import OptionError, SentenceTransformer, UnsupportedModel
from stopt.artifact import Manifest
from stopt.convert.export import ExportOptions, export
from stopt.errors import InputError
from stopt.spec import Backend, ModelKind
from stopt.steps import (
    DynamicOptions,
    Level,
    OptimizeOptions,
    StaticOnnxOptions,
    StaticOpenVinoOptions,
    WeightFormat,
    WeightOptions,
)

Tiny = Callable[..., Path]

BOTH = (Backend.ONNX, Backend.OPENVINO)
TEXTS = ["A man is playing the guitar.", "query: how do I cook rice?", "", "Le café était fermé " * 8]
PAIRS = [
    ("What is the capital of France?", "Paris is."),
    ("a man", "the guitar " * 60),
    ("one", ""),
    ("", "two"),
]
FILES = {"onnx": "onnx/model.onnx", "openvino": "openvino/openvino_model.xml"}
# float32 in another order of operations; OpenVINO is asked for float32
TOLERANCE = {"onnx": 1e-5, "openvino": 1e-4}
F32 = {"onnx": {}, "openvino": {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}}


def _export(model: Path, output: Path, *backends: Backend, pairs: bool = False, **options: Any) -> Any:
    texts: Any = [("one text", "its partner"), ("another", "")] if pairs else ["one text", "another one"]
    return export(model, ExportOptions(backends or BOTH, output=output, **{"check_texts": texts, **options}))


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta", "modernbert"])
def test_sentence_transformers_loads_a_splade_model(tiny, tmp_path, architecture) -> None:
    from sentence_transformers import SparseEncoder

    source = tiny(architecture, kind="splade")
    made = _export(source, tmp_path / "out")
    assert [each.file for each in made] == list(FILES.values())
    assert all(each.parity.kind is ModelKind.SPARSE for each in made)
    assert Manifest.read(tmp_path / "out").files["onnx/model.onnx"].options["task"] == "fill-mask"
    expected = SparseEncoder(str(source), device="cpu").encode(TEXTS).to_dense().numpy()
    for backend, file in FILES.items():
        theirs = SparseEncoder(
            str(tmp_path / "out"),
            device="cpu",
            backend=backend,
            model_kwargs={"file_name": file, **F32[backend]},
        )
        found = theirs.encode(TEXTS).to_dense().numpy()
        assert np.abs(found - expected).max() < TOLERANCE[backend]


@pytest.mark.parametrize(
    ("architecture", "labels"), [("bert", 1), ("roberta", 3), ("distilbert", 1), ("deberta-v2", 1)]
)
def test_sentence_transformers_loads_a_cross_encoder(tiny, tmp_path, architecture, labels) -> None:
    from sentence_transformers import CrossEncoder

    source = tiny(architecture, kind="cross-encoder", num_labels=labels)
    made = _export(source, tmp_path / "out", pairs=True)
    assert all(each.parity.rank_agreement == pytest.approx(1) for each in made)
    assert all(each.parity.min_cosine is None for each in made)
    expected = CrossEncoder(str(source), device="cpu").predict(PAIRS)
    for backend, file in FILES.items():
        theirs = CrossEncoder(
            str(tmp_path / "out"),
            device="cpu",
            backend=backend,
            model_kwargs={"file_name": file, **F32[backend]},
        )
        assert np.abs(theirs.predict(PAIRS) - expected).max() < TOLERANCE[backend]


def test_files_of_a_route_are_beside_its_transformer(tiny, tmp_path) -> None:
    from sentence_transformers import SparseEncoder

    source = tiny("bert", kind="inference-free")
    made = _export(source, tmp_path / "out", Backend.ONNX)
    (file,) = [each.file for each in made]
    part = file.removesuffix("/onnx/model.onnx")
    assert (source / part / "config.json").is_file()
    assert "document" in part
    # the original weights go, so that nothing else can be loaded
    (tmp_path / "out" / part / "model.safetensors").unlink()
    theirs = SparseEncoder(str(tmp_path / "out"), device="cpu", backend="onnx")
    expected = SparseEncoder(str(source), device="cpu")
    for role in ("encode_query", "encode_document"):
        found = getattr(theirs, role)(TEXTS).to_dense().numpy()
        assert np.abs(found - getattr(expected, role)(TEXTS).to_dense().numpy()).max() < 1e-5


def test_every_transformer_of_a_router_is_exported(tiny, tmp_path) -> None:
    source = tiny("bert", kind="router")
    made = _export(source, tmp_path / "out", Backend.ONNX)
    folders = [
        path.parent for path in source.rglob("config.json") if "model_type" in json.loads(path.read_text())
    ]
    assert {(source / each.file).parent.parent for each in made} == set(folders)
    assert all(each.parity.passed for each in made)


def test_a_sparse_autoencoder_stays_outside_of_the_graph(tiny, tmp_path) -> None:
    made = _export(tiny("bert", kind="csr"), tmp_path / "out", Backend.ONNX)
    assert made[0].parity.kind is ModelKind.SPARSE
    assert made[0].parity.active_overlap == 1
    options = Manifest.read(tmp_path / "out").files["onnx/model.onnx"].options
    assert options["task"] == "feature-extraction"


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"dense": 6}])
def test_a_static_model_becomes_a_graph(tiny, tmp_path, options) -> None:
    from sentence_transformers import SentenceTransformer as Theirs

    source = tiny("bert", kind="static", **options)
    made = _export(source, tmp_path / "out")
    assert [each.file for each in made] == list(FILES.values())
    expected = Theirs(str(source), device="cpu").encode(TEXTS)
    for backend, file in FILES.items():
        model = SentenceTransformer(tmp_path / "out", backend=backend, model_kwargs={"file_name": file})
        assert np.abs(model.encode(TEXTS) - expected).max() < TOLERANCE[backend]


@pytest.fixture(scope="module")
def table(tiny, tmp_path_factory) -> Path:
    """A static model with both plain files."""
    folder = tmp_path_factory.mktemp("table") / "out"
    _export(tiny("bert", kind="static", normalize=True), folder)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        DynamicOptions(),
        StaticOnnxOptions(),
        StaticOpenVinoOptions(),
        WeightOptions(backend=Backend.ONNX, weight_format=WeightFormat.FP16),
        WeightOptions(backend=Backend.OPENVINO, weight_format=WeightFormat.FP16),
        WeightOptions(backend=Backend.OPENVINO, weight_format=WeightFormat.INT8),
    ],
    ids=lambda options: type(options).__name__,
)
def test_a_table_is_stored_in_fewer_bytes(table, tmp_path, options) -> None:
    from sentence_transformers import SentenceTransformer as Theirs

    from stopt.convert.quantize import quantize

    folder = shutil.copytree(table, tmp_path / "out")
    (made,) = quantize(folder, replace(options, check_texts=TEXTS))
    plain = folder / FILES["openvino" if made.file.endswith(".xml") else "onnx"]
    values = plain if plain.suffix == ".onnx" else plain.with_suffix(".bin")
    smaller = folder / made.file
    smaller = smaller if smaller.suffix == ".onnx" else smaller.with_suffix(".bin")
    assert smaller.stat().st_size < 0.8 * values.stat().st_size
    model = SentenceTransformer(folder, model_kwargs={"file_name": made.file})
    expected = Theirs(str(folder), device="cpu").encode(TEXTS)
    assert np.abs(model.encode(TEXTS) - expected).max() < 0.05


def test_a_table_has_no_layers_to_fuse(table, tmp_path) -> None:
    from stopt.convert.optimize import optimize

    folder = shutil.copytree(table, tmp_path / "out")
    (made,) = optimize(folder, OptimizeOptions(Level.O1, check_texts=TEXTS))
    assert made.file == "onnx/model_O1.onnx"
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(UnsupportedModel) as caught:
        optimize(folder, OptimizeOptions(Level.O3))
    assert caught.value.message == (
        "O3 for a static embedding model is not supported: a table of token embeddings has no layers to fuse"
    )
    assert caught.value.hint == "-O1 works on every graph; a smaller table: stopt quantize"
    with pytest.raises(UnsupportedModel) as caught:
        export(folder, ExportOptions(fused=True, force=True))
    assert "onnx/model.onnx has all of its modules inside as it is" in caught.value.message
    assert caught.value.hint == "leave out --fused"
    assert sorted(path.name for path in folder.rglob("*")) == before


# ---- hints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("splade", "fill-mask"),
        ("cross-encoder", "text-classification"),
        ("cross-encoder", "sequence-classification"),
        ("csr", "feature-extraction"),
    ],
)
def test_the_right_task_is_accepted(tiny, tmp_path, kind, task) -> None:
    made = _export(
        tiny("bert", kind=kind),
        tmp_path / "out",
        Backend.ONNX,
        pairs=kind == "cross-encoder",
        task=task,
        library="sentence-transformers",
    )
    assert made[0].parity.passed


@pytest.mark.parametrize(
    ("kind", "task", "message"),
    [
        ("splade", "feature-extraction", "with the task fill-mask, not feature-extraction"),
        ("splade", "text-classification", "is a sparse encoder, not a cross-encoder"),
        ("cross-encoder", "fill-mask", "is a cross-encoder, not a sparse encoder"),
        ("csr", "fill-mask", "with the task feature-extraction, not fill-mask"),
        ("splade", "fill-masks", "task 'fill-masks' is unknown"),
    ],
)
def test_a_wrong_task_is_an_error(tiny, tmp_path, kind, task, message) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        _export(tiny("bert", kind=kind), tmp_path / "out", Backend.ONNX, task=task)
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_wrong_library_is_an_error(tiny, tmp_path) -> None:
    with pytest.raises(OptionError, match="library 'diffusers' has no models that stopt converts"):
        _export(tiny("bert", kind="splade"), tmp_path / "out", library="diffusers")


def test_a_plain_masked_language_model_is_sparse_if_that_is_its_task(tiny, tmp_path) -> None:
    source = tiny("bert", kind="splade", layout="plain")
    made = _export(source, tmp_path / "out", Backend.ONNX, task="fill-mask")
    assert made[0].parity.kind is ModelKind.SPARSE


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_a_cross_encoder_is_checked_with_pairs(tiny, tmp_path) -> None:
    with pytest.raises(InputError, match="is a single text, and a cross-encoder reads pairs") as caught:
        _export(tiny("bert", kind="cross-encoder"), tmp_path / "out")
    assert "tab" in caught.value.hint
    with pytest.raises(InputError, match="has pairs of texts"):
        _export(tiny("bert", kind="splade"), tmp_path / "other", pairs=True)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("cross-encoder", {"min_cosine": 0.9}, "a cross-encoder makes scores, which have no cosine"),
        ("static", {"min_agreement": 0.9}, "the vectors of a dense model have no active dimensions"),
    ],
)
def test_thresholds_that_mean_nothing_are_refused(tiny, tmp_path, kind, options, message) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        _export(tiny("bert", kind=kind), tmp_path / "out", pairs=kind == "cross-encoder", **options)
    assert "--" in caught.value.hint


def test_other_weights_are_caught(tiny, tmp_path) -> None:
    """The file of another model is not taken for this one's."""
    from stopt.checking import CheckOptions, check

    for kind, pairs in (("splade", False), ("cross-encoder", True)):
        folder = tmp_path / kind
        _export(tiny("bert", kind=kind), folder, Backend.ONNX, pairs=pairs)
        shutil.copyfile(tiny("bert", kind=kind, seed=5) / "model.safetensors", folder / "model.safetensors")
        texts: Any = PAIRS if pairs else TEXTS
        (report,) = check(folder, CheckOptions(texts=texts))
        assert not report.passed
        failure = report.failure()
        assert failure is not None
        assert "--min-agreement" in failure.hint
