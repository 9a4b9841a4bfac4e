"""``push``: which files of a folder go to the Hub, and whether they may.

What goes is what ``stopt.json`` records: files that were compared with torch, byte for byte as they were then. The model's
own files go along where the repository has no model yet. Nothing else in the folder is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from stopt import card, hub
from stopt.artifact import MANIFEST, FileRecord, Manifest, describe_parts, engine_files, is_models_own, sha256
from stopt.card import Shown
from stopt.embeddings.ranges import RANGES
from stopt.errors import ArtifactError, CorruptModel, OptionError, PushError, SourceError, suggest
from stopt.folder import contained
from stopt.parts import parts_of
from stopt.preflight import vet_onnx, vet_openvino
from stopt.reading import read_spec
from stopt.spec import Backend, ModelSpec

__all__ = ["PushOptions", "PushResult", "PushedFile", "push"]

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


@dataclass(frozen=True, slots=True)
class PushedFile:
    """A file that goes to the repository.

    Attributes:
        path: Where, with ``/``.
        size_bytes: Its size.
        state: ``new``, ``changed``, or ``same`` where the repository has it already.
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
    selection = _select(root, spec, chosen)
    remote = hub.open_repository(repository, chosen.revision, chosen.token)
    _check_remote(remote, selection, chosen)
    contents = _contents(root, selection, remote, chosen)
    shown = [
        Shown(name, record, name in selection.checked) for name, record in sorted(selection.records.items())
    ]
    about = card.About(repository, spec.kind, selection.manifest, tuple(shown), chosen.revision)
    title = chosen.commit_message or card.title(about)
    text = card.pull_request(about) if chosen.create_pr else card.commit_text(about)
    written = None
    if chosen.card:
        written = card.write(_old_card(root, remote), about)
        contents[_CARD] = hub.Content.of(written.encode())
    files = tuple(
        PushedFile(path, each.size_bytes, _state(remote, path, each)) for path, each in contents.items()
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
    )
    if chosen.dry_run:
        return replace(result, already_there=all(each.state == "same" for each in files))
    say(f"pushing {sum(each.state != 'same' for each in files)} files to {repository}")
    done = hub.upload(remote, hub.Change(title, text, contents, chosen.create_pr, chosen.private), say)
    return replace(
        result,
        url=done.url,
        commit=done.commit,
        pull_request=done.pull_request,
        already_there=done.already_there,
    )


@dataclass(frozen=True, slots=True)
class _Selection:
    """What is pushed.

    Attributes:
        records: Converted files by path, with what is known of them.
        checked: Those of them that passed a check.
        own: Files of the model itself that were asked for by name.
        all_own: All files of the model itself.
        left_out: Converted files that stay here.
        manifest: The folder's manifest, or an empty one.
        inputs: Files of the model that the converted ones were made from, as recorded.
    """

    records: Mapping[str, FileRecord]
    checked: frozenset[str]
    own: tuple[str, ...]
    all_own: tuple[str, ...]
    left_out: tuple[str, ...]
    manifest: Manifest
    inputs: Mapping[str, hub.Content]


def _select(root: Path, spec: ModelSpec, options: PushOptions) -> _Selection:
    """Choose the files, and see that each may be pushed."""
    manifest = Manifest.read(root)
    known = dict(manifest.files) if manifest else {}
    others = {
        name: _unrecorded(root, backend, name)
        for part in parts_of(spec)
        for backend in (Backend.ONNX, Backend.OPENVINO)
        for name in engine_files(root, backend, part.front.path)
        if name not in known
    }
    candidates = {**known, **others} if options.unchecked else known
    all_own = tuple(_models_own(root))
    records = {name: record for name, record in candidates.items() if _wanted(name, record, options.include)}
    own = tuple(name for name in all_own if options.include and _matches(name, options.include))
    _check_patterns(options.include, [*candidates, *others, *all_own])
    if not records and not own:
        _nothing(root, others, options)
    checked = frozenset(
        name for name, record in records.items() if name in known and record.parity.get("passed") is True
    )
    for name, record in records.items():
        if name not in checked and not options.unchecked:
            reasons = "; ".join(map(str, record.parity.get("failures") or ["its check is not recorded"]))
            raise ArtifactError(
                f"{name} has not passed a check: {reasons}",
                "convert it again, or push it as it is: --unchecked",
            )
        _check_file(root, name, record)
    left_out = tuple(sorted(name for name in others if name not in records))
    manifest = manifest or Manifest({"name": None, "revision": None})
    inputs = _inputs(root, manifest)
    return _Selection(records, checked, own, all_own, left_out, manifest, inputs)


def _wanted(name: str, record: FileRecord, patterns: Sequence[str]) -> bool:
    return not patterns or any(_matches(each, patterns) for each in (name, *record.parts))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) or fnmatch(PurePosixPath(name).name, pattern) for pattern in patterns)


