"""The parent's side of ``bench``: whose turn it is, and what the figures come to."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt import hub
from stopt.artifact import Manifest
from stopt.benchmarking.child import Child, command
from stopt.benchmarking.contenders import TORCH, BenchOptions, Contender, choose
from stopt.benchmarking.report import BenchReport, BenchRow, difference, percentile
from stopt.errors import InputError
from stopt.parity.samples import samples_for
from stopt.reading import read_spec
from stopt.runtime.devices import describe_machine
from stopt.runtime.tokenizer import Text, TextTokenizer
from stopt.spec import ModelKind

__all__ = ["BenchOptions", "bench"]

Say = Callable[[str], None]

ENOUGH_TEXTS = 256  # few texts are gone through several times in a call, so that batches are full
SINGLE_TEXTS = 32  # encoded one by one in each round
COMPARED_TEXTS = 1000
COLD_STARTS = 3  # fresh processes per file, at most; they differ little
_PACKAGES = ("stopt", "numpy", "tokenizers", "onnxruntime", "openvino", "torch", "transformers")


def bench(model: str | Path, options: BenchOptions | None = None, say: Say = lambda _: None) -> BenchReport:
    """Measure the converted files of a model side by side.

    Args:
        model: A model folder, or a Hub id of a repository with converted files.
        options: What, and for how long.
        say: Is told in words what is being done.

    Raises:
        ArtifactError: If there is no file to measure, or a process dies.
        InputError: If there is no text.
        MissingExtra: If a file was named whose engine is not installed.
    """
    chosen = options or BenchOptions()
    source = hub.fetch(model, [*hub.WEIGHTS, *hub.CONVERTED])
    root = source.folder
    spec = read_spec(root)
    if chosen.texts is not None and not chosen.texts:
        raise InputError("there is no text to measure with", "give one at least")
    texts = samples_for(spec.kind, chosen.texts)
    lengths = [len(tokens) for tokens in TextTokenizer(root, spec.tokenizer).tokenize(texts)]
    contenders, notes = choose(root, spec, chosen)
    requests = {each.name: each.request(root, spec.kind, chosen) for each in contenders}
    with ExitStack() as stack:
        starts = _starts(requests, chosen.rounds, stack, say)
        children = {name: started[-1] for name, started in starts.items()}
        samples = _take_turns(children, texts, chosen, say)
        peaks = {name: child.ask({"do": "memory"})["peak"] for name, child in children.items()}
        apart = _apart(children, texts, spec.kind)
        manifest = Manifest.read(root)
        rows = [
            _row(each, starts[each.name], samples[each.name], peaks[each.name], lengths, manifest)
            for each in contenders
        ]
    base = next((row.texts_per_second for row in rows if row.file == TORCH), None)
    if base is not None:
        rows = [replace(row, speedup=row.texts_per_second / base, **apart[row.file]) for row in rows]
    settings = {
        name: getattr(chosen, name)
        for name in ("batch_size", "max_batch_tokens", "threads", "rounds", "seconds")
    }
    machine = describe_machine()
    return BenchReport(
        model=str(model),
        rows=sorted(rows, key=lambda row: -row.texts_per_second),
        notes=notes,
        texts=len(texts),
        tokens=sum(lengths),
        settings=settings,
        machine={**asdict(machine), "threads": machine.threads},
        versions=_versions(),
    )


# ---- measuring ------------------------------------------------------------------------------------------------------


def _starts(
    requests: Mapping[str, Mapping[str, Any]], rounds: int, stack: ExitStack, say: Say
) -> dict[str, list[Child]]:
    """Start each file's process a few times, in turns; the last one of each goes on to the rounds."""
    starts: dict[str, list[Child]] = {name: [] for name in requests}
    rounds = min(rounds, COLD_STARTS)
    for number in range(1, rounds + 1):
        for name, request in requests.items():
            say(f"starting {name} ({number}/{rounds})")
            child = Child(name, command(request))
            starts[name].append(child)
            if number < rounds:
                child.close()
            else:
                stack.enter_context(child)
    return starts


def _take_turns(
    children: Mapping[str, Child], texts: Sequence[Text], options: BenchOptions, say: Say
) -> dict[str, dict[str, list[float]]]:
    """Seconds of every pass over all texts, per text, and of every text alone, by file."""
    times = -(-ENOUGH_TEXTS // len(texts))
    inputs = [*texts] * times
    step = max(1, len(texts) // SINGLE_TEXTS)
    singles = [[row] for row in range(0, len(texts), step)][:SINGLE_TEXTS]
    samples: dict[str, dict[str, list[float]]] = {name: {"pass": [], "single": []} for name in children}
    for name, child in children.items():
        say(f"warming up {name}")
        child.ask({"do": "inputs", "inputs": inputs})
        child.ask({"do": "all", "seconds": 0})
        child.ask({"do": "calls", "calls": singles})
    for number in range(1, options.rounds + 1):
        say(f"round {number} of {options.rounds}")
        for name, child in children.items():
            seconds = child.ask({"do": "all", "seconds": options.seconds})["seconds"]
            samples[name]["pass"].append(statistics.fmean(seconds) / times)
            samples[name]["single"] += child.ask({"do": "calls", "calls": singles})["seconds"]
    return samples


def _apart(
    children: Mapping[str, Child], texts: Sequence[Text], kind: ModelKind
) -> dict[str, dict[str, Any]]:
    """How far each file's vectors or scores are from torch's; empty without torch.

    Sparse vectors are as wide as a vocabulary: of many texts some, evenly spread, are compared.
    """
    if TORCH not in children:
        return {}
    texts = texts[:: -(-len(texts) // COMPARED_TEXTS)]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.npy"

        def vectors(child: Child) -> npt.NDArray[np.float32]:
            child.ask({"do": "inputs", "inputs": texts})
            child.ask({"do": "save", "file": str(file)})
            made: npt.NDArray[np.float32] = np.load(file)
            return made

        reference = vectors(children[TORCH])
        for name, child in children.items():
            found[name] = difference(vectors(child), reference, scores=kind is ModelKind.CROSS_ENCODER)
    return found


# ---- what it comes to -----------------------------------------------------------------------------------------------


def _row(
    contender: Contender,
    starts: Sequence[Child],
    samples: Mapping[str, Sequence[float]],
    peak: int,
    lengths: Sequence[int],
    manifest: Manifest | None,
) -> BenchRow:
    seconds = statistics.median(samples["pass"])
    recorded = manifest.files.get(contender.model_kwargs.get("file_name", "")) if manifest else None
    int8 = "int8" in (recorded.precision if recorded else contender.name)
    memories = [child.memory["now"] for child in starts if "now" in child.memory]
    return BenchRow(
        file=contender.name,
        precision="int8" if int8 else str(starts[-1].about["precision"]),
        device=str(starts[-1].about["device"]),
        size_bytes=contender.size_bytes,
        texts_per_second=len(lengths) / seconds,
        tokens_per_second=sum(lengths) / seconds,
        speedup=None,
        latency_p50_ms=1000 * percentile(samples["single"], 50),
        latency_p95_ms=1000 * percentile(samples["single"], 95),
        start_s=statistics.median(child.start_s for child in starts),
        start_memory_bytes=int(statistics.median(memories)) if memories else None,
        peak_memory_bytes=peak,
        min_cosine=None,
        mean_cosine=None,
        same_order=None,
        samples={**samples, "start": [child.start_s for child in starts]},
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
