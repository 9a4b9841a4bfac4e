"""F13 to F15: files that are cut short, empty, exchanged or of another model; weights in files of their own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from external import with_external_data

from stopt import SentenceTransformer, check, quantize
from stopt.artifact import Manifest
from stopt.certificate import examine
from stopt.checking import CheckOptions
from stopt.convert.optimize import optimize
from stopt.errors import CorruptModel, StoptError
from stopt.steps import DynamicOptions, Level, OptimizeOptions, Target

FEW = ["one text", "and a longer one with more words in it"]
ONNX, XML, BIN = "onnx/model.onnx", "openvino/openvino_model.xml", "openvino/openvino_model.bin"


@pytest.fixture
def folder(exported: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("bert"), tmp_path / "model"))


def backend_of(name: str) -> str:
    return "openvino" if name.startswith("openvino") else "onnx"


# ---- F13: damaged files ---------------------------------------------------------------------------------------------


@pytest.mark.scorecard("F13")
@pytest.mark.parametrize("recorded", [True, False], ids=["with stopt.json", "without"])
@pytest.mark.parametrize("damage", ["half", "empty", "zeros"])
@pytest.mark.parametrize("name", [ONNX, XML, BIN])
def test_a_damaged_file_is_named(folder, name, damage, recorded) -> None:
    content = (folder / name).read_bytes()
    damaged = {"half": content[: len(content) // 2], "empty": b"", "zeros": b"\0" * len(content)}[damage]
    if not recorded:
        (folder / "stopt.json").unlink()
        if (name, damage) == (BIN, "zeros"):
            pytest.skip("weights of zeros are weights; only the manifest knows better")
    (folder / name).write_bytes(damaged)
    with pytest.raises(CorruptModel) as caught:
        SentenceTransformer(folder, backend=backend_of(name))
    assert Path(name).stem in caught.value.message
    assert caught.value.hint


@pytest.mark.scorecard("F13")
@pytest.mark.parametrize("damage", ["half", "empty", "missing"])
def test_damaged_external_data_is_named(exported, tmp_path, damage) -> None:
    folder = with_external_data(exported("bert"), tmp_path / "model")
    data = folder / "onnx/model.onnx_data"
    if damage == "missing":
        data.unlink()
    else:
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2] if damage == "half" else b"")
    with pytest.raises(CorruptModel, match=r"model\.onnx") as caught:
        SentenceTransformer(folder, backend="onnx").encode(FEW)
    assert caught.value.hint


@pytest.mark.scorecard("F13")
@pytest.mark.parametrize("name", [ONNX, BIN])
def test_a_file_of_another_model_with_the_same_size_is_caught_by_the_manifest(
    folder, tiny, tmp_path, name
) -> None:
    from stopt.convert.export import export
    from stopt.spec import Backend
    from stopt.steps import ExportOptions

    other = tmp_path / "other"
    options = ExportOptions((Backend(backend_of(name)),), output=other, check_texts=FEW)
    export(tiny("bert", seed=1), options)
    assert (other / name).stat().st_size == (folder / name).stat().st_size
    shutil.copyfile(other / name, folder / name)
    with pytest.raises(CorruptModel, match=f"{name} has changed"):
        SentenceTransformer(folder, backend=backend_of(name))


# ---- F14: files that do not belong together -------------------------------------------------------------------------


def refused_or_off(folder: Path) -> None:
    """Either it is not served, or the check says that its vectors are not the model's."""
    (folder / "stopt.json").unlink(missing_ok=True)
    try:
        SentenceTransformer(folder, backend="onnx").encode(FEW)
    except StoptError:
        return
    try:
        reports = check(folder, CheckOptions("onnx/model.onnx", texts=FEW))
    except StoptError:
        return
    assert not all(report.passed for report in reports)


def edit(path: Path, **changes: object) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | changes), encoding="utf-8")


@pytest.mark.scorecard("F14")
def test_a_tokenizer_with_a_larger_vocabulary_is_refused(folder) -> None:
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = document["model"]["vocab"]
    vocabulary["fox"] = len(vocabulary) + 5000
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "stopt.json").unlink()
    for backend in ("onnx", "openvino", "torch"):
        model = SentenceTransformer(folder, backend=backend)
        with pytest.raises(CorruptModel, match=r"tokenizer\.json makes a token 5\d\d\d") as caught:
            model.encode(["the fox"])
        assert "different models" in caught.value.hint


