"""Results that mean nothing are an error: a vector with NaN or infinity, or of zeros, is never handed out as if it were one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stopt.errors import VectorError
from stopt.runtime.arrays import Array, is_tensor, numpy_array
from stopt.runtime.tokenizer import Ints, Text
from stopt.spec import StaticEmbedding

if TYPE_CHECKING:
    from stopt.runtime.pipeline import Pipeline

__all__ = ["check_finite", "check_vectors"]

_MOST_LISTED = 10
_ALL_THE_SAME = "; to get such rows all the same, set the model's check_rows to False"
_OF_OVERFLOW = (
    f"float16 overflows in some models: open a float32 file, or with dtype='float32'{_ALL_THE_SAME}"
)
_OF_ZEROS = f"are the weights whole? `stopt check` holds the file against torch{_ALL_THE_SAME}"


def check_vectors(pipeline: Pipeline, texts: Sequence[Text], vectors: Array, positions: Ints | None) -> None:
    """See that every text has a vector.

    A text without any token has none: zeros, or minus infinity from max pooling, are what sentence-transformers returns
    for it. A table of embeddings may have rows of zeros, as distilled ones do for punctuation: they are its own answer.

    Args:
        pipeline: What made them.
        texts: The N texts.
        vectors: (N, E).
        positions: Where the texts stand in the caller's call; None is 0, 1, 2 …

    Raises:
        VectorError: If a vector is not finite, or zero; says whose.
    """
    if is_tensor(vectors):
        fine = bool((vectors.isfinite().all(1) & vectors.any(1)).all())
    elif vectors.dtype == np.float32:  # one pass without an array of the same size
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.einsum("ij,ij->i", vectors, vectors)
        fine = bool(squares.min() > 0 and squares.max() < np.inf)  # neither where one is NaN
    else:
        fine = bool(np.isfinite(vectors).all() and vectors.any(1).all())
    if fine:
        return
    finite, zero = (
        numpy_array(vectors.isfinite() if is_tensor(vectors) else np.isfinite(vectors)).all(1),
        ~numpy_array(vectors != 0).any(1),
    )
    suspects = np.flatnonzero(~finite | zero)
    lengths = [len(each) for each in pipeline.tokenizer.tokenize([texts[row] for row in suspects.tolist()])]
    bad = [int(row) for row, length in zip(suspects, lengths, strict=True) if length]
    infinite = [row for row in bad if not finite[row]]
    _refuse(infinite, len(texts), "NaN or infinity in its vector", positions, _OF_OVERFLOW)
    if not isinstance(pipeline.spec.front, StaticEmbedding):
        _refuse([row for row in bad if zero[row]], len(texts), "a vector of zeros", positions, _OF_ZEROS)


def check_finite(values: Array, positions: Ints | None, what: str) -> None:
    """See that values are finite.

    Args:
        values: (N, …).
        positions: Where the N inputs stand in the caller's call; None is 0, 1, 2 …
        what: What they are, in words.

    Raises:
        VectorError: If one is not; says of which inputs.
    """
    finite = values.isfinite() if is_tensor(values) else np.isfinite(values)
    if finite.all():
        return
    rows = np.flatnonzero(~numpy_array(finite).reshape(len(values), -1).all(1))
    _refuse(
        [int(row) for row in rows], len(values), f"NaN or infinity in its {what}", positions, _OF_OVERFLOW
    )


def _refuse(rows: Sequence[int], count: int, what: str, positions: Ints | None, hint: str) -> None:
    if not rows:
        return
    places = [row if positions is None else int(positions[row]) for row in rows]
    listed = ", ".join(map(str, sorted(places)[:_MOST_LISTED])) + (" …" if len(places) > _MOST_LISTED else "")
    single = len(places) == 1
    subject = f"input {listed} has" if single else f"{len(places)} inputs of {count} have"
    raise VectorError(
        f"{subject} {what if single else what.replace('its', 'their')}{'' if single else f': {listed}'}",
        hint,
        rows=sorted(places),
    )
