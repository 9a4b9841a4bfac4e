"""The picture of a run: speed against quality, one row per file."""

from __future__ import annotations

from pathlib import Path

from stopt.artifact import replacing
from stopt.benchmarking.report import BenchReport
from stopt.errors import MissingExtra, OptionError

__all__ = ["FORMATS", "plot", "require_plot"]

FORMATS = (".png", ".svg", ".pdf")
SMALLEST = 1e-7  # distance that is told from none; what float32 itself is off by


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
    """Draw texts per second beside the distance to torch; without torch, beside latency.

    Files are rows, the fastest on top, so that names stay legible however close the figures are.

    Args:
        report: What was measured.
        file: Where the picture goes; one that is there is replaced.

    Raises:
        OptionError, MissingExtra: As :func:`require_plot`.
        ArtifactError: If it cannot be written.
    """
    require_plot(file)
    from matplotlib.figure import Figure

    rows = sorted(report.rows, key=lambda row: row.texts_per_second)
    names = [f"{row.file}\n{row.precision}, {row.size_bytes / 1e6:.0f} MB" for row in rows]
    figure = Figure(figsize=(10, 1.6 + 0.55 * len(rows)), layout="constrained")
    speed, quality = figure.subplots(1, 2, sharey=True)
    bars = speed.barh(names, [row.texts_per_second for row in rows], color="tab:blue", height=0.6)
    speed.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    speed.margins(x=0.12)
    speed.set_xlabel(
        f"texts per second ({report.texts} texts, {report.tokens / report.texts:.0f} tokens each)"
    )
    agreements = [row.same_order if row.mean_cosine is None else row.mean_cosine for row in rows]
    known = [each for each in agreements if each is not None]
    if len(known) == len(rows):
        what = "rank correlation with" if rows[0].mean_cosine is None else "mean cosine to"
        quality.scatter([max(1 - each, SMALLEST) for each in known], names, color="tab:red", zorder=2)
        quality.set_xscale("log")
        quality.set_xlim(left=SMALLEST / 2)
        quality.set_xlabel(f"1 - {what} torch float32 (left is better)")
    else:
        quality.scatter([row.latency_p50_ms for row in rows], names, color="tab:red", zorder=2)
        quality.set_xlim(left=0)
        quality.set_xlabel("median latency of one text, ms (left is better)")
    for axes in (speed, quality):
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    machine = report.machine
    figure.suptitle(f"{report.model}: {machine['processor']}, {machine['threads']} threads", fontsize=10)
    with replacing(file) as temporary:
        figure.savefig(temporary, format=file.suffix.lower()[1:], dpi=150)
