"""`postponed`: a signal waits for the end of the block, a second one does not. Nor do extension modules meet one."""

import importlib
import signal
import subprocess
import sys
import threading
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from stopt.interrupts import import_uninterrupted, postponed


def test_an_interrupt_waits_for_the_end_of_the_block() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), postponed():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        steps.append("after the signal")
    assert steps == ["after the signal"]


def test_a_second_interrupt_acts_at_once() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), postponed():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        steps.append("after the first")
        signal.raise_signal(signal.SIGINT)
        steps.append("after the second")
    assert steps == ["after the first"]


def test_handlers_are_as_they_were_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with postponed():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_threads_may_use_it() -> None:
    done = []

    def work() -> None:
        with postponed():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


def test_each_of_several_waits_where_every_one_is_to() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), postponed(every=True):  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        steps.append("after both")
    assert steps == ["after both"]


# ---- extension modules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["create_module", "exec_module"])
def test_an_extension_module_initialises_to_its_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str
) -> None:
    steps = []

    def initialise(name: str) -> None:
        steps.append(name)
        if name == method:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            steps.append("done")

    def create_module(_: ExtensionFileLoader, spec: ModuleSpec) -> ModuleType:
        initialise("create_module")
        return ModuleType(spec.name)

    def exec_module(_: ExtensionFileLoader, module: ModuleType) -> None:
        initialise("exec_module")

    (tmp_path / f"made_up_here{EXTENSION_SUFFIXES[0]}").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(ExtensionFileLoader, "create_module", create_module)
    monkeypatch.setattr(ExtensionFileLoader, "exec_module", exec_module)
    import_uninterrupted()
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module("made_up_here")
    assert steps == (
        ["create_module", "done", "exec_module"]
        if method == "create_module"
        else ["create_module", "exec_module", "done"]
    )


# what comes of an interrupt at the wrong microsecond: onnxruntime makes it an ImportError while it initialises; onnx ends
# the process with SIGSEGV when its module is let go before it is executed
IMPORTING = """
import signal, sys
from importlib.machinery import ExtensionFileLoader
from stopt.cli.main import cli, main

create_module = ExtensionFileLoader.create_module

def interrupt():
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)

def interrupted(self, spec):
    if spec.name.endswith("onnxruntime_pybind11_state"):
        try:
            interrupt()
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None
    module = create_module(self, spec)
    if spec.name.endswith("onnx_cpp2py_export"):
        interrupt()
    return module

ExtensionFileLoader.create_module = interrupted

@cli.command("load")
def load():
    import {package}

sys.argv = ["stopt", "load"]
main()
"""
# as packages have them; the signal comes while it runs
ENDING = """
import atexit, os, signal, sys
from stopt.cli.main import main

atexit.register(os.kill, os.getpid(), signal.{name})
sys.argv = ["stopt", "--version"]
main()
"""


@pytest.mark.scorecard("F2")
@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_an_interrupt_while_a_package_is_loaded_ends_the_command_as_any_other(package: str) -> None:
    code = IMPORTING.format(package=package)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


@pytest.mark.scorecard("F2")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_after_all_is_done_ends_the_process_at_once(name: str) -> None:
    code = ENDING.format(name=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.Signals[name], "")
    assert done.stdout.startswith("stopt ")


@pytest.mark.scorecard("F2")
def test_an_interrupt_just_before_the_end_has_no_traceback() -> None:
    code = """
import signal, sys
import stopt.cli.main as command

leave_to_system = command.leave_to_system

def interrupted():
    command.leave_to_system = leave_to_system
    signal.raise_signal(signal.SIGINT)

command.leave_to_system = interrupted
sys.argv = ["stopt", "--version"]
command.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")
