"""Run every recipe of a kind of model and measure what comes out: size, quality beside torch, speed, batch dependence.

    python benchmarks/recipes.py MODEL --sts stsb-test.tsv --retrieval scifact/ --work DIR
    python benchmarks/recipes.py MODEL --kind sparse --retrieval cranfield/ --work DIR
    python benchmarks/recipes.py MODEL --kind cross-encoder --sts stsb-test.tsv --work DIR

MODEL stands in for the recipes' Hub id, so that this works offline. Writes benchmarks/results/recipes*.json and the table
between the markers in recipes/README.md, which has no other source. Speed is texts, or pairs, per second, the files taking
turns, median of the rounds; absolute figures are this machine's, ratios travel better.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stopt.artifact import sha256
from stopt.checking import CheckOptions, check
from stopt.convert.produce import Produced
from stopt.convert.run import run
from stopt.quality import read_retrieval, read_sts
from stopt.recipe import read_recipe
from stopt.runtime.cross_encoder import CrossEncoder
from stopt.runtime.devices import describe_machine
from stopt.runtime.sentence_transformer import SentenceTransformer
from stopt.runtime.sparse_encoder import SparseEncoder

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "recipes" / "README.md"
END = "<!-- end -->"
ROUNDS = 5
PLAIN = "float32, onnx/model.onnx"


@dataclass(frozen=True)
class Kind:
    """How a kind of model is measured.

    Attributes:
        recipes: Names of its recipes.
        results: File of the raw figures.
        begin: Line before its table.
        figures: Columns of the table about parity: field of the row, header, format, and what float32 has.
        serve: Opens a file, and returns what runs texts or pairs through it.
    """

    recipes: str
    results: str
    begin: str
    figures: tuple[tuple[str, str, str, str], ...]
    serve: Callable[[Path, str], Callable[[Any], Any]]


def _keywords(file: str) -> dict[str, Any]:
    return {"model_kwargs": {"file_name": file}}


COSINE = ("mean_cosine", "cosine to torch, mean", ".4f", "1.0000")
COMPANY = ("batch_cosine", "alone/batch", ".4f", "1.0000")
KINDS = {
    "dense": Kind(
        "all-MiniLM-L6-v2-*.toml",
        "recipes.json",
        "<!-- table: python benchmarks/recipes.py -->",
        (COSINE, COMPANY),
        lambda folder, file: SentenceTransformer(folder, **_keywords(file)).encode,
    ),
    "sparse": Kind(
        "splade-*.toml",
        "recipes-sparse.json",
        "<!-- table: python benchmarks/recipes.py --kind sparse -->",
        (COSINE, ("active_overlap", "active dimensions kept", ".1%", "100.0%"), COMPANY),
        lambda folder, file: SparseEncoder(folder, **_keywords(file)).encode,
    ),
    "cross-encoder": Kind(
        "ms-marco-*.toml",
        "recipes-cross-encoder.json",
        "<!-- table: python benchmarks/recipes.py --kind cross-encoder -->",
        (
            ("mean_score_error", "error of a score, mean", ".4f", "0.0000"),
            ("rank_agreement", "same order", ".4f", "1.0000"),
            ("batch_abs", "alone/batch", ".4f", "0.0000"),
        ),
        lambda folder, file: CrossEncoder(folder, **_keywords(file)).predict,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--kind", choices=list(KINDS), default="dense")
    parser.add_argument("--sts", type=Path, help="not for sparse")
    parser.add_argument("--retrieval", type=Path, help="not for cross-encoder")
    parser.add_argument("--work", type=Path, required=True, help="folder for the models that are made")
    options = parser.parse_args()
    kind = KINDS[options.kind]
    results = ROOT / "benchmarks" / "results" / kind.results
    results.parent.mkdir(parents=True, exist_ok=True)
    folder = options.work / "model"
    made: dict[str, Produced] = {}
    for file in sorted((ROOT / "recipes").glob(kind.recipes)):
        recipe = replace(read_recipe(file, output=folder, force=True), model=str(options.model))
        made[file.stem] = run(recipe, print)[-1]
    speeds = speed(
        {PLAIN: "onnx/model.onnx", **{name: product.file for name, product in made.items()}},
        folder,
        kind,
        samples(options),
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
    results.write_text(json.dumps(document, indent=2) + "\n")
    write_table(document, kind)
    if options.kind == "dense":  # the model of the recipe; of the other kinds another one is measured
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
    cross = options.kind == "cross-encoder"
    lenient = {"max_abs": 1.0, "min_agreement": 0.0} if cross else {"min_cosine": 0.5}
    chosen = CheckOptions(
        file_name=list(names),
        texts=samples(options)[:300],
        sts=options.sts,
        retrieval=options.retrieval,
        **lenient,
    )
    rows = {}
    for report in check(folder, chosen, print):
        product = made[names[report.candidate]]
        row: dict[str, Any] = {"file": product.file, "size_mb": round(product.size_bytes / 1e6, 1)}
        for field, _, _, _ in KINDS[options.kind].figures:
            row[field] = round(getattr(report, field), 5)
        for field in ("min_cosine", "rank_overlap", "active_overlap", "top_overlap", "max_abs"):
            if getattr(report, field) is not None:
                row[field] = round(getattr(report, field), 5)
        if product.parity.mean_cosine is not None:
            row["mean_cosine_languages"] = round(product.parity.mean_cosine, 5)
        for each in report.quality:
            row[each.metric] = round(each.candidate, 4)
            row[f"{each.metric} torch"] = round(each.reference, 4)
        rows[names[report.candidate]] = row
    return rows


def samples(options: argparse.Namespace) -> list[Any]:
    """Texts, or pairs, of the benchmark's own kind."""
    if options.kind == "cross-encoder":
        pairs = read_sts(options.sts)
        return list(zip(pairs.first, pairs.second, strict=True))[:600]
    if options.kind == "sparse":
        collection = read_retrieval(options.retrieval)
        return [*list(collection.queries.values())[:100], *list(collection.documents.values())[:200]]
    pairs = read_sts(options.sts)
    return list(dict.fromkeys((*pairs.first, *pairs.second)))[:600]


