"""How long does one short query take, and how much of that is the engine's own?

    python benchmarks/latency.py WORK

One query of 32 tokens, again and again, contenders taking turns of 50 calls. The bare engines get their input arrays ready
made and give the token embeddings: what is above them is tokenising, pooling and everything around.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from contenders import TORCH, bare_engines, dense
from harness import (
    DATA,
    all_started,
    chosen,
    load_texts,
    parse,
    parser,
    quality,
    summary,
    take_turns,
    text_of_length,
    write,
)

CALLS = 50


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--tokens", type=int, default=32, help="length of the query (default 32)")
    made.set_defaults(rounds=10)
    options = parse(made, argv)
    calls = 3 if options.smoke else CALLS
    query = text_of_length(options.work, options.tokens, load_texts(DATA / "short.jsonl.gz", options))
    bare = bare_engines(options.work)
    contenders, skipped = chosen([*dense(options.work), *bare], options)
    with all_started(contenders, options) as children:
        for child in children.values():
            child.ask({"do": "inputs", "inputs": [query]})
        turns = take_turns(
            children,
            options.rounds,
            lambda child: child.ask({"do": "calls", "calls": [[0]] * calls})["seconds"],
        )
        names = {each.name for each in bare}
        apart = quality({name: child for name, child in children.items() if name not in names})
    rows: dict[str, Any] = {}
    for name, rounds in turns.items():
        rows[name] = {
            **summary([each for seconds in rounds for each in seconds]),
            **apart.get(name, {}),
            "round_p50_ms": [1000 * statistics.median(seconds) for seconds in rounds],
        }
    for name in rows:
        engine = f"bare {name.removeprefix('stopt ')}"
        for base, key in ((engine, "ratio_to_bare"), (TORCH, "ratio")):
            if base in rows and (key == "ratio" or name.startswith("stopt ")):
                pairs = zip(rows[name]["round_p50_ms"], rows[base]["round_p50_ms"], strict=True)
                ratio = statistics.median(a / b for a, b in pairs)
                rows[name][key] = ratio if key == "ratio_to_bare" else 1 / ratio
    write("latency", options, rows, {"tokens": options.tokens, "calls": calls}, skipped)


if __name__ == "__main__":
    main()
