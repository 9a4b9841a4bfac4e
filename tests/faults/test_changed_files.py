"""H15: one bit of any file of a model folder is changed; the file is named before anything is served."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stopt import SentenceTransformer
from stopt.artifact import Manifest
from stopt.errors import StoptError

pytestmark = pytest.mark.scorecard("H15")


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_every_file_is_named_when_one_of_its_bits_changes(
    exported: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported("bert"), tmp_path / "model"))
    manifest = Manifest.read(folder)
    assert manifest is not None
    names = sorted(manifest.listed)
    assert len(names) >= 10
    for name in names:
        original = (folder / name).read_bytes()
        _flipped(folder / name)
        backend = "onnx"
        if name.startswith("openvino/"):
            backend = "openvino"
        elif name == "model.safetensors":
            backend = "torch"
        with pytest.raises(StoptError) as caught:
            SentenceTransformer(folder, backend=backend)
        assert caught.value.exit_code == 4
        assert name in caught.value.message
        (folder / name).write_bytes(original)
    assert SentenceTransformer(folder, backend="onnx").encode(["a"]).shape == (1, 32)


@pytest.mark.parametrize("name", ["tokenizer.json", "onnx/model.onnx", "openvino/openvino_model.bin"])
def test_the_command_ends_with_4_and_names_it(
    exported: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(exported("bert"), tmp_path / "model"))
    _flipped(folder / name)
    backend = "openvino" if "openvino" in name else "onnx"
    for command in (["verify", str(folder)], ["encode", str(folder), "--backend", backend]):
        done = subprocess.run(
            [sys.executable, "-m", "stopt", *command],
            input="one text\n",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 4, done.stderr
        assert name in done.stderr
        assert "Traceback" not in done.stderr
        assert "[" not in done.stdout  # no vector
