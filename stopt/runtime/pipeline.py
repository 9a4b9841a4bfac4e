"""Texts to features: tokenizer, engine and modules in a row, kept busy together."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from types import MappingProxyType

import numpy as np

from stopt.counts import require_count
from stopt.errors import ForkError
from stopt.folder import contained
from stopt.runtime.batching import BatchLimits, plan_batches, portions, unfilled
from stopt.runtime.modules import AutoEncoder, Features, Module, load_modules, weight_files
from stopt.runtime.opened import OpenedFiles
from stopt.runtime.options import EngineOptions, OnnxOptions, OpenVinoOptions, TorchOptions
from stopt.runtime.sessions import Session, open_file, open_session
from stopt.runtime.tokenizer import Batch, Ints, Text, TextTokenizer, Tokens
from stopt.spec import Backend, ModelSpec, Pooling, PoolingMode, StaticEmbedding, TransformerSpec

__all__ = ["Pipeline", "RunOptions", "characters"]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How texts are run.

    Attributes:
        prompt: Text that goes before each; of a pair, before the first.
        batch_size: Texts in a batch at most; None leaves it to the budget of tokens.
        max_batch_tokens: Tokens in a batch at most, padding included; None is what suits the engine.
        show_progress: Draw a bar.
        check_rows: Whether a result that is NaN, infinite or a vector of zeros is an error.
        round_lengths: Whether padding may be what suits the engine, instead of what the longest of many texts asks for.
    """

    prompt: str = ""
    batch_size: int | None = None
    max_batch_tokens: int | None = None
    show_progress: bool = False
    round_lengths: bool = True
    check_rows: bool = True

    def __post_init__(self) -> None:
        for name, what in (("batch_size", "texts"), ("max_batch_tokens", "tokens")):
            value = getattr(self, name)
            if value is not None:
                require_count(value, name, f"a positive number of {what}, or None")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A model ready to run. Immutable: what changes a vector makes a new one.

    Attributes:
        root: The model folder, or its conversion in the cache: where the files are.
        spec: The model as data.
        tokenizer: Texts to batches.
        session: Batches to token embeddings, or further: modules that are in its graph.
        modules: The modules that are not.
        options: What the engine was opened with.
        device: The device that was asked for.
        routes: Pipelines of a Router's routes by name, this one among them; empty without one.
        home: The folder that was asked for, which has what is put there later, such as ranges.
        owner: The process that opened the engine.
        files: What it was opened from, as it was then; nothing for a file that :meth:`with_file` has opened.
        unfused: The same model without fusing, once it has been asked for.
    """

    root: Path
    home: Path
    spec: ModelSpec
    tokenizer: TextTokenizer
    session: Session
    modules: tuple[Module, ...]
    options: EngineOptions
    device: str | None = None
    routes: Mapping[str, Pipeline] = field(default_factory=lambda: MappingProxyType({}))
    owner: int = field(default_factory=os.getpid)
    files: OpenedFiles = field(default_factory=lambda: OpenedFiles.now(Path(), ()))
    unfused: _Unfused = field(default_factory=lambda: _Unfused(), repr=False, compare=False)

    @classmethod
    def open(
        cls,
        root: Path,
        spec: ModelSpec,
        options: EngineOptions,
        device: str | None = None,
        *,
        home: Path | None = None,
        fused: bool = True,
        known: OpenedFiles | None = None,
    ) -> Pipeline:
        """Open a model folder with one of the engines; other errors are those of the parts.

        Args:
            root: The model folder, or its conversion in the cache.
            spec: The model.
            options: The engine's options.
            device: ``cpu``, ``cuda`` …; None leaves it to the engine.
            home: The model folder, where ``root`` is its conversion; None is ``root``.
            fused: Whether modules may be put into the engine's graph; the features between them are lost then.
            known: The files of a pipeline that this is to be the same model as.

        Raises:
            ArtifactError: If files are not those that are known; names them.
            CorruptModel: If somebody changed files meanwhile; names them.
        """
        with nullcontext() if known is None else known.kept():
            files = OpenedFiles.now(root, _beside_engine(root, spec))
            found = cls._opened(root, spec, options, device, fused=fused)
            for each in (found, *found.routes.values()):
                files |= each.session.files
            files.require_settled()
        home = home or root
        routes = {name: replace(route, files=files, home=home) for name, route in found.routes.items()}
        return replace(found, files=files, home=home, routes=MappingProxyType(routes))

    @classmethod
    def _opened(
        cls, root: Path, spec: ModelSpec, options: EngineOptions, device: str | None, *, fused: bool
    ) -> Pipeline:
        if not spec.routes:
            session = open_session(root, spec, options, device, fused=fused)
            return cls._assembled(root, spec, session, options, device)
        # several tasks may be served by one route; several routes may begin with one transformer, which is then opened
        # once, and what follows it stays outside of its graph
        distinct = {id(route): route for route in spec.routes.values()}
        fronts = [route.front for route in distinct.values()]
        sessions: dict[object, Session] = {}
        opened = {}
        for number, route in distinct.items():
            shared = fronts.count(route.front) > 1
            key: object = route.front if shared else number
            if key not in sessions:
                # export makes no file for a table beside a transformer: numpy reads it as it is
                table = isinstance(route.front, StaticEmbedding) and isinstance(spec.front, TransformerSpec)
                chosen = TorchOptions() if table else options
                sessions[key] = open_session(root, route, chosen, device, fused=fused and not shared)
            opened[number] = cls._assembled(root, route, sessions[key], options, device)
        routes = {name: opened[id(route)] for name, route in spec.routes.items()}
        parts = (spec.front, spec.modules)
        primary = next(each for each in routes.values() if (each.spec.front, each.spec.modules) == parts)
        return replace(primary, spec=spec, routes=MappingProxyType(routes))

    @classmethod
    def _assembled(
        cls, root: Path, spec: ModelSpec, session: Session, options: EngineOptions, device: str | None
    ) -> Pipeline:
        modules = load_modules(root, spec.modules[session.fused :], session.constant)
        return cls(root, root, spec, TextTokenizer(root, spec.tokenizer), session, modules, options, device)

    def with_file(self, file: Path, options: OnnxOptions | OpenVinoOptions) -> Pipeline:
        """Return the same model served on the CPU from a converted file, wherever that is."""
        session = open_file(file, options, "cpu", self.root, self.spec)
        return replace(self._assembled(self.root, self.spec, session, options, "cpu"), home=self.home)

    def with_max_seq_length(self, length: int | None) -> Pipeline:
        """Return the same model cutting texts after ``length`` tokens."""
        tokenizer = self.tokenizer.with_max_seq_length(length)
        routes = {name: route.with_max_seq_length(length) for name, route in self.routes.items()}
        spec = replace(self.spec, tokenizer=tokenizer.spec)
        return replace(self, spec=spec, tokenizer=tokenizer, routes=MappingProxyType(routes))

    def with_max_active_dims(self, count: int) -> Pipeline:
        """Return the same model with another number of values kept by its sparse autoencoder, if it has one."""
        modules = tuple(
            replace(module, spec=replace(module.spec, k=count)) if isinstance(module, AutoEncoder) else module
            for module in self.modules
        )
        return replace(self, modules=modules)

    def run(self, batch: Batch) -> Features:
        """Run one batch through the engine and the modules.

        Returns:
            Features as sentence-transformers names them, the batch's own included; those that stay inside of the
            engine's graph are not there.
        """
        self._check_process()
        return self._complete(batch, self.session.run(batch))

    def _complete(self, batch: Batch, found: Features) -> Features:
        features: Features = {
            "input_ids": batch.input_ids,
            "token_type_ids": batch.token_type_ids,
            "prompt_length": batch.prompt_length,
            **found,
        }
        for module in self.modules:
            features = module(features)
        return features

    def _check_process(self) -> None:
        """Raise where an engine would wait for threads that fork has not copied."""
        if os.getpid() != self.owner and self.session.backend is not Backend.NUMPY:
            raise ForkError(
                f"the model was opened in process {self.owner}, and this is a copy of that made by fork; "
                f"{self.session.backend.value} does not survive one",
                "open the model in this process, or use start_multi_process_pool(), which starts fresh ones",
            )

    def stream(
        self, texts: Sequence[Text], options: RunOptions | None = None, positions: Ints | None = None
    ) -> Iterator[tuple[Ints, Features]]:
        """Run texts in batches of similar length, the engine always a few batches ahead.

        Args:
            texts: Texts or pairs.
            options: How they are run.
            positions: Where they stand in the caller's call, for messages; None is 0, 1, 2 …

        Yields:
            Positions in ``texts`` of a batch's rows, and the batch's features.
        """
        self._check_process()
        options = options or RunOptions()
        positions = np.arange(len(texts)) if positions is None else positions
        if not options.show_progress:
            yield from self._stream(texts, options, positions)
            return
        from tqdm import tqdm

        with tqdm(total=len(texts), desc="Encoding", unit="text") as bar:
            for rows, features in self._stream(texts, options, positions):
                yield rows, features
                bar.update(len(rows))

    def _stream(
        self, texts: Sequence[Text], options: RunOptions, positions: Ints
    ) -> Iterator[tuple[Ints, Features]]:
        if len(texts) == 1:
            yield np.zeros(1, np.int64), self.run_one(texts, options, positions)
            return
        prompt_length = self.tokenizer.count_prompt(options.prompt) if options.prompt else 0
        limits = self._limits(options)
        waiting: deque[tuple[Ints, Batch]] = deque()

        def batches() -> Iterator[Batch]:
            for rows, tokens in self._batches(texts, options.prompt, limits, positions):
                batch = self._padded(tokens, limits, prompt_length)
                waiting.append((rows, batch))
                yield batch

        for found in self.session.map(batches()):
            rows, batch = waiting.popleft()
            yield rows, self._complete(batch, found)

    def run_one(self, texts: Sequence[Text], options: RunOptions, positions: Ints | None = None) -> Features:
        """Run a single text, such as a query: there is nothing to sort and nothing to overlap.

        Args:
            texts: The one text.
            options: How it is run; without a bar.
            positions: (1,) where it stands in the caller's call, for messages; None is 0.

        Returns:
            As :meth:`run`, of a batch of one.
        """
        prompt_length = self.tokenizer.count_prompt(options.prompt) if options.prompt else 0
        places = None if positions is None else positions.tolist()
        tokens = self.tokenizer.tokenize(_prefixed(texts, options.prompt), places)
        return self.run(self._padded(tokens, self._limits(options), prompt_length))

    def _batches(
        self, texts: Sequence[Text], prompt: str, limits: BatchLimits, positions: Ints
    ) -> Iterator[tuple[Ints, list[Tokens]]]:
        """Tokenise texts in order of characters, a few batches' worth at a time, and batch them in order of tokens."""
        lengths = np.fromiter((characters(text) for text in texts), np.int64, len(texts))
        order = np.argsort(-lengths, kind="stable")
        rows, tokens = np.empty(0, np.int64), list[Tokens]()
        start = 0
        for end in portions(lengths[order], limits):
            new = order[start:end]
            start = end
            rows = np.concatenate([rows, new])
            tokens += self.tokenizer.tokenize(
                _prefixed([texts[row] for row in new], prompt), positions[new].tolist()
            )
            plan = list(plan_batches([len(row) for row in tokens], limits))
            rest = unfilled(plan) if end < len(order) else np.empty(0, np.int64)
            for chosen in plan:
                yield rows[chosen], [tokens[each] for each in chosen]
            rows, tokens = rows[rest], [tokens[each] for each in rest]

    def _padded(self, tokens: Sequence[Tokens], limits: BatchLimits, prompt_length: int) -> Batch:
        length = limits.length(max(map(len, tokens)))
        limit = self.spec.tokenizer.max_seq_length
        return self.tokenizer.pad(tokens, prompt_length, length if limit is None else min(length, limit))

    def _limits(self, options: RunOptions) -> BatchLimits:
        limits = self.session.limits
        if options.batch_size is not None:
            limits = replace(limits, texts=options.batch_size)
        if options.max_batch_tokens is not None:
            limits = replace(limits, tokens=options.max_batch_tokens)
        if options.round_lengths and not self._padding_counts:
            return limits
        return replace(limits, length_step=1, run_cost=None)

    @property
    def _padding_counts(self) -> bool:
        """Whether padding changes vectors: weightedmean numbers the columns, those of padding on the left included."""
        pooled = (
            mode for module in self.spec.modules if isinstance(module, Pooling) for mode in module.modes
        )
        return self.spec.tokenizer.padding_side == "left" and PoolingMode.WEIGHTED_MEAN in pooled

    def without_fusing(self) -> Pipeline:
        """Return the same model with every module outside of the engine's graph, so that all features can be seen."""
        if not self.session.fused:
            return self
        return self.unfused.of(self)

    def with_include_prompt(self, include: bool) -> Pipeline:
        """Return the same model pooling over the prompt's tokens, or not."""
        return self._again(_including_prompt(self.spec, include))

    def _again(self, spec: ModelSpec, *, fused: bool = True) -> Pipeline:
        """Open the same files once more; what they hold must not have changed."""
        return Pipeline.open(
            self.root, spec, self.options, self.device, home=self.home, fused=fused, known=self.files
        )


