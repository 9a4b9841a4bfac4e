"""A pool of worker processes, each with a model of its own: what it promises, and what it does when a worker fails.

Every worker has one pipe and one thread of the pool, its lane, which gives it a chunk, waits for the result or the
worker's end, and starts another worker in its place. So a worker that dies takes nothing with it that others need; results
carry the numbers of their call and chunk, so that calls of several threads cannot mix; and the end of a worker is known
at once, since its end of the pipe closes.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock, Thread, current_thread
from types import TracebackType
from typing import Any, Protocol, TypeVar

from stopt.errors import ArtifactError, ForkError, OptionError
from stopt.runtime.board import Board, Failure, Task
from stopt.runtime.devices import describe_machine
from stopt.runtime.frames import Parts, Report, pack, unpack
from stopt.runtime.opened import OpenedFiles
from stopt.runtime.process import GRACE_S, HANG_S, Died, WorkerProcess
from stopt.runtime.worker import OPENING

__all__ = ["Job", "ModelSource", "WorkerPool"]

STARTS = 2  # of a worker that dies while it opens the model
IN_FLIGHT = 2  # chunks per worker that are taken from the caller ahead of their results

Model = TypeVar("Model", covariant=True)
Result = TypeVar("Result")
ResultOf = TypeVar("ResultOf", covariant=True)


class ModelSource(Protocol[Model]):
    """What a worker opens; pickled, so it names a model and is none."""

    def open(self, device: str | None, threads: int) -> Model:
        """Open it, in the worker.

        Where what it returns has ``files`` (:class:`~stopt.runtime.opened.OpenedFiles`), all workers must have the same.
        """


class Job(Protocol[ResultOf]):
    """What a worker does with a chunk; pickled. Its class is importable by name."""

    def __call__(self, model: Any, chunk: Any, /) -> ResultOf:
        """Run a chunk with what the source opened, in the worker."""


class WorkerPool:
    """Worker processes that have a model open and wait for work; a context manager.

    Several threads may use one at the same time. It is bound to its process: a forked copy is refused.

    A worker that dies is replaced, and its chunk is given to another worker once. One that hangs, stopped or deadlocked, so
    that it uses no processor time although it has a chunk or opens the model, is killed; on Linux, elsewhere it is waited
    for. A slow one is left alone, however slow. A chunk is also given to another worker where one failed with an error that
    is not about the input. If that fails too, the call raises :class:`~stopt.errors.WorkerError` with the chunk and the
    original error, and the pool stays usable; if no worker can be started any more, it is closed and says so.

    All workers have the same model: one whose files are not those of the others, because they were replaced meanwhile, is
    not used.

    Args:
        source: What each worker opens.
        devices: The device of each worker; None leaves it to the engine.
        threads: Threads of the CPU for all of them together; None is all that this process may use.
        hang_limit_s: Seconds without a sign of life after which a worker that has something to do is killed; None is
            never.

    Raises:
        OptionError: If there is no device, or the limit is not a positive number.
        StoptError: If a worker cannot open the model, the error that it had.
    """

    def __init__(
        self,
        source: ModelSource[Any],
        devices: Sequence[str | None],
        threads: int | None = None,
        *,
        hang_limit_s: float | None = HANG_S,
    ) -> None:
        if not devices:
            raise OptionError(
                "a pool needs at least one device", "name a device for each worker: ['cpu', 'cpu']"
            )
        if hang_limit_s is not None and not hang_limit_s > 0:
            raise OptionError(f"hang_limit_s is {hang_limit_s!r}", "a positive number of seconds, or None")
        self.devices = tuple(devices)
        self.source = source
        shares = _shares(threads or describe_machine().threads, len(devices))
        self._owner = os.getpid()
        self._board = Board(len(devices))
        same = _Same()
        self._lanes = [
            _Lane(
                number, self._board, same, pack((source, device, share)), device, _Limits(share, hang_limit_s)
            )
            for number, (device, share) in enumerate(zip(devices, shares, strict=True))
        ]
        self._stop = weakref.finalize(self, _stop, self._owner, self._board, self._lanes)
        for lane in self._lanes:
            lane.start()
        try:
            self._board.await_start()
        except BaseException:
            self._stop()
            raise

    def map(self, job: Job[Result], chunks: Iterable[Any]) -> Iterator[Result]:
        """Run chunks, and yield their results in the order of the chunks.

        Chunks are taken when a result has been fetched and there is room: there are never more than two per worker that
        have been taken and whose result has not.

        Args:
            job: What to do with each.
            chunks: Anything that can be pickled. A chunk's ``positions``, if it has any, say in messages which of the
                call's inputs are in it.

        Raises:
            WorkerError: If a worker died on a chunk, or failed, and another one too; or if the pool is closed.
            StoptError: If a worker raised one: it is the same error, and no other worker is tried.
            ForkError: If this is a forked copy of the pool's process.
        """
        return (result for _, result in self._run(job, chunks, ordered=True))

    def unordered(self, job: Job[Result], chunks: Iterable[Any]) -> Iterator[tuple[int, Result]]:
        """Like :meth:`map`, but yield results as they come, each with the number of its chunk."""
        return self._run(job, chunks, ordered=False)

    def _run(self, job: Job[Result], chunks: Iterable[Any], *, ordered: bool) -> Iterator[tuple[int, Result]]:
        self._check_process()
        call = self._board.begin()
        numbered = enumerate(chunks)
        held: dict[int, Result] = {}
        taken = given = 0
        more = True
        try:
            while True:
                while more and taken - given < IN_FLIGHT * len(self._lanes):
                    if (following := next(numbered, None)) is None:
                        more = False
                    else:
                        number, chunk = following
                        positions = getattr(chunk, "positions", ())
                        self._board.submit(Task(call, number, pack((job, chunk)), positions))
                        taken += 1
                if taken == given:
                    return
                number, result = self._board.fetch(call)
                held[number] = result
                ready = given if ordered else number
                while ready in held:
                    yield ready, held.pop(ready)
                    given += 1
                    ready += 1
        finally:
            self._board.end(call)

    def close(self) -> None:
        """End the workers; a call in progress in another thread raises. Does nothing the second time."""
        self._stop()

    @property
    def closed(self) -> bool:
        """Whether it can be used no more."""
        return self._board.is_closed()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are alive."""
        return [worker.pid for lane in self._lanes if (worker := lane.worker) is not None]

    def _check_process(self) -> None:
        if os.getpid() != self._owner:
            raise ForkError(
                f"the pool belongs to process {self._owner}, and this is a copy of that made by fork",
                "start a pool in this process, or start the process with 'spawn'",
            )

    def __len__(self) -> int:
        return len(self.devices)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"WorkerPool({len(self)} workers on {', '.join(str(each) for each in self.devices)}; {state})"


