"""A process that opens model folders and writes down what it did to do so: imports, files, processes, connections.

One process serves many folders, one after the other, so that a case costs milliseconds; if it dies, the cases that it had
not answered have no report.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
WATCHED = ("import", "open", "os.exec", "os.posix_spawn", "os.system", "socket.connect", "subprocess.Popen")


@dataclass(frozen=True)
class Report:
    """How one folder was opened.

    Attributes:
        error: Name of the exception's class; None if there was none.
        message: Its message, hint included.
        hint: Its hint.
        code: The exit code that goes with it; None if it is not one of stopt's.
        seconds: How long it took.
        rss: Peak memory of the process so far, in bytes.
        events: What happened meanwhile: kind and subject.
        value: What the action returned.
    """

    error: str | None
    message: str
    hint: str
    code: int | None
    seconds: float
    rss: int
    events: list[tuple[str, str]] = field(default_factory=list)
    value: Any = None

    def opened(self) -> set[str]:
        """Real paths of files that were opened through Python."""
        return {os.path.realpath(subject) for kind, subject in self.events if kind == "open"}

    def of(self, *kinds: str) -> list[str]:
        return [subject for kind, subject in self.events if kind in kinds]


def watch(
    actions: Sequence[tuple[str, Any]], warm: Path | None = None, seconds: float = 120, **environment: str
) -> list[Report]:
    """Carry out actions in one watched process.

    Args:
        actions: Names of functions of this module that begin with ``do_``, each with its argument.
        warm: A harmless folder that is opened with each kind of action first, unwatched, so that libraries are loaded.
        seconds: After which the process is killed.
        environment: Variables for the process.
    """
    request = json.dumps({"actions": list(actions), "warm": str(warm) if warm else None})
    done = subprocess.run(
        [sys.executable, __file__],
        input=request,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        cwd=os.path.realpath(os.sep),
    )
    lines = [
        json.loads(line.removeprefix("REPORT "))
        for line in done.stdout.split("\n")
        if line.startswith("REPORT ")
    ]
    reports = [Report(**{**line, "events": [tuple(each) for each in line["events"]]}) for line in lines]
    assert len(reports) == len(actions), (
        f"the process died of {done.returncode} at {actions[len(reports)]}: {done.stderr[-2000:]}"
    )
    return reports


# ---- in the process -------------------------------------------------------------------------------------------------


def do_onnx(folder: str) -> Any:
    from stopt import SentenceTransformer

    return SentenceTransformer(folder, backend="onnx").encode("the quick fox").tolist()


def do_openvino(folder: str) -> Any:
    from stopt import SentenceTransformer

    return SentenceTransformer(folder, backend="openvino").encode("the quick fox").tolist()


def do_torch(folder: str) -> Any:
    from stopt import SentenceTransformer

    return SentenceTransformer(folder, backend="torch").encode("the quick fox").tolist()


def do_any(folder: str) -> Any:
    from stopt import SentenceTransformer

    return SentenceTransformer(folder, model_kwargs={"export": False}).encode("the quick fox").tolist()


def do_read(folder: str) -> Any:
    from stopt.reading import read_spec

    return read_spec(folder).kind.value


def do_inspect(folder: str) -> Any:
    from click.testing import CliRunner

    from stopt.cli.main import cli

    result = CliRunner().invoke(cli, ["inspect", folder, "--format", "json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return {"exit_code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr}


def do_cross_encoder(folder: str) -> Any:
    from stopt import CrossEncoder

    return CrossEncoder(folder, backend="onnx").predict([("a", "b")]).tolist()


def do_changed(argument: list[str]) -> Any:
    """Open a folder with one file replaced: folder, file, new content in Latin-1; then put the old one back."""
    folder, name, content = argument
    file = Path(folder, name)
    old = file.read_bytes() if file.is_file() else None
    if content.startswith("size "):
        with file.open("wb") as sparse:
            sparse.truncate(int(content[5:]))
    elif content.startswith("lists "):
        file.write_bytes(b"[" + b"[]," * int(content[6:]) + b"0]")
    else:
        file.write_bytes(content.encode("latin-1"))
    try:
        return do_onnx(folder)
    finally:
        file.unlink() if old is None else file.write_bytes(old)


def do_long_word(folder: str) -> Any:
    """A word of 20 MB, then an ordinary text."""
    from stopt import SentenceTransformer

    model = SentenceTransformer(folder, backend="onnx")
    return [model.encode("x" * 20_000_000).tolist(), model.encode("the quick fox").tolist()]


def do_table(folder: str) -> Any:
    from stopt import SentenceTransformer

    return SentenceTransformer(folder).encode("the quick fox " * 200_000).tolist()


def peak_memory() -> int:
    """Peak memory of this process in bytes; what the one that started it had does not count, as it would in getrusage."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    request = json.loads(sys.stdin.read())
    for name in dict.fromkeys(name for name, _ in request["actions"]):
        if request["warm"]:
            globals()["do_onnx" if name == "changed" else f"do_{name}"](request["warm"])
    events: list[tuple[str, str]] = []
    watching = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and (event in WATCHED or event.startswith("ctypes.dlopen")):
            subject = arguments[1] if event == "socket.connect" else arguments[0] if arguments else ""
            events.append((event, str(subject)))

    sys.addaudithook(hook)
    for name, argument in request["actions"]:
        error, value = None, None
        events.clear()
        started = time.perf_counter()
        watching = True
        try:
            value = globals()[f"do_{name}"](argument)
        except BaseException as caught:
            error = caught
        watching = False
        report = {
            "error": type(error).__name__ if error is not None else None,
            "message": str(error or ""),
            "hint": getattr(error, "hint", ""),
            "code": getattr(error, "exit_code", None),
            "seconds": time.perf_counter() - started,
            "rss": peak_memory(),
            "events": events[:5000],
            "value": value,
        }
        sys.stdout.write("REPORT " + json.dumps(report) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
