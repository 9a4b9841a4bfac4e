"""The picture of a run: speed against quality, one point per file."""

from __future__ import annotations

from pathlib import Path

from stopt.artifact import replacing
from stopt.benchmarking.report import BenchReport
from stopt.errors import MissingExtra, OptionError

__all__ = ["FORMATS", "plot", "require_plot"]

FORMATS = (".png", ".svg", ".pdf")


def require_plot(file: Path) -> None:
    """Make sure, before long work, that a picture can be drawn.

    Raises:
        OptionError: If the file's name does not end in one of :data:`FORMATS`.
        MissingExtra: If matplotlib is not installed.
    """
    if file.suffix.lower() not in FORMATS:
        raise OptionError(f"{file} is no picture that can be drawn", f"the name ends in {', '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error


def plot(report: BenchReport, file: Path) -> None:
    """Draw texts per second against nearness to torch; without torch, against latency.

    Args:
        report: What was measured.
        file: Where the picture goes; one that is there is replaced.

    Raises:
        OptionError, MissingExtra: As :func:`require_plot`.
        ArtifactError: If it cannot be written.
    """
    require_plot(file)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    qualities = [row.same_order if row.mean_cosine is None else row.mean_cosine for row in report.rows]
    compared = None not in qualities
    for row, quality in zip(report.rows, qualities, strict=True):
        y = row.latency_p50_ms if quality is None or not compared else quality
        axes.scatter(row.texts_per_second, y, s=40)
        axes.annotate(
            f"{row.file}\n{row.precision}, {row.size_bytes / 1e6:.0f} MB",
            (row.texts_per_second, y),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xlim(left=0, right=1.35 * max(row.texts_per_second for row in report.rows))
    axes.margins(y=0.15)
    axes.set_xlabel(
        f"texts per second ({report.texts} texts, {report.tokens / report.texts:.0f} tokens each)"
    )
    what = "rank correlation with" if report.rows[0].mean_cosine is None else "mean cosine to"
    axes.set_ylabel(f"{what} torch float32" if compared else "median latency of one text, ms")
    machine = report.machine
    axes.set_title(f"{report.model}: {machine['processor']}, {machine['threads']} threads", fontsize=10)
    axes.grid(alpha=0.3)
    with replacing(file) as temporary:
        figure.savefig(temporary, format=file.suffix.lower()[1:], dpi=150)
