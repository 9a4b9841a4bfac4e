"""Tables and pictures from benchmarks/results/*.json, put between the markers of benchmarks/README.md and README.md.

    python benchmarks/report.py

Every figure in a marked section has a file of results behind it; a section without one says so. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from contenders import TORCH
from pictures import lines_of, speed_against_quality, when_and_where
from targets import COUNTERPARTS, judged

from stopt.artifact import write_text

ROOT = Path(__file__).resolve().parent.parent

Results = Mapping[str, Mapping[str, Any]]
Table = list[str]

NOTHING = "Not measured yet."
README_ROWS = (
    "sentence-transformers torch",
    "sentence-transformers onnx int8",
    "sentence-transformers openvino",
    "sentence-transformers openvino int8",
    "CTranslate2 int8",
    "CTranslate2 int8, batches of 8",
    "fastembed int8",
    "stopt onnx int8",
    "stopt openvino bf16",
    "stopt openvino int8",
)
# questions whose scripts do not take turns
ONE_RUN = ("quality", "memory", "corpus-memory")


def main(argv: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--root", type=Path, default=ROOT, help="where README.md and benchmarks/ are")
    options = made.parse_args(argv)
    folder = options.root / "benchmarks"
    results = read(folder / "results")
    fill(folder / "README.md", dict(sections(results, folder / "results")))
    fill(options.root / "README.md", {"speed": front(results)})


def read(folder: Path) -> Results:
    """Results by file name, without those of other scripts' making."""
    found = {}
    for file in sorted(folder.glob("*.json"), key=lambda file: file.stem):
        document = json.loads(file.read_text(encoding="utf-8"))
        if "question" in document:
            found[file.stem] = document
    return found


def fill(file: Path, made: Mapping[str, Sequence[str]]) -> None:
    """Replace what stands between the markers of each section that the file has."""
    text = file.read_text(encoding="utf-8")
    for name, lines in made.items():
        begin, end = f"<!-- {name}: python benchmarks/report.py -->", f"<!-- end {name} -->"
        if begin not in text:
            print(f"{file} has no section {name}", file=sys.stderr)
            continue
        head, _, rest = text.partition(begin)
        _, found, tail = rest.partition(end)
        if not found:
            sys.exit(f"{file}: the section {name} has no end")
        text = f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{tail}"
    write_text(file, text)


def sections(results: Results, pictures: Path) -> Iterator[tuple[str, Table]]:
    yield "targets", targets(results)
    yield "throughput", throughput(results, pictures)
    for name, make in (
        ("latency", latency),
        ("cold-start", cold_start),
        ("memory", memory),
        ("quality", quality),
        ("scaling-threads", scaling_threads),
        ("scaling-length", scaling_length),
        ("pool", pool),
        ("corpus", corpus),
        ("corpus-memory", corpus_memory),
        ("rerank", rerank),
        ("sparse", sparse),
        ("scorecard", scorecard),
    ):
        documents = [document for key, document in results.items() if document["question"] == name]
        lines: Table = []
        for document in documents:
            lines += ["", *make(document)] if lines else make(document)
        yield name, lines or [NOTHING]
    for name, unit, wide in (
        ("threads", "texts_per_second", "threads"),
        ("length", "tokens_per_second", "tokens of a text"),
    ):
        if f"scaling-{name}" in results:
            lines_of(results[f"scaling-{name}"], unit, wide, pictures / f"scaling-{name}.png")


# ---- tables ---------------------------------------------------------------------------------------------------------


def targets(results: Results) -> Table:
    rows = [
        [each.what, each.wanted(), "not measured" if each.value is None else each.found(), each.verdict()]
        for each in judged(results)
    ]
    return table(["work", "must · reach for", "measured", ""], rows)


