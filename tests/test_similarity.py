"""Similarities: the values of sentence-transformers, in the caller's kind of array."""

from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.util import similarity as reference

from stopt.embeddings.similarity import pairwise_similarity, similarity
from stopt.errors import InputError
from stopt.spec import Similarity

# sums of 24 float32 products in another order: a few units in the last place of values around 30
TOLERANCE = 1e-5

MATRIX = {
    Similarity.COSINE: reference.cos_sim,
    Similarity.DOT: reference.dot_score,
    Similarity.EUCLIDEAN: reference.euclidean_sim,
    Similarity.MANHATTAN: reference.manhattan_sim,
}
PAIRWISE = {
    Similarity.COSINE: reference.pairwise_cos_sim,
    Similarity.DOT: reference.pairwise_dot_score,
    Similarity.EUCLIDEAN: reference.pairwise_euclidean_sim,
    Similarity.MANHATTAN: reference.pairwise_manhattan_sim,
}


def _embeddings(rows: int, seed: int, width: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


A, B = _embeddings(5, 0), _embeddings(7, 1)


@pytest.mark.parametrize("function", Similarity)
def test_every_combination_equals_sentence_transformers(function: Similarity) -> None:
    expected = MATRIX[function](A, B).numpy()
    np.testing.assert_allclose(similarity(A, B, function), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("function", Similarity)
def test_pairs_equal_sentence_transformers(function: Similarity) -> None:
    expected = PAIRWISE[function](A, B[:5]).numpy()
    np.testing.assert_allclose(
        pairwise_similarity(A, B[:5], function), expected, rtol=TOLERANCE, atol=TOLERANCE
    )


@pytest.mark.parametrize("function", Similarity)
def test_pairs_are_the_diagonal_of_all_combinations(function: Similarity) -> None:
    diagonal = np.diagonal(similarity(A, B[:5], function))
    np.testing.assert_allclose(
        pairwise_similarity(A, B[:5], function), diagonal, rtol=TOLERANCE, atol=TOLERANCE
    )


@pytest.mark.parametrize("function", Similarity)
def test_identical_embeddings_are_most_similar(function: Similarity) -> None:
    unit = A / np.linalg.norm(A, axis=1, keepdims=True)
    scores = similarity(unit, unit, function)
    assert np.argmax(scores, axis=1).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("function", [Similarity.EUCLIDEAN, Similarity.MANHATTAN])
def test_the_distance_of_an_embedding_to_itself_is_exactly_zero(function: Similarity) -> None:
    assert np.all(np.diagonal(similarity(A, A, function)) == 0)


@pytest.mark.parametrize("function", Similarity)
def test_one_embedding_is_a_batch_of_one(function: Similarity) -> None:
    assert similarity(A[0], B, function).shape == (1, 7)


@pytest.mark.parametrize("function", Similarity)
def test_one_embedding_can_be_paired_with_one(function: Similarity) -> None:
    assert pairwise_similarity(A[0], B[0], function).shape == (1,)


@pytest.mark.parametrize("function", Similarity)
def test_one_embedding_is_paired_with_each_of_many(function: Similarity) -> None:
    np.testing.assert_allclose(
        pairwise_similarity(A[0], B, function),
        similarity(A[0], B, function)[0],
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )


@pytest.mark.parametrize("function", Similarity)
def test_no_embeddings_give_an_empty_matrix(function: Similarity) -> None:
    assert similarity(A[:0], B, function).shape == (0, 7)


@pytest.mark.parametrize(
    "convert",
    [lambda rows: rows.tolist(), list, tuple],
    ids=["nested lists", "list of rows", "tuple of rows"],
)
def test_lists_are_accepted(convert: Any) -> None:
    np.testing.assert_allclose(
        similarity(convert(A), convert(B), Similarity.COSINE),
        reference.cos_sim(A, B).numpy(),
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )


@pytest.mark.parametrize("function", Similarity)
@pytest.mark.parametrize(
    "convert", [torch.from_numpy, lambda rows: list(torch.from_numpy(rows))], ids=["tensor", "list"]
)
def test_tensors_give_a_tensor(function: Similarity, convert: Any) -> None:
    result = similarity(convert(A), convert(B), function)
    assert isinstance(result, torch.Tensor)
    torch.testing.assert_close(result, MATRIX[function](A, B), rtol=TOLERANCE, atol=TOLERANCE)


def test_a_tensor_and_an_array_give_a_tensor() -> None:
    assert isinstance(similarity(torch.from_numpy(A), B, Similarity.DOT), torch.Tensor)


def test_arrays_give_an_array_of_their_dtype() -> None:
    assert similarity(A, B, Similarity.COSINE).dtype == np.float32


@pytest.mark.parametrize("compare", [similarity, pairwise_similarity])
def test_different_widths_are_refused(compare: Any) -> None:
    with pytest.raises(InputError, match="embeddings of 24 and 23 dimensions cannot be compared") as caught:
        compare(A, A[:, :23], Similarity.DOT)
    assert "truncate_dim" in caught.value.hint


def test_different_numbers_cannot_be_paired() -> None:
    with pytest.raises(InputError, match="5 embeddings cannot be paired with 7") as caught:
        pairwise_similarity(A, B, Similarity.COSINE)
    assert "similarity()" in caught.value.hint


@pytest.mark.parametrize(
    "wrong", [None, "text", 3, np.zeros((1, 2, 3)), np.float32(1)], ids=["None", "text", "int", "3-D", "0-D"]
)
def test_what_is_no_embedding_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="expected embeddings") as caught:
        similarity(A, wrong, Similarity.COSINE)
    assert "encode()" in caught.value.hint


@pytest.mark.parametrize("function", Similarity)
@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_codes_are_not_compared_as_numbers(function: Similarity, make: Any, dtype: str) -> None:
    codes = make(np.array([[100, 7], [3, 99]], dtype))
    for compare in (similarity, pairwise_similarity):
        with pytest.raises(InputError, match=f"the embeddings are {dtype}: these are codes") as caught:
            compare(codes, codes, function)
        assert "precision='float32'" in caught.value.hint


@pytest.mark.parametrize("function", Similarity)
@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
def test_whole_numbers_are_numbers(function: Similarity, make: Any) -> None:
    whole, other = np.array([[1, 2, 3], [0, 1, 5]]), np.array([[3, 2, 1], [1, 1, 1]])
    for compare in (similarity, pairwise_similarity):
        wanted = compare(whole.astype(np.float32), other.astype(np.float32), function)
        np.testing.assert_array_equal(np.asarray(compare(make(whole), make(other), function)), wanted)
