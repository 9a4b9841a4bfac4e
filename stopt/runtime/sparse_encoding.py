"""``encode`` of sparse models: from texts to the matrix, tensor or list that the caller asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from stopt.errors import OptionError
from stopt.runtime.arrays import is_tensor
from stopt.runtime.encoding import require_torch
from stopt.runtime.inputs import read_inputs
from stopt.runtime.pipeline import Pipeline, RunOptions
from stopt.runtime.sparse_arrays import (
    SparseRows,
    collect_rows,
    collect_tensor,
    require_scipy,
    split_tensor,
)
from stopt.spec import SENTENCE, SparseAutoEncoder

__all__ = ["SparseOptions", "autoencoder", "encode_sparse"]


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


def encode_sparse(pipeline: Pipeline, inputs: Any, options: SparseOptions) -> Any:
    """Encode texts with a model; arguments and result as in :meth:`stopt.SparseEncoder.encode`."""
    if options.as_tensor:
        require_torch()
    elif options.sparse:
        require_scipy()
    texts, single = read_inputs(inputs)
    pipeline = _limited(pipeline, options.limit)
    if not texts:
        return _nothing(pipeline.spec.embedding_dimension, options)
    batches = ((rows, features[SENTENCE]) for rows, features in pipeline.stream(texts, options.run))
    first = next(batches)
    collect = collect_tensor if is_tensor(first[1]) else collect_rows
    found = collect(chain([first], batches), len(texts), options.limit)
    # a row is best taken before the matrix is made
    options = replace(options, listed=options.listed or single)
    result = _of_tensor(found, options) if options.as_tensor else _of_rows(found, options)
    return result[0] if single else result


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
    if auto is None or limit is None or limit == auto.k:
        return pipeline
    if limit > auto.hidden_dim:
        raise OptionError(
            f"max_active_dims {limit} is more than the model's {auto.hidden_dim} dimensions",
            f"use at most {auto.hidden_dim}",
        )
    return pipeline.with_max_active_dims(limit)
