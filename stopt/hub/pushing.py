"""Pushing: all files in one commit on top of a known one, or nothing; and never twice.

``create_commit`` with every file and a parent: ``upload_folder`` may cut a push into several commits, of which only the
first is guarded, so that a reader sees a new graph with old weights. Large files go to the Hub's storage first, where
nobody sees them before the commit; with ``hf_xet`` installed the client sends those through it, in chunks that are not
stored twice. When the connection breaks while the commit is made, the repository is looked at before anything is repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from stopt.errors import CorruptModel, PushError
from stopt.hub.calls import GaveUp, bounded, cleaned, retry_after, status_of
from stopt.hub.failures import cause_of, passing, push_failure
from stopt.hub.remote import Content, Repository, asked, look, open_repository, page

__all__ = ["Change", "Uploaded", "next_number", "rewrite", "upload"]

Say = Callable[[str], None]

_PAUSES_S = (2.0, 5.0, 10.0)  # before the commit is tried again
_LONGEST_WAIT_S = 60.0  # that the Hub may ask for when it gets too many requests


@dataclass(frozen=True, slots=True)
class Change:
    """A commit to be made.

    Attributes:
        title: Its first line, or the pull request's title.
        text: Its description, or the pull request's text.
        files: What it adds, by path.
        create_pr: Propose it as a pull request.
        private: Make a new repository private.
    """

    title: str
    text: str
    files: Mapping[str, Content]
    create_pr: bool = False
    private: bool = False


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What came of it.

    Attributes:
        url: Page of the commit or the pull request.
        commit: The commit.
        pull_request: Number of the pull request.
        already_there: Whether it had been done before.
    """

    url: str
    commit: str
    pull_request: int | None = None
    already_there: bool = False


def upload(repository: Repository, change: Change, say: Say = lambda _: None) -> Uploaded:
    """Make one commit, or one pull request with one commit, on top of the commit that was looked at.

    Args:
        repository: As :func:`open_repository` found it; made if it does not exist.
        change: What to commit.
        say: Is told in words what is being done.

    Raises:
        PushError: If nothing was pushed, or it cannot be told.
        CorruptModel: If a file changed since its hash was taken.
    """
    if repository.commit is None:
        if change.create_pr:
            raise PushError(
                f"there is no repository {repository.name} to open a pull request in",
                "leave out --create-pr: it is then made",
            )
        repository = _create(repository, change.private, say)
    if not repository.branch_exists:
        _branch(repository)
    new = {path: each for path, each in change.files.items() if not _same(repository, path, each)}
    assert repository.commit is not None
    if not new:
        return Uploaded(page(repository.name, repository.commit), repository.commit, already_there=True)
    if change.create_pr and (known := _proposed(repository, change)):
        return known
    return _Pushing(repository, change, new, say).run()


def _same(repository: Repository, path: str, content: Content) -> bool:
    return path in repository.files and repository.files[path].equals(content)


def _create(repository: Repository, private: bool, say: Say) -> Repository:
    from huggingface_hub import HfApi

    say(f"making the {'private ' if private else ''}repository {repository.name}")
    api = HfApi(token=repository.token)
    call = partial(api.create_repo, repository.name, private=private or None)
    asked(repository.name, repository.token, call)
    return open_repository(repository.name, repository.revision, repository.token)


def _branch(repository: Repository) -> None:
    from huggingface_hub import HfApi

    api = HfApi(token=repository.token)
    call = partial(
        api.create_branch,
        repository.name,
        branch=repository.revision,
        revision=repository.commit,
        exist_ok=True,
    )
    asked(repository.name, repository.token, call)


def _proposed(repository: Repository, change: Change) -> Uploaded | None:
    """An open pull request of the same title with the same files, from a run before."""
    from huggingface_hub import HfApi

    api = HfApi(token=repository.token)

    def listed() -> list[Any]:
        found = api.get_repo_discussions(
            repository.name, discussion_type="pull_request", discussion_status="open"
        )
        return [each for each in found if each.title == change.title]

    (pulls,) = asked(repository.name, repository.token, listed)
    for pull in sorted(pulls, key=lambda each: int(each.num), reverse=True):
        there = look(repository.name, f"refs/pr/{pull.num}", repository.token)
        if there.commit and all(_same(there, path, each) for path, each in change.files.items()):
            url = f"{page(repository.name)}/discussions/{pull.num}"
            return Uploaded(url, there.commit, int(pull.num), already_there=True)
    return None


def next_number(repository: Repository) -> int:
    """Return the number that the next pull request gets, unless somebody opens one, or a discussion, before."""
    from huggingface_hub import HfApi

    api = HfApi(token=repository.token)

    def newest() -> list[int]:
        return [int(each.num) for each in islice(api.get_repo_discussions(repository.name), 50)]

    (numbers,) = asked(repository.name, repository.token, newest)
    return max(numbers, default=0) + 1


