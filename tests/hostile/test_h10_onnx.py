"""H10: operators, functions, notes and files beside an ONNX graph by which code could run; and graphs too large to open."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from victim import build, external, graph_model, save_onnx
from watched import Report, watch

from stopt.errors import CorruptModel, ResourceLimitError, UntrustedModel
from stopt.preflight import onnx as checked
from stopt.preflight import vet_onnx

Made = onnx.ModelProto | bytes


def _node(operator: str, domain: str = "", **attributes: object) -> Made:
    node = helper.make_node(operator, ["input_ids"], ["unused"], domain=domain, **attributes)
    return graph_model([node], opsets=[helper.make_opsetid(domain, 1)] if domain else [])


def _noted(key: str, value: str) -> Made:
    model = graph_model()
    helper.set_model_props(model, {key: value})
    return model


def _function(name: str, domain: str, calls: str, times: int = 1) -> onnx.FunctionProto:
    inside = [helper.make_node(calls, ["x"], [f"y{i}"], domain=domain) for i in range(times)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    return helper.make_function(domain, name, ["x"], ["y0"], inside, opsets)


def _calling(*functions: onnx.FunctionProto) -> Made:
    domain = functions[0].domain
    node = helper.make_node(functions[0].name, ["input_ids"], ["unused"], domain=domain)
    return graph_model([node], functions=functions, opsets=[helper.make_opsetid(domain, 1)])


def _bomb() -> Made:
    """Functions that call the next ten times each: 10^6 nodes once they are written out."""
    chain = [_function(f"f{i}", "local", f"f{i + 1}", 10) for i in range(6)]
    return _calling(
        *chain, helper.make_function("local", "f6", ["x"], ["x"], [], [helper.make_opsetid("", 17)])
    )


def _redefined() -> Made:
    function = helper.make_function("", "Gather", ["x"], ["x"], [], [helper.make_opsetid("", 17)])
    return graph_model(functions=[function])


def _trained() -> Made:
    model = graph_model()
    model.training_info.add()
    return model


def _own_format() -> Made:
    """ONNX Runtime looks for these letters, whatever else the file may be."""
    data = graph_model().SerializeToString()
    prefix = b"\x12\x06" + b"xx" + b"ORTM"  # the name of a producer
    return prefix + data


def _nested(depth: int) -> Made:
    value = helper.make_tensor_value_info("made", TensorProto.FLOAT, [])
    one = helper.make_graph([helper.make_node("Constant", [], ["made"], value_float=1.0)], "g", [], [value])
    body = one
    for _ in range(depth):
        branch = helper.make_node("If", ["true"], ["made"], then_branch=body, else_branch=one)
        body = helper.make_graph([branch], "g", [], [value])
    node = helper.make_node("If", ["true"], ["unused"], then_branch=body, else_branch=one)
    return graph_model([node], [numpy_helper.from_array(np.array(True), "true")])


def _asking(operator: str, inputs: list[str], shape: list[int]) -> Made:
    constant = numpy_helper.from_array(np.array(shape, np.int64), "shape")
    return graph_model([helper.make_node(operator, inputs, ["unused"])], [constant])


def _tensor(**changes: object) -> Made:
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[2], raw_data=bytes(8))
    for name, value in changes.items():
        if name == "dims":
            del tensor.dims[:]
            tensor.dims.extend(value)  # type: ignore[arg-type]
        else:
            setattr(tensor, name, value)
    return graph_model(initializers=[tensor])


CODE: dict[str, Callable[[], Made]] = {
    "custom operator": lambda: _node("Evil", "evil"),
    "custom operator by a near name": lambda: _node("Gelu", "com.microsoft.evil"),
    "EPContext": lambda: _node("EPContext", "com.microsoft", ep_cache_context="/etc/passwd", embed_mode=0),
    "PyOp": lambda: _node("PyOp", "com.microsoft", module="os", class_name="system"),
    "PyOp of its own": lambda: _node("PyOp", "pyopmulti_2_2", module="os"),
    "Scan of an extension": lambda: _node("BertTokenizer", "ai.onnx.contrib"),
    "ort_config": lambda: _noted("ort_config", json.dumps({"session_options": {"inter_op_num_threads": 1}})),
    "redefined operator": _redefined,
    "function of a custom operator": lambda: _calling(_function("f", "local", "missing")),
    "graphs for training": _trained,
    "own format": _own_format,
}
LARGE: dict[str, Callable[[], Made]] = {
    "a million nodes": lambda: graph_model([helper.make_node("Identity", ["input_ids"], ["y"])] * 200_001),
    "functions that multiply": _bomb,
    "functions in a circle": lambda: _calling(_function("f", "local", "g"), _function("g", "local", "f")),
    "deep graphs": lambda: _nested(20),
    "very deep graphs": lambda: _deep_bytes(2_000),
    "a loop": lambda: _node("Loop"),
    "a tensor of 2^40": lambda: _tensor(dims=[2**40]),
    "a tensor of many axes": lambda: _tensor(dims=[1] * 100),
    "a value of 10^12": lambda: _asking("ConstantOfShape", ["shape"], [10**6, 10**6]),
    "a text repeated": lambda: _asking("Tile", ["input_ids", "shape"], [10**6, 10**6]),
    "an input expanded": lambda: _asking("Expand", ["input_ids", "shape"], [10**12]),
}
CORRUPT: dict[str, Callable[[], Made]] = {
    "fewer data than its shape": lambda: _tensor(dims=[3]),
    "more data than its shape": lambda: _tensor(dims=[1]),
    "a negative axis": lambda: _tensor(dims=[-1]),
    "an unknown type": lambda: _tensor(data_type=99),
    "two graphs": lambda: graph_model().SerializeToString() * 2,
    "a field of the future": lambda: graph_model().SerializeToString() + b"\xfa\x07\x01x",
    "a group": lambda: graph_model().SerializeToString() + b"\x0b\x0c",
    "no end": lambda: graph_model().SerializeToString()[:-3],
    "a long number": lambda: b"\x08" + b"\xff" * 11 + b"\x01",
    "no graph": lambda: b"\x08\x09",
    "empty": lambda: b"",
    "text": lambda: b"version https://git-lfs.github.com/spec/v1\n",
    "not UTF-8": lambda: graph_model().SerializeToString().replace(b"table", b"\xff" * 5),
}


def _deep_bytes(depth: int) -> bytes:
    """Subgraphs nested too deep for the onnx package to write them: message in message, by hand."""

    def message(number: int, body: bytes) -> bytes:
        size, length = len(body), b""
        while size > 0x7F:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + body

    graph = b""
    for _ in range(depth):
        graph = message(1, message(4, b"If") + message(5, message(1, b"then_branch") + message(6, graph)))
    return message(7, graph)


@pytest.fixture(scope="module")
def reports(harmless: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Report]]:
    root = tmp_path_factory.mktemp("graphs")
    folders = {}
    for number, (name, make) in enumerate({**CODE, **LARGE, **CORRUPT}.items()):
        folders[name] = shutil.copytree(harmless, root / f"m{number}")
        save_onnx(folders[name], make())
    actions = [("onnx", str(folder)) for folder in folders.values()]
    found = watch(actions, harmless, ORT_LOAD_CONFIG_FROM_MODEL="1")
    return {name: (folders[name], report) for name, report in zip(folders, found, strict=True)}


@pytest.mark.scorecard("H10")
@pytest.mark.parametrize("name", CODE)
def test_what_could_run_code_is_refused(reports, refused, name) -> None:
    folder, report = reports[name]
    refused(report, folder, "UntrustedModel")


@pytest.mark.scorecard("H10")
@pytest.mark.parametrize("name", LARGE)
def test_what_is_too_large_to_open_is_refused(reports, refused, name) -> None:
    folder, report = reports[name]
    refused(report, folder, "ResourceLimitError", seconds=20.0 if "million" in name else 2.0)


@pytest.mark.scorecard("H10")
@pytest.mark.parametrize("name", CORRUPT)
def test_what_two_parsers_could_read_differently_is_refused(reports, refused, name) -> None:
    folder, report = reports[name]
    refused(report, folder, "CorruptModel", "ResourceLimitError")


@pytest.mark.scorecard("H10")
def test_files_for_engines_in_a_model_are_not_touched(tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    strays = (
        "libevil.so",
        "evil.dll",
        "model_cache/1234.blob",
        "ov_config.json",
        "session_options.json",
        "custom.py",
    )
    for name in strays:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(
            b"\x7fELF not a library" if name.endswith(".so") else b'{"CACHE_DIR": "/x"}'
        )
    before = {path: path.stat().st_atime_ns for path in folder.rglob("*") if path.is_file()}
    reports = watch([("onnx", str(folder)), ("openvino", str(folder)), ("inspect", str(folder))])
    assert [report.error for report in reports] == [None, None, None]
    opened = {path for report in reports for path in report.opened()}
    assert not {name for name in strays if str(folder / name) in opened}
    assert not [
        subject for report in reports for subject in report.of("ctypes.dlopen") if str(folder) in subject
    ]
    assert {path for path in folder.rglob("*") if path.is_file()} == before.keys(), "something was written"
    shown = json.loads(reports[2].value["stdout"])["result"]["preflight"]
    assert set(strays) <= set(shown["ignored"])


@pytest.mark.parametrize(
    ("name", "error", "hint"),
    [
        ("custom operator", UntrustedModel, "unless you trust its source"),
        ("a loop", ResourceLimitError, "unless you trust its source"),
        ("no end", CorruptModel, "export it with `stopt export --force`"),
    ],
)
def test_the_check_needs_no_engine(tmp_path: Path, name, error, hint) -> None:
    file = save_onnx(tmp_path, {**CODE, **LARGE, **CORRUPT}[name]())
    with pytest.raises(error) as caught:
        vet_onnx(file)
    assert hint in caught.value.hint


def test_a_graph_with_more_nodes_than_usual_is_tried_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked, "MANY_NODES", 3)
    file = save_onnx(
        tmp_path, graph_model([helper.make_node("Identity", ["input_ids"], [f"y{i}"]) for i in range(4)])
    )
    assert vet_onnx(file).doubts == ("it has 5 nodes",)


def test_data_files_are_named_as_the_file_names_them(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "weights-0123").write_bytes(bytes(64))
    tensors = [
        external(name, location="weights-0123", offset=offset) for name, offset in (("a", "0"), ("b", "32"))
    ]
    assert vet_onnx(save_onnx(tmp_path, graph_model(initializers=tensors))).data == ("weights-0123",)
