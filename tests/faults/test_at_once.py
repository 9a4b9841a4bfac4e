"""F4 and F5: two writers of one folder, and a writer of a folder that is being served."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faults.commands import content, finish, residue, start

from stopt import SentenceTransformer, StoptError
from stopt.artifact import Manifest
from stopt.certificate import examine
from stopt.convert.export import export
from stopt.spec import Backend
from stopt.steps import ExportOptions

TEXTS = [f"text number {number} of many" for number in range(40)]
FEW = ["one text", "and a longer one"]


def assert_whole(folder: Path) -> Manifest:
    manifest = Manifest.read(folder)
    assert manifest is not None
    verdict = examine(folder, manifest)
    assert verdict.differences == verdict.unknown == (), verdict
    assert residue(folder) == []
    return manifest


def two_at_once(tiny: Callable[..., Path], folder: Path) -> None:
    """Export two models to one folder at the same time; what is there then is one of them."""
    sources = [tiny("bert"), tiny("bert", seed=1)]
    before = [content(source)["model.safetensors"] for source in sources]
    running = [start(["export", source, "-o", folder, "--force", "-q"]) for source in sources]
    for process in running:
        stdout, stderr = finish(process)
        assert process.returncode == 0, (stdout, stderr)
    manifest = assert_whole(folder)
    won = before.index(manifest.inputs["model.safetensors"]["sha256"])
    expected = SentenceTransformer(sources[won], backend="torch").encode(TEXTS)
    np.testing.assert_allclose(SentenceTransformer(folder, backend="onnx").encode(TEXTS), expected, atol=1e-4)


@pytest.mark.scorecard("F4")
def test_of_two_exports_at_once_one_wins(tiny, tmp_path) -> None:
    for number in range(2):
        two_at_once(tiny, tmp_path / f"model-{number}")


@pytest.mark.slow  # pytest -m slow tests/faults/test_at_once.py
@pytest.mark.timeout(1200)
@pytest.mark.scorecard("F4")
def test_of_two_exports_at_once_one_wins_ten_times(tiny, tmp_path) -> None:
    for _ in range(10):
        two_at_once(tiny, tmp_path / "model")


@pytest.mark.scorecard("F4")
def test_an_export_that_another_overtakes_leaves_its_own_weights(tiny, tmp_path) -> None:
    folder, (first, second) = tmp_path / "model", (tiny("bert"), tiny("bert", seed=1))
    options = ExportOptions(output=folder, force=True, check_texts=FEW)
    export(first, options)

    def overtake(said: str) -> None:
        if "making" in said:
            export(second, options)

    export(first, options, overtake)
    manifest = assert_whole(folder)
    assert manifest.inputs["model.safetensors"]["sha256"] == content(first)["model.safetensors"]


@pytest.mark.scorecard("F4")
def test_exports_for_two_engines_at_once_are_both_recorded(tiny, tmp_path) -> None:
    folder = tmp_path / "model"
    running = [
        start(["export", tiny("bert"), "-o", folder, "--backend", backend, "-q"])
        for backend in ("onnx", "openvino")
    ]
    for process in running:
        stdout, stderr = finish(process)
        assert process.returncode == 0, (stdout, stderr)
    assert set(assert_whole(folder).files) == {"onnx/model.onnx", "openvino/openvino_model.xml"}


@pytest.mark.scorecard("F4")
def test_without_force_the_second_of_two_is_refused(tiny, tmp_path) -> None:
    folder = tmp_path / "model"
    running = [start(["export", tiny("bert", seed=seed), "-o", folder, "-q"]) for seed in (0, 1)]
    said = [finish(process)[1] for process in running]
    assert sorted(process.returncode for process in running) == [0, 1], said
    assert any("made by another run meanwhile" in each or "exists already" in each for each in said) or any(
        "has another" in each for each in said
    )
    assert_whole(folder)


@pytest.mark.scorecard("F5")
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_model_that_is_served_stays_what_it_was(tiny, tmp_path, backend, caplog) -> None:
    folder = tmp_path / "model"
    options = ExportOptions((Backend(backend),), output=folder, check_texts=FEW)
    export(tiny("bert"), options)
    names, size = set(content(folder)), sum(path.stat().st_size for path in folder.rglob("*"))
    served = SentenceTransformer(folder, backend=backend, threads=2)
    alone = SentenceTransformer(folder, backend=backend, threads=2)
    expected = served.encode(TEXTS, batch_size=4)  # what runs batches side by side is open
    before = [alone.encode(text) for text in TEXTS]
    export(
        tiny("bert", seed=1), ExportOptions((Backend(backend),), output=folder, check_texts=FEW, force=True)
    )
    np.testing.assert_array_equal(served.encode(TEXTS, batch_size=4), expected)
    # of this one it is opened now, when the file is another
    np.testing.assert_allclose(alone.encode(TEXTS, batch_size=4), before, atol=1e-4)
    assert "was replaced" in caplog.text
    assert_whole(folder)
    new = SentenceTransformer(folder, backend=backend).encode(TEXTS)
    np.testing.assert_allclose(
        new, SentenceTransformer(tiny("bert", seed=1), backend="torch").encode(TEXTS), atol=1e-4
    )
    assert np.abs(new - expected).max() > 0.01
    assert set(content(folder)) == names
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 1.05 * size


@pytest.mark.scorecard("F5")
def test_whoever_opens_a_folder_while_it_changes_gets_one_set(tiny, tmp_path) -> None:
    sets = []
    for seed in (0, 1):
        export(
            tiny("bert", seed=seed),
            ExportOptions((Backend.OPENVINO,), output=tmp_path / f"{seed}", check_texts=FEW),
        )
        sets.append(SentenceTransformer(tmp_path / f"{seed}", backend="openvino").encode(FEW))
    folder = Path(shutil.copytree(tmp_path / "0", tmp_path / "served"))
    from stopt.staging import commit, staging

    stop = threading.Event()

    def exchange() -> None:
        number = 0
        while not stop.is_set():
            number = 1 - number
            source = tmp_path / f"{number}"
            with staging(folder) as staged:
                shutil.copytree(source, staged, dirs_exist_ok=True)
                commit(staged, folder, sorted(content(source)))

    writer = threading.Thread(target=exchange)
    writer.start()
    opened = 0
    try:
        for _ in range(25):
            try:
                found = SentenceTransformer(folder, backend="openvino").encode(FEW)
            except StoptError:
                continue
            opened += 1
            assert any(np.allclose(found, each, atol=1e-5) for each in sets)
    finally:
        stop.set()
        writer.join()
    assert_whole(folder)
