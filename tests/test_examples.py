"""Texts and pairs out of files."""

import json
from pathlib import Path

import pytest

from stopt.errors import InputError, SourceError
from stopt.examples import as_pairs, as_texts, pair_members, read_examples

PAIR = ("a question", "an answer")


def write(folder: Path, name: str, *lines: object) -> Path:
    file = folder / name
    rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("name", "lines", "column"),
    [
        ("a.tsv", ["a question\tan answer", "one\ttwo"], "text"),
        ("a.txt", ["query\tdocument", "a question\tan answer", "one\ttwo"], "text"),
        ("a.tsv", ["score\tsentence1\tsentence2", "5.0\ta question\tan answer", "1\tone\ttwo"], "text"),
        ("a.jsonl", [list(PAIR), "", ["one", "two"]], "text"),
        ("a.jsonl", [{"query": PAIR[0], "document": PAIR[1]}, {"query": "one", "document": "two"}], "text"),
        (
            "a.jsonl",
            [
                {"id": "7", "sentence1": PAIR[0], "sentence2": PAIR[1]},
                {"sentence1": "one", "sentence2": "two"},
            ],
            "text",
        ),
        ("a.jsonl", [{"text": PAIR[0], "body": PAIR[1]}, {"text": "one", "body": "two"}], "text, body"),
    ],
)
def test_pairs_are_read(tmp_path, name, lines, column) -> None:
    found = read_examples(write(tmp_path, name, *lines), column)
    assert as_pairs(found, "the file") == [PAIR, ("one", "two")]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.txt", ["one", "", "two\tparts"]),
        ("a.jsonl", [{"text": "one"}, {"text": " "}, {"text": "two\tparts"}]),
        ("a.jsonl", [{"text": "one", "query": "x", "document": "y"}, {"text": "two\tparts"}]),
    ],
)
def test_single_texts_are_read(tmp_path, name, lines) -> None:
    found = read_examples(write(tmp_path, name, *lines))
    assert as_texts(found, "the file") == ["one", "two\tparts"]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (["no tab here"], "number 1 of the file is a single text, and a cross-encoder reads pairs"),
        ([PAIR, "one\ttwo\tthree"], "number 2 of the file is 3 columns, and a cross-encoder reads pairs"),
        (["score\tsentence1\tsentence2", "only one"], "number 2 of the file is a single text"),
    ],
)
def test_what_is_no_pair_is_named(examples, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        as_pairs(examples, "the file")
    assert "with a tab between them" in caught.value.hint


def test_pairs_are_not_single_texts() -> None:
    with pytest.raises(InputError, match=r"the file has pairs of texts \(the first is number 2\)") as caught:
        as_texts(["one", PAIR], "the file")
    assert caught.value.hint == "give one text per line; pairs are for cross-encoders"
    assert caught.value.index == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([list(PAIR), "{"], "line 2 of .* is not JSON"),
        ([list(PAIR), ["one"]], "line 2 of .* has no pair of texts; it has: list"),
        (
            [{"query": "a", "document": "b"}, {"query": "a"}],
            "line 2 of .* has no pair of texts; it has: query",
        ),
        ([list(PAIR), 4], "line 2 of .* has no pair of texts; it has: int"),
    ],
)
def test_a_line_unlike_the_first_is_named(tmp_path, lines, message) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        read_examples(write(tmp_path, "a.jsonl", *lines))
    assert caught.value.hint


def test_a_missing_file_is_an_error(tmp_path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        read_examples(tmp_path / "none.jsonl")


def test_columns_can_be_named() -> None:
    assert pair_members(["q", "d", "x"], "q,d") == ("q", "d")
    assert pair_members(["q", "d"], "q,e") is None
    assert pair_members(["score", "sentence1", "sentence2"]) == ("sentence1", "sentence2")
    assert pair_members(["text"], "text") is None
