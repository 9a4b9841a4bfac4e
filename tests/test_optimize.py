"""`optimize`: what each level makes, that sentence-transformers gets the same vectors from it, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sentence_transformers
from external import with_external_data

from stopt import SentenceTransformer
from stopt.artifact import sha256
from stopt.convert.optimize import optimize
from stopt.convert.produce import Produced
from stopt.errors import (
    ArtifactError,
    ConversionError,
    CorruptModel,
    OptionError,
    ParityError,
    UnsupportedModel,
)
from stopt.steps import Level, OptimizeOptions

Tiny = Callable[..., Path]

CHECK = ("one text", "and a longer one, with more words")
TEXTS = ["A short text.", "", "Another text, which is much longer than the first one.", "日本語"]
# the same file in the same engine; the batches are padded alike
SAME = 1e-6


def run(folder: Path, level: str = "O1", **options: Any) -> Produced:
    (made,) = optimize(folder, OptimizeOptions(Level(level), **{"check_texts": CHECK, **options}))
    return made


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def operators(file: Path) -> set[str]:
    return {node.op_type for node in onnx.load(file, load_external_data=False).graph.node}


def vectors(folder: Path, file: str) -> np.ndarray:
    return SentenceTransformer(folder, backend="onnx", model_kwargs={"file_name": file}).encode(TEXTS)


def theirs(folder: Path, file: str) -> np.ndarray:
    model = sentence_transformers.SentenceTransformer(
        str(folder),
        backend="onnx",
        model_kwargs={"file_name": file, "provider": "CPUExecutionProvider"},
        local_files_only=True,
    )
    return model.encode(TEXTS)


@pytest.fixture(scope="module")
def optimized(exported: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny BERT with files of all levels. Not to be changed."""
    folder = shutil.copytree(exported("bert"), tmp_path_factory.mktemp("optimized") / "model")
    for level in Level:
        run(folder, level)
    return folder


# ---- what is made ---------------------------------------------------------------------------------------------------


def test_a_file_per_level_is_added(optimized, exported) -> None:
    before, after = content(exported("bert")), content(optimized)
    made = {f"onnx/model_{level}.onnx" for level in Level}
    assert set(after) - set(before) == made
    assert {name for name in before if after[name] != before[name]} == {"stopt.json"}


@pytest.mark.parametrize(
    ("level", "precision", "fused"),
    [
        ("O1", "float32", set()),
        ("O2", "float32", {"Attention", "SkipLayerNormalization"}),
        ("O3", "approximate", {"Attention", "SkipLayerNormalization"}),
        ("O4", "float16", {"Attention", "SkipLayerNormalization", "Cast"}),
    ],
)
def test_each_level_is_what_it_says(optimized, level, precision, fused) -> None:
    file = f"onnx/model_{level}.onnx"
    record = json.loads((optimized / "stopt.json").read_text("utf-8"))["files"][file]
    assert record["precision"] == precision
    assert record["options"]["level"] == level
    assert record["options"]["source_file"] == "onnx/model.onnx"
    assert record["parity"]["passed"] is True
    assert fused <= operators(optimized / file)
    assert level != "O1" or "Attention" not in operators(optimized / file)


def test_gelu_is_approximated_from_the_third_level_on(optimized) -> None:
    found = [
        level
        for level in ("O1", "O2", "O3")
        if "FastGelu" in operators(optimized / f"onnx/model_{level}.onnx")
    ]
    assert found == ["O3"]


def test_fourth_level_takes_half_the_space(optimized) -> None:
    sizes = [(optimized / f"onnx/model_{level}.onnx").stat().st_size for level in ("O3", "O4")]
    assert sizes[1] < 0.6 * sizes[0]


# float16 has 11 bits of mantissa; approximated GELU is off by 1e-3 at most
@pytest.mark.parametrize(("level", "tolerance"), [("O1", 1e-5), ("O2", 1e-5), ("O3", 1e-2), ("O4", 2e-2)])
def test_vectors_stay_the_plain_ones(optimized, level, tolerance) -> None:
    expected = vectors(optimized, "onnx/model.onnx")
    found = vectors(optimized, f"onnx/model_{level}.onnx")
    assert np.abs(found - expected).max() < tolerance


@pytest.mark.parametrize("level", list(Level))
def test_sentence_transformers_has_the_same_vectors(optimized, level) -> None:
    file = f"onnx/model_{level}.onnx"
    assert np.abs(vectors(optimized, file) - theirs(optimized, file)).max() < SAME


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_first_level_works_where_there_are_no_fusions(exported, tmp_path, architecture) -> None:
    folder = shutil.copytree(exported(architecture), tmp_path / "model")
    before = content(folder)
    with pytest.raises(
        UnsupportedModel,
        match=r"^O2 for '\w+' is not supported: ONNX Runtime has fusions for albert, .*, bert, .* only",
    ) as caught:
        run(folder, "O2")
    assert caught.value.hint == "-O1 works on every architecture"
    assert content(folder) == before
    # Qwen3 is padded on the left: alone and in batches, the check compares both
    made = run(folder, "O1")
    assert made.file == "onnx/model_O1.onnx"
    assert made.parity.batch_cosine > 0.99999
    expected = vectors(folder, "onnx/model.onnx")
    assert np.abs(vectors(folder, made.file) - expected).max() < 1e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("level", ["O3", "O4"])
