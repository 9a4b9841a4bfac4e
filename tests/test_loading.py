"""`SentenceTransformer(...)`: which engine, which file, converted or not, and what every mistake is answered with."""

import gc
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
import torch
from installed import run_without

import stopt.runtime.sessions.openvino as openvino_session
from stopt import (
    ArtifactError,
    CorruptModel,
    OptionError,
    SentenceTransformer,
    SourceError,
    StoptError,
    UnsupportedModel,
)
from stopt.artifact import FileRecord, Manifest, sha256
from stopt.convert.cache import cache_root
from stopt.runtime.devices import describe_machine

Tiny = Callable[..., Path]

TEXTS = ["A text.", "Another text, which is longer.", "日本語の文"]
ONNX = "onnx/model.onnx"
XML, BIN = "openvino/openvino_model.xml", "openvino/openvino_model.bin"
QUANTISED = "onnx/model_qint8_avx512.onnx"


@pytest.fixture(scope="module")
def exported(exported: Callable[..., Path]) -> Path:
    """A model with both plain files and its weights. Not to be changed."""
    return exported("bert", dense=16)


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed at will."""
    return shutil.copytree(exported, tmp_path / "model")


def _load(folder: Path, **options: Any) -> SentenceTransformer:
    """Load with the engine's options in `model_kwargs` under their own names."""
    ours = {name: options.pop(name) for name in ("backend", "device") if name in options}
    return SentenceTransformer(folder, **ours, model_kwargs=options)


