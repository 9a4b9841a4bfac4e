"""What a check cannot decide is tried in a process with limits, once; and `inspect`, which shows all of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper
from victim import (
    EDGES,
    TOKENIZER,
    build,
    graph_model,
    ir,
    layer,
    layers,
    save_onnx,
    save_openvino,
    write_json,
)

from stopt import SentenceTransformer
from stopt.cache import cache_root
from stopt.cli.main import cli
from stopt.errors import CorruptModel, ResourceLimitError, UnsupportedModel
from stopt.parity.their_tokenizer import plain_tokenizer
from stopt.preflight import Verdict, survey, vet_onnx, vet_shards, vet_tokenizer
from stopt.preflight.sizes import Constant, Sizes
from stopt.runtime import trial
from stopt.runtime.trial import admit, try_file


def _growing(folder: Path, elements: int) -> Path:
    """A graph whose constants, of a few kilobytes, become a table when they are multiplied."""
    column = numpy_helper.from_array(np.ones((elements, 1), np.float32), "column")
    row = numpy_helper.from_array(np.ones((1, elements), np.float32), "row")
    nodes = [
        helper.make_node("MatMul", ["column", "row"], ["table_of_ones"]),
        helper.make_node("ReduceSum", ["table_of_ones"], ["one"], keepdims=0),
        helper.make_node("Gather", ["table", "input_ids"], ["found"]),
        helper.make_node("Add", ["found", "one"], ["last_hidden_state"]),
    ]
    model = graph_model(nodes, [column, row])
    del model.graph.node[-1]
    return save_onnx(folder, model)


def _split(tmp_path: Path, pattern: str) -> Path:
    part = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    write_json(tmp_path / "tokenizer.json", {**TOKENIZER, "pre_tokenizer": part})
    return tmp_path / "tokenizer.json"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes that are started."""
    commands: list[Any] = []
    run = trial.subprocess.run

    def noted(command: Any, **options: Any) -> Any:
        commands.append(options)
        return run(command, **options)

    monkeypatch.setattr(trial.subprocess, "run", noted)
    return commands


# ---- when, and how often --------------------------------------------------------------------------------------------


def test_an_ordinary_model_starts_no_process(harmless: Path, started: list[Any]) -> None:
    for backend in ("onnx", "openvino"):
        SentenceTransformer(harmless, backend=backend)
    assert started == []
    assert not (cache_root() / "tried").exists()


def test_a_file_is_tried_once_while_it_is_the_same(tmp_path: Path, started: list[Any]) -> None:
    file = _split(tmp_path, "[a-f]+")
    for _ in range(2):
        admit(vet_tokenizer(file), "tokenizer")
    assert len(started) == 1
    file.write_bytes(file.read_bytes())
    admit(vet_tokenizer(file), "tokenizer")
    assert len(started) == 2