def throughput(results: Results, pictures: Path) -> Table:
    lines: Table = []
    judgements = results.get("quality", {}).get("rows", {})
    for key, document in results.items():
        if document["question"] != "throughput":
            continue
        settings = document["settings"]
        metrics = _metrics(judgements)
        rows = [
            [
                name,
                f"{row['texts_per_second']:.0f}",
                f"{row['tokens_per_second']:.0f}",
                _ratio(row.get("ratio")),
                _number(row.get("cosine_mean"), 5),
                _number(row.get("cosine_min"), 4),
                *[_number(judgements.get(name, {}).get(metric), 4) for metric in metrics],
                _percent(row.get("share_of_int8_ceiling")),
                f"{row['peak_memory_mb']:.0f}",
            ]
            for name, row in document["rows"].items()
        ]
        header = [
            "",
            "texts/s",
            "tokens/s",
            "vs ST torch",
            "cosine mean",
            "min",
            *metrics,
            "of int8 ceiling",
            "peak MB",
        ]
        picture = pictures / f"{key}.png"
        speed_against_quality(document, picture)
        ceiling = settings.get("ceiling_tops")
        lines += [
            *([""] if lines else []),
            f"**{settings['file'].partition('.')[0]}**, {when_and_where(document)}: {settings['texts']} texts of {settings['mean_tokens']:.0f} tokens on average"
            + (f"; int8 products alone reach {ceiling:.2f} TOP/s" if ceiling else ""),
            "",
            *table(header, rows),
            "",
            *losses(document, "texts_per_second"),
            *footer(document),
            "",
            f"![speed against quality](results/{picture.name})",
        ]
    return lines or [NOTHING]


def latency(document: Mapping[str, Any]) -> Table:
    rows = [
        [
            name,
            f"{row['p50_ms']:.2f}",
            f"{row['p95_ms']:.2f}",
            _ratio(row.get("ratio")),
            _ratio(row.get("ratio_to_bare")),
            _number(row.get("cosine_mean"), 5),
        ]
        for name, row in document["rows"].items()
    ]
    header = ["", "p50 ms", "p95 ms", "times as fast as ST torch", "time over the bare engine's", "cosine"]
    return [
        f"One query of {document['settings']['tokens']} tokens, {when_and_where(document)}.",
        "",
        *table(header, rows),
        "",
        *losses(document, "p50_ms", smaller=True),
        *footer(document),
    ]


def cold_start(document: Mapping[str, Any]) -> Table:
    rows = [
        [name, f"{row['start_s']:.2f}", f"{row['fastest_s']:.2f}", f"{row['memory_mb']:.0f}"]
        for name, row in document["rows"].items()
    ]
    return [
        *table(["", "first embedding after s", "fastest", "MB then"], rows),
        "",
        *losses(document, "start_s", smaller=True),
        *footer(document),
    ]


def memory(document: Mapping[str, Any]) -> Table:
    rows = [
        [
            name,
            f"{row['start_mb']:.0f}",
            f"{row['texts_peak_mb']:.0f}",
            f"{row['calls_mb'][-1]:.0f}",
            f"{row['growth_mb']:+.0f}",
        ]
        for name, row in document["rows"].items()
    ]
    settings = document["settings"]
    header = [
        "",
        "MB at the first embedding",
        f"peak, {settings['texts']} texts",
        f"after {settings['calls']} calls",
        "growth over them",
    ]
    return [*table(header, rows), "", *losses(document, "texts_peak_mb", smaller=True), *footer(document)]


def quality(document: Mapping[str, Any]) -> Table:
    rows = document["rows"]
    metrics = _metrics(rows)
    reference = rows.get(TORCH, {})
    lines = [
        [
            name,
            *[
                _number(row.get(metric), 4)
                + (
                    f" ({100 * (row[metric] / reference[metric] - 1):+.2f} %)"
                    if name != TORCH and reference.get(metric) and metric in row
                    else ""
                )
                for metric in metrics
            ],
            _number(row.get("cosine_mean"), 5),
            _number(row.get("cosine_min"), 4),
        ]
        for name, row in rows.items()
    ]
    return [*table(["", *metrics, "cosine mean", "min"], lines), "", *footer(document)]


def scaling_threads(document: Mapping[str, Any]) -> Table:
    return _scaling(document, "texts_per_second", "threads")


def scaling_length(document: Mapping[str, Any]) -> Table:
    return _scaling(document, "tokens_per_second", "tokens")


def _scaling(document: Mapping[str, Any], unit: str, wide: str) -> Table:
    columns = sorted({int(key) for row in document["rows"].values() for key in row})
    rows = [
        [name, *[f"{row[str(key)][unit]:.0f}" if str(key) in row else "" for key in columns]]
        for name, row in document["rows"].items()
    ]
    header = [f"{unit.replace('_per_second', '/s')} by {wide}", *map(str, columns)]
    return [*table(header, rows), "", *footer(document), "", f"![{wide}](results/{document['question']}.png)"]