def _content(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        path.relative_to(folder).as_posix(): (sha256(path), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---- which engine ---------------------------------------------------------------------------------------------------


def test_onnx_is_picked_first_and_said(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "stopt"):
        picked = _load(exported)
    assert picked.file == exported / ONNX
    assert caplog.messages == [
        f"backend='onnx' picked for {exported} (also possible: openvino, torch); backend= chooses",
    ]
    assert (
        caplog.records[0].levelno == logging.WARNING
    )  # seen without any set-up: there are two files to choose from


def test_openvino_is_picked_where_there_is_no_onnx_file(model: Path) -> None:
    (model / ONNX).unlink()
    assert _load(model).file == model / XML


def test_torch_is_picked_where_there_is_no_plain_file(model: Path) -> None:
    (model / ONNX).rename(model / QUANTISED)
    shutil.rmtree(model / "openvino")
    assert _load(model).get_backend() == "torch"


def test_quantised_file_is_never_picked_unasked(model: Path) -> None:
    (model / ONNX).rename(model / QUANTISED)
    shutil.rmtree(model / "openvino")
    (model / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=f"no unquantised file to pick; it has {QUANTISED}") as caught:
        _load(model)
    assert f"'file_name': '{QUANTISED}'" in caught.value.hint
    assert _load(model, file_name=QUANTISED).file == model / QUANTISED


def test_quantised_file_does_not_stand_in_for_the_plain_one(model: Path) -> None:
    (model / ONNX).rename(model / QUANTISED)
    with pytest.raises(ArtifactError, match=f"its onnx files: {QUANTISED}"):
        _load(model, backend="onnx", export=False)


@pytest.mark.parametrize(("name", "backend"), [(ONNX, "onnx"), (XML, "openvino")])
def test_named_file_tells_the_engine(exported: Path, name: str, backend: str) -> None:
    picked = _load(exported, file_name=name)
    assert (picked.get_backend(), picked.file) == (backend, exported / name)


def test_unknown_engine_is_an_error(exported: Path) -> None:
    with pytest.raises(OptionError, match="backend 'onxx' is unknown") as caught:
        _load(exported, backend="onxx")
    assert caught.value.hint == "did you mean 'onnx'?"


# ---- which file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "name", "file"),
    [
        ("onnx", None, ONNX),
        ("onnx", "model.onnx", ONNX),
        ("onnx", ONNX, ONNX),
        ("openvino", None, XML),
        ("openvino", "openvino_model.xml", XML),
        ("openvino", XML, XML),
    ],
)
def test_file_is_found_with_and_without_its_folder(
    exported: Path, backend: str, name: str | None, file: str
) -> None:
    assert _load(exported, backend=backend, file_name=name).file == exported / file


def test_file_is_found_in_a_subfolder(model: Path) -> None:
    (model / "variants").mkdir()
    (model / "onnx").rename(model / "variants" / "onnx")
    assert _load(model, backend="onnx", subfolder="variants").file == model / "variants" / ONNX


@pytest.mark.parametrize("convert", [{}, {"export": None}, {"export": False}])
@pytest.mark.parametrize(
    ("backend", "name", "closest"),
    [("onnx", "onnx/modle.onnx", ONNX), ("openvino", "openvino/openvino_mdel.xml", XML)],
)
def test_wrong_name_lists_the_files_and_converts_nothing(
    exported: Path, backend: str, name: str, closest: str, convert: dict[str, Any]
) -> None:
    with pytest.raises(ArtifactError, match=f"has no {name}; its {backend} files: {closest}") as caught:
        _load(exported, backend=backend, file_name=name, **convert)
    assert caught.value.hint == f"did you mean {closest!r}?"
    assert not cache_root().exists()


def test_file_of_the_other_engine_is_an_error(exported: Path) -> None:
    with pytest.raises(OptionError, match=r"is not a \.onnx file, which backend 'onnx' opens"):
        _load(exported, backend="onnx", file_name=XML)


def test_file_name_cannot_leave_the_folder(exported: Path) -> None:
    with pytest.raises(StoptError, match="leaves the model folder") as caught:
        _load(exported, backend="onnx", file_name="../model/onnx/model.onnx")
    assert caught.value.exit_code == 4


# ---- converted while loading ----------------------------------------------------------------------------------------


def test_missing_file_is_converted_once_into_the_cache(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    (model / ONNX).rename(model / QUANTISED)  # does not stand in for it
    before = _content(model)
    converted = _load(model, backend="onnx")
    assert cache_root() in converted.file.parents
    assert [message for message in caplog.messages if "converting" in message] == [
        f"converting {model} for backend 'onnx', once, into {converted.file.parents[1]}"
    ]
    kept = _content(cache_root())
    caplog.clear()
    again = _load(model, backend="onnx")
    assert again.file == converted.file
    assert _content(cache_root()) == kept
    assert not caplog.messages
    assert _content(model) == before
    expected = _load(model, backend="torch", device="cpu").encode(TEXTS)
    assert np.abs(again.encode(TEXTS) - expected).max() < 1e-5


def test_changed_model_is_converted_anew(model: Path) -> None:
    shutil.rmtree(model / "onnx")
    first = _load(model, backend="onnx").file
    (model / "model.safetensors").touch()
    assert _load(model, backend="onnx").file != first


def test_export_true_converts_afresh(model: Path) -> None:
    before = _content(model)
    first = _load(model, backend="onnx", export=True)
    assert cache_root() in first.file.parents
    made = first.file.stat().st_mtime_ns
    assert _load(model, backend="onnx", export=True).file == first.file
    assert first.file.stat().st_mtime_ns > made
    assert _content(model) == before


def test_export_true_with_a_file_name_is_a_contradiction(exported: Path) -> None:
    with pytest.raises(OptionError, match="export=True makes a new plain file"):
        _load(exported, backend="onnx", export=True, file_name=ONNX)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_export_false_names_the_command_instead(tiny: Tiny, backend: str) -> None:
    folder = tiny("bert")
    with pytest.raises(ArtifactError, match=f"has no file for backend '{backend}'") as caught:
        _load(folder, backend=backend, export=False)
    assert caught.value.hint == f"make one: stopt export {folder} --backend {backend}"
    assert not cache_root().exists()


# ---- missing packages -----------------------------------------------------------------------------------------------

TRY = """
import json, sys
from stopt import SentenceTransformer, StoptError
failures = []
for folder, options in json.loads(sys.argv[1]):
    try:
        SentenceTransformer(folder, **options)
        failures.append(None)
    except StoptError as error:
        failures.append([type(error).__name__, error.message, error.hint])
print(json.dumps(failures))
"""


def _failures(packages: set[str], folder: Path, attempts: list[tuple[Path, dict[str, Any]]]) -> list[Any]:
    arguments = json.dumps([[str(model), options] for model, options in attempts])
    done = run_without(packages, folder, "-c", TRY, arguments)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("package", "backend"), [("onnxruntime", "onnx"), ("openvino", "openvino"), ("torch", "torch")]
)
def test_missing_engine_names_its_extra(exported: Path, tmp_path: Path, package: str, backend: str) -> None:
    attempts = [(exported, {"backend": backend}), (exported, {})]
    asked, unasked = _failures({package}, tmp_path, attempts)
    assert asked == ["MissingExtra", f"{package} is not installed", f"pip install 'stopt[{backend}]'"]
    assert unasked is None  # another engine is picked


def test_missing_every_engine_names_one_extra(exported: Path, tmp_path: Path) -> None:
    [failure] = _failures({"onnxruntime", "openvino", "torch"}, tmp_path, [(exported, {})])
    assert failure == ["MissingExtra", "onnxruntime is not installed", "pip install 'stopt[onnx]'"]


@pytest.mark.parametrize("packages", [{"optimum"}, {"torch", "transformers", "optimum"}, {"torch"}], ids=len)
def test_missing_converter_names_the_command(tiny: Tiny, tmp_path: Path, packages: set[str]) -> None:
    folder = tiny("bert")
    unasked, asked = _failures(
        packages,
        tmp_path,
        [
            (folder, {"backend": "onnx"}),
            (folder, {"backend": "onnx", "model_kwargs": {"export": True}}),
        ],
    )
    assert unasked[0] == "ArtifactError"
    assert "pip install 'stopt[convert]'" in unasked[2]
    assert f"stopt export {folder} --backend onnx" in unasked[2]
    assert asked[0] == "MissingExtra"
    assert asked[2] == "pip install 'stopt[convert]'"


def test_export_command_names_the_missing_extra(tiny_copy: Tiny, tmp_path: Path) -> None:
    folder = tiny_copy("bert")
    (tmp_path / "site").mkdir()
    done = run_without({"optimum"}, tmp_path / "site", "-m", "stopt", "export", str(folder))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: optimum is not installed",
        "Hint: pip install 'stopt[convert]'",
    ]
    assert not (folder / "onnx").exists()


