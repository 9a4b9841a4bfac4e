"""No command writes over what it reads: outputs that are, contain or lie in an input are refused, by every name of theirs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stopt.errors import ArtifactError
from stopt.overlap import require_apart, require_not_of_model

CORPUS = '{"text": "a first text"}\n{"text": "and a second one"}\n'


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a corpus, a folder of corpora and links to both."""
    folder = tmp_path / "work"
    (folder / "data").mkdir(parents=True)
    (folder / "in.jsonl").write_text(CORPUS, encoding="utf-8")
    (folder / "data" / "part.jsonl").write_text(CORPUS, encoding="utf-8")
    (folder / "soft.jsonl").symlink_to("in.jsonl")
    (folder / "hard.jsonl").hardlink_to(folder / "in.jsonl")
    (folder / "data-link").symlink_to("data")
    monkeypatch.chdir(folder)
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(run: Callable, folder: Path, *args: object) -> str:
    """Run a command that must refuse its output; nothing in the folder may have changed. Returns what it said."""
    before = snapshot(folder)
    result = run(*args)
    assert result.exit_code == 1, result.output
    assert snapshot(folder) == before
    assert "Hint: name another place for it" in result.stderr
    return result.stderr


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ("in.jsonl", "in.jsonl"),
        ("in.jsonl", "./data/../in.jsonl"),
        ("in.jsonl", "soft.jsonl"),
        ("soft.jsonl", "in.jsonl"),
        ("in.jsonl", "hard.jsonl"),
        ("*.jsonl", "hard.jsonl"),
        ("data", "data/out.jsonl"),
        ("data", "data-link/out.parquet"),
        ("data-link", "data/new.jsonl"),
        ("data/*.jsonl", "data/part.jsonl"),
        ("data", "data/part.jsonl"),
        ("data", "data/shards"),
    ],
)
def test_encode_keeps_its_input(run, served, work, given, output) -> None:
    said = refused(run, work, "encode", served, given, "-o", output, "--force")
    assert f"the output {Path(output)} " in said
    assert "the input" in said


def test_a_folder_of_shards_around_an_input_is_refused(run, served, work) -> None:
    assert run("encode", served, "in.jsonl", "-o", "shards", "--output-format", "jsonl").exit_code == 0
    again = ("encode", served, "shards/part-000000.jsonl", "-o", "shards", "--force")
    said = refused(run, work, *again, "--output-format", "jsonl")
    assert "the output shards contains the input shards/part-000000.jsonl" in said


def test_rows_that_were_rejected_are_not_removed_while_they_are_read(run, served, work) -> None:
    Path("out.jsonl.rejected.jsonl").write_text(CORPUS, encoding="utf-8")
    said = refused(run, work, "encode", served, "out.jsonl.rejected.jsonl", "-o", "out.jsonl")
    assert "the file of rejected rows out.jsonl.rejected.jsonl is the input" in said


def test_a_file_of_ranges_is_an_input(run, served, work) -> None:
    shutil.copy("in.jsonl", "ranges.jsonl")
    refused(run, work, "encode", served, "in.jsonl", "--ranges", "ranges.jsonl", "-o", "ranges.jsonl", "-f")


def test_standard_input_that_is_the_output(served, work) -> None:
    def stopt(*args: str, **streams: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "stopt", "encode", str(served), *args]
        return subprocess.run(command, check=False, text=True, stderr=subprocess.PIPE, timeout=120, **streams)

    before = snapshot(work)
    with Path("in.jsonl").open() as file:
        result = stopt("--jsonl", "-o", "in.jsonl", "--force", stdin=file)
    assert (result.returncode, snapshot(work)) == (1, before)
    assert "in.jsonl is where standard input comes from" in result.stderr
    with Path("in.jsonl").open("a") as file:  # as >> does
        result = stopt("in.jsonl", stdout=file)
    assert (result.returncode, snapshot(work)) == (1, before)
    assert "in.jsonl is read, and is where standard output goes" in result.stderr


@pytest.mark.parametrize("output", ["onnx/model.onnx", "config.json", "stopt.json", "model.safetensors"])
@pytest.mark.parametrize("command", ["calibrate", "check", "bench"])
def test_files_of_the_model_are_inputs(run, served, work, command, output) -> None:
    model = Path(shutil.copytree(served, work / "model"))
    option = {"calibrate": "-o", "check": "--junit", "bench": "--plot"}[command]
    if command == "bench":  # the picture's name says its format
        (work / "link.png").hardlink_to(model / output)
    place = work / "link.png" if command == "bench" else model / output
    force = ["--force"] if command == "calibrate" else []
    texts = ["--texts", work / "in.jsonl"]
    said = refused(run, work, command, model, *texts, option, place, *force)
    assert f"is a file of the model, {model / output}" in said


