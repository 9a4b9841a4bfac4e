"""`export`: what it writes and where, what it refuses, and that a failure leaves nothing behind."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stopt import (
    ArtifactError,
    CorruptModel,
    ParityError,
    SentenceTransformer,
    SourceError,
    StoptError,
)
from stopt.artifact import Manifest, sha256
from stopt.convert.export import ExportOptions, export
from stopt.convert.produce import Produced
from stopt.spec import Backend

Tiny = Callable[..., Path]

BOTH = (Backend.ONNX, Backend.OPENVINO)
# enough to check with: these tests are about files
TEXTS = ("A text.", "Another text, which is longer.")
ONNX = "onnx/model.onnx"
OPENVINO = ("openvino/openvino_model.bin", "openvino/openvino_model.xml")


def _export(model: Path, *backends: Backend, **options: Any) -> list[Produced]:
    return export(model, ExportOptions(backends or (Backend.ONNX,), **{"check_texts": TEXTS, **options}))


def _manifest(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "stopt.json").read_text("utf-8"))
    return document


def _content(folder: Path) -> dict[str, str]:
    """Every file of a folder with its hash, and every folder in it; empty if there is none."""
    return {
        path.relative_to(folder).as_posix(): sha256(path) if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


@dataclass(frozen=True)
class History:
    """Two exports of one folder, in place."""

    folder: Path
    first: list[Produced]
    after_first: dict[str, str]
    first_manifest: dict[str, Any]
    second: list[Produced]


@pytest.fixture(scope="module")
def history(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> History:
    """A folder that was exported for one engine and then for the other. Not to be changed."""
    folder = shutil.copytree(tiny("bert", dense=16), tmp_path_factory.mktemp("exported") / "model")
    first = _export(folder, Backend.ONNX)
    content, manifest = _content(folder), _manifest(folder)
    return History(folder, first, content, manifest, _export(folder, Backend.OPENVINO))


@pytest.fixture(scope="module")
def exported(history: History) -> Path:
    return history.folder


# ---- what is written ------------------------------------------------------------------------------------------------


def test_only_the_engines_files_and_the_manifest_are_added(exported: Path, tiny: Tiny) -> None:
    before, after = _content(tiny("bert", dense=16)), _content(exported)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"onnx", ONNX, "openvino", *OPENVINO, "stopt.json"}


def test_result_describes_the_files(history: History) -> None:
    [onnx], [openvino], folder = history.first, history.second, history.folder
    assert (onnx.folder, onnx.file) == (folder, ONNX)
    assert (openvino.folder, openvino.file) == (folder, OPENVINO[1])
    assert onnx.size_bytes == (folder / ONNX).stat().st_size
    assert openvino.size_bytes == sum((folder / name).stat().st_size for name in OPENVINO)
    assert onnx.parity.passed
    assert openvino.parity.passed
    assert onnx.seconds > 0


def test_manifest_tells_what_went_in_and_what_came_out(exported: Path) -> None:
    document = _manifest(exported)
    assert document["schema"] == 2
    assert document["source"] == {"name": "model", "revision": None}
    for name in ("model.safetensors", "tokenizer.json", "modules.json", "2_Dense/model.safetensors"):
        assert document["inputs"][name]["sha256"] == sha256(exported / name)
    assert set(document["files"]) == {ONNX, OPENVINO[1]}
    for name, parts in ((ONNX, {ONNX}), (OPENVINO[1], set(OPENVINO))):
        record = document["files"][name]
        assert record["precision"] == "float32"
        assert set(record["parts"]) == parts
        for part, described in record["parts"].items():
            assert described == {
                "sha256": sha256(exported / part),
                "size_bytes": (exported / part).stat().st_size,
            }
        assert record["parity"]["passed"] is True
        assert record["parity"]["min_cosine"] > 0.99999
        assert record["versions"]["torch"].startswith("2.")
        assert {"stopt", "python", "optimum", "transformers"} <= set(record["versions"])
    assert str(exported) not in json.dumps(document)


def test_manifest_notices_a_changed_file(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "model")
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert manifest.is_intact(folder)
    (folder / ONNX).write_bytes((folder / ONNX).read_bytes() + b"\0")
    assert not manifest.is_intact(folder)


def test_second_backend_keeps_the_first_ones_file_and_record(history: History) -> None:
    after = _content(history.folder)
    assert set(history.first_manifest["files"]) == {ONNX}
    assert _manifest(history.folder)["files"][ONNX] == history.first_manifest["files"][ONNX]
    assert {name for name, content in history.after_first.items() if after[name] != content} == {"stopt.json"}


def test_output_folder_becomes_the_model_without_pickles_and_converted_files(
    exported: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(exported, tmp_path / "source")
    (source / "README.md").write_text("# Model", "utf-8")
    (source / "pytorch_model.bin").write_bytes(b"a pickle")
    (source / "training_args.bin").write_bytes(b"a pickle")
    (source / ".hidden.json").write_text("{}", "utf-8")
    before = _content(source)
    output = tmp_path / "new" / "output"
    _export(source, Backend.ONNX, output=output)
    assert _content(source) == before
    kept = {
        name
        for name in before
        if name not in ("pytorch_model.bin", "training_args.bin", ".hidden.json", "openvino", *OPENVINO)
    }
    assert set(_content(output)) == kept
    assert SentenceTransformer(output, backend="onnx").encode("a").shape == (16,)


def test_float16_weights_are_exported_as_float32(tiny_copy: Tiny) -> None:
    folder = tiny_copy("bert")
    weights = {
        name: array.astype(np.float16) for name, array in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16", "torch_dtype": "float16"}))
    _export(folder)
    expected = SentenceTransformer(
        folder, backend="torch", device="cpu", model_kwargs={"dtype": "float32"}
    ).encode(TEXTS)
    found = SentenceTransformer(folder, backend="onnx").encode(TEXTS)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5


def test_snapshot_of_the_hub_cache_is_exported(tiny: Tiny, tmp_path: Path) -> None:
    """There, every file is a link into a folder of blobs beside the snapshots."""
    blobs = tmp_path / "models--organisation--name" / "blobs"
    snapshot = tmp_path / "models--organisation--name" / "snapshots" / ("0123456789" * 4)
    blobs.mkdir(parents=True)
    for path in sorted(tiny("bert", dense=16).rglob("*")):
        if path.is_file():
            blob = blobs / sha256(path)
            shutil.copyfile(path, blob)
            link = snapshot / path.relative_to(tiny("bert", dense=16))
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    before = _content(tmp_path)
    _export(snapshot, output=tmp_path / "output")
    after = _content(tmp_path)
    assert {name: after[name] for name in before} == before
    assert not any(path.is_symlink() for path in (tmp_path / "output").rglob("*"))
    assert SentenceTransformer(tmp_path / "output", backend="onnx").encode("a").shape == (16,)
    _export(snapshot)
    assert SentenceTransformer(snapshot, backend="onnx").encode("a").shape == (16,)


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_existing_file_is_kept_unless_forced(tiny_copy: Tiny) -> None:
    folder = tiny_copy("bert")
    (folder / "onnx").mkdir()
    (folder / ONNX).write_bytes(b"someone's work")
    before = _content(folder)
    with pytest.raises(ArtifactError, match=r"model\.onnx exists already") as caught:
        _export(folder, *BOTH)
    assert "--force" in caught.value.hint
    assert _content(folder) == before
    _export(folder, force=True)
    assert SentenceTransformer(folder, backend="onnx").encode("a").shape == (32,)
    assert set(_content(folder)) - set(before) == {"stopt.json"}


def test_folder_with_another_models_files_is_refused(tiny: Tiny, tiny_copy: Tiny) -> None:
    other = tiny_copy("electra")
    before = _content(other)
    with pytest.raises(ArtifactError, match="has another") as caught:
        _export(tiny("bert"), output=other)
    assert "--force" in caught.value.hint
    assert _content(other) == before


def test_output_with_the_same_files_is_completed(tiny: Tiny, tiny_copy: Tiny) -> None:
    output = tiny_copy("bert")
    _export(tiny("bert"), output=output)
    assert (output / ONNX).is_file()


def test_source_without_weights_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "model", ignore=shutil.ignore_patterns("model.safetensors"))
    before = _content(folder)
    with pytest.raises(SourceError, match="has no weights"):
        _export(folder, force=True)
    assert _content(folder) == before


# ---- what a failure leaves behind -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "inside"), [(Backend.ONNX, True), (Backend.OPENVINO, False)])
def test_file_that_fails_the_check_does_not_appear(
    tiny_copy: Tiny, tmp_path: Path, backend: Backend, inside: bool
) -> None:
    folder = tiny_copy("bert")
    before = _content(tmp_path)
    output = None if inside else tmp_path / "new" / "output"
    with pytest.raises(ParityError, match=r"smallest cosine .* < 1\.1") as caught:
        _export(folder, backend, output=output, min_cosine=1.1)
    assert caught.value.exit_code == 3
    assert caught.value.report.min_cosine > 0.999
    assert not caught.value.report.passed
    assert _content(tmp_path) == before


def test_failed_check_keeps_the_file_that_was_to_be_replaced(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "model")
    before = _content(folder)
    with pytest.raises(ParityError):
        _export(folder, min_cosine=1.1, force=True)
    assert _content(folder) == before


def test_corrupt_module_leaves_no_files(tiny_copy: Tiny, tmp_path: Path) -> None:
    folder = tiny_copy("bert", dense=16)
    weights = folder / "2_Dense" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    before = _content(tmp_path)
    with pytest.raises(CorruptModel, match="2_Dense"):
        _export(folder, output=tmp_path / "output")
    assert _content(tmp_path) == before


def test_output_below_a_file_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text", "utf-8")
    with pytest.raises(ArtifactError, match="cannot be written to") as caught:
        _export(tiny("bert"), output=tmp_path / "file" / "output")
    assert "-o FOLDER" in caught.value.hint
    assert (tmp_path / "file").read_text("utf-8") == "text"


def test_output_that_is_a_file_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text", "utf-8")
    with pytest.raises(StoptError):
        _export(tiny("bert"), output=tmp_path / "file")
    assert (tmp_path / "file").read_text("utf-8") == "text"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_refused(tiny_copy: Tiny) -> None:
    folder = tiny_copy("bert")
    before = _content(folder)
    folder.chmod(0o500)
    try:
        with pytest.raises(ArtifactError, match="cannot be written to"):
            _export(folder)
    finally:
        folder.chmod(0o700)
    assert _content(folder) == before


# ---- as a process ---------------------------------------------------------------------------------------------------


def _command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "stopt", "export", *map(str, arguments)]


@pytest.fixture
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n".join(TEXTS), "utf-8")
    return file


def test_command_says_only_what_is_its_own(tiny_copy: Tiny, texts: Path) -> None:
    folder = tiny_copy("bert")
    command = _command(folder, "--backend", "onnx", "--backend", "openvino", "--check-texts", texts)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        f"running {folder} in torch",
        f"[1/2] making {ONNX}",
        f"[2/2] making {OPENVINO[1]}",
        f"Next: stopt check {folder}",
    ]
    assert str(folder / ONNX) in done.stdout
    assert str(folder / OPENVINO[1]) in done.stdout


def _small_disk() -> None:
    """Let no file grow larger than 20 kB, less than any graph: what a full disk looks like to a program."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


