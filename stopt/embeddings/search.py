"""sentence-transformers' search functions: the same signatures and result shape, with scores that mean something.

Where they differ from sentence-transformers 5.7 (``tests/test_search.py`` compares live): scores of int8 and binary
documents are inner products of the query's floats with what the codes stand for, not with the codes themselves; larger is
better in usearch, too; graphs compare by inner product; no result has an id that is not there; ``binary`` is compared bit
by bit; and int8 without ranges is an error, as ranges of the queries would be others than those of the corpus.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.counts import require_count
from stopt.embeddings.codes import Precision, parse_precision
from stopt.embeddings.engines import Engine, EngineKind, build
from stopt.embeddings.faiss_engine import FaissEngine
from stopt.embeddings.given import (
    array,
    matrix,
    require_codes,
    require_embeddings,
    require_same_width,
)
from stopt.embeddings.nearest import Hits, Rescoring, hits, nearest
from stopt.embeddings.quantization import dequantize_embeddings, quantize_embeddings
from stopt.embeddings.ranges import Ranges
from stopt.embeddings.scoring import Levels, as_stored, stored_precision
from stopt.embeddings.usearch_engine import UsearchEngine
from stopt.errors import InputError, OptionError, StoptWarning

__all__ = ["semantic_search_faiss", "semantic_search_usearch"]


def semantic_search_faiss(
    query_embeddings: Any,
    corpus_embeddings: Any = None,
    corpus_index: Any = None,
    corpus_precision: str = "float32",
    top_k: int = 10,
    ranges: Any = None,
    calibration_embeddings: Any = None,
    rescore: bool = True,
    rescore_multiplier: int = 2,
    exact: bool = True,
    output_index: bool = False,
    *,
    rescore_embeddings: Any = None,
) -> tuple[Hits, float] | tuple[Hits, float, Any]:
    """Search with faiss.

    Args:
        query_embeddings: (Q, E) floats, or codes of the corpus' precision; (E,) for one query.
        corpus_embeddings: (N, E) floats, or codes; floats are quantised here if ``corpus_precision`` says so.
        corpus_index: An index that a call with ``output_index`` returned; instead of ``corpus_embeddings``.
        corpus_precision: ``float32``, ``int8``, ``uint8``, ``binary`` or ``ubinary``.
        top_k: Results for each query; fewer if there are fewer documents.
        ranges: For int8 and uint8 the ranges of the corpus' codes: :class:`Ranges`, or (2, E).
        calibration_embeddings: (M, E) floats to take them from; without either they are those of a corpus of floats.
        rescore: Search codes for ``top_k * rescore_multiplier`` candidates, and order those by the inner product of the
            query's floats with what the codes stand for. Without it the order is that of the library's kernel, and
            the scores of binary codes are Hamming distances, the smallest first.
        rescore_multiplier: See ``rescore``.
        exact: Compare with every document; otherwise a graph (HNSW) leads to most of the nearest.
        output_index: Return the index, too.
        rescore_embeddings: Something better than the codes to order candidates by: (N, E) floats, or int8 or uint8
            codes with their ``ranges``. Only candidates' rows are read, so that a memory-mapped file does.

    Returns:
        For each query a list of ``{"corpus_id": int, "score": float}``, the best first; the seconds that the search took,
        without making the index and quantising; and the index, if asked for.

    Raises:
        MissingExtra: If faiss is not installed.
        OptionError: If options contradict each other, or int8 comes without ranges.
        InputError: If embeddings are of another dimension or precision, or have NaN or infinity.
    """
    request = _Request(
        EngineKind.FAISS,
        parse_precision(corpus_precision),
        top_k,
        rescore,
        rescore_multiplier,
        exact,
        output_index,
    )
    corpus = _Corpus.open(request, corpus_embeddings, corpus_index, ranges, calibration_embeddings)
    return _search(request, corpus, query_embeddings, rescore_embeddings)


def semantic_search_usearch(
    query_embeddings: Any,
    corpus_embeddings: Any = None,
    corpus_index: Any = None,
    corpus_precision: str = "float32",
    top_k: int = 10,
    ranges: Any = None,
    calibration_embeddings: Any = None,
    rescore: bool = True,
    rescore_multiplier: int = 2,
    exact: bool = True,
    output_index: bool = False,
    *,
    rescore_embeddings: Any = None,
) -> tuple[Hits, float] | tuple[Hits, float, Any]:
    """Search with usearch; arguments, result and errors are those of :func:`semantic_search_faiss`."""
    request = _Request(
        EngineKind.USEARCH,
        parse_precision(corpus_precision),
        top_k,
        rescore,
        rescore_multiplier,
        exact,
        output_index,
    )
    corpus = _Corpus.open(request, corpus_embeddings, corpus_index, ranges, calibration_embeddings)
    return _search(request, corpus, query_embeddings, rescore_embeddings)


@dataclass(frozen=True, slots=True)
class _Request:
    kind: EngineKind
    precision: Precision
    top_k: int
    rescore: bool
    multiplier: int
    exact: bool
    output_index: bool

    def __post_init__(self) -> None:
        require_count(self.top_k, "top_k")
        require_count(self.multiplier, "rescore_multiplier")


@dataclass(frozen=True, slots=True)
class _Corpus:
    """What is searched, and what its codes stand for."""

    engine: Engine
    ranges: Ranges | None
    width: int  # of a row of codes

    @classmethod
    def open(cls, request: _Request, embeddings: Any, index: Any, ranges: Any, calibration: Any) -> _Corpus:
        if (embeddings is None) is (index is None):
            raise OptionError(
                "neither corpus_embeddings nor corpus_index is given"
                if index is None
                else "both corpus_embeddings and corpus_index are given",
                "give one of the two",
            )
        precision = request.precision
        stored = stored_precision(precision)
        values = None if embeddings is None else matrix(embeddings, "corpus", integers=True)
        given = ranges is not None or calibration is not None
        known = _ranges(values, ranges, calibration) if given or precision.has_ranges else None
        if precision.has_ranges and known is None:
            raise OptionError(
                f"{precision.value} codes mean nothing without ranges",
                "give ranges, or calibration_embeddings: those that the corpus was quantised with",
            )
        if values is None:
            engine: Engine = (
                FaissEngine(index, stored)
                if request.kind is EngineKind.FAISS
                else UsearchEngine(stored, None, index, request.exact)
            )
            width = int(getattr(index, "d", 0) or getattr(index, "ndim", 0))
            return cls(engine, known, width // 8 if precision.is_binary else width)
        codes = _codes(values, precision, known)
        levels = Levels.of_ranges(known) if known and precision.has_ranges else None
        if request.kind is EngineKind.USEARCH and request.output_index:
            engine = UsearchEngine.graph(codes, stored, exact=request.exact)
        else:
            engine = build(request.kind, codes, stored, levels, exact=request.exact)
        return cls(engine, known, codes.shape[1])


def _search(
    request: _Request, corpus: _Corpus, query: Any, better: Any
) -> tuple[Hits, float] | tuple[Hits, float, Any]:
    """Search, take the time, and put results into sentence-transformers' shape."""
    queries = _queries(query, request, corpus)
    levels = Levels.of_ranges(corpus.ranges) if corpus.ranges and request.precision.has_ranges else None
    rescoring = None
    if request.rescore and queries.dtype == np.float32:
        if better is not None:
            rescoring = _rescoring_by(better, request, corpus, queries.shape[1])
        elif request.precision.is_binary:
            rescoring = Rescoring.of_codes(
                corpus.engine, Levels.of_signs(queries.shape[1]), request.multiplier
            )
        elif levels is not None:
            rescoring = Rescoring.of_codes(corpus.engine, levels, request.multiplier)
    started = time.perf_counter()
    scores, ids = nearest(corpus.engine, queries, levels, request.top_k, rescoring)
    seconds = time.perf_counter() - started
    if rescoring is None and request.precision.is_binary:
        scores = -scores  # distances
    found = hits(scores, ids)
    if not request.output_index:
        return found, seconds
    assert isinstance(corpus.engine, FaissEngine | UsearchEngine)
    return found, seconds, corpus.engine.index


