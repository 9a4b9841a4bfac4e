"""F1 to F3 for ``stopt demo``, at every moment that matters: what is left is nothing or all, and running it again succeeds."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faults.commands import content, residue

from stopt.artifact import Manifest
from stopt.certificate import examine
from stopt.staging import settle

PLAIN = ["onnx/model.onnx", "openvino/openvino_model.xml"]
# what the command says just before the moment; "moving" is between two of the renamings that put the files in place
MAKING = ("[1/3] making", "[2/3] making", "[3/3] making")
MOVING, ENCODING = "moving", "encoding with openvino"

# imports what demo needs once, and runs it in a copy of this process for each line of standard input: what is to happen and
# when, and the folder. Says how each ended
RUNS = """
import json, os, resource, signal, sys, traceback
import nncf, onnxruntime, openvino, torch, transformers
import optimum.exporters.onnx, optimum.intel
import stopt.convert.export, stopt.convert.quantize, stopt.demo, stopt.staging as staging
from click.testing import CliRunner
from stopt.cli.main import cli
from stopt.cli.output import Output

def kill(): os.kill(os.getpid(), signal.SIGKILL)
def interrupt(): os.kill(os.getpid(), signal.SIGINT)
def fill():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))

step, roll_forward = Output.step, staging._roll_forward

def arm(act, moment):
    def said(self, text):
        step(self, text)
        if moment in text:
            act()
    def move_half(root):
        journal = root / ".stopt-commit"
        if journal.is_dir():
            names = json.loads((journal / "moves.json").read_text())["move"]
            for name in names[: len(names) // 2]:
                (journal / name).replace(root / name)
            act()
        roll_forward(root)
    if moment == "moving":
        staging._roll_forward = move_half
    elif moment:
        Output.step = said

for line in sys.stdin:
    what, moment, model, place, *options = json.loads(line)
    if not (pid := os.fork()):
        arm(globals().get(what), moment)
        done = CliRunner().invoke(cli, ["demo", "--model", model, "-o", place, *options])
        said = done.stderr
        if done.exc_info and not isinstance(done.exception, SystemExit | None):
            said += "".join(traceback.format_exception(*done.exc_info))
        os.write(1, (json.dumps([done.exit_code, done.stdout, said]) + "\\n").encode())
        os._exit(0)
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        print(json.dumps([code, "", ""]), flush=True)
"""


@dataclass(frozen=True)
class Demo:
    """Runs of ``stopt demo`` on a model.

    Attributes:
        process: What runs it.
        model: The model.
        options: Those of the command.
    """

    process: "subprocess.Popen[str]"
    model: Path
    options: tuple[str, ...]

    def run(self, place: Path, what: str = "", moment: str = "") -> tuple[int, str, str]:
        """Run it, with something happening at a moment; how it ended, what it printed and said."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = [what, moment, str(self.model), str(place), *self.options]
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        code, printed, said = json.loads(self.process.stdout.readline())
        return code, printed, said

    def assert_whole(self, place: Path) -> None:
        """See that the folder has all files as they are recorded, and no other."""
        folder = place / self.model.name
        manifest = Manifest.read(folder)
        assert manifest is not None
        assert len(manifest.files) == 3
        assert {*PLAIN} < {*manifest.files}
        verdict = examine(folder, manifest)
        assert (verdict.differences, verdict.unknown) == ((), ())


def started(model: Path, *options: str) -> Demo:
    process = subprocess.Popen(
        [sys.executable, "-c", RUNS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return Demo(process, model, options)


@pytest.fixture(scope="module", params=["static", pytest.param("dense", marks=pytest.mark.slow)])
def demo(tiny: Callable[..., Path], request: pytest.FixtureRequest) -> Any:
    """A table, of which files are made at once; pytest -m slow tests/faults/test_demo.py takes a transformer."""
    static = request.param == "static"
    made = started(tiny("bert", kind="static") if static else tiny("bert"), "--kind", request.param)
    yield made
    made.process.kill()
    made.process.communicate()


@pytest.mark.timeout(300)
@pytest.mark.scorecard("F1")
def test_a_kill_leaves_nothing_that_is_taken_for_all(demo: Demo, tmp_path: Path) -> None:
    for number, moment in enumerate((*MAKING, MOVING, ENCODING)):
        place = tmp_path / str(number)
        ended = demo.run(place, "kill", moment)
        assert ended[0] == -9, (moment, ended)
        folder = place / demo.model.name
        if moment in MAKING:
            assert content(place) == {}, moment
        elif moment == MOVING:
            assert 0 < len(content(place)) < len(content(folder / ".stopt-commit")) + len(content(place))
            assert not (folder / "stopt.json").exists()  # which says that the others are there
    again = tmp_path / "3"
    code, _, said = demo.run(again)  # moved half
    assert code == 0, said
    demo.assert_whole(again)
    settle(again / demo.model.name)
    kept = tmp_path / "4"
    demo.assert_whole(kept)  # was complete, and is not made once more
    code, _, said = demo.run(kept)
    assert code == 0, said
    assert "has been exported and checked before" in said
    begun = tmp_path / "1"
    code, _, said = demo.run(begun)
    assert code == 0, said
    demo.assert_whole(begun)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("what", "code"),
    [
        pytest.param("interrupt", 130, marks=pytest.mark.scorecard("F2")),
        pytest.param("fill", 1, marks=pytest.mark.scorecard("F3")),
    ],
)
def test_an_interrupt_or_a_full_disk_leaves_nothing(demo: Demo, tmp_path: Path, what: str, code: int) -> None:
    for moment in MAKING:
        place = tmp_path / moment[1]
        found, printed, said = demo.run(place, what, moment)
        assert (found, printed) == (code, ""), (moment, said)
        assert "Traceback" not in said
        assert (content(tmp_path), residue(tmp_path)) == ({}, []), moment
        if what == "fill":
            assert "Error: " in said
            assert "Hint: is the disk full?" in said