@pytest.mark.parametrize("backend", BOTH)
def test_full_disk_is_a_plain_error(tiny_copy: Tiny, texts: Path, backend: Backend) -> None:
    folder = tiny_copy("bert")
    before = _content(folder)
    # in a process of its own: the limit holds for whatever the tests' output is written to as well
    done = subprocess.run(
        _command(folder, "--backend", backend.value, "--check-texts", texts),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=_small_disk,
    )
    assert done.returncode == 1, done.stderr
    assert "Error: " in done.stderr
    assert "Hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert _content(folder) == before


@pytest.mark.parametrize(
    ("interruption", "code", "announced", "delay_s"),
    [
        (signal.SIGINT, 130, "making onnx", 0.0),
        (signal.SIGINT, 130, "making openvino", 0.5),
        (signal.SIGTERM, 143, "making openvino", 0.3),
    ],
)
def test_interrupted_export_leaves_the_folder_as_it_was(
    tiny_copy: Tiny, texts: Path, interruption: signal.Signals, code: int, announced: str, delay_s: float
) -> None:
    folder = tiny_copy("bert")
    before = _content(folder)
    command = _command(folder, "--backend", "onnx", "--backend", "openvino", "--check-texts", texts)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if announced in line:
                time.sleep(delay_s)
                process.send_signal(interruption)
                break
        said += process.stderr.readlines()
        process.wait(timeout=60)
    assert process.returncode == code, "".join(said)
    assert not any("Traceback" in line for line in said), "".join(said)
    assert _content(folder) == before


def test_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
