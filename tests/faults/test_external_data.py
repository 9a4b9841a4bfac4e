"""F15: weights in files of their own, through every conversion, to the Hub and back out of its cache of links."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from external import with_external_data

from stopt import (
    DynamicOptions,
    ExportOptions,
    OptimizeOptions,
    PushOptions,
    SentenceTransformer,
    export,
    optimize,
    push,
    quantize,
)
from stopt.preflight import data_names, vet_onnx
from stopt.spec import Backend
from stopt.steps import Level, Target

pytestmark = pytest.mark.scorecard("F15")

REPO = "someone/large"
TEXTS = ["one text", "and a longer one, with more words in it"]
PLAIN = "onnx/model.onnx"
ROUNDING = {"onnx/model_O4.onnx": 1e-2}


@pytest.fixture(scope="module")
def large(exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose plain graph has its weights beside it, and what conversions make of that."""
    folder = with_external_data(exported("bert"), tmp_path_factory.mktemp("large") / "model")
    for level in (Level.O1, Level.O2, Level.O3, Level.O4):
        optimize(folder, OptimizeOptions(level, check_texts=TEXTS))
    quantize(folder, DynamicOptions(Target.AVX2, check_texts=TEXTS))
    export(folder, ExportOptions((Backend.OPENVINO,), check_texts=TEXTS))
    return folder


def graphs(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("onnx/*.onnx"))


def test_every_conversion_keeps_its_data(large) -> None:
    assert len(graphs(large)) == 6
    for name in graphs(large):
        assert vet_onnx(large / name).data == tuple(data_names(large / name))
    assert data_names(large / "onnx/model_O3.onnx"), (
        "small enough to be in the graph: this test tests nothing"
    )


def test_what_was_pushed_is_complete_and_opens_from_a_cache_of_links(fake_hub, large) -> None:
    push(large, REPO, PushOptions(unchecked=True))
    pushed = fake_hub.repos[REPO].files
    for name in graphs(large):
        for data in (name, *(f"onnx/{each}" for each in data_names(large / name))):
            assert pushed[data] == (large / data).read_bytes()
    for name in [*graphs(large), "openvino/openvino_model.xml"]:
        options = {"model_kwargs": {"file_name": name}}
        there = SentenceTransformer(REPO, **options)
        assert there.file.is_symlink()
        here = SentenceTransformer(large, **options)
        # through links, modules run in numpy, not in the graph; 16-bit floats and 8-bit integers round otherwise
        assert np.abs(there.encode(TEXTS) - here.encode(TEXTS)).max() < ROUNDING.get(name, 1e-5), name


def test_data_of_any_name_is_fetched_and_nothing_else(fake_hub, large, tmp_path) -> None:
    graph = onnx.load(large / PLAIN)
    onnx.save_model(
        graph, tmp_path / "model.onnx", save_as_external_data=True, location="9f86-[d0]81", size_threshold=0
    )
    names = [
        "config.json",
        "modules.json",
        "tokenizer.json",
        "1_Pooling/config.json",
        "2_Normalize/config.json",
    ]
    files = {name: (large / name).read_bytes() for name in names if (large / name).is_file()}
    graph_files = {f"onnx/{name}": (tmp_path / name).read_bytes() for name in ("model.onnx", "9f86-[d0]81")}
    fake_hub.model(
        REPO, {**files, **graph_files, "onnx/9f86-d81": b"another", "onnx/model_O3.onnx_data": b"x"}
    )
    there = SentenceTransformer(REPO, backend="onnx")
    here = SentenceTransformer(large, backend="onnx")
    assert np.abs(there.encode(TEXTS) - here.encode(TEXTS)).max() < 1e-5
    assert len(fake_hub.asked("^GET /api")) == 1
    assert not fake_hub.asked("9f86-d81|O3")
