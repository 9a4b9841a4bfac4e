"""``quantize``: int8 files, dynamic or static, and files with compressed weights, through optimum and nncf.

Dynamic int8 (ONNX) measures activations anew for every batch, so a vector depends on its company; static int8 takes
their ranges once, from calibration texts, so it does not. Compressed weights are a smaller file with float arithmetic.
Layers between the transformer and its logits stay in float by default (:mod:`stopt.convert.sensitive`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stopt.artifact import default_file
from stopt.convert.graphs import require_float32
from stopt.convert.produce import Produced, Product, Say, Workshop, derived_name, produce
from stopt.errors import ConversionError, StoptError
from stopt.recipe import describe_step
from stopt.runtime.devices import describe_machine
from stopt.spec import Backend
from stopt.steps import (
    ConversionOptions,
    DynamicOptions,
    QuantizeOptions,
    StaticOnnxOptions,
    StaticOpenVinoOptions,
    Target,
    WeightFormat,
    WeightOptions,
)

__all__ = ["quantize", "quantize_products", "settled"]


def quantize(model: str | Path, options: QuantizeOptions, say: Say = lambda _: None) -> list[Produced]:
    """Quantise a file; see :func:`~stopt.convert.produce.produce`."""
    return produce(model, options, quantize_products(options), say)


def settled(options: QuantizeOptions) -> QuantizeOptions:
    """Return options with what they leave to this processor decided, to be recorded: the file is made the same elsewhere."""
    if isinstance(options, StaticOnnxOptions | StaticOpenVinoOptions) and options.reduce_range is None:
        return replace(options, reduce_range=describe_machine().int8_overflows)
    return options


def quantize_products(options: QuantizeOptions) -> list[Product]:
    """Return what a quantisation makes: one file, such as ``onnx/model_qint8_avx512_vnni.onnx``."""
    options = settled(options)
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
    return [
        Product(
            derived_name(source, options.file_suffix or suffix),
            backend,
            precision,
            step,
            make,
            (source,),
            describe_step(options),
        )
    ]


def _own_options(options: QuantizeOptions) -> dict[str, Any]:
    """The effective values of a quantisation's own options, for the manifest."""
    shared = ConversionOptions.__dataclass_fields__
    own = {name: getattr(options, name) for name in type(options).__dataclass_fields__ if name not in shared}
    own.pop("calibration", None)  # the texts themselves are described by what was read
    return {"kind": type(options).__name__.removesuffix("Options"), **own}


def _make(workshop: Workshop, file: Path, options: QuantizeOptions, source_file: str) -> Mapping[str, Any]:
    from stopt.convert import quantizers

    source = workshop.find(source_file)
    require_float32(source, source_file)
    work: Callable[[], Mapping[str, Any]]
    match options:
        case DynamicOptions():
            work = partial(quantizers.dynamic_onnx, source, file, options, workshop)
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
