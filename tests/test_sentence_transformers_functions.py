"""The three export functions of sentence-transformers, called as its scripts call them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakehub import FakeHub

import stopt
from stopt import OptionError, PushError, SentenceTransformer

TEXTS = ["The first text.", "ein zweiter, etwas längerer Text"]


@pytest.fixture
def folder(exported: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("bert"), tmp_path / "model"))


def test_an_optimised_file_appears_under_its_name(folder: Path) -> None:
    model = SentenceTransformer(folder, backend="onnx")
    stopt.export_optimized_onnx_model(model, "O2", folder)
    stopt.export_optimized_onnx_model(model, "O1", str(folder), file_suffix="basic")
    plain = model.encode(TEXTS)
    for name in ("model_O2.onnx", "model_basic.onnx"):
        served = SentenceTransformer(folder, backend="onnx", model_kwargs={"file_name": name})
        assert np.abs(served.encode(TEXTS) - plain).max() < 1e-5  # float32 in another order


def test_a_dynamically_quantised_file_appears_in_another_folder(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(folder, backend="onnx")
    stopt.export_dynamic_quantized_onnx_model(model, "avx2", tmp_path / "other")
    assert (tmp_path / "other/onnx/model_quint8_avx2.onnx").is_file()
    assert not (folder / "onnx/model_quint8_avx2.onnx").exists()


def test_a_statically_quantised_file_takes_a_dict_and_leaves_the_model_alone(folder: Path) -> None:
    model = SentenceTransformer(folder, backend="openvino", model_kwargs={"dtype": "float32"})
    before = model.encode(TEXTS)
    stopt.export_static_quantized_openvino_model(model, {"num_samples": 16}, folder)
    assert (folder / "openvino/openvino_model_qint8_quantized.xml").is_file()
    assert np.array_equal(model.encode(TEXTS), before)


def test_what_cannot_be_done_is_said(folder: Path) -> None:
    model = SentenceTransformer(folder, backend="onnx")
    with pytest.raises(OptionError, match="optimization_config is 'O5'") as caught:
        stopt.export_optimized_onnx_model(model, "O5", folder)
    assert "O1" in caught.value.hint
    with pytest.raises(OptionError, match="quantization_config is 'avx'") as caught:
        stopt.export_dynamic_quantized_onnx_model(model, "avx", folder)
    assert caught.value.hint == "did you mean 'avx2'?"
    with pytest.raises(OptionError, match="opened with backend 'onnx', expected 'openvino'") as caught:
        stopt.export_static_quantized_openvino_model(model, None, folder)
    assert caught.value.hint == 'open it with backend="openvino"'


REPO = "someone/model"


@pytest.fixture
def home(folder: Path, fake_hub: FakeHub) -> FakeHub:
    """A Hub that has the model, without converted files."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    own = [name for name in names if not name.startswith(("onnx/", "openvino/")) and name != "stopt.json"]
    fake_hub.model(REPO, {name: (folder / name).read_bytes() for name in own})
    return fake_hub


def test_a_file_goes_to_the_hub_and_nowhere_else(folder: Path, home: FakeHub) -> None:
    before = sorted(folder.rglob("*"))
    model = SentenceTransformer(folder, backend="onnx")
    stopt.export_optimized_onnx_model(model, "O1", REPO, push_to_hub=True)
    assert home.repos[REPO].commits[-1].title == "Add exported ONNX model 'model_O1.onnx'"
    assert home.repos[REPO].files.keys() & {"onnx/model.onnx", "onnx/model_O1.onnx"} == {"onnx/model_O1.onnx"}
    stopt.export_dynamic_quantized_onnx_model(model, "avx2", REPO, push_to_hub=True, create_pr=True)
    assert [pull["title"] for pull in home.repos[REPO].pulls] == [
        "Add exported ONNX model 'model_quint8_avx2.onnx'"
    ]
    served = SentenceTransformer(
        REPO, revision="refs/pr/1", backend="onnx", model_kwargs={"file_name": "model_quint8_avx2.onnx"}
    )
    assert served.encode(TEXTS).shape == (2, 32)
    assert sorted(folder.rglob("*")) == before


def test_a_static_file_goes_to_the_hub(folder: Path, home: FakeHub) -> None:
    model = SentenceTransformer(folder, backend="openvino")
    stopt.export_static_quantized_openvino_model(model, {"num_samples": 16}, REPO, push_to_hub=True)
    assert "openvino/openvino_model_qint8_quantized.bin" in home.repos[REPO].files


def test_what_cannot_be_pushed_is_said_before_the_work(folder: Path, home: FakeHub, monkeypatch) -> None:
    model = SentenceTransformer(folder, backend="onnx")
    monkeypatch.setattr("stopt.convert.sentence_transformers.optimize", None)
    with pytest.raises(
        OptionError, match="is a folder, and push_to_hub=True asks for a repository"
    ) as caught:
        stopt.export_optimized_onnx_model(model, "O1", folder, push_to_hub=True)
    assert caught.value.hint == "organisation/name"
    with pytest.raises(OptionError, match="create_pr=True has no use without push_to_hub=True") as caught:
        stopt.export_optimized_onnx_model(model, "O1", folder, create_pr=True)
    assert caught.value.hint == "give both, or neither"
    with pytest.raises(PushError, match="no repository someone/other to open a pull request in"):
        stopt.export_optimized_onnx_model(model, "O1", "someone/other", push_to_hub=True, create_pr=True)


def test_half_of_the_data_set_arguments_are_refused(folder: Path) -> None:
    model = SentenceTransformer(folder, backend="openvino")
    with pytest.raises(OptionError, match="some of dataset_name") as caught:
        stopt.export_static_quantized_openvino_model(model, None, folder, dataset_name="glue")
    assert caught.value.hint == "give all four, or none"
