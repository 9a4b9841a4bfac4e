"""How fast does a SPLADE model encode 1,000 documents?

    python benchmarks/sparse.py WORK

WORK is filled by ``prepare.py MODEL --kind sparse WORK``. Each library gives its vectors in its own sparse form. Beside the
speed: the cosine with sentence-transformers' vectors in torch.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from contenders import TORCH, sparse_encoders
from harness import (
    DATA,
    all_started,
    chosen,
    encode_all,
    load_texts,
    parse,
    parser,
    quality,
    ratios,
    take_turns,
    write,
)

DOCUMENTS = 1000
COMPARED = 100  # made dense to be compared, and a vocabulary is wide


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(parser(__doc__, work="sparse"), argv)
    texts = load_texts(DATA / "mixed.jsonl.gz", options) + load_texts(DATA / "short.jsonl.gz", options)
    texts = texts[:DOCUMENTS]
    contenders, skipped = chosen(sparse_encoders(options.work), options)
    with all_started(contenders, options) as children:
        for child in children.values():
            child.ask({"do": "inputs", "inputs": texts})
        seconds = take_turns(children, options.rounds, encode_all)
        memories = {name: child.ask({"do": "memory"}) for name, child in children.items()}
        for child in children.values():
            child.ask({"do": "inputs", "inputs": texts[:COMPARED]})
        apart = quality(children)
    rates = {name: [len(texts) / each for each in values] for name, values in seconds.items()}
    relative = ratios(rates, TORCH)
    rows: dict[str, Any] = {
        name: {
            "texts_per_second": statistics.median(rates[name]),
            "ratio": relative.get(name),
            **apart.get(name, {}),
            "peak_memory_mb": memories[name]["peak"] / 1e6,
            "seconds": values,
        }
        for name, values in seconds.items()
    }
    write("sparse", options, rows, {"documents": len(texts)}, skipped)


if __name__ == "__main__":
    main()
