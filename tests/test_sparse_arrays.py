"""Sparse vectors: collected in order, cut to the strongest, read back from any array, compared as sentence-transformers does."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from installed import run_without
from sentence_transformers import SparseEncoder as Oracle
from sentence_transformers.util import select_max_active_dims
from sentence_transformers.util import similarity as reference

from stopt import SparseEncoder
from stopt.errors import InputError, MissingExtra
from stopt.runtime import sparse_arrays
from stopt.runtime.sparse_arrays import (
    SparseRows,
    collect_rows,
    collect_tensor,
    read_embeddings,
    split_tensor,
    strongest_tensor,
)
from stopt.runtime.sparse_similarity import intersect, sparse_pairwise_similarity, sparse_similarity
from stopt.spec import Similarity

# torch's, of what sentence-transformers and these tests do with its tensors
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
]

# sums of up to 60 float32 products in another order
TOLERANCE = 1e-5
# sentence-transformers takes euclidean distances from products of norms: an error in their squares, of values around 50
EUCLIDEAN_TOLERANCE = 1e-3

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


def _vectors(rows: int, seed: int, width: int = 60) -> np.ndarray:
    """A third of the values is not zero, of either sign; the second row is empty."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, width)) * (random.random((rows, width)) < 1 / 3)
    values[1] = 0
    return values.astype(np.float32)


A, B = _vectors(6, 0), _vectors(7, 1)

KINDS = {
    "csr": scipy.sparse.csr_array,
    "csr-matrix": scipy.sparse.csr_matrix,
    "coo": scipy.sparse.coo_array,
    "tensor": lambda array: torch.from_numpy(array).to_sparse(),
    "csr-tensor": lambda array: torch.from_numpy(array).to_sparse_csr(),
    "dense-tensor": torch.from_numpy,
    "array": lambda array: array,
    "list-of-csr": lambda array: SparseRows.from_dense(array).split_csr(),
    "list-of-tensors": lambda array: list(torch.from_numpy(array).to_sparse()),
}


def _dense(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return value.to_dense().numpy()
    return value.toarray() if scipy.sparse.issparse(value) else value


# ---- collecting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collect", [collect_rows, collect_tensor])
@pytest.mark.parametrize("limit", [None, 5, 1, 1000])
def test_batches_in_any_order_are_put_into_the_order_of_the_texts(collect: Any, limit: int | None) -> None:
    vectors = _vectors(23, 2)
    order = np.random.default_rng(0).permutation(23)

    def convert(dense: np.ndarray) -> Any:
        if collect is collect_rows:
            return SparseRows.from_dense(dense, limit)
        return strongest_tensor(torch.from_numpy(dense), limit)

    batches = ((rows, convert(vectors[rows])) for rows in np.array_split(order, 5))
    found = collect(batches, 23)
    expected = vectors if limit is None else select_max_active_dims(vectors, limit).numpy()
    assert np.array_equal(found.to_dense(), expected)


def test_rows_are_what_scipy_and_torch_call_canonical() -> None:
    rows = SparseRows.from_dense(A)
    matrix, tensor = rows.to_csr(), rows.to_tensor()
    expected = scipy.sparse.csr_array(A)
    for name in ("data", "indices", "indptr"):
        assert np.array_equal(getattr(matrix, name), getattr(expected, name)), name
    assert (matrix.dtype, matrix.indices.dtype) == (np.float32, np.int32)
    assert matrix.has_canonical_format
    assert tensor.is_coalesced()
    theirs = torch.from_numpy(A).to_sparse()
    assert torch.equal(tensor.indices(), theirs.indices())
    assert torch.equal(tensor.values(), theirs.values())


def test_single_rows_are_one_dimensional() -> None:
    rows = SparseRows.from_dense(A)
    for place, (row, of_tensor) in enumerate(
        zip(rows.split_csr(), split_tensor(rows.to_tensor()), strict=True)
    ):
        assert row.shape == tuple(of_tensor.shape) == (60,)
        assert of_tensor.is_coalesced()
        assert np.array_equal(row.toarray(), A[place])
        assert np.array_equal(of_tensor.to_dense(), A[place])


def test_the_strongest_keep_their_sign_and_of_equal_ones_the_first_stay() -> None:
    rows = SparseRows.from_dense(np.array([[1, -3, 0, 2, -2], [0, 0, 0, 0, 5], [1, 1, 1, 1, 1]], np.float32))
    found = rows.strongest(2).to_dense()
    assert found.tolist() == [[0, -3, 0, 2, 0], [0, 0, 0, 0, 5], [1, 1, 0, 0, 0]]


def test_half_precision_becomes_float32_and_zeros_are_left_out() -> None:
    found = SparseRows.from_dense(np.array([[0.5, 0, -0.0]], np.float16))
    assert found.values.dtype == np.float32
    assert found.columns.tolist() == [0]
    given = read_embeddings(torch.sparse_coo_tensor([[0, 1]], [0.0, 2.0], (3,), check_invariants=False))
    assert given.rows.columns.tolist() == [1]


# ---- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_array_is_read(kind: str) -> None:
    given = read_embeddings(KINDS[kind](A))
    assert not given.single
    assert np.array_equal(given.rows.to_dense(), A)
    assert (given.like is not None) == ("tensor" in kind)


@pytest.mark.parametrize(
    "vector",
    [
        A[0],
        torch.from_numpy(A[0]),
        torch.from_numpy(A).to_sparse()[0],
        scipy.sparse.csr_array(A)[[0]].reshape(-1),
    ],
)
def test_one_vector_is_read_as_one(vector: Any) -> None:
    given = read_embeddings(vector)
    assert given.single
    assert np.array_equal(given.rows.to_dense(), A[:1])


def test_unsorted_and_repeated_entries_are_read_as_their_sum() -> None:
    coo = scipy.sparse.coo_array(
        (np.array([1, 2, 3, -3], np.float32), ([1, 0, 1, 0], [4, 2, 4, 0])), shape=(2, 5)
    )
    tensor = torch.sparse_coo_tensor(
        [[1, 0, 1], [4, 2, 4]], torch.tensor([1.0, 2, 3]), (2, 5), check_invariants=False
    )
    for given, first in ((coo, [-3, 0, 2, 0, 0]), (tensor, [0, 0, 2, 0, 0])):
        assert read_embeddings(given).rows.to_dense().tolist() == [first, [0, 0, 0, 0, 4]]


def test_half_precision_tensors_are_read() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        given = read_embeddings(torch.tensor([[0.5, 0, 1.0]], dtype=dtype).to_sparse())
        assert given.rows.to_dense().tolist() == [[0.5, 0, 1.0]]


@pytest.mark.parametrize("empty", [torch.empty(0), torch.empty(0).to_sparse(), np.empty((0, 60), np.float32)])
def test_embeddings_of_no_text_are_read(empty: Any) -> None:
    assert len(read_embeddings(empty).rows) == 0
    assert tuple(sparse_similarity(empty, scipy.sparse.csr_array(A), Similarity.DOT).shape) == (0, 6)
    assert SparseEncoder.sparsity(empty) == {"active_dims": 0.0, "sparsity_ratio": 1.0}


@pytest.mark.parametrize("wrong", ["a text", None, 3, ["a", "b"], [1.0, 2.0], np.array(["a"]), {}, []])
def test_what_is_no_embedding_is_refused(wrong: Any) -> None:
    for use in (SparseEncoder.sparsity, read_embeddings):
        with pytest.raises(InputError, match="expected embeddings, got ") as caught:
            use(wrong)
        assert caught.value.hint == "pass what encode() returned"


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 3, 4)), torch.zeros(2, 3, 4), torch.tensor(1.0), np.array(2.0)]
)
def test_other_shapes_are_refused(wrong: Any) -> None:
    with pytest.raises(
        InputError, match=r"expected embeddings of shape \(V,\) or \(N, V\), got \("
    ) as caught:
        SparseEncoder.sparsity(wrong)
    assert caught.value.hint == "pass what encode() returned"


