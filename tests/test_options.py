"""``backend`` and ``model_kwargs``: what is accepted, and what a wrong key is answered with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stopt.errors import CorruptModel, OptionError
from stopt.runtime.options import (
    OnnxOptions,
    OpenVinoOptions,
    TorchOptions,
    parse_backend,
    parse_model_kwargs,
)
from stopt.spec import Backend


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
def test_a_backend_is_known_by_its_name(name: str) -> None:
    assert parse_backend(name) == name


def test_no_backend_stays_open() -> None:
    assert parse_backend(None) is None


@pytest.mark.parametrize(
    ("name", "hint"), [("onxx", "did you mean 'onnx'?"), ("tensorrt", "known: "), (7, "known: ")]
)
def test_unknown_backend_is_refused_with_a_suggestion(name: Any, hint: str) -> None:
    with pytest.raises(OptionError, match=f"backend {name!r} is unknown") as caught:
        parse_backend(name)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        (Backend.ONNX, OnnxOptions()),
        (Backend.OPENVINO, OpenVinoOptions()),
        (Backend.TORCH, TorchOptions()),
    ],
)
@pytest.mark.parametrize("given", [None, {}])
def test_nothing_given_is_all_defaults(backend: Backend, expected: Any, given: Any) -> None:
    assert parse_model_kwargs(backend, given) == expected


def test_onnx_options_are_taken_over() -> None:
    given = {"file_name": "onnx/model_O3.onnx", "provider": "CPUExecutionProvider", "export": False}
    expected = OnnxOptions(file_name="onnx/model_O3.onnx", provider="CPUExecutionProvider", export=False)
    assert parse_model_kwargs(Backend.ONNX, given) == expected


def test_the_callers_dict_is_left_alone() -> None:
    given = {"torch_dtype": "float16"}
    parse_model_kwargs(Backend.TORCH, given)
    assert given == {"torch_dtype": "float16"}


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", ["float16", torch.float16, "torch.float16"])
def test_dtype_goes_by_either_name_as_text_or_torch_dtype(key: str, value: Any) -> None:
    assert parse_model_kwargs(Backend.TORCH, {key: value}) == TorchOptions(dtype="float16")


def test_dtype_wins_over_its_older_name() -> None:
    given = {"dtype": "float32", "torch_dtype": "float16"}
    assert parse_model_kwargs(Backend.TORCH, given) == TorchOptions(dtype="float32")


def test_unknown_dtype_is_refused_with_a_suggestion() -> None:
    with pytest.raises(OptionError, match="dtype 'flaot16' is unknown") as caught:
        parse_model_kwargs(Backend.TORCH, {"dtype": "flaot16"})
    assert caught.value.hint == "did you mean 'float16'?"


@pytest.mark.parametrize("backend", [Backend.ONNX, Backend.OPENVINO, Backend.TORCH])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("auto", "auto"),
        ("float32", "float32"),
        (torch.float16, "float16"),
        (torch.bfloat16, "bfloat16"),
    ],
)
def test_every_engine_is_told_the_dtype(backend: Backend, value: Any, expected: str | None) -> None:
    assert parse_model_kwargs(backend, {"torch_dtype": value}).dtype == expected


@pytest.mark.parametrize(
    ("backend", "key", "hint"),
    [
        (Backend.ONNX, "file_nmae", "did you mean 'file_name'?"),
        (Backend.ONNX, "ov_config", "it belongs to backend 'openvino'"),
        (Backend.ONNX, "attn_implementation", "it belongs to backend 'torch'"),
        (Backend.TORCH, "provider", "it belongs to backend 'onnx'"),
        (Backend.TORCH, "file_name", "it belongs to backend 'onnx' and 'openvino'"),
        (Backend.OPENVINO, "session_options", "it belongs to backend 'onnx'"),
        (Backend.ONNX, "cache_dir", "it is an argument of its own: cache_folder="),
        (Backend.TORCH, "revision", "it is an argument of its own: revision="),
        (Backend.TORCH, "token", "it is an argument of its own: token="),
        (Backend.TORCH, "trust_remote_code", "it is an argument of its own: trust_remote_code="),
        (Backend.OPENVINO, "load_in_8bit", "known: "),
    ],
)
def test_a_key_the_backend_does_not_take_is_refused_and_says_where_it_belongs(
    backend: Backend, key: str, hint: str
) -> None:
    message = f"model_kwargs has '{key}', which backend '{backend.value}' does not take"
    with pytest.raises(OptionError, match=message) as caught:
        parse_model_kwargs(backend, {key: "x"})
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("value", ["yes", 1, 0, "True"])
def test_export_must_be_true_false_or_none(value: Any) -> None:
    with pytest.raises(OptionError, match="expected True, False or None"):
        parse_model_kwargs(Backend.ONNX, {"export": value})


@pytest.mark.parametrize("key", ["file_name", "subfolder", "provider"])
def test_names_must_be_text(key: str) -> None:
    with pytest.raises(OptionError, match=f"{key} is 3, expected text"):
        parse_model_kwargs(Backend.ONNX, {key: 3})


def test_no_subfolder_is_the_model_folder() -> None:
    assert parse_model_kwargs(Backend.TORCH, {"subfolder": None}).subfolder == ""


@pytest.mark.parametrize("kind", [str, Path])
def test_ov_config_may_be_a_json_file(tmp_path: Path, kind: Any) -> None:
    file = tmp_path / "ov.json"
    file.write_text(json.dumps({"NUM_STREAMS": "2"}))
    options = parse_model_kwargs(Backend.OPENVINO, {"ov_config": kind(file)})
    assert options == OpenVinoOptions(ov_config={"NUM_STREAMS": "2"})


def test_ov_config_naming_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="which is not a file") as caught:
        parse_model_kwargs(Backend.OPENVINO, {"ov_config": str(tmp_path / "none.json")})
    assert "JSON file" in caught.value.hint


def test_ov_config_naming_a_broken_file_is_corrupt(tmp_path: Path) -> None:
    file = tmp_path / "ov.json"
    file.write_text('{"NUM_STREAMS": ')
    with pytest.raises(CorruptModel, match="not valid JSON"):
        parse_model_kwargs(Backend.OPENVINO, {"ov_config": str(file)})


@pytest.mark.parametrize(
    "given", [{"ov_config": 3}, {"provider_options": "fast"}, {"attn_implementation": 3}], ids=repr
)
def test_a_value_of_the_wrong_kind_is_refused(given: dict[str, Any]) -> None:
    backend = {"ov_config": Backend.OPENVINO, "provider_options": Backend.ONNX}.get(
        next(iter(given)), Backend.TORCH
    )
    with pytest.raises(OptionError, match="expected"):
        parse_model_kwargs(backend, given)
