"""The quantisers themselves: one function per kind, from a source file to a staged one.

Each writes under the final name at once, because the graph of a large model names its data file after itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stopt.convert.calibration import CalibrationData, read_calibration
from stopt.convert.exporters import silent
from stopt.convert.graphs import has_external_data, require_nodes, save_openvino, typed
from stopt.convert.produce import Workshop, move_model
from stopt.convert.sensitive import onnx_head, openvino_head
from stopt.convert.smoothing import smooth
from stopt.convert.splitting import split_channels
from stopt.runtime.sessions import feed
from stopt.spec import Backend, ModelKind, StaticEmbedding, Task, TransformerSpec
from stopt.steps import (
    CalibrationMethod,
    DynamicOptions,
    StaticOnnxOptions,
    StaticOpenVinoOptions,
    WeightFormat,
    WeightOptions,
)

__all__ = ["compress", "dynamic_onnx", "static_onnx", "static_openvino"]


@dataclass(frozen=True, slots=True)
class _Head:
    """What stays in float between the transformer's last layer and its logits; nothing in a model of dense vectors.

    Attributes:
        nodes: Operators of the graph, by name.
        products: The matrix products among them.
    """

    nodes: tuple[str, ...] = ()
    products: tuple[str, ...] = ()

    @classmethod
    def find(cls, graph: Any, keep: bool, workshop: Workshop) -> _Head:
        """Find it in an ONNX or OpenVINO graph, and say so."""
        front = workshop.pipeline.spec.front
        if not keep or not isinstance(front, TransformerSpec) or front.task is Task.FEATURES:
            return cls()
        nodes, found = (onnx_head if hasattr(graph, "initializer") else openvino_head)(graph)
        if found:
            workshop.say(f"      keeping in float: {', '.join(found)}")
        return cls(tuple(nodes), tuple(found))

    @property
    def record(self) -> Mapping[str, Any]:
        """What the manifest says of it."""
        return {"kept_float": list(self.products)} if self.products else {}


def _excluded(given: Sequence[str], head: _Head) -> list[str]:
    """Names of nodes that ONNX Runtime is to leave in float.

    It makes a product and a sum of a Gemm before it looks for them, and calls the product what is added here.
    """
    names = [*given, *head.nodes]
    return [*names, *(f"{name}_MatMul" for name in names)]


def _calibration(options: StaticOnnxOptions | StaticOpenVinoOptions, workshop: Workshop) -> CalibrationData:
    """Texts to calibrate with, or pairs for a cross-encoder; says which, and that weights have fewer bits if they have."""
    if options.reduce_range:
        workshop.say(
            "      weights of 7 bits, exact on processors without VNNI too (--no-reduce-range: 8 bits)"
        )
    pairs = workshop.pipeline.spec.kind is ModelKind.CROSS_ENCODER
    data = read_calibration(options.calibration, pairs=pairs)
    workshop.say(f"      calibrating with {len(data.texts)} {'pairs' if pairs else 'texts'} ({data.source})")
    return data


def dynamic_onnx(source: Path, file: Path, options: DynamicOptions, workshop: Workshop) -> Mapping[str, Any]:
    """Quantise weights to int8; activations are quantised batch by batch when the file runs."""
    import onnx
    from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer

    require_nodes(source, options.nodes_to_exclude)
    config = getattr(AutoQuantizationConfig, options.target.value)(
        is_static=False, per_channel=options.per_channel
    )
    config.reduce_range = options.reduce_range
    head = _Head.find(onnx.load(source, load_external_data=False).graph, options.keep_head, workshop)
    config.nodes_to_exclude = _excluded(options.nodes_to_exclude, head)
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
    return {
        "operators": sorted(map(str, config.operators_to_quantize)),
        "weights": config.weights_dtype.name,
        **head.record,
    }


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
    data = _calibration(options, workshop)
    with TemporaryDirectory(dir=file.parent.parent, prefix=".") as made:
        graph = onnx.load(typed(source, Path(made)))
    inputs = [port.name for port in graph.graph.input]
    feeds = [feed(batch, inputs, source) for batch in data.batches(workshop.pipeline)]
    head = _Head.find(graph.graph, options.keep_head, workshop)
    if options.smooth_quant_alpha >= 0:
        graph = smooth(graph, feeds, options.smooth_quant_alpha, leave=head.nodes)

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
            reduce_range=bool(options.reduce_range),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*weightless, *_excluded(options.nodes_to_exclude, head)],
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
    return {"operators": operators, "calibration": data.describe(), **head.record}


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

    data = _calibration(options, workshop)
    model = openvino.Core().read_model(source)
    head = _Head.find(model, options.keep_head, workshop)
    inputs = [port.get_any_name() for port in model.inputs]
    feeds = [feed(batch, inputs, source) for batch in data.batches(workshop.pipeline)]
    record: dict[str, Any] = {"calibration": data.describe(), **head.record}
    kept = [*options.ignored_scope, *head.products]
    if isinstance(workshop.pipeline.spec.front, StaticEmbedding):
        # a table's only product is its pooling, of a mask: in int8 it is less exact and no faster
        kept += [each.get_friendly_name() for each in model.get_ops() if each.get_type_name() == "MatMul"]
    if options.split_outliers:
        with silent():
            record["split_channels"] = split_channels(model, feeds, kept)
    advanced = nncf.AdvancedQuantizationParameters()
    if options.smooth_quant_alpha is not None:
        advanced.smooth_quant_alphas = nncf.AdvancedSmoothQuantParameters(matmul=options.smooth_quant_alpha)
    if options.reduce_range:
        advanced.overflow_fix = nncf.OverflowFix.ENABLE
    with silent():
        quantized = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            preset=nncf.QuantizationPreset(options.preset.value),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(feeds),
            ignored_scope=nncf.IgnoredScope(names=kept),
            advanced_parameters=advanced,
        )
        save_openvino(quantized, file)
    return record


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
        save_openvino(model, file, half=options.weight_format is WeightFormat.FP16)
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
