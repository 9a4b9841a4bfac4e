"""H18: mutated files of every format never kill the process that opens them, nor keep it for long.

All 2,000 of each: ``pytest -m slow -n 0 tests/hostile/test_fuzz.py -s``.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fuzzing import FORMATS, MEMORY_BYTES, fuzz, mutate
from safetensors.numpy import save_file
from victim import MODULES, TOKENIZER, build, table, write_json


def _with_tables(folder: Path, width: int) -> Path:
    """Add what has weights of its own: a module, and a model that is a table."""
    (folder / "stopt.json").unlink(missing_ok=True)  # its hashes would let nothing through
    modules = [*MODULES, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
    write_json(folder / "modules.json", modules)
    write_json(folder / "2_Dense" / "config.json", {"in_features": width, "out_features": 2, "bias": True})
    weights = {"linear.weight": np.ones((2, width), np.float32), "linear.bias": np.ones(2, np.float32)}
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    inside = folder / "table"
    write_json(
        inside / "modules.json", [{"path": "", "type": "sentence_transformers.models.StaticEmbedding"}]
    )
    write_json(inside / "tokenizer.json", TOKENIZER)
    save_file({"embedding.weight": table()}, inside / "model.safetensors")
    return folder


def _report(kind: str, outcome) -> str:
    counts = ", ".join(f"{number} {name}" for name, number in outcome.counts.most_common())
    return (
        f"{kind}: {counts}; slowest {outcome.slowest:.1f} s, peak {outcome.peak / 1e6:.0f} MB; "
        f"{len(outcome.findings)} findings {outcome.findings[:20]}"
    )


@pytest.mark.scorecard("H18")
@pytest.mark.parametrize("kind", FORMATS)
def test_fifty_mutations_are_opened_or_refused(tmp_path: Path, kind: str) -> None:
    outcome = fuzz(kind, _with_tables(build(tmp_path / "model"), 4), 50)
    assert outcome.findings == [], _report(kind, outcome)
    assert sum(outcome.counts.values()) == 50
    assert outcome.peak < MEMORY_BYTES


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.scorecard("H18")
@pytest.mark.parametrize("kind", FORMATS)
def test_two_thousand_mutations_are_opened_or_refused(exported, tmp_path: Path, kind: str) -> None:
    folder = shutil.copytree(exported("bert"), tmp_path / "model")
    outcome = fuzz(kind, _with_tables(folder, 32), 2_000, first=1_000)
    print(_report(kind, outcome))
    assert outcome.findings == [], _report(kind, outcome)
    assert sum(outcome.counts.values()) == 2_000


def test_a_mutation_is_the_same_for_the_same_seed() -> None:
    data = bytes(range(256)) * 4
    assert mutate(data, 7) == mutate(data, 7)
    assert len({mutate(data, seed) for seed in range(100)}) > 90
