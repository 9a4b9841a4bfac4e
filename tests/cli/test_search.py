"""``stopt search``: hits, timings, and queries that the index cannot answer; ``stopt check --index-compat``."""

import shutil
from pathlib import Path

import pytest

from stopt import SentenceTransformer

WORDS = ["stone", "river", "tree", "house", "cat"]
TEXTS = [f"{a} {b} {number}" for number, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    file.write_text("\n\n".join(TEXTS) + "\n", encoding="utf-8")  # every other line is empty
    return file


@pytest.fixture
def index(run, served, corpus, tmp_path) -> Path:
    target = tmp_path / "made.index"
    assert run("index", corpus, "--model", served, "-o", target, "--precision", "int8").exit_code == 0
    return target


def test_hits_have_score_line_and_text(run, index, served) -> None:
    result = run("search", index, TEXTS[3], "--top-k", 4)
    assert result.exit_code == 0
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["score", "line", "text"]
    assert len(rows) == 4
    model = SentenceTransformer(served, backend="onnx")
    similarities = model.similarity(model.encode_query(TEXTS[3]), model.encode_document(TEXTS))[0]
    for row in rows:
        score, line, text = row.split(maxsplit=2)
        place = (int(line) - 1) // 2
        assert text == TEXTS[place]
        assert float(score) == pytest.approx(float(similarities[place]), abs=0.02)
    assert result.stderr.startswith("loading ")
    assert "searching 25 documents" in result.stderr


def test_several_queries_as_json(run, index, one_document) -> None:
    result = run("search", index, "river", "stone", "--top-k", 2, "--format", "json")
    found = one_document(result)["result"]
    assert [row["query"] for row in found["results"]] == ["river", "stone"]
    assert [len(row["hits"]) for row in found["results"]] == [2, 2]
    assert set(found["results"][0]["hits"][0]) == {"corpus_id", "score", "line", "text"}
    assert set(found["seconds"]) == {"loading", "encoding", "searching"}
    assert (found["documents"], found["precision"], found["compatibility"]) == (25, "int8", None)
    assert "river\n" in run("search", index, "river", "stone").stdout


def test_quiet_is_the_best_line(run, index) -> None:
    result = run("search", index, "river", "-q")
    assert int(result.stdout) % 2 == 1
    assert result.stderr == ""


def test_long_texts_are_cut_where_people_read_them(run, served, tmp_path, one_document) -> None:
    (tmp_path / "long.txt").write_text("many words " * 100)
    run("index", tmp_path / "long.txt", "--model", served, "-o", tmp_path / "long.index")
    assert len(run("search", tmp_path / "long.index", "words").stdout.splitlines()[1]) < 130
    document = one_document(run("search", tmp_path / "long.index", "words", "--format", "json"))
    assert len(document["result"]["results"][0]["hits"][0]["text"]) == 1100


def test_a_file_with_the_same_vectors_may_search(run, index, one_document) -> None:
    result = run("search", index, "river", "--backend", "openvino", "--format", "json")
    assert result.exit_code == 0
    verdict = one_document(result)["result"]["compatibility"]
    assert verdict["compatible"] is True
    assert verdict["texts"] == 25
    assert "has not built this index: measuring" in result.stderr


def test_another_model_may_not(run, index, tiny) -> None:
    result = run("search", index, "river", "--model", tiny("bert", seed=99), "--backend", "torch")
    assert result.exit_code == 3
    assert "Error: queries of " in result.stderr
    assert "of the 10 documents nearest to a query they find" in result.stderr
    assert "Hint: encode queries with " in result.stderr
    assert result.stdout == ""


def test_an_index_that_is_cut_short_says_so(run, index) -> None:
    (index / "codes.npy").write_bytes((index / "codes.npy").read_bytes()[:-7])
    result = run("search", index, "river")
    assert result.exit_code == 4
    assert "codes.npy has 921 bytes, expected 928" in result.stderr
    assert "Hint: build the index again" in result.stderr


def test_what_is_no_index_says_so(run, tmp_path) -> None:
    result = run("search", tmp_path, "river")
    assert result.exit_code == 1
    assert "is no index: it has no index.json" in result.stderr


# ---- check --index-compat -------------------------------------------------------------------------------------------


@pytest.fixture
def texts(corpus) -> tuple[str, Path]:
    return "--texts", corpus


def test_files_of_one_model_search_each_other(run, served, texts, one_document) -> None:
    files = ("openvino/openvino_model.xml", "onnx/model.onnx")
    result = run("check", served, "--index-compat", *files, *texts)
    assert result.exit_code == 0
    header, _, row = result.stdout.splitlines()
    assert header.split()[:4] == ["queries", "index", "texts", "recall@10"]
    assert row.split()[:3] == [*files, "25"]
    assert row.split()[-1] == "yes"
    found = one_document(run("check", served, "--index-compat", *files, *texts, "--format", "json"))["result"]
    assert found["recall"] > 0.99
    assert run("check", served, "--index-compat", "torch", files[1], *texts, "-q").stdout == "yes\n"


def test_files_of_two_models_do_not(run, served, tiny, texts, tmp_path, one_document) -> None:
    other = shutil.copytree(served, tmp_path / "other")
    shutil.copytree(tiny("bert", seed=99), other, dirs_exist_ok=True)
    (other / "stopt.json").unlink()  # which knows the weights that were there
    result = run("check", other, "--index-compat", "torch", served, *texts, "--format", "json")
    assert result.exit_code == 3
    document = one_document(result)
    assert document["ok"] is False
    assert document["error"]["type"] == "SpaceError"
    assert document["result"]["compatible"] is False
    assert run("check", other, "--index-compat", "torch", served, *texts, "-q").stdout == "no\n"


def test_compatibility_is_measured_alone(run, served) -> None:
    result = run("check", served, "--index-compat", "torch", "torch", "--min-cosine", "0.9")
    assert result.exit_code == 2
    assert "--index-compat goes with --texts only" in result.stderr


def test_other_dimensions_have_no_figures(run, served, tiny, texts) -> None:
    narrow = tiny("bert", kind="static", dense=8, normalize=True)
    result = run("check", served, "--index-compat", "onnx/model.onnx", narrow, *texts)
    assert result.exit_code == 3
    assert "%" not in result.stdout
    assert "they have 32 dimensions, the documents 8" in result.stderr