def _ranges(values: Any, ranges: Any, calibration: Any) -> Ranges | None:
    """The ranges of int8 codes: those given, else those of the calibration, else those of the corpus' floats."""
    if ranges is not None:
        return ranges if isinstance(ranges, Ranges) else Ranges.from_array(array(ranges))
    if calibration is not None:
        return Ranges.of(matrix(calibration, "calibration"))
    if values is not None and np.issubdtype(values.dtype, np.floating):
        return Ranges.of(values)
    return None


def _codes(values: npt.NDArray[Any], precision: Precision, ranges: Ranges | None) -> npt.NDArray[Any]:
    """The corpus' codes as an engine keeps them."""
    if np.issubdtype(values.dtype, np.floating):
        floats = require_embeddings(values, "corpus")
        if precision is Precision.FLOAT32:
            return floats
        return as_stored(quantize_embeddings(floats, precision.value, ranges), precision)
    require_codes(values, precision, "corpus")
    if ranges is not None and precision.has_ranges:
        require_same_width(ranges.dimension, values.shape[1], "ranges")
    return as_stored(values, precision)


def _queries(query: Any, request: _Request, corpus: _Corpus) -> npt.NDArray[Any]:
    """Queries as float32, or as packed bits if they were given as bits."""
    values = matrix(query, "query", integers=True)
    precision = request.precision
    if np.issubdtype(values.dtype, np.floating):
        queries = require_embeddings(values, "query")
        width = -(-queries.shape[1] // 8) if precision.is_binary else queries.shape[1]
        require_same_width(width, corpus.width, "queries", " bytes" if precision.is_binary else "")
        if corpus.ranges is not None:
            require_same_width(corpus.ranges.dimension, queries.shape[1], "ranges")
        return queries
    require_codes(values, precision, "query")
    require_same_width(values.shape[1], corpus.width)
    if precision.has_ranges:
        return dequantize_embeddings(values, precision.value, corpus.ranges)
    if request.rescore:
        warnings.warn(
            "queries are binary codes, so that results are in the order of Hamming distances, not rescored: pass "
            "float queries, or rescore=False",
            StoptWarning,
            stacklevel=4,
        )
    return as_stored(values, precision)


def _rescoring_by(better: Any, request: _Request, corpus: _Corpus, width: int) -> Rescoring:
    rows = array(better)
    if rows.ndim != 2 or rows.shape != (len(corpus.engine), width):
        raise InputError(
            f"rescore_embeddings have shape {rows.shape}, expected ({len(corpus.engine)}, {width})",
            "give embeddings of the same documents in the same order",
        )
    if np.issubdtype(rows.dtype, np.floating):
        return Rescoring.of_rows(rows, None, request.multiplier)
    if rows.dtype not in (np.int8, np.uint8) or corpus.ranges is None:
        raise InputError(
            f"rescore_embeddings are {rows.dtype}, expected floats, or int8 or uint8 codes with their ranges",
            "give ranges=..., those that they were quantised with",
        )
    return Rescoring.of_rows(rows, Levels.of_ranges(corpus.ranges), request.multiplier)