def test_a_list_of_several_widths_is_refused() -> None:
    with pytest.raises(InputError, match="embeddings of 5 and 60 dimensions are in one list") as caught:
        read_embeddings([A[0], A[1][:5]])
    assert caught.value.hint == "encode all with the same model"


# ---- comparing ------------------------------------------------------------------------------------------------------


def _tolerance(function: Similarity) -> float:
    return EUCLIDEAN_TOLERANCE if function is Similarity.EUCLIDEAN else TOLERANCE


@pytest.mark.filterwarnings("ignore:Using scipy")
@pytest.mark.parametrize("function", Similarity)
@pytest.mark.parametrize("kind", KINDS)
def test_every_combination_equals_sentence_transformers(kind: str, function: Similarity) -> None:
    x, y = (torch.from_numpy(each).to_sparse() for each in (A, B))
    found = sparse_similarity(KINDS[kind](A), KINDS[kind](B), function)
    assert isinstance(found, torch.Tensor if "tensor" in kind else np.ndarray)
    assert np.asarray(found).dtype == np.float32
    assert np.abs(np.asarray(found) - MATRIX[function](x, y).numpy()).max() <= _tolerance(function)


@pytest.mark.parametrize("function", Similarity)
@pytest.mark.parametrize("kind", KINDS)
def test_row_by_row_equals_sentence_transformers(kind: str, function: Similarity) -> None:
    other = _vectors(6, 3)
    x, y = (torch.from_numpy(each).to_sparse() for each in (A, other))
    found = sparse_pairwise_similarity(KINDS[kind](A), KINDS[kind](other), function)
    assert isinstance(found, torch.Tensor if "tensor" in kind else np.ndarray)
    assert np.abs(np.asarray(found) - PAIRWISE[function](x, y).numpy()).max() <= TOLERANCE


def test_many_tensors_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stopt.runtime.sparse_similarity.DENSE_ROWS", 3)
    x, y = (torch.from_numpy(each).to_sparse() for each in (A, B))
    assert np.abs(sparse_similarity(x, y, Similarity.DOT).numpy() - A @ B.T).max() <= TOLERANCE


