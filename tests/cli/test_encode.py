"""``stopt encode``: texts in, rows out, in the same order."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stopt import SentenceTransformer

TEXTS = ["a first text", "", "the third one, a little longer than the others", "  spaces kept ", "café 今日"]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def model(served: Path) -> SentenceTransformer:
    return SentenceTransformer(served, backend="onnx")


def rows_of(jsonl: str) -> list[dict]:
    return [json.loads(line) for line in jsonl.split("\n") if line]


# ---- reading --------------------------------------------------------------------------------------------------------


def test_lines_of_a_file_become_rows_in_order(run, served, lines, model, tmp_path) -> None:
    output = tmp_path / "out.npy"
    result = run("encode", served, lines, "-o", output, "--batch-size", "2")
    assert result.exit_code == 0
    assert result.stdout == f"{output}  5 x 32 float32\n"
    np.testing.assert_allclose(np.load(output), model.encode(TEXTS), atol=1e-6)


def test_stdin_and_stdout_are_the_default(run, served, model) -> None:
    result = run("encode", served, input="\n".join(TEXTS))
    found = rows_of(result.stdout)
    assert [row["text"] for row in found] == TEXTS
    np.testing.assert_allclose([row["embedding"] for row in found], model.encode(TEXTS), atol=1e-6)
    assert "onnx/model.onnx on CPUExecutionProvider in float32" in result.stderr


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_only_a_line_feed_ends_a_line(run, served, tmp_path, separator) -> None:
    text = f"one{separator}still one\ntwo\r\n"
    (tmp_path / "odd.txt").write_text(text, encoding="utf-8", newline="")
    expected = [f"one{separator}still one", "two"]
    assert [row["text"] for row in rows_of(run("encode", served, tmp_path / "odd.txt").stdout)] == expected
    assert [row["text"] for row in rows_of(run("encode", served, input=text.encode()).stdout)] == expected


def test_a_byte_order_mark_is_no_text(run, served, tmp_path) -> None:
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfone\n")
    assert rows_of(run("encode", served, tmp_path / "bom.txt").stdout)[0]["text"] == "one"
    assert rows_of(run("encode", served, input=b"\xef\xbb\xbfone\n").stdout)[0]["text"] == "one"


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("x.jsonl", ["--column", "body"]),
        ("x.ndjson", ["--column", "body"]),
        ("x.txt", ["--column", "body"]),
        ("x.json", ["--column", "body", "--jsonl"]),
    ],
)
def test_a_column_of_jsonl(run, served, tmp_path, name, args) -> None:
    content = '{"body": "one", "text": "no"}\n\n{"body": "two"}\n'
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert [row["text"] for row in rows_of(run("encode", served, tmp_path / name, *args).stdout)] == [
        "one",
        "two",
    ]
    assert [row["text"] for row in rows_of(run("encode", served, *args, input=content).stdout)] == [
        "one",
        "two",
    ]


def test_the_column_is_called_text_by_default(run, served) -> None:
    result = run("encode", served, "--jsonl", input='{"text": "one"}\n')
    assert rows_of(result.stdout)[0]["text"] == "one"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"body": "b", "id": 1}\n', "line 2 of {name} has no text 'text'; it has: body, id"),
        (b'{"text": "a"}\n{"text": null}\n', "line 2 of {name} has no text 'text'"),
        (b'{"text": "a"}\n["b"]\n', "line 2 of {name} has no text 'text'; it has: list"),
        (b'{"text": "a"}\nplain\n', "line 2 of {name} is not JSON"),
        (b'{"text": "sch\xf6n"}\n', "{name} is not UTF-8 text"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(run, served, tmp_path, content, message) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(content)
    for name, args, given in ((file, [file], None), ("stdin", ["--jsonl"], content)):
        result = run("encode", served, *args, input=given)
        assert result.exit_code == 1
        assert message.format(name=name) in result.stderr
        assert "Hint: " in result.stderr
        assert not result.stdout


def test_a_file_that_is_not_there(run, served, tmp_path) -> None:
    result = run("encode", served, tmp_path / "none.txt")
    assert result.exit_code == 1
    assert "none.txt cannot be read: No such file or directory" in result.stderr


@pytest.mark.parametrize("ending", ["npy", "jsonl"])
def test_no_text_gives_no_row(run, served, tmp_path, ending) -> None:
    output = tmp_path / f"out.{ending}"
    assert run("encode", served, "-o", output, input="").exit_code == 0
    if ending == "npy":
        assert (np.load(output).shape, np.load(output).dtype) == ((0, 32), np.float32)
    else:
        assert output.read_bytes() == b""


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("precision", "width", "dtype"), [("int8", 16, "int8"), ("ubinary", 2, "uint8")])
def test_no_text_has_the_shape_that_texts_would_have(run, served, tmp_path, precision, width, dtype) -> None:
    args = ("-o", tmp_path / "out.npy", "--precision", precision, "--truncate-dim", "16")
    run("encode", served, *args, input="")
    found = np.load(tmp_path / "out.npy")
    assert (found.shape, found.dtype) == ((0, width), dtype)


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:uint8 ranges")
@pytest.mark.parametrize(
    ("args", "keywords"),
    [
        (["--precision", "binary"], {"precision": "binary"}),
        (["--precision", "uint8", "--ranges-from-call"], {"precision": "uint8", "ranges": "call"}),
        (["--truncate-dim", "8"], {"truncate_dim": 8}),
        (["--normalize-embeddings"], {"normalize_embeddings": True}),
        (["--prompt", "say: "], {"prompt": "say: "}),
        (["--prompt-name", "query"], {"prompt_name": "query"}),
    ],
)
def test_an_option_does_what_the_keyword_does(run, served, lines, model, tmp_path, args, keywords) -> None:
    assert run("encode", served, lines, "-o", tmp_path / "out.npy", *args).exit_code == 0
    found, expected = np.load(tmp_path / "out.npy"), model.encode(TEXTS, **keywords)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=1e-6)
    plain = model.encode(TEXTS)
    assert found.shape != plain.shape or not np.allclose(found, plain)


@pytest.mark.parametrize(
    ("args", "used"),
    [
        (["--backend", "openvino"], "openvino/openvino_model.xml on CPU"),
        (["--backend", "torch"], " on cpu in float32"),
        (["--file-name", "openvino/openvino_model.xml"], "openvino/openvino_model.xml on CPU"),
        (["--device", "cpu"], "onnx/model.onnx on CPU"),
    ],
)
def test_the_engine_can_be_chosen(run, served, args, used) -> None:
    result = run("encode", served, *args, input="one\n")
    assert result.exit_code == 0
    assert used in result.stderr


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["--prompt-name", "qeury"], "there is no prompt named 'qeury'", "did you mean 'query'?"),
        (["--file-name", "onnx/modle.onnx"], "its onnx files: onnx/model.onnx", "did you mean"),
        (["--device", "warp"], "device 'warp'", ""),
        (["-o", "out.csv"], "out.csv is neither .npy nor .jsonl", "ending"),
    ],
)
def test_a_wrong_option_is_refused(run, served, args, message, hint) -> None:
    result = run("encode", served, *args, input="one\n")
    assert result.exit_code == 1
    assert message in result.stderr
    assert hint in result.stderr
    assert not result.stdout


# ---- writing --------------------------------------------------------------------------------------------------------


def test_jsonl_has_texts_and_vectors(run, served, lines, model, tmp_path) -> None:
    output = tmp_path / "out.jsonl"
    assert run("encode", served, lines, "-o", output).exit_code == 0
    found = rows_of(output.read_text(encoding="utf-8"))
    assert [row["text"] for row in found] == TEXTS
    np.testing.assert_allclose([row["embedding"] for row in found], model.encode(TEXTS), atol=1e-6)
    assert "今日" in output.read_text(encoding="utf-8")


def test_an_output_that_is_there_is_kept(run, served, lines, tmp_path) -> None:
    output = tmp_path / "out.npy"
    output.write_bytes(b"precious")
    result = run("encode", served, lines, "-o", output)
    assert result.exit_code == 1
    assert f"{output} exists already\nHint: replace it with --force" in result.stderr
    assert output.read_bytes() == b"precious"


def test_force_replaces_it(run, served, lines, tmp_path) -> None:
    output = tmp_path / "out.npy"
    output.write_bytes(b"old")
    assert run("encode", served, lines, "-o", output, "--force").exit_code == 0
    assert np.load(output).shape == (5, 32)
    assert {path.name for path in tmp_path.iterdir()} == {"corpus.txt", "out.npy"}


@pytest.mark.parametrize("folder", ["nowhere", "corpus.txt"])
def test_a_folder_that_is_not_there_is_said_before_the_work(run, served, lines, tmp_path, folder) -> None:
    result = run("encode", served, lines, "-o", tmp_path / folder / "out.npy")
    assert result.exit_code == 1
    assert "there is no folder" in result.stderr
    assert "onnx/model.onnx" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


def test_a_failure_while_encoding_leaves_no_file(run, served, tmp_path) -> None:
    result = run("encode", served, "--jsonl", "-o", tmp_path / "out.npy", input='{"text": "\\ud800"}\n')
    assert result.exit_code == 1
    assert "Error: " in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_json_describes_the_file(run, served, lines, tmp_path, one_document) -> None:
    output = tmp_path / "out.npy"
    result = one_document(run("encode", served, lines, "-o", output, "--format", "json"))["result"]
    assert result.pop("seconds") > 0
    assert result == {
        "file": str(output),
        "shape": [5, 32],
        "dtype": "float32",
        "model_file": str(served / "onnx/model.onnx"),
        "rejected": 0,
        "rejects": None,
        "shards": 1,
        "kept_rows": 0,
    }


def test_json_without_a_file_has_the_vectors_in_it(run, served, model, one_document) -> None:
    result = one_document(run("encode", served, "--format", "json", input="one\ntwo\n"))["result"]
    np.testing.assert_allclose(result["embeddings"], model.encode(["one", "two"]), atol=1e-6)


def test_quiet_prints_the_path_alone(run, served, lines, tmp_path) -> None:
    result = run("encode", served, lines, "-o", tmp_path / "out.npy", "-q")
    assert (result.stdout, result.stderr) == (f"{tmp_path / 'out.npy'}\n", "")


def test_jsonl_is_utf8_whatever_the_locale(served) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stopt", "encode", str(served), "-q"],
        input="今日\n".encode(),
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout.decode("utf-8"))["text"] == "今日"


def test_messages_survive_a_locale_without_their_letters(served) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stopt", "inspect", "./今日"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: ./\\u4eca\\u65e5 does not exist")


# ---- corpora --------------------------------------------------------------------------------------------------------


def test_a_corpus_of_several_files_becomes_shards(run, served, model, tmp_path, one_document) -> None:
    from pyarrow import parquet

    for number in range(3):
        rows = [{"body": text, "key": f"{number}-{place}"} for place, text in enumerate(TEXTS)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"part{number}.jsonl").write_text(lines, encoding="utf-8")
    given = [tmp_path / "part*.jsonl", "--column", "body", "--id-column", "key", "--shard-size", "4"]
    result = run("encode", served, *given, "-o", tmp_path / "out", "--format", "json")
    found = one_document(result)["result"]
    assert (found["shape"], found["shards"], found["kept_rows"]) == ([15, 32], 4, 0)
    table = parquet.read_table(tmp_path / "out")
    assert table["id"].to_pylist() == [f"{number}-{place}" for number in range(3) for place in range(5)]
    np.testing.assert_allclose(np.stack(table["embedding"].to_numpy()), [*model.encode(TEXTS)] * 3, atol=1e-6)
    result = run("encode", served, *given, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "has a complete job in it\nHint: replace it with --force" in result.stderr
    result = run("encode", served, *given, "-o", tmp_path / "out", "--resume")
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'out'}  15 x 32 float32\n"


@pytest.mark.parametrize("quiet", [True, False])
def test_the_engine_that_was_picked_is_said_once_by_however_many_workers(
    served, lines, tmp_path, quiet
) -> None:
    """As by one process: workers are given it, and have nothing to say."""
    said = []
    for workers in (1, 3):
        command = ["encode", served, lines, "-o", tmp_path / f"{workers}.npy", "--workers", workers]
        done = subprocess.run(
            [sys.executable, "-m", "stopt", *map(str, command), *(["-q"] if quiet else [])],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0
        said.append([line for line in done.stderr.splitlines() if "a second" not in line])
    assert said[0] == said[1]
    assert sum("picked" in line for line in said[0]) == 1


def test_rows_that_were_rejected_are_told(run, served, tmp_path) -> None:
    content = '{"text": "one"}\n{"text": "\\ud800"}\n{"text": "three"}\n'
    args = ["--jsonl", "--on-error", "reject", "-o", tmp_path / "out.jsonl"]
    result = run("encode", served, *args, input=content)
    assert result.exit_code == 0
    rejects = tmp_path / "out.jsonl.rejected.jsonl"
    assert f"Warning: 1 rows could not be encoded: {rejects}" in result.stderr
    assert json.loads(rejects.read_text())["line"] == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--resume"], "--resume needs a place to write to\nHint: name one: -o"),
        (["--on-error", "reject"], "--on-error reject needs a place to write to"),
        (["--output-format", "npy"], "--output-format needs a place to write to"),
        (["--engine", "ray"], "--engine ray needs a place to write to"),
        (["--ray-address", "x:1"], "a Ray address is given, and the engine is not ray"),
    ],
)
def test_options_that_need_a_file(run, served, args, message) -> None:
    result = run("encode", served, *args, input="one\n")
    assert result.exit_code == 1
    assert message in result.stderr


def test_rows_are_printed_while_they_come(served) -> None:
    """More than a chunk of them: the first are there before the input ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stopt", "encode", str(served), "-q"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write("one\n" * 2048)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["text"] == "one"
    process.kill()
    process.wait()
