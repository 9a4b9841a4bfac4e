"""Serving needs no torch: neither installed nor, where it is, imported."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from installed import run_without

from stopt import SentenceTransformer

HEAVY = {"torch", "transformers", "optimum", "nncf", "onnx", "sentence_transformers", "datasets", "scipy"}
TEXTS = ["Serving needs no torch.", "", "日本語の文", "word " * 300]

LOADED = "import sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
ENCODE = """
import json, sys
from stopt import SentenceTransformer
folder, options, texts = json.loads(sys.argv[1])
print(json.dumps(SentenceTransformer(folder, **options).encode(texts).tolist()))
print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))
"""
ENGINES = {
    "onnx": {"backend": "onnx"},
    "openvino": {"backend": "openvino", "model_kwargs": {"dtype": "float32"}},
}
# float32 in another order of additions
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def exported(exported: Callable[..., Path]) -> Path:
    """A model with both plain files and its weights. Not to be changed."""
    return exported("bert", dense=16)


@pytest.mark.parametrize("engine", ENGINES)
def test_encoding_works_where_torch_is_not_installed(exported: Path, tmp_path: Path, engine: str) -> None:
    arguments = json.dumps([str(exported), ENGINES[engine], TEXTS])
    done = run_without(HEAVY, tmp_path, "-c", ENCODE, arguments)
    assert done.returncode == 0, done.stderr
    vectors, loaded = map(json.loads, done.stdout.splitlines())
    assert not HEAVY & set(loaded)
    expected = SentenceTransformer(exported, backend="torch", device="cpu").encode(TEXTS)
    assert np.abs(np.array(vectors) - expected).max() < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_torch_is_not_imported_where_it_is_installed(exported: Path, engine: str) -> None:
    arguments = json.dumps([str(exported), ENGINES[engine], TEXTS])
    done = subprocess.run(
        [sys.executable, "-c", ENCODE, arguments], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    other = {"onnx": "openvino", "openvino": "onnxruntime"}[engine]
    assert not (HEAVY | {other, "click", "tqdm"}) & loaded
    assert "numpy" in loaded


def test_importing_stopt_imports_nothing_heavy() -> None:
    code = f"import stopt; stopt.__all__; {LOADED}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    heavy = HEAVY | {"numpy", "onnxruntime", "openvino", "click", "tokenizers", "huggingface_hub"}
    assert not heavy & set(json.loads(done.stdout))
