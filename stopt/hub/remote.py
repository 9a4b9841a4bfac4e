"""A repository of the Hub as it is now: what it holds, and whether that equals what is here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from stopt.errors import PushError
from stopt.hub.calls import bounded, checked_token, cleaned, require_client, status_of
from stopt.hub.failures import push_failure

__all__ = ["Content", "NotSeen", "RemoteFile", "Repository", "asked", "look", "open_repository", "page"]


class NotSeen(PushError):
    """A repository that cannot be looked at without a token: it is private, not there, or out of reach."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a file is to hold.

    Attributes:
        data: The bytes, or the file that has them.
        sha256: Their hash, as it was checked before.
        size_bytes: Their number.
    """

    data: bytes | Path
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, data: bytes) -> Content:
        """Describe bytes."""
        return cls(data, hashlib.sha256(data).hexdigest(), len(data))


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in a repository: its size, and the hash that the Hub knows of it (git's for small ones)."""

    size_bytes: int
    sha256: str | None
    blob_id: str | None

    def equals(self, content: Content) -> bool:
        """Whether it holds that."""
        if self.size_bytes != content.size_bytes:
            return False
        if self.sha256 is not None:
            return self.sha256 == content.sha256
        data = content.data if isinstance(content.data, bytes) else content.data.read_bytes()
        return (
            hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == self.blob_id
        )


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository as it was found.

    Attributes:
        name: ``organisation/name``.
        revision: The branch that is looked at.
        commit: The newest commit of it; None if there is no repository.
        private: Whether it is private.
        files: What it holds.
        token: Hub token.
        branch_exists: Whether the branch is there; if not, main was looked at.
    """

    name: str
    revision: str
    commit: str | None
    private: bool
    files: Mapping[str, RemoteFile]
    token: str | bool | None = field(default=None, repr=False)
    branch_exists: bool = True

    @property
    def has_model(self) -> bool:
        """Whether a model can be loaded from it, going by the files at its root."""
        return bool({"modules.json", "config.json"} & self.files.keys())

    def read(self, path: str, limit_bytes: int = 10_000_000) -> str | None:
        """Return the text of a small file in it; None if it has no such file.

        Raises:
            PushError: If it cannot be read.
        """
        if path not in self.files or self.commit is None:
            return None
        if self.files[path].size_bytes > limit_bytes:
            raise PushError(f"{path} of {self.name} is too large to be edited", "see what it is")
        from huggingface_hub import hf_hub_download

        call = partial(hf_hub_download, self.name, path, revision=self.commit, token=self.token)
        (file,) = asked(self.name, self.token, call)
        try:
            return Path(file).read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise PushError(f"{path} of {self.name} is no UTF-8 text", "mend it there first") from error


def open_repository(
    name: str, revision: str | None = None, token: str | bool | None = None, *, anonymous: bool = False
) -> Repository:
    """Look at a repository before something is pushed to it.

    Args:
        name: ``organisation/name``.
        revision: Branch; None is main. One that does not exist is made of main when something is pushed.
        token: Hub token; None uses the one that is logged in.
        anonymous: Look without a token where there is none, which is enough to see a public repository.

    Raises:
        NotSeen: If it is looked at without a token, and cannot be seen.
        PushError: If it cannot be reached, or the token is not accepted.
    """
    require_client()
    if name.count("/") != 1:
        raise PushError(f"{name!r} is no name of a Hub repository", "organisation/name")
    from huggingface_hub import get_token

    used = checked_token(token) or checked_token(get_token())
    if not used and anonymous:
        try:
            return _looked_at(name, revision or "main", False)
        except PushError as error:
            raise NotSeen(error.message, error.hint) from error
    if not used:
        raise PushError("pushing needs a Hub token", "log in: hf auth login, or --token, or HF_TOKEN")
    return _looked_at(name, revision or "main", used)


def _looked_at(name: str, branch: str, used: str | bool) -> Repository:
    found = look(name, branch, used)
    if found.branch_exists or found.commit is None:
        return found
    if branch == "main":
        raise PushError(f"{name} has no branch main", "name another: --revision BRANCH")
    plain = look(name, "main", used)
    return Repository(name, branch, plain.commit, plain.private, plain.files, used, branch_exists=False)


def look(name: str, revision: str, token: str | bool | None) -> Repository:
    """Return what a repository holds at a branch or commit; of one that does not exist, nothing.

    Raises:
        PushError: If it cannot be told.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    call = partial(HfApi(token=token).model_info, name, revision=revision, files_metadata=True, timeout=20)
    try:
        (info,) = bounded([call])
    except GatedRepoError as error:
        raise push_failure(cleaned(error, token), name) from error
    except RepositoryNotFoundError as error:
        if (
            status_of(error) == 401
        ):  # of an unknown repository too; only those who are logged in are told that it is 404
            raise push_failure(cleaned(error, token), name) from error
        return Repository(name, revision, None, False, {}, token)
    except RevisionNotFoundError:
        return Repository(name, revision, "", False, {}, token, branch_exists=False)
    except Exception as error:  # the client raises what its transport does
        raise push_failure(cleaned(error, token), name) from error
    files = {each.rfilename: _remote_file(each) for each in info.siblings or ()}
    return Repository(name, revision, str(info.sha), bool(info.private), files, token)


def _remote_file(sibling: Any) -> RemoteFile:
    lfs = sibling.lfs
    return RemoteFile(int(sibling.size or 0), str(lfs.sha256) if lfs else None, sibling.blob_id)


def asked(name: str, token: str | bool | None, call: Callable[[], Any]) -> list[Any]:
    """Make a call, and tell its failure.

    Raises:
        PushError: If it failed.
    """
    try:
        return bounded([call])
    except Exception as error:  # the client raises what its transport does
        raise push_failure(cleaned(error, token), name) from error


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def page(name: str, commit: str | None = None) -> str:
    """Return the address of a repository, or of a commit in it."""
    return f"{_endpoint()}/{name}" + (f"/commit/{commit}" if commit else "")
