"""H11: OpenVINO IRs that are malformed, larger than their weights, in circles, or too large to open."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from victim import EDGES, ir, layer, layers, save_openvino, table
from watched import Report, watch

from stopt.errors import CorruptModel, UntrustedModel
from stopt.preflight import openvino as checked
from stopt.preflight import vet_openvino

Text = Callable[[], str | bytes]
PORT = "<port id='{}' precision='FP32'><dim>-1</dim></port>"


def _nested(depth: int) -> str:
    """``If`` inside of ``If``."""
    body = "<layers/><edges/>"
    for number in range(depth):
        inner = f"<then_body>{body}</then_body>"
        body = f"<layers>{layer(number, 'If', inner, version='opset8')}</layers><edges/>"
    return ir([*layers(), layer(100, "If", f"<then_body>{body}</then_body>", version="opset8")])


def _chain(length: int) -> str:
    numbers = range(10, 10 + length)
    relus = [layer(n, "Relu", "", PORT.format(0), PORT.format(1)) for n in numbers]
    return ir([*layers(), *relus], [*EDGES, "4 3 10 0", *(f"{n} 1 {n + 1} 0" for n in numbers[:-1])])


def _constant(number: int, value: str) -> str:
    return layer(number, "Const", value, outputs="<port id='0' precision='I64'><dim>1</dim></port>")


UNTRUSTED: dict[str, Text] = {
    "DOCTYPE": lambda: ir(layers(), head="<!DOCTYPE net>"),
    "entities": lambda: ir(layers(), head="<!DOCTYPE net [<!ENTITY a 'x'><!ENTITY b '&a;&a;'>]>"),
    "entity of a file": lambda: ir(layers(), head="<!DOCTYPE net [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>"),
    "comment": lambda: ir(layers(), head="<!-- -->"),
    "extension": lambda: ir([*layers(), layer(9, "Evil", version="extension")]),
    "no opset": lambda: ir([*layers(), layer(9, "Evil", version="")]),
    "texts": lambda: ir(
        [*layers(), _constant(9, "<data element_type='string' shape='1' offset='0' size='8'/>")]
    ),
}
CORRUPT: dict[str, Text] = {
    "offset past the end": lambda: ir(layers(offset=10**9)),
    "offset that overflows": lambda: ir(layers(offset=2**64 - 50)),
    "offset of 2^63": lambda: ir(layers(offset=2**63)),
    "negative offset": lambda: ir(layers(offset=-1)),
    "offset that is no number": lambda: ir(layers(offset="0x10")),
    "size that overflows": lambda: ir(layers(size=2**64 - 1)),
    "size unlike the shape": lambda: ir(layers(size=16)),
    "shape unlike the size": lambda: ir(layers(rows=1000)),
    "unknown type": lambda: ir(layers()).replace("element_type='f32'", "element_type='f33'"),
    "no weights": lambda: ir([*layers(), layer(9, "Const")]),
    "the same id twice": lambda: ir([*layers(), layer(2, "Relu", "", PORT.format(0), PORT.format(1))]),
    "no id": lambda: ir([*layers(), layer(9, "Relu").replace("id='9'", "")]),
    "id that is no number": lambda: ir([*layers(), layer(9, "Relu").replace("id='9'", "id='nine'")]),
    "circle": lambda: ir([*layers(), layer(8, "Relu"), layer(9, "Relu")], [*EDGES, "8 1 9 0", "9 1 8 0"]),
    "itself": lambda: ir([*layers(), layer(8, "Relu")], [*EDGES, "8 1 8 0"]),
    "edge from nowhere": lambda: ir(layers(), [*EDGES, "77 0 5 1"]),
    "two edges into one input": lambda: ir(layers(), [*EDGES, "1 0 4 1"]),
    "edge without a port": lambda: ir(layers()).replace("to-port='1'", ""),
    "cut short": lambda: ir(layers())[:-40],
    "attribute twice": lambda: ir(layers()).replace("id='2'", "id='2' id='3'"),
    "a dimension that is no number": lambda: ir(layers()).replace("<dim>-1</dim>", "<dim>x</dim>"),
    "UTF-16": lambda: ir(layers()).encode("utf-16"),
    "another encoding": lambda: ir(layers()).replace("version='1.0'", "version='1.0' encoding='latin-1'"),
    "NUL": lambda: ir(layers()) + "\0",
    "no layers": lambda: ir([], []),
    "empty": lambda: b"",
    "text": lambda: b"version https://git-lfs.github.com/spec/v1\n",
    "HTML": lambda: "<html><body>404</body></html>",
}
LARGE: dict[str, Text] = {
    "dimension of 10^12": lambda: ir(layers()).replace("<dim>-1</dim>", f"<dim>{10**12}</dim>"),
    "input of 10^12": lambda: ir(layers()).replace("shape='?,?'", f"shape='?,{10**12}'"),
    "negative dimension": lambda: ir(layers()).replace("<dim>-1</dim>", "<dim>-7</dim>"),
    "many layers": lambda: ir([*layers(), *(layer(n, "Relu") for n in range(10, 11 + checked.MAX_LAYERS))]),
    "one layer after the other": lambda: _chain(checked.MAX_CHAIN + 10),
    "deep bodies": lambda: _nested(10),
    "very deep bodies": lambda: _nested(1_000),
    "deep elements": lambda: ir(layers()).replace("<rt_info/>", "<a>" * 10_000 + "</a>" * 10_000),
    "a loop": lambda: ir([*layers(), layer(9, "TensorIterator")]),
    "a loop of the other kind": lambda: ir([*layers(), layer(9, "Loop", version="opset5")]),
}


def _pipe(weights: Path) -> None:
    weights.unlink()
    os.mkfifo(weights)


def _link(weights: Path) -> None:
    weights.unlink()
    weights.symlink_to("/etc/passwd")


WEIGHTS: dict[str, Callable[[Path], object]] = {
    "weights cut short": lambda weights: weights.write_bytes(table().tobytes()),
    "no bytes of weights": lambda weights: weights.write_bytes(b""),
    "weights that are a pipe": _pipe,
    "weights that are a link": _link,
    "weights that are not there": lambda weights: weights.unlink(),
}


@pytest.fixture(scope="module")
def reports(harmless: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Report]]:
    root = tmp_path_factory.mktemp("graphs")
    folders = {}
    for number, (name, make) in enumerate({**UNTRUSTED, **CORRUPT, **LARGE}.items()):
        folders[name] = shutil.copytree(harmless, root / f"m{number}")
        save_openvino(folders[name], make())
    for name, change in WEIGHTS.items():
        folders[name] = shutil.copytree(harmless, root / f"m{len(folders)}")
        change(folders[name] / "openvino" / "openvino_model.bin")
    found = watch([("openvino", str(folder)) for folder in folders.values()], harmless)
    return {name: (folders[name], report) for name, report in zip(folders, found, strict=True)}


@pytest.mark.scorecard("H11")
@pytest.mark.parametrize("name", UNTRUSTED)
def test_declarations_and_extensions_are_refused(reports, refused, name) -> None:
    folder, report = reports[name]
    refused(report, folder, "UntrustedModel")


@pytest.mark.scorecard("H11")
@pytest.mark.parametrize("name", CORRUPT)
def test_what_is_malformed_is_corrupt(reports, refused, name) -> None:
    folder, report = reports[name]
    refused(report, folder, "CorruptModel")


@pytest.mark.scorecard("H11")
@pytest.mark.parametrize("name", LARGE)
def test_what_is_too_large_to_open_is_refused(reports, refused, name) -> None:
    folder, report = reports[name]
    refused(report, folder, "ResourceLimitError", seconds=20.0)


@pytest.mark.scorecard("H11")
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_not_all_there_are_refused(reports, refused, name) -> None:
    folder, report = reports[name]
    refused(report, folder, "CorruptModel", "UntrustedModel")


@pytest.mark.scorecard("H11")
@pytest.mark.parametrize(
    ("name", "error"),
    [("DOCTYPE", UntrustedModel), ("circle", CorruptModel), ("offset that overflows", CorruptModel)],
)
def test_the_check_needs_no_engine(tmp_path: Path, name, error) -> None:
    file = save_openvino(tmp_path, {**UNTRUSTED, **CORRUPT}[name]())
    with pytest.raises(error) as caught:
        vet_openvino(file)
    assert caught.value.hint


def test_what_openvino_may_grow_when_it_opens_a_file_is_tried_first(tmp_path: Path) -> None:
    """A constant repeated by a number that is itself computed: how large it gets is not in the file."""
    data = "<data element_type='i64' shape='1' offset='144' size='8'/>"
    parts = [
        _constant(8, data),
        layer(9, "Exp", "", PORT.format(0), PORT.format(1)),
        layer(10, "Tile", "", PORT.format(0) + PORT.format(1), PORT.format(2)),
    ]
    file = save_openvino(tmp_path, ir([*layers(), *parts], [*EDGES, "8 0 9 0", "8 0 10 0", "9 1 10 1"]))
    assert vet_openvino(file).doubts == ("how large its constants get depends on a node Tile",)


def test_the_harmless_model_is_let_through(harmless: Path) -> None:
    verdict = vet_openvino(harmless / "openvino" / "openvino_model.xml")
    assert verdict.data == ("openvino_model.bin",)
    assert not verdict.doubts