def pool(document: Mapping[str, Any]) -> Table:
    rows = [
        [
            name,
            f"{row['texts_per_second']:.0f}",
            _ratio(row.get("ratio_to_one_process")),
            _ratio(row.get("ratio")),
            f"{row['few_ms']:.1f}",
            _number(row.get("overhead_ms"), 1),
            _number(row.get("memory_mb"), 0),
        ]
        for name, row in document["rows"].items()
    ]
    settings = document["settings"]
    header = [
        "",
        "texts/s",
        "vs the same in one process",
        "vs ST's default pool",
        f"ms for {settings['few']} short texts",
        "more than in one process",
        "MB of all processes",
    ]
    return [
        f"{settings['texts']} texts; pools of {settings['workers']} workers.",
        "",
        *table(header, rows),
        "",
        *footer(document),
    ]


def corpus(document: Mapping[str, Any]) -> Table:
    rows = [
        [
            name,
            f"{row['texts_per_second']:.0f}",
            f"{row['texts_per_second'] / row['threads']:.0f}",
            _percent(row.get("ratio")),
            f"{row['whole_s']:.1f}",
        ]
        for name, row in document["rows"].items()
    ]
    header = ["", "texts/s", "per core", "of in memory", "s with start and end"]
    settings = document["settings"]
    return [
        f"{settings['texts']} short texts, OpenVINO int8.",
        "",
        *table(header, rows),
        "",
        *footer(document),
    ]


def corpus_memory(document: Mapping[str, Any]) -> Table:
    counts = [str(count) for count in document["settings"]["counts"]]
    rows = [
        [name, *[f"{row[count]['peak_mb']:.1f}" for count in counts], f"{100 * row['growth']:+.1f} %"]
        for name, row in document["rows"].items()
    ]
    header = ["", *[f"peak MB, {int(count):,} texts" for count in counts], "growth"]
    return [f"Model: {document['settings']['model']}.", "", *table(header, rows), "", *footer(document)]


def rerank(document: Mapping[str, Any]) -> Table:
    rows = [
        [
            name,
            f"{row['ms_per_rerank']:.0f}",
            f"{row['pairs_per_second']:.0f}",
            _ratio(row.get("ratio")),
            _number(row.get("same_order"), 4),
            _number(row.get("largest_difference"), 4),
        ]
        for name, row in document["rows"].items()
    ]
    header = [
        "",
        f"ms for {document['settings']['passages']} passages",
        "pairs/s",
        "vs ST torch",
        "same order",
        "scores apart by",
    ]
    return [*table(header, rows), "", *losses(document, "pairs_per_second"), *footer(document)]


def sparse(document: Mapping[str, Any]) -> Table:
    rows = [
        [
            name,
            f"{row['texts_per_second']:.0f}",
            _ratio(row.get("ratio")),
            _number(row.get("cosine_mean"), 5),
            _number(row.get("cosine_min"), 4),
            f"{row['peak_memory_mb']:.0f}",
        ]
        for name, row in document["rows"].items()
    ]
    header = ["", "documents/s", "vs ST torch", "cosine mean", "min", "peak MB"]
    return [*table(header, rows), "", *losses(document, "texts_per_second"), *footer(document)]


def scorecard(document: Mapping[str, Any]) -> Table:
    """Points per case, and what verifying costs."""
    from scorecard import CASES

    rows = []
    for case, what in CASES.items():
        each, rival = document["cases"][case], document["rival"].get(case)
        shown = ["n/a", ""] if rival is None else [str(rival["score"]), rival["what"].replace("|", "/")]
        rows.append(
            [f"{case} {what}", str(each["score"]), str(each["tests"]), f"{each['seconds']:.1f}", *shown]
        )
    slow = "" if document["slow"] else ", without the tests marked slow"
    lines = [
        f"**{document['score']} of {2 * len(CASES)}** on {document['date']}{slow}. 2: all that is expected; 1: not all of it "
        "could be run here; 0: a test failed, or there is none.",
        "",
        *table(["case", "stopt", "tests", "s", "ST 5.7", "what it does"], rows),
    ]
    opening = document["opening"]
    if opening:
        figures = [
            [
                name,
                *(
                    f"{1000 * row[key][how]:.0f}"
                    for key in ("open_s", "cold_s")
                    for how in ("not", "verified")
                ),
                f"{100 * (row['open_s']['verified'] / row['open_s']['not'] - 1):+.0f} %",
            ]
            for name, row in opening["rows"].items()
        ]
        header = [
            "opening, ms",
            "unverified",
            "verified",
            "cold unverified",
            "cold verified",
            "cost of verifying",
        ]
        preflight = (
            f"Checking the whole folder before anything parses it: {1000 * opening['preflight_s']:.0f} ms."
        )
        lines += ["", *table(header, figures), "", preflight]
    return lines


