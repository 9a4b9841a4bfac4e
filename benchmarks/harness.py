"""What every benchmark does alike: processes that take turns, quality beside speed, and a file with everything in it."""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from contenders import OURS, TORCH, Contender, choose
from tokenizers import Tokenizer

from stopt.artifact import write_text
from stopt.benchmarking.child import Child
from stopt.benchmarking.report import cosines
from stopt.folder import read_texts
from stopt.runtime.devices import describe_machine

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
DATA = BENCHMARKS / "data"
SCHEMA = 1
SMOKE_TEXTS = 8
PACKAGES = (
    "stopt",
    "sentence-transformers",
    "torch",
    "transformers",
    "onnxruntime",
    "openvino",
    "optimum",
    "optimum-onnx",
    "optimum-intel",
    "ctranslate2",
    "fastembed",
    "tokenizers",
    "numpy",
)


def parser(description: str | None, *, work: str = "dense") -> argparse.ArgumentParser:
    """The options that every script has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("work", type=Path, help=f"folder that prepare.py filled ({work} model)")
    made.add_argument("--rounds", type=int, default=5, help="turns that each contender gets (default 5)")
    made.add_argument("--only", nargs="*", default=[], help="names of contenders, or how they begin")
    made.add_argument("--threads", type=int, help="cores that every contender is held to; default all")
    made.add_argument("--label", default="", help="goes into the result's file name")
    made.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    made.add_argument("--smoke", action="store_true", help="one round of few texts: does it run?")
    return made


def parse(made: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    options = made.parse_args(argv)
    if options.smoke:
        options.rounds = 1
        if options.results == RESULTS:  # not in the place of what was measured
            options.results = Path(tempfile.mkdtemp(prefix="stopt-smoke-"))
    return options


# ---- texts ----------------------------------------------------------------------------------------------------------


def load_texts(file: Path, options: argparse.Namespace) -> list[str]:
    """Texts of a file: text, JSONL, either compressed."""
    if file.suffix == ".gz":
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line in lines if line.strip()]
    else:
        texts = read_texts(file)
    return texts[:SMOKE_TEXTS] if options.smoke else texts


def tokenizer(work: Path) -> Tokenizer:
    """The model's own, without its padding and truncation."""
    found = Tokenizer.from_file(str(work / OURS / "tokenizer.json"))
    found.no_padding()
    found.no_truncation()
    return found


def count_tokens(work: Path, texts: Sequence[str], limit: int) -> list[int]:
    """Tokens of each text, special ones included, cut at the model's limit."""
    return [min(len(each.ids), limit) for each in tokenizer(work).encode_batch(list(texts))]


def text_of_length(work: Path, tokens: int, sources: Sequence[str], start: int = 0) -> str:
    """A text of ``tokens`` tokens, the two special ones included: words from ``sources``, beginning at one of them."""
    tokenize = tokenizer(work)
    words = " ".join([*sources[start:], *sources[:start]]).split()
    while len(words) < tokens:
        words += words
    low, high = 1, tokens
    while low < high:  # as many words as fit, then single letters for what is left
        middle = (low + high + 1) // 2
        fits = len(tokenize.encode(" ".join(words[:middle])).ids) <= tokens
        low, high = (middle, high) if fits else (low, middle - 1)
    chosen = words[:low]
    while len(tokenize.encode(" ".join(chosen)).ids) < tokens:
        chosen.append("a")
    return " ".join(chosen)


# ---- processes ------------------------------------------------------------------------------------------------------


def start(contender: Contender, threads: int | None) -> Child:
    request = {
        "loader": contender.loader,
        "options": contender.options,
        "threads": threads,
        "inputs": contender.inputs,
    }
    file = BENCHMARKS / "loaders.py"
    return Child(contender.name, [sys.executable, "-P", str(file), json.dumps(request)])


@contextmanager
def all_started(
    contenders: Sequence[Contender], options: argparse.Namespace, threads: int | None = None
) -> Iterator[dict[str, Child]]:
    """One process per contender, by name; idle until it is asked."""
    children: dict[str, Child] = {}
    try:
        for each in contenders:
            say(f"starting {each.name}")
            children[each.name] = start(each, threads or options.threads)
        yield children
    finally:
        for child in children.values():
            child.close()


