"""Calibration texts: where they come from, which are chosen, how they are tokenised, and what is refused."""

import csv
import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow
import pytest
from installed import run_without
from pyarrow import parquet

from stopt.convert.calibration import CalibrationData, read_calibration
from stopt.errors import InputError, OptionError, SourceError
from stopt.reading import read_spec
from stopt.runtime.options import OnnxOptions
from stopt.runtime.pipeline import Pipeline
from stopt.steps import CalibrationOptions

# with what each format could trip over
TEXTS = [f'Text {number}, with a comma, "quotes" and 日本語' for number in range(40)]

Write = Callable[[Path], None]


def _lines(file: Path) -> None:
    file.write_text("\n".join([*TEXTS, "", "  "]), encoding="utf-8")


def _jsonl(file: Path) -> None:
    file.write_text("".join(json.dumps({"id": 1, "body": text}) + "\n" for text in TEXTS), encoding="utf-8")


def _csv(file: Path) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t" if file.suffix == ".tsv" else ",")
        writer.writerows([("id", "body"), *((1, text) for text in TEXTS), (2, "")])


def _parquet(file: Path) -> None:
    parquet.write_table(pyarrow.table({"id": range(41), "body": [*TEXTS, None]}), file)


FILES: dict[str, Write] = {
    "texts.txt": _lines,
    "texts.jsonl": _jsonl,
    "texts.csv": _csv,
    "texts.tsv": _csv,
    "texts.parquet": _parquet,
}


def written(folder: Path, name: str) -> Path:
    FILES[name](folder / name)
    return folder / name


# ---- sources --------------------------------------------------------------------------------------------------------


def test_texts_ship_with_stopt() -> None:
    data = read_calibration(CalibrationOptions())
    assert data.source == "texts that ship with stopt"
    assert len(data.texts) == len(set(data.texts)) == 300
    assert sum(not text.isascii() for text in data.texts) > 50
    assert max(map(len, data.texts)) > 4 * min(map(len, data.texts))


@pytest.mark.parametrize("name", FILES)
def test_texts_come_from_a_file(tmp_path, name) -> None:
    data = read_calibration(CalibrationOptions(texts=written(tmp_path, name), column="body"))
    assert data.texts == TEXTS
    assert data.source == name


@pytest.fixture
def dataset_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set on disk, with a cache of its own."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "dataset"
    folder.mkdir()
    written(folder, "texts.parquet").rename(folder / "train.parquet")
    return folder


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_texts_come_from_a_data_set(dataset_folder) -> None:
    options = CalibrationOptions(dataset=str(dataset_folder), column="body", num_samples=20)
    data = read_calibration(options)
    assert data.source == f"dataset {dataset_folder} [train] body"
    assert len(data.texts) == 20
    assert set(data.texts) < set(TEXTS)
    assert read_calibration(options) == data


@pytest.mark.filterwarnings("ignore")
def test_data_set_without_the_column_or_the_split(dataset_folder) -> None:
    with pytest.raises(SourceError, match=r"has no column 'text'; it has id, body"):
        read_calibration(CalibrationOptions(dataset=str(dataset_folder)))
    with pytest.raises(SourceError, match=r"cannot be loaded: .*validation") as caught:
        read_calibration(CalibrationOptions(dataset=str(dataset_folder), split="validation"))
    assert caught.value.hint == "check its name, configuration and split"


@pytest.mark.filterwarnings("ignore")
def test_data_set_that_is_not_there(tmp_path) -> None:
    with pytest.raises(SourceError, match="nowhere cannot be loaded") as caught:
        read_calibration(CalibrationOptions(dataset=str(tmp_path / "nowhere")))
    assert caught.value.hint == "check its name, configuration and split"


# ---- which are chosen -----------------------------------------------------------------------------------------------


def test_the_seed_says_which(tmp_path) -> None:
    file = written(tmp_path, "texts.txt")

    def chosen(**options: int) -> CalibrationData:
        return read_calibration(CalibrationOptions(texts=file, num_samples=16, **options))

    assert chosen() == chosen()
    assert chosen().texts == random.Random(42).sample(TEXTS, 16)
    assert set(chosen().texts) < set(TEXTS)
    assert chosen().texts != chosen(seed=1).texts


def test_the_texts_are_hashed_in_their_order(tmp_path) -> None:
    data = read_calibration(CalibrationOptions(texts=written(tmp_path, "texts.txt")))
    described = data.describe()
    assert described | {"sha256": ""} == {"source": "texts.txt", "samples": 40, "sha256": ""}
    assert len(described["sha256"]) == 64
    # the same texts in another format are the same data
    again = read_calibration(CalibrationOptions(texts=written(tmp_path, "texts.csv"), column="body"))
    assert again.describe()["sha256"] == described["sha256"]
    assert CalibrationData("", data.texts[::-1]).describe()["sha256"] != described["sha256"]
    joined = CalibrationData("", ["a b", "c"]).describe()["sha256"]
    assert joined != CalibrationData("", ["a", "b c"]).describe()["sha256"]


# ---- how they are run -----------------------------------------------------------------------------------------------


def opened(folder: Path) -> Pipeline:
    return Pipeline.open(folder, read_spec(folder), OnnxOptions(), "cpu")


def test_texts_keep_their_natural_length(exported) -> None:
    data = CalibrationData("", ["one", "a longer text of many words", "word " * 500])
    batches = list(data.batches(opened(exported("bert"))))
    assert [batch.input_ids.shape[0] for batch in batches] == [1, 1, 1]
    assert all(batch.attention_mask.all() for batch in batches)
    lengths = [batch.input_ids.shape[1] for batch in batches]
    assert lengths[0] < lengths[1] < lengths[2] == 128


