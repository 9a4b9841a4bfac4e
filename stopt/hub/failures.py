"""What the Hub's client raised, told as one of stopt's errors.

The client's own text is long, and names links and request numbers that help nobody who reads a terminal; it stays as the
cause, which ``STOPT_DEBUG=1`` shows.
"""

from __future__ import annotations

from stopt.errors import PushError, SourceError, UntrustedModel
from stopt.hub.calls import GaveUp, retry_after, status_of

__all__ = ["broken", "cause_of", "first_line", "passing", "push_failure", "source_failure", "untrusted_name"]

# requests' names, and httpx's
_NOBODY = {
    "ConnectionError",
    "Timeout",
    "ChunkedEncodingError",
    "NetworkError",
    "TimeoutException",
    "RemoteProtocolError",
}
_REACH = "name a model folder, or a Hub id that can be reached: organisation/name[@revision]"
_LOG_IN = "log in with a token that may write: hf auth login, or --token, or HF_TOKEN"


def source_failure(error: BaseException, text: str, name: str, revision: str | None) -> SourceError:
    """Tell why a model cannot be fetched.

    Args:
        error: What was raised.
        text: What the user called the model.
        name: Its Hub id.
        revision: The revision that was asked for.
    """
    from huggingface_hub import errors

    error = cause_of(error)
    match error:
        case errors.GatedRepoError():
            return SourceError(f"{name} is gated", "accept its terms on the Hub, then `hf auth login`")
        case errors.RevisionNotFoundError():
            return SourceError(
                f"{name} has no revision {revision or 'main'!r}", "name a branch, tag or commit"
            )
        case errors.RepositoryNotFoundError():
            return SourceError(f"there is no folder {text} and no Hub repository {name} for you", _REACH)
        case errors.HFValidationError():
            return SourceError(f"there is no folder {text}, and it is no Hub id either", _REACH)
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            return _unreachable(text, name)
        case GaveUp():
            return SourceError(f"{name} could not be fetched: {error}", "check the connection and try again")
        case RecursionError():
            return SourceError(
                f"{name} could not be fetched: the Hub redirects in a circle", "check HF_ENDPOINT"
            )
    return _source_status(error, name) or (
        _unreachable(text, name)
        if broken(error)
        else SourceError(
            f"{name} could not be fetched: {first_line(error)}", "check the connection and try again"
        )
    )


def _source_status(error: BaseException, name: str) -> SourceError | None:
    """What an answer's status means to somebody who fetches; None if there was no answer, or one that says more itself."""
    match status_of(error):
        case 401:
            return SourceError(
                f"{name} could not be fetched: the Hub does not accept the token",
                "log in again: hf auth login",
            )
        case 403:
            return SourceError(f"{name} may not be read with this token", "use one that may: hf auth login")
        case 429:
            return SourceError(f"{name} could not be fetched: too many requests", _later(error))
        case int(status) if status >= 500:
            return SourceError(
                f"{name} could not be fetched: the Hub answered {status}",
                "try again later: it is the Hub's failure",
            )
        case _:
            return None


def push_failure(error: BaseException, name: str) -> PushError:
    """Tell why nothing was pushed to a repository."""
    from huggingface_hub import errors

    error = cause_of(error)
    match error:
        case errors.GatedRepoError():
            return PushError(f"{name} is gated", "accept its terms on the Hub first")
        case errors.RevisionNotFoundError():
            return PushError(f"{name} has no such branch", "leave out --revision to push to main")
        case errors.HFValidationError():
            return PushError(f"{name!r} is no name of a Hub repository", "organisation/name")
        case errors.OfflineModeIsEnabled():
            return PushError(f"{name} cannot be reached: HF_HUB_OFFLINE is set", "unset it")
        case errors.RepositoryNotFoundError():
            return PushError(f"there is no repository {name} that your token may see", _LOG_IN)
        case GaveUp():
            return PushError(
                f"{name}: {error}", "check the connection, and push again: what is there is not sent twice"
            )
    told = "the connection to the Hub broke" if broken(error) else first_line(error)
    return _push_status(error, name) or PushError(
        f"{name}: {told}", "check the connection, and push again: what is there is not sent twice"
    )


def _push_status(error: BaseException, name: str) -> PushError | None:
    """What an answer's status means to somebody who pushes; None if there was no answer."""
    match status_of(error):
        case 401:
            return PushError(f"the Hub does not accept the token for {name}", _LOG_IN)
        case 403:
            return PushError(
                f"your token may not write to {name}",
                "propose the files instead: --create-pr; or use another token",
            )
        case 409 | 412:
            return PushError(f"{name} changed while pushing; nothing was pushed", "push again")
        case 413:
            return PushError(f"{name}: the Hub refuses files of this size", "see its limits on repositories")
        case 429:
            return PushError(f"{name}: the Hub refuses further requests for now", _later(error))
        case int(status) if status >= 500:
            return PushError(
                f"{name}: the Hub answered {status}", "push again later: what is there is not sent twice"
            )
        case int(status):
            return PushError(f"{name}: the Hub answered {status}: {first_line(error)}", "see what it says")
        case _:
            return None


def untrusted_name(name: str, file: str) -> UntrustedModel:
    """The error of a repository that lists a file whose name leaves the folder it belongs in."""
    return UntrustedModel(
        f"{name} lists the file {file!r}, which leaves the model folder",
        "no honest Hub does; check HF_ENDPOINT, and do not use this model",
    )


def cause_of(error: BaseException) -> BaseException:
    """The answer, or the missing connection, that led to an error of the client which only says that a file is not there."""
    current: BaseException | None = error
    while current is not None:
        if status_of(current) is not None or (broken(current)):
            return current
        current = current.__cause__
    return error


def passing(error: BaseException) -> bool:
    """Whether a failure may be over in a moment: too many requests, a failure of the Hub itself, a broken connection."""
    cause = cause_of(error)
    status = status_of(cause)
    return broken(cause) if status is None else status == 429 or status >= 500


def first_line(error: BaseException) -> str:
    """The first line of what an error says that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def broken(error: BaseException) -> bool:
    """Whether there was nobody to answer; by name, as the client's transport is requests or httpx."""
    names = {each.__name__ for each in type(error).__mro__}
    return bool(names & _NOBODY)


def _unreachable(text: str, name: str) -> SourceError:
    return SourceError(f"there is no folder {text}, and {name} is neither cached nor reachable", _REACH)


def _later(error: BaseException) -> str:
    wait = retry_after(error)
    return f"try again in {wait:.0f} s, as it asks" if wait else "try again in some minutes"
