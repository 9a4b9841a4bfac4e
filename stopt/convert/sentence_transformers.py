"""The three export functions of sentence-transformers, for scripts that call them.

Each is a thin way to :func:`~stopt.convert.optimize.optimize` or :func:`~stopt.convert.quantize.quantize`: the file is
checked against torch before it appears, and of a sparse encoder or cross-encoder the layers before the logits stay in
float. The model must have been opened from a folder that has its original weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stopt.convert.optimize import optimize
from stopt.convert.produce import Produced
from stopt.convert.quantize import quantize
from stopt.errors import OptionError, suggest
from stopt.publishing import PushOptions, prepare, push
from stopt.runtime.model import Model
from stopt.spec import Backend
from stopt.steps import (
    CalibrationOptions,
    ConversionOptions,
    DynamicOptions,
    Level,
    OptimizeOptions,
    StaticOpenVinoOptions,
    Target,
)

__all__ = [
    "export_dynamic_quantized_onnx_model",
    "export_optimized_onnx_model",
    "export_static_quantized_openvino_model",
]


def export_optimized_onnx_model(
    model: Model,
    optimization_config: str,
    model_name_or_path: str | Path,
    push_to_hub: bool = False,
    create_pr: bool = False,
    file_suffix: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> None:
    """Optimise the graph of a model opened with ``backend="onnx"``.

    Args:
        model: The model: a SentenceTransformer, SparseEncoder or CrossEncoder.
        optimization_config: ``"O1"`` to ``"O4"``.
        model_name_or_path: Model folder that gains ``onnx/model_O3.onnx`` and so on.
        push_to_hub: Push the file to the repository ``model_name_or_path`` of the Hub instead; nothing is kept here.
        create_pr: Propose it there in a pull request.
        file_suffix: Replaces the level in the file's name.
        trust_remote_code: Run the code that the model's config.json names, in torch, to compare with.

    Raises:
        OptionError: If the model is not on ONNX, or the level is unknown.
    """
    level = Level(_word("optimization_config", optimization_config, [each.value for each in Level]))
    options = OptimizeOptions(
        level,
        _source(model, Backend.ONNX),
        file_suffix,
        force=True,
        trust_remote_code=trust_remote_code,
    )
    _convert(optimize, model, options, model_name_or_path, push_to_hub, create_pr)


def export_dynamic_quantized_onnx_model(
    model: Model,
    quantization_config: str,
    model_name_or_path: str | Path,
    push_to_hub: bool = False,
    create_pr: bool = False,
    file_suffix: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> None:
    """Quantise a model opened with ``backend="onnx"`` to dynamic int8.

    Args:
        model: The model: a SentenceTransformer, SparseEncoder or CrossEncoder.
        quantization_config: ``"arm64"``, ``"avx2"``, ``"avx512"`` or ``"avx512_vnni"``.
        model_name_or_path: Model folder that gains ``onnx/model_qint8_avx512_vnni.onnx`` and so on.
        push_to_hub: Push the file to the repository ``model_name_or_path`` of the Hub instead; nothing is kept here.
        create_pr: Propose it there in a pull request.
        file_suffix: Replaces ``qint8_avx512_vnni`` in the file's name.
        trust_remote_code: Run the code that the model's config.json names, in torch, to compare with.

    Raises:
        OptionError: If the model is not on ONNX, or the target is unknown.
    """
    target = Target(_word("quantization_config", quantization_config, [each.value for each in Target]))
    options = DynamicOptions(
        target,
        _source(model, Backend.ONNX),
        file_suffix=file_suffix,
        force=True,
        trust_remote_code=trust_remote_code,
    )
    _convert(quantize, model, options, model_name_or_path, push_to_hub, create_pr)


def export_static_quantized_openvino_model(
    model: Model,
    quantization_config: Any,
    model_name_or_path: str | Path,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_split: str | None = None,
    column_name: str | None = None,
    push_to_hub: bool = False,
    create_pr: bool = False,
    file_suffix: str = "qint8_quantized",
    *,
    trust_remote_code: bool = False,
) -> None:
    """Quantise a model opened with ``backend="openvino"`` to static int8.

    Args:
        model: The model; it is not changed.
        quantization_config: None, a dict, or an ``OVQuantizationConfig``, of which ``num_samples`` and
            ``smooth_quant_alpha`` are used.
        model_name_or_path: Model folder that gains ``openvino/openvino_model_qint8_quantized.xml``.
        dataset_name: Data set to calibrate with; without one, the texts that ship with stopt.
        dataset_config_name: Its configuration.
        dataset_split: Its split.
        column_name: Its column with the text.
        push_to_hub: Push the file to the repository ``model_name_or_path`` of the Hub instead; nothing is kept here.
        create_pr: Propose it there in a pull request.
        file_suffix: Goes into the file's name.
        trust_remote_code: Run the code that the model's config.json names, in torch, to compare with.

    Raises:
        OptionError: If the model is not on OpenVINO, or only some of the four data set arguments are given.
    """
    named = (dataset_name, dataset_config_name, dataset_split, column_name)
    if any(each is not None for each in named) and None in named:
        raise OptionError(
            "some of dataset_name, dataset_config_name, dataset_split and column_name are missing",
            "give all four, or none",
        )
    given = (
        quantization_config if isinstance(quantization_config, dict) else vars(quantization_config or object)
    )
    calibration = CalibrationOptions(
        dataset=dataset_name,
        dataset_config=dataset_config_name,
        split=dataset_split or "train",
        column=column_name or "text",
        num_samples=given.get("num_samples") or CalibrationOptions().num_samples,
    )
    options = StaticOpenVinoOptions(
        _source(model, Backend.OPENVINO),
        calibration,
        smooth_quant_alpha=given.get("smooth_quant_alpha"),
        file_suffix=file_suffix,
        force=True,
        trust_remote_code=trust_remote_code,
    )
    _convert(quantize, model, options, model_name_or_path, push_to_hub, create_pr)


def _convert(
    convert: Callable[[Path, Any], Sequence[Produced]],
    model: Model,
    options: ConversionOptions,
    target: str | Path,
    push_to_hub: bool,
    create_pr: bool,
) -> None:
    """Convert into a folder, or into one that lasts until its files are on the Hub."""
    root = model.pipeline.root
    if not push_to_hub:
        if create_pr:
            raise OptionError("create_pr=True has no use without push_to_hub=True", "give both, or neither")
        convert(root, replace(options, output=_output(model, target)))
        return
    repository = str(target)
    if Path(target).exists():
        raise OptionError(
            f"{target} is a folder, and push_to_hub=True asks for a repository", "organisation/name"
        )
    wanted = PushOptions(create_pr=create_pr)
    prepare(repository, wanted)
    with TemporaryDirectory(prefix="stopt-") as folder:
        made = convert(root, replace(options, output=Path(folder) / "model"))
        names = tuple(escape(each.file) for each in made)
        push(made[0].folder, repository, replace(wanted, include=names))


def _source(model: Model, backend: Backend) -> str:
    if model.get_backend() != backend.value:
        raise OptionError(
            f"the model was opened with backend {model.get_backend()!r}, expected {backend.value!r}",
            f'open it with backend="{backend.value}"',
        )
    root = model.pipeline.root
    part = root / model.pipeline.spec.front.path
    return model.file.relative_to(part if model.file.is_relative_to(part) else root).as_posix()


def _output(model: Model, folder: str | Path) -> Path | None:
    """The folder to write to; None if it is the model's own."""
    target = Path(folder)
    return None if target.exists() and target.samefile(model.pipeline.root) else target


def _word(name: str, value: Any, known: list[str]) -> str:
    if value not in known:
        raise OptionError(f"{name} is {value!r}", suggest(str(value), known))
    return str(value)
