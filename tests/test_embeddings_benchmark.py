"""``benchmarks/embeddings.py`` runs: figures, plot and tables of a few texts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "embeddings.py"
DOCUMENTS = [
    f"{a} {b}" for a in ("stone", "river", "tree", "house", "cat") for b in ("red", "blue", "one", "two")
]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_a_smoke_run_fills_the_section(tiny, tmp_path) -> None:
    data = tmp_path / "set"
    (data / "qrels").mkdir(parents=True)
    (data / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{n}", "text": text}) + "\n" for n, text in enumerate(DOCUMENTS))
    )
    (data / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{n}", "text": DOCUMENTS[4 * n]}) + "\n" for n in range(5))
    )
    (data / "qrels" / "test.tsv").write_text("".join(f"q{n}\td{4 * n}\t1\n" for n in range(5)))
    readme = tmp_path / "README.md"
    readme.write_text("# Benchmarks\n\nKept.\n")
    places = ["--cache", tmp_path / "cache", "--results", tmp_path, "--readme", readme]
    done = subprocess.run(
        [sys.executable, SCRIPT, tiny("bert"), "--retrieval", data, *places, "--smoke"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "embeddings.json").read_text())
    rows = {row["form"]: row for row in document["quality"]["set"]["rows"]}
    assert len(rows) == 12
    assert rows["float32"]["ndcg@10"] == 1.0  # every query is one of the documents
    assert [rows[form]["bytes"] for form in ("float32", "float16", "int8", "binary")] == [128, 64, 32, 4]
    assert {row["engine"] for row in document["speed"]["rows"]} == {"exact", "faiss", "usearch"}
    exact = [row for row in document["speed"]["rows"] if row["form"] == "float32"]
    assert [row["recall@10"] for row in exact] == [1.0, 1.0, 1.0]
    assert (tmp_path / "embeddings.png").read_bytes().startswith(b"\x89PNG")
    text = readme.read_text()
    assert text.startswith("# Benchmarks\n\nKept.\n\n<!-- table: python benchmarks/embeddings.py -->")
    assert "| float32 | 32 | 128 | 1.0000 | 100.0 % |" in text
