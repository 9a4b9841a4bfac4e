"""F3: a disk that is full, a limit on files, folders that may not be written: a plain error, and all is as it was."""

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.commands import content, residue, run, without_overriding

from stopt.errors import ConversionError

pytestmark = pytest.mark.scorecard("F3")

NAMES = ("export", "optimize", "quantize", "calibrate", "index", "encode", "check")


@pytest.fixture
def folder(exported: Callable[..., Path], tmp_path: Path) -> Path:
    root = Path(shutil.copytree(exported("bert"), tmp_path / "place/model"))
    texts = "".join(f"text number {number}\n" for number in range(300))
    (tmp_path / "place/texts.txt").write_text(texts, encoding="utf-8")
    return root


def command_of(name: str, folder: Path) -> list[str]:
    place, model, texts = folder.parent, str(folder), str(folder.with_name("texts.txt"))
    return {
        "export": ["export", model, "-o", str(place / "new")],
        "optimize": ["optimize", model, "-O1"],
        "quantize": ["quantize", model, "--target", "avx2"],
        "demo": ["demo", "--model", model, "-o", str(place / "demo")],
        "calibrate": ["calibrate", model, "--texts", texts],
        "index": ["index", texts, "--model", model, "-o", str(place / "made.index")],
        "encode": ["encode", model, texts, "-o", str(place / "out.npy")],
        "check": ["check", model, "--file-name", "onnx/model.onnx", "--junit", str(place / "check.xml")],
    }[name]


# bytes that a file may have: less than any result, and where torch is imported enough for what it writes then
LARGEST = {
    "export": 20_000,
    "optimize": 20_000,
    "quantize": 20_000,
    "demo": 20_000,
    "calibrate": 300,
    "index": 300,
    "encode": 300,
}


@pytest.mark.parametrize("name", LARGEST)
def test_a_file_that_cannot_grow_is_a_plain_error(folder: Path, name: str) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST[name], resource.RLIM_INFINITY))

    before = content(folder.parent)
    run(command_of(name, folder), small_files).assert_plain_error(
        "File too large", "disk full", "serialization failed"
    )
    assert content(folder.parent) == before
    assert residue(folder.parent) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_may_not_be_written_is_a_plain_error(folder: Path, name: str) -> None:
    for path in (folder.parent, *folder.parent.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = content(folder.parent)
    try:
        run(command_of(name, folder), without_overriding).assert_plain_error(
            "Permission denied", "cannot be written"
        )
    finally:
        for path in (folder.parent, *folder.parent.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert content(folder.parent) == before
    assert residue(folder.parent) == []


READ_ONLY = "/proc/sys/stopt"


@pytest.mark.parametrize("name", ["export", "index", "encode"])
def test_a_file_system_that_cannot_be_written_is_a_plain_error(folder: Path, name: str) -> None:
    command = command_of(name, folder)
    command[-1] = READ_ONLY + ("/out.npy" if name == "encode" else "")
    run(command).assert_plain_error("cannot be written", "there is no folder")
    assert residue(folder.parent) == []


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="no /dev/full")
def test_a_full_disk_is_a_plain_error(folder: Path) -> None:
    done = run(["encode", str(folder), str(folder.with_name("texts.txt")), "-o", "/dev/full"])
    assert done.code == 1, done
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="mounting takes root")
def test_a_disk_that_fills_up_is_a_plain_error(folder: Path, tmp_path: Path) -> None:
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=240k", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        run(["export", str(folder), "-o", str(small / "new")]).assert_plain_error("No space left on device")
        assert [path.name for path in small.iterdir()] == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_what_openvino_cannot_write_is_a_plain_error(exported: Callable[..., Path], tmp_path: Path) -> None:
    import openvino

    from stopt.convert.graphs import save_openvino

    model = openvino.Core().read_model(exported("bert") / "openvino/openvino_model.xml")
    (tmp_path / "file").touch()
    with pytest.raises(ConversionError, match=r"^OpenVINO cannot write a\.xml: .") as caught:
        save_openvino(model, tmp_path / "file/a.xml")
    assert caught.value.hint == "is the disk full?"
    save_openvino(model, tmp_path / "a.xml", half=True)
    half, whole = (
        (tmp_path / "a.bin").stat().st_size,
        (exported("bert") / "openvino/openvino_model.bin").stat().st_size,
    )
    assert half < 0.6 * whole
