"""What do quantised and truncated embeddings cost and keep? Quality, bytes and speed of search, with and without rescoring.

    python benchmarks/embeddings.py MODEL --retrieval scifact/ --retrieval vaswani/ --cache DIR
    python benchmarks/embeddings.py MODEL --retrieval scifact/ --cache DIR --smoke

Embeddings are computed once and kept in the cache. Quality is nDCG@10 over each set's test queries; ranges of int8 come from
every other document only, as stored ranges do not know what they will meet. Speed is measured on synthetic vectors, the
contenders taking turns; the figures are medians of this machine, and ratios within the run are what counts. Memory is what a fresh
process grows by. Writes results/embeddings.json, results/embeddings.png (needs matplotlib) and the section between the markers
of benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stopt import Ranges, SentenceTransformer, quantize_embeddings
from stopt.embeddings.codes import Precision
from stopt.embeddings.engines import Engine, EngineKind, build
from stopt.embeddings.faiss_engine import FaissEngine
from stopt.embeddings.nearest import Rescoring, nearest
from stopt.embeddings.scoring import Levels, as_stored, stored_precision
from stopt.embeddings.space import fingerprint
from stopt.embeddings.usearch_engine import UsearchEngine
from stopt.quality import Retrieval, ndcg, read_retrieval
from stopt.runtime.devices import describe_machine

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- table: python benchmarks/embeddings.py -->", "<!-- end: embeddings -->"
DEPTH = 10
DIMENSIONS = (384, 256, 128, 64)
ROUNDS = 5
BATCHES = (1, 64)
MULTIPLIER = 4

# how documents are kept, what orders the candidates, and how many there are for each result
FORMS = {
    "float32": ("float32", None, 1),
    "float16": ("float16", None, 1),
    "int8": ("int8", "codes", 2),
    "uint8": ("uint8", "codes", 2),
    "int8, no rescoring": ("int8", None, 1),
    "uint8, no rescoring": ("uint8", None, 1),
    "binary": ("binary", "codes", MULTIPLIER),
    "ubinary": ("ubinary", "codes", MULTIPLIER),
    "binary, no rescoring": ("binary", None, 1),
    "ubinary, no rescoring": ("ubinary", None, 1),
    "binary + int8 on disk": ("binary", "int8", MULTIPLIER),
    "ubinary + int8 on disk": ("ubinary", "int8", MULTIPLIER),
}
Search = Callable[[np.ndarray], np.ndarray]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument(
        "--retrieval", type=Path, action="append", required=True, help="BEIR layout; repeatable"
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder for embeddings")
    parser.add_argument("--vectors", type=int, default=1_000_000, help="synthetic vectors (default 1000000)")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md")
    parser.add_argument("--smoke", action="store_true", help="few documents and vectors: does it run?")
    options = parser.parse_args(argv)
    if options.smoke:
        options.vectors = 2_000
    options.results.mkdir(parents=True, exist_ok=True)
    options.cache.mkdir(parents=True, exist_ok=True)
    busy = [os.getloadavg()]
    sets = {folder.name: quality(folder, options) for folder in options.retrieval}
    speeds = speed(options)
    busy.append(os.getloadavg())
    machine = describe_machine()
    document = {
        "schema": 1,
        "date": time.strftime("%Y-%m-%d"),
        "command": command(options),
        "load": busy,
        "machine": {"processor": machine.processor, "features": machine.features, "cores": machine.cores},
        "versions": {name: version(name) for name in ("numpy", "faiss-cpu", "usearch")},
        "model": options.model.name,
        "quality": sets,
        "speed": speeds,
    }
    (options.results / "embeddings.json").write_text(json.dumps(document, indent=1) + "\n")
    plot(document, options.results / "embeddings.png")
    write_section(document, options.readme)


def command(options: argparse.Namespace) -> str:
    """What was run, without this machine's folders."""
    sets = "".join(f" --retrieval {folder.name}" for folder in options.retrieval)
    smoke = " --smoke" if options.smoke else ""
    return f"python benchmarks/embeddings.py {options.model.name}{sets} --cache DIR --vectors {options.vectors}{smoke}"