def _check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(_matches(name, [pattern]) for name in names):
            raise OptionError(f"no file of the model matches --include {pattern}", suggest(pattern, names))


def _nothing(root: Path, others: Mapping[str, FileRecord], options: PushOptions) -> None:
    """Say why there is nothing to push."""
    if others:
        raise ArtifactError(
            f"{root} has converted files that stopt has not checked: {', '.join(others)}",
            f"convert with stopt, or push them as they are: --unchecked (see also: stopt check {root})",
        )
    raise ArtifactError(f"{root} has no converted files", f"make some: stopt export {root}")


def _unrecorded(root: Path, backend: Backend, name: str) -> FileRecord:
    """What can be said of a file that another tool made."""
    file = contained(root, name)
    parts = [name, *(_beside(name, each) for each in _data_files(file))]
    for part in parts:
        contained(root, part)
    known = describe_parts(root, [part for part in parts if (root / part).is_file()])
    return FileRecord(backend.value, "unknown", known, {}, {}, {})


def _data_files(file: Path) -> tuple[str, ...]:
    """The data files of a graph, as it names them; one that breaks a rule of the preflight is not read on."""
    if file.suffix == ".xml":
        vet_openvino(file)
        return (f"{file.stem}.bin",)
    return vet_onnx(file).data


def _beside(name: str, location: str) -> str:
    """Path of a data file, which a graph names relative to its own folder."""
    folder = PurePosixPath(name).parent.as_posix()
    return location if folder == "." else f"{folder}/{location}"


def _check_file(root: Path, name: str, record: FileRecord) -> None:
    """See that a file is what was recorded, with all of its data, and that none of it is outside the folder."""
    parts = record.parts
    for part, known in parts.items():
        path = contained(root, part)
        if not path.is_file():
            raise CorruptModel(f"{part} is missing, which {MANIFEST} records", "convert it again")
        if (found := sha256(path)) != known["sha256"]:
            raise CorruptModel(
                f"{part} is not the file that was checked: its sha256 is {found[:12]}…, {MANIFEST} has "
                f"{str(known['sha256'])[:12]}…",
                "convert it again",
            )
    for location in _data_files(contained(root, name)):
        part = _beside(name, location)
        contained(root, part)
        if part not in parts:
            raise CorruptModel(
                f"{name} has data in {part}, which {MANIFEST} does not record", "convert it again"
            )


def _inputs(root: Path, manifest: Manifest) -> dict[str, hub.Content]:
    """The recorded files of the model that are here.

    Raises:
        CorruptModel: If one is not what it was when the files were made from it.
    """
    found = {}
    for name, part in manifest.inputs.items():
        path = contained(root, name)
        if not path.is_file() or name == RANGES:
            continue
        if sha256(path) != part["sha256"]:
            raise CorruptModel(
                f"{name} is not the file that the converted ones were made from",
                "convert them again: --force",
            )
        found[name] = hub.Content(path, str(part["sha256"]), path.stat().st_size)
    return found


def _models_own(root: Path) -> list[str]:
    """The files that the model itself consists of, going by their names."""
    names = (path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file())
    return [name for name in names if is_models_own(name)]


def _check_remote(remote: hub.Repository, selection: _Selection, options: PushOptions) -> None:
    """See that the repository is of the same model, and as private as it is meant to be."""
    if remote.commit is None:
        if options.create_pr:
            raise PushError(
                f"there is no repository {remote.name} to open a pull request in",
                "leave out --create-pr: it is then made",
            )
        return
    if options.private and not remote.private:
        raise PushError(f"{remote.name} exists, and is public", "make it private in its settings on the Hub")
    if not remote.has_model:
        return
    for name, content in selection.inputs.items():
        there = remote.files.get(name)
        if there and not there.equals(content) and name not in selection.own:
            raise PushError(
                f"{remote.name} has another model: its {name} is not the one that these files were made from",
                "name the repository of this model, or replace the model there too: --include '*'",
            )


def _contents(
    root: Path, selection: _Selection, remote: hub.Repository, options: PushOptions
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
        contents[MANIFEST] = hub.Content.of(_manifest_text(selection, remote).encode())
    return contents


def _manifest_text(selection: _Selection, remote: hub.Repository) -> str:
    """The manifest for the repository: of the files pushed, and of those that were there and stay."""
    files = {name: selection.records[name] for name in selection.checked}
    old = Manifest.parse(text, f"{MANIFEST} of {remote.name}") if (text := remote.read(MANIFEST)) else None
    if old is not None:
        files = {**{name: record for name, record in old.files.items() if name in remote.files}, **files}
    # what the repository does not have cannot be vouched for
    own = selection.all_own if not remote.has_model else selection.own
    there = {*own, *remote.files}
    inputs = {name: each for name, each in selection.manifest.inputs.items() if name in there}
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
