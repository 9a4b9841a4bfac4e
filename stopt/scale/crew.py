"""Who encodes: the model in this process, or in several worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from stopt.runtime.loading import LoadRequest, with_backend
from stopt.runtime.memory import within_memory
from stopt.runtime.pipeline import characters
from stopt.runtime.tokenizer import Text
from stopt.runtime.workers import WorkerPool
from stopt.scale.encoder import About, Encoded, Encoder
from stopt.scale.job import ModelOptions

__all__ = ["Crew", "Mapper", "Texts", "encode_chunk", "hired"]


class Texts(NamedTuple):
    """The texts of a chunk, as they are handed to a worker.

    Attributes:
        texts: The texts, or pairs.
        positions: Their numbers in the corpus.
    """

    texts: Sequence[Text]
    positions: Sequence[int]


# maps chunks of texts to results, in order, taking few at a time
Mapper = Callable[[Iterable[Texts]], Iterator[Encoded]]


@dataclass(frozen=True, slots=True)
class Crew:
    """Those who encode.

    Attributes:
        about: What they encode with.
        encode: Maps chunks of texts to results, in order.
    """

    about: About
    encode: Mapper


@contextmanager
def hired(options: ModelOptions, workers: int, *, tokens: bool) -> Iterator[Crew]:
    """Open the model in this process, or in ``workers`` of their own.

    Args:
        options: The model; several devices, with commas, have ``workers`` each.
        workers: Worker processes; of one device 1 is none.
        tokens: As of :class:`~stopt.scale.encoder.Encoder`.

    Raises:
        StoptError: If the model cannot be opened; and while it encodes, as :meth:`~stopt.runtime.workers.WorkerPool.map`.
    """
    devices = options.devices * workers
    if len(devices) == 1:
        encoder = Encoder(options, tokens=tokens)
        yield Crew(encoder.about(), lambda chunks: (encode_chunk(encoder, chunk) for chunk in chunks))
        return
    with WorkerPool(_Source(_with_backend(options), tokens), devices, options.threads) as pool:
        (about,) = pool.map(_Describe(), [None])
        yield Crew(about, lambda chunks: pool.map(_Encode(), chunks))


def _with_backend(options: ModelOptions) -> ModelOptions:
    """The same with the engine named, which every worker would otherwise pick, and say so."""
    request = LoadRequest(options.model, options.backend, model_kwargs=options.model_kwargs)
    return replace(options, backend=with_backend(request).backend)


def encode_chunk(encoder: Encoder, chunk: Texts) -> Encoded:
    """Encode a chunk, in smaller batches where memory runs out."""
    if not chunk.texts:
        return encoder(chunk.texts)
    return within_memory(
        lambda places, size: encoder.in_batches(size)([chunk.texts[place] for place in places]),
        [characters(text) for text in chunk.texts],
        chunk.positions,
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """What a worker opens."""

    options: ModelOptions
    tokens: bool

    def open(self, device: str | None, threads: int) -> Encoder:
        """Open it, in the worker."""
        return Encoder(replace(self.options, device=device, threads=threads), tokens=self.tokens)


@dataclass(frozen=True, slots=True)
class _Encode:
    """What a worker does with a chunk."""

    def __call__(self, encoder: Encoder, chunk: Texts, /) -> Encoded:
        return encode_chunk(encoder, chunk)


@dataclass(frozen=True, slots=True)
class _Describe:
    """What a worker is asked first."""

    def __call__(self, encoder: Encoder, _: None, /) -> About:
        return encoder.about()
