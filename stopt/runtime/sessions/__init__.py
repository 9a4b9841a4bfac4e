"""Engines that run the transformer, behind one protocol.

:func:`open_session` is the only place that chooses between them; each engine's package is imported by its own
module alone, when it is opened.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, assert_never

import numpy as np
import numpy.typing as npt

from stopt.artifact import locate
from stopt.errors import CorruptModel, MissingExtra, OptionError
from stopt.runtime.arrays import Array
from stopt.runtime.batching import BatchLimits
from stopt.runtime.modules import Features, without_prompt
from stopt.runtime.opened import OpenedFiles
from stopt.runtime.options import EngineOptions, OnnxOptions, OpenVinoOptions, TorchOptions
from stopt.runtime.tokenizer import Batch
from stopt.runtime.trial import admit_graph
from stopt.spec import (
    SENTENCE,
    Backend,
    ModelKind,
    ModelSpec,
    SparseStaticEmbedding,
    StaticEmbedding,
    Task,
    TransformerSpec,
)

__all__ = [
    "Session",
    "are_same",
    "batches_within",
    "feed",
    "open_file",
    "open_session",
    "overlapped",
    "result_name",
    "tokens_within",
]


logger = logging.getLogger("stopt")

# values that a batch's output may have inside of an engine
WIDEST_OUTPUT = 2**24


class Session(Protocol):
    """An engine with a model in it. Fully usable once built; may be shared between threads."""

    @property
    def backend(self) -> Backend:
        """The engine."""

    @property
    def file(self) -> Path:
        """The file that is run; for torch the folder of the weights."""

    @property
    def files(self) -> OpenedFiles:
        """What the engine has read, as it was before."""

    @property
    def device(self) -> str:
        """Where it runs, in the engine's own words."""

    @property
    def precision(self) -> str:
        """Dtype of the arithmetic, as far as the engine tells."""

    @property
    def fused(self) -> int:
        """How many of the model's modules, from the first, are in the engine's graph."""

    @property
    def limits(self) -> BatchLimits:
        """Batches that suit the engine."""

    def run(self, batch: Batch) -> Features:
        """Run one batch.

        Returns:
            ``token_embeddings`` (B, T, D), ``scores`` (B, labels) or, from a graph with pooling in it,
            ``sentence_embedding`` (B, E); and ``attention_mask`` (B, T); all in the engine's own array type.
        """

    def map(self, batches: Iterable[Batch]) -> Iterator[Features]:
        """Run many batches, several at a time where the engine can; results in the order of the batches.

        Batches are taken from the iterable in the caller's thread, a few ahead of the results.
        """

    def constant(self, array: npt.NDArray[np.float32]) -> Array:
        """Turn weights into an array that fits what :meth:`run` returns: its type, dtype and device."""


def open_session(
    root: Path, spec: ModelSpec, options: EngineOptions, device: str | None = None, *, fused: bool = True
) -> Session:
    """Open the file that ``options`` name with the engine that they belong to; a table that has none needs no engine.

    Args:
        root: The model folder.
        spec: The model.
        options: One of the engines' options.
        device: ``cpu``, ``cuda``, ``cuda:1`` …; None leaves it to the options and the engine.
        fused: Whether the model's modules may be put into the engine's graph.

    Raises:
        MissingExtra: If the engine is not installed.
        ArtifactError: If there is no such file; lists those that are.
        CorruptModel: If the engine cannot read it.
        OptionError: If the provider or device is not there.
    """
    if isinstance(spec.front, SparseStaticEmbedding):
        from stopt.runtime.sessions.table import SparseTableSession

        return SparseTableSession(root, spec.front)
    if isinstance(spec.front, StaticEmbedding) and isinstance(options, TorchOptions):
        from stopt.runtime.sessions.table import TableSession

        return TableSession(root, spec.front)
    if isinstance(options, TorchOptions):
        require("torch", "torch")
        require("transformers", "torch")
        from stopt.runtime.sessions.torch import TorchSession

        return TorchSession(root, spec, options, device)
    backend = Backend.ONNX if isinstance(options, OnnxOptions) else Backend.OPENVINO
    file = locate(root, backend, options.file_name, options.subfolder, spec.front.path)
    return open_file(file, options, device, root, spec, fused=fused)


def open_file(
    file: Path,
    options: OnnxOptions | OpenVinoOptions,
    device: str | None,
    root: Path,
    spec: ModelSpec,
    *,
    fused: bool = True,
) -> Session:
    """Open a converted file of a model, wherever it is, after it was checked; otherwise as :func:`open_session`.

    Raises:
        UntrustedModel: If the file would have code run, or leaves its folder.
        ResourceLimitError: If it would take more time or memory than a file of its size needs.
    """
    from stopt.heads import build_head

    head = build_head(root, spec) if fused else None
    match options:
        case OnnxOptions():
            require("onnxruntime", "onnx")
            files = OpenedFiles.now(root, [file])
            verdict = admit_graph(file)
            files |= OpenedFiles.now(root, [file.parent / name for name in verdict.data])
            if any((file.parent / name).is_symlink() for name in verdict.data):
                # as in the Hub's cache: ONNX Runtime follows links of a graph that it opens by its path, of no other
                head = None
            from stopt.runtime.sessions.onnx import OnnxSession

            return OnnxSession(file, files, spec, options, device, head)
        case OpenVinoOptions():
            require("openvino", "openvino")
            files = OpenedFiles.now(root, [file, file.with_suffix(".bin")])
            admit_graph(file)
            from stopt.runtime.sessions.openvino import OpenVinoSession

            return OpenVinoSession(file, files, spec, options, device, head)
        case _:
            assert_never(options)


