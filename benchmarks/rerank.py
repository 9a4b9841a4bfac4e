"""How fast does a cross-encoder rerank 100 passages?

    python benchmarks/rerank.py WORK

WORK is filled by ``prepare.py MODEL --kind cross-encoder WORK``. One query with each of 100 passages, again and again.
Beside the speed: how far scores are from sentence-transformers' in torch, and whether they put the passages in the same
order (Spearman).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from contenders import TORCH, cross_encoders
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
    vectors,
    write,
)

from stopt.quality import spearman

PASSAGES = 100


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(parser(__doc__, work="cross-encoder"), argv)
    texts = load_texts(DATA / "mixed.jsonl.gz", options)
    query = min(texts[:50], key=len)
    pairs = [(query, text) for text in texts if text != query][:PASSAGES]
    contenders, skipped = chosen(cross_encoders(options.work), options)
    with all_started(contenders, options) as children:
        for child in children.values():
            child.ask({"do": "inputs", "inputs": pairs})
        seconds = take_turns(children, options.rounds, encode_all)
        scores = {name: vectors(child).reshape(len(pairs), -1)[:, 0] for name, child in children.items()}
    rates = {name: [len(pairs) / each for each in values] for name, values in seconds.items()}
    relative = ratios(rates, TORCH)
    rows: dict[str, Any] = {}
    for name, values in seconds.items():
        rows[name] = {
            "pairs_per_second": statistics.median(rates[name]),
            "ms_per_rerank": 1000 * statistics.median(values),
            "ratio": relative.get(name),
            "seconds": values,
        }
        if TORCH in scores:
            rows[name]["largest_difference"] = float(np.abs(scores[name] - scores[TORCH]).max())
            rows[name]["same_order"] = spearman(scores[name], scores[TORCH])
    write("rerank", options, rows, {"passages": len(pairs)}, skipped)


if __name__ == "__main__":
    main()
