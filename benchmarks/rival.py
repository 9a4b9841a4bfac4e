"""Inputs of the scorecard's kinds given to sentence-transformers 5.7: what happens, in processes with a time limit.

Each case is prepared here and carried out in a process of its own. Points are given by what is seen from outside: 0 for a
canary that was touched, a hang, a process that died, or a result that is wrong without a word; 1 for an exception that
does not say which file is at fault; 2 for one that does, or for the right result.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 60

OPEN = """
from sentence_transformers import SentenceTransformer
model = SentenceTransformer({folder!r}, backend={backend!r}, local_files_only=True)
found = model.encode(["one text", "the fox"])
import numpy as np
print("RESULT", np.isfinite(found).all() and found.any(1).all())
"""
POOL = """
import os, signal, threading, time
from sentence_transformers import SentenceTransformer
if __name__ == "__main__":
    model = SentenceTransformer({folder!r}, local_files_only=True)
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    {before}
    found = model.encode({texts}, pool=pool, chunk_size=20)
    print("RESULT", len(found))
"""
# in the middle of the work: a worker that has not begun is missed by nobody
KILL = """
def strike():
    while pool["input"].qsize() < 100:
        time.sleep(0.001)
    while pool["input"].qsize() > 50:
        time.sleep(0.001)
    os.kill(pool["processes"][0].pid, signal.SIGKILL)
threading.Thread(target=strike, daemon=True).start()
"""
EXPORT = """
from sentence_transformers import SentenceTransformer
SentenceTransformer({folder!r}, backend="onnx", model_kwargs={{"export": True}}).save_pretrained({out!r})
"""


def run_rival(cases: Sequence[str]) -> dict[str, Any]:
    """Run the cases that sentence-transformers has a counterpart of."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="stopt-rival-") as place:
        sys.path.insert(0, str(ROOT / "tests"))
        from tiny import build_tiny

        source = build_tiny(Path(place) / "source", "bert")
        export(source, Path(place) / "exported")
        for case, prepare in PREPARED.items():
            if case not in cases:
                continue
            folder = Path(place) / case
            shutil.copytree(Path(place) / "exported", folder)
            found[case] = prepare(folder)
            found[case]["what"] = found[case]["what"].replace(f"{place}/", "")
            print(f"sentence-transformers {case}: {found[case]}", file=sys.stderr)
    return found


def export(source: Path, out: Path) -> None:
    from stopt.convert.export import export as convert
    from stopt.spec import Backend
    from stopt.steps import ExportOptions

    convert(
        source, ExportOptions((Backend.ONNX, Backend.OPENVINO), output=out, check_texts=["one", "two texts"])
    )


def carried_out(code: str, named: str, canary: Path | None = None, right: str = "") -> dict[str, Any]:
    """Run a case; ``right`` is the result that is as good as an error, if there is one."""
    with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False) as file:
        file.write(code)
    started = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, file.name], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"score": 0, "what": f"hung for {LIMIT_S} s", "seconds": LIMIT_S}
    finally:
        Path(file.name).unlink()
    seconds = round(time.perf_counter() - started, 2)
    last = done.stderr.strip().splitlines()[-1][:160] if done.stderr.strip() else ""
    result = next(
        (line.partition(" ")[2] for line in done.stdout.splitlines() if line.startswith("RESULT")), None
    )
    if canary is not None and canary.exists():
        return {"score": 0, "what": "code from the folder ran", "seconds": seconds}
    if done.returncode < 0:
        return {"score": 0, "what": f"died of signal {-done.returncode}", "seconds": seconds}
    if result is not None:
        fine = bool(right) and result == right
        what = "right result" if fine else f"went on with a wrong result ({result})"
        return {"score": 2 if fine else 0, "what": what, "seconds": seconds}
    return {"score": 2 if named in done.stderr else 1, "what": last, "seconds": seconds}


def opened(folder: Path, backend: str, named: str, **expected: Any) -> dict[str, Any]:
    return carried_out(OPEN.format(folder=str(folder), backend=backend), named, **expected)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def h1(folder: Path) -> dict[str, Any]:
    canary = folder / "canary"
    pickle = b"cposix\nsystem\n(Vtouch " + str(canary).encode() + b"\ntR."
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle)
    return opened(folder, "torch", "pytorch_model.bin", canary=canary)


def h2(folder: Path) -> dict[str, Any]:
    canary = folder / "canary"
    (folder / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass X: pass\n", encoding="utf-8")
    edited(folder / "modules.json", lambda modules: modules[1].update(type="modeling_evil.X"))
    return opened(folder, "torch", "modules.json", canary=canary)


def h13(folder: Path) -> dict[str, Any]:
    (folder / "modules.json").write_text("[" * 200_000, encoding="utf-8")
    return opened(folder, "torch", "modules.json")


def h15(folder: Path) -> dict[str, Any]:
    flipped(folder / "onnx/model.onnx")
    return opened(folder, "onnx", "model.onnx")


def f1(folder: Path) -> dict[str, Any]:
    """Kill an export while it writes, ten times; what is there must be what was there, or all of the new."""
    started, damaged = time.perf_counter(), 0
    before = {path.name: path.read_bytes() for path in (folder / "onnx").iterdir()}
    for number in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", EXPORT.format(folder=str(folder), out=str(folder))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(8 + 0.4 * number)
        process.kill()
        process.wait()
        now = {path.name: path.read_bytes() for path in (folder / "onnx").iterdir()}
        damaged += any(not content for content in now.values()) or set(now) != set(before)
    seconds = round((time.perf_counter() - started) / 10, 2)
    return {
        "score": 0 if damaged else 2,
        "what": f"{damaged} of 10 kills left part of a file",
        "seconds": seconds,
    }


def pool(texts: str, before: str = "pass", right: str = "") -> Callable[[Path], dict[str, Any]]:
    def prepared(folder: Path) -> dict[str, Any]:
        code = POOL.format(folder=str(folder), before=textwrap.indent(before, " " * 4).strip(), texts=texts)
        return carried_out(code, "process", right=right)

    return prepared


def f13(folder: Path) -> dict[str, Any]:
    other = folder.with_name("other")
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import build_tiny

    export(build_tiny(folder.with_name("seed1"), "bert", seed=1), other)
    shutil.copyfile(other / "openvino/openvino_model.bin", folder / "openvino/openvino_model.bin")
    return opened(folder, "openvino", "openvino_model.bin")


def f14(folder: Path) -> dict[str, Any]:
    def enlarged(document: Any) -> None:
        document["model"]["vocab"]["fox"] = 5327

    edited(folder / "tokenizer.json", enlarged)
    return opened(folder, "openvino", "tokenizer")


def f16(folder: Path) -> dict[str, Any]:
    code = OPEN.format(folder=str(folder), backend="onnx").replace('"the fox"', '"ok\\ud800"')
    return carried_out(code, "surrogate")


def f17(folder: Path) -> dict[str, Any]:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.weight"] = np.full_like(weights["embeddings.LayerNorm.weight"], np.nan)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return opened(folder, "torch", "NaN")


def edited(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


MANY = '["text %d" % number for number in range(4000)]'
PREPARED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "H1": h1,
    "H2": h2,
    "H13": h13,
    "H15": h15,
    "F1": f1,
    "F6": pool(MANY, KILL, right="4000"),
    "F7": pool('["a"] * 40 + [3.5] * 40'),
    "F13": f13,
    "F14": f14,
    "F16": f16,
    "F17": f17,
}
