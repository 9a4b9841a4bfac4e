"""``stopt optimize``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from stopt.cli import options
from stopt.cli.converting import conversion_options, produce_and_print
from stopt.cli.output import Output
from stopt.errors import OptionError

__all__ = ["optimize"]


@click.command()
@options.working_model
@click.option(
    "-O",
    "--optimize",
    "level",
    type=click.Choice(["O1", "O2", "O3", "O4", "1", "2", "3", "4"]),
    help="Level: -O1 to -O4.",
)
@click.option(
    "--from",
    "source_file",
    metavar="FILE",
    default="onnx/model.onnx",
    show_default=True,
    help="File to start from.",
)
@options.file_suffix
@conversion_options
@options.output_options
def optimize(
    model: str,
    level: str | None,
    source_file: str,
    file_suffix: str | None,
    shared: Mapping[str, Any],
    publish: Mapping[str, Any],
    out: Output,
) -> None:
    """Optimise the graph of MODEL's ONNX file.

    \b
      -O1  basic graph optimisation; works on every architecture
      -O2  and fused attention, layer norms, GELU
      -O3  and GELU approximated
      -O4  and float16: for GPUs

    Writes onnx/model_O3.onnx and so on. On CPUs the levels change speed little; int8 does (stopt quantize).

    \b
    Example:
      stopt optimize ./my-model -O3
    """
    from stopt.convert import require_convert

    if level is None:
        raise OptionError("no level given", "-O1, -O2, -O3 or -O4")
    require_convert()
    from stopt.convert.optimize import optimize as run
    from stopt.recipe import step_options
    from stopt.steps import OptimizeOptions

    values = {"level": f"O{level[-1]}", "from": source_file, "file_suffix": file_suffix}
    chosen = step_options("optimize", values, shared)
    assert isinstance(chosen, OptimizeOptions)
    produce_and_print(lambda: run(model, chosen, out.step), model, publish, shared["token"], out)
