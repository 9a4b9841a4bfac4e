"""What does ``stopt encode`` of a corpus cost beside the engine itself: in speed, and in memory as the corpus grows?

    python benchmarks/corpus.py WORK
    python benchmarks/corpus.py WORK memory --model FOLDER

Speed: the OpenVINO int8 file that prepare.py made, in a fresh process each time: all texts in one call in memory, and as a job
that reads a file and writes Parquet, in one process, in workers, on Ray. Rates are those of a job that is running: from its
first chunk to the last byte. Memory: the peak of the whole command with a model of its own, small enough for a million texts.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

CHUNK = 2048
FILE = "openvino/openvino_model_qint8_quantized.xml"
MEMORY = "in memory"


@dataclass(frozen=True)
class Way:
    """A way to encode the texts."""

    name: str
    threads: int
    workers: int
    engine: str = "local"


def main(argv: Sequence[str] | None = None) -> None:
    from harness import DATA, parse, parser, write

    made = parser(__doc__)
    made.add_argument("what", nargs="?", choices=("speed", "memory"), default="speed")
    made.add_argument("--texts", type=Path, default=DATA / "short.jsonl.gz")
    made.add_argument("--number", type=int, default=4 * CHUNK, help="texts, over and over (default 8192)")
    made.add_argument("--model", type=Path, help="of the memory: a folder with a small model")
    made.set_defaults(rounds=2)
    options = parse(made, argv)
    with tempfile.TemporaryDirectory(prefix="stopt-corpus-") as folder:
        if options.what == "memory":
            counts = [200, 2000] if options.smoke else [100_000, 1_000_000]
            rows = _memory(options, Path(folder), counts)
            write("corpus-memory", options, rows, {"model": options.model.name, "counts": counts}, {})
        else:
            number = 2 * CHUNK + 8 if options.smoke else options.number
            rows = _speed(options, Path(folder), number)
            write("corpus", options, rows, {"texts": number, "chunk": CHUNK}, {})


# ---- speed ----------------------------------------------------------------------------------------------------------


def _ways(options: Any) -> list[Way]:
    threads = options.threads or len(os.sched_getaffinity(0))
    found = [Way(MEMORY, threads, 1), Way(f"job, {_threads(threads)}", threads, 1)]
    if threads > 1:
        found.append(Way(f"job, {threads} workers", threads, threads))
        found.append(Way(f"job on Ray, {threads} actors", 1, threads, "ray"))
        found.append(Way("job, 1 thread", 1, 1))
    return [way for way in found if not options.only or way.name in options.only]


def _threads(number: int) -> str:
    return f"{number} thread{'s' * (number > 1)}"


def _speed(options: Any, folder: Path, number: int) -> dict[str, Any]:
    from contenders import OURS
    from harness import say

    with gzip.open(options.texts, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    corpus = folder / "corpus.jsonl"
    with corpus.open("w", encoding="utf-8") as file:
        for place in range(number):
            file.write(json.dumps({"text": texts[place % len(texts)]}) + "\n")
    ways = _ways(options)
    found: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways}
    for turn in range(options.rounds):
        for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
            request = {
                "way": [way.name, way.threads, way.workers, way.engine],
                "model": str(options.work / OURS),
                "file_name": None if options.smoke else FILE,
                "corpus": str(corpus),
                "output": str(folder / f"{turn}-{len(found[way.name])}-{way.name.replace(' ', '-')}"),
            }
            say(f"round {turn + 1}: {way.name}")
            found[way.name].append(_asked(request))
    base = found.get(MEMORY)
    rows: dict[str, Any] = {}
    for way in ways:
        rates = [each["rate"] for each in found[way.name]]
        rows[way.name] = {
            "texts_per_second": statistics.median(rates),
            "whole_s": statistics.median(each["whole_s"] for each in found[way.name]),
            "threads": way.threads * (way.workers if way.engine == "ray" else 1),
            "rates": rates,
        }
        if base:
            rows[way.name]["ratio"] = statistics.median(
                rate / each["rate"] for rate, each in zip(rates, base, strict=True)
            )
    return rows


def _asked(request: dict[str, Any]) -> dict[str, float]:
    """What a fresh process measures."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(request)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def child(request: dict[str, Any]) -> None:
    """Encode the texts in one way, and print how long it took."""
    way = Way(*request["way"])
    started = time.perf_counter()
    measured = _in_memory(way, request) if way.name == MEMORY else _as_job(way, request)
    print(json.dumps({**measured, "whole_s": time.perf_counter() - started}))