def _stop(owner: int, board: Board, lanes: Sequence[_Lane]) -> None:
    if os.getpid() != owner:  # a forked copy must leave its parent's workers alone
        return
    board.close()
    for lane in lanes:
        if (worker := lane.worker) is not None:
            worker.terminate()
    for lane in lanes:
        if (
            lane.ident is not None and lane is not current_thread()
        ):  # which may be the one that collects garbage
            lane.join(2 * GRACE_S)


def _shares(threads: int, workers: int) -> list[int]:
    """Split threads among workers, at least one each."""
    return [max(1, (threads + place) // workers) for place in range(workers)]


@dataclass(frozen=True, slots=True)
class _Limits:
    """What a worker may use: threads of the CPU, and seconds without a sign of life."""

    threads: int
    hang_s: float | None


class _Same:
    """What the first worker of a pool has opened, and all others must have too."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._files: OpenedFiles | None = None

    def refusal(self, files: OpenedFiles | None) -> Report | None:
        """Return why a worker that has opened these files cannot be used; None if it can."""
        with self._lock:
            self._files = self._files or files
        if self._files is None or files is None or not (names := self._files.differing(files)):
            return None
        error = ArtifactError(
            f"the model's files changed since the first worker opened them: {', '.join(names)}",
            "start again, when nobody writes to the model's folder",
        )
        return Report.of(error)


class _Lane(Thread):
    """A thread of the pool, and the one worker that it keeps busy.

    It lives as long as the pool: on Linux a process asks to be ended with the thread that started it.
    """

    def __init__(
        self,
        number: int,
        board: Board,
        same: _Same,
        opening: Parts,
        device: str | None,
        limits: _Limits,
    ) -> None:
        super().__init__(name=f"stopt-lane-{number}", daemon=True)
        self.worker: WorkerProcess | None = None
        self._number, self._board, self._same = number, board, same
        self._opening, self._limits = opening, limits
        self._where = f"worker {number}" + (f" ({device})" if device else "")

    def run(self) -> None:
        """Start a worker, and give it one chunk after the other."""
        if self._start():
            self._board.started()
            while (task := self._board.take(self._number)) is not None:
                if not self._has_worker():
                    self._board.postpone(task)
                    break
                self._attempt(task)
        if self.worker is not None:
            self.worker.end()

    def _has_worker(self) -> bool:
        """Whether there is a worker; one that died while it was idle is replaced first."""
        if self.worker is not None and self.worker.alive:
            return True
        return self._start()

    def _attempt(self, task: Task) -> None:
        assert self.worker is not None
        try:
            tag = task.call.number, task.number
            good, found = unpack(self.worker.ask(tag, task.parts, self._limits.hang_s))
        except Died:
            self._board.failed(task, self._number, self._death())
        except Exception as error:
            self._board.failed(task, self._number, Failure(self._where, Report.of(error)))
        else:
            if good:
                self._board.done(task, found)
            else:
                self._board.failed(task, self._number, Failure(self._where, found))

    def _death(self) -> Failure:
        """Take leave of a worker that is gone: how it went."""
        assert self.worker is not None
        worker, self.worker = self.worker, None
        return Failure(self._where, fate=worker.end(), hung=worker.hung)

    def _start(self) -> bool:
        """Start a worker and have it open the model; if that cannot be done, the board knows."""
        failure = Failure(self._where)
        for _ in range(STARTS):
            if self.worker is not None:
                self.worker.end()
                self.worker = None
            if self._board.is_closed():
                return False
            try:
                self.worker = WorkerProcess(self._limits.threads)
                if self._board.is_closed():  # closed just now, by a thread that may not have seen it
                    self.worker.terminate()
                good, found = unpack(self.worker.ask(OPENING, self._opening, self._limits.hang_s))
            except Died:
                failure = self._death()
            except Exception as error:  # whatever it is: a lane that ends without a word would be waited for
                failure = Failure(self._where, Report.of(error))
            else:
                report = self._same.refusal(found) if good else found
                if report is None:
                    return True
                failure = Failure(self._where, report)
                break
        if self.worker is not None:
            self.worker.end()
            self.worker = None
        self._board.lost(self._number, failure)
        return False
