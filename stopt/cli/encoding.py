"""What ``stopt encode`` shows: rows on stdout, or how far a corpus is and what became of it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stopt.cli.output import Format, Output, interactive
from stopt.embeddings.call import OWN, CallRanges
from stopt.embeddings.ranges import Ranges
from stopt.errors import OptionError
from stopt.overlap import require_apart, require_not_stream
from stopt.scale import EncodeJob, Engine, OnError, Progress, Report, Results, encode_corpus, stream
from stopt.scale.formats import json_rows, write_json
from stopt.scale.sources import find_inputs
from stopt.spec import ModelKind

__all__ = ["chosen_ranges", "print_rows", "write_corpus"]


def chosen_ranges(file: Path | None, output: Path | None, *, from_call: bool) -> CallRanges:
    """The ranges that the options name.

    Raises:
        OptionError: If they name two.
        ArtifactError: If the output would take the place of their file.
    """
    if file is not None and output is not None:
        require_apart(output, [file])
    if file is not None and from_call:
        raise OptionError("--ranges and --ranges-from-call name different ranges", "give one of the two")
    if from_call:
        return OWN
    return None if file is None else Ranges.read(file)


def print_rows(job: EncodeJob, out: Output) -> None:
    """Encode and print rows as JSONL while they come, or one JSON document of all."""
    options = {
        "--resume": job.resume,
        "--engine ray": job.engine is Engine.RAY,
        "--output-format": job.format is not None,
        "--on-error reject": job.on_error is OnError.REJECT,
    }
    if asked := [name for name, given in options.items() if given]:
        raise OptionError(f"{asked[0]} needs a place to write to", "name one: -o")
    for each in find_inputs(job.inputs):  # >> appends to what is being read, without an end
        require_not_stream(each.path, 1, what="is read, and is where standard output goes")
    _say_if_terminal(job, out)
    with _progress(out) as tell, stream(job, out.step, tell) as results:
        if out.format is Format.JSON:
            out.result("", _document(results), "")
            return
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # JSONL is, whatever the locale
        for rows in results.rows:
            write_json(sys.stdout, rows)


def _document(results: Results) -> dict[str, Any]:
    rows = [row for each in results.rows for row in json_rows(each)]
    data: dict[str, Any] = {
        "file": None,
        "shape": [len(rows), *results.shape],
        "dtype": results.dtype,
        "model_file": results.model_file,
    }
    match results.kind:
        case ModelKind.DENSE:
            return {**data, "embeddings": [row["embedding"] for row in rows]}
        case ModelKind.SPARSE:
            return {**data, "active_dims": results.active / max(1, len(rows)), "rows": rows}
        case _:
            return {**data, "rows": rows}


def write_corpus(job: EncodeJob, out: Output) -> None:
    """Encode into files, and say what became of it."""
    _say_if_terminal(job, out)
    with _progress(out) as tell:
        report = encode_corpus(job, out.step, tell)
    out.result(_human(report), {"file": report.output, **_data(report)}, str(report.output))
    if report.rejected:
        out.warning(f"{report.rejected:,} rows could not be encoded: {report.rejects}")
    rate = (report.shape[0] - report.kept_rows) / max(report.seconds, 1e-9)
    out.step(f"{report.shape[0] - report.kept_rows:,} rows in {report.seconds:.1f} s, {rate:,.0f} a second")


def _say_if_terminal(job: EncodeJob, out: Output) -> None:
    if [*map(str, job.inputs)] == ["-"] and sys.stdin.isatty():
        out.hint("Reading texts from the terminal, one per line; Ctrl-D ends them.")


def _human(report: Report) -> str:
    shape = " x ".join(map(str, report.shape))
    if report.active_dims is not None:
        return f"{report.output}  {shape}, {report.active_dims:.1f} active dimensions on average"
    return f"{report.output}  {shape} {report.dtype}"


def _data(report: Report) -> dict[str, Any]:
    data = asdict(report)
    del data["output"]
    if report.active_dims is None:
        del data["active_dims"]
    return {**data, "shape": list(report.shape), "seconds": round(report.seconds, 3)}


@contextmanager
def _progress(out: Output) -> Iterator[Callable[[Progress], None]]:
    """A bar with rate and time left, where somebody looks at it."""
    if not interactive() or out.format is not Format.HUMAN:
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(desc="Encoding", unit=" rows", smoothing=0.05) as bar:

        def tell(progress: Progress) -> None:
            # how many rows there are is not known before the last; what has been read says how many it will be
            bar.total = round(progress.rows / progress.share) if progress.share else None
            bar.initial = progress.kept
            bar.n = progress.rows
            bar.refresh()

        yield tell
