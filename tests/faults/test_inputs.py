"""F16 and F17: odd and impossible texts, texts around the limit, and rows that are no vectors."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stopt import CrossEncoder, InputError, SentenceTransformer, SparseEncoder, VectorError
from stopt.errors import ResourceLimitError
from stopt.reading import read_spec
from stopt.runtime.encoding import EncodeOptions, embed
from stopt.runtime.memory import _blame
from stopt.runtime.pipeline import RunOptions
from stopt.runtime.scoring import _softmax, find_logits
from stopt.runtime.tokenizer import TextTokenizer
from stopt.scale import EncodeJob, ModelOptions, OnError, encode_corpus
from stopt.scale.chunks import Chunk, Place
from stopt.scale.sources import InputFile, InputFormat, Row

BACKENDS = ("torch", "onnx", "openvino")
CLOSE = 1e-4  # float32 in another order

BAD: dict[str, Any] = {
    "lone surrogate": ["fine", "ok\ud800"],
    "None": ["fine", None],
    "nan": ["fine", float("nan")],
    "bytes": ["fine", b"text"],
    "number": ["fine", 3],
    "nested": ["fine", ["a"]],
}
ODD = {
    "empty": "",
    "whitespace": " \t\n",
    "NUL": "a\0b",
    "right to left": "\u202eabc \u05e9\u05dc\u05d5\u05dd",
    "joined": "👩\u200d👩\u200d👧",
    "combining": "e" + "\u0301" * 100_000,
    "long word": "x" * 200_000,
}


@pytest.fixture(scope="module")
def models(exported: Callable[..., Path]) -> dict[str, SentenceTransformer]:
    return {backend: SentenceTransformer(exported("bert"), backend=backend) for backend in BACKENDS}


@pytest.mark.scorecard("F16")
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_text_is_the_same_error_in_every_engine(models, bad) -> None:
    found = set()
    for model in models.values():
        with pytest.raises(InputError) as caught:
            model.encode(BAD[bad])
        assert caught.value.index == 1
        found.add((caught.value.message, caught.value.hint))
    assert len(found) == 1
    assert "1" in found.pop()[0]


@pytest.mark.scorecard("F16")
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_text_has_the_same_vector_in_every_engine(models, odd) -> None:
    vectors = [model.encode(["one text", ODD[odd]]) for model in models.values()]
    for vector in vectors:
        assert np.isfinite(vector).all()
        np.testing.assert_allclose(vector, vectors[0], atol=CLOSE)


@pytest.mark.scorecard("F16")
def test_no_text_is_an_empty_array_in_every_engine(models) -> None:
    found = {(model.encode([]).shape, str(model.encode([]).dtype)) for model in models.values()}
    assert len(found) == 1


@pytest.mark.scorecard("F17")
@pytest.mark.parametrize("words", [124, 125, 126, 127, 128, 100_000])
def test_lengths_around_the_limit_give_the_vector_of_torch(models, words) -> None:
    texts = ["short", " ".join(["fox"] * words), "one of another length"]
    expected = models["torch"].encode(texts, batch_size=1)
    for model in models.values():
        for batch_size in (1, 2, None):
            np.testing.assert_allclose(model.encode(texts, batch_size=batch_size), expected, atol=CLOSE)


# ---- rows that are no vectors ---------------------------------------------------------------------------------------


def poisoned(folder: Path, token: str, value: float) -> None:
    """Set a token's embedding in all of a folder's files to a value."""
    rows = load_file(folder / "model.safetensors")
    name = next(name for name in rows if name.endswith("word_embeddings.weight"))
    number = TextTokenizer(folder, read_spec(folder).tokenizer).tokenize([token])[0].ids[1]
    row = rows[name][number]
    for file in ("model.safetensors", "onnx/model.onnx", "openvino/openvino_model.bin"):
        content = (folder / file).read_bytes()
        assert row.tobytes() in content
        (folder / file).write_bytes(content.replace(row.tobytes(), np.full_like(row, value).tobytes()))
    (folder / "stopt.json").unlink()


@pytest.fixture
def copy_of(exported: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    def copy(*args: Any, **options: Any) -> Path:
        return Path(shutil.copytree(exported(*args, **options), tmp_path / "model"))

    return copy


@pytest.mark.scorecard("F17")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_that_is_not_finite_is_an_error_that_names_it(copy_of, backend) -> None:
    folder = copy_of("bert")
    poisoned(folder, "fox", float("nan"))
    model = SentenceTransformer(folder, backend=backend)
    texts = ["the dog"] * 40
    texts[7] = texts[33] = "the fox"
    with pytest.raises(VectorError) as caught:
        model.encode(texts, batch_size=4, normalize_embeddings=True, truncate_dim=8)
    assert caught.value.rows  # the first batch that has one ends the call
    assert set(caught.value.rows) <= {7, 33}
    assert "NaN or infinity in" in caught.value.message
    assert str(caught.value.rows[0]) in caught.value.message
    assert "check_rows to False" in caught.value.hint
    assert model.encode(["the dog"]).shape == (1, 32)
    with pytest.raises(VectorError, match="input 0 has NaN or infinity in its vector"):
        model.encode("the fox")
    model.check_rows = False
    found = model.encode(texts)
    assert sorted(np.flatnonzero(~np.isfinite(found).all(1))) == [7, 33]


@pytest.mark.scorecard("F17")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_vector_of_zeros_is_an_error(copy_of, backend) -> None:
    folder = copy_of("bert", dense=16)
    file = folder / "2_Dense/model.safetensors"
    save_file({name: 0 * array for name, array in load_file(file).items()}, file)
    (folder / "stopt.json").unlink(missing_ok=True)
    model = SentenceTransformer(folder, backend=backend)
    with pytest.raises(VectorError, match="2 inputs of 2 have a vector of zeros: 0, 1") as caught:
        model.encode(["a text", "another"])
    assert caught.value.exit_code == 1
    assert "stopt check" in caught.value.hint
    assert "check_rows to False" in caught.value.hint


@pytest.mark.scorecard("F17")
def test_overflow_of_half_precision_is_noticed(copy_of) -> None:
    folder = copy_of("bert", dense=16)
    file = folder / "2_Dense/model.safetensors"
    save_file({name: np.float32(1e7) * array for name, array in load_file(file).items()}, file)
    (folder / "stopt.json").unlink(missing_ok=True)
    assert np.isfinite(SentenceTransformer(folder, backend="torch").encode(["a text"])).all()
    half = SentenceTransformer(folder, backend="torch", model_kwargs={"dtype": "float16"})
    with pytest.raises(VectorError, match="input 0 has NaN or infinity") as caught:
        half.encode(["a text"])
    assert "float16 overflows" in caught.value.hint


@pytest.mark.scorecard("F17")
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_scores_and_sparse_vectors_are_checked_too(copy_of, exported, tmp_path, backend) -> None:
    folder = copy_of("bert", kind="cross-encoder")
    poisoned(folder, "fox", float("inf"))
    cross = CrossEncoder(folder, backend=backend)
    with pytest.raises(VectorError, match="input 1 has NaN or infinity in its scores"):
        cross.predict([("a", "the dog"), ("a", "the fox")])
    cross.check_rows = False
    assert not np.isfinite(cross.predict([("a", "the fox")])).all()
    folder = Path(shutil.copytree(exported("bert", kind="splade"), tmp_path / "splade"))
    poisoned(folder, "fox", float("nan"))
    # torch ties the token's row to its dimension of every vector
    with pytest.raises(VectorError, match=r"NaN or infinity in (its|their) vector"):
        SparseEncoder(folder, backend=backend).encode(["the dog", "the fox"])


@pytest.mark.scorecard("F17")
def test_a_text_without_tokens_has_no_vector_and_that_is_no_fault(tiny) -> None:
    model = SentenceTransformer(tiny(kind="static"))
    assert not model.encode([""]).any()


@pytest.mark.scorecard("F17")
@pytest.mark.parametrize("bad", [0.0, float("nan")])
def test_a_table_may_have_rows_of_zeros_and_no_others_without_meaning(copy_of, bad) -> None:
    folder = copy_of("bert", kind="static")
    file = next(folder.rglob("model.safetensors"))
    table = {name: np.array(array) for name, array in load_file(file).items()}
    (weights,) = table.values()
    chosen = SentenceTransformer(folder).pipeline.tokenizer.tokenize(["the"])[0].ids
    weights[list(chosen)] = bad
    save_file(table, file)
    (folder / "stopt.json").unlink(missing_ok=True)
    model = SentenceTransformer(folder)
    if bad == 0:
        assert model.encode(["the fox", "the"]).any(1).tolist() == [True, False]
    else:
        with pytest.raises(VectorError, match="NaN or infinity"):
            model.encode(["the fox", "the"])


@pytest.mark.scorecard("F17")
def test_a_corpus_is_held_to_the_same_rule(copy_of, tmp_path) -> None:
    """`stopt encode` wrote vectors of zeros where `encode` raises."""
    folder = copy_of("bert", dense=16)
    file = folder / "2_Dense/model.safetensors"
    save_file({name: 0 * array for name, array in load_file(file).items()}, file)
    (folder / "stopt.json").unlink(missing_ok=True)
    (tmp_path / "in.txt").write_text("a text\nanother\n", encoding="utf-8")
    job = EncodeJob(ModelOptions(str(folder), "onnx"), [tmp_path / "in.txt"], tmp_path / "out.jsonl")
    with pytest.raises(InputError, match=r"line 1 of .*in\.txt has an embedding of zeros"):
        encode_corpus(job)
    assert not (tmp_path / "out.jsonl").exists()
    report = encode_corpus(replace(job, on_error=OnError.REJECT))
    assert (report.rejected, report.shape) == (2, (0, 16))


@pytest.mark.scorecard("F17")
def test_rows_without_a_vector_are_put_aside_from_every_batch(copy_of, tmp_path) -> None:
    folder = copy_of("bert")
    poisoned(folder, "fox", float("nan"))
    texts = [
        f"the {'fox' if number % 7 == 3 else 'dog'} and more{' words' * (number % 5)}" for number in range(60)
    ]
    (tmp_path / "in.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    chosen = ModelOptions(str(folder), "onnx", batch_size=4)
    job = EncodeJob(chosen, [tmp_path / "in.txt"], tmp_path / "out.jsonl", on_error=OnError.REJECT)
    bad = [number for number in range(60) if number % 7 == 3]
    report = encode_corpus(job)
    rows = [json.loads(line) for line in job.output.read_text(encoding="utf-8").splitlines()]
    assert report.rejected == len(bad)
    assert [row["text"] for row in rows] == [text for text in texts if "fox" not in text]
    expected = SentenceTransformer(folder, backend="onnx").encode([row["text"] for row in rows])
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)


@pytest.mark.scorecard("F17")
def test_a_bad_row_is_named_by_its_place_in_the_call_not_in_a_chunk_of_it(copy_of) -> None:
    places = np.arange(100, 104)
    folder = copy_of("bert")
    poisoned(folder, "fox", float("nan"))
    texts = ["the dog", "a dog", "the fox", "dogs"]
    pipeline = SentenceTransformer(folder, backend="onnx").pipeline
    with pytest.raises(VectorError, match="input 102 has NaN") as caught:
        embed(pipeline, texts, EncodeOptions(), places)
    assert caught.value.rows == (102,)
    with pytest.raises(VectorError, match="input 103 has NaN"):
        embed(pipeline, ["the fox"], EncodeOptions(), places[3:])


@pytest.mark.scorecard("F17")
def test_a_bad_pair_is_named_by_its_place_in_the_call(copy_of) -> None:
    folder = copy_of("bert", kind="cross-encoder")
    poisoned(folder, "fox", float("nan"))
    pairs = [("a", "the dog"), ("a", "the fox"), ("a", "dogs")]
    with pytest.raises(VectorError, match="input 101 has NaN") as caught:
        find_logits(CrossEncoder(folder, backend="onnx").pipeline, pairs, RunOptions(), np.arange(100, 103))
    assert caught.value.rows == (101,)


def test_softmax_of_large_logits_is_finite() -> None:
    found = _softmax(np.array([[200.0, 0.0], [-200.0, -200.0]], np.float32))
    np.testing.assert_allclose(found, [[1.0, 0.0], [0.5, 0.5]], atol=1e-6)


def test_the_longest_of_several_texts_is_blamed_for_want_of_memory() -> None:
    tried: list[int] = []

    def run(places: Sequence[int], size: int | None) -> None:
        tried.extend(places)
        if places[0] in (1, 2):
            raise MemoryError

    with pytest.raises(ResourceLimitError, match="input 12 alone, of 900 characters") as caught:
        _blame(run, [5, 700, 900, 6], [10, 11, 12, 13])
    assert (caught.value.positions, tried) == ((12,), [2])


def test_ids_are_part_of_what_a_shard_was_made_of() -> None:
    def digest(identity: object) -> str:
        hashed = hashlib.sha256()
        row = Row(1, 10, identity, "a text")  # type: ignore[arg-type]
        file = InputFile(Path("in.jsonl"), InputFormat.JSONL, 10, "in.jsonl")
        Chunk(0, Place(), [(file, row)], 1.0).digest(hashed)
        return hashed.hexdigest()

    assert digest("a") == digest("a")
    assert len({digest("a"), digest("b"), digest(1), digest("1")}) == 4
