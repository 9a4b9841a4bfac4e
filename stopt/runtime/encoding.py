"""``encode``: from texts to the array, tensor or list that the caller asked for.

The order of steps is sentence-transformers': modules, truncation, normalisation, and quantisation once over the
whole call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stopt.embeddings.call import CallRanges, quantize_call, ranges_for_call
from stopt.embeddings.codes import Precision, parse_precision
from stopt.errors import MissingExtra, OptionError, suggest
from stopt.runtime.arrays import Array, is_tensor
from stopt.runtime.inputs import read_inputs
from stopt.runtime.modules import l2_normalize
from stopt.runtime.pipeline import Pipeline, RunOptions
from stopt.runtime.tokenizer import Text

__all__ = ["EncodeOptions", "encode", "numpy_array", "require_torch"]

_OUTPUTS = ("sentence_embedding", "token_embeddings")


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


def encode(pipeline: Pipeline, inputs: Any, options: EncodeOptions) -> Any:
    """Encode texts with a model; arguments and result as in :meth:`stopt.SentenceTransformer.encode`."""
    texts, single = read_inputs(inputs)
    ranges = ranges_for_call(
        pipeline.home or pipeline.root,
        pipeline.spec,
        options.ranges,
        precision=options.precision,
        truncate_dim=options.truncate_dim,
        normalize=options.normalize,
    )
    if options.output_value == "sentence_embedding":
        result = _finish(_embeddings(pipeline, texts, options), options, ranges)
    else:
        result = _per_text(pipeline.without_fusing(), texts, options)
    return result[0] if single else result


def _embeddings(pipeline: Pipeline, texts: list[Text], options: EncodeOptions) -> Array | None:
    """(N, E) in the engine's array type, in the order of the texts; None for no text."""
    embeddings: Array | None = None
    for rows, features in pipeline.stream(texts, options.run):
        values = features["sentence_embedding"][:, : options.truncate_dim]
        if options.normalize:
            values = l2_normalize(values)
        if embeddings is None:
            shape = (len(texts), values.shape[1])
            embeddings = values.new_empty(shape) if is_tensor(values) else np.empty(shape, values.dtype)
        embeddings[rows] = values
    return embeddings


def _per_text(pipeline: Pipeline, texts: list[Text], options: EncodeOptions) -> list[Any]:
    """Token embeddings, or all features, of each text."""
    found: list[Any] = [None] * len(texts)
    for rows, features in pipeline.stream(texts, replace(options.run, round_lengths=False)):
        for place, row in enumerate(rows):
            if options.output_value == "token_embeddings":
                if "token_embeddings" not in features:
                    raise OptionError(
                        f"{pipeline.session.file} has its pooling inside and gives no token embeddings"
                    )
                length = _length(features["attention_mask"][place])
                found[row] = features["token_embeddings"][place][:length]
            else:
                found[row] = {
                    name: value[place] if getattr(value, "ndim", 0) else value
                    for name, value in features.items()
                }
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


def numpy_array(embeddings: Array) -> Any:
    """Turn the engine's array into numpy's; bfloat16 becomes float32."""
    if not is_tensor(embeddings):
        return embeddings
    if str(embeddings.dtype) == "torch.bfloat16":  # numpy has none
        embeddings = embeddings.float()
    return embeddings.cpu().numpy()


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
