"""A call of a model spread over a pool: texts in order of length, cut into chunks, and the results put in their places.

Workers do what a model does by itself, with the same functions; what concerns a call as a whole (quantisation, activation,
the kind of array) stays with the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from stopt.counts import require_count
from stopt.errors import OptionError
from stopt.runtime.arrays import is_tensor
from stopt.runtime.memory import within_memory
from stopt.runtime.opened import OpenedFiles
from stopt.runtime.options import EngineOptions, OnnxOptions, OpenVinoOptions
from stopt.runtime.pipeline import Pipeline, RunOptions, characters
from stopt.runtime.tokenizer import Ints, Text
from stopt.runtime.workers import WorkerPool
from stopt.spec import ModelSpec, Pooling

__all__ = ["Compute", "PipelineSource", "Spread", "plan_chunks"]

# a chunk is this share of what is left for each worker: few chunks at first, small ones in the end, when workers would
# otherwise wait for the last of them
SHARE = 0.25
# of a chunk: with less, batches are half full and shapes are new, which costs more than waiting for the last chunk does
# (MiniLM in int8, 2 workers, 400 texts: 2,048 is 5 % slower)
FEWEST_CHARACTERS = 8_192
MOST_TEXTS = 5_000  # of a chunk: what is lost with a worker, and what a worker holds
# of a text, as far as its work goes: more than any language has; what is beyond the model's limit costs nothing
COUNTED_CHARACTERS_PER_TOKEN = 6

OptionsOf = TypeVar("OptionsOf", contravariant=True)
ValueOf = TypeVar("ValueOf", covariant=True)
Options = TypeVar("Options")
Value = TypeVar("Value")


class Compute(Protocol[OptionsOf, ValueOf]):
    """A function of a module, which workers find by its name: texts to something with as many rows."""

    def __call__(
        self, pipeline: Pipeline, texts: Sequence[Any], options: OptionsOf, positions: Ints | None, /
    ) -> ValueOf:
        """Run texts; ``positions`` say where they stand in the call, for messages."""


@dataclass(frozen=True, slots=True)
class PipelineSource:
    """A model by its files, as a worker opens it: the same ones that an open model has.

    Attributes:
        root: The model folder.
        spec: The model.
        options: The engine's options; threads are the worker's share.
        files: Its files as they were when it was opened: a worker has the same ones, or none.
    """

    root: Path
    spec: ModelSpec
    options: EngineOptions
    files: OpenedFiles

    @classmethod
    def of(cls, pipeline: Pipeline) -> PipelineSource:
        """Describe an open model.

        Raises:
            OptionError: If it was opened with something that other processes cannot have.
        """
        options = pipeline.options
        if isinstance(options, OnnxOptions) and options.session_options is not None:
            raise OptionError(
                "session_options belong to this process, and workers cannot have them",
                "leave them out of model_kwargs; threads= and provider_options are passed on",
            )
        return cls(pipeline.root, pipeline.spec, options, pipeline.files)

    def serves(self, pipeline: Pipeline) -> bool:
        """Whether it is the model of a pipeline, whose limit and prompts may have changed since."""
        spec = pipeline.spec
        same = (self.spec.kind, self.spec.front) == (spec.kind, spec.front)
        return same and (self.root, self.options) == (pipeline.root, pipeline.options)

    def open(self, device: str | None, threads: int) -> _Opened:
        """Open it, in a worker.

        Raises:
            ArtifactError: If its files are not what they were; names them.
        """
        options = replace(self.options, threads=threads)
        if isinstance(options, OpenVinoOptions) and device is not None:
            options = replace(options, device=None)
        # by its whole path: that of the pool's process may be relative to a folder that it has left
        pipeline = Pipeline.open(self.files.root, self.spec, options, device, known=self.files)
        return _Opened(pipeline, device)


class _Opened:
    """A worker's model, and the variations of it that calls have asked for."""

    def __init__(self, pipeline: Pipeline, device: str | None) -> None:
        self._plain, self._device = pipeline, device
        self._variations: dict[tuple[object, ...], Pipeline] = {}
        self.files = pipeline.files

    def as_seen(self, view: _View) -> Pipeline:
        """The model as the caller has it now."""
        key = (view.route, view.include_prompt, view.fused)
        if key not in self._variations:
            self._variations[key] = self._vary(view)
        found = self._variations[key]
        if found.spec.tokenizer.max_seq_length == view.max_seq_length:
            return found
        return found.with_max_seq_length(view.max_seq_length)

    def _vary(self, view: _View) -> Pipeline:
        found = self._plain
        if _include_prompt(_routed(found, view.route)) != view.include_prompt:
            found = found.with_include_prompt(view.include_prompt[0])
        found = _routed(found, view.route)
        return found if view.fused else found.without_fusing()


@dataclass(frozen=True, slots=True)
class _View:
    """What may have changed of a model since it was opened."""

    route: str | None
    max_seq_length: int | None
    include_prompt: tuple[bool, ...]
    fused: bool


def _routed(pipeline: Pipeline, route: str | None) -> Pipeline:
    return pipeline if route is None else pipeline.routes[route]


