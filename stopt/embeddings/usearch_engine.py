"""The nearest codes by usearch; see :mod:`stopt.embeddings.engines`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.embeddings.codes import Precision
from stopt.embeddings.scoring import Found, Ids, Levels, counted, present, rounded_weights
from stopt.errors import InputError, MissingExtra

__all__ = ["UsearchEngine", "import_usearch"]


@dataclass
class UsearchEngine:
    """A usearch index, or codes that usearch compares one by one.

    Attributes:
        precision: float32, int8 or ubinary.
        codes: (N, W), to be searched exhaustively.
        index: usearch's ``Index``, with ids 0 to N - 1 as keys; instead of ``codes``.
        exact: Whether the index is to be searched exhaustively.
    """

    precision: Precision
    codes: npt.NDArray[Any] | None = None
    index: Any = None
    exact: bool = True

    def __post_init__(self) -> None:
        usearch = import_usearch()
        if self.index is None:
            return
        metric, dtype = _USEARCH[self.precision]
        if not isinstance(self.index, usearch.Index):
            raise InputError(
                f"a {type(self.index).__name__} is no index of usearch",
                "make it here: corpus_embeddings=..., output_index=True",
            )
        wanted = (getattr(usearch.MetricKind, metric), getattr(usearch.ScalarKind, dtype))
        if (self.index.metric_kind, self.index.dtype) != wanted:
            raise InputError(
                f"the index compares {self.index.dtype} by {self.index.metric_kind}, expected {dtype} by {metric} for "
                f"{self.precision.value} codes",
                "make it here: corpus_embeddings=..., output_index=True",
            )

    @classmethod
    def graph(cls, codes: npt.NDArray[Any], precision: Precision, *, exact: bool = False) -> UsearchEngine:
        """Build a graph of (N, W) codes."""
        usearch = import_usearch()
        metric, dtype = (
            getattr(kind, name)
            for kind, name in zip((usearch.MetricKind, usearch.ScalarKind), _USEARCH[precision], strict=True)
        )
        width = 8 * codes.shape[1] if precision is Precision.UBINARY else codes.shape[1]
        index = usearch.Index(ndim=width, metric=metric, dtype=dtype)
        if len(codes):
            index.add(np.arange(len(codes)), codes)
        return cls(precision, None, index, exact)

    def __len__(self) -> int:
        return len(self.index) if self.codes is None else len(self.codes)

    def search(self, queries: npt.NDArray[Any], levels: Levels | None, k: int) -> Found:
        """See :meth:`Engine.search`."""
        if levels is None:
            distances, ids = self._nearest(queries, k)
            # usearch's distance of an inner product is 1 - product
            scores = -distances if self.precision is Precision.UBINARY else 1 - distances
            return present(scores, ids)
        rounded, factors, constants = rounded_weights(levels, queries)
        distances, ids = self._nearest(rounded, k)
        return present((1 - distances) * factors[:, None] + constants[:, None], ids)

    def _nearest(self, queries: npt.NDArray[Any], k: int) -> Found:
        """(Q, k) distances and ids, -1 where there are fewer documents."""
        scores = np.full((len(queries), k), np.inf, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        count = min(k, len(self))
        if not count or not len(queries):
            return scores, ids
        if self.codes is None:
            matches = self.index.search(queries, count, exact=self.exact)
        else:
            usearch = import_usearch()
            metric, dtype = _USEARCH[self.precision]
            matches = usearch.search(
                self.codes,
                queries,
                count,
                getattr(usearch.MetricKind, metric),
                exact=True,
                dtype=getattr(usearch.ScalarKind, dtype),
            )
        keys, distances = np.atleast_2d(matches.keys), np.atleast_2d(matches.distances)
        # a graph may find fewer than there are: usearch leaves the rest of a row as it was
        counts = np.atleast_1d(np.asarray(getattr(matches, "counts", keys.shape[1])))
        found = counts[:, None] > np.arange(keys.shape[1])
        ids[:, : keys.shape[1]] = np.where(found, keys.astype(np.int64), -1)
        scores[:, : keys.shape[1]] = np.where(found, distances, np.inf)
        return scores, ids

    def rows(self, ids: Ids) -> npt.NDArray[Any]:
        """See :meth:`Engine.rows`."""
        if self.codes is not None:
            return counted(self.codes[ids])
        return counted(np.stack(self.index.get(ids)))

    def stored(self) -> npt.NDArray[Any]:
        """Return (N, W) codes as they were given."""
        assert self.codes is not None
        return self.codes


_USEARCH = {
    Precision.FLOAT32: ("IP", "F32"),
    Precision.INT8: ("IP", "I8"),
    Precision.UBINARY: ("Hamming", "B1"),
}


def import_usearch() -> Any:
    """Import usearch's module of indices.

    Raises:
        MissingExtra: If it is not installed.
    """
    try:
        from usearch import index
    except ImportError as error:
        raise MissingExtra("usearch", "search") from error
    return index
