"""F1 and F2: commands that are killed or interrupted, anywhere: the destination is as before or as after."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.commands import content, residue, run, start, stopped

from stopt.artifact import Manifest
from stopt.certificate import examine
from stopt.staging import settle

SOON_S = 20  # 5 on a machine of its own; tests share theirs
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


# ---- interrupts -----------------------------------------------------------------------------------------------------


def commands(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Each command that writes, and what it says when it is at it."""
    texts, model = str(folder.with_name("texts.txt")), str(folder)
    out = folder.parent
    recipe = out / "recipe.toml"
    recipe.write_text(
        f'[source]\nrepo = "{model}"\n[[step]]\nkind = "quantize"\ntarget = "avx2"\n', encoding="utf-8"
    )
    return {
        "export": (["export", model, "-o", str(out / "new")], "making"),
        "optimize": (["optimize", model, "-O1"], "making"),
        "quantize": (["quantize", model, "--static", "--backend", "openvino"], "calibrating"),
        "run": (["run", str(recipe), "-o", str(out / "new")], "making"),
        "check": (["check", model, "--junit", str(out / "check.xml")], "checking"),
        "demo": (["demo", "--model", model, "-o", str(out / "demo")], "making"),
        "calibrate": (["calibrate", model, "--texts", texts], ""),
        "index": (["index", texts, "--model", model, "-o", str(out / "made.index")], ""),
        "encode": (["encode", model, texts, "-o", str(out / "out.npy")], ""),
    }


CONVERTING = ("export", "optimize", "quantize", "run", "check", "demo")


@pytest.mark.scorecard("F2")
@pytest.mark.parametrize(
    ("name", "number", "times"),
    [
        ("export", signal.SIGINT, 1),
        ("quantize", signal.SIGTERM, 1),
        ("optimize", signal.SIGINT, 1),
        ("run", signal.SIGINT, 2),
        ("demo", signal.SIGTERM, 1),
        ("check", signal.SIGTERM, 2),
        ("calibrate", signal.SIGINT, 1),
        ("index", signal.SIGTERM, 1),
        ("encode", signal.SIGINT, 1),
    ],
)
def test_an_interrupt_ends_a_command_soon_and_leaves_nothing(
    folder: Path, name: str, number: int, times: int
) -> None:
    command, said = commands(folder)[name]
    before = content(folder.parent)
    done = stopped(command, number, after=said, delay_s=0.0 if said else 0.9, times=times)
    if not said and done.code == 0:
        pytest.skip("it was done before")
    assert done.code == (130 if number == signal.SIGINT else 143), done
    assert done.seconds < SOON_S * (1 if times == 1 else 2), done
    assert "Traceback" not in done.stderr
    assert content(folder.parent) == before
    assert residue(folder.parent) == []