# ---- options of the engines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "onnx", "provider": "NoExecutionProvider"}, "provider 'NoExecutionProvider' is not in"),
        ({"backend": "onnx", "provider": "TensorrtExecutionProvider"}, "is not in this build"),
        ({"backend": "onnx", "device": "tpu"}, "device 'tpu' has no ONNX Runtime provider"),
        ({"backend": "openvino", "device": "NPU"}, "OpenVINO has no device 'NPU' here"),
        ({"backend": "openvino", "device": "cpu", "ov_config": {"NO_PROPERTY": 1}}, "cannot compile"),
        ({"backend": "torch", "device": "cuda:99"}, "torch has no device 'cuda:99' here"),
        ({"backend": "torch", "device": "no device"}, "torch has no device 'no device' here"),
        ({"backend": "onnx", "ov_config": {}}, "model_kwargs has 'ov_config'"),
        ({"backend": "openvino", "provider": "CPUExecutionProvider"}, "model_kwargs has 'provider'"),
        ({"backend": "onnx", "file_nme": "model.onnx"}, "model_kwargs has 'file_nme'"),
        ({"backend": "onnx", "dtype": "float16"}, "an ONNX file has its precision built in"),
        ({"backend": "onnx", "torch_dtype": "bfloat16"}, "an ONNX file has its precision built in"),
        ({"backend": "openvino", "dtype": "float8"}, "dtype 'float8' is unknown"),
        ({"backend": "openvino", "ov_config": "no-such-file.json"}, "ov_config names no-such-file.json"),
    ],
)
def test_wrong_option_is_an_error_with_a_hint(exported: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        _load(exported, **options)
    assert caught.value.hint


def test_onnx_runs_on_the_cpu_and_says_so(exported: Path) -> None:
    assert _load(exported, backend="onnx", device="cpu").device == "CPUExecutionProvider"
    assert _load(exported, backend="onnx", provider="CPUExecutionProvider", dtype="float32").device == (
        "CPUExecutionProvider"
    )


@pytest.mark.parametrize("dtype", ["auto", "float32", None])
def test_onnx_takes_any_file_where_no_other_precision_is_wanted(exported: Path, dtype: str | None) -> None:
    assert _load(exported, backend="onnx", dtype=dtype).pipeline.session.precision == "float32"


def test_onnx_says_which_file_has_the_precision(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "model")
    message = r"^an ONNX file has its precision built in; dtype 'float16' cannot change that of "
    with pytest.raises(OptionError, match=message + "onnx/model.onnx") as caught:
        _load(folder, backend="onnx", torch_dtype=torch.float16)
    assert caught.value.hint == f"make a file that has it, for GPUs: stopt optimize {folder} -O4"
    with pytest.raises(OptionError) as caught:
        _load(folder, backend="onnx", dtype="bfloat16")
    assert caught.value.hint == "backend='openvino' and backend='torch' compute in bfloat16"
    shutil.copyfile(folder / "onnx/model.onnx", folder / "onnx/model_O4.onnx")
    with pytest.raises(OptionError, match=message + "onnx/model.onnx") as caught:
        _load(folder, backend="onnx", file_name="onnx/model.onnx", dtype="float16")
    assert caught.value.hint == "name a file that has it: model_kwargs={'file_name': 'onnx/model_O4.onnx'}"
    served = _load(folder, backend="onnx", file_name="onnx/model_O4.onnx", dtype="float16")
    assert served.file.name == "model_O4.onnx"


@pytest.mark.skipif(
    "FP16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="the CPU has float16"
)
def test_openvino_computes_as_it_was_asked_to_or_not_at_all(exported: Path) -> None:
    with pytest.raises(
        OptionError, match=r"OpenVINO computes in \w+ on CPU where float16 is asked for"
    ) as caught:
        _load(exported, backend="openvino", dtype="float16")
    assert caught.value.hint.startswith("use dtype=")


def test_openvino_is_told_its_precision_once(exported: Path) -> None:
    with pytest.raises(OptionError, match="dtype 'float32' contradicts ov_config, whose INFERENCE") as caught:
        _load(exported, backend="openvino", dtype="float32", ov_config={"INFERENCE_PRECISION_HINT": "bf16"})
    assert caught.value.hint == "give one of the two"


def test_open_onnx_model_keeps_no_second_copy_of_its_file(exported: Path) -> None:
    model = SentenceTransformer(exported, backend="onnx")
    size = (exported / "onnx" / "model.onnx").stat().st_size
    gc.collect()
    # bytes are not tracked themselves, what refers to them is
    kept = [one for each in gc.get_objects() for one in gc.get_referents(each) if isinstance(one, bytes)]
    assert model.pipeline.session.fused
    assert not [one for one in kept if len(one) >= size]


def test_openvino_precision_is_the_callers(exported: Path, tmp_path: Path) -> None:
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(hints), "utf-8")
    expected = _load(exported, backend="torch", device="cpu").encode(TEXTS)
    for options in (
        {"dtype": "float32"},
        {"ov_config": hints},
        {"ov_config": str(file)},
        {"ov_config": file},
    ):
        served = _load(exported, backend="openvino", **options)
        assert served.pipeline.session.precision == "float32"
        assert np.abs(served.encode(TEXTS) - expected).max() < 1e-5


