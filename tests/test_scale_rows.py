"""Reading corpora: every format gives the same rows, from any row on, and says what is wrong with which."""

import csv
import gzip
import io
from pathlib import Path

import pyarrow
import pytest
from corpora import FORMATS, PAIRS, TEXTS, write_pairs, write_texts
from pyarrow import parquet

from stopt.errors import OptionError, SourceError
from stopt.scale.rows import read_rows
from stopt.scale.sources import Columns, InputFormat, find_inputs


def rows_of(file: Path, columns: Columns = Columns(), **options):  # noqa: B008
    (found,) = find_inputs([file], jsonl=options.pop("jsonl", False))
    return list(read_rows(found, columns, **options))


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_has_the_same_texts(tmp_path, ending) -> None:
    found = rows_of(write_texts(tmp_path, ending))
    assert [row.text for row in found] == TEXTS
    assert {row.problem for row in found} == {None}
    assert {row.id for row in found} == {None}


@pytest.mark.parametrize("ending", [each for each in FORMATS if not each.startswith("txt")])
def test_ids_come_from_a_column(tmp_path, ending) -> None:
    found = rows_of(write_texts(tmp_path, ending), Columns(id="key"))
    assert [row.id for row in found] == [f"d{number}" for number in range(len(TEXTS))]


@pytest.mark.parametrize("ending", [*FORMATS, "csv.gz"])
def test_reading_goes_on_where_a_row_ended(tmp_path, ending) -> None:
    texts = ["one", "two\r", "three, four", "", "five\u2028six", 'say "seven"', "eight"]
    if ending.startswith("csv"):
        texts[1] = "two\nlines"
    file = write_texts(tmp_path, ending, texts)
    whole = rows_of(file)
    for place, row in enumerate(whole):
        assert rows_of(file, start=(row.end, row.line)) == whole[place + 1 :]


@pytest.mark.parametrize("ending", ["txt", "jsonl", "csv", "tsv", "parquet", "csv.gz"])
def test_pairs_of_every_format(tmp_path, ending) -> None:
    file = write_pairs(tmp_path, ending)
    for column in ("", "query,document"):
        if ending != "txt" or not column:
            assert [row.text for row in rows_of(file, Columns(column, pairs=True))] == PAIRS
    whole = rows_of(file, Columns(pairs=True))
    assert rows_of(file, Columns(pairs=True), start=(whole[1].end, whole[1].line)) == whole[2:]


def test_pairs_with_ids(tmp_path) -> None:
    (tmp_path / "x.tsv").write_text("id\tquery\tdocument\n7\ta\tb\n", encoding="utf-8")
    (row,) = rows_of(tmp_path / "x.tsv", Columns(id="id", pairs=True))
    assert (row.id, row.text) == ("7", ("a", "b"))


def test_pairs_without_a_header(tmp_path) -> None:
    (tmp_path / "x.tsv").write_text("a\tb\nc\td\n", encoding="utf-8")
    assert [row.text for row in rows_of(tmp_path / "x.tsv", Columns(pairs=True))] == [("a", "b"), ("c", "d")]


