"""Models by name: a folder as it is, or a repository of the Hugging Face Hub fetched into the local cache.

A commit never changes, so what is cached of one is used without asking the Hub, and so is the list of its files, which is
kept in stopt's own cache. A branch or a tag is asked for, unless there is no connection: then the cache decides.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from stopt.artifact import sha256
from stopt.errors import CorruptModel, OptionError, SourceError, StoptError, UntrustedModel
from stopt.folder import contained
from stopt.hub import listing
from stopt.hub.calls import bounded, checked_token, cleaned, require_client, status_of
from stopt.hub.failures import broken, cause_of, source_failure, untrusted_name
from stopt.hub.listing import Listing
from stopt.staging import settle

__all__ = ["CODE", "CONVERTED", "WEIGHTS", "Source", "cached_as", "fetch"]

# everything a model needs beside the weights of its transformer; safetensors of modules are small
_SIDECARS = ("*.json", "*.txt", "*.model", "*_*/config.json", "*_*/model.safetensors")
WEIGHTS = ("model*.safetensors", "0_*/*.safetensors", "0_*/*.json", "0_*/*.txt", "0_*/*.model")
CODE = ("*.py",)  # which only a conversion that was told to trust it has a use for
CONVERTED = ("*.onnx*", "onnx/*", "openvino/*", "openvino_model*")

_ATTEMPTS = 3  # at files whose connection breaks
_BEYOND_THE_END = 416  # HTTP: the rest of a file that has none
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LARGE_BLOB = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Source:
    """A model folder and where it came from.

    Attributes:
        folder: The folder, on this machine.
        name: The path, as the user gave it, or the Hub id with its organisation.
        revision: Commit of the Hub repository; None for a folder.
        listed: Sizes (bytes) of all files of the repository by name, fetched or not; empty if they are not known.
    """

    folder: Path
    name: str
    revision: str | None = None
    listed: Listing = field(default_factory=dict, compare=False)

    @property
    def pinned(self) -> str:
        """The reference that stands for exactly this: further files of the same commit are fetched with it."""
        return f"{self.name}@{self.revision}" if self.revision else os.fspath(self.folder)


def fetch(
    reference: str | Path,
    wanted: Sequence[str] = WEIGHTS,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_folder: str | Path | None = None,
    local_files_only: bool = False,
) -> Source:
    """Find the model that ``reference`` names.

    Args:
        reference: A folder, or a Hub id: ``organisation/name``, ``name`` (of ``sentence-transformers``), either with
            ``@revision``.
        wanted: Patterns of the large files to fetch from the Hub, beside the small ones.
        revision: Branch, tag or commit; a ``@revision`` in the reference says the same.
        token: Hub token; None uses the one that is logged in.
        cache_folder: Where fetched files are kept; None is ``$SENTENCE_TRANSFORMERS_HOME``, else the Hub's own cache.
        local_files_only: Use the cache only.

    Raises:
        SourceError: If there is no such folder or repository, or it cannot be reached.
        OptionError: If two revisions are given.
        UntrustedModel: If the repository has files whose names leave the folder they belong in.
        CorruptModel: If a large file arrived damaged.
    """
    text = os.fspath(reference)
    folder = Path(text)
    if text and folder.is_dir():
        settle(folder)
        return Source(folder, text)
    name, at, suffix = text.partition("@")
    if text and folder.exists():
        raise SourceError(f"{text} is a file, not a model folder", "name the folder that it is in")
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or "\\" in name or not name:
        raise SourceError(
            f"{text or 'the empty path'} does not exist",
            "name a model folder, or a Hub id: organisation/name",
        )
    if at and not suffix:
        raise SourceError(f"{text} names no revision after the @", "name a branch, tag or commit")
    if suffix and revision not in (None, suffix):
        raise OptionError(f"{text} and revision {revision!r} name different revisions", "give one of the two")
    require_client()
    repository = name if "/" in name else f"sentence-transformers/{name}"
    fetching = _Fetching(
        text, repository, suffix or revision, checked_token(token), _cache(cache_folder), local_files_only
    )
    return fetching.run(wanted)


def cached_as(folder: Path) -> tuple[str, str] | tuple[None, None]:
    """Return the Hub id and commit that a folder of the Hub's cache has the files of; of other folders, None twice."""
    commit, snapshots, home = folder.name, folder.parent.name, folder.parent.parent.name
    if snapshots != "snapshots" or not home.startswith("models--") or not _COMMIT.fullmatch(commit):
        return None, None
    return home.removeprefix("models--").replace("--", "/", 1), commit


def _cache(given: str | Path | None) -> Path:
    from huggingface_hub import constants

    return Path(given or os.environ.get("SENTENCE_TRANSFORMERS_HOME") or constants.HF_HUB_CACHE)


