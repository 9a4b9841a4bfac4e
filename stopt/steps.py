"""What each converting verb can be told: one options object per verb.

The command line, recipes and Python all build these. Light: the verbs themselves are in :mod:`stopt.convert`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from stopt.artifact import default_file
from stopt.errors import OptionError
from stopt.examples import Example
from stopt.spec import Backend, ModelKind

__all__ = [
    "DEFAULT_SAMPLES",
    "FEW_TEXTS",
    "LIBRARIES",
    "TASKS",
    "CalibrationMethod",
    "CalibrationOptions",
    "ConversionOptions",
    "DynamicOptions",
    "ExportOptions",
    "Level",
    "OptimizeOptions",
    "Preset",
    "QuantizeOptions",
    "StaticOnnxOptions",
    "StaticOpenVinoOptions",
    "Target",
    "WeightFormat",
    "WeightOptions",
]

# optimum's names of what a model does, and the kind of model that does it; features come from several kinds
TASKS: dict[str, ModelKind | None] = {
    "feature-extraction": None,
    "sentence-similarity": ModelKind.DENSE,
    "fill-mask": ModelKind.SPARSE,
    "sequence-classification": ModelKind.CROSS_ENCODER,
    "text-classification": ModelKind.CROSS_ENCODER,
}
LIBRARIES = ("sentence-transformers", "sentence_transformers", "transformers")

FEW_TEXTS = 16  # calibration texts below which ranges say nothing about the texts to come
DEFAULT_SAMPLES = 300


class Level(StrEnum):
    """optimum's optimisation levels."""

    O1 = "O1"
    O2 = "O2"
    O3 = "O3"
    O4 = "O4"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionOptions:
    """What all conversions can be told.

    Attributes:
        output: Folder to copy the model to first; None works in the model's own folder (for a Hub id: in a folder of
            its name in the current one).
        force: Replace files that are there.
        check_texts: Texts to check with, pairs for a cross-encoder; None takes those that ship with stopt.
        min_cosine: Smallest cosine with torch that passes; None is the default of the file's precision.
        max_abs: Largest difference that passes; None is the default of the file's precision.
        min_agreement: Smallest agreement that passes, of a sparse encoder's active dimensions or a cross-encoder's order;
            None is the default of the file's precision.
        task: The model's task, as optimum names it. A hint: it is read from the folder, and another one is an error.
        library: The library whose model it is; a hint as well.
        revision: Revision of a Hub repository.
        token: Hub token.
        trust_remote_code: Run the code that the model's config.json names, in torch, while it is converted and checked.
    """

    output: Path | None = None
    force: bool = False
    check_texts: Sequence[Example] | None = None
    min_cosine: float | None = None
    max_abs: float | None = None
    min_agreement: float | None = None
    task: str | None = None
    library: str | None = None
    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class ExportOptions(ConversionOptions):
    """How a model is exported.

    Attributes:
        backends: Engines to export for.
        fused: Write a second file with the model's modules in the graph, for runtimes that have no pooling.
        with_tokenizer: Write OpenVINO's a second time with the tokenizer before it, for runtimes that have none.
    """

    backends: tuple[Backend, ...] = (Backend.ONNX,)
    fused: bool = False
    with_tokenizer: bool = False

    def __post_init__(self) -> None:
        if self.with_tokenizer and not (self.fused and Backend.OPENVINO in self.backends):
            raise OptionError(
                "a tokenizer is put before OpenVINO's graph with the modules in it",
                "ask for that too: --fused --backend openvino",
            )
        if not self.backends or not {Backend.ONNX, Backend.OPENVINO}.issuperset(self.backends):
            raise OptionError("a model is exported to onnx, openvino or both", "torch needs no export")


@dataclass(frozen=True, slots=True)
class OptimizeOptions(ConversionOptions):
    """How a graph is optimised.

    Attributes:
        level: optimum's level.
        source_file: The file to start from, relative to the model folder.
        file_suffix: Replaces what the file is called after ``model_``; None is sentence-transformers' name.
    """

    level: Level = Level.O3
    source_file: str = default_file(Backend.ONNX)
    file_suffix: str | None = None


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """Where calibration texts come from.

    Attributes:
        texts: File: one text per line, or .jsonl, .csv, .parquet with a column; None takes those that ship with stopt,
            or the data set. For a cross-encoder pairs, with tabs between them or in two columns.
        column: Column or member that has the text; for pairs two of them with a comma, such as ``query,document``.
        dataset: Data set of the Hugging Face Hub, or a folder of one.
        dataset_config: Its configuration.
        split: Its split.
        num_samples: Texts to use, at most.
        seed: Which, if there are more.
    """

    texts: Path | None = None
    column: str = "text"
    dataset: str | None = None
    dataset_config: str | None = None
    split: str = "train"
    num_samples: int = DEFAULT_SAMPLES
    seed: int = 42

    def __post_init__(self) -> None:
        if self.texts is not None and self.dataset is not None:
            raise OptionError(
                "calibration texts come from a file or from a data set, not from both",
                "leave one of them out",
            )
        if self.num_samples < FEW_TEXTS:
            raise OptionError(
                f"{self.num_samples} calibration texts are too few",
                f"use {FEW_TEXTS} at least, better hundreds",
            )


