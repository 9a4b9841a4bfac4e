"""Every command on models that are not dense: the kind is read from the folder, and shown, checked and served as it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from stopt.cli.main import cli

TEXTS = ["A man is playing the guitar.", "", "how do I cook rice?"]
PAIRS = [("a question", "an answer"), ("What is the capital of France?", "Paris is."), ("one", "")]


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    file.write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def made(tiny: Callable[..., Path], few: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory):
    """``made("splade")``: a tiny model of that kind with an ONNX file. Not to be changed."""
    folders: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in folders:
            folder = tmp_path_factory.mktemp(kind) / "model"
            texts = pairs if kind == "cross-encoder" else few
            args = ["export", tiny("bert", kind=kind), "-o", folder, "--check-texts", texts]
            result = CliRunner().invoke(cli, list(map(str, args)))
            assert result.exit_code == 0, result.output
            folders[kind] = folder
        return folders[kind]

    return make


def rows_of(jsonl: str) -> list[dict]:
    return [json.loads(line) for line in jsonl.split("\n") if line]


# ---- export and quantize --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "header"),
    [
        (
            "splade",
            "file  size  cosine min  mean  max error  active dims  top 10  same neighbours  alone/batch  time",
        ),
        ("cross-encoder", "file  size  score error  mean  same order  alone/batch  time"),
    ],
)
def test_export_shows_the_figures_of_the_kind(run, tiny, few, pairs, tmp_path, kind, header) -> None:
    texts = pairs if kind == "cross-encoder" else few
    result = run("export", tiny("bert", kind=kind), "-o", tmp_path / "out", "--check-texts", texts)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split() == header.split()


def test_quantize_says_what_stays_in_float(run, made, few, tmp_path, one_document) -> None:
    folder = shutil.copytree(made("splade"), tmp_path / "model")
    args = [
        "quantize",
        folder,
        "--avx2",
        "--check-texts",
        few,
        "--min-cosine",
        "0.5",
        "--min-agreement",
        "0.1",
    ]
    result = run(*args)
    assert result.exit_code == 0
    assert "keeping in float: " in result.stderr
    assert "decoder/MatMul" in result.stderr
    assert "2 products before the logits" in run("inspect", folder).stdout
    listed = one_document(run("inspect", folder, "--format", "json"))["result"]["files"]
    options = next(each["options"] for each in listed if each["file"].endswith("avx2.onnx"))
    assert len(options["kept_float"]) == 2
    result = run(*args, "--no-keep-head", "-f")
    assert "keeping in float" not in result.stderr


@pytest.mark.parametrize("command", ["export", "check"])
def test_a_wrong_task_is_an_error(run, made, command) -> None:
    result = run(command, made("splade"), "--task", "text-classification")
    assert result.exit_code == 1
    assert "is a sparse encoder, not a cross-encoder" in result.stderr
    assert "Hint: " in result.stderr
    result = run(command, made("splade"), "--library", "timm")
    assert result.exit_code == 2


# ---- check ----------------------------------------------------------------------------------------------------------


def test_check_of_a_cross_encoder(run, made, pairs, tmp_path, one_document) -> None:
    report = tmp_path / "parity.xml"
    result = run(
        "check", made("cross-encoder"), "--texts", pairs, "--junit", report, "--task", "text-classification"
    )
    assert result.exit_code == 0
    header, _, row = result.stdout.splitlines()
    assert header.split() == [
        "file",
        "precision",
        "score",
        "error",
        "mean",
        "same",
        "order",
        "alone/batch",
        "verdict",
    ]
    assert row.split()[-1] == "ok"
    names = {each.get("name") for each in ElementTree.parse(report).iter("property")}
    assert {"rank_agreement", "mean_score_error", "max_abs"} < names
    assert "min_cosine" not in names
    sts = tmp_path / "sts.tsv"
    sts.write_text("".join(f"{n}\t{a}\t{b}\n" for n, (a, b) in enumerate(PAIRS)), encoding="utf-8")
    found = one_document(
        run("check", made("cross-encoder"), "--texts", pairs, "--sts", sts, "--format", "json")
    )
    (quality,) = found["result"][0]["quality"]
    assert quality["metric"] == "sts spearman"
    assert quality["kept"] == pytest.approx(1)


def test_check_of_a_sparse_encoder_searches_with_it(run, made, few, tmp_path, one_document) -> None:
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    documents = ["the guitar on the stage", "boil water, add the rice", "the capital of France"]
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": str(n), "text": text}) + "\n" for n, text in enumerate(documents)), "utf-8"
    )
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "cook rice"}) + "\n", "utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n", "utf-8")
    result = run("check", made("splade"), "--texts", few, "--retrieval", folder, "--format", "json")
    assert result.exit_code == 0
    (report,) = one_document(result)["result"]
    assert report["active_overlap"] == pytest.approx(1, abs=1e-3)
    assert {each["metric"] for each in report["quality"]} == {"set ndcg@10", "set recall@10"}
    assert all(each["kept"] == pytest.approx(1) for each in report["quality"])


@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        (
            "cross-encoder",
            ["--retrieval", "."],
            "a cross-encoder scores pairs, and a collection has too many",
        ),
        ("cross-encoder", ["--min-cosine", "0.9"], "a cross-encoder makes scores, which have no cosine"),
        ("static", ["--min-agreement", "0.9"], "the vectors of a dense model have no active dimensions"),
    ],
)
def test_what_a_kind_cannot_be_measured_by(run, made, kind, args, message) -> None:
    result = run("check", made(kind), *args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Hint: " in result.stderr


def test_check_needs_pairs_for_a_cross_encoder(run, made, few) -> None:
    result = run("check", made("cross-encoder"), "--texts", few)
    assert result.exit_code == 1
    assert (
        "number 1 of the texts to check with is a single text, and a cross-encoder reads pairs"
        in result.stderr
    )


def test_check_of_a_static_model_and_of_a_router(run, made, few) -> None:
    for kind in ("static", "router", "inference-free"):
        result = run("check", made(kind), "--texts", few)
        assert result.exit_code == 0, result.stderr
        assert result.stdout.splitlines()[2].split()[-1] == "ok"


# ---- inspect --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("splade", ["kind            sparse", "fill-mask", "Transformer -> SpladePooling(max, relu)"]),
        ("cross-encoder", ["labels          1", "activation      Sigmoid", "sequence-classification"]),
        ("static", ["table ", " tokens x 24 values", "StaticEmbedding"]),
        ("csr", ["SparseAutoEncoder(32 -> 48, 8 active)"]),
        ("inference-free", ["route query", "a weight for each of ", "route document", "/onnx/model.onnx"]),
    ],
)
def test_inspect_shows_the_parts_of_the_kind(run, made, kind, shown) -> None:
    result = run("inspect", made(kind))
    assert result.exit_code == 0
    for each in shown:
        assert each in result.stdout


def test_inspect_as_json_has_the_routes(run, made, one_document) -> None:
    spec = one_document(run("inspect", made("inference-free"), "--format", "json"))["result"]["spec"]
    assert set(spec["routes"]) == {"query", "document"}
    assert spec["kind"] == "sparse"
    assert spec["transformer"]["task"] == "fill-mask"


# ---- encode ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_sparse_vectors_are_what_is_active(run, made, backend) -> None:
    from sentence_transformers import SparseEncoder

    result = run("encode", made("splade"), "--backend", backend, input="\n".join(TEXTS) + "\n")
    assert result.exit_code == 0
    rows = rows_of(result.stdout)
    assert [row["text"] for row in rows] == TEXTS
    theirs = SparseEncoder(str(made("splade")), device="cpu")
    expected = theirs.encode(TEXTS).to_dense().numpy()
    for row, vector, decoded in zip(rows, expected, theirs.decode(theirs.encode(TEXTS)), strict=True):
        assert sorted(row["indices"]) == np.flatnonzero(vector).tolist()
        assert np.allclose(vector[row["indices"]], row["values"], atol=1e-5)
        assert row["values"] == sorted(row["values"], reverse=True)
        assert set(row["tokens"]) == {token for token, _ in decoded}


def test_sparse_vectors_as_a_file_of_scipy(run, made, tmp_path) -> None:
    from scipy.sparse import load_npz

    output = tmp_path / "out.npz"
    result = run(
        "encode", made("splade"), "-o", output, "--max-active-dims", "5", input="\n".join(TEXTS) + "\n"
    )
    assert result.exit_code == 0
    matrix = load_npz(output)
    assert matrix.shape[0] == len(TEXTS)
    assert matrix.nnz <= 5 * len(TEXTS)
    assert "active dimensions on average" in result.stdout


def test_roles_take_their_routes(run, made) -> None:
    from sentence_transformers import SparseEncoder

    folder = made("inference-free")
    theirs = SparseEncoder(str(folder), device="cpu")
    for role, encode in (("query", theirs.encode_query), ("document", theirs.encode_document)):
        (row,) = rows_of(
            run("encode", folder, "--role", role, "--backend", "onnx", input="the guitar\n").stdout
        )
        expected = encode("the guitar").to_dense().numpy()
        assert sorted(row["indices"]) == np.flatnonzero(expected).tolist()


@pytest.mark.parametrize("jsonl", [False, True])
def test_pairs_become_scores(run, made, pairs, tmp_path, jsonl) -> None:
    from sentence_transformers import CrossEncoder

    file = pairs
    if jsonl:
        file = tmp_path / "pairs.jsonl"
        file.write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in PAIRS), encoding="utf-8")
    result = run("encode", made("cross-encoder"), file, *(["--column", "a,b"] if jsonl else []))
    assert result.exit_code == 0
    rows = rows_of(result.stdout)
    assert [tuple(row["texts"]) for row in rows] == PAIRS
    expected = CrossEncoder(str(made("cross-encoder")), device="cpu").predict(PAIRS)
    assert np.allclose([row["score"] for row in rows], expected, atol=1e-5)


def test_scores_as_a_file_and_as_one_document(run, made, pairs, tmp_path, one_document) -> None:
    output = tmp_path / "scores.npy"
    assert run("encode", made("cross-encoder"), pairs, "-o", output).exit_code == 0
    assert np.load(output).shape == (len(PAIRS),)
    found = one_document(run("encode", made("cross-encoder"), pairs, "--format", "json"))["result"]
    assert found["shape"] == [len(PAIRS)]
    assert [row["score"] for row in found["rows"]] == pytest.approx(np.load(output).tolist())
    assert run("encode", made("cross-encoder"), input="").stdout == ""


@pytest.mark.parametrize(
    ("kind", "args", "text", "message"),
    [
        ("cross-encoder", [], "one text\n", "is a single text, and a cross-encoder reads pairs"),
        (
            "cross-encoder",
            ["--truncate-dim", "4"],
            "a\tb\n",
            "a cross-encoder model has no use for --truncate-dim",
        ),
        ("splade", ["--precision", "int8"], "a\n", "a sparse model has no use for --precision"),
        ("static", ["--max-active-dims", "4"], "a\n", "a dense model has no use for --max-active-dims"),
        ("splade", ["-o", "out.npy"], "a\n", "out.npy is neither .npz nor .jsonl"),
        ("cross-encoder", ["-o", "out.npz"], "a\tb\n", "out.npz is neither .npy nor .jsonl"),
    ],
)
def test_what_a_kind_has_no_use_for(run, made, kind, args, text, message) -> None:
    result = run("encode", made(kind), *args, input=text)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Hint: " in result.stderr


@pytest.mark.parametrize("kind", ["splade", "cross-encoder"])
def test_what_needs_dense_embeddings_says_so(run, made, few, tmp_path, kind) -> None:
    folder = made(kind)
    for command, args in (
        ("stopt index", ["index", few, "--model", folder, "-o", tmp_path / "made.index"]),
        ("stopt calibrate", ["calibrate", folder, "--texts", few]),
        ("--index-compat", ["check", folder, "--index-compat", "onnx/model.onnx", "torch"]),
    ):
        result = run(*args)
        assert result.exit_code == 1
        name = "sparse" if kind == "splade" else kind
        assert f"{command} works with dense embeddings, and {folder} is a {name} model" in result.stderr
        assert "Hint: stopt encode gives " in result.stderr
    assert not (tmp_path / "made.index").exists()


def test_a_static_model_builds_and_searches_an_index(run, tiny, tmp_path) -> None:
    corpus, index = tmp_path / "corpus.txt", tmp_path / "made.index"
    corpus.write_text("The museum is closed.\nA man is playing the guitar.\n", encoding="utf-8")
    built = run("index", corpus, "--model", tiny("bert", kind="static"), "-o", index)
    assert built.exit_code == 0, built.stderr
    assert "not rescored" in built.stdout
    found = run("search", index, "A man is playing the guitar.", "--top-k", 1)
    assert found.exit_code == 0, found.stderr
    assert found.stdout.splitlines()[1].split(maxsplit=2)[1:] == ["2", "A man is playing the guitar."]


# ---- demo -----------------------------------------------------------------------------------------------------------


# of random weights, int8 keeps more or less: the seeds are of models that keep enough to pass the demo's check
@pytest.mark.parametrize(
    ("kind", "name", "seed"), [("sparse", "splade", 4), ("cross-encoder", "cross-encoder", 0)]
)
def test_demo_of_ones_own_model(run, tiny, tmp_path, kind, name, seed, one_document) -> None:
    source = tiny("bert", kind=name, seed=seed)
    result = run("demo", "--kind", kind, "--model", source, "-o", tmp_path / "demo", "--format", "json")
    assert result.exit_code == 0, result.stderr
    found = one_document(result)["result"]
    assert found["kind"] == kind
    assert len(found["files"]) == 3
    assert found["strongest" if kind == "sparse" else "ranking"]


def test_demo_of_a_static_model(run, tiny, tmp_path, one_document) -> None:
    source = tiny("bert", kind="static")
    result = run("demo", "--kind", "static", "--model", source, "-o", tmp_path / "demo", "--format", "json")
    assert result.exit_code == 0, result.stderr
    assert "in numpy" in result.stderr
    found = one_document(result)["result"]
    assert [each["file"] for each in found["files"]][2] == "openvino/openvino_model_int8.xml"
    assert found["most_similar"]
    result = run("demo", "--kind", "static", "--model", tiny("bert"), "-o", tmp_path / "other")
    assert result.exit_code == 1
    assert "is a transformer, not a static embedding model" in result.stderr
    assert "Hint: leave out --kind, or use --kind dense" in result.stderr


def test_demo_does_not_take_the_files_of_a_namesake(run, tiny, tmp_path) -> None:
    models = [tmp_path / "a/m", tmp_path / "b/m"]
    for seed, model in enumerate(models):
        shutil.copytree(tiny("bert", kind="static", seed=seed), model)
    command, folder = ("demo", "--kind", "static", "-o", tmp_path / "demo"), tmp_path / "demo/m"
    assert run(*command, "--model", models[0]).exit_code == 0
    made = (folder / "stopt.json").read_bytes()
    result = run(*command, "--model", models[1])
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{folder} was made of another model, or another state of it, than {models[1]}" in result.stderr
    assert "Hint: name another folder: -o FOLDER" in result.stderr
    assert (folder / "stopt.json").read_bytes() == made
    result = run(*command, "--model", models[0])
    assert result.exit_code == 0, result.stderr
    assert "has been exported and checked before" in result.stderr


def test_demo_refuses_a_model_of_another_kind(run, tiny, tmp_path) -> None:
    result = run(
        "demo", "--kind", "sparse", "--model", tiny("bert", kind="cross-encoder"), "-o", tmp_path / "demo"
    )
    assert result.exit_code == 1
    assert "is a cross-encoder, not a sparse encoder" in result.stderr
    assert not (tmp_path / "demo").exists()