@dataclass(frozen=True, slots=True)
class _Fetching:
    """One model being fetched.

    Attributes:
        text: What the user called it.
        name: Its Hub id.
        revision: Branch, tag or commit; None is main.
        token: Hub token.
        cache: The Hub's cache.
        local: Whether the Hub may not be asked.
    """

    text: str
    name: str
    revision: str | None
    token: str | bool | None = field(repr=False)
    cache: Path
    local: bool

    @property
    def home(self) -> Path:
        """The repository's folder in the cache."""
        return self.cache / f"models--{self.name.replace('/', '--')}"

    def snapshot(self, commit: str) -> Path:
        """The folder that has the files of a commit."""
        return self.home / "snapshots" / commit

    def run(self, wanted: Sequence[str]) -> Source:
        """Have the wanted files here."""
        commit = self.revision if self.revision and _COMMIT.fullmatch(self.revision) else None
        known = listing.read(self.name, commit) if commit else {}
        try:
            if self.local:
                return self._cached(commit, known)
            if commit is None or not known:
                commit, known = self._ask()
        except Exception as error:  # the client raises what its transport does
            if isinstance(error, StoptError):
                raise
            return self._without_hub(error, commit, known)
        self._download(commit, known, wanted)
        return Source(self.snapshot(commit), self.name, commit, known)

    def _without_hub(self, error: Exception, commit: str | None, known: Listing) -> Source:
        """Fall back on the cache where the Hub cannot be asked; what it says about the repository goes first."""
        from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

        failure = source_failure(cleaned(error, self.token), self.text, self.name, self.revision)
        if isinstance(error, HFValidationError | RevisionNotFoundError):
            raise failure from error
        try:
            return self._cached(commit, known)
        except SourceError:
            raise failure from error

    def _cached(self, commit: str | None, known: Listing) -> Source:
        """What the cache has.

        Raises:
            SourceError: If it has nothing of the revision, or lacks small files that every model needs.
        """
        if commit is None:
            reference = self.home / "refs" / (self.revision or "main")
            commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else None
        if commit is None or not _COMMIT.fullmatch(commit) or not self.snapshot(commit).is_dir():
            raise SourceError(
                f"there is no folder {self.text}, and {self.name} is neither cached nor reachable",
                "name a model folder, or a Hub id that can be reached: organisation/name[@revision]",
            )
        known = known or listing.read(self.name, commit)
        if missing := self._missing(commit, known, ()):
            raise SourceError(
                f"only a part of {self.name} at {commit} is cached; missing: {', '.join(sorted(missing)[:5])}",
                "fetch it once with a connection",
            )
        return Source(self.snapshot(commit), self.name, commit, known)

    def _missing(self, commit: str, known: Listing, wanted: Sequence[str]) -> dict[str, int]:
        """Files of the repository that are wanted and not here, with their sizes."""
        patterns = (*_SIDECARS, *wanted)
        return {
            name: size
            for name, size in known.items()
            if any(fnmatch(name, pattern) for pattern in patterns)
            and not (self.snapshot(commit) / name).exists()
        }

    def _ask(self) -> tuple[str, Listing]:
        """Ask the Hub which commit the revision is, and for its files."""
        from huggingface_hub import HfApi

        api = HfApi(token=self.token)
        call = partial(api.model_info, self.name, revision=self.revision, files_metadata=True, timeout=20)
        (info,) = bounded([call])
        commit = str(info.sha)
        if not _COMMIT.fullmatch(commit):
            raise SourceError(f"{self.name}: the Hub names the commit {commit[:60]!r}", "check HF_ENDPOINT")
        known = {each.rfilename: int(each.size or 0) for each in info.siblings or ()}
        for name in known:
            if not isinstance(name, str) or not name:
                raise untrusted_name(self.name, name)
            try:
                contained(self.snapshot(commit), name)
            except (UntrustedModel, CorruptModel) as error:
                raise untrusted_name(self.name, name) from error
        listing.write(self.name, commit, known)
        if self.revision != commit:
            self._refer(self.revision or "main", commit)
        return commit, known

    def _refer(self, revision: str, commit: str) -> None:
        """Note in the cache which commit a branch or tag is, as the Hub's client does, for when there is no connection."""
        file = self.home / "refs" / revision
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(commit, encoding="utf-8")
        except OSError as error:
            raise SourceError(
                f"{self.cache} cannot be written to: {error.strerror}", "name another cache: HF_HOME"
            ) from error

    def _download(self, commit: str, known: Listing, wanted: Sequence[str]) -> None:
        """Fetch the files of a commit that are not here; after a broken connection, once more from where it broke."""
        missing = self._missing(commit, known, wanted)
        for attempt in range(_ATTEMPTS):
            try:
                self._transfer(commit, self._missing(commit, known, wanted))
            except Exception as error:  # the client raises what its transport does
                again = broken(cause_of(error))
                if _is_beyond_repair(error):
                    again = True
                    for part in (self.home / "blobs").glob("*.incomplete"):
                        part.unlink(missing_ok=True)
                if again and attempt < _ATTEMPTS - 1:
                    continue
                failure = source_failure(cleaned(error, self.token), self.text, self.name, self.revision)
                raise failure from error
            break
        for name in missing:
            self._verify(commit, name)

    def _transfer(self, commit: str, missing: Mapping[str, int]) -> None:
        from huggingface_hub import hf_hub_download

        fetch_one = partial(
            hf_hub_download, self.name, revision=commit, token=self.token, cache_dir=self.cache
        )
        names = sorted(missing, key=missing.__getitem__, reverse=True)
        bounded([partial(fetch_one, filename=each) for each in names], sum(missing.values()))

    def _verify(self, commit: str, name: str) -> None:
        """The client compares sizes only; the name of a large file in the cache is the hash of what it must hold."""
        link = self.snapshot(commit) / name
        blob = Path(os.path.realpath(link))
        if not _LARGE_BLOB.fullmatch(blob.name) or sha256(blob) == blob.name:
            return
        link.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        raise CorruptModel(
            f"{name} of {self.name} arrived damaged: its sha256 is not {blob.name}", "fetch it again"
        )


def _is_beyond_repair(error: Exception) -> bool:
    """Whether a part of a file is here that cannot be gone on with: it is longer than the file."""
    return status_of(cause_of(error)) == _BEYOND_THE_END or "onsistency check failed" in str(error)
