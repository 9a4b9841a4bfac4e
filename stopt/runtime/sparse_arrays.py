"""Sparse vectors of a call: collected batch by batch, never dense all at once, and turned into what the caller wants.

Shapes: N vectors of V values, B of them in a batch. SciPy and torch are imported when their arrays are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.errors import InputError, MissingExtra
from stopt.runtime.arrays import Array, is_tensor, numpy_array
from stopt.runtime.encoding import require_torch
from stopt.runtime.tokenizer import Ints

__all__ = [
    "Given",
    "SparseRows",
    "collect_rows",
    "collect_tensor",
    "read_embeddings",
    "require_scipy",
    "split_tensor",
    "strongest_tensor",
]

_PASS = "pass what encode() returned"


@dataclass(frozen=True, slots=True)
class SparseRows:
    """N vectors by their values that are not zero, in numpy's arrays: what SciPy calls CSR.

    Attributes:
        starts: (N + 1,) int64, where each vector's values begin, and where the last one's end.
        columns: Their places in the vector, int32, ascending within each.
        values: The values, float32; half precision becomes that too, as SciPy has none.
        width: V.
    """

    starts: Ints
    columns: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    width: int

    @classmethod
    def from_dense(cls, array: npt.NDArray[Any], limit: int | None = None) -> SparseRows:
        """Take the values that are not zero out of (N, V); of each vector ``limit`` at most, as :meth:`strongest`."""
        rows, columns = np.nonzero(array)
        found = cls.from_pairs(rows, columns, array[rows, columns], (len(array), array.shape[1]))
        return found if limit is None else found.strongest(limit)

    @classmethod
    def from_pairs(
        cls, rows: Ints, columns: npt.NDArray[Any], values: npt.NDArray[Any], shape: tuple[int, int]
    ) -> SparseRows:
        """Build from coordinates in order of rows, then columns; zeros are left out."""
        real = values != 0
        if not real.all():
            rows, columns, values = rows[real], columns[real], values[real]
        counts = np.bincount(rows, minlength=shape[0])
        return cls(_starts(counts), columns.astype(np.int32), values.astype(np.float32), shape[1])

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> Ints:
        """(N,): values of each vector that are not zero."""
        return np.diff(self.starts)

    @property
    def rows(self) -> Ints:
        """The vector that each value belongs to."""
        return np.repeat(np.arange(len(self)), self.counts)

    def part(self, start: int, stop: int) -> SparseRows:
        """The vectors from ``start`` up to ``stop``, or to the last."""
        starts = self.starts[start : stop + 1]
        values = slice(starts[0], starts[-1])
        return SparseRows(starts - starts[0], self.columns[values], self.values[values], self.width)

    def strongest(self, count: int) -> SparseRows:
        """Keep the ``count`` values of each vector that are largest in absolute value; of equal ones the first."""
        if not len(self) or self.counts.max() <= count:
            return self
        rows = self.rows
        order = np.lexsort((self.columns, -np.abs(self.values), rows))
        ranks = np.arange(len(rows)) - self.starts[rows]
        kept = np.sort(order[ranks < count])
        counts = np.minimum(self.counts, count)
        return SparseRows(_starts(counts), self.columns[kept], self.values[kept], self.width)

    def strongest_first(self) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
        """Columns and values of each vector, the largest value first, of equal ones the first column."""
        order = np.lexsort((self.columns, -self.values, self.rows))
        for start, end in zip(self.starts[:-1], self.starts[1:], strict=True):
            chosen = order[start:end]
            yield self.columns[chosen], self.values[chosen]

    def to_dense(self) -> npt.NDArray[np.float32]:
        """(N, V)."""
        dense = np.zeros((len(self), self.width), np.float32)
        dense[self.rows, self.columns] = self.values
        return dense

    def to_csr(self) -> Any:
        """``scipy.sparse.csr_array`` of shape (N, V).

        Raises:
            MissingExtra: If SciPy is not installed.
        """
        # SciPy has one integer type for both; most of its functions are faster with the narrow one
        narrow = np.int32 if self.starts[-1] <= np.iinfo(np.int32).max else np.int64
        parts = (self.values, self.columns, self.starts.astype(narrow))
        return require_scipy().csr_array(parts, shape=(len(self), self.width))

    def split_csr(self) -> list[Any]:
        """One ``scipy.sparse.csr_array`` of shape (V,) per vector; otherwise as :meth:`to_csr`."""
        sparse = require_scipy()
        ends = zip(self.starts[:-1], self.starts[1:], strict=True)
        return [
            sparse.csr_array(
                (self.values[start:end], self.columns[start:end], np.array([0, end - start], np.int32)),
                shape=(self.width,),
            )
            for start, end in ends
        ]

    def to_tensor(self) -> Any:
        """Coalesced COO tensor (N, V) on the CPU.

        Raises:
            MissingExtra: If torch is not installed.
        """
        torch = require_torch()
        indices = torch.from_numpy(np.stack([self.rows, self.columns.astype(np.int64)]))
        values = torch.from_numpy(self.values)
        return _coo(torch, indices, values, (len(self), self.width), is_coalesced=True)


def _starts(counts: Ints) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def collect_rows(parts: Iterable[tuple[Ints, SparseRows]], count: int) -> SparseRows:
    """Put vectors in the order of their texts.

    Args:
        parts: Positions of some texts, and their vectors; together every position once.
        count: Number N of all texts; at least 1.
    """
    counts = np.zeros(count, np.int64)
    pieces: list[tuple[Ints, SparseRows]] = []
    for places, piece in parts:
        counts[places] = piece.counts
        pieces.append((places, piece))
    starts = _starts(counts)
    columns = np.empty(starts[-1], np.int32)
    values = np.empty(starts[-1], np.float32)
    width = pieces[0][1].width
    while pieces:  # each goes as soon as its values have their place
        places, piece = pieces.pop()
        to = np.arange(len(piece.values)) + np.repeat(starts[places] - piece.starts[:-1], piece.counts)
        columns[to], values[to] = piece.columns, piece.values
    return SparseRows(starts, columns, values, width)


def strongest_tensor(dense: Array, limit: int | None) -> Any:
    """Take the values that are not zero out of a tensor (N, V), of each vector ``limit`` at most: coalesced COO."""
    torch = require_torch()
    if limit is not None:
        # torch's own choice among equal values, as in sentence-transformers
        chosen = torch.topk(dense.abs(), min(limit, dense.shape[1]), dim=-1).indices
        dense = torch.zeros_like(dense).scatter_(-1, chosen, dense.gather(-1, chosen))
    indices = torch.stack(dense.nonzero(as_tuple=True))
    return _coo(torch, indices, dense[indices[0], indices[1]], tuple(dense.shape), is_coalesced=True)


def collect_tensor(parts: Iterable[tuple[Ints, Any]], count: int) -> Any:
    """Like :func:`collect_rows` for torch's coalesced COO tensors; the result (N, V) is one, on their device."""
    torch = require_torch()
    indices, values, width = [], [], 0
    for places, piece in parts:
        width = piece.shape[1]
        rows, columns = piece.indices()
        values.append(piece.values())
        indices.append(torch.stack([torch.from_numpy(places).to(rows.device)[rows], columns]))
    found = _coo(torch, torch.cat(indices, dim=1), torch.cat(values), (count, width))
    return found.coalesce()