def test_prompts_take_turns(exported) -> None:
    pipeline = opened(exported("bert", prompts={"query": "query: ", "passage": "passage: ", "document": ""}))
    prompts = [prompt for prompt in pipeline.spec.prompts.values() if prompt]
    assert sorted(prompts) == ["passage: ", "query: "]
    data = CalibrationData("", ["the guitar"] * 4)
    expected = pipeline.tokenizer.tokenize([f"{prompt}the guitar" for prompt in prompts] * 2)
    found = [batch.input_ids[0].tolist() for batch in data.batches(pipeline)]
    assert found == [tokens.ids.tolist() for tokens in expected]


def test_without_prompts_the_text_is_all(exported) -> None:
    pipeline = opened(exported("bert"))
    (batch,) = CalibrationData("", ["the guitar"]).batches(pipeline)
    assert batch.input_ids[0].tolist() == pipeline.tokenizer.tokenize(["the guitar"])[0].ids.tolist()


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "count"), [("", 0), ("\n \n", 0), ("a single line\n", 1), ("line\n" * 15, 15)]
)
def test_too_few_texts(tmp_path, content, count) -> None:
    file = tmp_path / "few.txt"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=f"few.txt has {count} texts to calibrate with, too few") as caught:
        read_calibration(CalibrationOptions(texts=file))
    assert caught.value.hint == "give 16 at least, better hundreds, of the kind that will be encoded"


@pytest.mark.parametrize("name", ["texts.csv", "texts.tsv", "texts.parquet"])
def test_missing_column_lists_those_there(tmp_path, name) -> None:
    file = written(tmp_path, name)
    with pytest.raises(SourceError) as caught:
        read_calibration(CalibrationOptions(texts=file, column="bodi"))
    assert caught.value.message == f"{file} has no column 'bodi'; it has id, body"
    assert caught.value.hint == "did you mean 'body'?"


def test_missing_member_lists_those_there(tmp_path) -> None:
    with pytest.raises(
        SourceError, match=r"line 1 of .*texts\.jsonl has no text 'text'; it has: id, body"
    ) as caught:
        read_calibration(CalibrationOptions(texts=written(tmp_path, "texts.jsonl")))
    assert "--column" in caught.value.hint


@pytest.mark.parametrize("name", ["empty.csv", "empty.tsv"])
def test_csv_without_a_line(tmp_path, name) -> None:
    (tmp_path / name).write_text("", encoding="utf-8")
    with pytest.raises(SourceError, match="has no column 'text'; it has none"):
        read_calibration(CalibrationOptions(texts=tmp_path / name))


def test_csv_with_a_short_row(tmp_path) -> None:
    file = tmp_path / "short.csv"
    file.write_text("id,text\n" + "1,a text\n" * 20 + "2\n", encoding="utf-8")
    assert read_calibration(CalibrationOptions(texts=file)).texts == ["a text"] * 20


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"id,body\n1,a\n", None], ids=["empty", "magic", "csv", "cut"]
)
def test_unreadable_parquet(tmp_path, content) -> None:
    file = written(tmp_path, "texts.parquet")
    file.write_bytes(file.read_bytes()[:-40] if content is None else content)
    with pytest.raises(SourceError, match=r"texts\.parquet cannot be read as Parquet") as caught:
        read_calibration(CalibrationOptions(texts=file, column="body"))
    assert caught.value.hint == "is it complete?"


@pytest.mark.parametrize("name", ["latin.txt", "latin.csv", "latin.tsv", "latin.jsonl"])
def test_file_that_is_not_utf8(tmp_path, name) -> None:
    (tmp_path / name).write_bytes("text\nGrüße\n".encode("latin-1") * 20)
    if name.endswith("jsonl"):
        (tmp_path / name).write_bytes('{"text": "Grüße"}\n'.encode("latin-1"))
    with pytest.raises(SourceError, match="UTF-8"):
        read_calibration(CalibrationOptions(texts=tmp_path / name))


@pytest.mark.parametrize("name", ["nowhere.txt", "nowhere.csv", "nowhere.jsonl", "nowhere.parquet"])
def test_file_that_is_not_there(tmp_path, name) -> None:
    with pytest.raises(SourceError, match=f"{name} cannot be read"):
        read_calibration(CalibrationOptions(texts=tmp_path / name))


def test_file_and_data_set_exclude_each_other() -> None:
    with pytest.raises(OptionError, match="from a file or from a data set, not from both") as caught:
        CalibrationOptions(texts=Path("a.txt"), dataset="b")
    assert caught.value.hint == "leave one of them out"


@pytest.mark.parametrize("number", [-1, 0, 15])
def test_too_few_samples(number) -> None:
    with pytest.raises(OptionError, match=f"{number} calibration texts are too few") as caught:
        CalibrationOptions(num_samples=number)
    assert caught.value.hint == "use 16 at least, better hundreds"
    assert asdict(CalibrationOptions(num_samples=16))["num_samples"] == 16


@pytest.mark.parametrize(
    ("options", "package"),
    [("texts=Path('texts.parquet')", "pyarrow"), ("dataset='somewhere'", "datasets")],
)
def test_missing_package_is_named_with_its_extra(tmp_path, options, package) -> None:
    code = f"""
from pathlib import Path
from stopt.convert.calibration import read_calibration
from stopt.errors import MissingExtra
from stopt.steps import CalibrationOptions
try:
    read_calibration(CalibrationOptions({options}))
except MissingExtra as error:
    print(error)
"""
    done = run_without({"pyarrow", "datasets"}, tmp_path, "-c", code)
    assert done.stdout == f"{package} is not installed (pip install 'stopt[data]')\n", done.stderr