def front(results: Results) -> Table:
    """The README's table: fewer rows, mixed and short side by side."""
    if "throughput" not in results:
        return [NOTHING]
    mixed, short = (results.get(name, {}).get("rows", {}) for name in ("throughput", "throughput-short"))
    start = results.get("cold-start", {}).get("rows", {})
    judgements = results.get("quality", {}).get("rows", {})
    metrics = _metrics(judgements)[:2]
    rows = [
        [
            name,
            f"{mixed[name]['texts_per_second']:.0f}",
            _ratio(mixed[name].get("ratio")),
            _ratio(short.get(name, {}).get("ratio")),
            _number(mixed[name].get("cosine_mean"), 4),
            *[_number(judgements.get(name, {}).get(metric), 4) for metric in metrics],
            _number(start.get(name, {}).get("start_s"), 2),
            _number(start.get(name, {}).get("memory_mb"), 0),
        ]
        for name in README_ROWS
        if name in mixed
    ]
    header = ["", "texts/s", "mixed text", "short text", "cosine", *metrics, "start s", "MB"]
    document = results["throughput"]
    verdicts = [each.verdict() for each in judged(results)]
    reached, missed = verdicts.count("reached"), verdicts.count("missed")
    return [
        *table(header, rows),
        "",
        *losses(document, "texts_per_second"),
        f"Of the goals set, {reached} are reached and {missed} missed on this machine: "
        "[which, and what limits them](benchmarks/README.md#goals).",
        "",
        *footer(document),
        "",
        "![speed against quality](benchmarks/results/throughput.png)",
    ]


def losses(document: Mapping[str, Any], key: str, *, smaller: bool = False) -> Table:
    """Where a rival with the same kind of file is ahead of stopt, and by how much; or that none is."""
    rows = document["rows"]
    compared, behind = False, []
    for ours, rivals in COUNTERPARTS.items():
        for rival in rivals:
            if ours in rows and rival in rows:
                compared = True
                better = rows[ours][key] / rows[rival][key]
                better = 1 / better if smaller else better
                if better < 1:
                    behind.append(f"{ours} against {rival} ({better:.2f}x)")
    if not compared:
        return []
    if behind:
        return [f"Where stopt loses: {'; '.join(behind)}.", ""]
    return ["stopt is ahead of every rival here with the same kind of file.", ""]


def footer(document: Mapping[str, Any]) -> Table:
    """What it was measured on and with, and who could not take part."""
    machine, versions, settings = document["machine"], document["versions"], document["settings"]
    wanted = ("sentence-transformers", "torch", "onnxruntime", "openvino", "ctranslate2", "fastembed")
    parts = ", ".join(f"{name} {versions[name]}" for name in wanted if name in versions)
    threads = settings.get("threads") or machine["threads"]
    once = document["question"].startswith(ONE_RUN)
    how = "one run of each, alone" if once else f"medians of {settings['rounds']} rounds in turns"
    lines = [
        f"{machine['processor']}, {threads} threads ({', '.join(machine['features'])}), {document['date']}; {parts}; "
        f"{how}."
    ]
    if document["skipped"]:
        listed = "; ".join(f"{name} ({why})" for name, why in document["skipped"].items())
        lines.append(f"Not measured: {listed}.")
    return lines


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table in Markdown; columns with nothing in them are left out."""
    kept = [column for column in range(len(header)) if column == 0 or any(row[column] for row in rows)]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return ["| " + " | ".join(line[column] for column in kept) + " |" for line in lines]


def _metrics(judgements: Mapping[str, Any]) -> list[str]:
    """Names of what was measured against human judgement."""
    keys = dict.fromkeys(key for row in judgements.values() for key in row)
    return [key for key in keys if key.endswith(("spearman", "ndcg@10"))]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


if __name__ == "__main__":
    main()
