"""``stopt inspect``: a model described without running it."""

import json
import shutil
import subprocess
import sys

import pytest


def test_a_model_is_described(run, served) -> None:
    result = run("inspect", served)
    assert result.exit_code == 0
    lines = dict(line.split("  ", 1) for line in result.stdout.partition("\n\n")[0].splitlines())
    described = {name.strip(): value.strip() for name, value in lines.items()}
    assert described["model"] == str(served)
    assert described["transformer"] == "bert, 32 values per token"
    assert described["modules"] == "Transformer -> Pooling(mean)"
    assert described["max tokens"] == "128"
    assert "query='query: '" in described["prompts"]
    assert not result.stderr


def test_files_come_with_size_and_parity(run, served) -> None:
    table = run("inspect", served).stdout.partition("\n\n")[2].splitlines()
    assert [line.split()[0] for line in table[2:]] == ["onnx/model.onnx", "openvino/openvino_model.xml"]
    assert all(line.split()[-1] == "1.000000" for line in table[2:])


def test_files_of_others_are_said_to_be_unchecked(run, served, tmp_path) -> None:
    folder = shutil.copytree(served, tmp_path / "model")
    (folder / "stopt.json").unlink()
    assert run("inspect", folder).stdout.count("not checked by stopt") == 2


def test_modules_are_shown_with_what_matters(run, tiny) -> None:
    folder = tiny(
        "bert", pooling=("cls", "mean"), include_prompt=False, dense=8, normalize=True, truncate_dim=4
    )
    shown = run("inspect", folder).stdout
    assert "Transformer -> Pooling(cls + mean, without prompt) -> Dense(64 -> 8, Tanh) -> Normalize" in shown
    assert "8, truncated to 4" in shown
    assert f"no converted files; make one: stopt export {folder}" in shown


def test_json_is_the_whole_spec(run, served, one_document) -> None:
    result = one_document(run("inspect", served, "--format", "json"))["result"]
    assert result["source"] == str(served)
    assert result["spec"]["transformer"]["model_type"] == "bert"
    assert [each["file"] for each in result["files"]] == ["onnx/model.onnx", "openvino/openvino_model.xml"]
    assert result["files"][0]["parity"]["min_cosine"] > 0.9999


def test_quiet_is_the_kind(run, served) -> None:
    assert run("inspect", served, "-q").stdout == "dense\n"


def test_no_engine_is_imported(served) -> None:
    code = (
        "import sys\nfrom stopt.cli.main import cli\n"
        f"cli(['inspect', {str(served)!r}, '-q'], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'onnxruntime', 'openvino', 'optimum'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "dense\n[]\n"


def test_a_manifest_that_points_elsewhere_is_untrusted(run, served, tmp_path) -> None:
    folder = shutil.copytree(served, tmp_path / "model")
    manifest = json.loads((folder / "stopt.json").read_text(encoding="utf-8"))
    parts = manifest["files"]["onnx/model.onnx"]["parts"]
    parts["../../secret"] = parts["onnx/model.onnx"]
    (folder / "stopt.json").write_text(json.dumps(manifest), encoding="utf-8")
    result = run("inspect", folder)
    assert result.exit_code == 4
    assert "leaves the model folder" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["./nowhere"], "./nowhere does not exist"),
        (["org/name@"], "names no revision after the @"),
        (["org/name@a", "--revision", "b"], "name different revisions"),
        (["not a name/x"], "it is no Hub id either"),
    ],
)
def test_a_model_that_cannot_be_found(run, args, message) -> None:
    result = run("inspect", *args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Hint: " in result.stderr


def test_a_repository_shows_what_it_has_before_that_is_fetched(run, served, fake_hub, one_document) -> None:
    paths = [path for path in served.rglob("*") if path.is_file()]
    files = {path.relative_to(served).as_posix(): path.read_bytes() for path in paths}
    fake_hub.model("org/name", {**files, "onnx/model_O3.onnx": b"x" * 2_000, "openvino/other.xml": b"x"})
    commit = fake_hub.repos["org/name"].commits[0].oid
    result = run("inspect", "org/name")
    assert result.exit_code == 0, result.stderr
    assert f"org/name at {commit}" in result.stdout
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line}
    assert lines["onnx/model_O3.onnx"][1:] == ["2.0", "kB", "not", "checked", "by", "stopt", "no"]
    assert lines["onnx/model.onnx"][-2:] == ["1.000000", "no"]
    document = one_document(run("inspect", "org/name", "--format", "json"))["result"]
    sizes = {file["file"]: file["size_bytes"] for file in document["files"]}
    assert sizes["openvino/openvino_model.xml"] == sum(
        len(files[f"openvino/openvino_model.{ending}"]) for ending in ("xml", "bin")
    )
    assert not fake_hub.asked(r"\.(onnx|bin|xml|safetensors)")