def _in_memory(way: Way, request: dict[str, Any]) -> dict[str, float]:
    from stopt import SentenceTransformer
    from stopt.folder import read_texts

    texts = read_texts(Path(request["corpus"]))
    kwargs = {"file_name": request["file_name"]} if request["file_name"] else {}
    model = SentenceTransformer(
        request["model"], backend="openvino", model_kwargs=kwargs, threads=way.threads
    )
    model.encode(texts[:CHUNK])
    started = time.perf_counter()
    model.encode(texts[CHUNK:])
    return {"rate": (len(texts) - CHUNK) / (time.perf_counter() - started)}


def _as_job(way: Way, request: dict[str, Any]) -> dict[str, float]:
    from stopt.scale import EncodeJob, Engine, ModelOptions, encode_corpus

    seen: list[tuple[int, float]] = []
    options = ModelOptions(
        request["model"], backend="openvino", file_name=request["file_name"], threads=way.threads
    )
    job = EncodeJob(
        options, [request["corpus"]], Path(request["output"]), workers=way.workers, chunk_size=CHUNK
    )
    if way.engine == "ray":
        job = replace(job, engine=Engine.RAY, shard_size=CHUNK)
    encode_corpus(job, tell=lambda progress: seen.append((progress.rows, time.time())))
    if way.engine == "ray":  # tells late of what is done; the files say when it was
        return {"rate": rate(shards_written(job.output), way.workers)}
    # the last bytes are the job's too
    return {"rate": rate([*seen[:-1], (seen[-1][0], time.time())], way.workers)}


def shards_written(output: Path) -> list[tuple[int, float]]:
    """Rows of a complete job that were on the disk, and since when, as each shard got there."""
    shards = json.loads((output / "_manifest.json").read_text(encoding="utf-8"))["shards"]
    written = sorted(((output / each["file"]).stat().st_mtime, each["rows"]) for each in shards)
    rows = accumulate(rows for _, rows in written)
    return [(total, moment) for total, (moment, _) in zip(rows, written, strict=True)]


def rate(seen: Sequence[tuple[int, float]], workers: int) -> float:
    """Rows a second of a running job, of rows that were done at moments: from the first that all workers have done.

    Opening the model is over by then; workers begin together, and so they end their first rows together.
    """
    (before, began), (rows, ended) = seen[workers - 1], seen[-1]
    return (rows - before) / (ended - began)


# ---- memory ---------------------------------------------------------------------------------------------------------


def _memory(options: Any, folder: Path, counts: Sequence[int]) -> dict[str, Any]:
    from harness import say

    if options.model is None:
        sys.exit("--model FOLDER: which model?")
    rows: dict[str, Any] = {}
    for count in counts:
        corpus = folder / f"{count}.txt"
        with corpus.open("w", encoding="utf-8") as file:
            file.writelines(_short_texts(count))
        for ending, output in (("Parquet shards", ""), (".npy", ".npy")):
            say(f"{count} texts to {ending}")
            command = [sys.executable, "-m", "stopt", "encode", options.model, corpus, "-q"]
            process = subprocess.Popen([*map(str, command), "-o", str(folder / f"out-{count}{output}")])
            started = time.perf_counter()
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                sys.exit(f"stopt encode ended with status {status}")
            rows.setdefault(ending, {})[str(count)] = {
                "peak_mb": usage.ru_maxrss * 1024 / 1e6,
                "seconds": time.perf_counter() - started,
            }
    for row in rows.values():
        row["growth"] = row[str(counts[1])]["peak_mb"] / row[str(counts[0])]["peak_mb"] - 1
    return rows


def _short_texts(count: int) -> Iterator[str]:
    """Texts of 4 to 14 words, all different."""
    words = [
        "how",
        "do",
        "I",
        "cook",
        "rice",
        "with",
        "the",
        "guitar",
        "on",
        "stage",
        "boil",
        "water",
        "in",
        "summer",
        "capital",
        "of",
        "France",
    ]
    for number in range(count):
        yield (
            " ".join(words[(number * 7 + place * 3) % len(words)] for place in range(4 + number % 11))
            + f" {number}\n"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
    else:
        main()
