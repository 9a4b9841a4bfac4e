"""The parent's side of one process that is measured: questions and answers, one JSON object a line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

import stopt
from stopt import errors
from stopt.errors import ArtifactError, StoptError

__all__ = ["Child", "command"]

# where stopt is imported from goes last, and the current folder not at all: it may be a model's
_BOOT = "import sys; sys.path.append({root!r}); from stopt.benchmarking.worker import main; main()"
LAST_LINES = 3  # of stderr, to say what a process died of
PATIENCE_S = 10.0  # for a process to end once its stdin has


def command(request: Mapping[str, Any]) -> list[str]:
    """Return the command line of a process that serves a file with stopt; see :func:`stopt.benchmarking.worker.open_file`."""
    root = str(Path(stopt.__file__).resolve().parent.parent)
    return [sys.executable, "-P", "-c", _BOOT.format(root=root), json.dumps(request)]


class Child:
    """One process under measurement; a context manager that ends it.

    Args:
        name: What it serves, for messages.
        arguments: Its command line.

    Attributes:
        start_s: Seconds from starting the process to its first embedding.
        about: What it says it serves.
        memory: Its memory at that moment, in bytes.

    Raises:
        StoptError: What the process raised; :class:`ArtifactError` if it died.
    """

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process; a pipe nobody reads would fill up
        started = perf_counter()
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr
        )
        try:
            ready = self._read()
        except BaseException:
            self.close()
            raise
        self.start_s = perf_counter() - started
        self.about: Mapping[str, Any] = ready["ready"]
        self.memory: Mapping[str, int] = ready["memory"]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for something and wait for the answer; errors as when starting."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it is gone; reading says why
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _rebuilt(answer["error"], self.name)
        return answer

    def _death(self) -> StoptError:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
        if code < 0:
            how, hint = f"was killed by {signal.Signals(-code).name}", "is there enough memory for it?"
        else:
            how, hint = f"ended with exit code {code}", "leave it out: name only the others"
        said = f": {' / '.join(line.strip() for line in lines)}" if lines else ""
        return ArtifactError(f"the process that measured {self.name} {how}{said}", hint)

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what it had not read yet
                    pipe.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # it may be in the middle of something long
            self._process.kill()
        self.close()


def _rebuilt(values: Mapping[str, Any], name: str) -> StoptError:
    """The error that a process met, as the type that it was."""
    kind = getattr(errors, str(values["type"]), StoptError)
    error: StoptError = kind.__new__(kind)
    message = str(values["message"])
    StoptError.__init__(error, message if name in message else f"{name}: {message}", str(values["hint"]))
    for key, value in values.items():
        if key not in ("type", "message", "hint"):
            setattr(error, key, value)
    return error