def test_the_distance_of_a_vector_to_itself_is_zero() -> None:
    x = scipy.sparse.csr_array(A)
    for function in (Similarity.EUCLIDEAN, Similarity.MANHATTAN):
        assert np.abs(np.diag(sparse_similarity(x, x, function))).max() < 1e-6
        assert np.abs(sparse_pairwise_similarity(x, x, function)).max() < 1e-6


def test_sparse_and_dense_and_one_and_many_go_together() -> None:
    expected = A @ B.T
    for a, b in ((scipy.sparse.csr_array(A), B), (A, torch.from_numpy(B).to_sparse())):
        assert np.abs(np.asarray(sparse_similarity(a, b, Similarity.DOT)) - expected).max() <= TOLERANCE
    one = SparseRows.from_dense(A).split_csr()[0]
    assert (
        np.abs(sparse_similarity(one, scipy.sparse.csr_array(B), Similarity.DOT) - expected[:1]).max()
        <= TOLERANCE
    )


def test_different_widths_and_numbers_are_refused() -> None:
    x = scipy.sparse.csr_array(A)
    with pytest.raises(InputError, match="embeddings of 60 and 5 dimensions cannot be compared") as caught:
        sparse_similarity(x, x[:, :5], Similarity.DOT)
    assert caught.value.hint == "encode both with the same model"
    with pytest.raises(InputError, match="6 embeddings cannot be paired with 2") as caught:
        sparse_pairwise_similarity(x, x[:2], Similarity.DOT)
    assert caught.value.hint == "use similarity() for all combinations"


# ---- intersection and sparsity --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csr", "tensor", "dense-tensor", "array"])
def test_intersection_equals_sentence_transformers(kind: str) -> None:
    x, y = (torch.from_numpy(each).to_sparse() for each in (A, B))
    one = x[0] if "tensor" in kind else SparseRows.from_dense(A).split_csr()[0]
    for ours, theirs in ((KINDS[kind](B), y), (KINDS[kind](B[:1]), torch.from_numpy(B[:1]))):
        found, expected = intersect(one, ours), Oracle.intersection(x[0], theirs)
        assert isinstance(found, torch.Tensor if "tensor" in kind else scipy.sparse.csr_array)
        assert np.array_equal(_dense(found), expected.to_dense().numpy())
        nnz = found._nnz() if "tensor" in kind else found.nnz
        assert nnz == expected._nnz()


def test_intersection_of_two_single_vectors_is_one() -> None:
    rows = SparseRows.from_dense(np.abs(A))
    first, second = rows.split_csr()[0], rows.split_csr()[2]
    found = intersect(first, second)
    assert found.shape == (60,)
    assert np.array_equal(found.toarray(), np.abs(A[0]) * np.abs(A[2]))
    found = intersect(*(torch.from_numpy(A[place]).to_sparse() for place in (0, 2)))
    assert found.shape == (60,)
    assert found.is_coalesced()
    assert np.array_equal(found.to_dense(), np.maximum(A[0] * A[2], 0))


def test_intersection_keeps_the_dtype_of_a_tensor() -> None:
    one, many = (torch.from_numpy(each).half().to_sparse() for each in (A, B))
    assert intersect(one[0], many).dtype == torch.float16


def test_intersection_wants_one_vector_first_and_equal_widths() -> None:
    x = scipy.sparse.csr_array(A)
    with pytest.raises(InputError, match=r"the first of intersection\(\) is 6 embeddings") as caught:
        SparseEncoder.intersection(x, x)
    assert caught.value.hint == "take one row: embeddings[0]"
    with pytest.raises(InputError, match="embeddings of 60 and 5 dimensions") as caught:
        SparseEncoder.intersection(A[0], x[:, :5])
    assert caught.value.hint == "encode both with the same model"


@pytest.mark.parametrize("kind", KINDS)
def test_sparsity_equals_sentence_transformers(kind: str) -> None:
    expected = Oracle.sparsity(torch.from_numpy(A).to_sparse())
    assert SparseEncoder.sparsity(KINDS[kind](A)) == pytest.approx(expected)
    one = Oracle.sparsity(torch.from_numpy(A[0]))
    assert SparseEncoder.sparsity(A[0]) == pytest.approx(one)


# ---- without SciPy --------------------------------------------------------------------------------------------------


def test_scipy_is_asked_for_only_where_its_matrices_are(tmp_path: Any) -> None:
    code = """
import numpy as np
from stopt.errors import MissingExtra
from stopt.runtime.sparse_arrays import SparseRows
rows = SparseRows.from_dense(np.eye(3, dtype=np.float32))
assert rows.to_dense().tolist() == np.eye(3).tolist()
try:
    rows.to_csr()
except MissingExtra as error:
    print(error)
"""
    done = run_without({"scipy", "torch"}, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "scipy is not installed (pip install 'stopt[sparse]')"


def test_a_missing_scipy_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.sparse", None)
    with pytest.raises(MissingExtra, match="scipy is not installed") as caught:
        sparse_arrays.require_scipy()
    assert caught.value.hint == "pip install 'stopt[sparse]'"
