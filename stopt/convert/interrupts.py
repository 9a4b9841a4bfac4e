"""Interrupts that wait for a good moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["postponed"]


@contextmanager
def postponed() -> Iterator[None]:
    """Hold back a SIGINT or SIGTERM until the block is done; a second one acts at once.

    The exception that a signal raises inside an exporter's C++ code can end the process without any cleaning up (seen
    in OpenVINO 2026.4's converter), and between two renames it would leave half a conversion in place.
    """
    if threading.current_thread() is not threading.main_thread():  # signals never reach the others
        yield
        return
    # None is a handler that was not installed by Python and cannot be put back
    handlers = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if (handler := signal.getsignal(number)) is not None
    }
    held: list[int] = []

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def hold(number: int, _: FrameType | None) -> None:
        restore()
        held.append(number)

    for number in handlers:
        signal.signal(number, hold)
    try:
        yield
    finally:
        restore()
        for caught in held:
            signal.raise_signal(caught)
