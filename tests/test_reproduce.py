"""Conversions are the same whenever they are made, and ``verify --reproduce`` makes them again and compares."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from stopt.artifact import Manifest, describe_parts
from stopt.cli.main import cli
from stopt.convert.graphs import canonical_digest
from stopt.convert.reproduce import Outcome, reproduce
from stopt.convert.run import plan
from stopt.errors import ArtifactError
from stopt.recipe import describe_step, step_options

ONNX, INT8 = "onnx/model.onnx", "onnx/model_quint8_avx2.onnx"
FEW = "one text\nand a longer one\nand one more\n"


def run(command: list[str], cwd: Path, seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, "-m", "stopt", *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def recipe(folder: Path, model: Path, steps: str) -> Path:
    (folder / "few.txt").write_text(FEW, encoding="utf-8")
    text = f'[source]\nrepo = "{model}"\n{steps}\n[check]\ntexts = "few.txt"\n'
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    return folder / "recipe.toml"


STEPS = '[[step]]\nkind = "export"\n[[step]]\nkind = "quantize"\ntarget = "avx2"\n'
ALL_STEPS = """[[step]]
kind = "export"
backend = ["onnx", "openvino"]
[[step]]
kind = "optimize"
level = "O2"
[[step]]
kind = "quantize"
static = true
num_samples = 16
[[step]]
kind = "quantize"
static = true
backend = "openvino"
num_samples = 16
"""


def hashes(folder: Path) -> dict[str, str]:
    manifest = Manifest.read(folder)
    assert manifest is not None
    return {name: str(part["sha256"]) for name, part in manifest.listed.items()}


def made_twice(tiny: Callable[..., Path], tmp_path: Path, steps: str) -> list[Path]:
    found = []
    for seed in ("1", "2"):
        place = tmp_path / f"place-{seed}" / ("deeper" * int(seed))
        place.mkdir(parents=True)
        run(["run", str(recipe(place, tiny("bert"), steps)), "-o", "made", "-q"], place, seed)
        found.append(place / "made")
    return found


def test_two_conversions_have_the_same_bits_wherever_they_are_made(tiny, tmp_path) -> None:
    one, other = made_twice(tiny, tmp_path, STEPS)
    assert hashes(one) == hashes(other)
    for path in one.rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes(), path


@pytest.mark.slow  # pytest -m slow tests/test_reproduce.py
def test_all_kinds_of_conversion_have_the_same_bits(tiny, tmp_path) -> None:
    one, other = made_twice(tiny, tmp_path, ALL_STEPS)
    assert hashes(one) == hashes(other)
    done = CliRunner().invoke(cli, ["verify", str(one), "--reproduce", "--format", "json"])
    assert done.exit_code == 0, done.output
    outcomes = {each["file"]: each["outcome"] for each in json.loads(done.stdout)["result"]["reproduced"]}
    assert outcomes.keys() == Manifest.read(one).files.keys()
    assert set(outcomes.values()) <= {"identical", "same graph"}


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("reproduce")
    from stopt.convert.run import run as convert
    from stopt.recipe import read_recipe

    convert(read_recipe(recipe(place, tiny("bert"), STEPS), output=place / "made"))
    return place / "made"


def changed(made: Path, folder: Path, change: Callable[[onnx.ModelProto], None]) -> Manifest:
    """A copy whose plain file was changed, and recorded as if it had been made so."""
    shutil.copytree(made, folder)
    model = onnx.load(folder / ONNX)
    change(model)
    onnx.save(model, folder / ONNX)
    manifest = Manifest.read(folder)
    assert manifest is not None
    record = replace(manifest.files[ONNX], parts=describe_parts(folder, [ONNX]))
    manifest = replace(manifest, files={ONNX: record})
    manifest.write(folder)
    return manifest


def test_files_are_made_again_and_compared(made) -> None:
    done = CliRunner().invoke(cli, ["verify", str(made), "--reproduce"])
    assert done.exit_code == 0, done.output
    assert done.stdout.count("identical") == 2
    before = {path.name for path in made.rglob("*")}
    assert not any(name.startswith(".stopt") for name in before)


def test_other_remarks_are_the_same_graph_and_versions_are_compared(made, tmp_path) -> None:
    def remark(model: onnx.ModelProto) -> None:
        model.doc_string = model.graph.doc_string = "made on a Tuesday"
        model.graph.initializer.reverse() if hasattr(model.graph.initializer, "reverse") else None

    manifest = changed(made, tmp_path / "model", remark)
    record = replace(manifest.files[ONNX], versions={**manifest.files[ONNX].versions, "torch": "1.0"})
    (found,) = reproduce(tmp_path / "model", replace(manifest, files={ONNX: record}))
    assert found.outcome is Outcome.EQUIVALENT
    assert list(found.versions) == ["torch"]
    assert found.versions["torch"].startswith("1.0 -> 2.")


def test_other_weights_are_different_and_end_with_4(made, tmp_path) -> None:
    def weights(model: onnx.ModelProto) -> None:
        tensor = next(each for each in model.graph.initializer if len(each.raw_data) > 1000)
        tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]

    changed(made, tmp_path / "model", weights)
    assert canonical_digest(made / ONNX) != canonical_digest(tmp_path / "model" / ONNX)
    done = CliRunner().invoke(cli, ["verify", str(tmp_path / "model"), "--reproduce"])
    assert done.exit_code == 4
    assert f"{ONNX} cannot be made again from what stopt.json records" in done.stderr
    assert "Hint: install the recorded versions" in done.stderr


def test_what_cannot_be_made_again_says_why(made, tmp_path) -> None:
    manifest = Manifest.read(made)
    assert manifest is not None
    unknown = replace(manifest.files[ONNX], step={})
    own = replace(manifest.files[INT8], step={**manifest.files[INT8].step, "texts": "mine.txt"})
    found = reproduce(made, replace(manifest, files={ONNX: unknown, INT8: own}))
    assert [each.outcome for each in found] == [Outcome.IMPOSSIBLE] * 2
    assert found[0].reason == "how it was made is not recorded"
    assert found[1].reason == "calibrated with mine.txt, which is not here: --texts FILE"


def test_files_that_are_made_from_each_other_are_refused(made) -> None:
    manifest = Manifest.read(made)
    assert manifest is not None
    record = manifest.files[INT8]
    files = {
        name: replace(record, options={**record.options, "source_file": other})
        for name, other in ((ONNX, INT8), (INT8, ONNX))
    }
    with pytest.raises(ArtifactError, match="made from each other") as caught:
        reproduce(made, replace(manifest, files=files))
    assert "--force" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("export", {"backend": ["openvino"], "fused": True}),
        ("optimize", {"level": "O4", "from": "onnx/model_O1.onnx"}),
        ("quantize", {"target": "arm64", "nodes_to_exclude": ["a"], "per_channel": False}),
        ("quantize", {"target": "avx512_vnni"}),
        ("quantize", {"static": True, "backend": "onnx", "method": "entropy", "seed": 7}),
        ("quantize", {"static": True, "backend": "openvino", "num_samples": 16, "preset": "performance"}),
        ("quantize", {"weight_format": "fp16", "backend": "onnx"}),
        ("quantize", {"weight_format": "int8", "backend": "openvino"}),
    ],
)
def test_a_step_is_described_in_the_words_that_it_is_built_from(kind, words) -> None:
    options = step_options(kind, dict(words), {})
    described = describe_step(options)
    assert step_options(described.pop("kind"), described, {}) == options
    assert json.loads(json.dumps(described)) == described
    assert [product.step for product in plan([options])][-1]["kind"] == kind


def test_the_folder_of_calibration_texts_is_nobodys_business(tmp_path) -> None:
    (tmp_path / "mine.txt").touch()
    words = {"static": True, "texts": tmp_path / "mine.txt"}
    assert describe_step(step_options("quantize", words, {}))["texts"] == "mine.txt"
