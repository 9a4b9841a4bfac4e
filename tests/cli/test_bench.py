"""``stopt bench``: the table, its figures, the picture, and processes that die."""

import json
import shutil
import sys

import numpy as np
import pytest

from stopt.benchmarking import contenders, measuring
from stopt.benchmarking.child import Child
from stopt.benchmarking.report import cosines, difference, percentile
from stopt.errors import ArtifactError
from stopt.reading import read_spec
from stopt.spec import ModelKind

QUICK = ("--rounds", "1", "--seconds", "0")
ONNX = ("--file-name", "onnx/model.onnx", "--no-torch")


def test_every_file_is_a_row_beside_torch(run, served, few, tmp_path, one_document) -> None:
    picture = tmp_path / "speed.png"
    result = run("bench", served, "--texts", few, *QUICK, "--format", "json", "--plot", picture)
    assert result.exit_code == 0, result.stderr
    report = one_document(result)["result"]
    rows = {row["file"]: row for row in report["rows"]}
    assert set(rows) == {"model.safetensors", "onnx/model.onnx", "openvino/openvino_model.xml"}
    assert report["notes"] == []
    assert report["texts"] == 2
    for row in rows.values():
        assert row["mean_cosine"] >= row["min_cosine"] > 0.99
        assert row["texts_per_second"] > 0
        assert row["tokens_per_second"] == pytest.approx(row["texts_per_second"] * report["tokens"] / 2)
        assert 0 < row["latency_p50_ms"] <= row["latency_p95_ms"]
        assert row["start_s"] > 0
        assert 0 < row["start_memory_bytes"] <= row["peak_memory_bytes"]
        assert (len(row["samples"]["pass"]), len(row["samples"]["single"])) == (1, 2)
    torch, onnx = rows["model.safetensors"], rows["onnx/model.onnx"]
    assert torch["speedup"] == 1
    assert onnx["speedup"] == pytest.approx(onnx["texts_per_second"] / torch["texts_per_second"])
    assert onnx["size_bytes"] == (served / "onnx/model.onnx").stat().st_size
    # torch is not in the processes of the others
    assert onnx["start_memory_bytes"] < torch["start_memory_bytes"]
    speeds = [row["texts_per_second"] for row in report["rows"]]
    assert speeds == sorted(speeds, reverse=True)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_table_says_what_is_missing_without_torch(run, served, few) -> None:
    result = run("bench", served, "--texts", few, *QUICK, *ONNX)
    header, _, row, note, machine = result.stdout.splitlines()
    assert header.split()[:4] == ["file", "precision", "size", "texts/s"]
    assert row.split()[:2] == ["onnx/model.onnx", "float32"]
    assert row.split()[-2:] == ["-", "-"]
    assert note == "torch was left out: no cosine and no speed relative to it"
    assert machine.startswith("2 texts, ")


def test_quiet_is_the_fastest_files_name(run, served, few) -> None:
    result = run("bench", served, "--texts", few, *QUICK, *ONNX, "-q")
    assert (result.stdout, result.stderr) == ("onnx/model.onnx\n", "")


def test_a_precision_is_a_row_of_its_own(run, served, few, one_document) -> None:
    args = ("--file-name", "openvino_model.xml", "--dtype", "float32", "--no-torch", "--format", "json")
    (row,) = one_document(run("bench", served, "--texts", few, *QUICK, *args))["result"]["rows"]
    assert (row["file"], row["precision"]) == ("openvino/openvino_model.xml in float32", "float32")


@pytest.mark.parametrize(
    ("kind", "method"), [("dense", "encode"), ("sparse", "encode"), ("cross-encoder", "predict")]
)
def test_only_what_was_given_reaches_the_process(served, kind, method) -> None:
    options = contenders.BenchOptions(["model.onnx"], batch_size=7, threads=1, torch=False)
    (contender,), _ = contenders.choose(served, read_spec(served), options)
    request = contender.request(served, ModelKind(kind), options)
    assert (request["method"], request["call"]) == (method, {"batch_size": 7})
    assert request["init"]["threads"] == 1
    assert "device" not in request["init"]


def test_a_sparse_encoders_vectors_are_compared_as_wide_as_they_are(run, exported, few, one_document) -> None:
    args = ("--file-name", "onnx/model.onnx", "--texts", few, "--format", "json")
    report = one_document(run("bench", exported("bert", kind="splade"), *QUICK, *args))["result"]
    assert {row["file"] for row in report["rows"]} == {"model.safetensors", "onnx/model.onnx"}
    assert all(row["min_cosine"] > 0.99999 for row in report["rows"])


def test_a_cross_encoder_scores_pairs(run, exported, tmp_path) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("a question\tan answer\nanother\tand its own\nthird\tlast\n", encoding="utf-8")
    args = ("--file-name", "onnx/model.onnx", "--texts", pairs)
    result = run("bench", exported("bert", kind="cross-encoder"), *QUICK, *args)
    header, _, *rows = result.stdout.splitlines()[:4]
    assert header.endswith("same order")
    assert [row.split()[-1] for row in rows] == ["1.0000", "1.0000"]
    assert "3 texts, " in result.stdout


# ---- what cannot be measured ----------------------------------------------------------------------------------------