def test_standard_input(monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    (file,) = find_inputs(["-"])
    assert (file.name, file.size_bytes) == ("stdin", 0)
    assert [row.text for row in read_rows(file, Columns())] == ["one", "two"]


# ---- files ----------------------------------------------------------------------------------------------------------


def test_patterns_and_folders_are_read_in_order_of_names(tmp_path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt", "_hidden.txt", ".hidden.txt", "readme.md"):
        (tmp_path / name).write_text("{}\n")
    names = [file.path.name for file in find_inputs([tmp_path / "*.jsonl", tmp_path / "c.txt"])]
    assert names == ["a.jsonl", "b.jsonl", "c.txt"]
    found = find_inputs([tmp_path])
    assert [file.path.name for file in found] == ["a.jsonl", "b.jsonl", "c.txt"]
    assert [file.format for file in found] == [InputFormat.JSONL, InputFormat.JSONL, InputFormat.LINES]


@pytest.mark.parametrize(
    ("given", "error", "message", "hint"),
    [
        (["none.txt"], SourceError, "none.txt cannot be read: No such file or directory", "name a text file"),
        (["none-*.txt"], SourceError, "no file fits 'none-*.txt'", "check the folder"),
        (["."], SourceError, "the folder . has no file of a format that is read", "known: .txt, .jsonl"),
        (["-", "x"], OptionError, "standard input is given beside files", "give one of the two"),
        (["x.md", "x.md"], OptionError, "x.md is given twice", "give every file once"),
    ],
)
def test_inputs_that_are_not_there(tmp_path, monkeypatch, given, error, message, hint) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.md").touch()
    with pytest.raises(error) as caught:
        find_inputs(given)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_file_cut_short_is_named(tmp_path) -> None:
    whole = gzip.compress(b"one text\n" * 1000)
    (tmp_path / "x.txt.gz").write_bytes(whole[:-10])
    (tmp_path / "y.txt.gz").write_bytes(b"no gzip")
    (tmp_path / "z.parquet").write_bytes(b"PAR1")
    for name, message, hint in (
        ("x.txt.gz", "is not a whole gzip file", "fetch it again"),
        ("y.txt.gz", "is not a whole gzip file", "fetch it again"),
        ("z.parquet", "cannot be read as Parquet", "is it complete?"),
    ):
        with pytest.raises(SourceError) as caught:
            rows_of(tmp_path / name)
        assert f"{tmp_path / name} {message}" in caught.value.message
        assert caught.value.hint == hint


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_column_that_is_not_there(tmp_path, ending) -> None:
    file = write_texts(tmp_path, ending)
    for columns, name in ((Columns("txet"), "txet"), (Columns(id="kye"), "kye")):
        with pytest.raises(SourceError) as caught:
            rows_of(file, columns)
        assert caught.value.message == f"{file} has no column {name!r}; it has key, text"
        assert "did you mean" in caught.value.hint
    with pytest.raises(SourceError) as caught:
        rows_of(file, Columns("body"))
    assert caught.value.hint == "name one that is there: --column for the text, --id-column for the id"
    with pytest.raises(SourceError, match=r"two texts of a pair|no column 'a,b'"):
        rows_of(file, Columns("a,b", pairs=True))


# ---- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "content", "columns", "reasons"),
    [
        ("txt", b"fine\nsch\xf6n\nfine\n", Columns(), {2: "is not UTF-8 text: byte 0xf6 at character 3"}),
        (
            "jsonl",
            b'{"text": "ok\\ud800"}\n{"text": "fine"}\n{"text": 3}\n{]\n"x"\n{"text": "\xff"}\n',
            Columns(),
            {
                1: "has a lone surrogate, U+D800 at character 2: not valid Unicode",
                3: "has no text 'text'; it has: text",
                4: "is not JSON",
                5: "has no text 'text'; it has: str",
                6: "is not UTF-8 text: byte 0xff at character 10",
            },
        ),
        (
            "jsonl",
            b'{"text": "a", "id": 1}\n{"text": "b"}\n{"text": "c", "id": 1.5}\n{"text": "d", "id": null}\n'
            b'{"text": "e", "id": true}\n{"text": "f", "id": 99999999999999999999}\n{"text": "g", "id": "\\udc00"}\n',
            Columns(id="id"),
            {
                2: "has no id",
                3: "has the id 1.5",
                4: "has no id",
                5: "has the id True",
                6: "has the id 99999999999999999999",
                7: "has an id that has a lone surrogate",
            },
        ),
        (
            "csv",
            b'id,text\n1,fine\n2\n3,"two\nlines"\n4,a,b\n5,\xf6\n',
            Columns(),
            {
                3: "has 1 columns, the header 2",
                6: "has 3 columns, the header 2",
                7: "is not UTF-8 text: byte 0xf6",
            },
        ),
        ("tsv", b"id\ttext\n1\tfine\n2\n", Columns(), {3: "has 1 columns, the header 2"}),
        (
            "tsv",
            b"a\tb\nc\nd\te\tf\n",
            Columns(pairs=True),
            {2: "is a single text, and a cross-encoder reads pairs", 3: "is 3 columns, and"},
        ),
        (
            "jsonl",
            b'["a", "b"]\n["a"]\n{"query": "a"}\n{"query": "a", "document": 1}\n',
            Columns(pairs=True),
            {2: "has no pair of texts; it has: list", 3: "has no pair of texts", 4: "has no pair of texts"},
        ),
    ],
)
def test_rows_without_a_usable_text_say_why(tmp_path, ending, content, columns, reasons) -> None:
    file = tmp_path / f"x.{ending}"
    file.write_bytes(content)
    found = {row.line: row.problem for row in rows_of(file, columns) if row.problem}
    assert set(found) == set(reasons)
    for line, reason in reasons.items():
        assert reason in found[line].reason
        assert found[line].hint


def test_rows_of_parquet_without_a_text_say_why(tmp_path) -> None:
    file = tmp_path / "x.parquet"
    table = pyarrow.table({"text": ["a", None, "c"], "id": pyarrow.array([1, 2, None], pyarrow.int32())})
    parquet.write_table(table, file)
    found = rows_of(file, Columns(id="id"))
    assert [(row.id, row.text) for row in found[:1]] == [(1, "a")]
    assert [(row.line, row.problem.reason) for row in found[1:]] == [(2, "has no text"), (3, "has no id")]
    parquet.write_table(pyarrow.table({"text": [1, 2]}), file)
    assert rows_of(file)[0].problem.reason == "has int where a text is expected"


def test_a_quote_that_is_never_closed_does_not_take_in_the_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("stopt.scale.rows.LONGEST_CELL", 100)
    (tmp_path / "x.csv").write_text('text\nfine\n"open\n' + "a line\n" * 40, encoding="utf-8")
    before = csv.field_size_limit()
    found = rows_of(tmp_path / "x.csv")
    assert csv.field_size_limit() == before  # it is the whole process's
    assert found[0].text == "fine"
    assert "is not CSV: field larger than field limit" in found[1].problem.reason
    assert found[-1].text == "a line"


def test_nothing_is_read_ahead_of_the_rows(tmp_path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "one"}\nbroken\n', encoding="utf-8")
    (file,) = find_inputs([tmp_path / "x.jsonl"])
    assert next(read_rows(file, Columns())).text == "one"
