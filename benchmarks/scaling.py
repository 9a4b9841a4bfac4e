"""How does speed change with the number of threads, and with the length of texts?

    python benchmarks/scaling.py WORK threads
    python benchmarks/scaling.py WORK length

Threads: every process is held to 1, 2, 4 … cores and told so. Length: texts of one length at a time, as many as make the
same number of tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contenders import OURS, dense, max_length
from harness import (
    DATA,
    all_started,
    chosen,
    encode_all,
    load_texts,
    parse,
    parser,
    take_turns,
    text_of_length,
    write,
)

from stopt.runtime.devices import describe_machine

# one of each kind, to keep the picture legible
USUAL = (
    "sentence-transformers torch",
    "sentence-transformers openvino int8",
    "sentence-transformers onnx int8",
    "CTranslate2 int8",
    "stopt onnx int8",
    "stopt openvino bf16",
    "stopt openvino int8",
)
LENGTHS = (8, 16, 32, 64, 128, 256, 512)


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("what", choices=("threads", "length"))
    made.add_argument("--texts", type=Path, default=DATA / "mixed.jsonl.gz")
    made.add_argument("--tokens", type=int, default=16_384, help="tokens per length (default 16384)")
    made.set_defaults(rounds=3)
    options = parse(made, argv)
    if not options.only:
        options.only = list(USUAL)
    texts = load_texts(options.texts, options)
    contenders, skipped = chosen(dense(options.work), options)
    rows: dict[str, Any] = {each.name: {} for each in contenders}
    if options.what == "threads":
        for threads in _counts(describe_machine().threads, smoke=options.smoke):
            with all_started(contenders, options, threads) as children:
                for child in children.values():
                    child.ask({"do": "inputs", "inputs": texts})
                for name, seconds in take_turns(children, options.rounds, encode_all).items():
                    rows[name][threads] = {
                        "texts_per_second": len(texts) / statistics.median(seconds),
                        "seconds": seconds,
                    }
    else:
        with all_started(contenders, options) as children:
            for length, inputs in _lengths(options, texts):
                for child in children.values():
                    child.ask({"do": "inputs", "inputs": inputs})
                for name, seconds in take_turns(children, options.rounds, encode_all).items():
                    rate = length * len(inputs) / statistics.median(seconds)
                    rows[name][length] = {"tokens_per_second": rate, "seconds": seconds}
    write(f"scaling-{options.what}", options, rows, {"texts": len(texts), "tokens": options.tokens}, skipped)


def _counts(threads: int, *, smoke: bool) -> list[int]:
    """1, 2, 4 … and all."""
    powers = [1 << shift for shift in range(threads.bit_length()) if 1 << shift < threads]
    return [1] if smoke else [*powers, threads]


def _lengths(options: Any, texts: Sequence[str]) -> list[tuple[int, list[str]]]:
    limit = max_length(options.work / OURS)
    found = []
    for length in LENGTHS[:2] if options.smoke else LENGTHS:
        if length <= limit:
            number = 4 if options.smoke else max(8, options.tokens // length)
            # few different texts, each several times, are enough: speed depends on their length alone
            distinct = [text_of_length(options.work, length, texts, start) for start in range(min(8, number))]
            found.append((length, (distinct * (number // len(distinct) + 1))[:number]))
    return found


if __name__ == "__main__":
    main()
