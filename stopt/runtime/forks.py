"""What an engine leaves behind in a forked copy of its process: locks, and threads that are not there.

Its destructors would wait for them forever, when the copy drops a session or just ends. So sessions are never destroyed in
a copy, and where a library waits at its own end, the copy ends without it.
"""

from __future__ import annotations

import ctypes
import os
from weakref import WeakSet

__all__ = ["leave_in_copies"]

_sessions: WeakSet[object] = WeakSet()
_hooked: set[bool] = set()  # one of the two hooks each


def leave_in_copies(session: object, *, waits_at_exit: bool = False) -> None:
    """See that a forked copy of this process can end.

    Args:
        session: What holds the engine's objects; never destroyed in a copy.
        waits_at_exit: Whether the library has destructors that run, and wait, when the process ends.
    """
    _sessions.add(session)
    if not hasattr(os, "register_at_fork"):
        return
    if False not in _hooked:
        os.register_at_fork(after_in_child=_keep_sessions)
    if waits_at_exit and True not in _hooked:
        os.register_at_fork(after_in_child=_end_without_destructors)
    _hooked.update({False, waits_at_exit})


def _keep_sessions() -> None:
    for session in _sessions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


def _end_without_destructors() -> None:
    """Put ``_exit`` before everything that has been registered for the end so far; Python's own end comes before that."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc's, which hands over the exit code
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)
