"""F1: commands that are killed, anywhere: the destination is as before or as after."""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.commands import content, run, start

from stopt.artifact import Manifest
from stopt.certificate import examine
from stopt.staging import settle

CONVERSIONS = {
    "export": ["export", "--backend", "onnx", "--force"],
    "optimize": ["optimize", "-O1", "--force"],
    "quantize": ["quantize", "--target", "avx2", "--force"],
}


@pytest.fixture
def folder(exported: Callable[..., Path], tmp_path: Path) -> Path:
    """A model with files of another run in it, told apart from what a command makes by a byte at the end."""
    root = Path(shutil.copytree(exported("bert"), tmp_path / "model"))
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"text number {number}\n" for number in range(200)), encoding="utf-8")
    return root


def whole(folder: Path) -> dict[str, str]:
    """The folder as the next stopt process sees it: nothing is half there."""
    settle(folder)
    manifest = Manifest.read(folder)
    assert manifest is not None
    verdict = examine(folder, manifest)
    assert verdict.differences == (), verdict
    assert verdict.unknown == (), verdict
    return content(folder)


def killed_at(command: list[str], seconds: float) -> None:
    process = start(command)
    time.sleep(seconds)
    process.kill()
    process.communicate(timeout=60)


def kill_at_random(folder: Path, name: str, kills: int, seed: int) -> None:
    verb, *options = CONVERSIONS[name]
    command = [verb, str(folder), "-q", *options]
    copy = Path(shutil.copytree(folder, folder.with_name("after")))
    started = time.monotonic()
    assert run([verb, str(copy), "-q", *options]).code == 0
    took = time.monotonic() - started
    before, after = content(folder), content(copy)
    del before["stopt.json"], after["stopt.json"]  # it has the time that the check took in it
    chance = random.Random(seed)
    for _ in range(kills):
        killed_at(command, took * chance.uniform(0.1, 1.1))
        found = whole(folder)
        del found["stopt.json"]
        assert found in (before, after)
        if found == after:
            before = after  # it was done; the others find that
    assert run(command).code == 0
    found = whole(folder)
    del found["stopt.json"]
    assert found == after


@pytest.mark.scorecard("F1")
def test_a_kill_leaves_the_old_files_or_the_new(folder: Path) -> None:
    kill_at_random(folder, "quantize", 3, 7)


@pytest.mark.slow  # pytest -m slow tests/faults/test_killed.py
@pytest.mark.timeout(1800)
@pytest.mark.scorecard("F1")
@pytest.mark.parametrize("name", CONVERSIONS)
def test_twenty_kills_leave_the_old_files_or_the_new(folder: Path, name: str) -> None:
    kill_at_random(folder, name, 20, 20)
