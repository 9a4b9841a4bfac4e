"""Three libraries that find the nearest codes: numpy, faiss and usearch, behind one interface.

Codes are those of :func:`stopt.embeddings.scoring.stored_precision`. Whatever is asked for, an engine answers with (Q, k)
scores, larger being better, and ids, -1 where it has found nothing. faiss and usearch are imported when they are used.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol, assert_never

import numpy as np
import numpy.typing as npt

from stopt.embeddings.codes import Precision
from stopt.embeddings.exact import as_words, search_bits, search_floats
from stopt.embeddings.faiss_engine import FaissEngine
from stopt.embeddings.scoring import Found, Ids, Levels, counted, signed_weights
from stopt.embeddings.usearch_engine import UsearchEngine
from stopt.errors import OptionError, suggest

__all__ = ["Engine", "EngineKind", "NumpyEngine", "build", "parse_engine"]

CODE_ROWS = 1024  # int8 rows that numpy turns into floats at a time: 1.5 MB of 384 dimensions


class EngineKind(StrEnum):
    """Who searches."""

    EXACT = "exact"
    FAISS = "faiss"
    USEARCH = "usearch"


def parse_engine(name: str) -> EngineKind:
    """Turn a name into the enum.

    Raises:
        OptionError: If there is no such engine.
    """
    known = [str(kind) for kind in EngineKind]
    if name not in known:
        raise OptionError(f"there is no engine {name!r}", suggest(name, known))
    return EngineKind(name)


class Engine(Protocol):
    """Documents' codes that can be searched."""

    precision: Precision

    def __len__(self) -> int:
        """Return the number of documents."""
        ...

    def search(self, queries: npt.NDArray[Any], levels: Levels | None, k: int) -> Found:
        """Find the nearest documents.

        Args:
            queries: (Q, E) float32; (Q, ceil(E / 8)) packed bits for binary documents.
            levels: What int8 codes stand for.
            k: Documents to find; at least 1.

        Returns:
            (Q, k) scores and ids: inner products (for int8 in faiss and usearch those of a query that has been
            rounded to 8 bits, too), or Hamming distances, **negated**, for binary documents.
        """
        ...

    def rows(self, ids: Ids) -> npt.NDArray[Any]:
        """Return documents by id: floats, or codes counted from 0, or packed bits."""
        ...


def build(
    kind: EngineKind, codes: npt.NDArray[Any], precision: Precision, levels: Levels | None, *, exact: bool
) -> Engine:
    """Make codes searchable.

    Args:
        kind: Who is to search.
        codes: (N, W) of ``precision``.
        precision: float32, int8 or ubinary.
        levels: What int8 codes stand for.
        exact: Compare with every document; otherwise a graph leads to most of the nearest.

    Raises:
        MissingExtra: If the library is not installed.
        OptionError: If numpy is to search by a graph.
    """
    match kind:
        case EngineKind.EXACT:
            if not exact:
                raise OptionError(
                    "engine 'exact' searches exactly", "approximate search: 'faiss' or 'usearch'"
                )
            return NumpyEngine(codes, precision)
        case EngineKind.FAISS:
            return FaissEngine.build(codes, precision, levels, exact=exact)
        case EngineKind.USEARCH:
            return UsearchEngine(precision, codes) if exact else UsearchEngine.graph(codes, precision)
        case _:
            assert_never(kind)


class NumpyEngine:
    """Exhaustive search in numpy.

    Args:
        codes: (N, W); bits are kept word by word, so that they need their own size in memory once more.
        precision: float32, int8 or ubinary.
    """

    def __init__(self, codes: npt.NDArray[Any], precision: Precision) -> None:
        self.precision = precision
        self._width = codes.shape[1]
        binary = precision is Precision.UBINARY
        self._codes: npt.NDArray[Any] = np.ascontiguousarray(as_words(codes).T) if binary else codes

    def __len__(self) -> int:
        return self._codes.shape[1] if self.precision is Precision.UBINARY else len(self._codes)

    def search(self, queries: npt.NDArray[Any], levels: Levels | None, k: int) -> Found:
        """See :meth:`Engine.search`."""
        if self.precision is Precision.UBINARY:
            return search_bits(as_words(queries), self._codes, k)
        if levels is None:
            return search_floats(queries, len(self), lambda part: self._codes[part], k)
        weights, constants = signed_weights(levels, queries)
        scores, ids = search_floats(
            weights, len(self), lambda part: self._codes[part].astype(np.float32), k, CODE_ROWS
        )
        return scores + constants[:, None], ids

    def rows(self, ids: Ids) -> npt.NDArray[Any]:
        """See :meth:`Engine.rows`."""
        if self.precision is Precision.UBINARY:
            words = np.ascontiguousarray(self._codes[:, ids].T)
            return words.view(np.uint8)[:, : self._width]
        return counted(self._codes[ids])

    def stored(self) -> npt.NDArray[Any]:
        """Return (N, W) codes as they were given."""
        return self.rows(np.arange(len(self))) if self.precision is Precision.UBINARY else self._codes
