"""How many texts a second does each library encode, and with what quality?

    python benchmarks/throughput.py WORK                                                # a natural mix of lengths
    python benchmarks/throughput.py WORK --texts benchmarks/data/short.jsonl.gz --label short

Every contender encodes all texts in every round, with its own defaults. Beside the speed: the cosine of its vectors with
sentence-transformers' in torch, memory, and the share of the machine's int8 ceiling that the real tokens amount to, the
ceiling measured in the same rounds (int8 products of the model's shape, back to back).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contenders import OURS, TORCH, ceiling, dense, max_length, read_config
from harness import (
    DATA,
    all_started,
    chosen,
    count_tokens,
    encode_all,
    load_texts,
    parse,
    parser,
    quality,
    ratios,
    take_turns,
    write,
)


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--texts", type=Path, default=DATA / "mixed.jsonl.gz")
    options = parse(made, argv)
    texts = load_texts(options.texts, options)
    lengths = count_tokens(options.work, texts, max_length(options.work / OURS))
    probe = ceiling(options.work)
    contenders, skipped = chosen([*dense(options.work), probe], options)
    with all_started(contenders, options) as children:
        for child in children.values():
            child.ask({"do": "inputs", "inputs": texts})
        seconds = take_turns(children, options.rounds, encode_all)
        memories = {name: child.ask({"do": "memory"}) for name, child in children.items()}
        about = children[probe.name].about if probe.name in children else {}
        models = {name: child for name, child in children.items() if name != probe.name}
        apart = quality(models)
    rates = {name: [len(texts) / each for each in values] for name, values in seconds.items()}
    relative = ratios({name: rates[name] for name in models}, TORCH)
    limits = [about["operations"] / each for each in seconds.get(probe.name, [])]
    operations = sum(lengths) * per_token(options.work) + sum(each**2 for each in lengths) * per_square(
        options.work
    )
    rows: dict[str, Any] = {}
    for name in models:
        rate = statistics.median(rates[name])
        rows[name] = {
            "texts_per_second": rate,
            "tokens_per_second": rate * sum(lengths) / len(texts),
            "ratio": relative.get(name),
            **apart.get(name, {}),
            "peak_memory_mb": memories[name]["peak"] / 1e6,
            "seconds": seconds[name],
        }
        if limits:
            shares = [operations / each / limit for each, limit in zip(seconds[name], limits, strict=True)]
            rows[name]["share_of_int8_ceiling"] = statistics.median(shares)
    settings = {
        "texts": len(texts),
        "file": options.texts.name,
        "mean_tokens": sum(lengths) / len(lengths),
        "operations": operations,
        "ceiling_tops": statistics.median(limits) / 1e12 if limits else None,
        "ceiling_is_int8": about.get("int8"),
    }
    write("throughput", options, rows, settings, skipped)


def per_token(work: Path) -> float:
    """Operations of one token in all products with weights: two per weight."""
    config = read_config(work / OURS)
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    return 2.0 * config["num_hidden_layers"] * (4 * hidden**2 + 2 * hidden * intermediate)


def per_square(work: Path) -> float:
    """Operations of attention per token and token of its text."""
    config = read_config(work / OURS)
    return 4.0 * config["num_hidden_layers"] * config["hidden_size"]


if __name__ == "__main__":
    main()
