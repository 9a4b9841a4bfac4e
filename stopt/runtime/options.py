"""``model_kwargs`` of the public classes as frozen options, one class per engine; unknown keys are errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from stopt.counts import require_count
from stopt.errors import OptionError, suggest
from stopt.folder import read_json_object
from stopt.preflight import ATTENTIONS
from stopt.spec import ENGINES, Backend

__all__ = [
    "EngineOptions",
    "OnnxOptions",
    "OpenVinoOptions",
    "TorchOptions",
    "parse_backend",
    "parse_model_kwargs",
]


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """How ONNX Runtime opens a file.

    Attributes:
        file_name: The .onnx file, relative to the model folder or to its ``onnx`` folder; None is the plain one.
        subfolder: Folder in the model folder that file_name is relative to.
        export: True converts afresh, False never converts, None converts if there is no file.
        dtype: Precision that the file must have, which it cannot be given: ``"float16"`` needs such a file by its
            name. None, ``"auto"`` and ``"float32"`` take any.
        provider: Execution provider; None is CUDA where it is usable, else CPU.
        provider_options: Passed to it.
        session_options: An ``onnxruntime.SessionOptions``; what it says of threads then holds for every call.
        threads: Threads of the CPU; None is all that this process may use.
    """

    file_name: str | None = None
    subfolder: str = ""
    export: bool | None = None
    dtype: str | None = None
    provider: str | None = None
    provider_options: Mapping[str, Any] | None = None
    session_options: Any = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class OpenVinoOptions:
    """How OpenVINO opens a file.

    Attributes:
        file_name: The .xml file, relative to the model folder or to its ``openvino`` folder; None is the plain one.
        subfolder: Folder in the model folder that file_name is relative to.
        export: True converts afresh, False never converts, None converts if there is no file.
        device: OpenVINO device, such as ``"CPU"`` or ``"GPU.0"``.
        ov_config: OpenVINO properties, or the path of a JSON file with them.
        dtype: Precision of the arithmetic, ``"float32"`` (also None), ``"bfloat16"`` or ``"float16"``; ``"auto"`` is
            OpenVINO's choice for the device, bfloat16 on CPUs that have it.
        threads: Threads of the CPU; None is all that this process may use.
    """

    file_name: str | None = None
    subfolder: str = ""
    export: bool | None = None
    device: str | None = None
    ov_config: Mapping[str, Any] | None = None
    dtype: str | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """How torch opens the original weights.

    Attributes:
        subfolder: Folder of the transformer in the model folder, beside what modules.json says.
        dtype: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"auto"``, the checkpoint's; None is float32.
        attn_implementation: Attention of transformers: ``"eager"``, ``"sdpa"``, ``"flex_attention"``,
            ``"flash_attention_2"`` or ``"flash_attention_3"``; None is sdpa where the model has it.
        compile: Whether torch.compile is used.
        threads: Threads of the CPU, for all of torch in this process; None leaves torch's as they are.
        trust_remote_code: Whether the code that the model's config.json names is run. For conversions and checks, whose
            user said so; ``model_kwargs`` cannot say it.
    """

    subfolder: str = ""
    dtype: str | None = None
    attn_implementation: str | None = None
    compile: bool = False
    threads: int | None = None
    trust_remote_code: bool = False


EngineOptions = OnnxOptions | OpenVinoOptions | TorchOptions
_CLASSES: Mapping[Backend, type[Any]] = {
    Backend.ONNX: OnnxOptions,
    Backend.OPENVINO: OpenVinoOptions,
    Backend.TORCH: TorchOptions,
}
_DTYPES = ("auto", "float32", "float16", "bfloat16")
_ELSEWHERE = {
    "cache_dir": "cache_folder",
    "local_files_only": "local_files_only",
    "revision": "revision",
    "token": "token",
    "trust_remote_code": "trust_remote_code",
}
Options = TypeVar("Options", bound=EngineOptions)


def parse_backend(name: str | None) -> Backend | None:
    """Turn the ``backend`` keyword into the enum; None stays None.

    Raises:
        OptionError: If there is no such backend.
    """
    known = [str(backend) for backend in ENGINES]
    if name is None:
        return None
    if name not in known:
        raise OptionError(f"backend {name!r} is unknown", suggest(str(name), known))
    return Backend(name)


def parse_model_kwargs(
    backend: Backend, given: Mapping[str, Any] | None, threads: int | None = None
) -> EngineOptions:
    """Turn ``model_kwargs``, and the number of threads, into the options of ``backend``.

    Raises:
        OptionError: If a key is unknown, belongs to another backend or another argument, or has a wrong value.
    """
    values = dict(given or {})
    if threads is not None:
        values["threads"] = threads
    if "torch_dtype" in values:
        values.setdefault("dtype", values.pop("torch_dtype"))
    known = [field.name for field in fields(_CLASSES[backend]) if field.name not in _ELSEWHERE]
    for key in values:
        if key not in known:
            raise OptionError(
                f"model_kwargs has {key!r}, which backend {backend.value!r} does not take", _where(key, known)
            )
    if values.get("dtype") is not None:
        values["dtype"] = _dtype(values["dtype"])
    if values.get("threads") is not None:
        expected = "a positive number, or None for all of the machine's"
        values["threads"] = require_count(values["threads"], "threads", expected)
    _check_types(values)
    if isinstance(values.get("ov_config"), str | Path):
        values["ov_config"] = _config_file(Path(values["ov_config"]))
    values["subfolder"] = values.get("subfolder") or ""
    options: EngineOptions = _CLASSES[backend](**values)
    return options


def _check_types(values: Mapping[str, Any]) -> None:
    if not isinstance(values.get("export"), bool | None):
        raise OptionError(
            f"export is {values['export']!r}, expected True, False or None",
            "leave it out to convert only where there is no file",
        )
    if not isinstance(values.get("compile", False), bool):
        raise OptionError(f"compile is {values['compile']!r}", "True or False")
    for key in ("file_name", "subfolder", "provider", "device", "attn_implementation"):
        if not isinstance(values.get(key), str | None):
            raise OptionError(
                f"{key} is {values[key]!r}, expected text",
                "model_kwargs={'file_name': 'onnx/model.onnx'}, for example",
            )
    attention = values.get("attn_implementation")
    if attention not in (None, *ATTENTIONS):
        raise OptionError(
            f"attn_implementation {attention!r} is not in transformers",
            suggest(attention, ATTENTIONS),
        )
    for key, kinds in (("provider_options", Mapping), ("ov_config", Mapping | str | Path)):
        if not isinstance(values.get(key), kinds | None):
            raise OptionError(f"{key} is {values[key]!r}, expected names with values")


def _config_file(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise OptionError(
            f"ov_config names {path}, which is not a file", "pass a dict, or the path of a JSON file"
        )
    return read_json_object(path)


def _where(key: str, known: list[str]) -> str:
    if key in _ELSEWHERE:
        return f"it is an argument of its own: {_ELSEWHERE[key]}="
    others = [
        backend.value for backend, cls in _CLASSES.items() if key in {field.name for field in fields(cls)}
    ]
    return f"it belongs to backend {' and '.join(map(repr, others))}" if others else suggest(key, known)


def _dtype(value: Any) -> str:
    name = str(value).removeprefix("torch.")
    if name not in _DTYPES:
        raise OptionError(f"dtype {value!r} is unknown", suggest(name, _DTYPES))
    return name