@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_higher_levels_are_refused_there(exported, tmp_path, architecture, level) -> None:
    with pytest.raises(UnsupportedModel, match=f"^{level} for .* is not supported"):
        run(exported(architecture), level, output=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_another_file_to_start_from(optimized, tmp_path) -> None:
    folder = shutil.copytree(optimized, tmp_path / "model")
    made = run(folder, "O2", source_file="onnx/model_O1.onnx")
    assert made.file == "onnx/model_O1_O2.onnx"
    assert "Attention" in operators(folder / made.file)


def test_source_of_a_file_can_be_another_folder(exported, tmp_path) -> None:
    made = run(exported("bert"), "O1", output=tmp_path / "model")
    assert made.folder == tmp_path / "model"
    assert [path.name for path in sorted((tmp_path / "model" / "onnx").iterdir())] == ["model_O1.onnx"]
    assert not (exported("bert") / "onnx/model_O1.onnx").exists()


# ---- data files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", list(Level))
def test_external_data_follows(exported, tmp_path, level) -> None:
    folder = with_external_data(exported("bert"), tmp_path / "model")
    before = content(folder)
    made = run(folder, level)
    after = content(folder)
    # the source and its data are as they were
    assert {name: after[name] for name in before} == before
    new = set(after) - set(before) - {"stopt.json"}
    assert new == {made.file, f"{made.file}.data"}
    parts = json.loads((folder / "stopt.json").read_text("utf-8"))["files"][made.file]["parts"]
    assert {name: part["sha256"] for name, part in parts.items()} == {name: after[name] for name in new}
    # nothing of the source's is needed
    (folder / "onnx/model.onnx").unlink()
    (folder / "onnx/model.onnx_data").unlink()
    assert np.abs(vectors(folder, made.file) - theirs(folder, made.file)).max() < SAME


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_source_that_is_not_there(tiny, exported) -> None:
    with pytest.raises(
        ArtifactError, match=r"has no onnx/model\.onnx, which onnx/model_O1\.onnx is made from"
    ) as caught:
        run(tiny("bert"))
    assert caught.value.hint == f"make it first: stopt export {tiny('bert')} --backend onnx"
    with pytest.raises(ArtifactError, match=r"has no onnx/modle\.onnx") as caught:
        run(exported("bert"), source_file="onnx/modle.onnx")
    assert caught.value.hint == "did you mean 'onnx/model.onnx'?"


@pytest.mark.parametrize("name", ["../model.onnx", "/tmp/model.onnx", "onnx/../../model.onnx"])
def test_source_outside_of_the_folder(exported, name) -> None:
    with pytest.raises(OptionError, match="is not in the model folder") as caught:
        run(exported("bert"), source_file=name)
    assert "such as onnx/model.onnx" in caught.value.hint


def test_source_of_another_engine(exported) -> None:
    with pytest.raises(OptionError, match=r"openvino_model\.xml is no \.onnx file") as caught:
        run(exported("bert"), source_file="openvino/openvino_model.xml")
    assert caught.value.hint == "such as onnx/model.onnx"


def test_source_in_float16(optimized) -> None:
    before = content(optimized)
    with pytest.raises(
        ConversionError, match=r"model_O4\.onnx has float16 weights; conversions start from float32"
    ) as caught:
        run(optimized, "O1", source_file="onnx/model_O4.onnx")
    assert caught.value.hint == "start from another file: --from FILE"
    assert content(optimized) == before


def test_source_that_is_no_graph(exported, tmp_path) -> None:
    folder = shutil.copytree(exported("bert"), tmp_path / "model")
    (folder / "onnx/model.onnx").write_bytes(b"no graph at all")
    before = content(folder)
    with pytest.raises(CorruptModel, match=r"onnx/model\.onnx is not an ONNX file") as caught:
        run(folder)
    assert caught.value.hint == "fetch the file again, or export it with `stopt export --force`"
    assert content(folder) == before


# ONNX Runtime's own temporary folder, which it leaves to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
def test_data_file_that_is_missing(exported, tmp_path) -> None:
    folder = with_external_data(exported("bert"), tmp_path / "model")
    (folder / "onnx/model.onnx_data").unlink()
    before = content(folder)
    for level in ("O1", "O3"):
        with pytest.raises(CorruptModel, match=r"model\.onnx_data is missing") as caught:
            run(folder, level)
        assert caught.value.hint == "fetch it again together with its data files"
        assert content(folder) == before


def test_existing_file_is_kept_unless_forced(optimized, tmp_path) -> None:
    folder = shutil.copytree(optimized, tmp_path / "model")
    (folder / "onnx/model_O1.onnx").write_bytes(b"someone's work")
    with pytest.raises(ArtifactError, match=r"model_O1\.onnx exists already") as caught:
        run(folder)
    assert "--force" in caught.value.hint
    run(folder, force=True)
    assert (folder / "onnx/model_O1.onnx").read_bytes() == (optimized / "onnx/model_O1.onnx").read_bytes()


@pytest.mark.parametrize("level", ["O1", "O3"])
def test_file_below_the_threshold_does_not_appear(exported, tmp_path, level) -> None:
    folder = shutil.copytree(exported("bert"), tmp_path / "model")
    before = content(tmp_path)
    with pytest.raises(ParityError, match="largest difference") as caught:
        run(folder, level, max_abs=0)
    assert caught.value.exit_code == 3
    assert "--max-abs" in caught.value.hint
    assert content(tmp_path) == before
