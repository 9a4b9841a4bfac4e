"""The benchmarks run, and their tables say what the results say: a smoke run of each script, on tiny models."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
TORCH, ONNX, OPENVINO = "sentence-transformers torch", "stopt onnx", "stopt openvino f32"


@pytest.fixture(scope="module")
def work(exported, tmp_path_factory) -> Path:
    """What prepare.py makes of a tiny model, as far as it goes without the rivals."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("stopt", "sentence-transformers"):
        shutil.copytree(exported("bert"), folder / name)
    return folder


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Run a script with ``--smoke`` and return its result."""
    folder = tmp_path_factory.mktemp("results")

    def run(script: str, *args: Any) -> dict[str, Any]:
        command = [sys.executable, BENCHMARKS / f"{script}.py", *args, "--smoke", "--results", folder]
        before = set(folder.iterdir())
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr
        (made,) = set(folder.iterdir()) - before
        return json.loads(made.read_text(encoding="utf-8"))

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def modules(monkeypatch_module):
    """Import the scripts' own modules."""
    monkeypatch_module.syspath_prepend(str(BENCHMARKS))
    return import_module


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def throughput(smoke, work):
    return smoke("throughput", work, "--only", TORCH, ONNX, "stopt onnx int8", "int8 products")


def test_throughput_has_quality_beside_speed(throughput, work) -> None:
    rows = throughput["rows"]
    assert set(rows) == {TORCH, ONNX}
    assert throughput["settings"]["texts"] == 8
    for row in rows.values():
        assert row["texts_per_second"] == pytest.approx(8 / row["seconds"][0], rel=1e-4)
        assert row["cosine_min"] > 0.99999
        assert row["peak_memory_mb"] > 0
        assert 0 < row["share_of_int8_ceiling"] < 1
    assert rows[TORCH]["ratio"] == 1
    assert rows[ONNX]["ratio"] == pytest.approx(
        rows[ONNX]["texts_per_second"] / rows[TORCH]["texts_per_second"], rel=1e-4
    )
    # two layers of the tiny model, by hand: 2 operations for each weight of 4 (32, 32) and 2 (32, 64) products
    tokens = throughput["settings"]["mean_tokens"] * 8
    products = tokens * 2 * 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert throughput["settings"]["operations"] > products


def test_a_result_says_how_to_repeat_it_and_who_is_missing(throughput, work) -> None:
    assert throughput["command"].startswith(
        "throughput.py WORK --rounds 1 --only 'sentence-transformers torch'"
    )
    assert str(work) not in json.dumps(throughput)
    assert throughput["versions"]["stopt"]
    assert throughput["machine"]["threads"] >= 1
    assert throughput["skipped"] == {
        "stopt onnx int8": "prepare.py has not made onnx/model_int8_dynamic.onnx"
    }


def test_latency_is_held_against_the_bare_engine(smoke, work) -> None:
    rows = smoke("latency", work, "--only", OPENVINO, "bare openvino f32")["rows"]
    ours, bare = rows[OPENVINO], rows["bare openvino f32"]
    assert (ours["n"], bare["n"]) == (3, 3)
    assert ours["ratio_to_bare"] == pytest.approx(ours["p50_ms"] / bare["p50_ms"], rel=1e-4)


def test_cold_start_is_a_fresh_process_each_time(smoke, work) -> None:
    row = smoke("cold_start", work, "--only", ONNX)["rows"][ONNX]
    assert row["start_s"] == row["seconds"][0] > 0
    assert row["memory_mb"] > 10


def test_memory_is_looked_at_over_many_calls(smoke, work) -> None:
    row = smoke("memory", work, "--only", ONNX)["rows"][ONNX]
    assert len(row["calls_mb"]) == 20
    assert row["peak_mb"] >= row["texts_peak_mb"] >= row["start_mb"] > 0


def test_quality_is_correlation_and_cosine(smoke, work) -> None:
    row = smoke("quality", work, "--only", ONNX)["rows"][ONNX]
    assert -1 <= row["stsb-en-test spearman"] <= 1


