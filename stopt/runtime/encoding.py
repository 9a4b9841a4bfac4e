"""``encode``: from texts to the array, tensor or list that the caller asked for.

The order of steps is sentence-transformers': modules, truncation, normalisation, and quantisation once over the
whole call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stopt.embeddings.quantization import Precision, parse_precision, quantize_embeddings
from stopt.errors import MissingExtra, OptionError, suggest
from stopt.runtime.arrays import Array, is_tensor
from stopt.runtime.inputs import read_inputs
from stopt.runtime.modules import Features, l2_normalize
from stopt.runtime.pipeline import Pipeline
from stopt.runtime.tokenizer import Ints, Text

__all__ = ["EncodeOptions", "encode", "numpy_array"]

_OUTPUTS = ("sentence_embedding", "token_embeddings")


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """Options of one call; see :meth:`stopt.SentenceTransformer.encode`."""

    prompt: str = ""
    batch_size: int = 32
    show_progress: bool = False
    output_value: str | None = "sentence_embedding"
    precision: str | None = "float32"
    as_numpy: bool = True
    as_tensor: bool = False
    normalize: bool = False
    truncate_dim: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise OptionError(f"batch_size is {self.batch_size!r}", "a positive number of texts")
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
    if options.output_value == "sentence_embedding":
        result = _finish(_embeddings(pipeline, texts, options), options)
    else:
        result = _per_text(pipeline, texts, options)
    return result[0] if single else result


def _embeddings(pipeline: Pipeline, texts: list[Text], options: EncodeOptions) -> Array | None:
    """(N, E) in the engine's array type, in the order of the texts; None for no text."""
    embeddings: Array | None = None
    for rows, features in _stream(pipeline, texts, options):
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
    for rows, features in _stream(pipeline, texts, options):
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


def _stream(pipeline: Pipeline, texts: list[Text], options: EncodeOptions) -> Iterator[tuple[Ints, Features]]:
    batches = pipeline.stream(texts, prompt=options.prompt, batch_size=options.batch_size)
    if not options.show_progress:
        yield from batches
        return
    from tqdm import tqdm

    with tqdm(total=len(texts), desc="Encoding", unit="text") as bar:
        for rows, features in batches:
            yield rows, features
            bar.update(len(rows))


def _finish(embeddings: Array | None, options: EncodeOptions) -> Any:
    """Quantise, and convert to what the caller asked for."""
    if embeddings is None:
        if options.as_tensor:
            return _torch().empty(0)
        # float64, as sentence-transformers has it
        return np.empty(0) if options.as_numpy else []
    if parse_precision(options.precision) is not Precision.FLOAT32:
        embeddings = quantize_embeddings(embeddings, str(options.precision))
    if options.as_numpy:
        return numpy_array(embeddings)
    tensor = embeddings if is_tensor(embeddings) else _torch().from_numpy(embeddings)
    return tensor if options.as_tensor else list(tensor)


def numpy_array(embeddings: Array) -> Any:
    """Turn the engine's array into numpy's; bfloat16 becomes float32."""
    if not is_tensor(embeddings):
        return embeddings
    if str(embeddings.dtype) == "torch.bfloat16":  # numpy has none
        embeddings = embeddings.float()
    return embeddings.cpu().numpy()


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "torch") from error
    return torch
