"""``optimize``: graph optimisation O1 to O4 of an ONNX file, through optimum."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stopt.convert.exporters import silent
from stopt.convert.graphs import has_external_data, require_float32
from stopt.convert.produce import (
    Produced,
    Product,
    Say,
    Workshop,
    derived_name,
    move_model,
    produce,
)
from stopt.errors import ConversionError, UnsupportedModel
from stopt.recipe import describe_step
from stopt.runtime.sessions.torch import TorchSession
from stopt.spec import Backend
from stopt.steps import Level, OptimizeOptions

__all__ = ["optimize", "optimize_products"]


# what each level is for, as users are told
PURPOSE: Mapping[Level, str] = {
    Level.O1: "basic graph optimisation",
    Level.O2: "fused attention, layer norms and GELU",
    Level.O3: "as O2, with GELU approximated",
    Level.O4: "as O3, in float16: for GPUs; slow on CPUs, which convert back and forth",
}


def optimize(model: str | Path, options: OptimizeOptions, say: Say = lambda _: None) -> list[Produced]:
    """Optimise an ONNX file; see :func:`~stopt.convert.produce.produce`.

    Raises:
        UnsupportedModel: If ONNX Runtime has no fusions for the architecture; names those it has, and the level that
            works all the same.
    """
    return produce(model, options, optimize_products(options), say)


def optimize_products(options: OptimizeOptions) -> list[Product]:
    """Return what an optimisation makes: one file, such as ``onnx/model_O3.onnx``."""
    precision = (
        "float16" if options.level is Level.O4 else "approximate" if options.level is Level.O3 else "float32"
    )
    step = {"step": "optimize", "level": options.level.value, "source_file": options.source_file}
    name = derived_name(options.source_file, options.file_suffix or options.level.value)
    return [
        Product(
            name,
            Backend.ONNX,
            precision,
            step,
            partial(_make, options=options),
            (options.source_file,),
            describe_step(options),
        )
    ]


def _make(workshop: Workshop, file: Path, options: OptimizeOptions) -> Mapping[str, Any]:
    session = workshop.pipeline.session
    if not isinstance(session, TorchSession) and options.level is not Level.O1:
        raise UnsupportedModel(
            f"{options.level.value} for a static embedding model",
            ["a table of token embeddings has no layers to fuse"],
            "-O1 works on every graph; a smaller table: stopt quantize",
        )
    source = workshop.find(options.source_file)
    require_float32(source, options.source_file)
    workshop.say(f"      {PURPOSE[options.level]}")
    try:
        with silent(), TemporaryDirectory(dir=workshop.staged, prefix=".") as made:
            if isinstance(session, TorchSession) and options.level is not Level.O1:
                _fused(source, session.model.config, options.level, Path(made) / file.name)
            else:
                _basic(source, Path(made) / file.name)
            move_model(Path(made) / file.name, file)
    except (UnsupportedModel, OSError):
        raise
    except Exception as error:  # the optimiser raises whatever its graph passes met
        raise ConversionError(
            f"{options.source_file} cannot be optimised to {options.level.value}: {type(error).__name__}: {error}",
            "is the disk full? export the model again if not"
            if options.level is Level.O1
            else "-O1 works on every graph",
        ) from error
    return {}


def _basic(source: Path, file: Path) -> None:
    """O1 needs to know nothing of the architecture, so it is asked of ONNX Runtime itself; optimum refuses some."""
    from onnxruntime.transformers.optimizer import optimize_model

    optimized = optimize_model(
        str(source), model_type="bert", opt_level=1, use_gpu=False, only_onnxruntime=True
    )
    optimized.save_model_to_file(str(file), use_external_data_format=has_external_data(source))


def _fused(source: Path, config: Any, level: Level, file: Path) -> None:
    from optimum.onnxruntime import AutoOptimizationConfig, ORTOptimizer
    from optimum.onnxruntime.utils import ORTConfigManager

    optimization = getattr(AutoOptimizationConfig, level.value)()
    try:
        ORTConfigManager.check_optimization_supported_model(config.model_type, optimization)
        # from_ortmodel: otherwise the optimizer deletes the data file of the graph that it has read
        optimizer = ORTOptimizer([source], config, from_ortmodel=True)
    except NotImplementedError as error:
        supported = sorted(ORTConfigManager._conf)
        raise UnsupportedModel(
            f"{level.value} for {config.model_type!r}",
            [f"ONNX Runtime has fusions for {', '.join(supported)} only"],
            "-O1 works on every architecture",
        ) from error
    optimizer.optimize(optimization, file.parent, file_suffix=file.stem.removeprefix(f"{source.stem}_"))
