"""``stopt index``: what it reads, writes, says and refuses."""

import json
from pathlib import Path

import pytest

from stopt import load_index

LINES = ["first text", "", "second text, longer than the first", "   ", "third"]


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def test_lines_that_are_not_empty_are_indexed(run, served, file, tmp_path) -> None:
    target = tmp_path / "made.index"
    result = run("index", file, "--model", served, "-o", target)
    assert result.exit_code == 0
    shown = dict(
        line.split(maxsplit=1) for line in result.stdout.splitlines() if not line.startswith("on disk")
    )
    assert shown["documents"] == "3 of 32 dimensions"
    assert shown["precision"] == "float32, 128 bytes per document searched, not rescored"
    assert shown["engine"] == "numpy, exact"
    assert f'stopt search {target} "a query"' in result.stderr
    index = load_index(target)
    assert list(index.texts) == [LINES[0], LINES[2], LINES[4]]
    assert list(index.lines) == [1, 3, 5]
    assert index.space is not None
    assert (index.space.model, index.space.file) == (str(served.resolve()), "onnx/model.onnx")
    assert (index.space.query_prompt, index.space.document_prompt) == ("query: ", "")


def test_the_name_is_that_of_the_file(run, served, file, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("index", file, "--model", served, "-q").stdout == "corpus.index\n"
    assert (tmp_path / "corpus.index" / "index.json").is_file()


@pytest.mark.parametrize(
    ("options", "size", "by"),
    [
        (("--precision", "int8"), 32, "codes"),
        (("--precision", "binary", "--engine", "faiss"), 4, "int8"),
        (("--precision", "ubinary", "--engine", "usearch", "--approximate"), 4, "int8"),
        (("--precision", "binary", "--rescore-by", "none", "--truncate-dim", "16"), 2, "none"),
    ],
)
def test_precision_and_engine_are_chosen(
    run, served, file, tmp_path, one_document, options, size, by
) -> None:
    target = tmp_path / "made.index"
    result = run("index", file, "--model", served, "-o", target, "--format", "json", *options)
    found = one_document(result)["result"]
    assert (found["documents"], found["bytes_per_vector"], found["rescore_by"]) == (3, size, by)
    assert found["size_bytes"] == sum(path.stat().st_size for path in target.iterdir())
    assert len(load_index(target)) == 3


def test_jsonl_with_a_column(run, served, tmp_path) -> None:
    file = tmp_path / "corpus.data"
    file.write_text("".join(json.dumps({"body": line}) + "\n" for line in LINES), encoding="utf-8")
    target = tmp_path / "made.index"
    assert run("index", file, "--model", served, "--column", "body", "-o", target).exit_code == 0
    assert list(load_index(target).texts) == [LINES[0], LINES[2], LINES[4]]


def test_an_index_that_is_there_is_kept(run, served, file, tmp_path) -> None:
    target = tmp_path / "made.index"
    run("index", file, "--model", served, "-o", target)
    result = run("index", file, "--model", served, "-o", target, "--precision", "int8")
    assert result.exit_code == 1
    assert f"Error: {target} exists already" in result.stderr
    assert "Hint: replace it with --force" in result.stderr
    assert load_index(target).options.precision == "float32"
    assert (
        run("index", file, "--model", served, "-o", target, "--precision", "int8", "--force").exit_code == 0
    )
    assert load_index(target).options.precision == "int8"


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (("--approximate",), "engine 'exact' has no graph to search by", "'faiss' or 'usearch'"),
        (("--rescore-by", "int8"), "float32 documents have nothing better", "'none'"),
        (("-o", "no/such/made.index"), "there is no folder no/such", "make it"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(run, served, file, options, message, hint) -> None:
    result = run("index", file, "--model", served, *options)
    assert result.exit_code == 1
    assert message in result.stderr
    assert hint in result.stderr


def test_a_file_without_texts_is_refused(run, served, tmp_path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    result = run("index", tmp_path / "empty.txt", "--model", served, "-o", tmp_path / "made.index")
    assert result.exit_code == 1
    assert "there is no text to build an index of" in result.stderr
    assert not (tmp_path / "made.index").exists()
    result = run("index", tmp_path / "missing.txt", "--model", served, "-o", tmp_path / "made.index")
    assert "missing.txt cannot be read" in result.stderr
