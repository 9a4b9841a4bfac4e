"""Indices: built, searched, saved, loaded, refused when cut short or of another space."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import stopt.artifact
from stopt import (
    ArtifactError,
    CorruptModel,
    IndexOptions,
    InputError,
    OptionError,
    Ranges,
    SearchIndex,
    SentenceTransformer,
    SourceError,
    SpaceError,
    StoptError,
    UnsupportedModel,
    dequantize_embeddings,
    index_compatibility,
    index_texts,
    load_index,
    quantize_embeddings,
    save_index,
)
from stopt.embeddings.index import probe_ids
from stopt.embeddings.space import MIN_RECALL, Space, fingerprint, neighbour_recall

CLOSE = 1e-5
KINDS = [
    ("float32", "exact", False),
    ("int8", "exact", False),
    ("binary", "exact", False),
    ("float32", "faiss", False),
    ("uint8", "faiss", False),
    ("ubinary", "faiss", False),
    ("float32", "faiss", True),
    ("int8", "faiss", True),
    ("binary", "faiss", True),
    ("float32", "usearch", False),
    ("int8", "usearch", False),
    ("binary", "usearch", False),
    ("float32", "usearch", True),
    ("int8", "usearch", True),
    ("ubinary", "usearch", True),
]


@pytest.fixture(scope="module")
def documents() -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((300, 32)) + 0.2
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def words() -> list[str]:
    """Texts that differ; the tiny models know some of these words."""
    random = np.random.default_rng(3)
    known = [
        "a",
        "the",
        "cat",
        "dog",
        "house",
        "tree",
        "river",
        "stone",
        "one",
        "two",
        "three",
        "red",
        "blue",
    ]
    return [" ".join(random.choice(known, random.integers(2, 9))) + f" {number}" for number in range(60)]


@pytest.fixture(scope="module")
def model(tiny) -> SentenceTransformer:
    return SentenceTransformer(tiny("bert"), backend="torch")


# ---- searching ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "engine", "approximate"), KINDS)
def test_a_loaded_index_answers_like_the_one_saved(
    precision, engine, approximate, documents, tmp_path
) -> None:
    options = IndexOptions(precision, engine, approximate)
    index = SearchIndex.build(documents, options)
    expected = index.search(documents[:5], 7)
    # a text finds itself first
    assert [row[0]["corpus_id"] for row in expected] == [0, 1, 2, 3, 4]
    loaded = load_index(save_index(index, tmp_path / "made.index"))
    assert loaded.search(documents[:5], 7) == expected
    assert (loaded.options, loaded.dimension, len(loaded)) == (options, 32, 300)
    assert not [path for path in tmp_path.iterdir() if path.name != "made.index"]


@pytest.mark.parametrize("engine", ["exact", "faiss", "usearch"])
def test_scores_are_those_of_what_is_kept(engine, documents) -> None:
    queries = documents[:4] + np.float32(0.01)
    for precision in ("int8", "uint8"):
        index = SearchIndex.build(documents, IndexOptions(precision, engine))
        codes = quantize_embeddings(documents, precision, index.ranges)
        products = queries @ dequantize_embeddings(codes, precision, index.ranges).T
        found = [[hit["score"] for hit in row] for row in index.search(queries, 5)]
        np.testing.assert_allclose(found, -np.sort(-products, axis=1)[:, :5], atol=CLOSE)


@pytest.mark.parametrize("engine", ["exact", "faiss", "usearch"])
@pytest.mark.parametrize(("by", "kind"), [("int8", "int8"), ("float32", "float32"), ("codes", "binary")])
def test_bits_are_rescored_by_what_was_chosen(engine, by, kind, documents) -> None:
    queries = documents[:4] + np.float32(0.01)
    index = SearchIndex.build(documents, IndexOptions("binary", engine, rescore_by=by, rescore_multiplier=60))
    rows = dequantize_embeddings(quantize_embeddings(documents, kind, index.ranges), kind, index.ranges)
    products = queries @ (rows / np.sqrt(32) if kind == "binary" else rows).T
    found = [[hit["score"] for hit in row] for row in index.search(queries, 5)]
    np.testing.assert_allclose(found, -np.sort(-products, axis=1)[:, :5], atol=CLOSE)


def test_bits_without_rescoring_have_distances(documents) -> None:
    index = SearchIndex.build(documents, IndexOptions("binary")).without_rescoring()
    ((first, second),) = index.search(documents[0], 2)
    assert first == {"corpus_id": 0, "score": 0.0}
    assert second["score"] == np.sort((documents[0] > 0) != (documents > 0)).sum(axis=1)[1:].min()


def test_given_ranges_are_used_and_kept(documents, tmp_path) -> None:
    ranges = Ranges.from_array(np.stack([np.full(32, -1.0), np.full(32, 1.0)]))
    index = SearchIndex.build(documents, IndexOptions("int8"), ranges=ranges)
    loaded = load_index(save_index(index, tmp_path / "made.index"))
    assert loaded.ranges is not None
    assert loaded.ranges.fingerprint == ranges.fingerprint


def test_bytes_are_a_quarter_and_a_32nd(documents) -> None:
    sizes = {
        name: SearchIndex.build(documents, IndexOptions(name)).bytes_per_vector
        for name in ("float32", "int8", "binary")
    }
    assert sizes == {"float32": 128, "int8": 32, "binary": 4}


def test_more_than_there_is_gives_all_there_is(documents) -> None:
    for engine in ("exact", "faiss", "usearch"):
        for precision in ("float32", "int8", "binary"):
            index = SearchIndex.build(documents[:3], IndexOptions(precision, engine))
            (row,) = index.search(documents[0], 10)
            assert sorted(hit["corpus_id"] for hit in row) == [0, 1, 2]


# ---- texts and models -----------------------------------------------------------------------------------------------


def test_an_index_of_texts_finds_them(model, words, tmp_path) -> None:
    index = index_texts(model, words, IndexOptions("int8"), lines=range(1, 61), truncate_dim=16)
    loaded = load_index(save_index(index, tmp_path / "made.index"))
    assert (list(loaded.texts), list(loaded.lines)) == (words, list(range(1, 61)))
    assert loaded.space == index.space
    assert loaded.dimension == 16
    queries = model.encode_query(words[:5], truncate_dim=16, normalize_embeddings=True)
    space = Space.of(model, "elsewhere", 16, normalized=True)
    assert [row[0]["corpus_id"] for row in loaded.search(queries, space=space)] == [0, 1, 2, 3, 4]


def test_cosine_models_are_indexed_at_unit_length_others_as_they_are(tiny, words) -> None:
    lengths = {}
    for name in ("cosine", "dot"):
        model = SentenceTransformer(tiny("bert"), backend="torch", similarity_fn_name=name)
        index = index_texts(model, words)
        assert index.space is not None
        lengths[name] = np.linalg.norm(index.engine.rows(np.arange(60)), axis=1)
        assert index.space.normalized is (name == "cosine")
    np.testing.assert_allclose(lengths["cosine"], 1, atol=CLOSE)
    assert np.abs(lengths["dot"] - 1).max() > 0.1


def test_a_model_that_compares_by_distance_is_refused(tiny, words) -> None:
    model = SentenceTransformer(tiny("bert"), backend="torch", similarity_fn_name="euclidean")
    with pytest.raises(UnsupportedModel, match="compares embeddings by euclidean distance") as caught:
        index_texts(model, words)
    assert "cosine or inner product" in caught.value.hint


def test_queries_of_another_space_are_refused(tiny, model, words) -> None:
    index = index_texts(model, words)
    other = SentenceTransformer(tiny("bert", seed=99), backend="torch")
    space = Space.of(other, "other", None, normalized=True)
    with pytest.raises(
        SpaceError, match="the queries are of another space than the index: fingerprint"
    ) as caught:
        index.search(other.encode_query(words[:1]), space=space)
    assert "SearchIndex.measure" in caught.value.hint
    assert caught.value.exit_code == 3
    cut = replace(Space.of(model, "same", None, normalized=True), normalized=False)
    with pytest.raises(SpaceError, match="normalized False, the index True"):
        index.require(cut)
    index.require(replace(cut, normalized=True, truncate_dim=32))  # as long as it is: not cut


def test_another_file_is_measured_with_the_index_own_texts(exported, tiny, model, words) -> None:
    same = SentenceTransformer(exported("bert"), backend="onnx")
    found = index_texts(model, words).measure(same)
    assert found.compatible
    assert found.recall == pytest.approx(1, abs=0.02)
    assert found.min_cosine > 0.9999
    assert found.failure() is None
    other = index_texts(model, words).measure(SentenceTransformer(tiny("bert", seed=99), backend="torch"))
    assert not other.compatible
    assert other.recall < MIN_RECALL
    failure = other.failure()
    assert isinstance(failure, SpaceError)
    assert "of the 10 documents nearest to a query they find" in failure.message
    assert "build the index again" in failure.hint


def test_compatibility_of_two_files(exported, tiny, model, words) -> None:
    found = index_compatibility(SentenceTransformer(exported("bert"), backend="onnx"), model, words)
    assert (found.texts, found.compatible) == (60, True)
    assert found.as_dict()["compatible"] is True
    other = index_compatibility(SentenceTransformer(tiny("bert", seed=99), backend="torch"), model, words)
    assert not other.compatible
    strict = index_compatibility(model, model, words, min_recall=1.0)
    assert (strict.recall, strict.compatible) == (1.0, True)


def test_another_width_needs_no_measuring(model, words) -> None:
    cut = SentenceTransformer(model.file, backend="torch", truncate_dim=16)
    found = index_compatibility(cut, model, words)
    assert not found.compatible
    assert found.reason == "they have 16 dimensions, the documents 32"
    failure = found.failure()
    assert failure is not None
    assert "16 dimensions" in failure.message


def test_compatibility_needs_texts(model, documents) -> None:
    with pytest.raises(InputError, match="2 different texts are too few") as caught:
        index_compatibility(model, model, ["one", "two", "one"])
    assert "20 at least" in caught.value.hint
    with pytest.raises(InputError, match="keeps no queries to measure") as caught:
        SearchIndex.build(documents).measure(model)
    assert "stopt index" in caught.value.hint


def test_a_text_does_not_count_as_its_own_neighbour() -> None:
    expected = np.array([[0, *range(10, 20)], [1, *range(20, 30)]])
    found = np.array([[0, *range(10, 20)], [*range(20, 25), *range(40, 46)]])
    assert neighbour_recall(expected, found, np.array([0, 1])) == pytest.approx((1 + 0.5) / 2)
    assert neighbour_recall(np.array([[0, -1]]), np.array([[0, -1]]), np.array([0])) == 1.0


def test_probes_are_spread_over_the_documents() -> None:
    assert probe_ids(1).tolist() == [0]
    assert probe_ids(5).tolist() == [0, 1, 2, 3, 4]
    spread = probe_ids(1000)
    assert len(spread) == 64
    assert (spread[0], spread[-1]) == (0, 999)


def test_a_fingerprint_is_of_the_weights_and_the_settings(tiny_copy) -> None:
    first, second = tiny_copy("bert"), tiny_copy("bert")
    assert fingerprint(first) == fingerprint(second)
    settings = first / "1_Pooling" / "config.json"
    settings.write_text(settings.read_text() + " ")
    assert fingerprint(first) != fingerprint(second)
    shutil.copyfile(tiny_copy("bert", seed=99) / "model.safetensors", second / "model.safetensors")
    assert fingerprint(second) not in (fingerprint(first), fingerprint(tiny_copy("bert")))


# ---- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"precision": "int4"}, "precision 'int4' is not supported", "int8"),
        ({"engine": "fais"}, "no engine 'fais'", "did you mean 'faiss'"),
        ({"rescore_by": "int4", "precision": "int8"}, "rescore_by 'int4' is unknown", "int8"),
        ({"approximate": True}, "'exact' has no graph", "faiss"),
        ({"rescore_by": "int8"}, "float32 documents have nothing better", "none"),
        ({"rescore_multiplier": 0}, "rescore_multiplier is 0", "from 1 up"),
    ],
)
def test_options_that_cannot_be(options, message, hint) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        IndexOptions(**options)
    assert hint in caught.value.hint


def test_documents_that_cannot_be_indexed(documents, model) -> None:
    wrong = documents.copy()
    wrong[4, 2] = np.nan
    for values, message in (
        (wrong, "corpus embedding 4 has NaN"),
        (documents[:0], "there is no document"),
        (quantize_embeddings(documents, "ubinary"), "are uint8: these are codes already"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            SearchIndex.build(values)
        assert caught.value.hint
    with pytest.raises(InputError, match="2 texts and 0 lines for 300 embeddings"):
        SearchIndex.build(documents, texts=["a", "b"])
    with pytest.raises(InputError, match="ranges of 31 dimensions"):
        SearchIndex.build(documents, IndexOptions("int8"), ranges=Ranges.of(documents[:, :31]))
    with pytest.raises(InputError, match="there is no text to build an index of"):
        index_texts(model, [])


def test_queries_that_cannot_be_compared(documents) -> None:
    index = SearchIndex.build(documents, IndexOptions("int8"))
    for values, message in (
        (documents[:, :16], "queries of 16 dimensions do not fit a corpus of 32"),
        (np.full((1, 32), np.inf, np.float32), "query embedding 0 has NaN or infinity"),
        (quantize_embeddings(documents, "int8", index.ranges), "are int8: these are codes already"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            index.search(values)
        assert caught.value.hint
    with pytest.raises(OptionError, match="top_k is 0"):
        index.search(documents[0], 0)


# ---- folders --------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(model, words, tmp_path) -> Path:
    options = IndexOptions("binary", "faiss")
    return save_index(index_texts(model, words, options, lines=range(1, 61)), tmp_path / "made.index")


def test_an_index_is_replaced_only_when_asked(saved, documents) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(ArtifactError, match="exists already") as caught:
        save_index(SearchIndex.build(documents), saved)
    assert "--force" in caught.value.hint
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    save_index(SearchIndex.build(documents), saved, force=True)
    assert len(load_index(saved)) == 300
    assert sorted(path.name for path in saved.iterdir()) == ["codes.npy", "index.json"]
    assert [path.name for path in saved.parent.iterdir() if path.name.startswith(".")] == []


def test_what_is_no_index_is_never_replaced(tmp_path, documents) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    with pytest.raises(ArtifactError, match="exists and is no index") as caught:
        save_index(SearchIndex.build(documents), tmp_path / "precious", force=True)
    assert "another place" in caught.value.hint
    assert (tmp_path / "precious" / "file").read_text() == "mine"


def test_a_failed_write_leaves_the_old_index(saved, documents, monkeypatch) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ArtifactError, match="No space left"):
        save_index(SearchIndex.build(documents), saved, force=True)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_failed_rename_leaves_the_old_index(saved, documents, monkeypatch) -> None:
    def failing(self: Path, target: Path) -> Path:
        raise OSError(5, "Input/output error")

    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ArtifactError, match="Input/output error"):
        save_index(SearchIndex.build(documents[:50]), saved, force=True)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_replacing_an_index_leaves_no_files_of_the_old_one(saved, documents) -> None:
    names = {
        path.name for path in save_index(SearchIndex.build(documents), saved.with_name("fresh")).iterdir()
    }
    (saved / "texts.jsonl").write_text("{}", encoding="utf-8")
    save_index(SearchIndex.build(documents), saved, force=True)
    assert {path.name for path in saved.iterdir()} == names
    assert len(load_index(saved)) == len(documents)


@pytest.mark.parametrize(
    "name", ["index.json", "index.faiss", "rescore.npy", "ranges.json", "texts.jsonl", "probes.npy"]
)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_cut_short_is_an_error(saved, name, share) -> None:
    file = saved / name
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CorruptModel) as caught:
        load_index(saved)
    assert name in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(("precision", "engine", "approximate"), KINDS)
def test_codes_cut_short_are_an_error(precision, engine, approximate, documents, tmp_path) -> None:
    saved = save_index(
        SearchIndex.build(documents, IndexOptions(precision, engine, approximate)), tmp_path / "made.index"
    )
    (file,) = (path for path in saved.iterdir() if path.name.startswith(("codes", "index.f", "index.u")))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CorruptModel, match="bytes, expected") as caught:
        load_index(saved)
    assert "build the index again" in caught.value.hint


@pytest.mark.parametrize(("precision", "engine", "approximate"), KINDS)
def test_codes_changed_at_equal_size_are_an_error(
    precision, engine, approximate, documents, tmp_path
) -> None:
    """They would answer with another document. Rows to rescore by, too, which are mapped and read late."""
    options = IndexOptions(precision, engine, approximate)
    saved = save_index(SearchIndex.build(documents, options), tmp_path / "made.index")
    for file in (path for path in saved.iterdir() if path.name != "index.json"):
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(CorruptModel, match=f"{file.name} has changed since it was written") as caught:
            load_index(saved)
        assert "build the index again" in caught.value.hint
        file.write_bytes(whole)
    assert len(load_index(saved)) == len(documents)


@pytest.mark.parametrize("engine", ["faiss", "usearch"])
def test_what_a_library_cannot_read_is_an_error(engine, documents, tmp_path) -> None:
    """Even where the manifest says that it is whole."""
    options = IndexOptions("float32", engine, approximate=True)
    saved = save_index(SearchIndex.build(documents, options), tmp_path / "made.index")
    (file,) = (path for path in saved.iterdir() if path.name != "index.json")
    file.write_bytes(file.read_bytes()[:-2000])
    document = json.loads((saved / "index.json").read_text())
    document["files"] = stopt.artifact.describe_parts(saved, [file.name])
    (saved / "index.json").write_text(json.dumps(document))
    with pytest.raises(CorruptModel, match=f"{file.name} cannot be read") as caught:
        load_index(saved)
    assert "build the index again" in caught.value.hint


def test_a_changed_or_missing_file_is_an_error(saved) -> None:
    texts = (saved / "texts.jsonl").read_bytes()
    (saved / "texts.jsonl").write_bytes(texts.replace(b"a", b"b"))
    with pytest.raises(CorruptModel, match=r"texts\.jsonl has changed since it was written"):
        load_index(saved)
    (saved / "texts.jsonl").unlink()
    with pytest.raises(SourceError, match=r"texts\.jsonl is missing"):
        load_index(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "has schema 99, this stopt reads 1"),
        ({"count": "many"}, "does not describe an index"),
        ({"options": {"precision": "int3"}}, "does not describe an index"),
        ({"options": {"speed": 3}}, "does not describe an index"),
        ({"space": {"model": "x"}}, "does not describe an index"),
        ({"files": {"../elsewhere": {"size_bytes": 1, "sha256": ""}}}, "leaves the model folder"),
        ({"files": {}}, "names no codes"),
        ({"dimension": 31}, "expected"),
        ({"count": 299}, "has 60 texts, index.json 299"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_an_error(saved, change, message) -> None:
    file = saved / "index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(StoptError, match=message) as caught:
        load_index(saved)
    assert caught.value.exit_code == 4
    assert caught.value.hint


def test_a_folder_that_is_no_index(tmp_path) -> None:
    with pytest.raises(SourceError, match=r"is no index: it has no index\.json") as caught:
        load_index(tmp_path)
    assert "stopt index FILE" in caught.value.hint
