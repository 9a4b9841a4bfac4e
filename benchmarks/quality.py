"""What does speed cost in quality?

    python benchmarks/quality.py WORK --retrieval scifact/

Spearman's correlation with human judgement on STS-B (test, in tests/data) and, where a retrieval set in BEIR's layout is
named, nDCG@10 and recall@10; beside it the cosine with sentence-transformers' vectors in torch over all the texts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contenders import OURS, TORCH, dense
from harness import ROOT, chosen, parse, parser, say, start, vectors, write

from stopt.benchmarking.child import Child
from stopt.benchmarking.report import cosines
from stopt.quality import Retrieval, StsPairs, read_retrieval, read_sts
from stopt.reading import read_spec

STS = ROOT / "tests" / "data" / "stsb-en-test.tsv.gz"


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--sts", type=Path, default=STS)
    made.add_argument("--retrieval", type=Path, help="folder of a retrieval set in BEIR's layout")
    options = parse(made, argv)
    sets: list[StsPairs | Retrieval] = [read_sts(options.sts)]
    if options.smoke:
        pairs = read_sts(options.sts)
        sets = [StsPairs(pairs.name, pairs.first[:8], pairs.second[:8], pairs.scores[:8])]
    if options.retrieval:
        sets.append(read_retrieval(options.retrieval))
    similarity = read_spec(options.work / OURS).similarity
    contenders, skipped = chosen(dense(options.work), options)
    rows: dict[str, Any] = {}
    reference: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "reference.npy"
        for each in sorted(contenders, key=lambda each: each.name != TORCH):
            say(each.name)
            made_vectors: list[np.ndarray] = []
            with start(each, options.threads) as child:
                rows[each.name] = {}
                for benchmark in sets:
                    encode = _Encode(child, made_vectors)
                    rows[each.name].update(benchmark.measure(encode, similarity))
            if each.name == TORCH:
                reference = made_vectors
                np.save(kept, np.concatenate(reference))
            if reference:
                apart = cosines(np.concatenate(made_vectors), np.load(kept))
                rows[each.name]["cosine_mean"] = float(apart.mean())
                rows[each.name]["cosine_min"] = float(apart.min())
    settings = {"sets": [each.name for each in sets]}
    write("quality", options, rows, settings, skipped)


class _Encode:
    """A process as the function that quality is measured with; keeps what it gave."""

    def __init__(self, child: Child, made: list[np.ndarray]) -> None:
        self._child = child
        self._made = made

    def __call__(self, texts: Sequence[str], prompt: str) -> Any:
        self._child.ask({"do": "inputs", "inputs": list(texts)})
        self._made.append(vectors(self._child))
        return self._made[-1]


if __name__ == "__main__":
    main()
