"""Arguments and options that several commands share: one name, one help text, one default each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from stopt.cli.output import Format, Output
from stopt.errors import SourceError
from stopt.folder import read_texts
from stopt.spec import Backend

__all__ = [
    "ENGINES",
    "OUTPUT_KEY",
    "collect",
    "converting_backend",
    "file_name",
    "file_suffix",
    "force",
    "hub_options",
    "model",
    "output_options",
    "serving_backend",
    "texts",
    "thresholds",
    "working_model",
]

Command = TypeVar("Command", bound=Callable[..., Any])
OUTPUT_KEY = "stopt.output"
ENGINES = [Backend.ONNX.value, Backend.OPENVINO.value]

model = click.argument("model")
working_model = click.argument("model", default=".")
force = click.option("-f", "--force", is_flag=True, help="Replace files that are there.")
file_name = click.option(
    "--file-name", metavar="FILE", help="File in the model folder, such as onnx/model_O3.onnx."
)
file_suffix = click.option(
    "--file-suffix",
    metavar="TEXT",
    help="What the file is called after model_, instead of sentence-transformers' name.",
)
converting_backend = click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(ENGINES),
    default=[Backend.ONNX.value],
    show_default=True,
    help="Engine to convert for; may be repeated.",
)
serving_backend = click.option(
    "--backend",
    type=click.Choice([backend.value for backend in Backend]),
    help="Engine to run; by default one whose plain file is there.",
)
texts = click.option(
    "--texts",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Check with these texts, one per line (or JSONL with a 'text' each), not with those that ship with stopt.",
)


def collect(name: str, *parameters: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Hand a command some of its parameters as one mapping, ``name``; for those it only passes on."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def wrapped(*args: Any, **values: Any) -> Any:
            return command(*args, **{name: {key: values.pop(key) for key in parameters}}, **values)

        return wrapped

    return decorate


def thresholds(command: Command) -> Command:
    """Add the thresholds of a check."""
    command = click.option(
        "--max-abs", type=click.FloatRange(min=0), help="Largest difference of a component that passes."
    )(command)
    return click.option(
        "--min-cosine",
        type=click.FloatRange(-1, 1),
        help="Smallest cosine with torch that passes; the default depends on the precision.",
    )(command)


def hub_options(command: Command) -> Command:
    """Add what fetching from the Hub needs."""
    command = click.option("--revision", help="Branch, tag or commit of a Hub repository.")(command)
    return click.option("--token", envvar="HF_TOKEN", help="Hub token.  [env: HF_TOKEN]")(command)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--format``, ``-q`` and ``-v``, and hand the command an :class:`Output` as ``out``."""

    @wraps(command)
    def wrapped(*args: Any, format_: str, quiet: bool, verbose: bool, **values: Any) -> Any:
        out = Output(Format.QUIET if quiet else Format(format_), verbose)
        click.get_current_context().meta[OUTPUT_KEY] = out
        if verbose:
            logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        return command(*args, out=out, **values)

    chosen = click.option(
        "--format",
        "format_",
        type=click.Choice([each.value for each in Format]),
        default=Format.HUMAN.value,
        show_default=True,
        help="How the result is printed.",
    )
    quiet = click.option("-q", "--quiet", is_flag=True, help="Same as --format quiet.")
    verbose = click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
    return chosen(quiet(verbose(wrapped)))


def load_texts(file: Path | None) -> list[str] | None:
    """Read the file of ``--texts``; None stays None."""
    if file is None:
        return None
    found = [text for text in read_texts(file) if text.strip()]
    if not found:
        raise SourceError(f"{file} has no text in it", "one text per line, or JSONL with a 'text' each")
    return found
