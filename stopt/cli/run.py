"""``stopt run``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from stopt.cli import options
from stopt.cli.converting import produce_and_print, publish_options
from stopt.cli.output import Output, table

__all__ = ["run"]


@click.command()
@click.argument("recipe", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Copy the model to this folder first.",
)
@click.option("--model", help="Model folder or Hub id to use instead of the recipe's own.")
@options.force
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@options.trust_remote_code
@options.hub_token
@publish_options
@options.output_options
def run(
    recipe: Path,
    output: Path | None,
    model: str | None,
    force: bool,
    dry_run: bool,
    trust_remote_code: bool,
    token: str | None,
    publish: Mapping[str, Any],
    out: Output,
) -> None:
    """Run a RECIPE: export, optimise and quantise in one go.

    A recipe is a TOML file with the options of the commands; either all its files are made, or none.

    \b
    Example:
      stopt run recipes/all-MiniLM-L6-v2-openvino-int8.toml -o ./minilm
      stopt run recipes/splade-v3-onnx-int8.toml --model ./my-splade
    """
    from stopt.convert import require_convert
    from stopt.recipe import read_recipe

    found = read_recipe(recipe, output=output, force=force, token=token, trust_remote_code=trust_remote_code)
    found = found if model is None else found.of(model)
    require_convert()
    from stopt.convert.run import plan
    from stopt.convert.run import run as run_recipe

    if not dry_run:
        produce_and_print(lambda: run_recipe(found, out.step), found.model, publish, token, out)
        return
    products = plan(found.steps)
    rows = [
        [product.name, product.precision, ", ".join(product.needs) or found.model] for product in products
    ]
    data = {
        "model": found.model,
        "files": [{"file": product.name, "options": product.options} for product in products],
    }
    out.result(
        table(rows, ["would make", "precision", "from"]),
        data,
        "\n".join(product.name for product in products),
    )
