"""H9: a model that names files outside its folder never gets them copied beside it, nor pushed to the Hub."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from external import with_external_data
from fakehub import FakeHub
from victim import SECRET

from stopt.cli.main import cli

pytestmark = pytest.mark.scorecard("H9")

REPO = "someone/model"
GRAPH = "onnx/model.onnx"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that is nobody's business."""
    file = tmp_path / "home" / "secret"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(SECRET)
    return file


@pytest.fixture
def folder(exported: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("bert"), tmp_path / "home/models/model"))


@pytest.fixture
def greedy(exported: Callable[..., Path], outside: Path) -> Path:
    """A model whose graph has its weights in ../../../secret, where they really are."""
    folder = with_external_data(exported("bert"), outside.parent / "models" / "model")
    data = folder / "onnx/model.onnx_data"
    outside.write_bytes(data.read_bytes() + SECRET)
    data.unlink()
    graph = onnx.load(folder / GRAPH, load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../../secret"
    (folder / GRAPH).write_bytes(graph.SerializeToString())
    return folder


def run(*args: object) -> tuple[int, dict[str, str]]:
    """The exit code of a command, and its error."""
    result = CliRunner().invoke(cli, [*map(str, args), "--format", "json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert SECRET.decode() not in result.output
    return result.exit_code, json.loads(result.stdout or "{}").get("error", {})


def record(folder: Path, *parts: str) -> None:
    """Have stopt.json vouch for files, as a hostile one would."""
    known = {
        part: {
            "sha256": hashlib.sha256((folder / part).read_bytes()).hexdigest(),
            "size_bytes": (folder / part).stat().st_size,
        }
        for part in parts
    }
    entry = {"backend": "onnx", "precision": "float32", "parts": known, "options": {}, "versions": {}}
    entry["parity"] = {"passed": True}
    document = {"schema": 1, "source": {"name": "x", "revision": None}, "files": {GRAPH: entry}}
    (folder / "stopt.json").write_text(json.dumps(document), encoding="utf-8")


def assert_kept_in(hub: FakeHub, folder: Path) -> None:
    """The secret is where it was, and nowhere else."""
    assert not any(SECRET in body for body in hub.received)
    assert hub.repos == {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1:
            assert SECRET not in path.read_bytes(), path


@pytest.mark.parametrize("unchecked", [True, False])
@pytest.mark.parametrize("dry", [True, False])
def test_data_outside_is_not_pushed(fake_hub, greedy, unchecked, dry) -> None:
    if not unchecked:
        record(greedy, GRAPH)
    options = ["--dry-run"] * dry + ["--unchecked"] * unchecked
    code, error = run("push", greedy, REPO, *options)
    assert (code, error["type"]) == (4, "UntrustedModel")
    assert "secret" in error["message"]
    assert_kept_in(fake_hub, greedy)


@pytest.mark.parametrize("part", ["../../../secret", "onnx/../../../../secret", "{outside}"])
def test_a_manifest_that_names_it_is_refused(fake_hub, greedy, outside, part) -> None:
    record(greedy, GRAPH, os.path.relpath(outside, greedy))
    text = (greedy / "stopt.json").read_text(encoding="utf-8")
    text = text.replace(os.path.relpath(outside, greedy), part.replace("{outside}", str(outside)))
    (greedy / "stopt.json").write_text(text, encoding="utf-8")
    code, error = run("push", greedy, REPO, "--dry-run")
    assert (code, error["type"]) == (4, "UntrustedModel")
    assert_kept_in(fake_hub, greedy)


@pytest.mark.parametrize(
    "name",
    [
        "onnx/model.onnx_data",
        GRAPH,
        "config.json",
        "README.md",
        "1_Pooling/config.json",
        "LICENSE",
        "stopt.json",
    ],
)
def test_a_link_that_leads_to_it_is_not_followed(fake_hub, exported, outside, name) -> None:
    folder = with_external_data(exported("bert"), outside.parent / "models" / "model")
    parts = [GRAPH, "onnx/model.onnx_data"]
    record(folder, *parts)
    if name == "onnx/model.onnx_data":
        outside.write_bytes((folder / name).read_bytes())
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    code, error = run("push", folder, REPO)
    assert (code, error["type"]) == (4, "UntrustedModel")
    assert_kept_in(fake_hub, folder)


def test_a_folder_that_is_a_link_is_not_followed(fake_hub, folder, outside) -> None:
    (outside.parent / "config.json").write_bytes(SECRET)
    (folder / "2_Dense").symlink_to(outside.parent)
    code, error = run("push", folder, REPO)
    assert code in (0, 4), error
    assert not any(SECRET in body for body in fake_hub.received)


@pytest.mark.parametrize(
    "command",
    [
        ("optimize", "-O1"),
        ("quantize", "--avx2"),
        ("quantize", "--weight-format", "fp16", "--backend", "onnx"),
    ],
)
@pytest.mark.parametrize("copied", [True, False])
def test_a_conversion_does_not_read_it(fake_hub, greedy, tmp_path, few, command, copied) -> None:
    before = {path: path.read_bytes() for path in greedy.rglob("*") if path.is_file()}
    target = tmp_path / "copy" if copied else greedy
    output = ["-o", target] if copied else []
    code, error = run(command[0], greedy, *command[1:], *output, "--check-texts", few)
    assert (code, error["type"]) == (4, "UntrustedModel"), error
    assert {path: path.read_bytes() for path in greedy.rglob("*") if path.is_file()} == before
    assert not target.exists() or target == greedy
    assert_kept_in(fake_hub, greedy)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "vocab.txt", "1_Pooling/config.json"]
)
def test_a_conversion_does_not_copy_what_a_link_leads_to(
    fake_hub, folder, outside, tmp_path, few, name
) -> None:
    outside.write_bytes((folder / name).read_bytes() if (folder / name).exists() else SECRET)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    code, error = run("export", folder, "-o", tmp_path / "copy", "--force", "--check-texts", few)
    assert (code, error["type"]) == (4, "UntrustedModel")
    assert not (tmp_path / "copy").exists()


@pytest.fixture
def few(tmp_path: Path) -> Path:
    file = tmp_path / "few.txt"
    file.write_text("one text\nand a longer one\n", encoding="utf-8")
    return file
