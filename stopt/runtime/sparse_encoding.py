"""``encode`` of sparse models: from texts to the matrix, tensor or list that the caller asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from stopt.errors import OptionError
from stopt.runtime.arrays import Array, is_tensor
from stopt.runtime.encoding import require_torch
from stopt.runtime.inputs import read_inputs
from stopt.runtime.pipeline import Pipeline, RunOptions
from stopt.runtime.rows import check_finite
from stopt.runtime.sparse_arrays import (
    SparseRows,
    collect_rows,
    collect_tensor,
    require_scipy,
    split_tensor,
    strongest_tensor,
)
from stopt.runtime.spread import Spread
from stopt.runtime.tokenizer import Ints, Text
from stopt.spec import SENTENCE, SparseAutoEncoder

__all__ = ["SparseOptions", "autoencoder", "embed_sparse", "encode_sparse"]


@dataclass(frozen=True, slots=True)
class SparseOptions:
    """Options of one call; see :meth:`stopt.SparseEncoder.encode`.

    Attributes:
        run: How the texts are run.
        limit: Values that are kept of each vector; None keeps all.
        as_tensor: Whether torch's tensors are returned; otherwise SciPy's and numpy's arrays.
        sparse: Whether sparse ones are.
        listed: Whether one is for each text; otherwise one for all.
        device: Where tensors are to be.
    """

    run: RunOptions = RunOptions()  # noqa: RUF009  (frozen)
    limit: int | None = None
    as_tensor: bool = False
    sparse: bool = True
    listed: bool = False
    device: str = "cpu"


def encode_sparse(
    pipeline: Pipeline, inputs: Any, options: SparseOptions, spread: Spread | None = None
) -> Any:
    """Encode texts with a model, by itself or in a pool; arguments and result as in :meth:`stopt.SparseEncoder.encode`."""
    if options.as_tensor:
        require_torch()
    elif options.sparse:
        require_scipy()
    texts, single = read_inputs(inputs)
    _check_limit(pipeline, options.limit)
    if not texts:
        return _nothing(pipeline.spec.embedding_dimension, options)
    if spread is None:
        found = embed_sparse(pipeline, texts, options)
    else:
        options = replace(options, device="cpu")  # where workers' results come to
        alone = replace(options, run=replace(options.run, show_progress=False))
        found = _collected(
            spread.run(embed_sparse, texts, alone, show_progress=options.run.show_progress), len(texts)
        )
    # a row is best taken before the matrix is made
    options = replace(options, listed=options.listed or single)
    result = _of_tensor(found, options) if options.as_tensor else _of_rows(found, options)
    return result[0] if single else result


def embed_sparse(
    pipeline: Pipeline, texts: Sequence[Text], options: SparseOptions, positions: Ints | None = None
) -> Any:
    """N vectors in the order of the texts: :class:`SparseRows`, or a COO tensor if the engine is torch; N is at least 1."""
    limited = _limited(pipeline, options.limit)
    batches = limited.stream(texts, options.run, positions)

    def found() -> Iterator[tuple[Ints, Any]]:
        for rows, features in batches:
            if options.run.check_rows:
                check_finite(features[SENTENCE], rows if positions is None else positions[rows], "vector")
            yield rows, _sparse(features[SENTENCE], options.limit)

    return _collected(found(), len(texts))


def _sparse(dense: Array, limit: int | None) -> Any:
    return strongest_tensor(dense, limit) if is_tensor(dense) else SparseRows.from_dense(dense, limit)


def _collected(parts: Iterator[tuple[Ints, Any]], count: int) -> Any:
    first = next(parts)
    collect = collect_tensor if is_tensor(first[1]) else collect_rows
    return collect(chain([first], parts), count)


def autoencoder(pipeline: Pipeline) -> SparseAutoEncoder | None:
    """Return the model's sparse autoencoder, if it has one."""
    return next((each for each in pipeline.spec.modules if isinstance(each, SparseAutoEncoder)), None)


def _nothing(width: int, options: SparseOptions) -> Any:
    if options.listed:
        return []
    if options.as_tensor:
        empty = require_torch().empty(0, device=options.device)
        return empty.to_sparse() if options.sparse else empty
    return _of_rows(SparseRows.from_dense(np.empty((0, width), np.float32)), options)


def _of_tensor(found: Any, options: SparseOptions) -> Any:
    tensor = (found.to_tensor() if isinstance(found, SparseRows) else found).to(options.device)
    if not options.sparse:
        tensor = tensor.to_dense()
        return list(tensor) if options.listed else tensor
    return split_tensor(tensor) if options.listed else tensor


def _of_rows(rows: SparseRows, options: SparseOptions) -> Any:
    if not options.sparse:
        return list(rows.to_dense()) if options.listed else rows.to_dense()
    return rows.split_csr() if options.listed else rows.to_csr()


def _limited(pipeline: Pipeline, limit: int | None) -> Pipeline:
    """The pipeline with an autoencoder that keeps as many values."""
    auto = autoencoder(pipeline)
    unchanged = auto is None or limit is None or limit == auto.k
    return pipeline if unchanged or limit is None else pipeline.with_max_active_dims(limit)


def _check_limit(pipeline: Pipeline, limit: int | None) -> None:
    """Raise unless a model's autoencoder, if it has one, can keep as many values."""
    auto = autoencoder(pipeline)
    if auto is not None and limit is not None and limit > auto.hidden_dim:
        raise OptionError(
            f"max_active_dims {limit} is more than the model's {auto.hidden_dim} dimensions",
            f"use at most {auto.hidden_dim}",
        )
