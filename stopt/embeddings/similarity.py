"""How two embeddings are compared. Shapes: (N, E) against (M, E); numpy and torch alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

import numpy as np

from stopt.errors import InputError
from stopt.runtime.arrays import Array, is_tensor, namespace
from stopt.runtime.modules import l2_normalize
from stopt.spec import Similarity

__all__ = ["pairwise_similarity", "similarity"]


def similarity(a: Any, b: Any, function: Similarity) -> Array:
    """Compare every embedding of ``a`` with every one of ``b``.

    Args:
        a: (N, E) or (E,); an array, a tensor, or a list of either.
        b: (M, E) or (E,).
        function: How; distances come negated, so that larger is always more similar.

    Returns:
        (N, M), a tensor if one of the two is, else an array.

    Raises:
        InputError: If the widths differ, or they are codes: int8 or uint8.
    """
    a, b = _matrices(a, b)
    match function:
        case Similarity.COSINE:
            return l2_normalize(a) @ l2_normalize(b).T
        case Similarity.DOT:
            return a @ b.T
        case Similarity.EUCLIDEAN:
            return _by_row(a, b, _euclidean)
        case Similarity.MANHATTAN:
            return _by_row(a, b, _manhattan)
        case _:
            assert_never(function)


def pairwise_similarity(a: Any, b: Any, function: Similarity) -> Array:
    """Compare row i of ``a`` with row i of ``b``; see :func:`similarity`.

    Returns:
        (N,).

    Raises:
        InputError: If the widths or the numbers of rows differ, or they are codes: int8 or uint8.
    """
    a, b = _matrices(a, b)
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise InputError(
            f"{len(a)} embeddings cannot be paired with {len(b)}", "use similarity() for all combinations"
        )
    xp = namespace(a, b)
    match function:
        case Similarity.COSINE:
            return xp.sum(l2_normalize(a) * l2_normalize(b), axis=-1)
        case Similarity.DOT:
            return xp.sum(a * b, axis=-1)
        case Similarity.EUCLIDEAN:
            return _euclidean(a, b)
        case Similarity.MANHATTAN:
            return _manhattan(a, b)
        case _:
            assert_never(function)


def _by_row(a: Array, b: Array, compare: Callable[[Array, Array], Array]) -> Array:
    """(N, M), one row of ``a`` at a time: exact differences without an (N, M, E) array."""
    xp = namespace(a, b)
    rows = [compare(a[i : i + 1, :], b) for i in range(a.shape[0])]
    return xp.stack(rows) if rows else a @ b.T


def _euclidean(a: Array, b: Array) -> Array:
    xp = namespace(a, b)
    difference = a - b
    return -xp.sqrt(xp.sum(difference * difference, axis=-1))


def _manhattan(a: Array, b: Array) -> Array:
    xp = namespace(a, b)
    return -xp.sum(xp.abs(a - b), axis=-1)


def _matrices(a: Any, b: Any) -> tuple[Array, Array]:
    a, b = _matrix(a), _matrix(b)
    if is_tensor(a) != is_tensor(b):
        import torch

        a, b = torch.as_tensor(a), torch.as_tensor(b)
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"embeddings of {a.shape[1]} and {b.shape[1]} dimensions cannot be compared",
            "encode both with the same model and the same truncate_dim",
        )
    return a, b


def _matrix(values: Any) -> Array:
    if isinstance(values, list | tuple):
        if values and is_tensor(values[0]):
            import torch

            values = torch.stack(list(values))
        else:
            values = np.asarray(values)
    if not hasattr(values, "ndim"):
        raise InputError(f"expected embeddings, got {type(values).__name__}", "pass what encode() returned")
    matrix = values[None, :] if values.ndim == 1 else values
    if matrix.ndim != 2:
        raise InputError(
            f"expected embeddings of shape (N, E), got {tuple(values.shape)}", "pass what encode() returned"
        )
    return _floats(matrix)


def _floats(matrix: Array) -> Array:
    """Numbers as they are, whole ones as float32; codes would wrap around, and mean something only with their ranges."""
    dtype = str(matrix.dtype).removeprefix("torch.")
    if dtype in ("int8", "uint8"):
        raise InputError(
            f"the embeddings are {dtype}: these are codes, whose numbers say nothing by themselves",
            "compare what encode() returned with precision='float32', or search codes with semantic_search_quantized",
        )
    if dtype.startswith(("int", "uint", "bool")):
        return matrix.float() if is_tensor(matrix) else matrix.astype(np.float32)
    return matrix