def speed(files: dict[str, str], folder: Path, kind: Kind, texts: list[Any]) -> dict[str, float]:
    served = {name: kind.serve(folder, file) for name, file in files.items()}
    rates: dict[str, list[float]] = {name: [] for name in served}
    for _ in range(ROUNDS + 1):
        for name, encode in served.items():
            started = time.perf_counter()
            encode(texts)
            rates[name].append(len(texts) / (time.perf_counter() - started))
    return {name: statistics.median(values[1:]) for name, values in rates.items()}


def write_table(document: dict[str, Any], kind: Kind) -> None:
    rows = document["rows"]
    base = rows[PLAIN]["texts_per_second"]
    measured = next(row for name, row in rows.items() if name != PLAIN)
    metrics = [name.removesuffix(" torch") for name in measured if name.endswith(" torch")]
    metrics = [name for name in metrics if not name.endswith("recall@10")]
    what = "pairs/s" if kind is KINDS["cross-encoder"] else "texts/s"
    titles = [title for _, title, _, _ in kind.figures]
    titles += ["STS-B" if name.endswith("spearman") else f"{name.split()[0]} nDCG@10" for name in metrics]
    lines = [
        f"| recipe | MB | {' | '.join(titles)} | {what} | vs float32 |",
        "|" + "---|" * (len(titles) + 4),
    ]
    for name, row in rows.items():
        quality = [
            f"{row[field]:{layout}}" if field in row else exact for field, _, layout, exact in kind.figures
        ]
        quality += [f"{row.get(metric, measured[f'{metric} torch']):.4f}" for metric in metrics]
        rate = row["texts_per_second"]
        lines.append(
            f"| {name} | {row['size_mb']} | {' | '.join(quality)} | {rate:.0f} | {rate / base:.2f}x |"
        )
    machine = document["machine"]
    lines += [
        "",
        f"{machine['processor']}, {machine['threads']} threads ({', '.join(machine['features'])}), {document['date']}, "
        f"onnxruntime {document['versions']['onnxruntime']}, OpenVINO {document['versions']['openvino']}; "
        f"raw figures in benchmarks/results/{kind.results}.",
    ]
    text = README.read_text()
    head, rest = text.split(kind.begin)
    tail = rest.partition(END)[2]
    README.write_text(f"{head}{kind.begin}\n" + "\n".join(lines) + f"\n{END}{tail}")


def write_headers(document: dict[str, Any]) -> None:
    """Put the figures into each recipe, as its last comment before [source]."""
    machine = f"{document['machine']['processor']} ({', '.join(document['machine']['features'])}), {document['date']}"
    for name, row in document["rows"].items():
        file = ROOT / "recipes" / f"{name}.toml"
        if not file.is_file():
            continue
        metrics = [key for key in row if f"{key} torch" in row and not key.endswith("recall@10")]
        found = [f"{each} {row[each]:.4f} (torch {row[f'{each} torch']:.4f})" for each in metrics]
        if "mean_cosine" in row:
            found.insert(0, f"cosine to torch {row['mean_cosine']:.4f} (mean)")
        measured = f"# Measured: {row['size_mb']} MB, {', '.join(found)};\n# {machine}.\n"
        comment, source = file.read_text().split("[source]")
        file.write_text(f"{comment.partition('# Measured:')[0].rstrip()}\n{measured}\n[source]{source}")


if __name__ == "__main__":
    main()
