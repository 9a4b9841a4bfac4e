"""Architectures that exporters have trouble with: converted another way, or refused by name."""

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer as Original
from sweep_models import build

import stopt
from stopt.artifact import Manifest
from stopt.convert.export import export
from stopt.errors import ConversionError
from stopt.spec import Backend
from stopt.steps import ExportOptions

TEXTS = ["fox", "The quick brown fox jumps over the lazy dog.", "What is the capital of France? Paris."]


@pytest.mark.parametrize("name", ["mistral", "phi3"])
def test_a_decoder_that_openvino_cannot_trace_goes_through_onnx(tmp_path: Path, name: str) -> None:
    folder = build(tmp_path / name, name)
    export(folder, ExportOptions(backends=(Backend.OPENVINO,)))
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert manifest.files["openvino/openvino_model.xml"].options["exported_through"] == "onnx"
    expected = Original(str(folder), device="cpu").encode(TEXTS)
    found = stopt.SentenceTransformer(str(folder), backend="openvino", device="cpu").encode(TEXTS)
    assert np.abs(np.asarray(found) - expected).max() < 1e-4


@pytest.mark.parametrize("backend", [Backend.ONNX, Backend.OPENVINO])
def test_an_export_that_holds_for_one_length_only_is_refused_by_name(
    tmp_path: Path, backend: Backend
) -> None:
    folder = build(tmp_path / "longformer", "longformer")
    with pytest.raises(ConversionError, match=f"'longformer' does not convert to {backend.value}") as raised:
        export(folder, ExportOptions(backends=(backend,)))
    assert "backend='torch'" in raised.value.hint
    assert not (folder / backend.value).exists()
