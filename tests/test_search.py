"""Search functions, against sentence-transformers 5.7 where it is right, and against plain arithmetic where it is not."""

import faiss
import numpy as np
import pytest
import scipy.sparse
import torch
from installed import run_without
from sentence_transformers import util
from sentence_transformers.util import quantization as theirs
from usearch.index import Index

import stopt
from stopt import (
    InputError,
    OptionError,
    Ranges,
    StoptWarning,
    cos_sim,
    dequantize_embeddings,
    dot_score,
    quantize_embeddings,
    semantic_search,
    semantic_search_faiss,
    semantic_search_usearch,
)
from stopt.embeddings.exact import as_words, best_of, search_bits, search_floats

SEARCHES = [semantic_search_faiss, semantic_search_usearch]
# the same products, added up in another order
CLOSE = 1e-5


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def corpus() -> np.ndarray:
    """Documents in clusters, off centre and of unequal ranges, as embeddings of texts are."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((20, 48)) * np.linspace(0.5, 2, 48) + 0.3
    return unit(np.repeat(centres, 30, axis=0) + 0.8 * random.standard_normal((600, 48)))


@pytest.fixture(scope="module")
def queries(corpus) -> np.ndarray:
    return unit(corpus[::40] + 0.05 * np.random.default_rng(1).standard_normal((15, 48)))


@pytest.fixture(scope="module")
def ranges(corpus) -> Ranges:
    return Ranges.of(corpus)


def ids(found) -> list[list[int]]:
    return [[hit["corpus_id"] for hit in row] for row in found]


def scores(found) -> np.ndarray:
    return np.array([[hit["score"] for hit in row] for row in found])


def best(products: np.ndarray, k: int = 10) -> list[list[int]]:
    return np.argsort(-products, axis=1, kind="stable")[:, :k].tolist()


# ---- plain search ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(100, 500_000), (4, 100), (1, 7)])
def test_semantic_search_is_theirs(queries, corpus, sizes) -> None:
    found = semantic_search(queries, corpus, *sizes, top_k=7)
    expected = util.semantic_search(queries, corpus, *sizes, top_k=7)
    assert ids(found) == ids(expected)
    np.testing.assert_allclose(scores(found), scores(expected), atol=CLOSE)


def test_semantic_search_takes_tensors_lists_and_one_query(queries, corpus) -> None:
    expected = semantic_search(queries, corpus)
    assert semantic_search(torch.from_numpy(queries), torch.from_numpy(corpus)) == expected
    assert semantic_search(list(queries), [torch.from_numpy(row) for row in corpus]) == expected
    (alone,) = semantic_search(queries[0], corpus)
    assert ids([alone]) == ids(expected[:1])


def test_semantic_search_compares_by_cosine_whatever_the_lengths(queries, corpus) -> None:
    lengths = np.random.default_rng(2).uniform(0.1, 9, (len(corpus), 1)).astype(np.float32)
    assert ids(semantic_search(3 * queries, lengths * corpus)) == ids(semantic_search(queries, corpus))


@pytest.mark.parametrize("function", [dot_score, util.dot_score, lambda a, b: a @ b.T])
def test_semantic_search_takes_another_function(queries, corpus, function) -> None:
    scaled = corpus * np.random.default_rng(2).uniform(0.1, 9, (len(corpus), 1)).astype(np.float32)
    expected = util.semantic_search(queries, scaled, score_function=util.dot_score)
    found = semantic_search(queries, scaled, corpus_chunk_size=123, score_function=function)
    assert ids(found) == ids(expected)
    np.testing.assert_allclose(scores(found), scores(expected), atol=1e-4)


def test_functions_of_similarity_are_theirs(queries, corpus) -> None:
    np.testing.assert_allclose(cos_sim(3 * queries, corpus), util.cos_sim(3 * queries, corpus), atol=CLOSE)
    np.testing.assert_allclose(dot_score(queries, corpus), util.dot_score(queries, corpus), atol=CLOSE)


@pytest.mark.parametrize(("ours", "oracle"), [(cos_sim, util.cos_sim), (dot_score, util.dot_score)])
def test_functions_of_similarity_return_tensors_for_tensors_and_arrays_for_arrays(
    queries, corpus, ours, oracle
) -> None:
    tensor = torch.from_numpy(queries)
    for given, compared in ((tensor, corpus), (corpus, tensor), (list(tensor), tensor)):
        found = ours(given, compared)
        assert isinstance(found, torch.Tensor)
        if isinstance(given, list):
            given = torch.stack(given)
        np.testing.assert_allclose(found, oracle(given, compared), atol=CLOSE)
    assert isinstance(ours(queries, corpus), np.ndarray)


def test_functions_of_similarity_need_no_torch_for_arrays(tmp_path) -> None:
    program = "import numpy as np, stopt; print(stopt.cos_sim(np.ones(3), np.eye(3, dtype=np.float32)).shape)"
    done = run_without({"torch"}, tmp_path, "-c", program)
    assert done.stdout == "(1, 3)\n", done.stderr


@pytest.fixture(scope="module")
def sparse(corpus) -> torch.Tensor:
    """(N, E) with the few largest values of the corpus."""
    return torch.from_numpy(np.where(corpus > 0.15, corpus, 0)).to_sparse()


# sentence-transformers makes torch say so
@pytest.mark.filterwarnings("ignore:Sparse .* (is in beta|are implicitly disabled)")
@pytest.mark.parametrize("function", ["cos_sim", "dot_score"])
def test_sparse_tensors_are_searched_as_in_sentence_transformers(sparse, function) -> None:
    few = sparse.index_select(0, torch.arange(7))
    expected = util.semantic_search(few, sparse, 3, 100, top_k=5, score_function=getattr(util, function))
    for ours in (
        getattr(stopt, function),
        getattr(util, function),
    ):  # theirs takes what it would be given there
        found = semantic_search(few, sparse, 3, 100, top_k=5, score_function=ours)
        assert ids(found) == ids(expected)
        np.testing.assert_allclose(scores(found), scores(expected), atol=CLOSE)
    as_scipy = scipy.sparse.csr_array(sparse.to_dense().numpy())
    own = getattr(stopt, function)
    for given, compared in (
        (as_scipy[:7], as_scipy),
        (few.to_dense(), sparse),
        ([few[row] for row in range(7)], as_scipy),
    ):
        found = semantic_search(given, compared, top_k=5, score_function=own)
        assert ids(found) == ids(expected)
    np.testing.assert_allclose(own(few, sparse), getattr(util, function)(few, sparse), atol=CLOSE)
    assert ids(semantic_search(few.to_dense()[0], sparse, top_k=5, score_function=own)) == ids(expected[:1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sparse_value_that_is_no_number_is_named(sparse, value) -> None:
    broken = sparse.to_dense()
    broken[5, 7] = value
    refused(
        InputError,
        "corpus embedding 5 has NaN or infinity",
        "stopt check",
        lambda: semantic_search(sparse, broken.to_sparse()),
    )


def test_sparse_embeddings_of_two_widths_are_refused(sparse, queries) -> None:
    refused(
        InputError,
        "queries of 20 dimensions do not fit a corpus of 48",
        "same model",
        lambda: semantic_search(queries[:, :20], sparse),
    )


def test_a_zero_vector_is_similar_to_nothing(corpus) -> None:
    (row,) = semantic_search(corpus[:1], np.zeros((3, 48), np.float32))
    assert [hit["score"] for hit in row] == [0, 0, 0]


def test_equal_scores_come_in_the_corpus_order(corpus) -> None:
    same = np.repeat(corpus[:1], 50_000, axis=0)
    for size in (500_000, 777):
        (row,) = semantic_search(corpus[:1], same, corpus_chunk_size=size, top_k=5)
        assert ids([row]) == [[0, 1, 2, 3, 4]]


def test_fewer_documents_than_wanted(queries, corpus) -> None:
    assert [len(row) for row in semantic_search(queries[:2], corpus[:3])] == [3, 3]
    assert semantic_search(queries[:2], corpus[:0]) == [[], []]
    assert semantic_search(queries[:0], corpus) == []


# ---- finding the best -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 1000, 5000, 40_000])
@pytest.mark.parametrize("k", [1, 10, 300])
@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_best_of_finds_the_first_of_the_largest(count, k, kind) -> None:
    values = np.random.default_rng(count).integers(0, 50, count).astype(kind)
    expected = np.sort(np.argsort(-values.astype(float), kind="stable")[:k])
    assert best_of(values, k).tolist() == expected.tolist()


def test_search_in_blocks_is_search_in_one(queries, corpus) -> None:
    whole = search_floats(queries, 600, lambda part: corpus[part], 10, 600)
    for block in (1, 13, 599):
        found = search_floats(queries, 600, lambda part: corpus[part], 10, block)
        assert found[1].tolist() == whole[1].tolist()


@pytest.mark.parametrize("width", [8, 48, 64, 72, 384])
def test_distances_of_bits(width) -> None:
    bits = np.random.default_rng(width).integers(0, 2, (20_000, width), np.uint8)
    packed = np.packbits(bits, axis=1)
    distances, found = search_bits(as_words(packed[:3]), np.ascontiguousarray(as_words(packed).T), 20)
    expected = (bits[:3, None] != bits[None]).sum(axis=2)
    assert found.tolist() == best(-expected, 20)
    assert (-distances).tolist() == np.take_along_axis(expected, found, axis=1).tolist()


# ---- float32 in the libraries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("exact", [True, False])
def test_float_search_scores_by_inner_product(search, exact, queries, corpus) -> None:
    found, seconds = search(queries, corpus, exact=exact)
    assert seconds >= 0
    expected = best(queries @ corpus.T)
    if exact:
        assert ids(found) == expected
    shared = [len({*row} & {*wanted}) for row, wanted in zip(ids(found), expected, strict=True)]
    assert np.mean(shared) > 9  # the graph of 600 documents misses next to none
    for row, query in zip(found, queries, strict=True):
        for hit in row:
            assert hit["score"] == pytest.approx(float(query @ corpus[hit["corpus_id"]]), abs=CLOSE)
        assert [hit["score"] for hit in row] == sorted((hit["score"] for hit in row), reverse=True)


def test_float_search_with_faiss_is_theirs(queries, corpus) -> None:
    found, _ = semantic_search_faiss(queries, corpus, rescore=False)
    expected, *_ = theirs.semantic_search_faiss(queries, corpus, rescore=False)
    assert ids(found) == ids(expected)
    np.testing.assert_allclose(scores(found), scores(expected), atol=CLOSE)


def test_float_search_with_usearch_is_theirs_as_similarity(queries, corpus) -> None:
    found, _ = semantic_search_usearch(queries, corpus, rescore=False)
    expected, *_ = theirs.semantic_search_usearch(queries, corpus, rescore=False)
    assert ids(found) == ids(expected)
    np.testing.assert_allclose(scores(found), 1 - scores(expected), atol=CLOSE)


# ---- codes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("precision", ["int8", "uint8"])
@pytest.mark.parametrize("quantised", [True, False])
def test_int8_scores_are_those_of_what_the_codes_stand_for(
    search, precision, quantised, queries, corpus, ranges
) -> None:
    codes = quantize_embeddings(corpus, precision, ranges)
    found, _ = search(
        queries, codes if quantised else corpus, None, precision, 10, ranges, rescore_multiplier=4
    )
    products = queries @ dequantize_embeddings(codes, precision, ranges).T
    assert ids(found) == best(products)
    np.testing.assert_allclose(scores(found), -np.sort(-products, axis=1)[:, :10], atol=CLOSE)


def test_theirs_scores_int8_otherwise(queries, corpus, ranges) -> None:
    """The reason for the difference: raw codes rank documents otherwise (their issue 4058)."""
    codes = quantize_embeddings(corpus, "uint8", ranges)
    expected = best(queries @ corpus.T)
    wrong, *_ = theirs.semantic_search_faiss(
        queries, codes, None, "uint8", ranges=ranges.array, rescore_multiplier=4
    )
    right, _ = semantic_search_faiss(queries, codes, None, "uint8", ranges=ranges, rescore_multiplier=4)

    def kept(found) -> float:
        return float(
            np.mean([len({*row} & {*wanted}) for row, wanted in zip(ids(found), expected, strict=True)])
        )

    assert kept(right) > 9.5
    assert kept(wrong) < kept(right) - 0.5


@pytest.mark.parametrize("search", SEARCHES)
def test_int8_without_rescoring_is_close(search, queries, corpus, ranges) -> None:
    found, _ = search(queries, corpus, None, "int8", 10, ranges, rescore=False)
    products = queries @ corpus.T
    for row, expected in zip(found, products, strict=True):
        for hit in row:  # both sides are rounded to 8 bits
            assert hit["score"] == pytest.approx(float(expected[hit["corpus_id"]]), abs=0.03)


@pytest.mark.parametrize("search", SEARCHES)
def test_int8_queries_are_those_of_their_codes(search, queries, corpus, ranges) -> None:
    codes = quantize_embeddings(queries, "int8", ranges)
    found, _ = search(codes, corpus, None, "int8", 10, ranges, rescore_multiplier=4)
    floats, _ = search(
        dequantize_embeddings(codes, "int8", ranges), corpus, None, "int8", 10, ranges, rescore_multiplier=4
    )
    assert found == floats


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits_are_rescored_by_the_query_itself(search, precision, queries, corpus) -> None:
    codes = quantize_embeddings(corpus, precision)
    found, _ = search(queries, codes, None, precision, 5, rescore_multiplier=120)  # 600: all of them
    signs = dequantize_embeddings(codes, precision) / np.sqrt(48)
    products = queries @ signs.T
    np.testing.assert_allclose(scores(found), -np.sort(-products, axis=1)[:, :5], atol=CLOSE)


def test_ubinary_order_with_faiss_is_theirs(queries, corpus) -> None:
    """The one rescoring of theirs that ranks well: a constant and a factor aside, it is the same product."""
    codes = quantize_embeddings(corpus, "ubinary")
    found, _ = semantic_search_faiss(queries, codes, None, "ubinary", 5, rescore_multiplier=120)
    expected, *_ = theirs.semantic_search_faiss(queries, codes, None, "ubinary", 5, rescore_multiplier=120)
    assert ids(found) == ids(expected)
    np.testing.assert_allclose(
        scores(found), (2 * scores(expected) - queries.sum(axis=1, keepdims=True)) / np.sqrt(48), atol=1e-4
    )


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits_without_rescoring_have_distances(search, precision, queries, corpus) -> None:
    found, _ = search(queries, quantize_embeddings(corpus, precision), None, precision, rescore=False)
    distances = ((queries[:, None] > 0) != (corpus[None] > 0)).sum(axis=2)
    assert scores(found).tolist() == np.sort(distances, axis=1)[:, :10].tolist()


def test_distances_are_theirs(queries, corpus) -> None:
    codes = quantize_embeddings(corpus, "ubinary")
    for ours, other in (
        (semantic_search_faiss, theirs.semantic_search_faiss),
        (semantic_search_usearch, theirs.semantic_search_usearch),
    ):
        found, _ = ours(queries, codes, None, "ubinary", rescore=False)
        expected, *_ = other(queries, codes, None, "ubinary", rescore=False)
        np.testing.assert_array_equal(scores(found), scores(expected))


@pytest.mark.parametrize("search", SEARCHES)
def test_queries_of_bits_are_not_rescored_and_say_so(search, queries, corpus) -> None:
    codes, asked = quantize_embeddings(corpus, "binary"), quantize_embeddings(queries, "binary")
    with pytest.warns(StoptWarning, match="not rescored: pass float queries"):
        found, _ = search(asked, codes, None, "binary")
    expected, _ = search(queries, codes, None, "binary", rescore=False)
    assert scores(found).tolist() == scores(expected).tolist()


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("stored", ["float32", "int8", "uint8"])
def test_bits_can_be_rescored_by_something_better(search, stored, queries, corpus, ranges) -> None:
    rows = quantize_embeddings(corpus, stored, ranges)
    found, _ = search(
        queries, corpus, None, "binary", 10, ranges, rescore_multiplier=60, rescore_embeddings=rows
    )
    products = queries @ dequantize_embeddings(rows, stored, ranges).T
    assert ids(found) == best(products)
    np.testing.assert_allclose(scores(found), -np.sort(-products, axis=1)[:, :10], atol=CLOSE)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("width", [1, 7, 13, 20])
def test_widths_that_are_no_whole_bytes(search, width, queries, corpus) -> None:
    cut, asked = corpus[:, :width], queries[:, :width]
    found, _ = search(asked, cut, None, "ubinary", 5, rescore_multiplier=120)
    products = asked @ (np.where(cut > 0, 1, -1) / np.sqrt(width)).T
    np.testing.assert_allclose(scores(found), -np.sort(-products, axis=1)[:, :5], atol=CLOSE)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("precision", ["int8", "ubinary"])
def test_graphs_of_codes_find_most(search, precision, queries, corpus, ranges) -> None:
    exact, _ = search(queries, corpus, None, precision, 10, ranges)
    found, _ = search(queries, corpus, None, precision, 10, ranges, exact=False)
    shared = [len({*row} & {*wanted}) for row, wanted in zip(ids(found), ids(exact), strict=True)]
    assert np.mean(shared) > 8.5


# ---- indices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("exact", [True, False])
def test_an_index_is_returned_and_searched_again(search, precision, exact, queries, corpus, ranges) -> None:
    found, _, index = search(queries, corpus, None, precision, 10, ranges, exact=exact, output_index=True)
    assert isinstance(index, Index if search is semantic_search_usearch else faiss.Index | faiss.IndexBinary)
    again, _ = search(queries, None, index, precision, 10, ranges, exact=exact)
    assert again == found


def test_their_index_is_searched_with_our_scores(queries, corpus, ranges) -> None:
    codes = quantize_embeddings(corpus, "uint8", ranges)
    *_, index = theirs.semantic_search_faiss(
        queries, codes, None, "uint8", ranges=ranges.array, output_index=True
    )
    found, _ = semantic_search_faiss(queries, None, index, "uint8", ranges=ranges, rescore_multiplier=4)
    assert ids(found) == best(queries @ dequantize_embeddings(codes, "uint8", ranges).T)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("precision", ["float32", "int8", "ubinary"])
@pytest.mark.parametrize("exact", [True, False])
def test_fewer_documents_have_no_invented_ids(search, precision, exact, queries, corpus, ranges) -> None:
    found, _ = search(queries[:2], corpus[:3], None, precision, 10, ranges, exact=exact)
    assert [sorted(row) for row in ids(found)] == [[0, 1, 2], [0, 1, 2]]
    empty, _ = search(queries[:2], corpus[:0], None, precision, 10, ranges, exact=exact)
    assert empty == [[], []]
    nothing, _ = search(queries[:0], corpus, None, precision, 10, ranges, exact=exact)
    assert nothing == []


# ---- what cannot be -------------------------------------------------------------------------------------------------


def refused(kind, message, hint, call) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert hint in caught.value.hint


@pytest.mark.parametrize("search", SEARCHES)
def test_contradictions_are_refused(search, queries, corpus, ranges) -> None:
    refused(OptionError, "neither corpus_embeddings nor|neither", "one of the two", lambda: search(queries))
    *_, index = search(queries, corpus, output_index=True)
    refused(OptionError, "both corpus_embeddings", "one of the two", lambda: search(queries, corpus, index))
    refused(
        OptionError,
        "precision 'int4' is not",
        "did you mean 'int8'",
        lambda: search(queries, corpus, None, "int4"),
    )
    refused(OptionError, "top_k is 0", "from 1 up", lambda: search(queries, corpus, top_k=0))
    refused(
        OptionError,
        "rescore_multiplier is 0",
        "from 1 up",
        lambda: search(queries, corpus, rescore_multiplier=0),
    )
    codes = quantize_embeddings(corpus, "int8", ranges)
    refused(
        OptionError,
        "int8 codes mean nothing without ranges",
        "give ranges",
        lambda: search(queries, codes, None, "int8"),
    )


@pytest.mark.parametrize("search", SEARCHES)
def test_another_dimension_is_refused(search, queries, corpus, ranges) -> None:
    hint = "the same model"
    refused(
        InputError,
        "queries of 20 dimensions do not fit a corpus of 48",
        hint,
        lambda: search(queries[:, :20], corpus),
    )
    refused(
        InputError,
        "queries of 3 bytes do not fit a corpus of 6 bytes",
        hint,
        lambda: search(queries[:, :20], corpus, None, "ubinary"),
    )
    codes = quantize_embeddings(corpus, "int8", ranges)
    refused(
        InputError,
        "ranges of 20 dimensions do not fit a corpus of 48",
        hint,
        lambda: search(queries, codes, None, "int8", 10, ranges.array[:, :20]),
    )
    refused(
        InputError,
        r"rescore_embeddings have shape \(600, 20\), expected \(600, 48\)",
        "same documents",
        lambda: search(queries, corpus, None, "binary", rescore_embeddings=corpus[:, :20]),
    )


@pytest.mark.parametrize("search", SEARCHES)
def test_another_precision_is_refused(search, queries, corpus, ranges) -> None:
    codes = quantize_embeddings(corpus, "int8", ranges)
    refused(
        InputError,
        "corpus embeddings are int8, but the precision is uint8",
        "corpus_precision",
        lambda: search(queries, codes, None, "uint8", 10, ranges),
    )
    refused(
        InputError,
        "corpus embeddings are int8, but .* float32",
        "corpus_precision",
        lambda: search(queries, codes),
    )
    refused(
        InputError,
        "query embeddings are uint8, but the precision is int8",
        "corpus_precision",
        lambda: search(queries.astype(np.uint8), codes, None, "int8", 10, ranges),
    )
    refused(
        InputError,
        "rescore_embeddings are int8, expected floats",
        "give ranges",
        lambda: search(queries, corpus, None, "binary", rescore_embeddings=codes),
    )
    *_, index = search(queries, corpus, None, "int8", 10, ranges, output_index=True)
    with pytest.raises(InputError):
        search(queries, None, index, "ubinary")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("function", [semantic_search, *SEARCHES])
def test_values_that_are_not_finite_are_refused(function, value, queries, corpus) -> None:
    wrong = corpus.copy()
    wrong[7, 3] = value
    with pytest.raises(InputError, match="corpus embedding 7") as caught:
        function(queries, wrong)
    assert caught.value.index == 7
    assert "stopt check" in caught.value.hint
    refused(
        InputError,
        "query embedding 7 has NaN or infinity",
        "stopt check",
        lambda: function(wrong[:9], corpus),
    )


def test_a_score_that_is_nan_is_refused(queries, corpus) -> None:
    def broken(a, b) -> np.ndarray:
        products = a @ b.T
        products[:, 5] = np.nan
        return products

    refused(
        InputError,
        "score of corpus embedding 5 is NaN",
        "the function",
        lambda: semantic_search(queries, corpus, score_function=broken),
    )


def test_codes_and_texts_are_no_embeddings(queries, corpus) -> None:
    hint = "precision='float32'"
    codes = quantize_embeddings(corpus, "ubinary")
    refused(
        InputError,
        "corpus embeddings are uint8: these are codes",
        hint,
        lambda: semantic_search(queries, codes),
    )
    refused(
        InputError, "expected query embeddings", "encode", lambda: semantic_search(np.array(["text"]), corpus)
    )
    refused(OptionError, "top_k is 2.5", "from 1 up", lambda: semantic_search(queries, corpus, top_k=2.5))
    refused(
        InputError, "queries of 20 dimensions", "same model", lambda: semantic_search(queries[:, :20], corpus)
    )


def test_an_index_that_compares_by_distance_is_refused(queries, corpus) -> None:
    index = faiss.IndexFlatL2(48)
    index.add(corpus)
    refused(
        InputError,
        "does not compare by inner product",
        "output_index",
        lambda: semantic_search_faiss(queries, None, index),
    )
    other = Index(ndim=48, metric="cos", dtype="f32")
    refused(
        InputError,
        "expected F32 by IP",
        "output_index",
        lambda: semantic_search_usearch(queries, None, other),
    )
    refused(
        InputError,
        "is no index of usearch",
        "output_index",
        lambda: semantic_search_usearch(queries, None, index),
    )


def test_an_index_of_unknown_codes_is_refused(queries, corpus, ranges) -> None:
    index = faiss.IndexScalarQuantizer(48, faiss.ScalarQuantizer.QT_4bit, faiss.METRIC_INNER_PRODUCT)
    index.train(corpus)
    refused(
        InputError,
        "does not hold int8 codes in a form that is known",
        "output_index",
        lambda: semantic_search_faiss(queries, None, index, "int8", 10, ranges),
    )


# ---- without the libraries ------------------------------------------------------------------------------------------


def test_without_the_libraries_numpy_searches_and_the_others_name_the_extra(tmp_path) -> None:
    code = """
import numpy as np
from stopt import IndexOptions, MissingExtra, SearchIndex, semantic_search, semantic_search_faiss, semantic_search_usearch
corpus = np.eye(12, dtype=np.float32) + 0.01
for precision in ("float32", "int8", "binary"):
    assert SearchIndex.build(corpus, IndexOptions(precision)).search(corpus[2])[0][0]["corpus_id"] == 2
assert semantic_search(corpus[2], corpus)[0][0]["corpus_id"] == 2
for search in (semantic_search_faiss, semantic_search_usearch):
    try:
        search(corpus, corpus)
    except MissingExtra as error:
        print(error.message, "|", error.hint)
"""
    done = run_without({"faiss", "usearch", "torch"}, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "faiss is not installed | pip install 'stopt[search]'",
        "usearch is not installed | pip install 'stopt[search]'",
    ]
