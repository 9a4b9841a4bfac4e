"""A model and jobs for pools that fail in every way; no engine is needed to die."""

import os
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stopt.errors import InputError, OptionError


@dataclass(frozen=True)
class Stub:
    """Opens nothing; ``trouble`` says what happens instead, once where ``once`` is a file that is not there yet.

    "raise unless" is an error as soon as that file is there.
    """

    trouble: str = ""
    once: str = ""

    def open(self, device, threads):
        if self.trouble == "raise unless":
            if Path(self.once).exists():
                fail("raise", "at start")
        elif self.trouble and first(self.once):
            fail(self.trouble, "at start")
        return device, threads


@dataclass(frozen=True)
class Chunk:
    """Numbers, and where they stand in the call."""

    values: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Triple:
    """Three times each value, with the worker's process id; the chunk with ``bad`` in it makes trouble instead."""

    bad: int | None = None
    trouble: str = ""
    once: str = ""
    sleep_s: float = 0.0

    def __call__(self, model, chunk):
        time.sleep(self.sleep_s)
        if (self.bad is None or self.bad in chunk.values) and self.trouble and first(self.once):
            return fail(self.trouble, f"with {list(chunk.values)}")
        return [3 * value for value in chunk.values], os.getpid(), model


def first(path):
    """Whether this is the first process that asks; always, without a path."""
    if not path:
        return True
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class CannotBePickledError(Exception):
    def __reduce__(self):
        raise TypeError("no pickle of this error")


class HasNoTextError(Exception):
    def __str__(self):
        raise RuntimeError("not even a text")


class Panic(BaseException):
    """What errors of native code are."""


class FailsToUnpickle:
    def __reduce__(self):
        return explode, ()


def explode():
    raise ValueError("cannot be read back")


def fail(trouble, where):
    match trouble:
        case "raise":
            raise ValueError(f"boom {where}")
        case "raise unpicklable":
            raise CannotBePickledError(f"boom {where}")
        case "raise without text":
            raise HasNoTextError
        case "panic":
            raise Panic(f"boom {where}")
        case "exit":
            sys.exit(3)
        case "option":
            raise OptionError(f"bad option {where}", "another one")
        case "input":
            raise InputError(f"bad input {where}", "decode it", index=7)
        case "os._exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "return unpicklable":
            return lambda: None
        case "return what cannot be read":
            return FailsToUnpickle()
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "deadlock":
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        case "busy":
            until = time.monotonic() + 1.8
            while time.monotonic() < until:
                pass
        case "memory":
            resource.setrlimit(resource.RLIMIT_AS, (2**29, resource.RLIM_INFINITY))
            return bytearray(2**31)
        case "print":
            print("hello from a worker", flush=True)
            os.write(1, b"and from its native code\n")
    return None


def hungry(pipeline, texts, options, positions):
    """Lengths of texts; memory runs out over more than two of them at a time, and over one of more than 1,000 characters."""
    assert positions is None or len(positions) == len(texts)
    size = min(options.batch_size or len(texts), len(texts))
    if size > 2:
        raise RuntimeError("std::bad_alloc")
    if max(map(len, texts)) > 1000:
        raise MemoryError
    return np.array([[len(text)] for text in texts])