@pytest.mark.parametrize(
    ("what", "unit", "keys"),
    [("threads", "texts_per_second", ["1"]), ("length", "tokens_per_second", ["8", "16"])],
)
def test_scaling(smoke, work, what, unit, keys) -> None:
    row = smoke("scaling", work, what, "--only", ONNX)["rows"][ONNX]
    assert list(row) == keys
    assert all(each[unit] > 0 for each in row.values())


def test_pools_are_held_against_one_process(smoke, work) -> None:
    rows = smoke("pool", work, "--only", ONNX, f"{ONNX}, pool of 2")["rows"]
    alone, pooled = rows[ONNX], rows[f"{ONNX}, pool of 2"]
    ratio = pooled["texts_per_second"] / alone["texts_per_second"]
    assert pooled["ratio_to_one_process"] == pytest.approx(ratio, rel=1e-4)
    assert pooled["overhead_ms"] == pytest.approx(pooled["few_ms"] - alone["few_ms"], rel=1e-3, abs=1e-3)
    assert "overhead_ms" not in alone
    assert pooled["memory_mb"] > alone["memory_mb"] > 10


def test_a_job_is_held_against_the_engine_in_memory(smoke, work) -> None:
    rows = smoke("corpus", work, "--only", "in memory", "job, 1 thread", "--threads", "1")["rows"]
    alone, job = rows["in memory"], rows["job, 1 thread"]
    assert job["ratio"] == pytest.approx(job["texts_per_second"] / alone["texts_per_second"], rel=1e-4)
    assert job["whole_s"] > 0


def test_the_rate_of_a_job_on_ray_is_when_shards_were_written(modules, tmp_path) -> None:
    """Ray tells of shards when it likes; the last is smaller than the others, and they end in any order."""
    corpus = modules("corpus")
    shards = []
    for number, (rows, moment) in enumerate([(100, 1010), (100, 1030), (100, 1011), (40, 1025)]):
        file = tmp_path / f"part-{number}.parquet"
        file.touch()
        os.utime(file, (moment, moment))
        shards.append({"file": file.name, "rows": rows})
    (tmp_path / "_manifest.json").write_text(json.dumps({"shards": shards}))
    seen = corpus.shards_written(tmp_path)
    assert seen == [(100, 1010), (200, 1011), (240, 1025), (340, 1030)]
    assert corpus.rate(seen, 2) == 140 / 19


def test_memory_of_two_sizes_of_a_corpus(smoke, work, tiny) -> None:
    rows = smoke("corpus", work, "memory", "--model", tiny("bert", kind="static"))["rows"]
    for row in rows.values():
        assert row["2000"]["peak_mb"] / row["200"]["peak_mb"] - 1 == pytest.approx(row["growth"], abs=1e-4)


