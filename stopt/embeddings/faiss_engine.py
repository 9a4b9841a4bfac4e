"""The nearest codes by faiss; see :mod:`stopt.embeddings.engines`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.embeddings.codes import Precision
from stopt.embeddings.exact import ROWS, blocks
from stopt.embeddings.scoring import Found, Ids, Levels, counted, present, rounded_weights
from stopt.errors import InputError, MissingExtra

__all__ = ["FaissEngine", "import_faiss"]

NEIGHBOURS = 16  # edges of a node in a graph: sentence-transformers' choice


class FaissEngine:
    """A faiss index.

    Args:
        index: Flat or HNSW over floats, 8-bit codes or bits; floats are compared by inner product.
        precision: float32, int8 or ubinary.

    Raises:
        InputError: If the index is none of these.
    """

    def __init__(self, index: Any, precision: Precision) -> None:
        faiss = import_faiss()
        self.index, self.precision = index, precision
        binary = precision is Precision.UBINARY
        if isinstance(index, faiss.IndexBinary) is not binary or not isinstance(
            index, faiss.Index | faiss.IndexBinary
        ):
            raise InputError(
                f"a {type(index).__name__} does not hold {precision.value} codes",
                "give the corpus_precision that the index was made with",
            )
        if not binary and index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise InputError(
                f"the {type(index).__name__} does not compare by inner product, so its scores are no similarities",
                "make it here: corpus_embeddings=..., output_index=True",
            )
        self._scalar = _scalar_quantizer(faiss, index) if precision is Precision.INT8 else None

    @classmethod
    def build(
        cls, codes: npt.NDArray[Any], precision: Precision, levels: Levels | None, *, exact: bool
    ) -> FaissEngine:
        """Make one of (N, W) codes; see :func:`build`."""
        faiss = import_faiss()
        width, product = codes.shape[1], faiss.METRIC_INNER_PRODUCT
        match precision:
            case Precision.FLOAT32 if exact:
                index = faiss.IndexFlatIP(width)
            case Precision.FLOAT32:
                index = faiss.IndexHNSWFlat(width, NEIGHBOURS, product)
            case Precision.UBINARY if exact:
                index = faiss.IndexBinaryFlat(8 * width)
            case Precision.UBINARY:
                index = faiss.IndexBinaryHNSW(8 * width, NEIGHBOURS)
            case _ if exact:
                index = faiss.IndexScalarQuantizer(
                    width, faiss.ScalarQuantizer.QT_8bit_direct_signed, product
                )
                for part in blocks(len(codes), ROWS):  # faiss takes floats, and makes the same bytes of them
                    index.add(codes[part].astype(np.float32))
                return cls(index, precision)
            case _:
                assert levels is not None
                return cls(_int8_graph(faiss, codes, levels), precision)
        index.add(codes)
        return cls(index, precision)

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def search(self, queries: npt.NDArray[Any], levels: Levels | None, k: int) -> Found:
        """See :meth:`Engine.search`."""
        if self.precision is Precision.UBINARY:
            distances, ids = self.index.search(np.ascontiguousarray(queries), k)
            return np.where(ids < 0, -np.inf, -distances).astype(np.float32), ids
        if levels is None:
            return present(*self.index.search(queries, k))
        if self._scalar is None:  # raw codes as floats, as sentence-transformers builds it
            weights, constants = levels.weigh(queries)
            scores, ids = self.index.search(np.ascontiguousarray(weights), k)
        elif self._scalar.qtype == import_faiss().ScalarQuantizer.QT_8bit:  # it knows the levels itself
            return present(*self.index.search(queries, k))
        else:
            rounded, factors, constants = rounded_weights(levels, queries)
            scores, ids = self.index.search(rounded.astype(np.float32), k)
            scores = scores * factors[:, None]
        return present(scores + constants[:, None], ids)

    def rows(self, ids: Ids) -> npt.NDArray[Any]:
        """See :meth:`Engine.rows`."""
        faiss = import_faiss()
        if self.precision is Precision.FLOAT32 or (self.precision is Precision.INT8 and self._scalar is None):
            found: npt.NDArray[Any] = self.index.reconstruct_batch(ids)
            return found
        flat = self._flat(faiss)
        codes = flat.xb if self.precision is Precision.UBINARY else flat.codes
        stored = faiss.rev_swig_ptr(codes.data(), codes.size()).reshape(len(self), flat.code_size)
        taken: npt.NDArray[Any] = stored[ids]
        return taken

    def _flat(self, faiss: Any) -> Any:
        """The index that holds the codes themselves."""
        if not hasattr(self.index, "storage"):
            return self.index
        binary = self.precision is Precision.UBINARY
        return (faiss.downcast_IndexBinary if binary else faiss.downcast_index)(self.index.storage)


def _scalar_quantizer(faiss: Any, index: Any) -> Any:
    """The quantiser of an index of 8-bit codes; None for an index of raw codes in floats."""
    flat = faiss.downcast_index(index.storage) if hasattr(index, "storage") else index
    if isinstance(flat, faiss.IndexFlat):
        return None
    known = (faiss.ScalarQuantizer.QT_8bit, faiss.ScalarQuantizer.QT_8bit_direct_signed)
    if not isinstance(flat, faiss.IndexScalarQuantizer) or flat.sq.qtype not in known:
        raise InputError(
            f"a {type(index).__name__} does not hold int8 codes in a form that is known here",
            "make it here: corpus_embeddings=..., output_index=True",
        )
    return flat.sq


def _int8_graph(faiss: Any, codes: npt.NDArray[Any], levels: Levels) -> Any:
    """A graph whose edges go by what the codes stand for: faiss' own 8-bit quantiser, given our ranges."""
    index = faiss.IndexHNSWSQ(
        codes.shape[1], faiss.ScalarQuantizer.QT_8bit, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT
    )
    flat = faiss.downcast_index(index.storage)
    low = levels.offset - levels.scale / 2
    faiss.copy_array_to_vector(np.concatenate([low, 255 * levels.scale]).astype(np.float32), flat.sq.trained)
    index.is_trained = flat.is_trained = True
    for part in blocks(len(codes), ROWS):  # the middle of each step: it gets its code back
        index.add((counted(codes[part]) * levels.scale + levels.offset).astype(np.float32))
    return index


def import_faiss() -> Any:
    """Import faiss.

    Raises:
        MissingExtra: If it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("faiss", "search") from error
    return faiss
