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


def speed_against_quality(document: Mapping[str, Any], file: Path) -> None:
    """One point per contender: how much faster than torch, and how far from it (on a logarithmic scale)."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for name, row in document["rows"].items():
        if "cosine_mean" not in row:
            continue
        library, _, rest = name.partition(" ")
        x, y = row["texts_per_second"], max(1 - row["cosine_mean"], 1e-7)
        axes.scatter(x, y, s=36, color=COLOURS.get(library, "grey"))
        axes.annotate(rest, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7, rotation=30)
    for library, colour in COLOURS.items():
        axes.scatter([], [], s=36, color=colour, label=library)
    axes.set_yscale("log")
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("texts per second")
    axes.set_ylabel("1 - mean cosine to torch float32 (up is better)")
    axes.set_title(
        f"{document['settings']['file'].partition('.')[0]} text, {document['machine']['processor']}",
        fontsize=10,
    )
    axes.grid(alpha=0.3)
    axes.margins(y=0.15)
    axes.legend(fontsize=8, loc="lower left")
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
    axes.set_ylim(bottom=0)
    axes.set_xlabel(wide)
    axes.set_ylabel(unit.replace("_per_second", " per second"))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(file, dpi=100)
