"""Search by any function of floats, dense or sparse, without an index: sentence-transformers' ``semantic_search``.

``tests/test_search.py`` compares with it live. Shapes: Q queries, N documents, E dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.counts import require_count
from stopt.embeddings.exact import ROWS, Best, blocks, search_floats
from stopt.embeddings.given import (
    array,
    lengths,
    matrix,
    not_finite,
    require_embeddings,
    require_same_width,
)
from stopt.embeddings.nearest import Hits, hits
from stopt.errors import InputError
from stopt.runtime.arrays import Array
from stopt.runtime.sparse_arrays import read_embeddings
from stopt.runtime.sparse_similarity import is_dense, sparse_similarity
from stopt.spec import Similarity

__all__ = ["cos_sim", "dot_score", "semantic_search"]


def cos_sim(a: Any, b: Any) -> Array:
    """Return the cosines of (Q, E) and (N, E) embeddings, sparse ones too: (Q, N), a tensor if one of the two is.

    Raises:
        InputError: If the widths differ, or they are codes: int8 or uint8.
    """
    return sparse_similarity(a, b, Similarity.COSINE)


def dot_score(a: Any, b: Any) -> Array:
    """Return the inner products of (Q, E) and (N, E) embeddings; see :func:`cos_sim`."""
    return sparse_similarity(a, b, Similarity.DOT)


def semantic_search(
    query_embeddings: Any,
    corpus_embeddings: Any,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500_000,
    top_k: int = 10,
    score_function: Callable[[Any, Any], Any] = cos_sim,
) -> Hits:
    """Compare every query with every document.

    Args:
        query_embeddings: (Q, E) floats; (E,) for one query. Dense, or sparse: SciPy's matrices, or COO tensors.
        corpus_embeddings: (N, E) floats, likewise.
        query_chunk_size: Queries compared at a time.
        corpus_chunk_size: Documents compared at a time, at most.
        top_k: Results for each query; fewer if there are fewer documents.
        score_function: Takes (Q, E) and (N, E) arrays, or sparse embeddings in the kind that was given if one of the
            two is sparse, and returns (Q, N) scores, larger being more similar.

    Returns:
        For each query a list of ``{"corpus_id": int, "score": float}``, the most similar first; of equal ones the one
        that comes first in the corpus.

    Raises:
        OptionError: If a size is not positive.
        InputError: If the embeddings are no floats, differ in dimension, or have NaN or infinity.
    """
    require_count(query_chunk_size, "query_chunk_size")
    require_count(corpus_chunk_size, "corpus_chunk_size")
    require_count(top_k, "top_k")
    if not (is_dense(query_embeddings) and is_dense(corpus_embeddings)):
        sparse = _Rows.sparse(query_embeddings, "query"), _Rows.sparse(corpus_embeddings, "corpus")
        return _by_function(*sparse, query_chunk_size, corpus_chunk_size, top_k, score_function)
    queries = require_embeddings(matrix(query_embeddings, "query"), "query")
    corpus = matrix(corpus_embeddings, "corpus")
    require_same_width(queries.shape[1], corpus.shape[1])
    parts = blocks(len(queries), query_chunk_size)
    if score_function is cos_sim:
        inverse = 1 / lengths(corpus)[:, None]
        queries = queries / lengths(queries)[:, None]
        return _exact(
            queries, corpus, parts, lambda part: corpus[part] * inverse[part], top_k, corpus_chunk_size
        )
    if score_function is dot_score:
        return _exact(queries, corpus, parts, lambda part: corpus[part], top_k, corpus_chunk_size)
    dense = (
        _Rows(len(queries), queries.shape[1], queries.__getitem__),
        _Rows(len(corpus), corpus.shape[1], corpus.__getitem__),
    )
    return _by_function(*dense, query_chunk_size, corpus_chunk_size, top_k, score_function)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Embeddings that a function compares, some at a time."""

    count: int
    width: int
    part: Callable[[slice], Any]

    @classmethod
    def sparse(cls, embeddings: Any, what: str) -> _Rows:
        given = read_embeddings(embeddings)
        rows = given.rows
        finite = np.isfinite(rows.values)
        if not finite.all():
            raise not_finite(what, int(rows.rows[np.argmin(finite)]))
        kind = replace(given, single=False)
        return cls(len(rows), rows.width, lambda part: kind.in_kind(rows.part(part.start, part.stop)))


def _by_function(
    queries: _Rows,
    corpus: _Rows,
    query_chunk_size: int,
    corpus_chunk_size: int,
    top_k: int,
    score: Callable[[Any, Any], Any],
) -> Hits:
    """Search by the scores of any function."""
    require_same_width(queries.width, corpus.width)
    found: Hits = []
    for chunk in blocks(queries.count, query_chunk_size):
        some = queries.part(chunk)
        best = Best(some.shape[0], top_k)
        for part in blocks(corpus.count, corpus_chunk_size):
            scores = array(score(some, corpus.part(part)))
            if np.isnan(scores).any():
                row = part.start + int(np.argmax(np.isnan(scores).any(axis=0)))
                raise InputError(
                    f"the score of corpus embedding {row} is NaN",
                    "check the embeddings and the function",
                    index=row,
                )
            for query, row_scores in enumerate(scores):
                best.offer(query, row_scores, part.start)
        found += hits(*best.arrays())
    return found


def _exact(
    queries: npt.NDArray[Any],
    corpus: npt.NDArray[Any],
    parts: Iterator[slice],
    rows: Callable[[slice], npt.NDArray[Any]],
    top_k: int,
    size: int,
) -> Hits:
    """Search by inner products; blocks are small enough for a processor's cache, whatever the chunk may be."""
    found: Hits = []
    for part in parts:
        found += hits(*search_floats(queries[part], len(corpus), rows, top_k, min(size, ROWS)))
    return found
