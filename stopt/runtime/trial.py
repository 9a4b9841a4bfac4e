"""Files whose cost cannot be told from their content are opened in a process with limits first, once.

What a check has doubts about (:class:`~stopt.preflight.Verdict`) is rare: a graph with ten thousand nodes, constants that
grow when computed, a regular expression of nobody else's. Ordinary files never start a process. That a file passed is
remembered in stopt's cache, for as long as it is the same file.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import stopt
from stopt.cache import cache_root
from stopt.errors import CorruptModel, ResourceLimitError
from stopt.preflight import Verdict, vet_onnx, vet_openvino

__all__ = ["admit", "admit_graph", "main", "try_file"]

# what the process may use beyond what the file itself has, which it may take four times
MEMORY_BYTES = 3 << 30
MEMORY_PER_BYTE = 4
SECONDS = 10.0  # of a tokenizer; an engine may take three times that, and more for a large file
SECONDS_PER_BYTE = 20e-9

_PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "tokenizer": "tokenizers"}
# where stopt is imported from goes last, and the current folder not at all: it may be a model's
_BOOT = "import sys; sys.path.append({root!r}); from stopt.runtime.trial import main; main()"
_HINT = (
    "do not use this model unless you trust its source; `stopt export` makes a file of the original weights"
)


def admit(verdict: Verdict, kind: str) -> None:
    """Let a file be opened: at once if there is no doubt about it, else after it was tried.

    Args:
        verdict: What its check found.
        kind: What opens it: ``onnx``, ``openvino`` or ``tokenizer``.

    Raises:
        ResourceLimitError: If it took more time or memory than a file of its size needs.
        CorruptModel: If it cannot be opened, or what opens it crashed.
    """
    if not verdict.doubts:
        return
    mark = cache_root() / "tried" / _fingerprint(verdict, kind)
    if mark.is_file():
        return
    try_file(verdict, kind)
    with suppress(OSError):  # without a cache it is tried again next time
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def admit_graph(file: Path) -> Verdict:
    """Check an .onnx or .xml file, and let it be opened as :func:`admit` does; returns what the check found.

    Raises:
        UntrustedModel: If it would have code run, or leaves its folder.
    """
    verdict = vet_openvino(file) if file.suffix == ".xml" else vet_onnx(file)
    admit(verdict, "openvino" if file.suffix == ".xml" else "onnx")
    return verdict


def _fingerprint(verdict: Verdict, kind: str) -> str:
    """What changes when the file does; nobody can set the time of its last change (ctime) back."""
    from importlib.metadata import PackageNotFoundError, version  # 7 ms of a start, for files that are rare

    engine = ""
    with suppress(PackageNotFoundError):  # a build under another name
        engine = version(_PACKAGES[kind])
    parts = [kind, stopt.__version__, engine]
    for name in (verdict.file.name, *verdict.data):
        path = verdict.file.parent / name
        status = path.stat()
        found = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        parts.append(f"{os.path.realpath(path)} {found}")
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def try_file(verdict: Verdict, kind: str) -> None:
    """Open a file, and run it once, in a process of its own with little time and memory; errors as of :func:`admit`."""
    file = verdict.file
    size = sum((file.parent / name).stat().st_size for name in (file.name, *verdict.data))
    seconds = SECONDS if kind == "tokenizer" else 3 * SECONDS + SECONDS_PER_BYTE * size
    request = {"kind": kind, "file": str(file.absolute()), "memory": MEMORY_BYTES + MEMORY_PER_BYTE * size}
    root = str(Path(stopt.__file__).resolve().parent.parent)
    command = [sys.executable, "-P", "-c", _BOOT.format(root=root), json.dumps(request)]
    environment = {name: value for name, value in os.environ.items() if "TOKEN" not in name.upper()}
    why = f"; it was tried because {verdict.doubts[0]}" if verdict.doubts else ""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=seconds,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ResourceLimitError(f"{file} was not opened within {seconds:.0f} s{why}", _HINT) from error
    _judge(file, done, why)


def _judge(file: Path, done: subprocess.CompletedProcess[bytes], why: str) -> None:
    """Say what a process that has ended died of, if it did."""
    with suppress(ValueError):
        answer = json.loads(done.stdout)
        if answer["outcome"] == "done":
            return
        if answer["outcome"] == "memory":
            raise ResourceLimitError(f"{file} needs more memory than a file of its size should{why}", _HINT)
        raise CorruptModel(f"{file} cannot be opened: {answer['message']}", "fetch the file again")
    code = done.returncode
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if code in (-signal.SIGKILL, -signal.SIGXCPU):
        raise ResourceLimitError(f"{file} took more time or memory than it may ({how}){why}", _HINT)
    raise CorruptModel(f"{file} made the process that opened it crash ({how}){why}", _HINT)


# ---- in the process -------------------------------------------------------------------------------------------------


def main() -> None:
    """Open the file that the command line names, and say how it went; see :func:`try_file`."""
    request = json.loads(sys.argv[1])
    answer: dict[str, str] = {"outcome": "done"}
    try:
        _limit(int(request["memory"]))
        _OPENERS[request["kind"]](request["file"])
    except MemoryError:
        answer = {"outcome": "memory"}
    except (
        BaseException
    ) as error:  # engines raise what they like, and the tokenizer's panics are no Exceptions
        # OpenVINO says where in its source it was before what it found
        message = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")
        outcome = "memory" if "alloc" in str(error) or "emory" in str(error) else "error"
        answer = {"outcome": outcome, "message": message[:500]}
    os.write(1, json.dumps(answer).encode())
    os._exit(0)  # no thread of an engine is waited for


def _limit(memory: int) -> None:
    """Bound this process, where the system can: address space, no core dump, no files."""
    try:
        import resource
    except ImportError:  # Windows: the parent's clock alone
        return
    for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        with suppress(ValueError, OSError):  # macOS does not bound the address space
            resource.setrlimit(kind, (most, most))


def _open_onnx(file: str) -> None:
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    session.run(None, {node.name: np.ones((1, 8), np.int64) for node in session.get_inputs()})


def _open_openvino(file: str) -> None:
    import numpy as np
    import openvino as ov

    compiled = ov.Core().compile_model(file, "CPU", {"INFERENCE_NUM_THREADS": 1})
    compiled([np.ones((1, 8), np.int64) for _ in compiled.inputs])


def _open_tokenizer(file: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for text in _samples():
        tokenizer.encode(text)


def _samples() -> list[str]:
    """Texts that patterns are slow on: long runs of each kind of character that end in another."""
    runs = ["a", "A", "1", " ", "\n", ".", "_", "é", "的", "'", "aA", "a1", "a ", "a.", ". ", " \n", "a'"]
    return [ending for run in runs for ending in (run * 5_000 + "!", run * 5_000 + "b", run * 5_000)]


_OPENERS: Mapping[str, Callable[[str], None]] = {
    "onnx": _open_onnx,
    "openvino": _open_openvino,
    "tokenizer": _open_tokenizer,
}
