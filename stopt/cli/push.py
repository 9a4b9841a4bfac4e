"""``stopt push``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stopt.cli import options
from stopt.cli.output import Output, human_size, table

if TYPE_CHECKING:
    from stopt.publishing import PushResult

__all__ = ["push", "pushed_text"]

_GIVEN = (
    "create_pr",
    "private",
    "revision",
    "token",
    "commit_message",
    "include",
    "dry_run",
    "unchecked",
    "card",
    "bench",
)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="[MODEL] REPO")
@options.create_pr
@options.private
@click.option(
    "--revision", metavar="BRANCH", help="Branch to commit to; made if it is not there.  [default: main]"
)
@options.hub_token
@options.commit_message
@click.option(
    "--include",
    multiple=True,
    metavar="GLOB",
    help="Push these files only, such as '*qint8*'; may be repeated. Also takes the model's own: '*' pushes everything.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option(
    "--unchecked", is_flag=True, help="Push files that have not passed a check, too; the model card says so."
)
@click.option(
    "--card/--no-card", default=True, show_default=True, help="Write a section into the model card."
)
@click.option(
    "--bench",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What `stopt bench --format json` printed of these files: the card then has their speed.",
)
@options.output_options
@options.collect("given", *_GIVEN)
def push(names: tuple[str, ...], given: Mapping[str, Any], out: Output) -> None:
    """Push MODEL's converted files to REPO on the Hub.

    One commit, or one pull request, with the files that stopt.json records, byte for byte as they were checked; with all
    their data files, stopt.json, and a section in the model card. MODEL is the current folder unless it is named. A
    repository that is new, or has no model in it, gets the model's own files too, so that it can be loaded.

    \b
    Example:
      stopt push ./my-model my-name/my-model --dry-run
      stopt push ./my-model my-name/my-model --private
      stopt push ./my-model their-name/their-model --create-pr --include '*qint8*'
    """
    from stopt.publishing import PushOptions
    from stopt.publishing import push as run

    if len(names) > 2:
        raise click.UsageError(f"expected [MODEL] REPO, got {len(names)} names: {' '.join(names)}")
    model = names[0] if len(names) == 2 else "."
    _print(run(model, names[-1], PushOptions(**given), out.step), out)


def _print(result: PushResult, out: Output) -> None:
    """Print what was pushed, or would be."""
    out.result(pushed_text(result), asdict(result), result.url)
    if result.left_out:
        out.hint(
            f"Not checked by stopt, and left out: {', '.join(result.left_out)} (--unchecked pushes them too)"
        )
    if result.unseen:
        out.hint(
            f"{result.repository} was not looked at ({result.unseen}). Whether it has another model, or some of these files, "
            "is not known; a private one is seen with a token: hf auth login, or --token, or HF_TOKEN"
        )
    if result.dry_run and result.card is not None:
        out.hint("The model card and the text of the commit are in --format json.")


def pushed_text(result: PushResult) -> str:
    """Return what was pushed, for people."""
    rows = [[each.path, human_size(each.size_bytes), each.state] for each in result.files]
    return f"{table(rows, ['file', 'size', 'on the Hub'])}\n\n{_summary(result)}"


def _summary(result: PushResult) -> str:
    size = human_size(sum(each.size_bytes for each in result.files if each.state != "same"))
    if result.already_there:
        return f"{result.url} has all of this already"
    if result.dry_run:
        return f"would push {size} to {result.url}: {result.title}"
    return f"pushed {size}: {result.url}"