# ---- quality --------------------------------------------------------------------------------------------------------


def quality(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """nDCG@10 of every form and dimension on one set."""
    retrieval = read_retrieval(folder)
    query_ids = [query for query in retrieval.queries if retrieval.relevant.get(query)]
    document_ids = list(retrieval.documents)
    if options.smoke:
        query_ids = query_ids[:5]
        needed = {document for query in query_ids for document in retrieval.relevant[query]}
        document_ids = [*needed, *[each for each in document_ids if each not in needed][:40]]
    queries, documents = embeddings(options, retrieval, query_ids, document_ids)
    rows = []
    exact = 0.0
    for dimension in [each for each in DIMENSIONS if each <= queries.shape[1]] or [queries.shape[1]]:
        asked, kept = (unit(values[:, :dimension]) for values in (queries, documents))
        ranges = Ranges.of(kept[::2])
        searches = {name: contender(EngineKind.FAISS, name, kept, ranges) for name in FORMS}
        rates = take_turns(searches, asked, 3)
        for name, search in searches.items():
            score = mean_ndcg(retrieval, query_ids, document_ids, search(asked))
            exact = exact or score
            rows.append(
                {
                    "form": name,
                    "dimension": dimension,
                    "bytes": bytes_of(name, dimension),
                    "bytes_on_disk": dimension if name.endswith("disk") else 0,
                    "ndcg@10": round(score, 4),
                    "kept": round(score / exact, 4),
                    "queries_per_second": round(statistics.median(rates[name]), 1),
                    "vs_float32": round(over(rates, name), 2),
                }
            )
        print(
            folder.name,
            dimension,
            {row["form"]: row["kept"] for row in rows if row["dimension"] == dimension},
        )
    return {"queries": len(query_ids), "documents": len(document_ids), "rows": rows}


def embeddings(
    options: argparse.Namespace, retrieval: Retrieval, query_ids: list[str], document_ids: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of queries and documents, from the cache if they are there."""
    texts = [
        [retrieval.queries[each] for each in query_ids],
        [retrieval.documents[each] for each in document_ids],
    ]
    digest = hashlib.sha256(json.dumps([fingerprint(options.model.resolve()), texts]).encode()).hexdigest()[
        :16
    ]
    file = options.cache / f"{retrieval.name}-{digest}.npz"
    if not file.is_file():
        print(f"encoding {retrieval.name}: {len(document_ids)} documents")
        model = SentenceTransformer(options.model, backend="torch")
        np.savez(file, queries=model.encode_query(texts[0]), documents=model.encode_document(texts[1]))
    with np.load(file) as found:
        return found["queries"], found["documents"]


def mean_ndcg(retrieval: Retrieval, query_ids: list[str], document_ids: list[str], ids: np.ndarray) -> float:
    gains = []
    for query, row in zip(query_ids, ids, strict=True):
        relevant = retrieval.relevant[query]
        found = [relevant.get(document_ids[place], 0) for place in row if place >= 0]
        gains.append(ndcg(found, list(relevant.values())))
    return float(np.mean(gains))


def bytes_of(form: str, dimension: int) -> int:
    """Bytes of a document that are searched."""
    precision = FORMS[form][0]
    if precision == "float16":
        return 2 * dimension
    known = Precision(precision)
    return -(-dimension // 8) if known.is_binary else dimension * known.dtype.itemsize


# ---- contenders -----------------------------------------------------------------------------------------------------


def contender(
    kind: EngineKind,
    form: str,
    documents: np.ndarray,
    ranges: Ranges,
    codes: np.ndarray | None = None,
    rows: np.ndarray | None = None,
) -> Search:
    """A function from (Q, E) queries to (Q, 10) ids, all of it that a query costs.

    ``codes`` and ``rows``, the int8 that candidates are ordered by, are made of the documents unless they are given.
    """
    name, by, multiplier = FORMS[form]
    if name == "float16":
        return halves(kind, documents)
    precision = Precision(name)
    if codes is None:
        codes = as_stored(quantize_embeddings(documents, name, ranges), precision)
    levels = Levels.of_ranges(ranges) if precision.has_ranges else None
    engine = build(kind, codes, stored_precision(precision), levels, exact=True)
    if by == "int8" and rows is None:
        rows = quantize_embeddings(documents, "int8", ranges)
    decoded = levels or Levels.of_signs(documents.shape[1])
    rescoring = rescored_by(by, engine, decoded, rows, ranges, multiplier)
    return lambda queries: nearest(engine, queries, levels, DEPTH, rescoring)[1]


def rescored_by(
    by: str | None,
    engine: Engine,
    levels: Levels,
    rows: np.ndarray | None,
    ranges: Ranges,
    multiplier: int,
) -> Rescoring | None:
    match by:
        case None:
            return None
        case "codes":
            return Rescoring.of_codes(engine, levels, multiplier)
        case _:
            assert rows is not None
            return Rescoring.of_rows(rows, Levels.of_ranges(ranges), multiplier)


def halves(kind: EngineKind, documents: np.ndarray) -> Search:
    """float16, which stopt leaves to the libraries' own types; in numpy rounded, and compared as float32."""
    if kind is EngineKind.FAISS:
        import faiss

        index = faiss.IndexScalarQuantizer(
            documents.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        index.train(documents[:1])
        index.add(documents)
        return lambda queries: index.search(queries, min(DEPTH, len(documents)))[1]
    if kind is EngineKind.USEARCH:
        from usearch.index import MetricKind, search

        rounded = documents.astype(np.float16)

        def found(queries: np.ndarray) -> np.ndarray:
            matches = search(rounded, queries.astype(np.float16), DEPTH, MetricKind.IP, exact=True)
            return np.atleast_2d(matches.keys)

        return found
    widened = documents.astype(np.float16).astype(np.float32)
    engine = build(kind, widened, Precision.FLOAT32, None, exact=True)
    return lambda queries: nearest(engine, queries, None, DEPTH, None)[1]


def take_turns(searches: dict[str, Search], queries: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Queries per second of each in every round; one round warms up and is left out."""
    rates: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(rounds + 1):
        for name, search in searches.items():
            started = time.perf_counter()
            search(queries)
            rates[name].append(len(queries) / (time.perf_counter() - started))
    return {name: values[1:] for name, values in rates.items()}


def over(rates: dict[str, list[float]], form: str) -> float:
    """Speed beside float32: the median of each round's ratio."""
    return statistics.median(a / b for a, b in zip(rates[form], rates["float32"], strict=True))


# ---- speed ----------------------------------------------------------------------------------------------------------

SPEED_FORMS = (
    "float32",
    "float16",
    "int8, no rescoring",
    "int8",
    "binary, no rescoring",
    "binary + int8 on disk",
)


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Queries per second and memory of each engine on synthetic vectors, and what is found of the exact result."""
    files = synthetic(options)
    documents = np.load(files["float32"], mmap_mode="r")
    documents = np.ascontiguousarray(documents)
    ranges = Ranges.of(documents)
    random = np.random.default_rng(1)
    near = documents[random.integers(0, len(documents), max(BATCHES))]
    queries = unit(
        near + 0.5 * random.standard_normal(near.shape).astype(np.float32) / np.sqrt(near.shape[1])
    )
    expected: np.ndarray | None = None
    rows = []
    for kind in EngineKind:
        forms = [form for form in SPEED_FORMS if not (kind is EngineKind.EXACT and form == "float16")]
        codes = {
            "float32": documents,
            **{name: np.load(file) for name, file in files.items() if name != "float32"},
        }
        on_disk = np.load(files["int8"], mmap_mode="r")
        searches = {
            form: contender(
                kind, form, documents, ranges, codes[_stored(form)] if form != "float16" else None, on_disk
            )
            for form in forms
        }
        rates = {
            batch: take_turns(searches, queries[:batch], 1 if options.smoke else ROUNDS) for batch in BATCHES
        }
        measured = (
            ["float32"]
            if options.smoke
            else list(dict.fromkeys(_stored(each) for each in forms if each != "float16"))
        )
        grows = {name: memory(kind, name, files[name]) for name in measured}
        for form, search in searches.items():
            found = search(queries)
            expected = found if expected is None else expected
            shared = [len({*a} & {*b}) / len(b) for a, b in zip(found, expected, strict=True)]
            rows.append(
                {
                    "engine": kind.value,
                    "form": form,
                    "recall@10": round(float(np.mean(shared)), 4),
                    **{
                        f"queries_per_second_{batch}": round(statistics.median(rates[batch][form]), 1)
                        for batch in BATCHES
                    },
                    **{f"vs_float32_{batch}": round(over(rates[batch], form), 2) for batch in BATCHES},
                    "samples": {batch: [round(rate, 2) for rate in rates[batch][form]] for batch in BATCHES},
                    "memory_bytes": None if form == "float16" else grows.get(_stored(form)),
                }
            )
            print(rows[-1])
    return {"vectors": len(documents), "dimension": documents.shape[1], "rows": rows}


def _stored(form: str) -> str:
    return str(stored_precision(Precision(FORMS[form][0])))


def synthetic(options: argparse.Namespace) -> dict[str, Path]:
    """Vectors in clusters of 50, as floats and as codes, in files: a process that measures memory opens its own."""
    files = {
        name: options.cache / f"synthetic-{options.vectors}-{name}.npy"
        for name in ("float32", "int8", "ubinary")
    }
    if not all(file.is_file() for file in files.values()):
        random = np.random.default_rng(0)
        centres = random.standard_normal((max(1, options.vectors // 50), DIMENSIONS[0]), np.float32)
        vectors = centres[random.integers(0, len(centres), options.vectors)]
        vectors = unit(vectors + random.standard_normal(vectors.shape, np.float32))
        np.save(files["float32"], vectors)
        np.save(files["int8"], quantize_embeddings(vectors, "int8", Ranges.of(vectors)))
        np.save(files["ubinary"], quantize_embeddings(vectors, "ubinary"))
    return files


def memory(kind: EngineKind, stored: str, file: Path) -> int:
    """Bytes that a fresh process grows by when it holds the searchable codes."""
    code = f"import embeddings; print(embeddings.grown({kind.value!r}, {stored!r}, {str(file.resolve())!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def grown(kind: str, stored: str, file: str) -> int:
    """Called in that process: what is private to it, not what is mapped from the file."""
    codes = np.load(file, mmap_mode="r")
    levels = Levels.of_signs(codes.shape[1])  # exact engines do not look at them while building
    build(EngineKind(kind), codes[:100].copy(), Precision(stored), levels, exact=True)  # imports the library
    before = private_bytes()
    held: Any
    if kind == "faiss":
        held = FaissEngine.build(codes, Precision(stored), levels, exact=True)
    elif kind == "usearch":
        held = UsearchEngine(Precision(stored), codes.copy())
    else:
        held = build(EngineKind.EXACT, codes.copy(), Precision(stored), levels, exact=True)
    after = private_bytes()
    assert len(held) == len(codes)
    return after - before


def private_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    if found is None:
        raise SystemExit("memory is read from /proc/self/status, which this system does not have")
    return 1024 * int(found.group(1))


def unit(values: np.ndarray) -> np.ndarray:
    lengths = np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return np.ascontiguousarray(values / lengths, np.float32)


# ---- what is shown --------------------------------------------------------------------------------------------------

SHOWN = {
    "float32": "float32",
    "float16": "float16",
    "int8, no rescoring": "int8 / uint8, no rescoring",
    "int8": "int8 / uint8",
    "binary, no rescoring": "binary / ubinary, no rescoring",
    "binary": "binary / ubinary",
    "binary + int8 on disk": "binary / ubinary + int8 on disk",
}


def write_section(document: dict[str, Any], readme: Path) -> None:
    machine, versions = document["machine"], document["versions"]
    lines = [
        "## Quantised embeddings",
        "",
        f"{document['model']}, nDCG@10 and the share of float32's at 384 dimensions that is kept. *Rescored* rows order "
        f"twice (int8) or {MULTIPLIER} times (binary) as many candidates by the float query; *+ int8 on disk* by rows of int8 that only "
        "candidates are read of, which is how `stopt index` keeps binary documents unless it is told otherwise: bits alone, "
        "rescored or not, lose more. int8 and uint8, binary and ubinary differ in 128 alone and are found equal.",
        "",
        *quality_table(document["quality"]),
        "",
        "![quality against bytes](results/embeddings.png)",
        "",
        f"Exact search of {document['speed']['vectors']:,} synthetic vectors of {document['speed']['dimension']} dimensions: "
        "queries/s, one at a time and 64 at a time, beside float32 of the same library; memory that a fresh process grows by.",
        "",
        *speed_table(document["speed"]),
        "",
        "Where the library is the limit: numpy has no product of int8, whose codes are turned into floats block by block, so that "
        "int8 saves memory there rather than time; it multiplies 64 float32 queries as matrices, for which it has no counterpart "
        "in bits; usearch gains little from bits, its exhaustive search being bound by something else than the distance.",
        "",
        f"{machine['processor']}, {machine['cores']} core(s) ({', '.join(machine['features'])}), {document['date']}, "
        f"load average {document['load'][0][0]:.1f} before and {document['load'][1][0]:.1f} after, numpy {versions['numpy']}, faiss {versions['faiss-cpu']}, usearch {versions['usearch']}; raw figures in "
        "results/embeddings.json.",
    ]
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}", encoding="utf-8")


def quality_table(sets: dict[str, Any]) -> list[str]:
    names = list(sets)
    lines = [
        "| documents | dimensions | bytes | " + " | ".join(f"{name} | kept" for name in names) + " |",
        "|---|---|---|" + "---|---|" * len(names),
    ]
    found = {
        name: {(row["form"], row["dimension"]): row for row in each["rows"]} for name, each in sets.items()
    }
    for form, shown in SHOWN.items():
        for dimension in dict.fromkeys(row["dimension"] for row in sets[names[0]]["rows"]):
            cells = []
            for name in names:
                row = found[name][form, dimension]
                twin = found[name].get((f"u{form}", dimension))
                assert twin is None or twin["ndcg@10"] == row["ndcg@10"], (form, twin, row)
                cells.append(f"{row['ndcg@10']:.4f} | {100 * row['kept']:.1f} %")
            bytes_ = found[names[0]][form, dimension]["bytes"]
            lines.append(f"| {shown} | {dimension} | {bytes_} | {' | '.join(cells)} |")
    return lines


def speed_table(speeds: dict[str, Any]) -> list[str]:
    lines = [
        "| engine | documents | recall@10 | queries/s, 1 | vs float32 | queries/s, 64 | vs float32 | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in speeds["rows"]:
        memory_ = "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 1e6:.0f} MB"
        engine = "numpy" if row["engine"] == "exact" else row["engine"]
        lines.append(
            f"| {engine} | {row['form']} | {row['recall@10']:.3f} | "
            f"{row['queries_per_second_1']:.1f} | {row['vs_float32_1']:.1f}x | "
            f"{row['queries_per_second_64']:.1f} | {row['vs_float32_64']:.1f}x | {memory_} |"
        )
    return lines


def plot(document: dict[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sets = document["quality"]
    figure, axes = pyplot.subplots(1, len(sets), figsize=(6 * len(sets), 4.2), sharey=True, squeeze=False)
    for axis, (name, each) in zip(axes[0], sets.items(), strict=True):
        for form, shown in SHOWN.items():
            rows = [row for row in each["rows"] if row["form"] == form]
            axis.plot(
                [row["bytes"] for row in rows],
                [100 * row["kept"] for row in rows],
                marker="o",
                linestyle="--" if "no rescoring" in form else "-",
                label=shown,
            )
        axis.set_xscale("log", base=2)
        axis.set_title(f"{name}: {each['documents']:,} documents, {each['queries']} queries")
        axis.set_xlabel("bytes per document searched (384, 256, 128, 64 dimensions)")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("% of float32's nDCG@10")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
