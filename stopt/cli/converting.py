"""What the converting commands share: their options, and how they print what they made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stopt.cli import options
from stopt.cli.output import Output, human_size, table
from stopt.cli.parity import batch_note, columns

if TYPE_CHECKING:
    from stopt.convert.produce import Produced

__all__ = ["conversion_options", "print_produced"]

_SHARED = (
    "output",
    "force",
    "check_texts",
    "min_cosine",
    "max_abs",
    "min_agreement",
    "task",
    "library",
    "revision",
    "token",
)


def conversion_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of :class:`~stopt.steps.ConversionOptions`, and hand them to the command as ``shared``."""
    decorated = options.collect("shared", *_SHARED)(command)
    for decorate in (
        options.hub_options,
        options.hints,
        options.thresholds,
        click.option(
            "--check-texts",
            callback=lambda _, __, file: options.load_examples(file),
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Check with these texts, one per line (or JSONL with a 'text' each), not with those that ship with "
            "stopt; for a cross-encoder pairs, with a tab between them or as JSONL.",
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
    figures = [columns(each.parity) for each in made]
    rows = [
        [
            str(each.folder / each.file),
            human_size(each.size_bytes),
            *shown.values(),
            f"{each.seconds:.1f} s",
        ]
        for each, shown in zip(made, figures, strict=True)
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
    human = table(rows, ["file", "size", *figures[0], "time"])
    human += "".join(f"\n{note}" for each in made if (note := batch_note(each.parity)))
    out.result(human, data, "\n".join(str(each.folder / each.file) for each in made))
    out.hint(f"Next: stopt check {made[0].folder}")
