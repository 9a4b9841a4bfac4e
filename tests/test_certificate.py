"""A folder against its manifest: what differs is named, before anything is served from it."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stopt import SentenceTransformer
from stopt.artifact import Manifest
from stopt.certificate import ADDED_LATER, Difference, Seal, examine, identity
from stopt.embeddings.ranges import RANGES
from stopt.errors import CorruptModel

ONNX = "onnx/model.onnx"


@pytest.fixture
def folder(exported: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("bert"), tmp_path / "model"))


@pytest.fixture
def manifest(folder: Path) -> Manifest:
    found = Manifest.read(folder)
    assert found is not None
    return found


def flip(path: Path, place: int = 0) -> None:
    """Change one bit of a file, in the middle unless ``place`` says where."""
    content = bytearray(path.read_bytes())
    content[place or len(content) // 2] ^= 1
    path.write_bytes(content)


# ---- the whole folder -----------------------------------------------------------------------------------------------


def test_a_folder_as_it_was_made_is_verified(folder, manifest) -> None:
    verdict = examine(folder, manifest)
    assert set(verdict.verified) == set(manifest.listed)
    assert {"config.json", "tokenizer.json", "model.safetensors", ONNX} <= set(verdict.verified)
    assert verdict.differences == verdict.unknown == ()
    assert verdict.failure(folder, strict=True) is None


def test_what_differs_is_missing_or_unknown_is_named(folder, manifest) -> None:
    flip(folder / ONNX)
    (folder / "config.json").unlink()
    (folder / "extra.so").touch()
    verdict = examine(folder, manifest)
    assert [(each.file, each.found is None) for each in verdict.differences] == [
        ("config.json", True),
        (ONNX, False),
    ]
    assert verdict.unknown == ("extra.so",)
    failure = verdict.failure(folder)
    assert failure is not None
    assert failure.exit_code == 4
    assert "config.json is missing; onnx/model.onnx has changed: sha256" in failure.message
    assert "extra.so" not in failure.message
    assert "verify=False" in failure.hint
    strict = verdict.failure(folder, strict=True)
    assert strict is not None
    assert "extra.so is not in stopt.json" in strict.message


def test_documents_and_what_stopt_adds_are_not_unknown(folder, manifest) -> None:
    assert {RANGES} == ADDED_LATER
    for name in ("README.md", "LICENSE", ".gitattributes", ".cache/x", "model.sig", RANGES):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert examine(folder, manifest).unknown == ()


def test_an_older_manifest_is_still_held_against(folder, manifest) -> None:
    import json

    document = json.loads((folder / "stopt.json").read_text(encoding="utf-8"))
    document["schema"] = 1
    del document["trust"]
    document["inputs"] = {name: part["sha256"] for name, part in document["inputs"].items()}
    for record in document["files"].values():
        del record["step"]
    (folder / "stopt.json").write_text(json.dumps(document), encoding="utf-8")
    old = Manifest.read(folder)
    assert old is not None
    assert old.files[ONNX].step == {}
    assert examine(folder, old).differences == ()
    flip(folder / "tokenizer.json")
    with pytest.raises(CorruptModel, match=r"tokenizer\.json has changed"):
        SentenceTransformer(folder, backend="onnx")


# ---- while a model is opened ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("onnx", ONNX),
        ("openvino", "openvino/openvino_model.xml"),
        ("openvino", "openvino/openvino_model.bin"),
        ("torch", "model.safetensors"),
    ],
)
def test_a_changed_file_is_not_served(folder, backend, name) -> None:
    flip(folder / name)
    with pytest.raises(CorruptModel, match=f"{name} has changed: sha256") as caught:
        SentenceTransformer(folder, backend=backend)
    assert caught.value.exit_code == 4
    assert "verify=False" in caught.value.hint


def test_files_that_an_engine_does_not_read_are_left_to_verify(folder) -> None:
    flip(folder / "model.safetensors")
    flip(folder / "openvino/openvino_model.bin")
    assert SentenceTransformer(folder, backend="onnx").encode(["a"]).shape == (1, 32)


def test_verification_can_be_left_out(folder) -> None:
    flip(folder / "openvino/openvino_model.bin")
    model = SentenceTransformer(folder, backend="openvino", verify=False)
    assert model.encode(["a"]).shape == (1, 32)


def test_a_changed_file_explains_an_engines_error(folder) -> None:
    (folder / ONNX).write_bytes(b"\xff" * 5_000_000)  # large: hashed while the engine fails to open it
    with pytest.raises(CorruptModel, match=f"{ONNX} has changed"):
        SentenceTransformer(folder, backend="onnx")


def test_a_module_of_the_model_is_verified(exported, tmp_path) -> None:
    folder = Path(shutil.copytree(exported("bert"), tmp_path / "model"))
    seal = Seal.of(folder, verify=True)
    assert seal.weights() == ["model.safetensors"]
    assert seal.weights(without=[""]) == []
    assert seal.parts(folder / ONNX) == [ONNX]
    assert seal.parts(folder / "onnx/other.onnx") == []


def test_a_file_swapped_for_the_time_of_reading_is_noticed(folder) -> None:
    seal = Seal.of(folder, verify=True)
    good, evil = folder / ONNX, folder / "onnx/evil.onnx"
    evil.write_bytes(good.read_bytes())
    flip(evil)
    with pytest.raises(CorruptModel, match="changed or replaced while the model was opened") as caught:  # noqa: SIM117, PT012
        with seal.watching([ONNX]):
            os.link(good, folder / "onnx/kept.onnx")
            evil.replace(good)
            (folder / "onnx/kept.onnx").replace(good)
    assert caught.value.hint
    assert examine(folder, seal.manifest).differences == ()


def test_a_folder_swapped_for_the_time_of_reading_is_noticed(folder) -> None:
    seal = Seal.of(folder, verify=True)
    with pytest.raises(CorruptModel, match="changed or replaced"), seal.watching([ONNX]):  # noqa: PT012
        (folder / "onnx").rename(folder / "away")
        (folder / "away").rename(folder / "onnx")


def test_an_identity_knows_a_link_from_its_file(tmp_path) -> None:
    assert identity(tmp_path / "x") == ()
    (tmp_path / "x").touch()
    before = identity(tmp_path / "x")
    assert before == identity(tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "y")
    (tmp_path / "x").symlink_to("y")
    assert identity(tmp_path / "x") != before


def test_a_model_that_is_exchanged_all_the_time_is_served_whole_or_not_at_all(folder, tmp_path) -> None:
    good = (folder / ONNX).read_bytes()
    evil = tmp_path / "evil.onnx"
    evil.write_bytes(good)
    flip(evil, len(good) - 5000)
    expected = SentenceTransformer(folder, backend="onnx").encode(["one text"])
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            for content in (evil.read_bytes(), good):
                (folder / "onnx/new").write_bytes(content)
                (folder / "onnx/new").replace(folder / ONNX)

    thread = threading.Thread(target=exchange)
    thread.start()
    served = refused = 0
    try:
        for _ in range(60):
            try:
                model = SentenceTransformer(folder, backend="onnx")
            except CorruptModel:
                refused += 1
                continue
            served += 1
            assert (model.encode(["one text"]) == expected).all()
    finally:
        stop.set()
        thread.join()
    assert refused


def test_a_difference_in_words() -> None:
    assert str(Difference("a", "0" * 64, None)) == "a is missing"
    assert (
        str(Difference("a", "0" * 64, "f" * 64)) == f"a has changed: sha256 {'f' * 12}…, recorded {'0' * 12}…"
    )
