"""What users see: results on stdout in one of three formats, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import click

from stopt.errors import StoptError

__all__ = ["Format", "Output", "human_size"]

SCHEMA = 1


class Format(StrEnum):
    """How results are printed."""

    HUMAN = "human"
    JSON = "json"
    QUIET = "quiet"


@dataclass(slots=True)
class Output:
    """Printer of one command.

    Attributes:
        format: How results are printed.
        verbose: Whether details go to stderr too.
        printed: Whether the result is on stdout already; JSON is one document.
    """

    format: Format = Format.HUMAN
    verbose: bool = False
    printed: bool = False

    def result(self, human: str, data: Any, quiet: str, failure: StoptError | None = None) -> None:
        """Print the command's result on stdout.

        Args:
            human: For people.
            data: For programs: what ``json`` can write.
            quiet: The one thing that a script wants, such as a path.
            failure: The error that is about to be raised, for a result that is a failure nevertheless.
        """
        self.printed = True
        match self.format:
            case Format.HUMAN:
                click.echo(human)
            case Format.JSON:
                self._document({"result": data}, failure)
            case Format.QUIET:
                click.echo(quiet)

    def step(self, text: str) -> None:
        """Say on stderr what is being done."""
        if self.format is not Format.QUIET:
            click.secho(text, err=True, dim=True)

    def hint(self, text: str) -> None:
        """Say on stderr what to do next."""
        if self.format is Format.HUMAN:
            click.echo(text, err=True)

    def warning(self, text: str) -> None:
        """Say on stderr what the user should know."""
        click.secho(f"Warning: {text}", err=True, fg="yellow")

    def error(self, error: StoptError) -> None:
        """Report a failure: for people on stderr, for programs on stdout as well."""
        if self.format is Format.JSON and not self.printed:
            self._document({}, error)
        click.secho("Error: ", err=True, fg="red", bold=True, nl=False)
        click.echo(error.message, err=True)
        if error.hint:
            click.secho("Hint: ", err=True, fg="cyan", nl=False)
            click.echo(error.hint, err=True)

    def _document(self, content: Mapping[str, Any], failure: StoptError | None) -> None:
        document: dict[str, Any] = {"schema": SCHEMA, "ok": failure is None, **content}
        if failure is not None:
            kind = type(failure).__name__
            document["error"] = {"type": kind, "message": failure.message, "hint": failure.hint}
        click.echo(json.dumps(document, indent=2, allow_nan=False, default=str))


def human_size(size_bytes: int) -> str:
    """Write a size in decimal units: ``90.4 MB``."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Lay out rows in columns, numbers to the right."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    numeric = [
        all(row[column][:1].isdigit() or row[column][:1] in "-." for row in cells[1:])
        for column in range(len(header))
    ]
    lines = []
    for row in cells:
        parts = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def fields(values: Mapping[str, str]) -> str:
    """Lay out names and values in two columns."""
    width = max(map(len, values), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in values.items())


def debugging() -> bool:
    """Whether ``STOPT_DEBUG`` asks for tracebacks of known errors."""
    return os.environ.get("STOPT_DEBUG", "") not in ("", "0")


def interactive() -> bool:
    """Whether progress bars make sense."""
    return sys.stderr.isatty()