@dataclass(frozen=True, slots=True)
class DynamicOptions(ConversionOptions):
    """Dynamic int8 for ONNX Runtime, by default the same bits as sentence-transformers' export function makes.

    Attributes:
        target: Processor it is for: decides whether weights are signed.
        source_file: The file to start from, relative to the model folder.
        per_channel: A scale per output channel of a weight, not one for all of it.
        reduce_range: 7 bits for weights, whose products overflow on no processor: on those without VNNI (AVX2, some AVX-512)
            sums of two 8-bit products do, so that vectors are others than with VNNI.
        nodes_to_exclude: Nodes of the graph that stay in float.
        op_types_to_exclude: Operators that stay in float, such as ``Gather``.
        keep_head: Whether the projection to the vocabulary and a classifier stay in float, where most of the quality is
            lost otherwise; a model of dense vectors has neither.
        file_suffix: Replaces what the file is called after ``model_``; None is sentence-transformers' name.
    """

    target: Target = Target.AVX512_VNNI
    source_file: str = default_file(Backend.ONNX)
    per_channel: bool = True
    reduce_range: bool = False
    nodes_to_exclude: tuple[str, ...] = ()
    op_types_to_exclude: tuple[str, ...] = ()
    keep_head: bool = True
    file_suffix: str | None = None


@dataclass(frozen=True, slots=True)
class StaticOnnxOptions(ConversionOptions):
    """Static int8 for ONNX Runtime: quantise and dequantise nodes around the operators (QDQ).

    Attributes:
        source_file: The file to start from, relative to the model folder.
        calibration: Texts that the ranges come from.
        method: How a range is made of what was seen.
        percentile: Share of values within the range, for that method.
        smooth_quant_alpha: How far outliers are moved from activations into weights, 0 to 1; a negative value does
            without.
        per_channel: A scale per output channel of a weight.
        reduce_range: 7 bits for weights, whose products overflow on no processor: on those without VNNI (AVX2, some AVX-512)
            sums of two 8-bit products do, so that vectors are others than with VNNI. None is what the
            processor needs that the file is made on.
        nodes_to_exclude: Nodes of the graph that stay in float.
        op_types_to_exclude: Operators that stay in float.
        keep_head: Whether the projection to the vocabulary and a classifier stay in float, where most of the quality is
            lost otherwise; a model of dense vectors has neither.
        file_suffix: Replaces what the file is called after ``model_``; None is sentence-transformers' name.
    """

    source_file: str = default_file(Backend.ONNX)
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    method: CalibrationMethod = CalibrationMethod.MINMAX
    percentile: float = 99.999
    smooth_quant_alpha: float = 0.7
    per_channel: bool = True
    reduce_range: bool | None = None
    nodes_to_exclude: tuple[str, ...] = ()
    op_types_to_exclude: tuple[str, ...] = ()
    keep_head: bool = True
    file_suffix: str | None = None


@dataclass(frozen=True, slots=True)
class StaticOpenVinoOptions(ConversionOptions):
    """Static int8 for OpenVINO, by nncf's post-training quantisation.

    Attributes:
        source_file: The file to start from, relative to the model folder.
        calibration: Texts that the ranges come from.
        preset: nncf's preset.
        smooth_quant_alpha: How far outliers are moved from activations into weights, 0 to 1; None is nncf's default, a
            negative value does without.
        reduce_range: 7 bits for weights, whose products overflow on no processor: on those without VNNI (AVX2, some AVX-512)
            sums of two 8-bit products do, so that vectors are others than with VNNI. None is what the
            processor needs that the file is made on.
        split_outliers: Whether the channels of feed-forward networks that reach furthest are split, which keeps more of
            the vectors at the same speed.
        ignored_scope: Nodes of the graph that stay in float.
        keep_head: Whether the projection to the vocabulary and a classifier stay in float, where most of the quality is
            lost otherwise; a model of dense vectors has neither.
        file_suffix: Replaces what the file is called after ``model_``; None is sentence-transformers' name.
    """

    source_file: str = default_file(Backend.OPENVINO)
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    preset: Preset = Preset.MIXED
    smooth_quant_alpha: float | None = None
    reduce_range: bool | None = None
    split_outliers: bool = True
    ignored_scope: tuple[str, ...] = ()
    keep_head: bool = True
    file_suffix: str | None = None


@dataclass(frozen=True, slots=True)
class WeightOptions(ConversionOptions):
    """Compressed weights.

    Attributes:
        backend: OpenVINO, or ONNX for fp16.
        weight_format: How weights are stored.
        source_file: The file to start from, relative to the model folder; empty is the plain one.
        file_suffix: Replaces what the file is called after ``model_``; None is sentence-transformers' name.
    """

    backend: Backend = Backend.OPENVINO
    weight_format: WeightFormat = WeightFormat.INT8
    source_file: str = ""
    file_suffix: str | None = None

    def __post_init__(self) -> None:
        if self.backend is Backend.ONNX and self.weight_format is not WeightFormat.FP16:
            raise OptionError(
                "weights of ONNX files can be stored as fp16 only",
                "for int8, use --static or a --target: avx2, arm64 …",
            )


QuantizeOptions = DynamicOptions | StaticOnnxOptions | StaticOpenVinoOptions | WeightOptions
