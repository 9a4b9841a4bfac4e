"""``quantize``: int8 files, dynamic or static, and files with compressed weights, through optimum and nncf.

Dynamic int8 (ONNX) measures activations anew for every batch, so a vector depends on its company; static int8 takes
their ranges once, from calibration texts, so it does not. Compressed weights are a smaller file with float arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from stopt.artifact import default_file
from stopt.convert.calibration import CalibrationOptions
from stopt.convert.produce import ConversionOptions, Produced, Product, Say, Workshop, derived_name, produce
from stopt.errors import ConversionError, OptionError, StoptError
from stopt.spec import Backend

__all__ = [
    "CalibrationMethod",
    "DynamicOptions",
    "Preset",
    "QuantizeOptions",
    "StaticOnnxOptions",
    "StaticOpenVinoOptions",
    "Target",
    "WeightFormat",
    "WeightOptions",
    "quantize",
    "quantize_products",
]


class Target(StrEnum):
    """Processors that dynamic int8 is made for, under sentence-transformers' names."""

    ARM64 = "arm64"
    AVX2 = "avx2"
    AVX512 = "avx512"
    AVX512_VNNI = "avx512_vnni"


class CalibrationMethod(StrEnum):
    """How ONNX Runtime makes a range of the activations it saw."""

    MINMAX = "minmax"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"


class Preset(StrEnum):
    """nncf's presets: symmetric activations are faster, asymmetric ones more exact."""

    MIXED = "mixed"
    PERFORMANCE = "performance"


class WeightFormat(StrEnum):
    """How weights are stored; the arithmetic stays in floats."""

    FP16 = "fp16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class DynamicOptions(ConversionOptions):
    """Dynamic int8 for ONNX Runtime, by default the same bits as sentence-transformers' export function makes.

    Attributes:
        target: Processor it is for: decides whether weights are signed.
        source_file: The file to start from, relative to the model folder.
        per_channel: A scale per output channel of a weight, not one for all of it.
        reduce_range: 7 bits for weights: exact on processors whose 8-bit products overflow (AVX2, AVX-512 without VNNI).
        nodes_to_exclude: Nodes of the graph that stay in float.
        op_types_to_exclude: Operators that stay in float, such as ``Gather``.
    """

    target: Target = Target.AVX512_VNNI
    source_file: str = default_file(Backend.ONNX)
    per_channel: bool = True
    reduce_range: bool = False
    nodes_to_exclude: tuple[str, ...] = ()
    op_types_to_exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StaticOnnxOptions(ConversionOptions):
    """Static int8 for ONNX Runtime: quantise and dequantise nodes around the operators (QDQ).

    Attributes:
        source_file: The file to start from, relative to the model folder.
        calibration: Texts that the ranges come from.
        method: How a range is made of what was seen.
        percentile: Share of values within the range, for that method.
        per_channel: A scale per output channel of a weight.
        nodes_to_exclude: Nodes of the graph that stay in float.
        op_types_to_exclude: Operators that stay in float.
    """

    source_file: str = default_file(Backend.ONNX)
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    method: CalibrationMethod = CalibrationMethod.MINMAX
    percentile: float = 99.999
    per_channel: bool = True
    nodes_to_exclude: tuple[str, ...] = ()
    op_types_to_exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StaticOpenVinoOptions(ConversionOptions):
    """Static int8 for OpenVINO, by nncf's post-training quantisation.

    Attributes:
        source_file: The file to start from, relative to the model folder.
        calibration: Texts that the ranges come from.
        preset: nncf's preset.
        smooth_quant_alpha: How far outliers are moved from activations into weights, 0 to 1; None is nncf's default, a
            negative value does without.
        ignored_scope: Nodes of the graph that stay in float.
    """

    source_file: str = default_file(Backend.OPENVINO)
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    preset: Preset = Preset.MIXED
    smooth_quant_alpha: float | None = None
    ignored_scope: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WeightOptions(ConversionOptions):
    """Compressed weights.

    Attributes:
        backend: OpenVINO, or ONNX for fp16.
        weight_format: How weights are stored.
        source_file: The file to start from, relative to the model folder; empty is the plain one.
    """

    backend: Backend = Backend.OPENVINO
    weight_format: WeightFormat = WeightFormat.INT8
    source_file: str = ""

    def __post_init__(self) -> None:
        if self.backend is Backend.ONNX and self.weight_format is not WeightFormat.FP16:
            raise OptionError(
                "weights of ONNX files can be stored as fp16 only",
                "for int8, use --static or a --target: avx2, arm64 …",
            )


QuantizeOptions = DynamicOptions | StaticOnnxOptions | StaticOpenVinoOptions | WeightOptions


def quantize(model: str | Path, options: QuantizeOptions, say: Say = lambda _: None) -> list[Produced]:
    """Quantise a file; see :func:`~stopt.convert.produce.produce`."""
    return produce(model, options, quantize_products(options), say)


def quantize_products(options: QuantizeOptions) -> list[Product]:
    """Return what a quantisation makes: one file, such as ``onnx/model_qint8_avx512_vnni.onnx``."""
    match options:
        case DynamicOptions():
            kind = "quint8" if options.target is Target.AVX2 else "qint8"
            suffix, backend, precision = f"{kind}_{options.target.value}", Backend.ONNX, "int8"
        case StaticOnnxOptions():
            suffix, backend, precision = "qint8_quantized", Backend.ONNX, "int8"
        case StaticOpenVinoOptions():
            suffix, backend, precision = "qint8_quantized", Backend.OPENVINO, "int8"
        case WeightOptions():
            suffix, backend = options.weight_format.value, options.backend
            precision = "float16" if options.weight_format is WeightFormat.FP16 else "weights-int8"
    source = options.source_file or default_file(backend)
    step = {"step": "quantize", "source_file": source, **_own_options(options)}
    make = partial(_make, options=options, source_file=source)
    return [Product(derived_name(source, suffix), backend, precision, step, make, (source,))]


def _own_options(options: QuantizeOptions) -> dict[str, Any]:
    """The effective values of a quantisation's own options, for the manifest."""
    shared = ConversionOptions.__dataclass_fields__
    own = {name: getattr(options, name) for name in type(options).__dataclass_fields__ if name not in shared}
    own.pop("calibration", None)  # the texts themselves are described by what was read
    return {"kind": type(options).__name__.removesuffix("Options"), **own}


def _make(workshop: Workshop, file: Path, options: QuantizeOptions, source_file: str) -> Mapping[str, Any]:
    from stopt.convert import quantizers

    source = workshop.find(source_file)
    work: Callable[[], Mapping[str, Any]]
    match options:
        case DynamicOptions():
            work = partial(quantizers.dynamic_onnx, source, file, options)
        case StaticOnnxOptions():
            work = partial(quantizers.static_onnx, source, file, options, workshop)
        case StaticOpenVinoOptions():
            work = partial(quantizers.static_openvino, source, file, options, workshop)
        case WeightOptions():
            work = partial(quantizers.compress, source, file, options)
    try:
        return work()
    except (StoptError, OSError):
        raise
    except Exception as error:  # quantisers raise whatever their graph passes met
        raise ConversionError(
            f"{source_file} cannot be quantised: {type(error).__name__}: {error}",
            "start from the plain export, or leave the operators it names in float",
        ) from error