def overlapped(
    batches: Iterable[Batch], submit: Callable[[Batch], Callable[[], Features]], depth: int
) -> Iterator[Features]:
    """Keep up to ``depth`` batches in the engine; yield their results in order.

    Args:
        batches: What to run.
        submit: Starts a batch; what it returns waits for the result.
        depth: Batches that have been started and not been waited for.
    """
    started: deque[Callable[[], Features]] = deque()
    try:
        for batch in batches:
            started.append(submit(batch))
            if len(started) >= depth:
                yield started.popleft()()
        while started:
            yield started.popleft()()
    finally:  # an error, or a caller that stops early: nothing may run on with arrays that go away
        for wait in started:
            with suppress(Exception):
                wait()


def are_same(files: OpenedFiles, file: Path) -> bool:
    """Whether a session may open its files once more; says so in the log if they are others."""
    if files.are_same():
        return True
    logger.warning(
        "%s was replaced: what has it open goes on with the old one, one batch at a time; open the model again",
        file,
    )
    return False


def require(package: str, extra: str) -> None:
    """Raise :class:`MissingExtra` unless ``package`` is installed; does not import it."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise MissingExtra(package, extra)


def feed(batch: Batch, inputs: Sequence[str], file: Path) -> dict[str, npt.NDArray[Any]]:
    """Choose from a batch what a graph asks for.

    Raises:
        CorruptModel: If it asks for something that is not known.
        OptionError: If it has no use for token types that matter.
    """
    if "token_type_ids" not in inputs and batch.token_type_ids.any():
        raise OptionError(
            f"{file} has no input for token types, which tell the two texts of a pair apart",
            "export the model with `stopt export`, whose graphs have it",
        )
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name in inputs:
        match name:
            case "input_ids":
                arrays[name] = batch.input_ids
            case "attention_mask":
                arrays[name] = batch.attention_mask
            case "token_type_ids":
                arrays[name] = batch.token_type_ids
            case "position_ids":
                arrays[name] = batch.position_ids
            case "pooling_mask":
                arrays[name] = without_prompt(batch.attention_mask, batch.prompt_length)
            case _:
                raise CorruptModel(
                    f"{file} wants the input {name!r}, which an encoder has no values for",
                    "export the model again with `stopt export --force`",
                )
    return arrays


def result_name(outputs: Sequence[str], file: Path, spec: ModelSpec) -> tuple[str, str]:
    """Find the output of a graph that is used.

    What the transformer gives is preferred where a graph has pooled it too: pooling is then ours, prompts and all.

    Args:
        outputs: Names of the graph's outputs.
        file: The graph's file.
        spec: The model.

    Returns:
        The output's name, and the feature that it is.

    Raises:
        CorruptModel: If it is not there.
    """
    plain = _OUTPUTS[spec.front.task] if isinstance(spec.front, TransformerSpec) else ()
    wanted = (*plain, *_POOLED[spec.kind])
    for name in wanted:
        if name in outputs:
            return name, spec.front.target if name in plain else spec.feature
    raise CorruptModel(
        f"{file} has the outputs {', '.join(outputs)}; expected {' or '.join(wanted)}",
        f"is it the graph of another model than the {spec.kind.value} model in this folder?",
    )


# a task's output under the names that exporters give it, and what graphs that pool by themselves call theirs
_OUTPUTS: Mapping[Task, tuple[str, ...]] = {
    Task.FEATURES: ("last_hidden_state", "token_embeddings"),
    Task.MASKED_LM: ("logits", "token_embeddings"),
    Task.CLASSIFICATION: ("logits", "scores"),
}
_POOLED: Mapping[ModelKind, tuple[str, ...]] = {
    ModelKind.DENSE: (SENTENCE,),
    ModelKind.SPARSE: (SENTENCE,),
    ModelKind.CROSS_ENCODER: (),
}


def tokens_within(tokens: int, spec: ModelSpec) -> int:
    """The budget of a batch where a token's output is wide: logits over a vocabulary stay below 64 MiB."""
    return max(1, min(tokens, WIDEST_OUTPUT // spec.front.width))


def batches_within(threads: int, tokens: int, spec: ModelSpec) -> int:
    """How many batches of ``tokens`` may run at a time: one per thread; of logits over a vocabulary, 64 MiB in all."""
    if not isinstance(spec.front, TransformerSpec) or spec.front.task is not Task.MASKED_LM:
        return threads
    return max(1, min(threads, WIDEST_OUTPUT // (tokens * spec.front.width)))
