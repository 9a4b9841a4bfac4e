"""Run every recipe on a model folder and measure what comes out: size, quality beside torch, speed, batch dependence.

    python benchmarks/recipes.py MODEL --sts stsb-test.tsv --retrieval scifact/ [--work DIR]

MODEL stands in for the recipes' Hub id, so that this works offline. Writes benchmarks/results/recipes.json and the table
between the markers in recipes/README.md, which has no other source. Speed is texts per second over the STS sentences, the
files taking turns, median of the rounds; absolute figures are this machine's, ratios travel better.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from stopt.artifact import sha256
from stopt.checking import CheckOptions, check
from stopt.convert.produce import Produced
from stopt.convert.run import run
from stopt.quality import read_sts
from stopt.recipe import read_recipe
from stopt.runtime.devices import describe_machine
from stopt.runtime.sentence_transformer import SentenceTransformer

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "recipes.json"
README = ROOT / "recipes" / "README.md"
BEGIN, END = "<!-- table: python benchmarks/recipes.py -->", "<!-- end -->"
ROUNDS = 5
PLAIN = "float32, onnx/model.onnx"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--sts", type=Path, required=True)
    parser.add_argument("--retrieval", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the models that are made")
    options = parser.parse_args()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    folder = options.work / "model"
    made: dict[str, Produced] = {}
    for file in sorted((ROOT / "recipes").glob("*.toml")):
        recipe = replace(read_recipe(file, output=folder, force=True), model=str(options.model))
        made[file.stem] = run(recipe, print)[-1]
    speeds = speed(
        {PLAIN: "onnx/model.onnx", **{name: product.file for name, product in made.items()}},
        folder,
        options.sts,
    )
    rows = measure(made, folder, options)
    rows = {
        PLAIN: {
            "file": "onnx/model.onnx",
            "size_mb": round((folder / "onnx/model.onnx").stat().st_size / 1e6, 1),
        },
        **rows,
    }
    for name, rate in speeds.items():
        rows[name]["texts_per_second"] = round(rate, 1)
    machine = describe_machine()
    versions = json.loads((folder / "stopt.json").read_text())["files"]
    document = {
        "machine": {"processor": machine.processor, "features": machine.features, "threads": machine.threads},
        "versions": next(iter(versions.values()))["versions"],
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    write_table(document)
    write_headers(document)


def measure(
    made: dict[str, Produced], folder: Path, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    # files with the same bytes (dynamic int8 for Arm and for AVX-512) have the same vectors: measured once
    hashes = {name: sha256(folder / product.file) for name, product in made.items()}
    firsts = {digest: name for name, digest in reversed(hashes.items())}
    rows = _measure({name: made[name] for name in firsts.values()}, folder, options)
    return {name: {**rows[firsts[digest]], "file": made[name].file} for name, digest in hashes.items()}


def _measure(
    made: dict[str, Produced], folder: Path, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    names = {product.file: name for name, product in made.items()}
    chosen = CheckOptions(
        file_name=list(names),
        texts=sts_texts(options.sts),
        min_cosine=0.5,
        sts=options.sts,
        retrieval=options.retrieval,
    )
    rows = {}
    for report in check(folder, chosen, print):
        product = made[names[report.candidate]]
        row: dict[str, Any] = {
            "file": product.file,
            "size_mb": round(product.size_bytes / 1e6, 1),
            "cosine_mean_sts": round(report.mean_cosine, 5),
            "cosine_min_sts": round(report.min_cosine, 4),
            "cosine_mean_languages": round(product.parity.mean_cosine, 5),
            "batch_cosine": round(report.batch_cosine, 5),
            "same_neighbours": round(report.rank_overlap, 4),
        }
        for each in report.quality:
            row[each.metric] = round(each.candidate, 4)
            row[f"{each.metric} torch"] = round(each.reference, 4)
        rows[names[report.candidate]] = row
    return rows


def sts_texts(file: Path) -> list[str]:
    pairs = read_sts(file)
    return list(dict.fromkeys((*pairs.first, *pairs.second)))[:300]


def speed(files: dict[str, str], folder: Path, sts: Path) -> dict[str, float]:
    pairs = read_sts(sts)
    texts = list(dict.fromkeys((*pairs.first, *pairs.second)))[:600]
    served = {
        name: SentenceTransformer(folder, model_kwargs={"file_name": file}) for name, file in files.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in served}
    for _ in range(ROUNDS + 1):
        for name, model in served.items():
            started = time.perf_counter()
            model.encode(texts)
            rates[name].append(len(texts) / (time.perf_counter() - started))
    return {name: statistics.median(values[1:]) for name, values in rates.items()}


def write_table(document: dict[str, Any]) -> None:
    rows = document["rows"]
    base = rows[PLAIN]["texts_per_second"]
    measured = next(row for row in rows.values() if "cosine_mean_sts" in row)
    sts, ndcg = (next(key for key in measured if key.endswith(end)) for end in ("spearman", "ndcg@10"))
    lines = [
        f"| recipe | MB | cosine to torch, mean | alone/batch | STS-B | {ndcg.split()[0]} nDCG@10 | texts/s | vs float32 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        quality = [
            f"{row['cosine_mean_sts']:.4f}" if "cosine_mean_sts" in row else "1.0000",
            f"{row['batch_cosine']:.4f}" if "batch_cosine" in row else "1.0000",
            f"{row.get(sts, measured[f'{sts} torch']):.4f}",
            f"{row.get(ndcg, measured[f'{ndcg} torch']):.4f}",
        ]
        rate = row["texts_per_second"]
        lines.append(
            f"| {name} | {row['size_mb']} | {' | '.join(quality)} | {rate:.0f} | {rate / base:.2f}x |"
        )
    machine = document["machine"]
    lines += [
        "",
        f"{machine['processor']}, {machine['threads']} threads ({', '.join(machine['features'])}), {document['date']}, "
        f"onnxruntime {document['versions']['onnxruntime']}, OpenVINO {document['versions']['openvino']}; "
        "raw figures in benchmarks/results/recipes.json.",
    ]
    text = README.read_text()
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    README.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}")


def write_headers(document: dict[str, Any]) -> None:
    """Put the figures into each recipe, as its last comment before [source]."""
    machine = f"{document['machine']['processor']} ({', '.join(document['machine']['features'])}), {document['date']}"
    for name, row in document["rows"].items():
        file = ROOT / "recipes" / f"{name}.toml"
        if not file.is_file():
            continue
        sts, ndcg = (next(key for key in row if key.endswith(end)) for end in ("spearman", "ndcg@10"))
        measured = (
            f"# Measured: {row['size_mb']} MB, cosine to torch {row['cosine_mean_sts']:.4f} (mean), STS-B {row[sts]:.4f} "
            f"(torch {row[f'{sts} torch']:.4f}), SciFact nDCG@10 {row[ndcg]:.4f} (torch {row[f'{ndcg} torch']:.4f});\n"
            f"# {machine}.\n"
        )
        comment, source = file.read_text().split("[source]")
        file.write_text(f"{comment.partition('# Measured:')[0].rstrip()}\n{measured}\n[source]{source}")


if __name__ == "__main__":
    main()
