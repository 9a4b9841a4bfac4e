"""How much memory does a process take, and does it stay there?

    python benchmarks/memory.py WORK
    python benchmarks/memory.py WORK --only "stopt onnx" "stopt openvino int8" --calls 10000 --label long

Each contender by itself: at its first embedding; at the most while encoding all texts; and over many calls of one to
sixteen texts of all lengths, as a server gets them. The last is where engines that keep a plan for every shape grow.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contenders import dense
from harness import DATA, chosen, load_texts, parse, parser, say, start, write

LOOKS = 20  # at the memory, over the calls


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--texts", type=Path, default=DATA / "mixed.jsonl.gz")
    made.add_argument("--calls", type=int, default=500, help="calls of 1 to 16 texts (default 500)")
    options = parse(made, argv)
    if options.smoke:
        options.calls = LOOKS
    texts = load_texts(options.texts, options)
    contenders, skipped = chosen(dense(options.work), options)
    calls = _calls(len(texts), options.calls)
    step = max(1, -(-len(calls) // LOOKS))
    rows: dict[str, Any] = {}
    for each in contenders:
        say(f"{each.name}: {len(texts)} texts, then {len(calls)} calls")
        with start(each, options.threads) as child:
            child.ask({"do": "inputs", "inputs": texts})
            child.ask({"do": "all", "seconds": 0})
            encoded = child.ask({"do": "memory"})
            looks = []
            for number in range(0, len(calls), step):
                child.ask({"do": "calls", "calls": calls[number : number + step]})
                looks.append(child.ask({"do": "memory"})["now"] / 1e6)
            rows[each.name] = {
                "start_mb": child.memory["now"] / 1e6,
                "texts_peak_mb": encoded["peak"] / 1e6,
                "calls_mb": looks,
                # the first tenth of the calls fills caches, which is not growth
                "growth_mb": looks[-1] - looks[len(looks) // 10],
                "peak_mb": child.ask({"do": "memory"})["peak"] / 1e6,
            }
    write("memory", options, rows, {"texts": len(texts), "calls": len(calls)}, skipped)


def _calls(texts: int, calls: int) -> list[list[int]]:
    """Rows of each call, the same for everyone; half of the calls have one text."""
    generator = random.Random(0)
    sizes = [1 if generator.random() < 0.5 else generator.randint(2, min(16, texts)) for _ in range(calls)]
    return [generator.sample(range(texts), size) for size in sizes]


if __name__ == "__main__":
    main()