def _coo(
    torch: Any, indices: Any, values: Any, shape: tuple[int, ...], *, is_coalesced: bool | None = None
) -> Any:
    # torch warns unless it is told whether to check what is known to be right here
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=False, is_coalesced=is_coalesced)


def split_tensor(embeddings: Any) -> list[Any]:
    """One COO tensor (V,) per row of a coalesced COO tensor (N, V)."""
    torch = require_torch()
    rows, columns = embeddings.indices()
    counts = torch.bincount(rows, minlength=embeddings.shape[0]).tolist()
    width = embeddings.shape[1:]
    return [
        _coo(torch, of_row[None, :], values, tuple(width), is_coalesced=True)
        for of_row, values in zip(columns.split(counts), embeddings.values().split(counts), strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Given:
    """Embeddings that a caller passed, read.

    Attributes:
        rows: Their values.
        single: Whether it was one vector, of shape (V,).
        like: The tensor that they were, or the first of several; None if they were none.
    """

    rows: SparseRows
    single: bool
    like: Any = None

    def in_kind(self, rows: SparseRows) -> Any:
        """Other vectors in the kind of array that these are: COO tensors of their dtype and device, or SciPy's CSR."""
        if self.like is None:
            return rows.split_csr()[0] if self.single else rows.to_csr()
        found = rows.to_tensor().to(self.like.device, self.like.dtype)
        return split_tensor(found)[0] if self.single else found


def read_embeddings(embeddings: Any) -> Given:
    """Read sparse or dense embeddings: SciPy's matrices, torch's tensors, numpy's arrays, or a list of either.

    Raises:
        InputError: If it is something else, or neither one vector nor a matrix; or if vectors of a list have different
            widths.
    """
    if isinstance(embeddings, list | tuple) and embeddings and not np.isscalar(embeddings[0]):
        return _join([read_embeddings(each) for each in embeddings])
    if is_tensor(embeddings):
        return _read_tensor(embeddings)
    if type(embeddings).__module__.partition(".")[0] == "scipy":
        return _read_scipy(embeddings)
    if not isinstance(embeddings, np.ndarray) or embeddings.dtype.kind not in "fiub":
        raise InputError(f"expected embeddings, got {type(embeddings).__name__}", _PASS)
    single = _is_single(embeddings)
    return Given(SparseRows.from_dense(embeddings[None, :] if single else embeddings), single)


def _join(several: list[Given]) -> Given:
    widths = sorted({each.rows.width for each in several})
    if len(widths) > 1:
        raise InputError(
            f"embeddings of {widths[0]} and {widths[-1]} dimensions are in one list",
            "encode all with the same model",
        )
    rows = [each.rows for each in several]
    starts = _starts(np.concatenate([each.counts for each in rows]))
    columns = np.concatenate([each.columns for each in rows])
    values = np.concatenate([each.values for each in rows])
    joined = SparseRows(starts, columns, values, widths[0])
    return replace(several[0], rows=joined, single=False)


def _read_tensor(embeddings: Any) -> Given:
    single = _is_single(embeddings)
    if not embeddings.numel():  # no text at all: shape (0,)
        shape = (0, 0) if single else tuple(embeddings.shape)
        empty = np.empty(0, np.int64)
        return Given(SparseRows.from_pairs(empty, empty, np.empty(0, np.float32), shape), False, embeddings)
    found = embeddings.detach().to_sparse_coo()
    found = (found.unsqueeze(0) if single else found).coalesce()
    rows, columns = found.indices().cpu().numpy()
    return Given(
        SparseRows.from_pairs(rows, columns, numpy_array(found.values()), tuple(found.shape)),
        single,
        embeddings,
    )


def _read_scipy(embeddings: Any) -> Given:
    single = _is_single(embeddings)
    found = (embeddings.reshape(1, -1) if single else embeddings).tocoo(copy=True)
    found.sum_duplicates()  # and sorts by column
    order = np.lexsort((found.col, found.row))
    return Given(
        SparseRows.from_pairs(found.row[order], found.col[order], found.data[order], found.shape), single
    )


def _is_single(embeddings: Any) -> bool:
    if embeddings.ndim not in (1, 2):
        raise InputError(f"expected embeddings of shape (V,) or (N, V), got {tuple(embeddings.shape)}", _PASS)
    return bool(embeddings.ndim == 1)


def require_scipy() -> Any:
    """Return ``scipy.sparse``, for results that are its matrices.

    Raises:
        MissingExtra: If it is not installed.
    """
    try:
        import scipy.sparse
    except ImportError as error:
        raise MissingExtra("scipy", "sparse") from error
    return scipy.sparse
