"""``stopt check``: the table, thresholds, texts and reports."""

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest


def test_every_file_is_a_row(run, served, few) -> None:
    result = run("check", served, "--texts", few)
    assert result.exit_code == 0
    header, rule, onnx, openvino = result.stdout.splitlines()
    assert header.split() == [
        "file",
        "precision",
        "cosine",
        "min",
        "mean",
        "max",
        "error",
        "same",
        "neighbours",
        "alone/batch",
        "verdict",
    ]
    assert set(rule) == {"-", " "}
    assert onnx.split()[:3] == ["onnx/model.onnx", "float32", "1.000000"]
    assert openvino.split()[0] == "openvino/openvino_model.xml"
    assert [onnx.split()[-1], openvino.split()[-1]] == ["ok", "ok"]


def test_the_current_folder_is_the_default(run, served, few, monkeypatch) -> None:
    monkeypatch.chdir(served)
    assert "onnx/model.onnx" in run("check", "--texts", few).stdout


def test_one_file_can_be_named(run, served, few, one_document) -> None:
    result = run("check", served, "--texts", few, "--file-name", "openvino_model.xml", "--format", "json")
    (report,) = one_document(result)["result"]
    assert report["candidate"] == "openvino/openvino_model.xml"
    assert report["passed"] is True
    assert report["texts"] == 5


def test_openvino_runs_in_the_precision_that_is_asked_for(run, served, few, one_document) -> None:
    args = ("--file-name", "openvino_model.xml", "--texts", few, "--dtype", "float32", "--format", "json")
    (report,) = one_document(run("check", served, *args))["result"]
    assert report["precision"] == "float32"
    assert report["min_cosine"] > 0.999999


def test_quiet_is_one_word(run, served, few) -> None:
    result = run("check", served, "--texts", few, "--file-name", "model.onnx", "-q")
    assert (result.stdout, result.stderr) == ("ok\n", "")


# ---- failing --------------------------------------------------------------------------------------------------------


@pytest.fixture
def wrong(served: Path, tiny, tmp_path: Path) -> Path:
    """A model whose files have been made from other weights."""
    folder = shutil.copytree(served, tmp_path / "wrong")
    shutil.copyfile(tiny("bert", seed=99) / "model.safetensors", folder / "model.safetensors")
    return folder


def test_another_models_file_ends_with_3(run, wrong, few) -> None:
    result = run("check", wrong, "--texts", few, "--file-name", "model.onnx")
    assert result.exit_code == 3
    assert "FAILED" in result.stdout
    assert "onnx/model.onnx: worst text " in result.stdout
    assert "Error: onnx/model.onnx is not the model that torch runs: smallest cosine" in result.stderr
    assert "Hint: " in result.stderr


def test_a_failure_is_one_json_document_with_every_report(run, wrong, few, one_document) -> None:
    result = run("check", wrong, "--texts", few, "--format", "json")
    assert result.exit_code == 3
    document = one_document(result)
    assert document["ok"] is False
    assert document["error"]["type"] == "ParityError"
    assert [report["passed"] for report in document["result"]] == [False, False]
    assert any("smallest cosine" in failure for failure in document["result"][0]["failures"])


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        (("--min-cosine", "1"), "smallest cosine 0.999999"),
        (("--max-abs", "0"), "largest difference "),
    ],
)
def test_thresholds_can_be_tightened(run, served, few, threshold, message) -> None:
    result = run("check", served, "--texts", few, "--file-name", "model.onnx", *threshold)
    assert result.exit_code == 3
    assert message in result.stderr


def test_thresholds_can_be_loosened(run, wrong, few) -> None:
    loose = ("--min-cosine", "-1", "--max-abs", "1000")
    assert run("check", wrong, "--texts", few, *loose).exit_code == 0


