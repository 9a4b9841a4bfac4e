"""A pool of worker processes, each with a model of its own: what it promises, and what it does when a worker fails.

Every worker has one pipe and one thread of the pool, its lane, which gives it a chunk, waits for the result or the
worker's end, and starts another worker in its place. So a worker that dies takes nothing with it that others need; results
carry the numbers of their call and chunk, so that calls of several threads cannot mix; and the end of a worker is known
at once, since its end of the pipe closes.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import spawn
from signal import Signals
from threading import Thread, current_thread
from types import TracebackType
from typing import Any, Protocol, TypeVar

from stopt.errors import ForkError, OptionError
from stopt.runtime.board import Board, Failure, Task
from stopt.runtime.devices import describe_machine
from stopt.runtime.frames import Parts, Report, Tag, pack, read, unpack, write
from stopt.runtime.worker import OPENING, UNREPORTED

__all__ = ["Job", "ModelSource", "WorkerPool"]

STARTS = 2  # of a worker that dies while it opens the model
IN_FLIGHT = 2  # chunks per worker that are taken from the caller ahead of their results
LOOK_S = 0.5  # between two looks whether a silent worker is alive, should something else hold its pipe open
GRACE_S = 4  # for a worker to end by itself

# libraries that would each take all cores
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")

Model = TypeVar("Model", covariant=True)
Result = TypeVar("Result")
ResultOf = TypeVar("ResultOf", covariant=True)


class ModelSource(Protocol[Model]):
    """What a worker opens; pickled, so it names a model and is none."""

    def open(self, device: str | None, threads: int) -> Model:
        """Open it, in the worker."""


class Job(Protocol[ResultOf]):
    """What a worker does with a chunk; pickled. Its class is importable by name."""

    def __call__(self, model: Any, chunk: Any, /) -> ResultOf:
        """Run a chunk with what the source opened, in the worker."""


class WorkerPool:
    """Worker processes that have a model open and wait for work; a context manager.

    Several threads may use one at the same time. It is bound to its process: a forked copy is refused.

    A worker that dies is replaced, and its chunk is given to another worker once; so is a chunk on which a worker failed
    with an error that is not about the input. If that fails too, the call raises :class:`~stopt.errors.WorkerError` with the
    chunk and the original error, and the pool stays usable; if no worker can be started any more, it is closed and says so.

    Args:
        source: What each worker opens.
        devices: The device of each worker; None leaves it to the engine.
        threads: Threads of the CPU for all of them together; None is all that this process may use.

    Raises:
        StoptError: If a worker cannot open the model, the error that it had.
    """

    def __init__(
        self, source: ModelSource[Any], devices: Sequence[str | None], threads: int | None = None
    ) -> None:
        if not devices:
            raise OptionError(
                "a pool needs at least one device", "name a device for each worker: ['cpu', 'cpu']"
            )
        self.devices = tuple(devices)
        self.source = source
        shares = _shares(threads or describe_machine().threads, len(devices))
        self._owner = os.getpid()
        self._board = Board(len(devices))
        self._lanes = [
            _Lane(number, self._board, pack((source, device, share)), device, share)
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
        return [lane.worker.pid for lane in self._lanes if lane.worker is not None]

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
        if lane.worker is not None:
            lane.worker.terminate()
    for lane in lanes:
        if (
            lane.ident is not None and lane is not current_thread()
        ):  # which may be the one that collects garbage
            lane.join(2 * GRACE_S)


def _shares(threads: int, workers: int) -> list[int]:
    """Split threads among workers, at least one each."""
    return [max(1, (threads + place) // workers) for place in range(workers)]


class _Died(Exception):
    """The worker is gone."""


class _Lane(Thread):
    """A thread of the pool, and the one worker that it keeps busy.

    It lives as long as the pool: on Linux a process asks to be ended with the thread that started it.
    """

    def __init__(self, number: int, board: Board, opening: Parts, device: str | None, threads: int) -> None:
        super().__init__(name=f"stopt-lane-{number}", daemon=True)
        self.worker: _Worker | None = None
        self._number, self._board, self._opening, self._threads = number, board, opening, threads
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
            good, found = unpack(self.worker.ask((task.call.number, task.number), task.parts))
        except _Died:
            failure = Failure(self._where, fate=self.worker.end())
            self.worker = None
            self._board.failed(task, self._number, failure)
        except Exception as error:
            self._board.failed(task, self._number, Failure(self._where, Report.of(error)))
        else:
            if good:
                self._board.done(task, found)
            else:
                self._board.failed(task, self._number, Failure(self._where, found))

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
                self.worker = _Worker(self._threads)
                if self._board.is_closed():  # closed just now, by a thread that may not have seen it
                    self.worker.terminate()
                good, found = unpack(self.worker.ask(OPENING, self._opening))
            except OSError as error:
                failure = Failure(self._where, Report.of(error))
            except _Died:
                failure = Failure(self._where, fate=self.worker.end() if self.worker else "")
            else:
                if good:
                    return True
                failure = Failure(self._where, found)
                break
        if self.worker is not None:
            self.worker.end()
            self.worker = None
        self._board.lost(self._number, failure)
        return False


class _Worker:
    """A worker process and the pipe to it."""

    def __init__(self, threads: int) -> None:
        path = [each for each in sys.path if isinstance(each, str)]
        program = (
            f"import sys; sys.path[:] = {path!r}; from stopt.runtime.worker import main; main({os.getpid()})"
        )
        self._process = subprocess.Popen(
            [*_interpreter(), "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))},
        )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, tag: Tag, parts: Parts) -> Parts:
        """Send a message and wait for the answer.

        Raises:
            _Died: If the worker ends before it has given one.
        """
        requests, results = self._process.stdin, self._process.stdout
        assert requests is not None
        assert results is not None
        try:
            write(requests, tag, parts)  # type: ignore[arg-type]  # unbuffered: a FileIO
            self._await(results.fileno())
            answered, found = read(results)  # type: ignore[arg-type]
        except (OSError, EOFError, ValueError) as error:  # ValueError: closed meanwhile
            raise _Died from error
        if answered != tag:
            raise _Died
        return found

    def _await(self, descriptor: int) -> None:
        """Wait until there is something to read, the end of the file included."""
        if not hasattr(select, "poll"):
            return
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        while not waiting.poll(LOOK_S * 1000):
            if not self.alive and not waiting.poll(0):
                raise EOFError

    def terminate(self) -> None:
        """Ask it to end now."""
        with suppress(OSError):
            self._process.terminate()

    def end(self) -> str:
        """Have it ended, however it takes it, and its pipe closed.

        Returns:
            How it ended, for people.
        """
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            code = self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return _fate(code)


def _fate(code: int) -> str:
    if code == UNREPORTED:
        return "ran out of memory, even for saying so,"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}"


def _interpreter() -> Sequence[str]:
    """The Python that runs this, with its flags."""
    command = spawn.get_command_line()
    return command[: command.index("-c")]
