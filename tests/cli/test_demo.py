"""``stopt demo``: the main job on the real model, from the wheel to the most similar pair."""

import json
import shutil
from pathlib import Path

import pytest

FILES = ["onnx/model.onnx", "openvino/openvino_model.xml", "openvino/openvino_model_qint8_quantized.xml"]
# smallest cosine to torch over 48 texts in 30 languages: exact, exact, and int8 of an English model (measured .974)
SMALLEST = [0.99999, 0.99999, 0.96]


def test_a_newcomer_sees_files_parity_and_what_to_do_next(demoed: Path) -> None:
    folder = demoed / "all-MiniLM-L6-v2"
    header, _, *rest = (demoed.parent / "stdout").read_text(encoding="utf-8").splitlines()
    assert header.split("  ")[0] == "file"
    assert [line.split()[0] for line in rest[:3]] == FILES
    assert "most similar of 8 sentences (0.680):" in rest
    assert "  How do I reset my password?" in rest
    assert f"  stopt check {folder}" in rest
    assert "[1/3] making onnx/model.onnx" in (demoed.parent / "stderr").read_text(encoding="utf-8")


def test_the_files_are_there_and_recorded(demoed: Path) -> None:
    folder = demoed / "all-MiniLM-L6-v2"
    manifest = json.loads((folder / "stopt.json").read_text(encoding="utf-8"))
    for name, smallest in zip(FILES, SMALLEST, strict=True):
        assert (folder / name).is_file()
        assert manifest["files"][name]["parity"]["min_cosine"] > smallest


def test_a_second_run_reuses_them(demoed: Path, run, one_document) -> None:
    file = demoed / "all-MiniLM-L6-v2/onnx/model.onnx"
    made = file.stat().st_mtime_ns
    result = run("demo", "-o", demoed, "--format", "json")
    assert "has been exported and checked before" in result.stderr
    assert file.stat().st_mtime_ns == made
    found = one_document(result)["result"]
    assert [each["file"] for each in found["files"]] == FILES
    assert all(each["texts_per_second"] > 0 for each in found["files"])
    assert found["most_similar"]["score"] == pytest.approx(0.680, abs=2e-3)
    assert found["folder"] == str(demoed / "all-MiniLM-L6-v2")


@pytest.mark.slow  # exports once more
def test_a_damaged_file_is_made_again(demoed: Path, run, tmp_path: Path) -> None:
    output = shutil.copytree(demoed, tmp_path / "stopt-demo")
    file = output / "all-MiniLM-L6-v2/onnx/model.onnx"
    file.write_bytes(file.read_bytes()[:1000])
    result = run("demo", "-o", output, "-q")
    assert result.exit_code == 0
    assert result.stdout == f"{output / 'all-MiniLM-L6-v2'}\n"
    assert file.stat().st_size > 80_000_000
