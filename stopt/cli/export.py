"""``stopt export``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from stopt.cli import options
from stopt.cli.converting import conversion_options, produce_and_print
from stopt.cli.output import Output

__all__ = ["export"]


@click.command()
@options.model
@options.converting_backend
@click.option(
    "--fused",
    is_flag=True,
    help="Also write a file with pooling and all else in the graph, for runtimes that have none (model_fused).",
)
@click.option(
    "--with-tokenizer",
    is_flag=True,
    help="With --fused, also an OpenVINO file that reads text (model_fused_with_tokenizer).",
)
@conversion_options
@options.output_options
def export(
    model: str,
    backends: tuple[str, ...],
    fused: bool,
    with_tokenizer: bool,
    shared: Mapping[str, Any],
    publish: Mapping[str, Any],
    out: Output,
) -> None:
    """Convert MODEL to ONNX or OpenVINO, and prove it.

    New files go beside the model's own, under the names that sentence-transformers uses, once their vectors have been
    compared with torch's; a file that is off is not kept. Needs the extra: pip install 'stopt[convert]'

    \b
    Example:
      stopt export ./my-model --backend onnx --backend openvino
      stopt export sentence-transformers/all-MiniLM-L6-v2 -o ./minilm
    """
    from stopt.convert import require_convert

    require_convert()
    from stopt.convert.export import export as run
    from stopt.recipe import step_options
    from stopt.steps import ExportOptions

    chosen = step_options(
        "export",
        {"backend": list(dict.fromkeys(backends)), "fused": fused, "with_tokenizer": with_tokenizer},
        shared,
    )
    assert isinstance(chosen, ExportOptions)
    produce_and_print(lambda: run(model, chosen, out.step), model, publish, shared["token"], out)
