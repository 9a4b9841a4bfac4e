"""H16: what is produced, and so what is pushed, tells nothing of the machine that it was made on."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import stopt
from stopt import (
    CalibrationOptions,
    DynamicOptions,
    ExportOptions,
    OptimizeOptions,
    PushOptions,
    StaticOnnxOptions,
    StaticOpenVinoOptions,
)
from stopt.spec import Backend
from stopt.steps import Level, Target

pytestmark = pytest.mark.scorecard("H16")

TEXTS = ["the canary-text", "and a longer canary-text"]


def test_no_file_has_a_path_a_host_or_a_name_in_it(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_hub
) -> None:
    home, here = tmp_path / "canary-home", tmp_path / "canary-here"
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "canary-user")
    for name in ("socket.gethostname", "platform.node"):
        monkeypatch.setattr(name, lambda: "canary-host")
    monkeypatch.chdir(here)
    folder = Path(shutil.copytree(tiny("bert"), home / "models" / "model"))
    texts = home / "texts" / "queries.txt"
    texts.parent.mkdir()
    texts.write_text("".join(f"the canary-text number {number}\n" for number in range(20)), encoding="utf-8")
    calibration = CalibrationOptions(texts=texts)
    checked = {"check_texts": TEXTS, "min_cosine": -1.0}
    stopt.export(folder, ExportOptions((Backend.ONNX, Backend.OPENVINO), fused=True, **checked))
    stopt.optimize(folder, OptimizeOptions(Level.O2, **checked))
    stopt.quantize(folder, DynamicOptions(Target.AVX2, **checked))
    stopt.quantize(folder, StaticOnnxOptions(calibration=calibration, file_suffix="static", **checked))
    stopt.quantize(folder, StaticOpenVinoOptions(calibration=calibration, **checked))
    stopt.push(folder, "someone/model", PushOptions())
    repo = fake_hub.repos["someone/model"]
    assert len([name for name in repo.files if name.endswith((".onnx", ".xml"))]) == 8
    told = {"canary-home", "canary-here", "canary-user", "canary-text", str(tmp_path), sys.prefix}
    told |= {str(Path(stopt.__file__).parents[1]), "canary-host"}
    told |= {part.replace("/", "\\") for part in told}
    texts_of_people = [repo.commits[-1].title, repo.commits[-1].description]
    for name, content in {**repo.files, "commit": "".join(texts_of_people).encode()}.items():
        found = [each for each in told if each.encode() in content]
        assert not found, f"{name} has {found}"