@pytest.mark.parametrize("given", [None, 7])
def test_openvino_keeps_few_plans_unless_told_otherwise(
    exported: Path, monkeypatch, given: int | None
) -> None:
    """It keeps one for every shape, 5,000 operators of them by default: gigabytes, over calls of all lengths."""
    core, seen = openvino_session._core(), []

    class Core:
        available_devices = core.available_devices

        def read_model(self, *arguments: Any) -> Any:
            return core.read_model(*arguments)

        def compile_model(self, model: Any, device: str, config: dict[str, Any]) -> Any:
            seen.append(config["CPU_RUNTIME_CACHE_CAPACITY"])
            return core.compile_model(model, device, config)

    monkeypatch.setattr(openvino_session, "_core", Core)
    config = None if given is None else {"CPU_RUNTIME_CACHE_CAPACITY": given}
    model = _load(exported, backend="openvino", ov_config=config, threads=2)
    model.encode(["one text", "and another"], batch_size=1)  # several batches, for which it is compiled again
    assert seen == [given or openvino_session.PLANS] * 2
    assert openvino_session.PLANS <= 100


@pytest.mark.skipif(
    "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="the CPU has no bfloat16"
)
def test_openvino_computes_in_bfloat16_when_told(exported: Path) -> None:
    exact = _load(exported, backend="openvino", dtype="float32").encode(TEXTS)
    served = _load(exported, backend="openvino", dtype="bfloat16")
    assert served.pipeline.session.precision == "bfloat16"
    found = served.encode(TEXTS)
    assert found.dtype == np.float32
    # 8 bits of mantissa: seen in the vectors, and no more than that
    assert 1e-4 < np.abs(found - exact).max() < 0.05


@pytest.mark.parametrize(
    ("kind", "reduced", "features", "told"),
    [
        ("StaticOpenVino", False, ("avx2",), True),
        ("StaticOpenVino", True, ("avx2",), False),
        ("StaticOpenVino", False, ("avx2", "avx512_vnni"), False),
        ("Dynamic", False, ("avx2",), False),
    ],
)
def test_static_int8_that_overflows_on_the_processor_is_told_of(
    model: Path, monkeypatch, caplog: pytest.LogCaptureFixture, kind, reduced, features, told
) -> None:
    """What it was checked with is not what it gives here."""
    names = (XML, BIN)
    parts = {
        name: {"sha256": sha256(model / name), "size_bytes": (model / name).stat().st_size} for name in names
    }
    made = FileRecord("openvino", "int8", parts, {"kind": kind, "reduce_range": reduced}, {}, {})
    Manifest({"repo": None, "revision": None}, files={XML: made}).write(model)
    machine = replace(describe_machine(), features=features)
    monkeypatch.setattr("stopt.runtime.loading.describe_machine", lambda: machine)
    _load(model, backend="openvino")
    expected = f"{model / XML} has weights of 8 bits, whose products overflow on this processor"
    assert [message.startswith(expected) for message in caplog.messages] == [True] * told


