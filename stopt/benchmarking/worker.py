"""The child's side: load, answer with the first embedding, then do as the lines on stdin say.

A line is a JSON object with ``do``, answered by one line. Imports the standard library only, until the model is loaded.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import IO, Any

__all__ = ["Encode", "main", "memory", "open_file", "serve"]

Encode = Callable[[Sequence[Any]], Any]
FIRST_TEXT = "The first text that a fresh process turns into an embedding."
FIRST_PAIR = ("The first query", "and the first passage that a fresh process scores.")


def main() -> None:
    """Serve the file that the only argument describes, see :func:`open_file`."""
    request = json.loads(sys.argv[1])
    serve(lambda: open_file(request), [FIRST_PAIR if request["method"] == "predict" else FIRST_TEXT])


def open_file(request: dict[str, Any]) -> tuple[Encode, dict[str, Any]]:
    """Open a model with stopt.

    Args:
        request: Name of the public ``class`` and of its ``method``; keywords of either, ``init`` and ``call``.

    Returns:
        Texts to embeddings, or pairs to scores; and what is served: file, device, precision.
    """
    import stopt

    model = getattr(stopt, request["class"])(**request["init"])
    method, keywords = getattr(model, request["method"]), request["call"]
    session = model.pipeline.session
    about = {"file": str(session.file), "device": session.device, "precision": session.precision}
    return lambda inputs: method(list(inputs), **keywords), about


def serve(load: Callable[[], tuple[Encode, dict[str, Any]]], first: Sequence[Any]) -> None:
    """Load a model and answer requests until stdin ends.

    What is said on stdout by anyone else goes to stderr. A :class:`~stopt.errors.StoptError` is an answer; anything else
    ends the process.

    Args:
        load: Gives the function that is measured, and what the parent is told about it.
        first: Its first inputs, of which the start is reported.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from stopt.errors import StoptError

    try:
        encode, about = load()
        encode(first)
        _answer(channel, {"ready": about, "memory": memory()})
        work = _Work(encode)
        for line in sys.stdin:
            request = json.loads(line)
            _answer(channel, work.do(request))
    except StoptError as error:
        _answer(channel, {"error": {"type": type(error).__name__, **vars(error)}})


class _Work:
    """What a child can be asked to do; the inputs are sent once."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._inputs: list[Any] = []

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "inputs":
                # JSON has no tuples: a pair of texts comes as a list
                self._inputs = [tuple(each) if isinstance(each, list) else each for each in request["inputs"]]
                return {}
            case "all":
                return self._all(request["seconds"])
            case "calls":
                calls = ([self._inputs[row] for row in rows] for rows in request["calls"])
                return {"seconds": [self._time(inputs) for inputs in calls]}
            case "save":
                return self._save(Path(request["file"]))
            case "memory":
                return memory()
        raise ValueError(f"unknown request {request['do']!r}")

    def _all(self, budget: float) -> dict[str, Any]:
        """Encode all inputs, again and again until the time is up; once at least."""
        seconds = [self._time(self._inputs)]
        while sum(seconds) < budget:
            seconds.append(self._time(self._inputs))
        return {"seconds": seconds}

    def _time(self, inputs: Sequence[Any]) -> float:
        started = perf_counter()
        self._encode(inputs)
        return perf_counter() - started

    def _save(self, file: Path) -> dict[str, Any]:
        import numpy as np

        made = self._encode(self._inputs)
        for name in ("to_dense", "toarray", "cpu"):  # torch's sparse tensors, SciPy's matrices; from a GPU
            if hasattr(made, name):
                made = getattr(made, name)()
        np.save(file, np.asarray(made, np.float32))
        return {}


def memory() -> dict[str, int]:
    """Resident memory of this process in bytes: ``now`` where the system tells, and ``peak``."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        pairs = (line.partition(":") for line in text.splitlines() if line.startswith("Vm"))
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in pairs}
        return {"now": 1024 * kilobytes["VmRSS"], "peak": 1024 * kilobytes["VmHWM"]}
    except (OSError, KeyError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return {"peak": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def _answer(channel: IO[str], answer: dict[str, Any]) -> None:
    channel.write(json.dumps(answer) + "\n")
    channel.flush()
