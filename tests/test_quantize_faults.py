"""Quantising and optimising when the disk is full or the user has had enough: nothing is left behind."""

import hashlib
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMANDS = {
    "optimize": ["optimize", "-O1"],
    "dynamic": ["quantize", "--avx2"],
    "static onnx": ["quantize", "--static", "--num-samples", "16"],
    "static openvino": ["quantize", "--static", "--backend", "openvino", "--num-samples", "16"],
}


@pytest.fixture
def folder(exported: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("bert"), tmp_path / "model"))


def _content(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _command(name: str, folder: Path) -> list[str]:
    verb, *options = COMMANDS[name]
    return [sys.executable, "-m", "stopt", verb, str(folder), *options]


def _small_disk() -> None:
    """Let no file grow larger than 20 kB, less than any graph: what a full disk looks like to a program."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


# every command in one process, which has torch and the quantisers to import once
ALL = """
import json, sys
from stopt.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        print("\\nexit", end.code, file=sys.stderr, flush=True)
"""


def test_a_full_disk_is_a_plain_error(folder: Path) -> None:
    before = _content(folder)
    commands = [_command(name, folder)[3:] for name in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", ALL, json.dumps(commands)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        preexec_fn=_small_disk,
    )
    *said, rest = done.stderr.split("\nexit 1\n")
    assert (len(said), rest) == (len(COMMANDS), ""), done.stderr
    for name, text in zip(COMMANDS, said, strict=True):
        assert "Error: " in text, name
        assert "Hint: " in text, name
        assert "Traceback" not in text, name
    assert _content(folder) == before


@pytest.mark.parametrize(("name", "announced"), [("dynamic", "making"), ("static openvino", "calibrating")])
def test_an_interrupt_leaves_the_folder_as_it_was(folder: Path, name: str, announced: str) -> None:
    before = _content(folder)
    with subprocess.Popen(
        _command(name, folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if announced in line:
                process.send_signal(signal.SIGINT)
                break
        said += process.stderr.readlines()
        process.wait(timeout=60)
    assert process.returncode == 130, "".join(said)
    assert not any("Traceback" in line for line in said), "".join(said)
    assert _content(folder) == before