def rewrite(repository: Repository, number: int, text: str) -> None:
    """Replace the text of a pull request.

    Raises:
        PushError: If it cannot be replaced.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=repository.token)

    def edit() -> None:
        events = api.get_discussion_details(repository.name, number).events
        opening = next(each for each in events if each.type == "comment")
        api.edit_discussion_comment(repository.name, number, opening.id, text)

    asked(repository.name, repository.token, edit)


@dataclass(frozen=True, slots=True)
class _Pushing:
    """One commit being made.

    Attributes:
        repository: What it goes on top of.
        change: The commit.
        new: Those of its files that the repository does not have yet.
        say: Is told what is being done.
    """

    repository: Repository
    change: Change
    new: Mapping[str, Content]
    say: Say

    def run(self) -> Uploaded:
        """Try until it is done, refused, or the Hub has failed too often.

        After a failure that leaves open whether the commit was made, nothing is sent before the repository was looked at.
        """
        operations = self._operations()
        last: PushError | None = None
        unknown = False
        for pause in (*_PAUSES_S, 0.0):
            try:
                if unknown and (done := self._done_before()):
                    return done
                made = self._commit(operations)
            except PushError as error:  # the Hub cannot be looked at either
                if not isinstance(error.__cause__, Exception) or not passing(error.__cause__):
                    raise
                last = error
            except Exception as error:  # the client raises what its transport does
                last = self._judge(error)
                unknown = status_of(cause_of(error)) != 429
                pause = retry_after(cause_of(error)) or pause
            else:
                return self._confirmed(made)
            self.say(f"{last.message}; trying again in {pause:.0f} s")
            time.sleep(pause)
        assert last is not None
        raise PushError(last.message, "push again later: what is there already is not pushed twice") from last

    def _operations(self) -> list[Any]:
        from huggingface_hub import CommitOperationAdd

        operations = []
        for path, content in self.new.items():
            data = content.data if isinstance(content.data, bytes) else str(content.data)
            operation = CommitOperationAdd(path_in_repo=path, path_or_fileobj=data)
            if operation.upload_info.sha256.hex() != content.sha256:
                raise CorruptModel(f"{path} changed while it was pushed; nothing was pushed", "push again")
            operations.append(operation)
        return operations

    def _commit(self, operations: list[Any]) -> Any:
        from huggingface_hub import HfApi

        repository, change = self.repository, self.change
        call = partial(
            HfApi(token=repository.token).create_commit,
            repository.name,
            operations,
            commit_message=change.title,
            commit_description=change.text,
            revision=repository.revision,
            create_pr=change.create_pr,
            parent_commit=repository.commit,
        )
        (made,) = bounded([call], sum(each.size_bytes for each in self.new.values()))
        return made

    def _judge(self, error: Exception) -> PushError:
        """Tell what went wrong, where trying again is of use; raises it where it is not, or is not safe.

        Raises:
            PushError: If the Hub refused, or may still be at it.
        """
        name = self.repository.name
        failure = push_failure(cleaned(error, self.repository.token), name)
        if isinstance(error, GaveUp):
            raise PushError(
                f"{name}: {error}; whether the commit was made cannot be told yet",
                "look at the repository, then push again: what is there is not pushed twice",
            ) from error
        cause = cause_of(error)
        if not passing(cause) or (retry_after(cause) or 0) > _LONGEST_WAIT_S:
            raise failure from error
        return failure

    def _done_before(self) -> Uploaded | None:
        """What a commit came to that the connection broke off from; None if it was not made.

        Raises:
            PushError: If somebody else committed in the meantime, or the Hub cannot be asked.
        """
        repository, change = self.repository, self.change
        if change.create_pr:
            return _proposed(repository, change)
        there = look(repository.name, repository.revision, repository.token)
        if there.commit and all(_same(there, path, each) for path, each in self.new.items()):
            return Uploaded(page(repository.name, there.commit), there.commit)
        if there.commit != repository.commit:
            raise PushError(f"{repository.name} changed while pushing; nothing was pushed", "push again")
        return None

    def _confirmed(self, made: Any) -> Uploaded:
        """See that the commit holds what was sent: files that the repository ignores are left out without a word."""
        name = self.repository.name
        there = look(name, str(made.oid), self.repository.token)
        if lost := sorted(path for path, each in self.new.items() if not _same(there, path, each)):
            raise PushError(
                f"{name} was committed to, but does not hold {', '.join(lost)} as sent ({made.commit_url})",
                "does its .gitignore leave them out?",
            )
        number = int(made.pr_num) if made.pr_num is not None else None
        return Uploaded(str(made.pr_url or made.commit_url), str(made.oid), number)
