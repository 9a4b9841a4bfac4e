"""``stopt bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stopt.cli import options
from stopt.cli.output import Output, human_size, table

if TYPE_CHECKING:
    from stopt.benchmarking.report import BenchRow

__all__ = ["bench"]


@click.command()
@options.working_model
@click.option(
    "--file-name",
    "file_names",
    multiple=True,
    metavar="FILE",
    help="File in the model folder, such as onnx/model_O3.onnx; may be repeated. By default every one.",
)
@click.option(
    "--texts",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Measure with these texts, one per line (or JSONL with a 'text' each; pairs for a cross-encoder), not with those that ship with stopt.",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Precision of the arithmetic, of OpenVINO and torch; float32 by default.",
)
@click.option(
    "--torch/--no-torch", default=True, help="Compare with the original weights in torch, or do not."
)
@click.option("--device", help="cpu, cuda, cuda:1 …")
@options.batch_size
@options.max_batch_tokens
@options.threads
@click.option(
    "--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Turns that each file gets."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Length of a turn, at least; all texts are encoded once at least.",
)
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw speed against quality: .png, .svg or .pdf; a file that is there is replaced.",
)
@options.output_options
@options.collect(
    "engine",
    "file_names",
    "dtypes",
    "device",
    "batch_size",
    "max_batch_tokens",
    "threads",
    "rounds",
    "seconds",
    "torch",
)
def bench(model: str, texts: Path | None, picture: Path | None, engine: dict[str, Any], out: Output) -> None:
    """Measure MODEL's files side by side.

    Speed, latency, start, memory, size, and the cosine to torch.

    Each file is served by a process of its own, and they take turns. Absolute figures are this machine's at this
    moment; the ratios within one run are what counts. The quiet format is the fastest file's name.

    \b
    Example:
      stopt bench ./my-model --texts queries.txt
      stopt bench ./my-model --file-name onnx/model.onnx --file-name openvino_model_qint8_quantized.xml
      stopt bench ./my-model --threads 1 --format json --plot speed.png
    """
    from stopt.artifact import require_folder_of
    from stopt.benchmarking.contenders import BenchOptions
    from stopt.benchmarking.measuring import bench as run
    from stopt.benchmarking.plot import plot, require_plot
    from stopt.overlap import require_apart, require_not_of_model

    if picture is not None:
        require_folder_of(picture)
        require_apart(picture, [] if texts is None else [texts], what="the picture")
        require_not_of_model(picture, model, what="the picture")
        require_plot(picture)
    report = run(model, BenchOptions(texts=options.load_examples(texts), **engine), out.step)
    if picture is not None:
        plot(report, picture)
    scores = any(row.same_order is not None for row in report.rows)

    def quality(row: BenchRow) -> list[str]:
        if scores:
            return [_figure(row.same_order, "{:.4f}")]
        return [_figure(row.mean_cosine, "{:.5f}"), _figure(row.min_cosine, "{:.4f}")]

    rows = [
        [
            row.file,
            row.precision,
            human_size(row.size_bytes),
            f"{row.texts_per_second:.0f}",
            f"{row.tokens_per_second:.0f}",
            _figure(row.speedup, "{:.2f}x"),
            f"{row.latency_p50_ms:.2f}",
            f"{row.latency_p95_ms:.2f}",
            f"{row.start_s:.2f}",
            "" if row.start_memory_bytes is None else f"{row.start_memory_bytes / 1e6:.0f}",
            f"{row.peak_memory_bytes / 1e6:.0f}",
            *quality(row),
        ]
        for row in report.rows
    ]
    header = [
        "file",
        "precision",
        "size",
        "texts/s",
        "tokens/s",
        "speed",
        "p50 ms",
        "p95 ms",
        "start s",
        "MB",
        "peak MB",
    ]
    lines = [table(rows, [*header, *(["same order"] if scores else ["cosine", "min"])]), *report.notes]
    lines.append(
        f"{report.texts} texts, {report.tokens / report.texts:.0f} tokens each; {report.machine['processor']}, "
        f"{report.machine['threads']} threads"
    )
    out.result("\n".join(lines), report.as_dict(), report.rows[0].file)


def _figure(value: float | None, form: str) -> str:
    """A figure, or a dash where there is nothing to compare with."""
    return "-" if value is None else form.format(value)