def test_a_file_that_cannot_be_remembered_is_tried_again(
    tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("STOPT_CACHE", str(tmp_path / "cache"))
    file = _split(tmp_path, "[a-f]+")
    for _ in range(2):
        admit(vet_tokenizer(file), "tokenizer")
    assert len(started) == 2


def test_the_process_gets_no_token(
    tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    admit(vet_tokenizer(_split(tmp_path, "[a-f]+")), "tokenizer")
    assert "hf_canary" not in json.dumps(started[0]["env"])


# ---- what comes of it -----------------------------------------------------------------------------------------------


def test_constants_that_grow_a_little_pass(harmless: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(harmless, tmp_path / "model")
    file = _growing(folder, 20_000)
    assert vet_onnx(file).doubts == ("800,000,000 values may have to be computed of its constants",)
    assert SentenceTransformer(folder, backend="onnx").encode("the fox").shape == (4,)


@pytest.mark.scorecard("H8")
def test_constants_that_grow_without_bound_are_refused(harmless: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(harmless, tmp_path / "model")
    _growing(folder, 200_000)
    with pytest.raises(ResourceLimitError, match=r"needs more memory|took more time or memory") as caught:
        SentenceTransformer(folder, backend="onnx")
    assert "values may have to be computed" in caught.value.message
    assert "unless you trust its source" in caught.value.hint


@pytest.mark.scorecard("H14")
def test_a_file_that_is_not_opened_in_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "SECONDS", 0.01)
    with pytest.raises(ResourceLimitError, match="was not opened within 0 s; it was tried because") as caught:
        admit(vet_tokenizer(_split(tmp_path, "[a-f]+")), "tokenizer")
    assert caught.value.hint


@pytest.mark.scorecard("H14")
@pytest.mark.parametrize("pattern", ["a*a*a*a*[xy]", r"\s*\s*\s*x", "(?:.*=)", "[a-z]*[a-y]*[a-x]*!!"])
def test_a_pattern_that_is_slow_but_not_without_end_ends(tmp_path: Path, pattern: str) -> None:
    """By the square or the cube; the tokenizer's own limit on backtracking ends it."""
    admit(vet_tokenizer(_split(tmp_path, pattern)), "tokenizer")


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("import os; os.abort()", CorruptModel, "crash (SIGABRT)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ResourceLimitError, "(SIGKILL)"),
        ("raise SystemExit(3)", CorruptModel, "crash (exit code 3)"),
    ],
)
def test_a_process_that_dies_is_an_error_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, error: type[Exception], message: str
) -> None:
    monkeypatch.setattr(trial, "_BOOT", code + "  # {root!r}")
    file = _split(tmp_path, "[a-f]+")
    with pytest.raises(error) as caught:
        admit(vet_tokenizer(file), "tokenizer")
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert not (cache_root() / "tried").exists()


@pytest.mark.parametrize("kind", ["onnx", "openvino", "tokenizer"])
def test_what_an_engine_refuses_is_corrupt(tmp_path: Path, kind: str) -> None:
    file = tmp_path / {"onnx": "m.onnx", "openvino": "m.xml", "tokenizer": "tokenizer.json"}[kind]
    file.write_bytes(b"nonsense")
    with pytest.raises(CorruptModel, match="cannot be opened") as caught:
        try_file(Verdict(file), kind)
    assert caught.value.hint == "fetch the file again"


# ---- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "inputs", "elements"),
    [
        ("Concat", ["wide", "wide"], 200),
        ("Add", ["column", "row"], 10_000),
        ("Mul", ["wide", "one"], 100),
        ("MatMul", ["column", "row"], 10_000),
        ("MatMul", ["wide", "wide"], 100),
        ("MatMul", ["unknown", "wide"], 100),
        ("Transpose", ["wide"], 100),
        ("Unsqueeze", ["wide", "zero"], 100),
        ("Tanh", ["wide"], 100),
        ("ConstantOfShape", ["shape"], 600),
        ("Tile", ["wide", "shape"], 60_000),
        ("Range", ["zero", "many", "one"], 1_001),
        ("Reshape", ["wide", "shape"], 100),
    ],
)
def test_computed_constants_have_a_bound(operator: str, inputs: list[str], elements: int) -> None:
    sizes = Sizes("m.onnx")
    sizes.constants = {
        "wide": Constant((10, 10), 100),
        "column": Constant((100, 1), 100),
        "row": Constant((1, 100), 100),
        "shape": Constant((2,), 2, (20, 30)),
        "zero": Constant((), 1, (0,)),
        "unknown": Constant(None, 100),
        "one": Constant((), 1, (1,)),
        "many": Constant((), 1, (1000,)),
    }
    sizes.node("", operator, inputs, ["made"], {})
    assert sizes.constants["made"].elements == elements
    assert sizes.doubted(0) == ()


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Resize", "Pad", "OfTheFuture"])
def test_where_there_is_no_bound_there_is_a_doubt(operator: str) -> None:
    sizes = Sizes("m.onnx")
    sizes.constants = {"x": Constant((2,), 2)}
    sizes.node("", operator, ["x"], ["made"], {})
    assert sizes.doubted(0) == (f"how large its constants get depends on a node {operator}",)


