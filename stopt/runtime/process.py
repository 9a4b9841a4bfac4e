"""A worker process as its pool sees it: the pipe to it, whether there is life in it, and how it ended.

A worker that dies closes its end of the pipe. One that hangs does not: its process was stopped, or its engine waits for a
thread that will never come. It is told from one that is slow by the processor time that it uses, which is none. Nothing has
to be sent for that, and a machine with too much to do makes no false alarm: what waits for a processor is ready to run.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from multiprocessing import spawn
from pathlib import Path
from signal import Signals
from typing import Any, cast

from stopt.runtime.frames import Parts, Tag, read, write
from stopt.runtime.worker import UNREPORTED

__all__ = ["GRACE_S", "HANG_S", "Died", "WorkerProcess"]

LOOK_S = 0.5  # between two looks at a silent worker
GRACE_S = 4  # for a worker to end by itself
HANG_S = 60.0  # without a sign of life, of a worker that has something to do

# libraries that would each take all cores
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")

_READY = {"R", "D"}  # states of threads that wait for a processor or a disk: proc_pid_stat(5)


class Died(Exception):
    """The worker is gone."""


class WorkerProcess:
    """A worker process and the pipe to it.

    Args:
        threads: Threads of the CPU that it may use.

    Attributes:
        pid: Its process id.
        hung: Whether it was killed since there was no life in it.
    """

    def __init__(self, threads: int) -> None:
        path = [each for each in sys.path if isinstance(each, str)]
        program = (
            # Ctrl-C is for the pool, which then stops its workers; imports must not be interrupted either
            "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
            f"sys.path[:] = {path!r}; from stopt.runtime.worker import main; main({os.getpid()})"
        )
        self._process = subprocess.Popen(
            [*_interpreter(), "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))},
        )
        self._requests = cast(FileIO, self._process.stdin)  # unbuffered
        self._results = cast(FileIO, self._process.stdout)
        if _CAN_WAIT:  # a worker that hangs reads nothing, and must not hold up who writes to it
            os.set_blocking(self._requests.fileno(), False)
        self._ends_by: float | None = None
        self._hang_s: float | None = None
        self.pid = self._process.pid
        self.hung = False

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ask(self, tag: Tag, parts: Parts, hang_s: float | None = None) -> Parts:
        """Send a message and wait for the answer.

        Args:
            tag: The message's tag.
            parts: The message.
            hang_s: Seconds without a sign of life after which it is killed; None is never.

        Raises:
            Died: If the worker ends before it has given an answer.
        """
        self._hang_s = hang_s
        try:
            write(_Watched(self._requests, self), tag, parts)
            answered, found = read(_Watched(self._results, self))
        except (OSError, EOFError, ValueError) as error:  # ValueError: closed meanwhile
            raise Died from error
        if answered != tag:
            raise Died
        return found

    def watch(self, waiting: Any) -> None:
        """Wait until there is something to read or room to write, or the other end is closed.

        Args:
            waiting: A poll object.

        Raises:
            EOFError: If the process has ended, or is made to.
        """
        vitals = _Vitals(self.pid)
        while not waiting.poll(LOOK_S * 1000):
            if not self.alive:  # something else may hold its pipe open
                if not waiting.poll(0):
                    raise EOFError
                return
            overdue = self._ends_by is not None and time.monotonic() > self._ends_by
            self.hung = self._hang_s is not None and vitals.silent_s() >= self._hang_s
            if overdue or self.hung:
                self._process.kill()
                raise EOFError

    def terminate(self) -> None:
        """Ask it to end now; who waits for its answer sees to it that it does."""
        self._ends_by = time.monotonic() + GRACE_S
        with suppress(OSError):
            self._process.terminate()

    def end(self) -> str:
        """Have it ended, however it takes it, and its pipe closed.

        Returns:
            How it ended, for people.
        """
        for pipe in (self._requests, self._results):
            with suppress(OSError):
                pipe.close()
        try:
            code = self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if self.hung:
            return f"gave no sign of life for {self._hang_s:g} s and was killed"
        return _fate(code)


_CAN_WAIT = hasattr(select, "poll")


class _Watched:
    """An end of a worker's pipe that is read and written without waiting for ever."""

    def __init__(self, file: FileIO, worker: WorkerProcess) -> None:
        self._file, self._worker = file, worker

    def readinto(self, buffer: memoryview, /) -> int | None:
        self._wait("POLLIN")
        return self._file.readinto(buffer)

    def write(self, data: memoryview, /) -> int | None:
        self._wait("POLLOUT")
        return self._file.write(data)

    def _wait(self, event: str) -> None:
        if _CAN_WAIT:
            waiting = select.poll()
            waiting.register(self._file.fileno(), getattr(select, event))
            self._worker.watch(waiting)


class _Vitals:
    """How long a process has shown no sign of life.

    Looks are counted rather than the clock read, which goes on while everything is suspended.
    """

    def __init__(self, pid: int) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self._used: object = None
        self._looks = 0

    def silent_s(self) -> float:
        """Look; seconds for which no thread of it has run or been ready to."""
        used, ready = self._look()
        silent = bool(used) and used == self._used and not ready
        self._looks = self._looks + 1 if silent else 0
        self._used = used
        return self._looks * LOOK_S

    def _look(self) -> tuple[dict[str, tuple[str, str]], bool]:
        """Processor time of each thread, and whether one is ready; of no thread where the system does not tell."""
        used, ready = {}, False
        with suppress(OSError):
            for task in self._tasks.iterdir():
                fields = (
                    (task / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                )
                ready = ready or fields[0] in _READY
                used[task.name] = fields[11], fields[12]
        return used, ready


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
