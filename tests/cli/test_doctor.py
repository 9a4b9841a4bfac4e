"""``stopt doctor``: what is here, what is missing, what is broken."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from stopt import __version__
from stopt.runtime.devices import describe_machine

REPOSITORY = Path(__file__).parents[2]
EXTRAS = ("onnx", "openvino", "torch", "convert", "sparse", "data", "search", "ray", "plot", "demo")
LEAN = ("stopt", "click", "numpy", "tokenizers", "safetensors", "huggingface_hub", "packaging")


def doctor(site: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run it in an installation that has only what ``site`` has."""
    if not (site / "stopt").exists():
        (site / "stopt").symlink_to(REPOSITORY / "stopt")
    return subprocess.run(
        [sys.executable, "-S", "-m", "stopt", "doctor", *args],
        capture_output=True,
        text=True,
        check=True,
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site)},
    )


def test_people_see_engines_versions_and_extras(run) -> None:
    result = run("doctor")
    assert result.exit_code == 0
    shown = result.stdout
    assert f"{__version__}, Python " in shown
    assert version("onnxruntime") in shown
    assert "CPUExecutionProvider" in shown
    assert "openvino runs on" in shown
    for extra in EXTRAS:
        assert re.search(
            rf"^{extra} +(ready|missing .*: pip install 'stopt\[{extra}\]')$", shown, re.MULTILINE
        )
    assert re.search(r"^devices +.*cpu \(onnx, openvino, torch\)$", shown, re.MULTILINE)
    assert not result.stderr


def test_programs_get_the_same(run, one_document) -> None:
    found = one_document(run("doctor", "--format", "json"))["result"]
    assert found["versions"]["torch"] == version("torch")
    assert "CPUExecutionProvider" in found["engines"]["onnxruntime"]
    assert list(found["missing"]) == [*EXTRAS]
    assert not any(found["missing"][extra] for extra in ("onnx", "openvino", "torch", "convert", "demo"))
    assert {"device": "cpu", "engines": ["onnx", "openvino", "torch"]} in found["devices"]
    assert found["machine"]["threads"] >= 1
    assert found["conflicts"] == []


def test_quiet_is_the_verdict(run) -> None:
    assert run("doctor", "-q").stdout == "ok\n"


def test_what_is_missing_comes_with_the_command_that_installs_it(lean_site) -> None:
    site = lean_site(*LEAN)
    found = doctor(site).stdout
    assert re.search(r"^onnxruntime +not installed$", found, re.MULTILINE)
    assert "onnx      missing onnxruntime: pip install 'stopt[onnx]'" in found
    assert "torch     missing torch, transformers: pip install 'stopt[torch]'" in found
    assert "runs on" not in found
    assert re.search(r"^devices +none: no engine is installed$", found, re.MULTILINE)
    result = json.loads(doctor(site, "--format", "json").stdout)["result"]
    assert result["engines"] == {"onnxruntime": [], "openvino": [], "torch": []}
    assert result["missing"]["openvino"] == ["openvino"]
    assert result["versions"]["torch"] is None


def test_an_engine_that_does_not_start_is_told_not_raised(lean_site) -> None:
    site = lean_site(*LEAN)
    (site / "onnxruntime").mkdir()
    broken = "raise ImportError('libonnxruntime.so: cannot open shared object file')\n"
    (site / "onnxruntime/__init__.py").write_text(broken, encoding="utf-8")
    found = doctor(site).stdout
    assert "conflict: onnxruntime is installed but does not start: libonnxruntime.so: cannot open" in found
    assert doctor(site, "-q").stdout == "conflicts\n"


def pretend(site: Path, package: str, version: str, *requires: str) -> None:
    """Put the metadata of a package into an installation."""
    folder = site / f"{package.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {package}", f"Version: {version}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_packages_that_need_other_versions_of_each_other_are_conflicts(lean_site) -> None:
    site = lean_site(*LEAN)
    pretend(site, "sentence-transformers", "6.0.0", "transformers>=5,<6", "optimum-onnx>=9; extra == 'onnx'")
    pretend(site, "optimum-onnx", "0.1.0", "transformers<4.58")
    pretend(site, "transformers", "4.57.6")
    found = json.loads(doctor(site, "--format", "json").stdout)["result"]
    assert found["conflicts"] == [
        "sentence-transformers 6.0.0: transformers 4.57.6 is installed, it needs <6,>=5"
    ]
    assert (
        "transformers 4.57.6 is older than 5.5, which has security fixes; optimum-onnx, which converts to ONNX, "
        "needs an older one" in found["advice"]
    )


def test_packages_that_hide_each_other_are_conflicts(lean_site) -> None:
    site = lean_site(*LEAN)
    pretend(site, "onnxruntime", "1.32.0")
    pretend(site, "onnxruntime-gpu", "1.32.0")
    assert (
        "conflict: onnxruntime and onnxruntime-gpu are installed over each other: keep one, and install that again"
        in doctor(site).stdout
    )


def test_what_bounds_threads_is_said(lean_site, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "advice: OMP_NUM_THREADS=3 is set: it bounds torch" in doctor(lean_site(*LEAN)).stdout


def test_what_a_processor_without_vnni_means_for_int8_is_said(run, monkeypatch) -> None:
    machine = describe_machine()
    monkeypatch.setattr("stopt.cli.doctor.describe_machine", lambda: replace(machine, features=("avx2",)))
    assert "advice: the processor has no VNNI: int8 gains less" in run("doctor").stdout
    monkeypatch.setattr(
        "stopt.cli.doctor.describe_machine", lambda: replace(machine, features=("avx2", "avx512_vnni"))
    )
    assert "int8 gains less" not in run("doctor").stdout
    monkeypatch.setattr("stopt.cli.doctor.describe_machine", lambda: replace(machine, features=("bf16",)))
    assert "advice: the processor has no products of 8 bits: int8 gains less" in run("doctor").stdout


def test_versions_outside_the_declared_range_are_conflicts(lean_site) -> None:
    site = lean_site(*LEAN)
    old = site / "transformers-4.0.0.dist-info"
    old.mkdir()
    (old / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: transformers\nVersion: 4.0.0\n", encoding="utf-8"
    )
    assert "conflict: transformers 4.0.0 is installed, stopt needs " in doctor(site).stdout


def test_sources_that_are_not_installed_are_called_that(lean_site) -> None:
    assert (
        "conflict: stopt runs from its sources without being installed" in doctor(lean_site(*LEAN[1:])).stdout
    )
