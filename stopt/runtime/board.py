"""Where the calls of a pool leave chunks and its lanes take them: one lock, which every thread of the pool waits on."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Condition
from typing import Any

from stopt.errors import ArtifactError, ResourceLimitError, StoptError, WorkerError
from stopt.runtime.frames import Parts, Report
from stopt.runtime.memory import OUT_OF_MEMORY

__all__ = ["Board", "Call", "Failure", "Task"]

logger = logging.getLogger("stopt")

ATTEMPTS = 2  # a chunk is tried on two workers, then it is the chunk that is blamed
_NAMED = 8  # positions that a message lists

_OF_DEATHS = (
    "if nobody killed it, memory ran out or native code crashed on one of these inputs: try them alone, with fewer "
    "workers or smaller batches"
)
_OF_HANGS = (
    "if nobody stopped it, its engine is in a deadlock: try these inputs alone; how long a pool waits is hang_limit_s= of "
    "start_multi_process_pool"
)
_OF_OPENING = (
    "if nobody stopped it, its engine is in a deadlock, or the model lies on a disk that does not answer: open it without a "
    "pool to see; how long a pool waits is hang_limit_s= of start_multi_process_pool"
)
_OF_MEMORY = "use fewer workers or smaller batches: batch_size=, max_batch_tokens=, chunk_size="
_OF_ERRORS = "the same call without a pool shows where; the worker's traceback is in this error's notes"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a worker did not do what it was asked for.

    Attributes:
        where: The worker, for people.
        report: The exception; None if the worker died.
        fate: How it died, for people.
        hung: Whether it had to be killed.
    """

    where: str
    report: Report | None = None
    fate: str = ""
    hung: bool = False

    @property
    def final(self) -> bool:
        """Whether another worker would say the same: the input or an option is wrong, not the worker."""
        return self.report is not None and self.report.attributes is not None and not self._is_of_memory

    @property
    def _is_of_memory(self) -> bool:
        """Whether memory ran out, of which another worker may have more."""
        return self.report is not None and self.report.name == ResourceLimitError.__name__

    def error(
        self, doing: str, *, attempts: int = 1, chunk: int | None = None, positions: Sequence[int] = ()
    ) -> StoptError:
        """The exception for the caller."""
        twice = " (another worker had failed on it before)" if attempts > 1 else ""
        if self.report is None:
            message = f"{self.where} {self.fate} while {doing}{twice}"
            of_hangs = _OF_OPENING if chunk is None else _OF_HANGS
            hint = of_hangs if self.hung else _OF_DEATHS
            return WorkerError(message, hint, chunk=chunk, positions=positions)
        known = self.report.known()
        if known is not None and (chunk is None or not self._is_of_memory):
            return known
        if isinstance(known, ResourceLimitError):
            positions = known.positions or positions
        message = f"{self.where} failed while {doing}{twice}: {self.report.name}: {self.report.text}"
        hint = _OF_MEMORY if self._is_of_memory or OUT_OF_MEMORY.search(message) else _OF_ERRORS
        error = WorkerError(message, hint, chunk=chunk, positions=positions)
        error.add_note(f"In the worker:\n{self.report.details}")
        return error


@dataclass(eq=False, slots=True)
class Call:
    """One call of the pool.

    Attributes:
        number: Tells its results from those of other calls.
        done: Results that have not been fetched, with the numbers of their chunks.
        error: Why it failed.
    """

    number: int
    done: deque[tuple[int, Any]] = field(default_factory=deque)
    error: StoptError | None = None


@dataclass(eq=False, slots=True)
class Task:
    """One chunk of a call.

    Attributes:
        call: The call.
        number: Which of its chunks.
        parts: Job and chunk, packed.
        positions: Which of the call's inputs are in it, as far as is known.
        tried: Lanes whose worker failed on it.
        attempts: How many workers failed on it.
    """

    call: Call
    number: int
    parts: Parts
    positions: Sequence[int] = ()
    tried: set[int] = field(default_factory=set)
    attempts: int = 0

    @property
    def doing(self) -> str:
        """What a worker does with it, for people."""
        places = [int(position) for position in self.positions]
        if not places:
            return f"running chunk {self.number}"
        if len(places) > 1 and places == list(range(places[0], places[0] + len(places))):
            return f"running chunk {self.number}, inputs {places[0]} to {places[-1]}"
        listed = ", ".join(map(str, places[:_NAMED])) + (" …" if len(places) > _NAMED else "")
        return f"running chunk {self.number}, input{'s' * (len(places) > 1)} {listed}"


