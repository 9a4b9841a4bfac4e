"""A worker process: opens a model, then runs chunk after chunk until its pool is gone.

It is started as a program of its own, so neither the caller's ``__main__`` is imported nor is anything forked. Results leave
through what was standard output, which is kept from everyone else; prints go to standard error.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any

from stopt.runtime.frames import Parts, Report, Tag, pack, read, unpack, write

__all__ = ["OPENING", "UNREPORTED", "main"]

OPENING: Tag = (-1, -1)  # tag of the message that says what to open
UNREPORTED = 70  # exit code of a worker that could not even report its error (EX_SOFTWARE of sysexits.h)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int) -> None:
    """Work until the pool closes the pipe or ends.

    Args:
        parent: Process id of the pool's process.
    """
    requests, results = _private_pipes()
    _end_with(parent)
    inbox: SimpleQueue[tuple[Tag, Parts]] = SimpleQueue()
    # a thread of its own, so that the pool's end is noticed in the middle of a chunk too
    Thread(target=_receive, args=(requests, inbox), daemon=True).start()
    model: Any = None
    while True:
        tag, parts = inbox.get()
        try:
            if tag == OPENING:
                source, device, threads = unpack(parts)
                model = source.open(device, threads)
                answer = pack((True, getattr(model, "files", None)))
            else:
                answer = _run(model, parts)
        except BaseException as error:
            answer = _report(error)
        del parts
        try:
            write(results, tag, answer)
        except OSError:  # the pool is gone
            os._exit(0)
        del answer


def _run(model: Any, parts: Parts) -> Parts:
    job, chunk = unpack(parts)
    return pack((True, job(model, chunk)))


def _report(error: BaseException) -> Parts:
    try:
        return pack((False, Report.of(error)))
    except BaseException:
        os._exit(UNREPORTED)


def _receive(requests: io.FileIO, inbox: SimpleQueue[tuple[Tag, Parts]]) -> None:
    try:
        while True:
            inbox.put(read(requests))
    except EOFError:
        os._exit(0)
    except BaseException:
        os._exit(UNREPORTED)


def _private_pipes() -> tuple[io.FileIO, io.FileIO]:
    """Take standard input and output for the pool; what else reads finds nothing, what else prints goes to stderr."""
    requests, results = io.FileIO(os.dup(0), "rb"), io.FileIO(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, results


def _end_with(parent: int) -> None:
    """Have the system end this process with its parent, even while it is stuck in native code."""
    if sys.platform != "linux":
        return
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that was asked for
        os._exit(0)