@pytest.mark.scorecard("F14")
@pytest.mark.parametrize(
    "change",
    [
        lambda folder: edit(folder / "config.json", hidden_size=64),
        lambda folder: shutil.rmtree(folder / "1_Pooling"),
    ],
    ids=["the width", "no pooling"],
)
def test_a_configuration_that_contradicts_the_rest_is_refused_or_off(folder, change) -> None:
    change(folder)
    refused_or_off(folder)


@pytest.mark.scorecard("F14")
def test_what_a_configuration_has_wrong_and_the_transformer_right_does_not_matter(folder) -> None:
    expected = SentenceTransformer(folder, backend="onnx").encode(FEW)
    (folder / "stopt.json").unlink()
    edit(folder / "1_Pooling/config.json", word_embedding_dimension=64, embedding_dimension=64)
    edit(folder / "sentence_bert_config.json", max_seq_length=100_000)
    model = SentenceTransformer(folder, backend="onnx")
    assert model.max_seq_length == 128  # the positions that it has
    assert model.get_embedding_dimension() == 32
    np.testing.assert_array_equal(model.encode(FEW), expected)
    assert model.encode("fox " * 1000).shape == (32,)


@pytest.mark.scorecard("F14")
@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "1_Pooling/config.json", "modules.json"])
def test_any_changed_configuration_is_caught_by_the_manifest(folder, name) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    with pytest.raises(CorruptModel, match=f"{name} has changed"):
        SentenceTransformer(folder, backend="onnx")


@pytest.mark.scorecard("F14")
def test_a_graph_of_another_width_is_refused(folder, exported, tmp_path) -> None:
    sparse = exported("bert", kind="splade")
    shutil.copyfile(sparse / ONNX, folder / ONNX)
    (folder / "stopt.json").unlink()
    with pytest.raises(CorruptModel, match="of another model") as caught:
        SentenceTransformer(folder, backend="onnx").encode(FEW)
    assert "model.onnx" in str(caught.value)


# ---- F15: weights beside the graph ----------------------------------------------------------------------------------


def hub_layout(folder: Path, home: Path) -> Path:
    """The folder as huggingface_hub keeps it: links into a folder of contents."""
    snapshot = home / "models--org--name/snapshots" / ("0" * 40)
    blobs = home / "models--org--name/blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.rglob("*"))):
        place = snapshot / path.relative_to(folder)
        if path.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, blobs / str(number))
            place.symlink_to(
                Path(*[".."] * (len(place.relative_to(snapshot.parent.parent).parts) - 1))
                / "blobs"
                / str(number)
            )
    return snapshot


@pytest.mark.scorecard("F15")
def test_weights_beside_the_graph_go_through_every_step_and_load_from_links(exported, tmp_path) -> None:
    folder = with_external_data(exported("bert"), tmp_path / "model")
    made = ["onnx/model.onnx"]
    for level in (Level.O1, Level.O2, Level.O3, Level.O4):
        made += [each.file for each in optimize(folder, OptimizeOptions(level, check_texts=FEW))]
    made += [each.file for each in quantize(folder, DynamicOptions(Target.AVX2, check_texts=FEW))]
    manifest = Manifest.read(folder)
    assert manifest is not None
    for name in made[1:]:
        parts = manifest.files[name].parts
        assert len(parts) == 2, f"{name} has no data file of its own"
        assert all((folder / part).is_file() for part in parts)
    assert examine(folder, manifest).differences == ()
    expected = SentenceTransformer(folder, backend="torch").encode(FEW, normalize_embeddings=True)
    snapshot = hub_layout(folder, tmp_path / "hub")
    for name in made:
        model = SentenceTransformer(snapshot, backend="onnx", model_kwargs={"file_name": name})
        cosine = (model.encode(FEW, normalize_embeddings=True) * expected).sum(1)
        assert cosine.min() > (0.98 if "quint8" in name else 0.999), name
        assert np.isfinite(cosine).all()
