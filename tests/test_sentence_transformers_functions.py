"""The three export functions of sentence-transformers, called as its scripts call them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import stopt
from stopt import OptionError, SentenceTransformer

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
    with pytest.raises(OptionError, match="pushing while converting is not supported") as caught:
        stopt.export_optimized_onnx_model(model, "O1", folder, push_to_hub=True)
    assert "upload" in caught.value.hint


def test_half_of_the_data_set_arguments_are_refused(folder: Path) -> None:
    model = SentenceTransformer(folder, backend="openvino")
    with pytest.raises(OptionError, match="some of dataset_name") as caught:
        stopt.export_static_quantized_openvino_model(model, None, folder, dataset_name="glue")
    assert caught.value.hint == "give all four, or none"
