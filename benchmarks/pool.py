"""What do worker processes gain, and what do they cost?

    python benchmarks/pool.py WORK

Many texts, and 32 short ones, in one process and in a pool of workers. A pool's rate beside that of its own single process
says what processes gain or lose where threads do the same; the few texts say what a call costs.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contenders import TORCH, in_pools
from harness import (
    DATA,
    all_started,
    chosen,
    encode_all,
    load_texts,
    parse,
    parser,
    ratios,
    take_turns,
    write,
)

from stopt.benchmarking.child import Child

THEIR_POOL = f"{TORCH}, its default pool"
FEW = 32
REPEATS = 3  # of the few texts, in a turn
USUAL = (TORCH, f"{TORCH},", "stopt onnx", "stopt onnx,", "stopt openvino int8", "stopt openvino int8,")


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--texts", type=Path, default=DATA / "mixed.jsonl.gz")
    made.add_argument("--number", type=int, default=400, help="texts to encode (default 400)")
    made.add_argument("--workers", type=int, default=2, help="workers of a pool (default 2)")
    made.set_defaults(rounds=3)
    options = parse(made, argv)
    texts = load_texts(options.texts, options)[: options.number]
    few = sorted(texts, key=len)[:FEW]
    contenders, skipped = chosen(in_pools(options.work, options.workers), _usual(options))
    with all_started(contenders, options) as children:
        _give(children.values(), texts)
        seconds = take_turns(children, options.rounds, encode_all)
        _give(children.values(), few)
        short = take_turns(children, options.rounds, lambda child: _repeated(child, len(few)))
        memory = {name: _memory(child.pid) for name, child in children.items()}
    rates = {name: [len(texts) / each for each in values] for name, values in seconds.items()}
    relative = ratios(rates, THEIR_POOL)
    rows: dict[str, Any] = {}
    for name, values in seconds.items():
        rows[name] = {
            "texts_per_second": statistics.median(rates[name]),
            "ratio": relative.get(name),
            "few_ms": 1000 * statistics.median(short[name]),
            "memory_mb": memory[name],
            "seconds": values,
            "few_seconds": short[name],
        }
        alone = name.partition(",")[0]
        if alone != name and alone in rows:
            rows[name]["ratio_to_one_process"] = ratios(rates, alone)[name]
            rows[name]["overhead_ms"] = rows[name]["few_ms"] - rows[alone]["few_ms"]
    settings = {"texts": len(texts), "few": len(few), "workers": options.workers, "file": options.texts.name}
    write("pool", options, rows, settings, skipped)


def _usual(options: Any) -> Any:
    if not options.only:
        options.only = list(USUAL)
    return options


def _give(children: Any, inputs: Sequence[str]) -> None:
    for child in children:
        child.ask({"do": "inputs", "inputs": list(inputs)})


def _repeated(child: Child, count: int) -> float:
    """Seconds of a call with the few texts: median of several."""
    answer = child.ask({"do": "calls", "calls": [list(range(count))] * REPEATS})
    return statistics.median(answer["seconds"])


def _memory(pid: int) -> float | None:
    """Proportional set size of a process and all that come from it, in MB; None where the system does not tell."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        parents.setdefault(parent, []).append(int(folder.name))
    found, waiting = 0, [pid]
    while waiting:
        member = waiting.pop()
        waiting += parents.get(member, [])
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        found += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return found / 1000


if __name__ == "__main__":
    main()