def test_shapes_are_followed_as_far_as_weights_need_it() -> None:
    """The relative positions of DeBERTa: a table that is normalised and multiplied with weights when it is opened."""
    sizes = Sizes("m.onnx")
    table, weights, bias = (
        Constant((512, 768), 512 * 768),
        Constant((768, 768), 768**2),
        Constant((768,), 768),
    )
    sizes.constants = {"table": table, "w": weights, "b": bias, "axes": Constant((1,), 1, (0,))}
    steps = ("LayerNormalization table b", "Unsqueeze 0 axes", "MatMul 1 w", "Add b 2")
    for number, step in enumerate(steps):
        operator, *inputs = step.split()
        sizes.node("", operator, inputs, [str(number)], {})
    assert sizes.constants["3"] == Constant((1, 512, 768), 512 * 768)
    assert sizes.doubted(0) == ()


def test_doubling_is_a_doubt_long_before_it_is_a_terabyte() -> None:
    sizes = Sizes("m.onnx")
    sizes.constants = {"0": Constant((10,), 10)}
    for step in range(40):
        sizes.node("", "Concat", [str(step), str(step)], [str(step + 1)], {})
    assert "values may have to be computed" in sizes.doubted(1_000)[0]


# ---- inspect --------------------------------------------------------------------------------------------------------


@pytest.fixture
def inspected() -> Callable[..., Any]:
    return lambda *arguments: CliRunner().invoke(cli, ["inspect", *map(str, arguments)])


def test_inspect_says_that_a_folder_is_safe(harmless: Path, inspected) -> None:
    result = inspected(harmless)
    assert result.exit_code == 0
    assert "verdict         safe to open (4 files checked)" in result.stdout
    shown = json.loads(inspected(harmless, "--format", "json").stdout)["result"]["preflight"]
    assert shown["checked"].keys() == {
        "model.safetensors",
        "onnx/model.onnx",
        "openvino/openvino_model.xml",
        "tokenizer.json",
    }
    assert shown["opened"] is False


def test_inspect_refuses_with_exit_code_4(tmp_path: Path, inspected) -> None:
    folder = build(tmp_path / "model")
    save_onnx(folder, graph_model([helper.make_node("Evil", [], ["y"], domain="evil")]))
    (folder / "openvino" / "openvino_model.bin").write_bytes(b"")
    result = inspected(folder)
    assert result.exit_code == 4
    assert "has the operator evil::Evil" in result.stderr
    assert "1 more of its files are refused as well" in result.stderr
    assert "Hint: " in result.stderr


def test_inspect_says_what_is_never_opened_and_what_is_tried_first(tmp_path: Path, inspected) -> None:
    folder = build(tmp_path / "model")
    for name in ("pytorch_model.bin", "evil.so", "run.py"):
        (folder / name).write_bytes(b"x")
    _split(folder, "[a-f]+")
    shown = inspected(folder).stdout
    assert "never opened    evil.so, pytorch_model.bin, run.py" in shown
    assert (
        "tried first     tokenizer.json, because it splits texts by the regular expression '[a-f]+'" in shown
    )


def test_inspect_deep_opens_everything_in_processes(harmless: Path, inspected, started: list[Any]) -> None:
    result = inspected(harmless, "--deep")
    assert result.exit_code == 0
    assert len(started) == 3
    assert "safe to open (4 files checked, opened and run)" in result.stdout


def test_a_folder_of_too_many_files_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stopt.preflight.whole_folder.MAX_FILES", 3)
    for number in range(5):
        (tmp_path / str(number)).touch()
    with pytest.raises(ResourceLimitError, match="more than 3 files"):
        survey(tmp_path)


# ---- what others open -----------------------------------------------------------------------------------------------