class Board:
    """Tasks that wait, lanes that are there to take them, and the calls that wait for both."""

    def __init__(self, lanes: int) -> None:
        self._changed = Condition()
        self._waiting: deque[Task] = deque()
        self._starting = lanes
        self._lanes = set(range(lanes))
        self._calls = 0
        self._closed: StoptError | None = None

    def is_closed(self) -> bool:
        """Whether nothing is run any more."""
        return self._closed is not None

    # -- for calls -------------------------------------------------------------------------------------------

    def begin(self) -> Call:
        """Register a call; raises why the pool is closed if it is."""
        with self._changed:
            self._check()
            self._calls += 1
            return Call(self._calls)

    def submit(self, task: Task) -> None:
        """Leave a chunk for the next free lane."""
        with self._changed:
            self._waiting.append(task)
            self._changed.notify_all()

    def fetch(self, call: Call) -> tuple[int, Any]:
        """Wait for the result of any of a call's chunks; raises what the call failed with."""
        with self._changed:
            while not call.done:
                if call.error is not None:
                    raise call.error
                self._check()
                self._changed.wait()
            return call.done.popleft()

    def end(self, call: Call) -> None:
        """Forget a call, whether it is complete or not; what runs for it still is dropped when it comes."""
        with self._changed:
            self._waiting = deque(task for task in self._waiting if task.call is not call)
            call.error = call.error or WorkerError("the call is over")
            call.done.clear()

    def _check(self) -> None:
        if isinstance(self._closed, ArtifactError):  # nothing is wrong with the workers
            raise ArtifactError(self._closed.message, self._closed.hint)
        if self._closed is not None:
            raise WorkerError(f"the pool is closed: {self._closed.message}", "start another one")

    # -- for lanes -------------------------------------------------------------------------------------------

    def take(self, lane: int) -> Task | None:
        """Wait for a chunk that a lane's worker has not failed on; None when the pool is closed."""
        with self._changed:
            while self._closed is None:
                for task in self._waiting:
                    if lane not in task.tried or not self._lanes - task.tried:
                        self._waiting.remove(task)
                        return task
                self._changed.wait()
            return None

    def done(self, task: Task, result: Any) -> None:
        """Hand a result to its call, unless that is over."""
        with self._changed:
            if task.call.error is None:
                task.call.done.append((task.number, result))
                self._changed.notify_all()

    def failed(self, task: Task, lane: int, failure: Failure) -> None:
        """Give a chunk to another worker, or fail its call."""
        with self._changed:
            task.tried.add(lane)
            task.attempts += 1
            if task.call.error is None:
                if failure.final or task.attempts >= ATTEMPTS:
                    task.call.error = failure.error(
                        task.doing, attempts=task.attempts, chunk=task.number, positions=task.positions
                    )
                else:
                    self._waiting.appendleft(task)
            self._changed.notify_all()

    def postpone(self, task: Task) -> None:
        """Put back a chunk that no worker has seen."""
        with self._changed:
            self._waiting.appendleft(task)
            self._changed.notify_all()

    def started(self) -> None:
        """Say that a lane's worker has its model open for the first time."""
        with self._changed:
            self._starting -= 1
            self._changed.notify_all()

    def lost(self, lane: int, failure: Failure) -> None:
        """Do without a lane whose worker cannot be started, and say so in the log; without any, the pool is closed."""
        error = failure.error("opening the model")
        with self._changed:
            self._lanes.discard(lane)
            if self._starting or not self._lanes:
                self._closed = self._closed or error
            elif self._closed is None:
                logger.warning("a worker was lost, and the pool goes on with %d: %s", len(self._lanes), error)
            self._changed.notify_all()

    # -- for the pool ----------------------------------------------------------------------------------------

    def await_start(self) -> None:
        """Wait until every worker has its model open.

        Raises:
            StoptError: If one has not, the error that it had.
        """
        with self._changed:
            while self._starting and self._closed is None:
                self._changed.wait()
            if self._closed is not None:
                raise self._closed

    def close(self) -> None:
        """Let every lane and call know that the pool is closed."""
        with self._changed:
            self._closed = self._closed or WorkerError("it was stopped")
            self._waiting.clear()
            self._changed.notify_all()
