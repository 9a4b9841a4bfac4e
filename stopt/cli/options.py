"""Arguments and options that several commands share: one name, one help text, one default each."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from stopt.cli.output import Format, Output, interactive
from stopt.errors import SourceError
from stopt.examples import Example, read_examples
from stopt.folder import read_texts
from stopt.spec import Backend
from stopt.steps import LIBRARIES, TASKS

__all__ = [
    "ENGINES",
    "OUTPUT_KEY",
    "batch_size",
    "batching",
    "collect",
    "commit_message",
    "converting_backend",
    "create_pr",
    "file_name",
    "file_suffix",
    "force",
    "hints",
    "hub_options",
    "hub_token",
    "max_batch_tokens",
    "model",
    "output_options",
    "private",
    "serving_backend",
    "texts",
    "threads",
    "thresholds",
    "trust_remote_code",
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
    type=click.Choice([backend.value for backend in Backend if backend is not Backend.NUMPY]),
    help="Engine to run; by default one whose plain file is there.",
)
texts = click.option(
    "--texts",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Check with these texts, one per line (or JSONL with a 'text' each), not with those that ship with stopt; for a "
    "cross-encoder pairs, with a tab between them or as JSONL.",
)


batch_size = click.option("--batch-size", type=click.IntRange(min=1), help="Texts run together, at most.")
max_batch_tokens = click.option(
    "--max-batch-tokens",
    type=click.IntRange(min=1),
    help="Tokens run together, padding included, at most; by default what suits the engine.",
)
threads = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads of the CPU; by default as many as this process may use.",
)


def collect(name: str, *parameters: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Hand a command some of its parameters as one mapping, ``name``; for those it only passes on."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def wrapped(*args: Any, **values: Any) -> Any:
            return command(*args, **{name: {key: values.pop(key) for key in parameters}}, **values)

        return wrapped

    return decorate


def batching(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add how many texts are run together, and hand it to the command as ``batching``."""
    return batch_size(max_batch_tokens(collect("batching", "batch_size", "max_batch_tokens")(command)))


def thresholds(command: Command) -> Command:
    """Add the thresholds of a check."""
    command = click.option(
        "--min-agreement",
        type=click.FloatRange(-1, 1),
        help="Smallest agreement that passes: of a sparse encoder's active dimensions, of a cross-encoder's order.",
    )(command)
    command = click.option(
        "--max-abs", type=click.FloatRange(min=0), help="Largest difference of a component that passes."
    )(command)
    return click.option(
        "--min-cosine",
        type=click.FloatRange(-1, 1),
        help="Smallest cosine with torch that passes; the default depends on the precision.",
    )(command)


def hints(command: Command) -> Command:
    """Add what optimum's command wants to be told, and what is read from the folder here."""
    command = click.option(
        "--library", type=click.Choice(LIBRARIES), help="A hint: the model's library, as optimum-cli has it."
    )(command)
    return click.option(
        "--task",
        type=click.Choice(list(TASKS)),
        help="A hint: the model's task. It is read from the folder; another one is an error.",
    )(command)


trust_remote_code = click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run the Python code that the model's config.json names, in this process and with all your rights, to compare "
    "with. Read it first. The converted files need no code and are served without.",
)
create_pr = click.option(
    "--create-pr", is_flag=True, help="Propose the files in a pull request instead of committing them."
)
private = click.option("--private", is_flag=True, help="Make the repository private, if it is new.")
commit_message = click.option(
    "--commit-message", metavar="TEXT", help="First line of the commit, or title of the pull request."
)
hub_token = click.option("--token", envvar="HF_TOKEN", help="Hub token.  [env: HF_TOKEN]")


def hub_options(command: Command) -> Command:
    """Add what fetching from the Hub needs."""
    command = click.option("--revision", help="Branch, tag or commit of a Hub repository.")(command)
    return hub_token(command)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--format``, ``-q`` and ``-v``, and hand the command an :class:`Output` as ``out``."""

    @wraps(command)
    def wrapped(*args: Any, format_: str, quiet: bool, verbose: bool, **values: Any) -> Any:
        out = Output(Format.QUIET if quiet else Format(format_), verbose)
        click.get_current_context().meta[OUTPUT_KEY] = out
        if verbose:
            logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        _hush_hub(bars=out.format is not Format.QUIET and interactive(), warnings=verbose)
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


def _hush_hub(*, bars: bool, warnings: bool) -> None:
    """Keep the Hub's client from drawing where no one looks, and from telling what an error will tell; it reads this once."""
    if not bars:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not warnings:
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")


def load_texts(file: Path | None) -> list[str] | None:
    """Read the file of ``--texts``; None stays None."""
    if file is None:
        return None
    return _some([text for text in read_texts(file) if text.strip()], file)


def load_examples(file: Path | None) -> list[Example] | None:
    """Read a file of texts or, for a cross-encoder, of pairs; None stays None."""
    return None if file is None else _some(read_examples(file), file)


def _some(found: list[Any], file: Path) -> list[Any]:
    if not found:
        raise SourceError(f"{file} has no text in it", "one text per line, or JSONL with a 'text' each")
    return found