def take_turns(
    children: Mapping[str, Child], rounds: int, turn: Callable[[Child], Any], *, warm_up: bool = True
) -> dict[str, list[Any]]:
    """What each turn of each contender gave, by name; the first turn, where everything is new, does not count."""
    found: dict[str, list[Any]] = {name: [] for name in children}
    for number in range(0 if warm_up else 1, rounds + 1):
        say(f"round {number} of {rounds}" if number else "warming up")
        for name, child in children.items():
            result = turn(child)
            if number:
                found[name].append(result)
    return found


def encode_all(child: Child) -> float:
    """Seconds of encoding the inputs once."""
    seconds: float = child.ask({"do": "all", "seconds": 0})["seconds"][0]
    return seconds


def vectors(child: Child) -> np.ndarray:
    """What the contender makes of its inputs."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.npy"
        child.ask({"do": "save", "file": str(file)})
        found: np.ndarray = np.load(file)
    return found.astype(np.float64)


def quality(children: Mapping[str, Child]) -> dict[str, dict[str, float]]:
    """Cosine of each contender's vectors with those of sentence-transformers in torch; empty without it."""
    if TORCH not in children:
        return {}
    reference = vectors(children[TORCH])
    found = {}
    for name, child in children.items():
        apart = cosines(vectors(child), reference)
        found[name] = {
            "cosine_min": round(float(apart.min()), 6),
            "cosine_mean": round(float(apart.mean()), 6),
        }
    return found


# ---- results --------------------------------------------------------------------------------------------------------


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile of times, in milliseconds, and how many there are."""
    return {
        "p50_ms": 1000 * statistics.median(seconds),
        "p95_ms": 1000 * float(np.percentile(seconds, 95, method="higher")),
        "n": len(seconds),
    }


def ratios(rates: Mapping[str, Sequence[float]], base: str) -> dict[str, float]:
    """Each contender's rate as a multiple of the base's in the same round: median of the rounds."""
    if base not in rates:
        return {}
    return {
        name: statistics.median(a / b for a, b in zip(values, rates[base], strict=True))
        for name, values in rates.items()
    }


def write(
    question: str,
    options: argparse.Namespace,
    rows: Mapping[str, Any],
    settings: Mapping[str, Any],
    skipped: Mapping[str, str],
) -> Path:
    """Write a result: figures with all samples, and what they were measured with and on."""
    machine = describe_machine()
    document = {
        "schema": SCHEMA,
        "question": question,
        "date": time.strftime("%Y-%m-%d"),
        "command": _command(options),
        "commit": _commit(),
        "machine": {
            "processor": machine.processor,
            "architecture": machine.architecture,
            "features": machine.features,
            "threads": machine.threads,
            "memory_bytes": machine.memory_bytes,
            "python": platform.python_version(),
        },
        "versions": versions(),
        "settings": {"rounds": options.rounds, "threads": options.threads, **settings},
        "rows": rows,
        "skipped": skipped,
    }
    options.results.mkdir(parents=True, exist_ok=True)
    name = f"{question}-{options.label}" if options.label else question
    file: Path = options.results / f"{name}.json"
    text = json.dumps(_rounded(document), indent=1)
    # samples on one line
    text = re.sub(r"\[[^\[\]{}\"]+\]", lambda found: " ".join(found.group().split()), text)
    write_text(file, text + "\n")
    say(f"{file}")
    return file


def _command(options: argparse.Namespace) -> str:
    """The script with its options, as it is to be typed elsewhere: no place of this machine."""
    words = [Path(sys.argv[0]).name, "WORK"]
    for name, value in vars(options).items():
        if name == "what":
            words.append(value)
        elif name not in ("work", "results") and value not in (None, "", [], False):
            words.append(f"--{name.replace('_', '-')}")
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [each.name if isinstance(each, Path) else str(each) for each in values]
    return shlex.join(words)


def _rounded(value: Any) -> Any:
    """Six digits say all that was measured."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def chosen(
    contenders: Sequence[Contender], options: argparse.Namespace
) -> tuple[list[Contender], dict[str, str]]:
    """Who takes part; those who cannot are named, with the reason."""
    found, skipped = choose(contenders, options.only)
    for name, why in skipped.items():
        say(f"without {name}: {why}")
    if not found:
        sys.exit("nobody can take part")
    return found, skipped