def _include_prompt(pipeline: Pipeline) -> tuple[bool, ...]:
    return tuple(each.include_prompt for each in pipeline.spec.modules if isinstance(each, Pooling))


@dataclass(frozen=True, slots=True)
class _Chunk:
    texts: Sequence[Any]
    positions: Ints


@dataclass(frozen=True, slots=True)
class _PipelineJob(Generic[Options, Value]):
    """A worker's part of a call."""

    view: _View
    compute: Compute[Options, Value]
    options: Options

    def __call__(self, model: _Opened, chunk: _Chunk, /) -> Value:
        pipeline = model.as_seen(self.view)

        def run(places: Sequence[int], batch_size: int | None) -> Any:
            texts = [chunk.texts[place] for place in places]
            options = _in_batches(self.options, batch_size)
            return _on_cpu(self.compute(pipeline, texts, options, chunk.positions[list(places)]))

        lengths = [characters(text) for text in chunk.texts]
        return within_memory(run, lengths, chunk.positions.tolist())  # type: ignore[no-any-return]


def _in_batches(options: Any, size: int | None) -> Any:
    """Options of a call, or those of its run alone, with batches of so many texts at most."""
    if size is None:
        return options
    run: RunOptions = options if isinstance(options, RunOptions) else options.run
    run = replace(run, batch_size=min(size, run.batch_size or size))
    return run if isinstance(options, RunOptions) else replace(options, run=run)


def _on_cpu(value: Any) -> Any:
    """Tensors, which may be on a device that only the worker has; also those in lists and dicts."""
    if is_tensor(value):
        return value.cpu()
    if isinstance(value, list):
        return [_on_cpu(each) for each in value]
    if isinstance(value, dict):
        return {key: _on_cpu(each) for key, each in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class Spread:
    """How one call uses a pool.

    Attributes:
        pool: The workers, with the pipeline's model open.
        pipeline: The model as the caller has it.
        route: Its route that the call takes.
        chunk_size: Texts of a chunk; None leaves it to their lengths.
    """

    pool: WorkerPool
    pipeline: Pipeline
    route: Pipeline
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        if self.chunk_size is not None:
            require_count(self.chunk_size, "chunk_size", "a positive number of texts, or None")

    def run(
        self,
        compute: Compute[Options, Value],
        texts: Sequence[Text],
        options: Options,
        *,
        fused: bool = True,
        show_progress: bool = False,
    ) -> Iterator[tuple[Ints, Value]]:
        """Run texts in the workers.

        Args:
            compute: What a worker does with a chunk.
            texts: Texts or pairs.
            options: Passed to it; can be pickled.
            fused: Whether modules may be inside of the engine's graph, where the features between them are lost.
            show_progress: Draw a bar.

        Yields:
            Positions in ``texts`` of a chunk, and its value, as chunks are completed.
        """
        routes = self.pipeline.routes
        view = _View(
            next((name for name, each in routes.items() if each is self.route), None),
            self.route.spec.tokenizer.max_seq_length,
            _include_prompt(self.route),
            fused,
        )
        plan = plan_chunks(texts, len(self.pool), view.max_seq_length, self.chunk_size)
        chunks = (_Chunk([texts[row] for row in rows.tolist()], rows) for rows in plan)
        found = self.pool.unordered(_PipelineJob(view, compute, options), chunks)
        if not show_progress:
            yield from ((plan[number], value) for number, value in found)
            return
        from tqdm import tqdm

        with tqdm(total=len(texts), desc="Encoding", unit="text") as bar:
            for number, value in found:
                yield plan[number], value
                bar.update(len(plan[number]))


def plan_chunks(
    texts: Sequence[Text], workers: int, max_seq_length: int | None, chunk_size: int | None = None
) -> list[Ints]:
    """Cut a call's texts into chunks for workers, longest texts first, so that little is padding in each.

    Args:
        texts: (N,) texts or pairs.
        workers: Workers that share them.
        max_seq_length: Tokens after which a text is cut.
        chunk_size: Texts of a chunk; None makes chunks of equal work, smaller towards the end.

    Returns:
        Positions of the texts of each chunk, each position in exactly one chunk.
    """
    lengths = np.fromiter((characters(text) for text in texts), np.int64, len(texts))
    order = np.argsort(-lengths, kind="stable")
    if chunk_size is not None:
        return [order[start : start + chunk_size] for start in range(0, len(order), chunk_size)]
    if max_seq_length is not None:
        lengths = np.minimum(lengths, max_seq_length * COUNTED_CHARACTERS_PER_TOKEN)
    sums = np.cumsum(lengths[order] + 1)  # a text costs something, however short
    plan = list[Ints]()
    start, done = 0, 0
    while start < len(order):
        left = int(sums[-1]) - done
        # small calls are shared too: there is no use in idle workers
        budget = max(left * SHARE / workers, min(FEWEST_CHARACTERS, int(sums[-1]) / workers))
        end = int(np.searchsorted(sums, done + budget, side="right"))
        end = min(max(end, start + 1), start + MOST_TEXTS, len(order))
        plan.append(order[start:end])
        start, done = end, int(sums[end - 1])
    return plan
