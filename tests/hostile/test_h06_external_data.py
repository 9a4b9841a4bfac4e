"""H6 to H8: where an ONNX file says that its tensors are, in every place where a file may have tensors."""

import os
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from victim import SECRET, carried, external, graph_model, save_onnx
from watched import Report, watch

from stopt.errors import CorruptModel, UntrustedModel
from stopt.preflight import vet_onnx

LOCATIONS = {
    "parent": "../secret",
    "parent of a folder": "a/../../secret",
    "absolute": "{outside}/secret",
    "drive": "C:\\secret",
    "share": "\\\\host\\secret",
    "here": ".",
    "empty": "",
    "folder": "folder",
    "pipe": "pipe",
    "device": "/dev/zero",
    "link": "link",
    "link to a folder": "linked/secret",
    "hard link": "hard",
    "NUL": "secret\0",
    "memory": "*/_ORT_MEM_ADDR_/*",
    "redundant": "./plain",
}
CARRIERS = ["initializer", "attribute", "sparse", "sparse attribute", "subgraph", "function"]
ENTRIES = {
    "offset before": {"offset": "-1"},
    "offset of 2^63": {"offset": str(2**63)},
    "offset past the end": {"offset": "1000000"},
    "offset overflows": {"offset": str(2**63 - 1), "length": "32"},
    "length below": {"length": "-1"},
    "length of 2^60": {"length": str(2**60)},
    "length too small": {"length": "16"},
    "no number": {"offset": "0x10"},
    "digits of another script": {"offset": "٣"},
    "unknown key": {"extra": "1"},
    "dunder": {"__class__": "x"},
    "two locations": {"location": "plain", "Location": "../secret"},
}
Case = tuple[str, str]


def _lay_out(folder: Path) -> str:
    """Put files, links and other things beside a graph; return the folder outside of it."""
    outside = folder.parent / f"outside-{folder.name}"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    home = folder / "onnx"
    (folder / "secret").write_bytes(SECRET)
    (home / "plain").write_bytes(bytes(64))
    (home / "folder").mkdir()
    os.mkfifo(home / "pipe")
    (home / "link").symlink_to(outside / "secret")
    (home / "linked").symlink_to(outside)
    os.link(outside / "secret", home / "hard")
    return str(outside)


@pytest.fixture(scope="module")
def reports(harmless: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Case, tuple[Path, Report]]:
    root = tmp_path_factory.mktemp("external")
    folders: dict[Case, Path] = {}
    for number, (carrier, name) in enumerate(
        [(c, n) for c in CARRIERS for n in LOCATIONS] + [(c, n) for c in CARRIERS[:3] for n in ENTRIES]
    ):
        folder = shutil.copytree(harmless, root / f"m{number}")
        outside = _lay_out(folder)
        entries = (
            {"location": LOCATIONS[name].format(outside=outside)}
            if name in LOCATIONS
            else {"location": "plain", **ENTRIES[name]}
        )
        save_onnx(folder, carried(carrier, external("evil", **entries)))
        folders[carrier, name] = folder
    found = watch([("onnx", str(folder)) for folder in folders.values()], harmless)
    return {case: (folder, report) for (case, folder), report in zip(folders.items(), found, strict=True)}


@pytest.mark.scorecard("H6")
@pytest.mark.parametrize("name", LOCATIONS)
def test_data_elsewhere_is_refused(reports, refused, name) -> None:
    folder, report = reports["initializer", name]
    refused(report, folder, "UntrustedModel")
    assert "fold" in report.message or "regular file" in report.message or "hard link" in report.message


@pytest.mark.scorecard("H7")
@pytest.mark.parametrize("carrier", CARRIERS[1:])
@pytest.mark.parametrize("name", LOCATIONS)
def test_data_elsewhere_is_refused_wherever_a_tensor_may_be(reports, refused, carrier, name) -> None:
    folder, report = reports[carrier, name]
    refused(report, folder, "UntrustedModel")


@pytest.mark.scorecard("H8")
@pytest.mark.parametrize("carrier", CARRIERS[:3])
@pytest.mark.parametrize("name", ENTRIES)
def test_places_in_a_data_file_that_cannot_be_are_refused(reports, refused, carrier, name) -> None:
    folder, report = reports[carrier, name]
    refused(report, folder, "CorruptModel", "UntrustedModel")


@pytest.mark.scorecard("H6")
@pytest.mark.parametrize("name", ["link", "parent"])
def test_refusing_does_not_depend_on_the_engine(harmless: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(harmless, tmp_path / "m")
    _lay_out(folder)
    file = save_onnx(folder, carried("initializer", external("evil", location=LOCATIONS[name])))
    with pytest.raises(UntrustedModel) as caught:
        vet_onnx(file)
    assert "only name files inside its own folder" in caught.value.hint


@pytest.mark.scorecard("H8")
def test_a_tensor_whose_data_are_in_two_places_is_corrupt(harmless: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(harmless, tmp_path / "m")
    _lay_out(folder)
    tensor = external("evil", location="plain")
    tensor.raw_data = bytes(32)
    with pytest.raises(CorruptModel, match="has its data in two places"):
        vet_onnx(save_onnx(folder, carried("initializer", tensor)))


@pytest.mark.parametrize("carrier", CARRIERS)
def test_data_beside_the_file_are_let_through(harmless: Path, tmp_path: Path, carrier: str) -> None:
    folder = shutil.copytree(harmless, tmp_path / "m")
    _lay_out(folder)
    tensor = external("fine", location="plain", offset="32", length="32")
    verdict = vet_onnx(save_onnx(folder, carried(carrier, tensor)))
    assert verdict.data == ("plain",)
    # a branch that is chosen by a constant is unusual
    assert bool(verdict.doubts) == (carrier == "subgraph")


def test_data_in_a_snapshot_of_the_hub_are_links_into_its_blobs(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "beef").write_bytes(bytes(32))
    file = save_onnx(snapshot, carried("initializer", external("fine", location="model.onnx_data")))
    (file.parent / "model.onnx_data").symlink_to("../../../blobs/beef")
    assert vet_onnx(file).data == ("model.onnx_data",)
    (file.parent / "model.onnx_data").unlink()
    (file.parent / "model.onnx_data").symlink_to("../../../refs/main")
    with pytest.raises(UntrustedModel, match="link that leaves its folder"):
        vet_onnx(file)
    shutil.rmtree(blobs)
    blobs.symlink_to("/etc")
    (file.parent / "model.onnx_data").unlink()
    (file.parent / "model.onnx_data").symlink_to("../../../blobs/hostname")
    with pytest.raises(UntrustedModel, match="link that leaves its folder"):
        vet_onnx(file)


def test_a_missing_data_file_is_corrupt(tmp_path: Path) -> None:
    file = save_onnx(tmp_path, carried("initializer", external("fine", location="model.onnx_data")))
    with pytest.raises(CorruptModel, match=r"model.onnx_data is missing, the data of model.onnx") as caught:
        vet_onnx(file)
    assert caught.value.hint == "fetch it again together with its data files"


def test_the_harmless_model_is_let_through(harmless: Path) -> None:
    report = watch([("onnx", str(harmless))])[0]
    assert report.error is None
    assert len(report.value) == 4


def test_onnx_itself_would_have_taken_the_tensors(tmp_path: Path) -> None:
    """The files are valid but for what is refused, so nothing else is the reason."""
    for carrier in CARRIERS:
        tensor = TensorProto(name="fine", data_type=TensorProto.FLOAT, dims=[8], raw_data=bytes(32))
        onnx.checker.check_model(carried(carrier, tensor))
    onnx.checker.check_model(graph_model())
