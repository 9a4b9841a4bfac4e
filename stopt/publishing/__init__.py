"""``push``: which files of a folder go to the Hub, and whether they may.

What goes is what ``stopt.json`` records: files that were compared with torch, byte for byte as they were then. The model's
own files go along where the repository has no model yet. Nothing else in the folder is looked at.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from stopt import card, hub
from stopt.artifact import MANIFEST, FileRecord, Manifest, sha256
from stopt.card import Shown
from stopt.errors import PushError, SourceError, StoptWarning
from stopt.folder import contained
from stopt.publishing.selection import Selection, select
from stopt.publishing.speeds import read_speeds
from stopt.reading import read_spec

__all__ = ["PushOptions", "PushResult", "PushedFile", "prepare", "push"]

Say = Callable[[str], None]

_CARD = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    """How a folder is pushed.

    Attributes:
        create_pr: Propose the files in a pull request instead of committing them.
        private: Make the repository private, if it is new.
        revision: Branch to commit to; None is main.
        token: Hub token; None uses the one that is logged in.
        commit_message: First line of the commit, or title of the pull request; None says what is added.
        include: Patterns of files to push, the model's own among them; empty is every converted file.
        dry_run: Say what would be pushed, and push nothing.
        unchecked: Push files that were not compared with torch, or are too far from it, too; the model card says so.
        card: Write the section about the files into the model card.
        bench: What ``stopt bench --format json`` printed of these files; the card then has their speed.
    """

    create_pr: bool = False
    private: bool = False
    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    commit_message: str | None = None
    include: tuple[str, ...] = ()
    dry_run: bool = False
    unchecked: bool = False
    card: bool = True
    bench: Path | None = None


@dataclass(frozen=True, slots=True)
class PushedFile:
    """A file that goes to the repository.

    Attributes:
        path: Where, with ``/``.
        size_bytes: Its size.
        state: ``new``, ``changed``, or ``same`` where the repository has it already; ``unknown`` where that was not
            looked at.
    """

    path: str
    size_bytes: int
    state: str


@dataclass(frozen=True, slots=True)
class PushResult:
    """What was pushed, or would be.

    Attributes:
        repository: Its name.
        url: Page of the commit or the pull request; of the repository for a dry run.
        commit: The commit; None for a dry run.
        pull_request: Number of the pull request, if one was opened.
        files: All files of the commit.
        left_out: Converted files in the folder that stay here, as stopt has not checked them.
        title: First line of the commit.
        text: Description of the commit, or text of the pull request.
        card: The model card as it is to be; None if it is left alone.
        already_there: Whether the repository, or a pull request, had all of it before.
        dry_run: Whether nothing was pushed.
        unseen: Why the repository could not be looked at, so that nothing is known of what it has; only of a dry run
            without a token.
    """

    repository: str
    url: str
    commit: str | None
    pull_request: int | None
    files: tuple[PushedFile, ...]
    left_out: tuple[str, ...]
    title: str
    text: str
    card: str | None
    already_there: bool = False
    dry_run: bool = False
    unseen: str | None = None


def push(
    model: str | Path, repository: str, options: PushOptions | None = None, say: Say = lambda _: None
) -> PushResult:
    """Push the converted files of a folder to a repository of the Hugging Face Hub, in one commit.

    Args:
        model: The model folder.
        repository: ``organisation/name``. One that does not exist is made, with the model's own files in it.
        options: What and how; None is every converted file, to main.
        say: Is told in words what is being done.

    Raises:
        ArtifactError: If the folder has no converted files, or one of them has not passed a check.
        CorruptModel: If a file is not the one that was checked.
        UntrustedModel: If a file is, or refers to, something outside the folder.
        PushError: If the Hub cannot be reached, refuses, or has another model under this name.
    """
    chosen = options or PushOptions()
    root = Path(model)
    if not root.is_dir():
        raise SourceError(f"there is no folder {model}", "name the model folder that the files are in")
    spec = read_spec(root)
    selection = select(root, spec, chosen.include, unchecked=chosen.unchecked)
    remote, unseen = _look(repository, chosen)
    if unseen is None:
        _check_remote(remote, selection, chosen)
    there = _recorded_there(remote)
    contents = _contents(root, selection, remote, there, chosen)
    speeds = read_speeds(chosen.bench, selection.records) if chosen.bench else {}
    shown = [
        Shown(name, record, name in selection.checked, speeds.get(name))
        for name, record in sorted(selection.records.items())
    ]
    about = card.About(repository, spec.kind, selection.manifest, tuple(shown), chosen.revision, chosen.card)
    kept = [Shown(name, record, True) for name, record in there.items() if name not in selection.records]
    title = chosen.commit_message or card.title(about)
    number = hub.next_number(remote) if chosen.create_pr and unseen is None else None
    text = card.pull_request(about, number) if chosen.create_pr else card.commit_text(about)
    written = None
    if chosen.card:
        everything = sorted([*shown, *kept], key=lambda each: each.name) if shown else []
        written = card.write(_old_card(root, remote), replace(about, files=tuple(everything)))
        contents[_CARD] = hub.Content.of(written.encode())
    files = tuple(
        PushedFile(path, each.size_bytes, "unknown" if unseen else _state(remote, path, each))
        for path, each in contents.items()
    )
    result = PushResult(
        repository,
        hub.page(repository),
        None,
        None,
        files,
        selection.left_out,
        title,
        text,
        written,
        dry_run=chosen.dry_run,
        unseen=unseen,
    )
    if chosen.dry_run:
        return replace(result, already_there=all(each.state == "same" for each in files))
    say(f"pushing {sum(each.state != 'same' for each in files)} files to {repository}")
    done = hub.upload(remote, hub.Change(title, text, contents, chosen.create_pr, chosen.private), say)
    if done.pull_request not in (None, number) and not done.already_there:
        text = card.pull_request(about, done.pull_request)
        _correct(remote, done.pull_request, text)
    return replace(
        result,
        text=text,
        url=done.url,
        commit=done.commit,
        pull_request=done.pull_request,
        already_there=done.already_there,
    )


def _look(repository: str, options: PushOptions) -> tuple[hub.Repository, str | None]:
    """The repository; of one that a dry run cannot see, an empty one, and the reason."""
    try:
        found = hub.open_repository(repository, options.revision, options.token, anonymous=options.dry_run)
    except hub.NotSeen as error:
        return hub.Repository(
            repository, options.revision or "main", None, options.private, {}
        ), error.message
    return found, None


def _correct(remote: hub.Repository, number: int, text: str) -> None:
    """Replace the text of a pull request that got another number than its snippet has, as somebody else was faster."""
    try:
        hub.rewrite(remote, number, text)
    except PushError as error:
        warnings.warn(
            f"the snippet in the text of pull request {number} has another number: {error.message}",
            StoptWarning,
            stacklevel=3,
        )


def prepare(repository: str, options: PushOptions) -> None:
    """See, before long work, that there will be somebody to push to.

    Raises:
        PushError: If the Hub cannot be reached, does not accept the token, or lacks what a pull request needs.
    """
    _check_repository(hub.open_repository(repository, options.revision, options.token), options)


def _check_remote(remote: hub.Repository, selection: Selection, options: PushOptions) -> None:
    """See that the repository is of the same model, and as private as it is meant to be."""
    _check_repository(remote, options)
    if not remote.has_model:
        return
    for name, content in selection.inputs.items():
        there = remote.files.get(name)
        if there and not there.equals(content) and name not in selection.own:
            raise PushError(
                f"{remote.name} has another model: its {name} is not the one that these files were made from",
                "name the repository of this model, or replace the model there too: --include '*'",
            )


def _check_repository(remote: hub.Repository, options: PushOptions) -> None:
    if remote.commit is None:
        if options.create_pr:
            raise PushError(
                f"there is no repository {remote.name} to open a pull request in",
                "leave out --create-pr: it is then made",
            )
        return
    if options.private and not remote.private:
        raise PushError(f"{remote.name} exists, and is public", "make it private in its settings on the Hub")


def _contents(
    root: Path,
    selection: Selection,
    remote: hub.Repository,
    there: Mapping[str, FileRecord],
    options: PushOptions,
) -> dict[str, hub.Content]:
    """What is committed, by path: data before the graphs that refer to it, the manifest last."""
    contents: dict[str, hub.Content] = {}
    own = selection.all_own if not remote.has_model else selection.own
    for name in own:
        if name == _CARD and options.card:
            continue  # it is written with the section in it
        path = contained(root, name)
        contents[name] = hub.Content(path, sha256(path), path.stat().st_size)
    for record in selection.records.values():
        for part, known in record.parts.items():
            contents[part] = hub.Content(root / part, str(known["sha256"]), int(known["size_bytes"]))
    if selection.checked:
        contents[MANIFEST] = hub.Content.of(_manifest_text(selection, remote, there).encode())
    return contents


def _recorded_there(remote: hub.Repository) -> dict[str, FileRecord]:
    """What the repository's own manifest says of the files that it has."""
    text = remote.read(MANIFEST)
    if text is None:
        return {}
    manifest = Manifest.parse(text, f"{MANIFEST} of {remote.name}")
    return {name: record for name, record in manifest.files.items() if name in remote.files}


def _manifest_text(selection: Selection, remote: hub.Repository, there: Mapping[str, FileRecord]) -> str:
    """The manifest for the repository: of the files pushed, and of those that were there and stay."""
    kept = {name: record for name, record in there.items() if name not in selection.records}
    files = {**kept, **{name: selection.records[name] for name in selection.checked}}
    # what the repository does not have cannot be vouched for
    own = selection.all_own if not remote.has_model else selection.own
    has = {*own, *remote.files}
    inputs = {name: each for name, each in selection.manifest.inputs.items() if name in has}
    return replace(selection.manifest, files=files, inputs=inputs).text()


def _old_card(root: Path, remote: hub.Repository) -> str:
    """The model card that gains the section: the repository's, else the folder's, else none."""
    there = remote.read(_CARD)
    if there is not None:
        return there
    path = contained(root, _CARD)
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _state(remote: hub.Repository, path: str, content: hub.Content) -> str:
    if path not in remote.files:
        return "new"
    return "same" if remote.files[path].equals(content) else "changed"