def test_junit_has_a_case_per_file_and_what_failed(run, wrong, few, tmp_path) -> None:
    report = tmp_path / "parity.xml"
    assert run("check", wrong, "--texts", few, "--junit", report).exit_code == 3
    suite = ElementTree.parse(report).getroot()
    assert (suite.tag, suite.get("tests"), suite.get("failures")) == ("testsuite", "2", "2")
    names = [case.get("name") for case in suite.iter("testcase")]
    assert names == ["onnx/model.onnx", "openvino/openvino_model.xml"]
    assert "smallest cosine" in suite.find("testcase/failure").get("message")
    assert float(suite.find(".//property[@name='min_cosine']").get("value")) < 0.99


def test_junit_of_a_pass_has_no_failure(run, served, few, tmp_path) -> None:
    report = tmp_path / "parity.xml"
    report.write_text("old", encoding="utf-8")
    assert run("check", served, "--texts", few, "--file-name", "model.onnx", "--junit", report).exit_code == 0
    suite = ElementTree.parse(report).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.find(".//failure")) == ("1", "0", None)


def test_junit_that_cannot_be_written_is_said_before_the_work(run, served, tmp_path) -> None:
    result = run("check", served, "--junit", tmp_path / "nowhere" / "parity.xml")
    assert result.exit_code == 1
    assert "there is no folder" in result.stderr
    assert "running" not in result.stderr


# ---- texts ----------------------------------------------------------------------------------------------------------


def test_texts_of_jsonl(run, served, tmp_path, one_document) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "one"}\n\n{"text": "two", "id": 2}\n', encoding="utf-8")
    args = ("--texts", file, "--file-name", "model.onnx", "--format", "json")
    assert one_document(run("check", served, *args))["result"][0]["texts"] == 2 + 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "cannot be read: No such file"),
        ("empty.txt", b"", "has no text in it"),
        ("blank.txt", b"\n  \n", "has no text in it"),
        ("latin.txt", "schön".encode("latin-1"), "is not UTF-8 text: "),
        ("other.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2 of "),
        ("broken.jsonl", b"{", "line 1 of "),
    ],
)
def test_texts_that_cannot_be_used(run, served, tmp_path, name, content, message) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    result = run("check", served, "--texts", file)
    assert result.exit_code == 1
    assert name in result.stderr
    assert message in result.stderr
    assert "Hint: " in result.stderr
    assert not result.stdout


# ---- nothing to check -----------------------------------------------------------------------------------------------


def test_a_model_without_files_names_the_command_that_makes_one(run, tiny) -> None:
    result = run("check", tiny("bert"))
    assert result.exit_code == 1
    assert f"{tiny('bert')} has no converted file to check\nHint: make one: stopt export " in result.stderr


def test_a_folder_that_is_no_model_is_called_that(run, tmp_path) -> None:
    result = run("check", tmp_path)
    assert result.exit_code == 1
    assert "config.json is missing" in result.stderr


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("onnx/modle.onnx", "its onnx files: onnx/model.onnx", "did you mean 'onnx/model.onnx'?"),
        ("model.bin", "neither an .onnx nor an .xml file", "stopt inspect"),
        ("../model.onnx", "leaves the model folder", ""),
    ],
)
def test_a_file_that_is_not_there(run, served, name, message, hint) -> None:
    result = run("check", served, "--file-name", name)
    assert result.exit_code == (4 if name.startswith("..") else 1)
    assert message in result.stderr
    assert hint in result.stderr


def test_a_link_out_of_the_folder_is_not_opened(run, served, tmp_path) -> None:
    folder = shutil.copytree(served, tmp_path / "model")
    (folder / "onnx/model.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "onnx/model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    result = run("check", folder)
    assert result.exit_code == 4
    assert "outside the model folder" in result.stderr


@pytest.mark.parametrize(
    "name", ["onnx/model.onnx", "openvino/openvino_model.xml", "openvino/openvino_model.bin"]
)
def test_a_file_cut_short_ends_with_4(run, served, few, tmp_path, name) -> None:
    folder = shutil.copytree(served, tmp_path / "model")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    other = "model.onnx" if name.endswith(".onnx") else "openvino_model.xml"
    result = run("check", folder, "--texts", few, "--file-name", other)
    assert result.exit_code == 4
    assert "Hint: " in result.stderr
