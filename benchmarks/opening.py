"""What it costs to verify the files of a model while it is opened: with and without, in turns."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROUNDS = 9
FILES = {
    "onnx": ("onnx", None),
    "onnx int8": ("onnx", "onnx/model_quint8_avx2.onnx"),
    "openvino": ("openvino", None),
    "openvino int8": ("openvino", "openvino/openvino_model_qint8_quantized.xml"),
}
COLD = """
import sys, time
started = time.perf_counter()
from stopt import SentenceTransformer
model = SentenceTransformer({folder!r}, backend={backend!r}, model_kwargs={kwargs!r}, verify={verify})
model.encode("one text")
print(time.perf_counter() - started)
"""


def measure_opening(folder: Path) -> dict[str, Any]:
    """Seconds that opening takes, verified and not: in this process, and with the first embedding in a new one."""
    from stopt import SentenceTransformer
    from stopt.preflight import survey

    rows: dict[str, Any] = {}
    for name, (backend, file) in FILES.items():
        if file is not None and not (folder / file).is_file():
            continue
        kwargs: Mapping[str, Any] = {"file_name": file} if file else {}

        def opened(verify: bool, backend: str = backend, kwargs: Mapping[str, Any] = kwargs) -> float:
            started = time.perf_counter()
            SentenceTransformer(folder, backend=backend, model_kwargs=kwargs, verify=verify)
            return time.perf_counter() - started

        def cold(verify: bool, backend: str = backend, kwargs: Mapping[str, Any] = kwargs) -> float:
            code = COLD.format(folder=str(folder), backend=backend, kwargs=dict(kwargs), verify=verify)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            return float(done.stdout)

        rows[name] = {"open_s": in_turns(opened, ROUNDS), "cold_s": in_turns(cold, 5)}
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        survey(folder)
        times.append(time.perf_counter() - started)
    return {"rows": rows, "preflight_s": round(statistics.median(times), 4), "rounds": ROUNDS}


def in_turns(work: Callable[[bool], float], rounds: int) -> dict[str, float]:
    """Medians with and without, one after the other in every round, after one that does not count."""
    work(True)
    found = [(work(True), work(False)) for _ in range(rounds)]
    return {
        "verified": round(statistics.median(with_ for with_, _ in found), 4),
        "not": round(statistics.median(without for _, without in found), 4),
    }
