"""``stopt export`` as a command: what it prints, what it refuses, what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_result_names_the_file_and_its_parity(run, tiny_copy, few) -> None:
    model = tiny_copy("bert")
    before = files_of(model)
    result = run("export", model, "--check-texts", few)
    assert result.exit_code == 0
    (row,) = (line for line in result.stdout.splitlines() if "onnx/model.onnx" in line)
    assert str(model) in result.stdout
    assert "1.000000" in row
    assert f"Next: stopt check {model}" in result.stderr
    assert files_of(model) - before == {"onnx/model.onnx", "stopt.json"}


def test_json_has_the_figures(run, tiny_copy, few, one_document) -> None:
    model = tiny_copy("bert")
    document = one_document(run("export", model, "--check-texts", few, "--format", "json"))
    (made,) = document["result"]
    assert document["ok"] is True
    assert made["file"] == "onnx/model.onnx"
    assert made["size_bytes"] == (model / "onnx/model.onnx").stat().st_size
    assert made["parity"]["passed"] is True


def test_quiet_prints_the_path_alone(run, tiny_copy, few) -> None:
    model = tiny_copy("bert")
    result = run("export", model, "--check-texts", few, "-q")
    assert (result.stdout, result.stderr) == (f"{model / 'onnx/model.onnx'}\n", "")


def test_output_copies_the_model_and_leaves_the_source_alone(tiny, served) -> None:
    source = tiny("bert", prompts={"query": "query: ", "document": ""})
    assert files_of(source) < files_of(served)
    assert not (source / "stopt.json").exists()


def test_a_file_that_is_there_is_kept(run, served) -> None:
    before = (served / "onnx/model.onnx").read_bytes()
    result = run("export", served)
    assert result.exit_code == 1
    assert f"{served / 'onnx/model.onnx'} exists already" in result.stderr
    assert "Hint: replace it with --force" in result.stderr
    assert (served / "onnx/model.onnx").read_bytes() == before


def test_force_replaces_it(run, tiny_copy, few) -> None:
    model = tiny_copy("bert")
    (model / "onnx").mkdir()
    (model / "onnx/model.onnx").write_bytes(b"old")
    assert run("export", model, "--check-texts", few, "--force").exit_code == 0
    assert (model / "onnx/model.onnx").stat().st_size > 1000


def test_a_file_that_is_off_is_not_kept(run, tiny, few, tmp_path, one_document) -> None:
    output = tmp_path / "new" / "model"
    args = ("--check-texts", few, "--max-abs", "0", "--format", "json")
    result = run("export", tiny("bert"), "-o", output, *args)
    assert result.exit_code == 3
    assert one_document(result)["error"]["type"] == "ParityError"
    assert "largest difference" in result.stderr
    assert not output.parent.exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./nowhere", "./nowhere does not exist"),
        ("organisation/unknown", "organisation/unknown is neither cached nor reachable"),
        ("", "the empty path does not exist"),
    ],
)
def test_a_model_that_is_not_there(run, model, message) -> None:
    result = run("export", model)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Hint: name a model folder" in result.stderr


def test_a_folder_that_is_no_model(run, tmp_path) -> None:
    result = run("export", tmp_path)
    assert result.exit_code == 1
    assert "config.json is missing" in result.stderr
    assert list(tmp_path.glob("**/*.*")) == []


def test_a_corrupt_file_ends_with_4(run, tiny_copy) -> None:
    model = tiny_copy("bert")
    (model / "modules.json").write_text("[{", encoding="utf-8")
    result = run("export", model)
    assert result.exit_code == 4
    assert "modules.json is not valid JSON" in result.stderr


def test_an_output_that_cannot_be_written(run, tiny, few) -> None:
    result = run("export", tiny("bert"), "--check-texts", few, "-o", "/proc/nowhere")
    assert result.exit_code == 1
    assert "/proc/nowhere cannot be written to" in result.stderr
    assert "Hint: name another folder" in result.stderr


def test_without_the_extra_the_command_to_install_it_is_named(tmp_path, lean_site) -> None:
    site = lean_site("click", "numpy", "tokenizers", "safetensors", "huggingface_hub")
    (site / "stopt").symlink_to(Path(__file__).parents[2] / "stopt")
    done = subprocess.run(
        [sys.executable, "-S", "-m", "stopt", "export", str(tmp_path), "--format", "json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["type"] == "MissingExtra"
    assert done.stderr == "Error: torch is not installed\nHint: pip install 'stopt[convert]'\n"


def test_an_interrupt_leaves_nothing_behind(tiny_copy) -> None:
    model = tiny_copy("bert")
    before = files_of(model)
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "stopt", "export", str(model), "--backend", "openvino"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/1]"):
            break
    time.sleep(0.5)  # in the middle of the conversion
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.endswith("Interrupted.\n")
    assert files_of(model) == before
    assert not list(model.glob(".stopt-*"))
