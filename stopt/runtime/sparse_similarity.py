"""How two sparse embeddings are compared, without making them dense. Shapes: (N, V) against (M, V).

Values are those of sentence-transformers (``tests/parity/test_sparse.py``), which for euclidean distances has a rounding
error of its own where two vectors are nearly equal; here these are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from stopt.embeddings.similarity import pairwise_similarity, similarity
from stopt.errors import InputError
from stopt.runtime.arrays import Array, is_tensor
from stopt.runtime.encoding import require_torch
from stopt.runtime.modules import NORM_EPSILON
from stopt.runtime.sparse_arrays import Given, SparseRows, read_embeddings
from stopt.runtime.tokenizer import Ints
from stopt.spec import Similarity

__all__ = ["intersect", "is_dense", "sparse_pairwise_similarity", "sparse_similarity"]

# rows of a vocabulary's width that are dense at a time: 32 MB
DENSE_ROWS = 256

Floats = npt.NDArray[np.float64]


def sparse_similarity(a: Any, b: Any, function: Similarity) -> Array:
    """Compare every embedding of ``a`` with every one of ``b``.

    Args:
        a: (N, V) or (V,): a SciPy matrix, a tensor, an array, or a list of either.
        b: (M, V) or (V,).
        function: How; distances come negated, so that larger is always more similar.

    Returns:
        (N, M) float32: a tensor if one of the two is, on its device; else an array.

    Raises:
        InputError: If the widths differ, or it is not embeddings.
    """
    if is_dense(a) and is_dense(b):
        return similarity(a, b, function)
    left, right = _read(a, b)
    if not len(left.rows) or not len(right.rows):
        return _result(np.zeros((len(left.rows), len(right.rows))), left, right)
    match function:
        case Similarity.DOT:
            found = _products(left, right)
        case Similarity.COSINE:
            norms = _norms(left.rows)[:, None] * _norms(right.rows)
            found = _products(left, right) / norms
        case Similarity.EUCLIDEAN:
            found = -np.sqrt(np.maximum(_sums(left.rows, right.rows, np.square), 0))
        case Similarity.MANHATTAN:
            found = -_sums(left.rows, right.rows, np.abs)
        case _:
            assert_never(function)
    return _result(found, left, right)


def sparse_pairwise_similarity(a: Any, b: Any, function: Similarity) -> Array:
    """Compare row i of ``a`` with row i of ``b``; see :func:`sparse_similarity`.

    Returns:
        (N,) float32.

    Raises:
        InputError: If the widths or the numbers of rows differ, or it is not embeddings.
    """
    if is_dense(a) and is_dense(b):
        return pairwise_similarity(a, b, function)
    left, right = _read(a, b)
    x, y = left.rows, right.rows
    if len(x) != len(y):
        raise InputError(
            f"{len(x)} embeddings cannot be paired with {len(y)}", "use similarity() for all combinations"
        )
    rows, u, v = _shared(x, y)

    def total(over: Ints, values: Floats) -> Floats:
        return np.asarray(np.bincount(over, values, len(x)), np.float64)

    match function:
        case Similarity.DOT:
            found = total(rows, u * v)
        case Similarity.COSINE:
            found = total(rows, u * v) / (_norms(x) * _norms(y))
        case Similarity.EUCLIDEAN:
            alone = total(x.rows, _wide(x) ** 2) + total(y.rows, _wide(y) ** 2)
            found = -np.sqrt(np.maximum(alone + total(rows, (u - v) ** 2 - u**2 - v**2), 0))
        case Similarity.MANHATTAN:
            alone = total(x.rows, np.abs(_wide(x))) + total(y.rows, np.abs(_wide(y)))
            found = -(alone + total(rows, np.abs(u - v) - np.abs(u) - np.abs(v)))
        case _:
            assert_never(function)
    return _result(found, left, right)


def intersect(a: Any, b: Any) -> Any:
    """Multiply one embedding with others, and keep what is positive.

    Args:
        a: (V,).
        b: (V,) or (M, V).

    Returns:
        The products, of the shape of ``b``: a COO tensor if ``b`` is a tensor, else SciPy's CSR.

    Raises:
        InputError: If the shapes do not fit, or it is not embeddings.
    """
    left, right = _read(a, b)
    if not left.single:
        raise InputError(
            f"the first of intersection() is {len(left.rows)} embeddings, expected one of shape (V,)",
            "take one row: embeddings[0]",
        )
    of_one = np.zeros(left.rows.width)
    of_one[left.rows.columns] = left.rows.values
    products = of_one[right.rows.columns] * right.rows.values
    kept = products > 0
    rows = right.rows.rows[kept], right.rows.columns[kept], products[kept]
    return right.in_kind(SparseRows.from_pairs(*rows, (len(right.rows), right.rows.width)))


def is_dense(value: Any) -> bool:
    """Whether something is neither a SciPy matrix, nor a tensor of a sparse layout, nor a list with one."""
    if isinstance(value, list | tuple):
        return all(map(is_dense, value))
    if is_tensor(value):
        return str(value.layout) == "torch.strided"
    return type(value).__module__.partition(".")[0] != "scipy"


def _read(a: Any, b: Any) -> tuple[Given, Given]:
    left, right = read_embeddings(a), read_embeddings(b)
    if left.rows.width != right.rows.width and len(left.rows) and len(right.rows):
        raise InputError(
            f"embeddings of {left.rows.width} and {right.rows.width} dimensions cannot be compared",
            "encode both with the same model",
        )
    return left, right


def _result(found: Any, left: Given, right: Given) -> Array:
    values = np.ascontiguousarray(found, np.float32)
    like = right.like if left.like is None else left.like
    return values if like is None else require_torch().from_numpy(values).to(like.device)


def _products(a: Given, b: Given) -> Any:
    """(N, M): dot products, by torch where it is asked for anyway, else by SciPy."""
    if a.like is None and b.like is None:
        return (a.rows.to_csr() @ b.rows.to_csr().T).toarray()
    # with both sparse, torch warns of its own beta state, so one is made dense, a few rows at a time
    torch, left = require_torch(), a.rows.to_tensor()
    starts = range(0, len(b.rows), DENSE_ROWS)
    blocks = (torch.from_numpy(b.rows.part(start, start + DENSE_ROWS).to_dense()) for start in starts)
    return np.concatenate([torch.sparse.mm(left, block.T).numpy() for block in blocks], axis=1)


def _sums(a: SparseRows, b: SparseRows, function: Callable[[Floats], Floats]) -> Floats:
    """(N, M): the sum of a function of the differences; one row of ``a`` at a time is dense."""
    found = np.zeros((len(a), len(b)))
    rows, values = b.rows, _wide(b)
    for place, (start, end) in enumerate(zip(a.starts[:-1], a.starts[1:], strict=True)):
        row = np.zeros(b.width)
        row[a.columns[start:end]] = a.values[start:end]
        there = row[b.columns]
        # where b has nothing the difference is the row's own value: all of these, and a correction where it has
        found[place] = np.bincount(rows, function(values - there) - function(there), len(b))
        found[place] += function(row).sum()
    return found


def _shared(a: SparseRows, b: SparseRows) -> tuple[Ints, Floats, Floats]:
    """Where both of a pair have a value: the pair, and the two values."""
    left, right = (each.rows * each.width + each.columns for each in (a, b))
    _, here, there = np.intersect1d(left, right, assume_unique=True, return_indices=True)
    return a.rows[here], _wide(a)[here], _wide(b)[there]


def _norms(rows: SparseRows) -> Floats:
    return np.maximum(np.sqrt(np.bincount(rows.rows, _wide(rows) ** 2, len(rows))), NORM_EPSILON)


def _wide(rows: SparseRows) -> Floats:
    return rows.values.astype(np.float64)