@pytest.fixture(scope="module")
def work_of(exported, tmp_path_factory):
    """The same for a model of another kind."""

    def build(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        for name in ("stopt", "sentence-transformers"):
            shutil.copytree(exported("bert", kind=kind), folder / name)
        return folder

    return build


def test_reranking_compares_scores_and_their_order(smoke, work_of) -> None:
    rows = smoke("rerank", work_of("cross-encoder"), "--only", TORCH, ONNX)["rows"]
    assert rows[TORCH]["largest_difference"] == 0
    assert rows[ONNX]["largest_difference"] < 1e-4
    assert rows[ONNX]["same_order"] == pytest.approx(1)


def test_sparse_vectors_are_compared(smoke, work_of) -> None:
    rows = smoke("sparse", work_of("splade"), "--only", TORCH, ONNX)["rows"]
    assert rows[ONNX]["cosine_min"] > 0.99999
    assert rows[ONNX]["texts_per_second"] > 0


def test_a_name_that_nobody_has_is_said(work) -> None:
    command = [sys.executable, BENCHMARKS / "cold_start.py", work, "--only", "stopt onnxx"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "nobody is called 'stopt onnxx'; there are: sentence-transformers torch, " in done.stderr


def test_without_a_model_there_is_a_message(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "rerank.py"), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "without stopt torch: prepare.py has not made stopt/config.json" in done.stderr
    assert done.stderr.endswith("nobody can take part\n")


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_the_report_puts_results_between_the_markers(throughput, smoke, tmp_path) -> None:
    shutil.copytree(smoke.folder, tmp_path / "benchmarks/results")
    for name in ("README.md", "benchmarks/README.md"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    command = [sys.executable, str(BENCHMARKS / "report.py"), "--root", str(tmp_path)]
    for _ in range(2):  # the second time over its own work
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        text = (tmp_path / "benchmarks/README.md").read_text(encoding="utf-8")
        assert f"| {TORCH} | {throughput['rows'][TORCH]['texts_per_second']:.0f} |" in text
        assert text.count("<!-- throughput: ") == text.count("<!-- end throughput -->") == 1
        front = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert f"| {TORCH} | {throughput['rows'][TORCH]['texts_per_second']:.0f} |" in front
    assert (tmp_path / "benchmarks/results/throughput.png").read_bytes().startswith(b"\x89PNG")
    # what surrounds the sections stays as it was
    outside = re.compile(r"(<!-- ([a-z-]+): python benchmarks/report.py -->).*?(<!-- end \2 -->)", re.DOTALL)
    original = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    assert outside.sub(r"\1\3", text) == outside.sub(r"\1\3", original)


def test_every_section_has_its_place(modules) -> None:
    report = modules("report")
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    for name, lines in report.sections({}, BENCHMARKS):
        assert f"<!-- {name}: python benchmarks/report.py -->" in text
        assert name == "targets" or lines == [report.NOTHING]


ROWS = {
    "sentence-transformers torch": {"seconds": [8.0, 9.0], "texts_per_second": 10},
    "sentence-transformers openvino int8": {"seconds": [2.0, 2.0], "texts_per_second": 40},
    "CTranslate2 int8": {"seconds": [4.0, 4.0], "texts_per_second": 20},
    "stopt openvino int8 bf16": {"seconds": [1.0, 1.0], "texts_per_second": 80, "share_of_int8_ceiling": 0.4},
}


def test_goals_are_judged_by_ratios_within_rounds(modules) -> None:
    judged = modules("targets").judged({"throughput": {"rows": ROWS}})
    found = {each.what: (each.value, each.verdict()) for each in judged if each.value is not None}
    assert found["OpenVINO int8, mixed text, against ST torch"] == (8.5, "reached")
    assert found["OpenVINO int8, mixed text, against CTranslate2 int8"] == (4, "reached")
    assert found["whole pipeline, share of the int8 ceiling"] == (40, "missed")
    assert {each.verdict() for each in judged if each.value is None} == {""}


def test_a_table_says_where_stopt_loses(modules) -> None:
    losses = modules("report").losses
    document = {"rows": ROWS}
    assert losses(document, "texts_per_second") == [
        "stopt is ahead of every rival here with the same kind of file.",
        "",
    ]
    slower = {"rows": {**ROWS, "CTranslate2 int8": {"texts_per_second": 100}}}
    assert (
        losses(slower, "texts_per_second")[0]
        == "Where stopt loses: stopt openvino int8 bf16 against CTranslate2 int8 (0.80x)."
    )


# ---- what belongs to it ---------------------------------------------------------------------------------------------


def test_fastembed_is_given_the_others_files(work, tmp_path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(work, folder)
    shutil.copyfile(
        folder / "stopt/onnx/model.onnx", folder / "sentence-transformers/onnx/model_int8_dynamic.onnx"
    )
    command = [sys.executable, BENCHMARKS / "prepare.py", folder / "stopt", folder, "--only", "fastembed"]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    assert (folder / "fastembed-int8/model.onnx").is_file()
    config = json.loads((folder / "fastembed-float32/tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["model_max_length"] == 128


def test_every_script_is_in_the_readme() -> None:
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    for file in BENCHMARKS.glob("*.py"):
        source = file.read_text(encoding="utf-8")
        if "__main__" in source and file.name != "loaders.py":
            assert file.name in text


@pytest.mark.parametrize("name", ["mixed", "short", "calibration"])
def test_texts_have_a_source_with_a_licence(name) -> None:
    text = (BENCHMARKS / "data/README.md").read_text(encoding="utf-8")
    with gzip.open(BENCHMARKS / f"data/{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    assert f"| `{name}.jsonl.gz` | {len(records)} |" in text
    for source in {record["source"] for record in records}:
        assert re.search(rf"^\| `{source}` \|", text, re.MULTILINE), source
