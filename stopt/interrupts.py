"""Interrupts that wait for a good moment."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder
from types import FrameType, ModuleType

__all__ = ["import_uninterrupted", "leave_to_system", "postponed"]

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def postponed(*, every: bool = False) -> Iterator[None]:
    """Hold back a SIGINT or SIGTERM until the block is done; a second one acts at once.

    The exception that a signal raises inside an exporter's C++ code can end the process without any cleaning up (seen
    in OpenVINO 2026.4's converter), and between two renames it would leave half a conversion in place.

    Args:
        every: Whether a second one waits as well; for blocks of milliseconds.
    """
    if threading.current_thread() is not threading.main_thread():  # signals never reach the others
        yield
        return
    # None is a handler that was not installed by Python and cannot be put back
    handlers = {number: handler for number in _NUMBERS if (handler := signal.getsignal(number)) is not None}
    held: list[int] = []

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def hold(number: int, _: FrameType | None) -> None:
        if not every:
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


def import_uninterrupted() -> None:
    """Have SIGINT and SIGTERM wait, in this process, while an extension module is created and executed.

    The exception that a signal raises there comes out as an ImportError (onnxruntime 1.32) or ends the process with
    SIGABRT (onnx 1.23); between the two steps it lets go of a module that was never executed, which ends the process
    with SIGSEGV (nanobind's, such as onnx's).
    """
    sys.meta_path[:] = [_Finder if finder is PathFinder else finder for finder in sys.meta_path]


class _Finder(PathFinder):
    """Finds what Python's own does, with another loader of extension modules."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = super().find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is ExtensionFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(ExtensionFileLoader):
    def __init__(self, name: str, path: str) -> None:
        super().__init__(name, path)
        self._waiting = ExitStack()

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        with ExitStack() as waiting:
            waiting.enter_context(postponed(every=True))
            module = super().create_module(spec)
            self._waiting = waiting.pop_all()  # until it is executed
        return module

    def exec_module(self, module: ModuleType) -> None:
        with self._waiting:
            super().exec_module(module)


def leave_to_system() -> None:
    """Let further signals end the process at once, as the system does; for its end, when all is cleaned up.

    An exception would cut short what native packages do then (torch's handlers at exit print it, and go on without
    having let go of their libraries).
    """
    for number in _NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