def test_broken_ov_config_file_is_an_error(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", "utf-8")
    with pytest.raises(CorruptModel, match="not valid JSON"):
        _load(exported, backend="openvino", ov_config=str(tmp_path / "config.json"))


# ---- broken models --------------------------------------------------------------------------------------------------


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _overwrite(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90387630\n", "utf-8")


@pytest.mark.parametrize("damage", [_cut, _empty, _overwrite])
@pytest.mark.parametrize(("backend", "file"), [("onnx", ONNX), ("openvino", XML), ("openvino", BIN)])
def test_damaged_file_is_an_error_with_a_hint(
    model: Path, backend: str, file: str, damage: Callable[[Path], None]
) -> None:
    damage(model / file)
    with pytest.raises(CorruptModel, match=r"cut short|is empty|is not an|not all in") as caught:
        _load(model, backend=backend)
    assert caught.value.exit_code == 4
    assert "stopt export" in caught.value.hint


def test_openvino_without_its_weights_is_an_error(model: Path) -> None:
    (model / BIN).unlink()
    with pytest.raises(CorruptModel, match=r"openvino_model\.bin is missing"):
        _load(model, backend="openvino")


def test_onnx_without_its_external_data_is_an_error(model: Path) -> None:
    graph = onnx.load(model / ONNX)
    onnx.save(graph, model / ONNX, save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    assert _load(model, backend="onnx").encode("a").shape == (16,)
    (model / "onnx" / "model.onnx_data").unlink()
    with pytest.raises(CorruptModel) as caught:
        _load(model, backend="onnx")
    assert "model.onnx_data is missing" in caught.value.message
    assert "data files" in caught.value.hint


def test_graph_of_another_kind_of_model_is_an_error(model: Path) -> None:
    graph = onnx.load(model / ONNX)
    identity = onnx.helper.make_node("Identity", [graph.graph.output[0].name], ["logits"])
    graph.graph.node.append(identity)
    graph.graph.output[0].name = "logits"
    onnx.save(graph, model / ONNX)
    with pytest.raises(CorruptModel, match="has the outputs logits; expected last_hidden_state"):
        _load(model, backend="onnx")


def test_graph_with_an_unknown_input_is_an_error(model: Path) -> None:
    graph = onnx.load(model / ONNX)
    graph.graph.input.append(
        onnx.helper.make_tensor_value_info("pixel_values", onnx.TensorProto.FLOAT, [None])
    )
    onnx.save(graph, model / ONNX)
    with pytest.raises(CorruptModel, match="wants the input 'pixel_values'"):
        _load(model, backend="onnx").encode("a")


def test_torch_without_weights_is_an_error(model: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="has no weights") as caught:
        _load(model, backend="torch")
    assert "backend='onnx'" in caught.value.hint
    assert _load(model, backend="onnx").encode("a").shape == (16,)


def test_pickled_weights_are_refused_unopened(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(UnsupportedModel, match="pickle") as caught:
        _load(model, backend="torch")
    assert "safetensors" in caught.value.hint


def test_folder_with_nothing_to_run_is_an_error(model: Path) -> None:
    for name in (ONNX, XML, "model.safetensors"):
        (model / name).unlink()
    with pytest.raises(SourceError, match="neither weights as safetensors nor converted files") as caught:
        _load(model)
    assert "pickle" in caught.value.hint


def test_damaged_weights_are_an_error(model: Path) -> None:
    _cut(model / "model.safetensors")
    with pytest.raises(CorruptModel, match="is not a safetensors file, or cut short"):
        _load(model, backend="torch")


@pytest.mark.parametrize("backend", [None, "onnx", "openvino", "torch"])
def test_what_is_not_a_model_is_an_error(exported: Path, tmp_path: Path, backend: str | None) -> None:
    for place, message in (
        (tmp_path / "missing", "does not exist"),
        (exported / "config.json", "is a file"),
        (tmp_path, "config.json"),
    ):
        with pytest.raises(SourceError, match=message) as caught:
            _load(place, backend=backend)
        assert caught.value.hint
