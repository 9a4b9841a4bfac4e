"""Commands run as users run them, in processes of their own, and what they leave behind."""

import ctypes
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Done", "children_of", "content", "finish", "residue", "run", "start", "stopped"]

LIMIT_S = 120  # a hang, not a slow machine


@dataclass(frozen=True)
class Done:
    """How a command ended.

    Attributes:
        code: Exit code as a shell has it: 130 for a process that ended by SIGINT, and so on.
        stdout: What it printed.
        stderr: What it said.
        seconds: How long it took to end.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float = 0.0

    def assert_plain_error(self, *words: str) -> None:
        """See that it failed as errors do that users can meet."""
        assert self.code == 1, self
        assert "Error: " in self.stderr, self
        assert "Hint: " in self.stderr, self
        assert "Traceback" not in self.stderr, self
        assert not words or any(word in self.stderr for word in words), self


def start(
    command: Sequence[str | Path],
    before: Callable[[], None] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[str]:
    """Start a command of stopt in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "stopt", *map(str, command)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=before,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for a command and return what it printed and said; one that hangs is killed."""
    try:
        return process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


def run(command: Sequence[str | Path], before: Callable[[], None] | None = None) -> Done:
    """Run a command of stopt to its end."""
    process = start(command, before)
    stdout, stderr = finish(process)
    return Done(process.returncode, stdout, stderr)


def stopped(
    command: Sequence[str | Path], number: int, *, after: str = "", delay_s: float = 0.0, times: int = 1
) -> Done:
    """Send a signal to a command, once it has said something on stderr and some time after that.

    Returns:
        How it ended; ``seconds`` is what that took from the first signal.
    """
    process = start(command)
    assert process.stderr is not None
    said = []
    while after and (line := process.stderr.readline()):
        said.append(line)
        if after in line:
            break
    time.sleep(delay_s)
    sent = time.monotonic()
    for _ in range(times):
        if process.poll() is None:
            process.send_signal(number)
            time.sleep(0.2 if times > 1 else 0)
    stdout, stderr = finish(process)
    seconds = time.monotonic() - sent
    assert not children_of(process.pid), "a child lives on"
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    return Done(code, stdout, "".join(said) + stderr, seconds)


def children_of(group: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = path.read_text(encoding="utf-8").rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def content(folder: Path) -> dict[str, str]:
    """sha256 of each file of a folder, without what is hidden."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
        if not any(part.startswith(".") for part in name.split("/"))
    }


def residue(folder: Path) -> list[str]:
    """What is hidden in a folder: left behind."""
    return [path.name for path in folder.rglob(".*")]


def without_overriding() -> None:
    """Be held to permissions, where the tests run as root: do without the capabilities that override them."""
    if os.getuid() == 0:
        prctl, drop_from_bounding_set = ctypes.CDLL(None).prctl, 24
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            prctl(drop_from_bounding_set, capability, 0, 0, 0)
