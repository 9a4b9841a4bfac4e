"""Files of a model folder: which are there, what is known of them, how new ones get in."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stopt.artifact import (
    MANIFEST,
    FileRecord,
    Manifest,
    default_file,
    describe_parts,
    engine_files,
    is_plain,
    locate,
    replacing,
    require_folder_of,
    sha256,
    write_text,
)
from stopt.errors import ArtifactError, CorruptModel, OptionError, UntrustedModel
from stopt.spec import Backend

FILES = (
    "model.onnx",
    "onnx/model.onnx",
    "onnx/model_O3.onnx",
    "onnx/model.onnx_data",
    "onnx/deeper/model.onnx",
    "openvino/openvino_model.xml",
    "openvino/openvino_model.bin",
    "openvino/openvino_tokenizer.xml",
    "openvino/openvino_detokenizer.xml",
    "sub/onnx/model.onnx",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        file = tmp_path / "model" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name, encoding="utf-8")
    return tmp_path / "model"


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# ---- names ----------------------------------------------------------------------------------------------------------


def test_plain_files_have_sentence_transformers_names() -> None:
    assert default_file(Backend.ONNX) == "onnx/model.onnx"
    assert default_file(Backend.OPENVINO) == "openvino/openvino_model.xml"
    assert is_plain("onnx/model.onnx")
    assert not is_plain("onnx/model_O3.onnx")


def test_a_backends_files_are_listed(folder) -> None:
    assert engine_files(folder, Backend.ONNX) == ["model.onnx", "onnx/model.onnx", "onnx/model_O3.onnx"]
    assert engine_files(folder, Backend.OPENVINO) == ["openvino/openvino_model.xml"]
    assert engine_files(folder / "nowhere", Backend.ONNX) == []


@pytest.mark.parametrize(
    ("backend", "name", "subfolder", "found"),
    [
        (Backend.ONNX, None, "", "model.onnx"),
        (Backend.ONNX, "onnx/model.onnx", "", "onnx/model.onnx"),
        (Backend.ONNX, "model_O3.onnx", "", "onnx/model_O3.onnx"),
        (Backend.ONNX, None, "sub", "sub/onnx/model.onnx"),
        (Backend.ONNX, "model.onnx", "/onnx/deeper/", "onnx/deeper/model.onnx"),
        (Backend.OPENVINO, None, "", "openvino/openvino_model.xml"),
        (Backend.OPENVINO, "openvino_tokenizer.xml", "", "openvino/openvino_tokenizer.xml"),
    ],
)
def test_a_name_finds_its_file(folder, backend, name, subfolder, found) -> None:
    assert locate(folder, backend, name, subfolder) == folder / found


@pytest.mark.parametrize(
    ("name", "hint"),
    [("onnx/modle.onnx", "did you mean 'onnx/model.onnx'?"), ("O3.onnx", "known: model.onnx, onnx/")],
)
def test_a_name_that_is_not_there_lists_those_that_are(folder, name, hint) -> None:
    with pytest.raises(
        ArtifactError, match=r"its onnx files: model.onnx, onnx/model.onnx, onnx/model_O3.onnx"
    ) as caught:
        locate(folder, Backend.ONNX, name)
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", [None, "onnx/model.onnx"])
def test_a_folder_without_files_names_the_command_that_makes_one(tmp_path, name) -> None:
    with pytest.raises(ArtifactError) as caught:
        locate(tmp_path, Backend.ONNX, name)
    assert caught.value.hint == f"make one: stopt export {tmp_path} --backend onnx"


def test_a_file_of_another_engine_is_a_wrong_option(folder) -> None:
    with pytest.raises(OptionError, match=r"'openvino_model.xml' is not a .onnx file"):
        locate(folder, Backend.ONNX, "openvino_model.xml")


@pytest.mark.parametrize(("name", "subfolder"), [("../x.onnx", ""), ("/x.onnx", ""), ("x.onnx", "..")])
def test_a_name_must_not_leave_the_folder(folder, name, subfolder) -> None:
    with pytest.raises(UntrustedModel):
        locate(folder, Backend.ONNX, name, subfolder)


# ---- manifest -------------------------------------------------------------------------------------------------------


@pytest.fixture
def manifest(folder: Path) -> Manifest:
    record = FileRecord(
        backend="onnx",
        precision="float32",
        parts=describe_parts(folder, ["onnx/model.onnx_data", "onnx/model.onnx"]),
        options={"step": "export"},
        versions={"python": "3.11"},
        parity={"min_cosine": 0.99999},
    )
    return Manifest(
        {"name": "модель", "revision": None},
        {"config.json": {"sha256": "0" * 64, "size_bytes": 7}},
        {"onnx/model.onnx": record},
    )


def test_parts_are_hashed_and_measured(folder) -> None:
    parts = describe_parts(folder, ["onnx/model.onnx"])
    digest = sha256(folder / "onnx/model.onnx")
    assert parts == {"onnx/model.onnx": {"sha256": digest, "size_bytes": len("onnx/model.onnx")}}
    (folder / "abc").write_bytes(b"abc")
    assert sha256(folder / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_manifest_survives_the_disk(folder, manifest) -> None:
    manifest.write(folder)
    assert Manifest.read(folder) == manifest
    text = (folder / MANIFEST).read_text(encoding="utf-8")
    assert json.loads(text)["schema"] == 2
    assert "модель" in text


def test_no_manifest_is_none(tmp_path) -> None:
    assert Manifest.read(tmp_path) is None


def test_with_file_adds_and_replaces(manifest) -> None:
    other = replace(manifest.files["onnx/model.onnx"], precision="int8")
    assert list(manifest.with_file("onnx/b.onnx", other).files) == ["onnx/model.onnx", "onnx/b.onnx"]
    assert manifest.with_file("onnx/model.onnx", other).files["onnx/model.onnx"].precision == "int8"
    assert manifest.files["onnx/model.onnx"].precision == "float32"


def test_intact_notices_changed_and_missing_files(folder, manifest) -> None:
    assert manifest.is_intact(folder)
    (folder / "onnx/model.onnx_data").write_text("onnx/model.onnx_dat@", encoding="utf-8")
    assert not manifest.is_intact(folder)
    (folder / "onnx/model.onnx_data").unlink()
    assert not manifest.is_intact(folder)


RECORD = {"backend": "onnx", "precision": "float32", "parts": {}, "options": {}, "versions": {}, "parity": {}}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"source": {}},
        {"source": None, "files": {}},
        {"source": {}, "files": []},
        {"source": {}, "files": {"a": {}}},
        {"source": {}, "files": {"a": [1]}},
        {"source": {}, "files": {"a": {**RECORD, "extra": 1}}},
        {"source": {}, "files": {"a": {**RECORD, "parts": []}}},
        {"source": {}, "files": {"a": {**RECORD, "parts": {"a": {}}}}},
        {"source": {}, "files": {"a": {**RECORD, "parts": {"a": {"sha256": "0", "size_bytes": "7"}}}}},
        {"source": {}, "files": {"a": {**RECORD, "parity": [1]}}},
        {"source": {}, "files": {"a": {**RECORD, "parity": {"min_cosine": "high"}}}},
    ],
)
def test_a_file_that_is_no_manifest_is_corrupt(tmp_path, document) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps({"schema": 1, **document}), encoding="utf-8")
    with pytest.raises(CorruptModel, match="is not a manifest of stopt") as caught:
        Manifest.read(tmp_path)
    assert "delete it" in caught.value.hint


@pytest.mark.parametrize("schema", [0, 3, "1", None])
def test_another_schema_is_told(tmp_path, schema) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps({"schema": schema}), encoding="utf-8")
    with pytest.raises(CorruptModel, match=f"has schema {schema!r}, this stopt reads 2 and older") as caught:
        Manifest.read(tmp_path)
    assert caught.value.hint


def test_a_manifest_cut_short_is_corrupt(folder, manifest) -> None:
    manifest.write(folder)
    text = (folder / MANIFEST).read_text(encoding="utf-8")
    (folder / MANIFEST).write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(CorruptModel, match="not valid JSON"):
        Manifest.read(folder)


@pytest.mark.parametrize("part", ["../secret", "/etc/passwd"])
def test_a_manifest_must_not_name_files_elsewhere(tmp_path, part) -> None:
    record = {**RECORD, "parts": {part: {"sha256": "0", "size_bytes": 7}}}
    (tmp_path / MANIFEST).write_text(
        json.dumps({"schema": 1, "source": {}, "files": {"a": record}}), encoding="utf-8"
    )
    with pytest.raises(UntrustedModel):
        Manifest.read(tmp_path)


# ---- writing --------------------------------------------------------------------------------------------------------


def test_text_replaces_what_was_there(tmp_path) -> None:
    write_text(tmp_path / "x", "old")
    write_text(tmp_path / "x", "neu ü")
    assert (tmp_path / "x").read_bytes() == "neu ü".encode()
    assert tree(tmp_path) == {"x"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_while_writing_leaves_the_old_file_alone(tmp_path, error) -> None:
    write_text(tmp_path / "x", "old")

    def fail() -> None:
        with replacing(tmp_path / "x") as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(error):
        fail()
    assert (tmp_path / "x").read_text(encoding="utf-8") == "old"
    assert tree(tmp_path) == {"x"}


@pytest.mark.parametrize("place", ["nowhere/x", "file/x", "folder"])
def test_a_place_that_cannot_be_written_is_an_error_with_a_hint(tmp_path, place) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder/sub").mkdir(parents=True)
    before = tree(tmp_path)
    with pytest.raises(ArtifactError, match=r"cannot be written: [A-Z]") as caught:
        write_text(tmp_path / place, "text")
    assert caught.value.hint
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("place", "fine"), [("x", True), ("nowhere/x", False), ("file/x", False)])
def test_a_missing_folder_is_told_beforehand(tmp_path, place, fine) -> None:
    (tmp_path / "file").touch()
    if fine:
        require_folder_of(tmp_path / place)
    else:
        with pytest.raises(ArtifactError, match="there is no folder"):
            require_folder_of(tmp_path / place)
