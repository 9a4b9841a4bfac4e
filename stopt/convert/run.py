"""``run``: all steps of a recipe, in one go: either every file appears, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from stopt.convert.export import export_products
from stopt.convert.optimize import optimize_products
from stopt.convert.produce import Produced, Product, Say, produce
from stopt.convert.quantize import quantize_products
from stopt.recipe import Recipe, StepOptions
from stopt.steps import (
    DynamicOptions,
    ExportOptions,
    OptimizeOptions,
    StaticOnnxOptions,
    StaticOpenVinoOptions,
    WeightOptions,
)

__all__ = ["plan", "run"]


def plan(steps: Sequence[StepOptions]) -> list[Product]:
    """Return the files that steps make, in order."""
    products: list[Product] = []
    for step in steps:
        match step:
            case ExportOptions():
                products += export_products(step)
            case OptimizeOptions():
                products += optimize_products(step)
            case DynamicOptions() | StaticOnnxOptions() | StaticOpenVinoOptions() | WeightOptions():
                products += quantize_products(step)
            case _:
                assert_never(step)
    return products


def run(recipe: Recipe, say: Say = lambda _: None) -> list[Produced]:
    """Run a recipe; see :func:`~stopt.convert.produce.produce`.

    Args:
        recipe: What to do; where to is in its steps, the same in each.
        say: Is told in words what is being done.
    """
    return produce(recipe.model, recipe.steps[0], plan(recipe.steps), say)
