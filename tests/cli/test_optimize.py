"""``stopt optimize`` as a command: its flags, what it prints, what it refuses."""

import shutil

import pytest


@pytest.fixture
def model(served, tmp_path):
    """A tiny model with both plain files, to be changed at will."""
    return shutil.copytree(served, tmp_path / "model")


@pytest.mark.parametrize(
    "flag", [["-O3"], ["-O", "O3"], ["-O", "3"], ["--optimize", "O3"], ["--optimize=O3"]]
)
def test_every_spelling_of_the_level(run, model, few, flag) -> None:
    result = run("optimize", model, *flag, "--check-texts", few)
    assert result.exit_code == 0
    assert str(model / "onnx/model_O3.onnx") in result.stdout
    assert "as O2, with GELU approximated" in result.stderr
    assert f"Next: stopt check {model}" in result.stderr


def test_the_fourth_level_says_what_it_is_for(run, model, few) -> None:
    result = run("optimize", model, "-O4", "--check-texts", few)
    assert result.exit_code == 0
    assert "float16: for GPUs" in result.stderr


def test_json_has_the_figures(run, model, few, one_document) -> None:
    document = one_document(run("optimize", model, "-O1", "--check-texts", few, "--format", "json"))
    (made,) = document["result"]
    assert (document["ok"], made["file"]) == (True, "onnx/model_O1.onnx")
    assert made["parity"]["passed"] is True
    assert made["size_bytes"] == (model / made["file"]).stat().st_size


def test_quiet_prints_the_path_alone(run, model, few) -> None:
    result = run("optimize", model, "-O1", "--check-texts", few, "-q")
    assert (result.stdout, result.stderr) == (f"{model / 'onnx/model_O1.onnx'}\n", "")


def test_the_model_is_the_current_folder(run, model, few, monkeypatch) -> None:
    monkeypatch.chdir(model)
    assert run("optimize", "-O1", "--check-texts", few, "-q").stdout == "onnx/model_O1.onnx\n"


def test_another_file_to_start_from(run, model, few) -> None:
    assert run("optimize", model, "-O1", "--check-texts", few).exit_code == 0
    result = run("optimize", model, "-O2", "--from", "onnx/model_O1.onnx", "--check-texts", few, "-q")
    assert result.stdout == f"{model / 'onnx/model_O1_O2.onnx'}\n"


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        ([], "no level given", "-O1, -O2, -O3 or -O4"),
        (["-O1", "--from", "onnx/modle.onnx"], "has no onnx/modle.onnx", "did you mean 'onnx/model.onnx'?"),
        (
            ["-O1", "--from", "../model.onnx"],
            "../model.onnx is not in the model folder",
            "such as onnx/model.onnx",
        ),
        (
            ["-O1", "--from", "openvino/openvino_model.xml"],
            "openvino/openvino_model.xml is no .onnx file",
            "such as onnx/model.onnx",
        ),
    ],
)
def test_what_is_refused(run, served, args, message, hint) -> None:
    result = run("optimize", served, *args)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert hint in result.stderr.splitlines()[-1]


def test_an_unknown_level_is_wrong_usage(run, served) -> None:
    result = run("optimize", served, "-O5")
    assert result.exit_code == 2
    assert "'5' is not one of 'O1', 'O2', 'O3', 'O4'" in result.stderr


def test_a_model_without_a_file(run, tiny) -> None:
    result = run("optimize", tiny("bert"), "-O1")
    assert result.exit_code == 1
    assert f"Hint: make it first: stopt export {tiny('bert')} --backend onnx" in result.stderr


def test_an_architecture_without_fusions(run, exported, tmp_path, few) -> None:
    result = run("optimize", exported("qwen3"), "-O3", "-o", tmp_path / "out", "--check-texts", few)
    assert result.exit_code == 1
    assert "O3 for 'qwen3' is not supported: ONNX Runtime has fusions for albert" in result.stderr
    assert "Hint: -O1 works on every architecture" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_off_ends_with_3(run, model, few, one_document) -> None:
    result = run("optimize", model, "-O1", "--check-texts", few, "--max-abs", "0", "--format", "json")
    assert result.exit_code == 3
    assert one_document(result)["error"]["type"] == "ParityError"
    assert not (model / "onnx/model_O1.onnx").exists()


def test_a_file_that_is_there_is_kept_unless_forced(run, model, few) -> None:
    (model / "onnx/model_O1.onnx").write_bytes(b"old")
    assert "exists already" in run("optimize", model, "-O1").stderr
    assert run("optimize", model, "-O1", "-f", "--check-texts", few).exit_code == 0
    assert (model / "onnx/model_O1.onnx").stat().st_size > 1000
