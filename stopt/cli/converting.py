"""What the converting commands share: their options, and how they print what they made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import wraps
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stopt.cli import options
from stopt.cli.output import Output, human_size, table
from stopt.cli.parity import batch_note, columns
from stopt.cli.push import pushed_text
from stopt.errors import OptionError, StoptError
from stopt.examples import Example
from stopt.overlap import require_apart

if TYPE_CHECKING:
    from stopt.convert.produce import Produced
    from stopt.publishing import PushResult

__all__ = ["conversion_options", "produce_and_print", "publish_options"]

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
    "trust_remote_code",
)
_CHECK_TEXTS = "stopt.check_texts"
_PUBLISH = ("push_to_hub", "create_pr", "private", "commit_message")


def publish_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add pushing what was made, and hand it to the command as ``publish``."""
    decorated = options.collect("publish", *_PUBLISH)(command)
    for decorate in (
        options.commit_message,
        options.private,
        options.create_pr,
        click.option(
            "--push-to-hub",
            is_flag=False,
            flag_value="",
            metavar="[REPO]",
            help="Push what was made, and passed its check, to this repository; by default the model's own.",
        ),
    ):
        decorated = decorate(decorated)
    return decorated


def conversion_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of :class:`~stopt.steps.ConversionOptions`, and hand them to the command as ``shared``."""
    decorated = options.collect("shared", *_SHARED)(_apart(publish_options(command)))
    for decorate in (
        options.trust_remote_code,
        options.hub_options,
        options.hints,
        options.thresholds,
        click.option(
            "--check-texts",
            callback=_load_check_texts,
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


def _apart(command: Callable[..., Any]) -> Callable[..., Any]:
    """See, before any work, that the folder to copy the model to has none of the files in it that are read."""

    @wraps(command)
    def wrapped(*args: Any, shared: Mapping[str, Any], **values: Any) -> Any:
        read = (click.get_current_context().meta.get(_CHECK_TEXTS), values.get("texts"))  # to calibrate with
        if shared["output"] is not None:
            require_apart(shared["output"], filter(None, read))
        return command(*args, shared=shared, **values)

    return wrapped


def _load_check_texts(context: click.Context, _: click.Parameter, file: Path | None) -> list[Example] | None:
    context.meta[_CHECK_TEXTS] = file
    return options.load_examples(file)


def produce_and_print(
    convert: Callable[[], Sequence[Produced]],
    model: str,
    publish: Mapping[str, Any],
    token: str | None,
    out: Output,
) -> None:
    """Make files, push them if that is asked for, and print a row for each.

    Whether there is somebody to push to is found out before the work is done; if pushing fails after it, the files stay.

    Args:
        convert: Makes them.
        model: What they are made from; its repository is the default to push to.
        publish: The options of :func:`publish_options`.
        token: Hub token.
        out: Prints.
    """
    repository = _repository(model, publish)
    if repository is None:
        _print(convert(), None, out)
        return
    from stopt.publishing import PushOptions, prepare, push

    given = {key: value for key, value in publish.items() if key != "push_to_hub"}
    wanted = PushOptions(**given, token=token)
    prepare(repository, wanted)
    made = convert()
    names = tuple(escape(each.file) for each in made)
    try:
        pushed = push(made[0].folder, repository, replace(wanted, include=names), out.step)
    except StoptError as error:
        _print(made, None, out, error)
        raise
    _print(made, pushed, out)


def _repository(model: str, publish: Mapping[str, Any]) -> str | None:
    """The repository to push to; None if nothing is to be pushed."""
    asked = publish["push_to_hub"]
    if asked is None:
        if idle := [f"--{key.replace('_', '-')}" for key in _PUBLISH if publish[key]]:
            raise OptionError(f"{' and '.join(idle)} has no use without --push-to-hub", "--push-to-hub REPO")
        return None
    if asked:
        return str(asked)
    if Path(model).exists() or "/" not in model:
        raise OptionError(f"{model} is no repository to push to", "name one: --push-to-hub organisation/name")
    return model.partition("@")[0]


def _print(
    made: Sequence[Produced], pushed: PushResult | None, out: Output, failure: StoptError | None = None
) -> None:
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
    if pushed is not None:
        human += f"\n\n{pushed_text(pushed)}"
    result = data if pushed is None else {"files": data, "push": asdict(pushed)}
    out.result(human, result, "\n".join(str(each.folder / each.file) for each in made), failure)
    if pushed is None and failure is None:
        out.hint(f"Next: stopt check {made[0].folder}")