def test_transformers_gets_a_tokenizer_that_names_no_files(tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    outside = {"tokenizer_file": "/etc/passwd", "vocab_file": "../x", "gguf_file": "y", "from_slow": True}
    write_json(folder / "tokenizer_config.json", {"model_max_length": 32, **outside})
    (folder / "tokenizer.py").write_text("raise SystemExit")
    with plain_tokenizer(folder) as copy:
        assert json.loads((copy / "tokenizer_config.json").read_text()) == {"model_max_length": 32}
        assert {path.name for path in copy.iterdir()} == {
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        }
    assert not copy.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: write_json(folder / "adapter_config.json", {}), "PEFT adapter"),
        (
            lambda folder: write_json(
                folder / "config.json",
                {
                    **json.loads((folder / "config.json").read_text()),
                    "quantization_config": {"load_in_4bit": True},
                },
            ),
            "quantised already",
        ),
    ],
)
def test_what_transformers_would_act_on_is_refused(tmp_path: Path, change, reason: str) -> None:
    folder = build(tmp_path / "model")
    change(folder)
    with pytest.raises(UnsupportedModel, match=reason) as caught:
        SentenceTransformer(folder, backend="torch")
    assert caught.value.hint


def test_weights_in_pieces_are_files_of_the_folder(harmless: Path, tmp_path: Path) -> None:
    shutil.copy(harmless / "model.safetensors", tmp_path / "a.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    write_json(index, {"weight_map": {"x": "a.safetensors", "y": "a.safetensors"}})
    assert vet_shards(tmp_path) == [tmp_path / "a.safetensors"]
    for weight_map, message in (
        ({"x": "b.safetensors"}, "b.safetensors is missing"),
        ([], "has no weight_map"),
    ):
        write_json(index, {"weight_map": weight_map})
        with pytest.raises(CorruptModel, match=message) as caught:
            vet_shards(tmp_path)
        assert caught.value.hint


def test_a_token_past_the_table_is_an_error_when_a_text_has_it(tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    vocabulary = {**TOKENIZER["model"]["vocab"], "quick": 5_000}
    write_json(folder / "tokenizer.json", {**TOKENIZER, "model": {**TOKENIZER["model"], "vocab": vocabulary}})
    for backend in ("onnx", "openvino", "torch"):
        model = SentenceTransformer(folder, backend=backend)
        assert model.encode("the fox").shape == (4,)
        with pytest.raises(
            CorruptModel, match=r"makes a token 5000 of a text, and config\.json says that there are 9"
        ):
            model.encode("the quick fox")


def test_a_graph_that_fails_when_it_runs_is_corrupt(tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    write_json(
        folder / "config.json", {**json.loads((folder / "config.json").read_text()), "vocab_size": 10_000}
    )
    vocabulary = {**TOKENIZER["model"]["vocab"], "quick": 5_000}
    write_json(folder / "tokenizer.json", {**TOKENIZER, "model": {**TOKENIZER["model"], "vocab": vocabulary}})
    with pytest.raises(CorruptModel, match="failed in ONNX Runtime") as caught:
        SentenceTransformer(folder, backend="onnx").encode("the quick fox")
    assert "stopt export" in caught.value.hint


def test_a_graph_that_openvino_cannot_compile_is_corrupt(tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    wide = "<port id='{}' precision='FP32'><dim>9</dim><dim>4</dim></port>"
    there, back = (
        layer(n, "Convert", f"<data destination_type='{kind}'/>", wide.format(0), wide.format(1))
        for n, kind in ((7, "string"), (8, "f32"))
    )
    save_openvino(folder, ir([*layers(), there, back], ["2 0 7 0", "7 1 8 0", "8 1 4 0", *EDGES[1:]]))
    with pytest.raises(CorruptModel, match=r"cannot be compiled by OpenVINO") as caught:
        SentenceTransformer(folder, backend="openvino")
    assert "stopt export --force" in caught.value.hint
