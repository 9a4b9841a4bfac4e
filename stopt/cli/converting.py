"""What the converting commands share: their options, and how they print what they made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stopt.cli import options
from stopt.cli.output import Output, human_size, table

if TYPE_CHECKING:
    from stopt.convert.produce import Produced

__all__ = ["conversion_options", "print_produced"]

_SHARED = ("output", "force", "check_texts", "min_cosine", "max_abs", "revision", "token")


def conversion_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of :class:`~stopt.steps.ConversionOptions`, and hand them to the command as ``shared``."""
    decorated = options.collect("shared", *_SHARED)(command)
    for decorate in (
        options.hub_options,
        options.thresholds,
        click.option(
            "--check-texts",
            callback=lambda _, __, file: options.load_texts(file),
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Check with these texts, one per line (or JSONL with a 'text' each), not with those that ship with stopt.",
        ),
        options.force,
        click.option(
            "-o",
            "--output",
            type=click.Path(file_okay=False, path_type=Path),
            help="Copy the model to this folder first.",
        ),
    ):
        decorated = decorate(decorated)
    return decorated


def print_produced(made: Sequence[Produced], out: Output) -> None:
    """Print a row per file that was made."""
    rows = [
        [
            str(each.folder / each.file),
            human_size(each.size_bytes),
            f"{each.parity.min_cosine:.6f}",
            f"{each.parity.mean_cosine:.6f}",
            f"{100 * each.parity.rank_overlap:.1f} %",
            f"{each.parity.batch_cosine:.6f}",
            f"{each.seconds:.1f} s",
        ]
        for each in made
    ]
    data = [
        {
            "folder": each.folder,
            "file": each.file,
            "size_bytes": each.size_bytes,
            "seconds": round(each.seconds, 3),
            "parity": each.parity.as_dict(),
        }
        for each in made
    ]
    header = ["file", "size", "cosine min", "mean", "same neighbours", "alone/batch", "time"]
    human = table(rows, header)
    for each in made:
        if each.parity.depends_on_batch:
            human += (
                f"\n{each.file}: vectors depend on the batch they are in (dynamic int8): cosine to the same text alone "
                f"down to {each.parity.batch_cosine:.4f}; static int8 has no such effect"
            )
    out.result(human, data, "\n".join(str(each.folder / each.file) for each in made))
    out.hint(f"Next: stopt check {made[0].folder}")
