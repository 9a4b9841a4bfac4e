"""``encode``: from texts to the array, tensor or list that the caller asked for.

The order of steps is sentence-transformers': modules, truncation, normalisation, and quantisation once over the
whole call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stopt.counts import require_count
from stopt.embeddings.call import CallRanges, quantize_call, ranges_for_call
from stopt.embeddings.codes import Precision, parse_precision
from stopt.errors import MissingExtra, OptionError, suggest
from stopt.runtime.arrays import Array, is_tensor, numpy_array
from stopt.runtime.inputs import read_inputs
from stopt.runtime.modules import Features, l2_normalize
from stopt.runtime.pipeline import Pipeline, RunOptions
from stopt.runtime.rows import check_vectors
from stopt.runtime.spread import Spread
from stopt.runtime.tokenizer import Ints, Text

__all__ = ["EncodeOptions", "embed", "embed_each", "encode", "joined", "require_torch"]

_OUTPUTS = ("sentence_embedding", "token_embeddings")


KEPT_DIMENSIONS = "a whole number of leading dimensions to keep, from 1 up, or None for all"


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """Options of one call; see :meth:`stopt.SentenceTransformer.encode`."""

    run: RunOptions = RunOptions()  # noqa: RUF009  (frozen)
    output_value: str | None = "sentence_embedding"
    precision: str | None = "float32"
    as_numpy: bool = True
    as_tensor: bool = False
    normalize: bool = False
    truncate_dim: int | None = None
    ranges: CallRanges = None

    def __post_init__(self) -> None:
        # 0 would leave nothing, and a negative number the leading dimensions but some
        if self.truncate_dim is not None:
            require_count(self.truncate_dim, "truncate_dim", KEPT_DIMENSIONS)
        if self.output_value is not None and self.output_value not in _OUTPUTS:
            raise OptionError(
                f"output_value {self.output_value!r} is unknown", suggest(self.output_value, _OUTPUTS)
            )
        if (
            parse_precision(self.precision) is not Precision.FLOAT32
            and self.output_value != "sentence_embedding"
        ):
            raise OptionError(
                f"precision {self.precision!r} needs output_value='sentence_embedding'",
                "token embeddings have no common length to be quantised over",
            )


def encode(pipeline: Pipeline, inputs: Any, options: EncodeOptions, spread: Spread | None = None) -> Any:
    """Encode texts with a model, by itself or in a pool; arguments and result as in :meth:`stopt.SentenceTransformer.encode`."""
    texts, single = read_inputs(inputs)
    ranges = ranges_for_call(
        pipeline.home,
        pipeline.spec,
        options.ranges,
        precision=options.precision,
        truncate_dim=options.truncate_dim,
        normalize=options.normalize,
    )
    result: Any
    if options.output_value == "sentence_embedding":
        if spread is None:
            embeddings = embed(pipeline, texts, options)
        else:
            parts = spread.run(embed, texts, _alone(options), show_progress=options.run.show_progress)
            embeddings = joined(parts, len(texts))
        result = _finish(embeddings, options, ranges)
    elif spread is None:
        result = embed_each(pipeline.without_fusing(), texts, options)
    else:
        shown = options.run.show_progress
        lists = spread.run(embed_each, texts, _alone(options), fused=False, show_progress=shown)
        result = _listed(lists, len(texts))
    return result[0] if single else result


def _alone(options: EncodeOptions) -> EncodeOptions:
    """What a worker does of a call: all but quantisation, which is over the whole call, and the bar."""
    return replace(options, precision=None, ranges=None, run=replace(options.run, show_progress=False))


def embed(
    pipeline: Pipeline, texts: Sequence[Text], options: EncodeOptions, positions: Ints | None = None
) -> Array | None:
    """(N, E) in the engine's array type, in the order of the texts; None for no text."""

    def finished(chosen: Sequence[Text], features: Features, places: Ints | None) -> Array:
        values = features["sentence_embedding"]
        if options.run.check_rows:
            check_vectors(pipeline, chosen, values, places)
        if options.truncate_dim is not None:
            values = values[:, : options.truncate_dim]
        return l2_normalize(values) if options.normalize else values

    if len(texts) == 1 and not options.run.show_progress:
        return finished(texts, pipeline.run_one(texts, options.run, positions), positions)

    def batches() -> Iterator[tuple[Ints, Array]]:
        for rows, features in pipeline.stream(texts, options.run, positions):
            chosen = [texts[row] for row in rows]
            yield rows, finished(chosen, features, rows if positions is None else positions[rows])

    return joined(batches(), len(texts))


def joined(parts: Iterable[tuple[Ints, Array | None]], count: int) -> Array | None:
    """Put rows in their places.

    Args:
        parts: Positions of some rows, and the rows; together every position once.
        count: Number N of all rows.

    Returns:
        (N, …) in the parts' array type; None for no row.
    """
    whole: Array | None = None
    for rows, values in parts:
        assert values is not None
        if whole is None:
            shape = (count, *values.shape[1:])
            whole = values.new_empty(shape) if is_tensor(values) else np.empty(shape, values.dtype)
        whole[rows] = values
    return whole


def embed_each(
    pipeline: Pipeline, texts: Sequence[Text], options: EncodeOptions, positions: Ints | None = None
) -> list[Any]:
    """Token embeddings, or all features, of each text; of a pipeline with no modules inside of its engine."""
    run = replace(options.run, round_lengths=False)

    def batches() -> Iterator[tuple[Ints, list[Any]]]:
        for rows, features in pipeline.stream(texts, run, positions):
            if options.output_value is None:
                yield rows, [_of_row(features, place) for place in range(len(rows))]
            elif "token_embeddings" in features:
                lengths = map(_length, features["attention_mask"])
                yield (
                    rows,
                    [row[:length] for row, length in zip(features["token_embeddings"], lengths, strict=True)],
                )
            else:
                raise OptionError(
                    f"{pipeline.session.file} has its pooling inside and gives no token embeddings"
                )

    return _listed(batches(), len(texts))


def _of_row(features: Features, place: int) -> dict[str, Any]:
    return {name: value[place] if getattr(value, "ndim", 0) else value for name, value in features.items()}


def _listed(parts: Iterable[tuple[Ints, Sequence[Any]]], count: int) -> list[Any]:
    found: list[Any] = [None] * count
    for rows, values in parts:
        for row, value in zip(rows.tolist(), values, strict=True):
            found[row] = value
    return found


def _length(mask: Array) -> int:
    """Tokens of a row without the padding at its end; padding at its start stays."""
    real = mask.nonzero()
    real = real if is_tensor(mask) else real[0]
    return int(real[-1]) + 1 if len(real) else 1


def _finish(embeddings: Array | None, options: EncodeOptions, ranges: CallRanges) -> Any:
    """Quantise, and convert to what the caller asked for."""
    if embeddings is None:
        if options.as_tensor:
            return require_torch().empty(0)
        # float64, as sentence-transformers has it
        return np.empty(0) if options.as_numpy else []
    if parse_precision(options.precision) is not Precision.FLOAT32:
        embeddings = quantize_call(embeddings, str(options.precision), ranges)
    if options.as_numpy:
        return numpy_array(embeddings)
    tensor = embeddings if is_tensor(embeddings) else require_torch().from_numpy(embeddings)
    return tensor if options.as_tensor else list(tensor)


def require_torch() -> Any:
    """Return torch, for a caller that asked for tensors.

    Raises:
        MissingExtra: If it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "torch") from error
    return torch
