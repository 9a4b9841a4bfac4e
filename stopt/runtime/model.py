"""What the three public classes share: how a model is opened, its prompts, its limits, what it is."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from stopt.errors import OptionError, StoptWarning, suggest
from stopt.runtime.accelerators import pool_devices
from stopt.runtime.loading import LoadRequest, check_length, open_pipeline
from stopt.runtime.pipeline import Pipeline, RunOptions
from stopt.runtime.process import HANG_S
from stopt.runtime.spread import PipelineSource, Spread
from stopt.runtime.workers import WorkerPool
from stopt.spec import ModelKind, merge_prompts

__all__ = ["DOCUMENT_PROMPTS", "Model"]

logger = logging.getLogger("stopt")

# names of the prompt for documents; the first that a model has is used
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class Model:
    """A model opened from a folder or the Hub. Not to be used itself: its three subclasses are.

    Args:
        request: What to open, and with what.
        prompts: Prompt texts by name; they win over the model's own.
        default_prompt_name: Prompt for calls that name none.
        trust_remote_code: Accepted for compatibility; code from a model is never run.

    Attributes:
        check_rows: Whether NaN, infinity or a vector of zeros in a result is an error; True unless it is set to False.
    """

    kind: ClassVar[ModelKind]
    prompt_names: ClassVar[tuple[str, ...]] = ("query", "document")
    width_name: ClassVar[str] = "dimension"

    def __init__(
        self,
        request: LoadRequest,
        prompts: Mapping[str, str | None] | None,
        default_prompt_name: str | None,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        if trust_remote_code:
            warnings.warn(
                "stopt never runs code from a model; trust_remote_code has no effect",
                StoptWarning,
                stacklevel=3,
            )
        self.check_rows = True
        self._pipeline = open_pipeline(replace(request, kind=self.kind))
        spec = self._pipeline.spec
        self.prompts = merge_prompts(prompts, spec.prompts, self.prompt_names)
        self.default_prompt_name = default_prompt_name or spec.default_prompt_name
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            raise OptionError(
                f"default_prompt_name {self.default_prompt_name!r} is not among the prompts",
                suggest(self.default_prompt_name, list(self.prompts)),
            )

    # -- for the subclasses ----------------------------------------------------------------------------------

    def _run_options(
        self,
        prompt_name: str | None,
        prompt: str | None,
        batch_size: int | None,
        max_batch_tokens: int | None,
        show_progress_bar: bool | None,
    ) -> RunOptions:
        """Options of a call, the prompt's name resolved and the progress bar decided."""
        return RunOptions(
            prompt=self._prompt(prompt, prompt_name),
            batch_size=batch_size,
            max_batch_tokens=max_batch_tokens,
            check_rows=self.check_rows,
            show_progress=logger.isEnabledFor(logging.INFO)
            if show_progress_bar is None
            else show_progress_bar,
        )

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None:
            if name is not None:
                warnings.warn("both prompt and prompt_name given; prompt is used", StoptWarning, stacklevel=4)
            if not isinstance(prompt, str):
                raise OptionError(
                    f"prompt is {prompt!r}, expected text",
                    "prompt_name= takes the name of one that the model has",
                )
            return prompt
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.prompts:
            raise OptionError(f"there is no prompt named {name!r}", suggest(str(name), list(self.prompts)))
        return self.prompts[name]

    def _query_prompt(self, prompt: str | None, name: str | None) -> str | None:
        """Name of the prompt for queries, unless another is given."""
        return "query" if prompt is None and name is None and "query" in self.prompts else name

    def _document_prompt(self, prompt: str | None, name: str | None) -> str | None:
        """Name of the prompt for documents, unless another is given."""
        if prompt is not None or name is not None:
            return name
        return next((each for each in DOCUMENT_PROMPTS if each in self.prompts), None)

    @contextmanager
    def _spread(
        self,
        pool: WorkerPool | None,
        device: str | Sequence[str | None] | None,
        chunk_size: int | None,
        route: Pipeline,
    ) -> Iterator[Spread | None]:
        """How a call is spread over a pool: the one given, or one for this call if there are several devices."""
        if pool is not None:
            if not isinstance(pool, WorkerPool):
                raise OptionError(
                    f"pool is {type(pool).__name__}, expected a WorkerPool",
                    "start one with start_multi_process_pool()",
                )
            if not isinstance(pool.source, PipelineSource) or not pool.source.serves(self._pipeline):
                raise OptionError(
                    "the pool has another model open than this one",
                    "start one with this model's start_multi_process_pool()",
                )
            yield Spread(pool, self._pipeline, route, chunk_size)
        elif isinstance(device, list | tuple):
            with self.start_multi_process_pool(device) as pool:
                yield Spread(pool, self._pipeline, route, chunk_size)
        else:
            self._check_device(device)
            yield None

    def _check_device(self, device: object) -> None:
        """Raise unless ``device`` is where the model is, in the engine's words or by kind (``cpu``)."""
        actual = self.device
        if device is None or str(device) in (actual, self._pipeline.device):
            return
        kind = re.split("[:.]|ExecutionProvider", actual)[0]  # of "cuda:0", "GPU.1" or "CPUExecutionProvider"
        if str(device).lower() != kind.lower():
            raise OptionError(
                f"the model is on {actual!r}, not on {device!r}", "give device= to the constructor instead"
            )

    def _route(self, task: str | None) -> Pipeline:
        """The pipeline that serves a task, of a model with a Router; the model's own without one.

        Raises:
            OptionError: If the model has no route for it, or needs to be told one.
        """
        routes = self._pipeline.routes
        if not routes:
            return self._pipeline
        name = task if task is not None else self._pipeline.spec.default_route
        if isinstance(name, str) and name in routes:
            return routes[name]
        if name is None:
            raise OptionError(
                "this model treats texts by their task, and the call names none",
                f"use encode_query or encode_document, or task= with one of {', '.join(routes)}",
            )
        raise OptionError(f"this model has no route for task {name!r}", suggest(str(name), list(routes)))

    # -- several processes -----------------------------------------------------------------------------------

    def start_multi_process_pool(
        self, target_devices: Sequence[str | None] | None = None, *, hang_limit_s: float | None = HANG_S
    ) -> WorkerPool:
        """Start worker processes that have this model open, for ``pool=`` of the methods that run texts.

        Args:
            target_devices: The device of each worker, such as ``["cuda:0", "cuda:1"]`` or ``["cpu", "cpu"]``. None is
                every device of the model's kind; of processors, four workers, or as many as there are cores if those
                are fewer. Workers on processors share the cores that the model may use.
            hang_limit_s: Seconds without a sign of life after which a worker that hangs is killed, and its texts given to
                another; None is never. Slow ones are left alone.

        Returns:
            The pool; a context manager. Stop it with its ``close()``, or :meth:`stop_multi_process_pool`.

        Raises:
            OptionError: If the model was opened with what another process cannot have, or a device is not there.
            ArtifactError: If the model's files have changed since it was opened; calls raise it too, where a worker died
                after they did and no other is left.
            WorkerError: If a worker does not start.
        """
        source = PipelineSource.of(self._pipeline)
        if target_devices is None:
            target_devices = pool_devices(self._pipeline.session.backend, self.device, source.options.threads)
        if isinstance(target_devices, str):
            raise OptionError(
                f"target_devices is {target_devices!r}, expected a list of devices",
                f"one for each worker: [{target_devices!r}, {target_devices!r}]",
            )
        devices = [None if each is None else str(each) for each in target_devices]  # torch's devices too
        return WorkerPool(source, devices, source.options.threads, hang_limit_s=hang_limit_s)

    @staticmethod
    def stop_multi_process_pool(pool: WorkerPool) -> None:
        """End the processes of a pool."""
        pool.close()

    # -- what it is ------------------------------------------------------------------------------------------

    @property
    def max_seq_length(self) -> int | None:
        """Tokens after which a text is cut, special tokens included; None is no limit."""
        return self._pipeline.spec.tokenizer.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        self._pipeline = self._pipeline.with_max_seq_length(check_length(length, self._pipeline.spec))

    def get_max_seq_length(self) -> int | None:
        """Return :attr:`max_seq_length`."""
        return self.max_seq_length

    def get_backend(self) -> str:
        """Return the engine: ``torch``, ``onnx``, ``openvino``, or ``numpy`` for tables."""
        return self._pipeline.session.backend.value

    @property
    def device(self) -> str:
        """Where the engine runs, in its own words."""
        return self._pipeline.session.device

    @property
    def file(self) -> Path:
        """The file that is served; for torch the folder of the weights."""
        return self._pipeline.session.file

    @property
    def pipeline(self) -> Pipeline:
        """The parts it is made of, for tools that need them."""
        return self._pipeline

    def __repr__(self) -> str:
        session = self._pipeline.session
        padding_free = "padding_free=True, " if session.limits.padding_free else ""
        return (
            f"{type(self).__name__}({session.file}, backend={session.backend.value!r}, device={session.device!r}, "
            f"precision={session.precision!r}, {padding_free}{self.width_name}={self._dimension()})"
        )

    def _dimension(self) -> int:
        return self._pipeline.spec.embedding_dimension