def test_an_engine_that_is_missing_is_noted(run, served, few, monkeypatch) -> None:
    find = contenders.find_spec
    monkeypatch.setattr(contenders, "find_spec", lambda name: None if name == "openvino" else find(name))
    result = run("bench", served, "--texts", few, *QUICK, "--no-torch")
    assert result.exit_code == 0
    assert (
        "openvino/openvino_model.xml is not measured: openvino is not installed (pip install 'stopt[openvino]')\n"
        in result.stdout
    )
    named = run("bench", served, "--texts", few, *QUICK, "--file-name", "openvino_model.xml")
    assert named.exit_code == 1
    assert named.stderr == "Error: openvino is not installed\nHint: pip install 'stopt[openvino]'\n"


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        ("torch", "no cosine to torch: torch is not installed (pip install 'stopt[torch]')"),
        ("transformers", "no cosine to torch: transformers is not installed (pip install 'stopt[torch]')"),
    ],
)
def test_torch_that_is_missing_is_noted(served, monkeypatch, missing, note) -> None:
    find = contenders.find_spec
    monkeypatch.setattr(contenders, "find_spec", lambda name: None if name == missing else find(name))
    chosen, notes = contenders.choose(served, read_spec(served), contenders.BenchOptions())
    assert [each.name for each in chosen] == ["onnx/model.onnx", "openvino/openvino_model.xml"]
    assert notes == [note]


def test_a_model_without_files_names_the_command_that_makes_one(run, tiny) -> None:
    result = run("bench", tiny("bert"))
    assert result.exit_code == 1
    assert "has no converted file to measure\nHint: make one: stopt export " in result.stderr


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("onnx/modle.onnx", "its onnx files: onnx/model.onnx", "did you mean 'onnx/model.onnx'?"),
        ("model.bin", "neither an .onnx nor an .xml file", "stopt inspect"),
    ],
)
def test_a_file_that_is_not_there(run, served, name, message, hint) -> None:
    result = run("bench", served, "--file-name", name)
    assert result.exit_code == 1
    assert message in result.stderr
    assert hint in result.stderr


def test_a_file_cut_short_ends_with_4(run, served, few, tmp_path) -> None:
    folder = shutil.copytree(served, tmp_path / "model")
    content = (folder / "onnx/model.onnx").read_bytes()
    (folder / "onnx/model.onnx").write_bytes(content[: len(content) // 2])
    result = run("bench", folder, "--texts", few, *QUICK, *ONNX)
    assert result.exit_code == 4
    assert "onnx/model.onnx" in result.stderr
    assert "Hint: " in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL", "is there enough memory for it?"),
        (
            "import sys; sys.exit('no such instruction')",
            "ended with exit code 1: no such instruction",
            "leave it out: name only the others",
        ),
    ],
)
def test_a_process_that_dies_is_an_error_that_names_the_file(
    run, served, few, monkeypatch, code, message, hint
) -> None:
    monkeypatch.setattr(measuring, "command", lambda request: [sys.executable, "-c", code])
    result = run("bench", served, "--texts", few, *QUICK, *ONNX)
    assert result.exit_code == 1
    assert f"Error: the process that measured onnx/model.onnx {message}" in result.stderr
    assert f"Hint: {hint}\n" in result.stderr


# ---- the picture ----------------------------------------------------------------------------------------------------


def test_a_picture_without_matplotlib_is_refused_before_the_work(run, served, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("bench", served, "--plot", tmp_path / "speed.png")
    assert result.exit_code == 1
    assert result.stderr == "Error: matplotlib is not installed\nHint: pip install 'stopt[plot]'\n"


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("speed.txt", "is no picture that can be drawn", "the name ends in .png, .svg, .pdf"),
        ("nowhere/speed.png", "there is no folder", "make it, or name another place"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_said_before_the_work(
    run, served, tmp_path, name, message, hint
) -> None:
    result = run("bench", served, "--plot", tmp_path / name)
    assert result.exit_code == 1
    assert message in result.stderr
    assert hint in result.stderr
    assert "starting" not in result.stderr


# ---- the process under measurement ----------------------------------------------------------------------------------

NOISY = """
import os, sys
from stopt.benchmarking.worker import serve
def load():
    print("a library greets")
    os.write(1, b"and one below Python too")
    return lambda texts: [len(text) for text in texts], {"file": "none"}
serve(load, ["first"])
"""


def test_what_libraries_print_does_not_disturb_the_answers() -> None:
    with Child("noisy", [sys.executable, "-c", NOISY]) as child:
        assert child.about == {"file": "none"}
        child.ask({"do": "inputs", "inputs": ["a", ["b", "c"]]})
        assert len(child.ask({"do": "calls", "calls": [[0], [1], [0, 1]]})["seconds"]) == 3
        assert len(child.ask({"do": "all", "seconds": 0})["seconds"]) == 1


def test_a_process_that_dies_between_questions_says_why() -> None:
    with (
        Child("noisy", [sys.executable, "-c", NOISY]) as child,
        pytest.raises(ArtifactError, match=r"measured noisy ended with exit code 1.*unknown request 'sing'"),
    ):
        child.ask({"do": "sing"})


def test_modules_in_the_current_folder_are_not_imported(run, served, few, tmp_path, monkeypatch) -> None:
    for name in ("numpy", "stopt", "tokenizers"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('code of the model ran')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run("bench", served, "--texts", few, *QUICK, *ONNX, "-q").exit_code == 0


def test_figures_are_taken_as_documented() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 3.0
    assert percentile([1.0, 2.0], 95) == 2.0
    rows = np.array([[1.0, 0.0], [1.0, 1.0], [np.nan, 1.0]])
    assert cosines(rows, np.array([[2.0, 0.0], [-1.0, -1.0], [1.0, 1.0]])) == pytest.approx([1, -1, -1])
    scores = np.array([0.1, 0.9, 0.5])
    assert difference(scores, scores * 2, scores=True) == {"same_order": pytest.approx(1)}
    assert difference(scores, -scores, scores=True) == {"same_order": pytest.approx(-1)}
    assert difference(scores[:1], scores[:1], scores=True) == {"same_order": None}
    assert difference(scores * 0, scores * 0, scores=True) == {"same_order": None}
    assert json.dumps(cosines(rows, rows).tolist(), allow_nan=False)
