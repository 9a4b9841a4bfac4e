"""``stopt quantize``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from stopt.cli import options
from stopt.cli.converting import conversion_options, produce_and_print
from stopt.cli.output import Output
from stopt.errors import OptionError
from stopt.steps import DEFAULT_SAMPLES, CalibrationMethod, Preset, Target, WeightFormat

__all__ = ["quantize"]

# options that become a step's as they are
_PASSED_ON = (
    "static",
    "weight_format",
    "backend",
    "from",
    "per_channel",
    "reduce_range",
    "nodes_to_exclude",
    "op_types_to_exclude",
    "texts",
    "dataset",
    "dataset_config",
    "split",
    "column",
    "num_samples",
    "seed",
    "method",
    "percentile",
    "preset",
    "smooth_quant_alpha",
    "split_outliers",
    "ignored_scope",
    "keep_head",
    "file_suffix",
)
_TARGETS = [target.value for target in Target]


def _target_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --arm64, --avx2, --avx512 and --avx512_vnni, the spellings that optimum-cli has."""
    for target in reversed(_TARGETS):
        command = click.option(
            f"--{target}", "flags", flag_value=target, multiple=True, help=f"Same as --target {target}."
        )(command)
    return command


@click.command()
@options.working_model
@click.option(
    "--target",
    type=click.Choice([*_TARGETS, "auto"]),
    help="Dynamic int8 for this kind of processor; auto is the one here.",
)
@_target_flags
@click.option(
    "--static", is_flag=True, default=None, help="Static int8: ranges of activations from calibration texts."
)
@click.option(
    "--weight-format",
    type=click.Choice([each.value for each in WeightFormat]),
    help="Only store weights smaller: fp16, or int8 (OpenVINO).",
)
@click.option(
    "--backend",
    type=click.Choice(options.ENGINES),
    help="Engine.  [default: onnx; openvino for --weight-format]",
)
@click.option("--from", "from", metavar="FILE", help="File to start from; by default the plain one.")
@click.option(
    "--per-channel/--no-per-channel",
    "--per_channel/--no-per_channel",
    default=None,
    help="A scale per output channel.  [default: per channel]",
)
@click.option(
    "--reduce-range/--no-reduce-range",
    default=None,
    help="7-bit weights: the same vectors with and without VNNI.  [default: for --static, if the processor here has none]",
)
@click.option(
    "--nodes-to-exclude", multiple=True, metavar="NODE", help="Node to keep in float; may be repeated."
)
@click.option(
    "--op-types-to-exclude", multiple=True, metavar="OP", help="Operator to keep in float; may be repeated."
)
@click.option(
    "--texts",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Calibration texts: txt, .jsonl, .csv, .parquet; for a cross-encoder pairs, also .tsv.",
)
@click.option("--dataset", metavar="NAME", help="Calibration texts from a Hugging Face data set.")
@click.option("--dataset-config", metavar="NAME", help="Its configuration.")
@click.option("--split", help="Its split.  [default: train]")
@click.option("--column", help="Column with the text, or two with a comma for pairs.  [default: text]")
@click.option(
    "--num-samples",
    type=click.IntRange(min=1),
    help=f"Calibration texts at most.  [default: {DEFAULT_SAMPLES}]",
)
@click.option("--seed", type=int, help="Which of them, if there are more.  [default: 42]")
@click.option(
    "--method",
    type=click.Choice([each.value for each in CalibrationMethod]),
    help="How ONNX ranges are made.  [default: minmax]",
)
@click.option("--percentile", type=click.FloatRange(50, 100), help="For --method percentile.")
@click.option(
    "--preset",
    type=click.Choice([each.value for each in Preset]),
    help="nncf's preset, for OpenVINO.  [default: mixed]",
)
@click.option(
    "--smooth-quant-alpha",
    type=click.FloatRange(-1, 1),
    help="How far --static moves outliers from activations into weights; negative: not at all.",
)
@click.option(
    "--split-outliers/--no-split-outliers",
    default=None,
    help="Split the channels that reach furthest, for --static with OpenVINO.  [default: split them]",
)
@click.option(
    "--ignored-scope",
    multiple=True,
    metavar="NODE",
    help="Node to keep in float, for OpenVINO; may be repeated.",
)
@click.option(
    "--keep-head/--no-keep-head",
    default=None,
    help="Keep the projection to the vocabulary, or a classifier, in float.  [default: keep it]",
)
@options.file_suffix
@conversion_options
@options.output_options
@options.collect("given", *_PASSED_ON)
def quantize(
    model: str,
    target: str | None,
    flags: tuple[str, ...],
    given: Mapping[str, Any],
    shared: Mapping[str, Any],
    publish: Mapping[str, Any],
    out: Output,
) -> None:
    """Make MODEL's files smaller and faster with int8.

    \b
      --target avx512_vnni   dynamic int8, ONNX: quick to make; vectors depend on their batch
      --static               static int8, ONNX or OpenVINO: calibrated; faster on OpenVINO
      --weight-format int8   smaller file, float arithmetic

    What int8 hurts most stays in float: the layers between the transformer and its logits (SPLADE's vocabulary
    projection, a classifier). Names are sentence-transformers': onnx/model_qint8_avx512_vnni.onnx, openvino/openvino_model_qint8_quantized.xml.

    \b
    Example:
      stopt quantize ./my-model --static --backend openvino --texts queries.txt
      stopt quantize ./my-model --avx512_vnni
    """
    from stopt.convert import require_convert

    require_convert()
    from stopt.convert.quantize import quantize as run
    from stopt.convert.quantize import settled
    from stopt.recipe import step_options
    from stopt.steps import ConversionOptions, ExportOptions, OptimizeOptions

    targets = {*flags, *([target] if target else [])}
    if len(targets) > 1:
        raise OptionError(
            f"several targets: {', '.join(sorted(targets))}", "a file is made for one kind of processor"
        )
    values = {key: value for key, value in given.items() if value is not None and value != ()}
    if targets:
        values["target"] = _resolve(targets.pop(), out)
    chosen = step_options("quantize", values, shared)
    assert not isinstance(chosen, ExportOptions | OptimizeOptions)
    chosen = settled(chosen)
    shown = {name: getattr(chosen, name) for name in type(chosen).__dataclass_fields__}
    own = {name: value for name, value in shown.items() if name not in ConversionOptions.__dataclass_fields__}
    out.step(", ".join(f"{name}={value}" for name, value in own.items() if name != "calibration"))
    produce_and_print(lambda: run(model, chosen, out.step), model, publish, shared["token"], out)


def _resolve(target: str, out: Output) -> str:
    """The processor that ``auto`` stands for."""
    if target != "auto":
        return target
    from stopt.runtime.devices import describe_machine

    machine = describe_machine()
    features = set(machine.features)
    if machine.architecture in ("aarch64", "arm64"):
        found = Target.ARM64
    elif features & {"avx512_vnni", "avx_vnni"}:
        found = Target.AVX512_VNNI
    elif "avx512f" in features:
        found = Target.AVX512
    else:
        found = Target.AVX2
    out.step(f"target auto is {found.value} here ({', '.join(machine.features)})")
    return found.value