class _Unfused:
    """A pipeline's model once more with no module in its graph; opened when it is first asked for, then kept."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._opened: Pipeline | None = None

    def of(self, pipeline: Pipeline) -> Pipeline:
        """Return it, cutting texts where the pipeline does."""
        with self._lock:
            if self._opened is None:
                self._opened = pipeline._again(pipeline.spec, fused=False)
            opened = self._opened
        length = pipeline.spec.tokenizer.max_seq_length
        same = opened.spec.tokenizer.max_seq_length == length
        return opened if same else opened.with_max_seq_length(length)


def _including_prompt(spec: ModelSpec, include: bool) -> ModelSpec:
    modules = tuple(
        replace(module, include_prompt=include) if isinstance(module, Pooling) else module
        for module in spec.modules
    )
    routes = {name: _including_prompt(route, include) for name, route in spec.routes.items()}
    return replace(spec, modules=modules, routes=MappingProxyType(routes))


def _beside_engine(root: Path, spec: ModelSpec) -> list[Path]:
    """The files that a model is opened from beside those of its engine: tokenizers, and weights of modules."""
    found = []
    for each in (spec, *spec.routes.values()):
        found.append(contained(root, each.tokenizer.path, "tokenizer.json"))
        found += weight_files(root, each.modules)
    return found


def characters(text: Text) -> int:
    """How long a text is, or both of a pair."""
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


def _prefixed(texts: Sequence[Text], prompt: str) -> Sequence[Text]:
    if not prompt:
        return texts
    return [prompt + text if isinstance(text, str) else (prompt + text[0], text[1]) for text in texts]
