"""Calls of ``huggingface_hub``: bounded in time, and without the token in what they say when they fail."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from stopt.errors import MissingExtra, OptionError

__all__ = ["GaveUp", "bounded", "checked_token", "cleaned", "require_client", "retry_after", "status_of"]

T = TypeVar("T")

PATIENCE_S = 60.0  # what the Hub may take to answer, its client's own retries included
SLOWEST = 16_384  # bytes per second below which a transfer is given up
WORKERS = 8
_TOKENS = re.compile(r"\b(?:hf|api)_[A-Za-z0-9]{20,}")


class GaveUp(Exception):
    """The other side did not finish in time; the call may still be under way."""


def require_client() -> None:
    """Make sure that ``huggingface_hub`` is installed.

    Raises:
        MissingExtra: If it is not.
    """
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "onnx") from error


def bounded(calls: Sequence[Callable[[], T]], size_bytes: int = 0) -> list[T]:
    """Run calls side by side, and give up when they take longer than any working connection needs.

    The client's own timeouts are per read: a server that sends a byte now and then holds it forever, and some of its
    requests have none.

    Args:
        calls: What to do. They run in threads that end with the process, as a call that hangs cannot be stopped.
        size_bytes: What is transferred in all.

    Returns:
        Their results, in order.

    Raises:
        GaveUp: If they did not end in time.
        Exception: What the first that failed raised; no further ones are started.
    """
    waiting = list(enumerate(calls))
    waiting.reverse()
    done: queue.SimpleQueue[tuple[int, T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        while waiting:
            try:
                number, call = waiting.pop()
            except IndexError:
                return
            try:
                done.put((number, call(), None))
            except BaseException as error:  # it is raised where it is waited for
                waiting.clear()
                done.put((number, None, error))

    for _ in range(min(WORKERS, len(calls))):
        threading.Thread(target=work, daemon=True, name="stopt-hub").start()
    return _collected(done, len(calls), limit_s(size_bytes))


def limit_s(size_bytes: int) -> float:
    """Seconds after which a call is given up that transfers so many bytes."""
    return PATIENCE_S + size_bytes / SLOWEST


def _collected(
    done: queue.SimpleQueue[tuple[int, T | None, BaseException | None]], count: int, limit_s: float
) -> list[T]:
    end = time.monotonic() + limit_s
    results: dict[int, Any] = {}
    while len(results) < count:
        try:
            number, value, error = done.get(timeout=max(end - time.monotonic(), 0.001))
        except queue.Empty:
            raise GaveUp(f"no answer within {limit_s:.0f} s") from None
        if error is not None:
            raise error
        results[number] = value
    return [results[number] for number in range(count)]


def checked_token(token: str | bool | None) -> str | bool | None:
    """Return a token without the blanks around it, as a file or a variable may have them.

    Raises:
        OptionError: If it has characters that would break the header it goes into. They are not shown.
    """
    if not isinstance(token, str):
        return token
    stripped = token.strip()
    if not stripped:
        return None
    if not stripped.isascii() or not stripped.isprintable() or " " in stripped:
        raise OptionError(
            "the Hub token has characters that no token has",
            "copy it again from the settings of your account on the Hub, or log in: hf auth login",
        )
    return stripped


def cleaned(error: BaseException, token: str | bool | None) -> BaseException:
    """Take the token out of an error, and out of those that led to it, so that no traceback shows it."""
    secrets = [token] if isinstance(token, str) and token else []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        current.args = tuple(_hidden(each, secrets) for each in current.args)
        for name in ("server_message", "strerror"):
            if isinstance(value := getattr(current, name, None), str):
                setattr(current, name, _hidden(value, secrets))
        current = current.__cause__ or current.__context__
    return error


def _hidden(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, BaseException):
        return str(_hidden(str(value), secrets))
    if not isinstance(value, str):
        return value
    for secret in secrets:
        value = value.replace(secret, "<token>")
    return _TOKENS.sub("<token>", value)


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error is about; None if there was no answer."""
    response = getattr(error, "response", None)
    found = getattr(response, "status_code", None)
    return int(found) if found is not None else None


def retry_after(error: BaseException) -> float | None:
    """Seconds that the Hub asks to wait; None if it says nothing (or a date, which it does not use)."""
    value = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return float(value) if re.fullmatch(r"\d{1,6}", value) else None
