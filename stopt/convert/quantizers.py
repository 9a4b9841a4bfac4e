"""The quantisers themselves: one function per kind, from a source file to a staged one.

Each writes under the final name at once, because the graph of a large model names its data file after itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stopt.convert.calibration import read_calibration
from stopt.convert.exporters import silent
from stopt.convert.graphs import has_external_data, require_nodes, typed
from stopt.convert.produce import Workshop, move_model
from stopt.convert.smoothing import smooth
from stopt.runtime.sessions import feed
from stopt.spec import Backend
from stopt.steps import (
    CalibrationMethod,
    DynamicOptions,
    StaticOnnxOptions,
    StaticOpenVinoOptions,
    WeightFormat,
    WeightOptions,
)

__all__ = ["compress", "dynamic_onnx", "static_onnx", "static_openvino"]


def dynamic_onnx(source: Path, file: Path, options: DynamicOptions) -> Mapping[str, Any]:
    """Quantise weights to int8; activations are quantised batch by batch when the file runs."""
    from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer

    require_nodes(source, options.nodes_to_exclude)
    config = getattr(AutoQuantizationConfig, options.target.value)(
        is_static=False, per_channel=options.per_channel
    )
    config.reduce_range = options.reduce_range
    config.nodes_to_exclude = list(options.nodes_to_exclude)
    config.operators_to_quantize = [
        operator for operator in config.operators_to_quantize if operator not in options.op_types_to_exclude
    ]
    with silent(), TemporaryDirectory(dir=file.parent.parent, prefix=".") as made:
        ORTQuantizer(typed(source, Path(made))).quantize(
            config,
            made,
            file_suffix=file.stem.removeprefix(f"{source.stem}_"),
            use_external_data_format=has_external_data(source),
        )
        move_model(Path(made) / file.name, file)
    return {"operators": sorted(map(str, config.operators_to_quantize)), "weights": config.weights_dtype.name}


def static_onnx(
    source: Path, file: Path, options: StaticOnnxOptions, workshop: Workshop
) -> Mapping[str, Any]:
    """Quantise weights and activations to int8, with ranges from calibration texts.

    Only products with weights are quantised, on their inputs: attention's own products and every output stay in float,
    which is where the quality goes otherwise (measured in recipes/README.md).
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization import CalibrationMethod as Method

    require_nodes(source, options.nodes_to_exclude)
    data = read_calibration(options.calibration)
    workshop.say(f"      calibrating with {len(data.texts)} texts ({data.source})")
    with TemporaryDirectory(dir=file.parent.parent, prefix=".") as made:
        graph = onnx.load(typed(source, Path(made)))
    inputs = [port.name for port in graph.graph.input]
    feeds = [feed(batch, inputs, source) for batch in data.batches(workshop.pipeline)]
    if options.smooth_quant_alpha >= 0:
        graph = smooth(graph, feeds, options.smooth_quant_alpha)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.set_range(0, len(feeds))

        def __len__(self) -> int:
            return len(feeds)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.feeds = iter(feeds[start_index:end_index])

        def get_next(self) -> Mapping[str, Any] | None:
            return next(self.feeds, None)

    operators = [name for name in ("MatMul", "Gather") if name not in options.op_types_to_exclude]
    weights = {tensor.name for tensor in graph.graph.initializer}
    # MatMulConstBOnly says the same, to dynamic quantisation alone (onnxruntime 1.32)
    weightless = [
        node.name
        for node in graph.graph.node
        if node.op_type == "MatMul" and node.name and node.input[1] not in weights
    ]
    external = has_external_data(source)
    with silent(), TemporaryDirectory(dir=file.parent.parent, prefix=".") as made:
        staged = Path(made) / "source.onnx"
        onnx.save_model(graph, staged, save_as_external_data=external)
        quantize_static(
            staged,
            Path(made) / file.name,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            per_channel=options.per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*options.nodes_to_exclude, *weightless],
            use_external_data_format=external,
            calibrate_method=Method[_METHODS[options.method]],
            extra_options={
                "WeightSymmetric": True,
                "ActivationSymmetric": False,
                "OpTypesToExcludeOutputQuantization": operators,
                "CalibPercentile": options.percentile,
                # histograms take one text at a time: of several at once they expect one length
                "CalibStridedMinMax": None if options.method is CalibrationMethod.MINMAX else 1,
            },
        )
        move_model(Path(made) / file.name, file)
    return {"operators": operators, "calibration": data.describe()}


# ONNX Runtime's names
_METHODS = {
    CalibrationMethod.MINMAX: "MinMax",
    CalibrationMethod.ENTROPY: "Entropy",
    CalibrationMethod.PERCENTILE: "Percentile",
}


def static_openvino(
    source: Path, file: Path, options: StaticOpenVinoOptions, workshop: Workshop
) -> Mapping[str, Any]:
    """Quantise weights and activations to int8 with nncf, with ranges from calibration texts."""
    with silent():
        import nncf
        import openvino

    data = read_calibration(options.calibration)
    workshop.say(f"      calibrating with {len(data.texts)} texts ({data.source})")
    model = openvino.Core().read_model(source)
    inputs = [port.get_any_name() for port in model.inputs]
    feeds = [feed(batch, inputs, source) for batch in data.batches(workshop.pipeline)]
    advanced = nncf.AdvancedQuantizationParameters()
    if options.smooth_quant_alpha is not None:
        advanced.smooth_quant_alphas = nncf.AdvancedSmoothQuantParameters(matmul=options.smooth_quant_alpha)
    with silent():
        quantized = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            preset=nncf.QuantizationPreset(options.preset.value),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(feeds),
            ignored_scope=nncf.IgnoredScope(names=list(options.ignored_scope)),
            advanced_parameters=advanced,
        )
        openvino.save_model(quantized, file, compress_to_fp16=False)
    return {"calibration": data.describe()}


def compress(source: Path, file: Path, options: WeightOptions) -> Mapping[str, Any]:
    """Store weights in fewer bytes; the engine turns them into floats again."""
    if options.backend is Backend.ONNX:
        _onnx_fp16(source, file)
        return {}
    with silent():
        import nncf
        import openvino

    model = openvino.Core().read_model(source)
    with silent():
        if options.weight_format is WeightFormat.INT8:
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        openvino.save_model(model, file, compress_to_fp16=options.weight_format is WeightFormat.FP16)
    return {}


def _onnx_fp16(source: Path, file: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    external = has_external_data(source)
    with silent():
        model = convert_float_to_float16(
            str(source) if external else onnx.load(source), keep_io_types=True, disable_shape_infer=external
        )
        onnx.save_model(model, file, save_as_external_data=external, location=f"{file.name}_data")
