"""How long from starting a process to its first embedding, and how much memory does it take?

    python benchmarks/cold_start.py WORK

Fresh processes, contenders taking turns, Python's own start included; stopt's modules compiled to bytecode like those of any
package that pip has installed.
"""

from __future__ import annotations

import compileall
import statistics
from collections.abc import Sequence

from contenders import dense
from harness import ROOT, chosen, parse, parser, say, start, write


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(parser(__doc__), argv)
    # a checkout has no bytecode where PYTHONDONTWRITEBYTECODE is set, and compiling anew takes .08 s of every start
    compileall.compile_dir(ROOT / "stopt", quiet=1)
    contenders, skipped = chosen(dense(options.work), options)
    seconds: dict[str, list[float]] = {each.name: [] for each in contenders}
    memory: dict[str, list[int]] = {each.name: [] for each in contenders}
    # the first round, which reads files that no process has read before, does not count
    for number in range(0, options.rounds + 1):
        say(f"round {number} of {options.rounds}")
        for each in contenders:
            with start(each, options.threads) as child:
                if number:
                    seconds[each.name].append(child.start_s)
                    memory[each.name].append(child.memory.get("now", child.memory["peak"]))
    rows = {
        name: {
            "start_s": statistics.median(values),
            "fastest_s": min(values),
            "memory_mb": statistics.median(memory[name]) / 1e6,
            "seconds": values,
        }
        for name, values in seconds.items()
    }
    write("cold-start", options, rows, {}, skipped)


if __name__ == "__main__":
    main()
