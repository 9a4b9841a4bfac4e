"""``stopt calibrate``: texts in, a file of ranges beside the model, the same int8 space for every call."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from stopt import Ranges, SentenceTransformer, quantize_embeddings
from stopt.embeddings.ranges import RANGES

TEXTS = [f"text number {number} of {number % 7} kinds" * (1 + number % 3) for number in range(120)]


@pytest.fixture
def folder(served: Path, tmp_path: Path) -> Path:
    return shutil.copytree(served, tmp_path / "model")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(TEXTS) + "\n\n", encoding="utf-8")
    return file


def test_ranges_are_put_into_the_folder(run, folder, corpus) -> None:
    result = run("calibrate", folder, "--texts", corpus)
    assert result.exit_code == 0, result.output
    embeddings = SentenceTransformer(folder, backend="onnx").encode(TEXTS)
    ranges = Ranges.stored(folder)
    assert ranges is not None
    np.testing.assert_allclose(ranges.array, np.stack((embeddings.min(0), embeddings.max(0))), atol=1e-6)
    assert ranges.provenance is not None
    assert (ranges.provenance.file, ranges.provenance.texts) == ("onnx/model.onnx", 120)
    assert str(folder / RANGES) in result.stdout
    assert "120 texts encoded" in result.stderr


def test_the_result_in_json(run, folder, corpus, one_document) -> None:
    document = one_document(
        run("calibrate", folder, "--texts", corpus, "--percentile", "95", "--format", "json")
    )
    ranges = Ranges.stored(folder)
    assert ranges is not None
    assert document["result"]["fingerprint"] == ranges.fingerprint
    assert document["result"]["dimension"] == 32
    assert document["result"]["provenance"]["percentile"] == 95


def test_the_result_for_scripts_is_the_file(run, folder, corpus) -> None:
    assert run("calibrate", folder, "--texts", corpus, "-q").stdout == f"{folder / RANGES}\n"


def test_options_reach_the_model(run, folder, corpus, tmp_path) -> None:
    output = tmp_path / "ranges.json"
    args = [
        "--prompt-name",
        "query",
        "--truncate-dim",
        "8",
        "--normalize-embeddings",
        "--backend",
        "openvino",
    ]
    result = run("calibrate", folder, "--texts", corpus, "-o", output, *args)
    assert result.exit_code == 0, result.output
    source = Ranges.read(output).provenance
    assert source is not None
    assert (source.prompt, source.truncate_dim, source.normalized) == ("query: ", 8, True)
    assert (source.backend, source.file) == ("openvino", "openvino/openvino_model.xml")
    assert not (folder / RANGES).exists()


def test_jsonl_and_column(run, folder, tmp_path) -> None:
    lines = "".join(json.dumps({"body": text}) + "\n" for text in TEXTS)
    (tmp_path / "corpus.jsonl").write_text(lines)
    result = run("calibrate", folder, "--texts", tmp_path / "corpus.jsonl", "--column", "body")
    assert result.exit_code == 0, result.output


def test_ranges_that_are_there_stay_without_force(run, folder, corpus) -> None:
    (folder / RANGES).write_text("old")
    result = run("calibrate", folder, "--texts", corpus)
    assert result.exit_code == 1
    assert f"{folder / RANGES} exists already" in result.stderr
    assert "--force" in result.stderr
    assert (folder / RANGES).read_text() == "old"
    assert run("calibrate", folder, "--texts", corpus, "--force").exit_code == 0
    assert Ranges.stored(folder) is not None


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("one\ntwo\n", "2 texts are too few", "better hundreds"),
        ("\n \n", "0 texts are too few", "better hundreds"),
    ],
)
def test_too_few_texts_leave_nothing(run, folder, tmp_path, content, message, hint) -> None:
    (tmp_path / "few.txt").write_text(content)
    before = sorted(folder.rglob("*"))
    result = run("calibrate", folder, "--texts", tmp_path / "few.txt")
    assert result.exit_code == 1
    assert message in result.stderr
    assert hint in result.stderr
    assert sorted(folder.rglob("*")) == before


def test_a_missing_file_of_texts(run, folder, tmp_path) -> None:
    result = run("calibrate", folder, "--texts", tmp_path / "none.txt")
    assert result.exit_code == 1
    assert "cannot be read" in result.stderr


def test_a_hub_id_needs_a_place_for_the_ranges(run, corpus) -> None:
    result = run("calibrate", "some/model", "--texts", corpus)
    assert result.exit_code == 1
    assert "some/model is no folder to put ranges in" in result.stderr
    assert "-o FILE" in result.stderr


@pytest.mark.parametrize("percentile", ["50", "100", "x"])
def test_a_percentile_out_of_bounds_is_wrong_usage(run, folder, corpus, percentile) -> None:
    assert run("calibrate", folder, "--texts", corpus, "--percentile", percentile).exit_code == 2


# ---- then a query has the codes of the corpus -----------------------------------------------------------------------


def test_one_query_gets_the_code_it_has_in_the_corpus(run, folder, corpus, tmp_path) -> None:
    assert run("calibrate", folder, "--texts", corpus).exit_code == 0
    model = SentenceTransformer(folder, backend="onnx")
    ranges = Ranges.stored(folder)
    together = model.encode(TEXTS, precision="int8")
    # a float's last bit, which depends on the batch, may fall on the other side of a step
    for row in (0, 7, 119):
        alone = model.encode(TEXTS[row], precision="int8")
        assert np.abs(alone.astype(int) - together[row]).max() <= 1
        assert len(np.unique(alone)) > 10
    assert np.array_equal(together, quantize_embeddings(model.encode(TEXTS), "int8", ranges))
    result = run("encode", folder, "--precision", "int8", input=TEXTS[7])
    assert np.abs(np.array(json.loads(result.stdout)["embedding"]) - together[7]).max() <= 1


def test_ranges_may_be_in_a_file_elsewhere(run, folder, corpus, tmp_path) -> None:
    ranges, output = tmp_path / "ranges.json", tmp_path / "out.npy"
    assert run("calibrate", folder, "--texts", corpus, "-o", ranges).exit_code == 0
    args = ("encode", folder, "-o", output, "--precision", "uint8")
    result = run(*args, "--ranges", ranges, input=TEXTS[7])
    assert result.exit_code == 0, result.output
    expected = SentenceTransformer(folder, backend="onnx").encode(TEXTS[7:8])
    assert np.array_equal(np.load(output), quantize_embeddings(expected, "uint8", Ranges.read(ranges)))


def test_one_text_without_ranges_is_refused_with_what_to_do(run, folder) -> None:
    result = run("encode", folder, "--precision", "int8", input="a query")
    assert result.exit_code == 1
    assert "int8 needs ranges" in result.stderr
    assert "stopt calibrate" in result.stderr
    assert result.stdout == ""


@pytest.mark.filterwarnings("default")
def test_ranges_of_the_call_by_name(run, folder) -> None:
    result = run("encode", folder, "--precision", "int8", "--ranges-from-call", input="a query")
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["embedding"]) == {-128}
    assert "only 1 embedding" in result.stderr


def test_two_places_of_ranges_are_wrong(run, folder, tmp_path) -> None:
    result = run("encode", folder, "--ranges", tmp_path / "x.json", "--ranges-from-call", input="a query")
    assert result.exit_code == 1
    assert "--ranges and --ranges-from-call" in result.stderr


def test_a_damaged_file_of_ranges(run, folder, tmp_path) -> None:
    (tmp_path / "ranges.json").write_text("{}")
    result = run(
        "encode", folder, "--precision", "int8", "--ranges", tmp_path / "ranges.json", input="a query"
    )
    assert result.exit_code == 4
    assert "has schema None" in result.stderr