def test_a_new_file_beside_the_models_is_none_of_them(tmp_path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    for name in ("parity.xml", "config.json.xml", "speed.png"):
        require_not_of_model(model / name, model)
        (model / name).write_text("", encoding="utf-8")
        require_not_of_model(model / name, model)
    require_not_of_model(model / "config.json", model, but="config.json")
    require_not_of_model(tmp_path / "config.json", "organisation/name")
    for folder in (model, tmp_path):
        with pytest.raises(ArtifactError, match="is, or contains, the model"):
            require_not_of_model(folder, model)


@pytest.mark.parametrize(
    ("args", "relation"),
    [
        (("index", "in.jsonl", "-o", "in.jsonl", "--force"), "is"),
        (("index", "idx/texts.jsonl", "-o", "idx", "--force"), "contains"),
        (("calibrate", "--texts", "in.jsonl", "-o", "soft.jsonl", "--force"), "is"),
        (("check", "--texts", "in.jsonl", "--junit", "hard.jsonl"), "is"),
        (("check", "--retrieval", "data", "--junit", "data/report.xml"), "lies in"),
        (("check", "--sts", "in.jsonl", "--junit", "in.jsonl"), "is"),
        (("bench", "--texts", "in.png", "--plot", "in.png"), "is"),
        (("export", "--check-texts", "data/part.jsonl", "-o", "data-link", "--force"), "contains"),
        (("optimize", "-O1", "--check-texts", "in.jsonl", "-o", "."), "contains"),
        (("quantize", "--static", "--texts", "data/part.jsonl", "-o", "data"), "contains"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else value,
)
def test_every_command_keeps_its_texts(run, served, work, args, relation) -> None:
    shutil.copy("in.jsonl", "in.png")
    command, *rest = args
    model = ["--model", served] if command == "index" else [served]
    if rest[0] == "idx/texts.jsonl":
        assert run("index", "in.jsonl", *model, "-o", "idx").exit_code == 0
    said = refused(run, work, command, *model, *rest)
    assert f" {relation} the input " in said


def test_a_copy_of_the_model_is_made_outside_of_it(run, tiny_copy, work, few) -> None:
    model = tiny_copy("bert")
    for place in (model / "copy", model.parent):
        said = refused(run, model, "export", model, "-o", place, "--check-texts", few)
        assert f"the output {place} " in said
    recipe = work / "mine.toml"
    recipe.write_text(f'[source]\nrepo = "{model}"\n[[step]]\nkind = "export"\n', encoding="utf-8")
    assert "the output . contains the input" in refused(run, work, "run", recipe, "-o", ".")


def test_demo_does_not_convert_the_users_own_folder(run, tiny_copy) -> None:
    model = tiny_copy("bert")
    said = refused(run, model, "demo", "--model", model, "-o", model.parent)
    assert f"the output {model} is the input {model}" in said


def test_a_key_is_not_replaced_by_a_signature(run, tiny_copy) -> None:
    model = tiny_copy("bert")
    (model / "model.sig").write_text("a private key", encoding="utf-8")
    assert "the signature" in refused(run, model, "sign", model, "--key", model / "model.sig")


def test_names_that_differ_in_case_alone(tmp_path) -> None:
    """Where the file system takes them for one, they are; a hard link stands for that here."""
    (tmp_path / "Corpus.jsonl").write_text(CORPUS, encoding="utf-8")
    other = tmp_path / "corpus.JSONL"
    if not other.exists():
        require_apart(other, [tmp_path / "Corpus.jsonl"])
        os.link(tmp_path / "Corpus.jsonl", other)
    with pytest.raises(ArtifactError, match="is the input"):
        require_apart(other, [tmp_path / "Corpus.jsonl"])


def test_what_is_apart_passes(tmp_path) -> None:
    (tmp_path / "in.jsonl").write_text(CORPUS, encoding="utf-8")
    (tmp_path / "data").mkdir()
    for name in ("out.jsonl", "in", "in.jsonl2", "database", "new/data/out"):
        require_apart(tmp_path / name, [tmp_path / "in.jsonl", tmp_path / "data", tmp_path / "not-there"])
