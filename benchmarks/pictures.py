"""The pictures of the benchmarks' README."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

COLOURS = {
    "sentence-transformers": "tab:blue",
    "CTranslate2": "tab:green",
    "fastembed": "tab:orange",
    "stopt": "tab:red",
}
SMALLEST = 1e-7  # distance that is told from none; what float32 itself is off by


def when_and_where(document: Mapping[str, Any]) -> str:
    """What tells a run from another one of the same question: day, processor and the best that it can."""
    machine = document["machine"]
    return ", ".join([document["date"], machine["processor"], *machine["features"][-1:]])


def speed_against_quality(document: Mapping[str, Any], file: Path) -> None:
    """Contenders as rows, the fastest on top: how fast, and how far from torch."""
    measured = {name: row for name, row in document["rows"].items() if "cosine_mean" in row}
    names = sorted(measured, key=lambda name: measured[name]["texts_per_second"])
    rows = [measured[name] for name in names]
    colours = [COLOURS.get(name.partition(" ")[0], "grey") for name in names]
    figure = Figure(figsize=(10, 1.4 + 0.24 * len(names)), layout="constrained")
    speed, quality = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    bars = speed.barh(names, [row["texts_per_second"] for row in rows], color=colours)
    speed.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    speed.margins(x=0.1)
    speed.set_xlabel("texts per second")
    quality.scatter([max(1 - row["cosine_mean"], SMALLEST) for row in rows], names, color=colours, zorder=2)
    quality.set_xscale("log")
    quality.set_xlim(left=SMALLEST / 2)
    quality.set_xlabel("1 - mean cosine to torch (left is better)")
    for axes in (speed, quality):
        axes.margins(y=0.02)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    title = f"{document['settings']['file'].partition('.')[0]} text, {when_and_where(document)}"
    figure.suptitle(title, fontsize=10)
    figure.savefig(file, dpi=100)


def lines_of(document: Mapping[str, Any], unit: str, wide: str, file: Path) -> None:
    """One line per contender over threads or lengths."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for name, row in document["rows"].items():
        keys = sorted(row, key=int)
        colour = COLOURS.get(name.partition(" ")[0], "grey")
        style = "-" if "openvino" in name else "--" if "onnx" in name else ":"
        axes.plot(
            [int(key) for key in keys],
            [row[key][unit] for key in keys],
            style,
            marker="o",
            color=colour,
            label=name,
        )
    axes.set_xscale("log", base=2)
    found = sorted({int(key) for row in document["rows"].values() for key in row})
    axes.set_xticks(found, map(str, found))
    axes.set_ylim(bottom=0)
    axes.set_xlabel(wide)
    axes.set_ylabel(unit.replace("_per_second", " per second"))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(file, dpi=100)
