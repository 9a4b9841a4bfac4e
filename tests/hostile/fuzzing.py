"""Seeded mutations of a model's files, opened by stopt in a process that may die of them.

Usage: ``python tests/hostile/fuzzing.py FORMAT FOLDER FIRST COUNT``, of a folder that nobody else uses: its files are
overwritten and put back. For each mutation it prints a line before opening the folder, and one with the outcome after it.
"""

import json
import os
import random
import re
import select
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FORMATS = ("onnx", "xml", "bin", "safetensors", "json")
MEMORY_BYTES = 4 << 30
HANG_S = 30.0

FILES = {
    "onnx": ["onnx/model.onnx"],
    "xml": ["openvino/openvino_model.xml"],
    "bin": ["openvino/openvino_model.bin"],
    "safetensors": ["2_Dense/model.safetensors", "table/model.safetensors"],
    "json": [
        "modules.json",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "1_Pooling/config.json",
    ],
}
BACKENDS = {"onnx": "onnx", "json": "onnx", "safetensors": "onnx", "xml": "openvino", "bin": "openvino"}
NUMBERS = [
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    32767,
    65535,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
_NUMBER = re.compile(rb"-?\d+")


def mutate(data: bytes, seed: int) -> bytes:
    """Change a file in one to four places; the same seed makes the same change."""
    chance = random.Random(seed)
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if not out:
            break
        at = chance.randrange(len(out))
        size = min(len(out) - at, chance.choice([1, 1, 2, 4, 8, 64, 1024]))
        numbers = list(_NUMBER.finditer(out)) if chance.random() < 0.3 else []
        match chance.randrange(9):
            case 0:
                out[at] ^= 1 << chance.randrange(8)
            case 1:
                out[at : at + size] = bytes([chance.choice([0, 0x7F, 0x80, 0xFF])]) * size
            case 2:
                out[at : at + size] = chance.randbytes(size)
            case 3:
                del out[at : at + size]
            case 4:
                out[at:at] = chance.randbytes(size)
            case 5:
                other = chance.randrange(len(out))
                out[at:at] = out[other : other + size]
            case 6:
                other = chance.randrange(len(out))
                out[at : at + size] = out[other : other + size]
            case 7 if chance.random() < 0.2:
                del out[at:]
            case _:
                if numbers:
                    found = chance.choice(numbers)
                    out[found.start() : found.end()] = str(chance.choice(NUMBERS)).encode()
                else:
                    out[at : at + 8] = (chance.choice(NUMBERS) % 2**64).to_bytes(8, "little")
    return bytes(out)


@dataclass
class Outcome:
    """What came of the mutations of a format.

    Attributes:
        counts: How often each outcome came: ``opened``, or an error's class.
        findings: What must not be: seed and what happened.
        slowest: Seconds of the slowest.
        peak: Peak memory in bytes.
    """

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[int, str]] = field(default_factory=list)
    slowest: float = 0.0
    peak: int = 0


def fuzz(kind: str, folder: Path, count: int, first: int = 0) -> Outcome:
    """Open a folder with ``count`` mutations of its files; a process that dies is a finding, and followed by another."""
    outcome = Outcome()
    seed, end = first, first + count
    while seed < end:
        command = [sys.executable, __file__, kind, str(folder), str(seed), str(end - seed)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        try:
            seed = _follow(child, outcome, seed)
        finally:
            child.kill()
            child.wait()
            child.stdout.close()  # type: ignore[union-attr]
    return outcome


def _follow(child: "subprocess.Popen[bytes]", outcome: Outcome, seed: int) -> int:
    """Read what a process says until it ends; returns the seed to go on with."""
    assert child.stdout is not None
    buffer, patience = b"", 120.0  # until its libraries are there it has longer
    while True:
        if not select.select([child.stdout], [], [], patience)[0]:
            outcome.findings.append((seed, f"no answer for {patience:.0f} s"))
            return seed + 1
        patience = HANG_S
        new = os.read(child.stdout.fileno(), 1 << 16)
        if not new:
            code = child.wait()
            assert patience == HANG_S, f"the process could not open the unchanged folder: {code}"
            if code != 0:
                outcome.findings.append((seed, f"the process died: {code}"))
                return seed + 1
            return seed
        *lines, buffer = (buffer + new).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if "begun" in answer:
                seed = answer["begun"]
                continue
            outcome.counts[answer["outcome"]] += 1
            outcome.slowest = max(outcome.slowest, answer["seconds"])
            outcome.peak = max(outcome.peak, answer["peak"])
            if not answer["expected"]:
                outcome.findings.append((seed, answer["outcome"] + ": " + answer["message"]))
            seed += 1


def main() -> None:
    kind, folder, first, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    from watched import peak_memory

    from stopt import SentenceTransformer
    from stopt.errors import StoptError

    def load(place: Path) -> None:
        backend = None if place.name == "table" else BACKENDS[kind]
        SentenceTransformer(place, backend=backend).encode(["the quick fox", "a b"])

    load(folder)  # with the libraries in place, a limit is one on what the files take
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    originals = {name: (folder / name).read_bytes() for name in FILES[kind]}
    for seed in range(first, first + count):
        name = FILES[kind][seed % len(FILES[kind])]
        (folder / name).write_bytes(mutate(originals[name], seed))
        print(json.dumps({"begun": seed}), flush=True)
        started = time.perf_counter()
        outcome, message, expected = "opened", "", True
        try:
            load(folder / "table" if name.startswith("table") else folder)
        except StoptError as error:
            outcome, message, expected = type(error).__name__, str(error), bool(error.hint)
        except BaseException as error:
            outcome, message, expected = type(error).__name__, str(error)[:500], False
        finally:
            (folder / name).write_bytes(originals[name])
        seconds = time.perf_counter() - started
        answer = {"outcome": outcome, "message": message, "expected": expected}
        print(json.dumps({**answer, "seconds": seconds, "peak": peak_memory()}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
