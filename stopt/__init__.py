"""Turn sentence-transformers models into fast, small, checked files, and serve them without torch.

Names are loaded when they are used, so that ``import stopt`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stopt.checking import CheckOptions, check
    from stopt.convert.export import export
    from stopt.convert.optimize import optimize
    from stopt.convert.quantize import quantize
    from stopt.convert.run import run
    from stopt.convert.sentence_transformers import (
        export_dynamic_quantized_onnx_model,
        export_optimized_onnx_model,
        export_static_quantized_openvino_model,
    )
    from stopt.embeddings.quantization import quantize_embeddings
    from stopt.errors import (
        ArtifactError,
        ConversionError,
        CorruptModel,
        InputError,
        MissingExtra,
        OptionError,
        ParityError,
        SourceError,
        StoptError,
        StoptWarning,
        UnsupportedModel,
        UntrustedModel,
    )
    from stopt.parity import ParityReport
    from stopt.reading import read_spec
    from stopt.recipe import Recipe, read_recipe
    from stopt.runtime.sentence_transformer import SentenceTransformer
    from stopt.spec import ModelSpec
    from stopt.steps import (
        CalibrationOptions,
        DynamicOptions,
        ExportOptions,
        OptimizeOptions,
        StaticOnnxOptions,
        StaticOpenVinoOptions,
        WeightOptions,
    )

__version__ = "0.1.0"

_PLACES = {
    "ArtifactError": "stopt.errors",
    "CalibrationOptions": "stopt.steps",
    "CheckOptions": "stopt.checking",
    "ConversionError": "stopt.errors",
    "CorruptModel": "stopt.errors",
    "DynamicOptions": "stopt.steps",
    "ExportOptions": "stopt.steps",
    "InputError": "stopt.errors",
    "MissingExtra": "stopt.errors",
    "ModelSpec": "stopt.spec",
    "OptimizeOptions": "stopt.steps",
    "OptionError": "stopt.errors",
    "ParityError": "stopt.errors",
    "ParityReport": "stopt.parity",
    "Recipe": "stopt.recipe",
    "SentenceTransformer": "stopt.runtime.sentence_transformer",
    "SourceError": "stopt.errors",
    "StaticOnnxOptions": "stopt.steps",
    "StaticOpenVinoOptions": "stopt.steps",
    "StoptError": "stopt.errors",
    "StoptWarning": "stopt.errors",
    "UnsupportedModel": "stopt.errors",
    "UntrustedModel": "stopt.errors",
    "WeightOptions": "stopt.steps",
    "check": "stopt.checking",
    "export": "stopt.convert.export",
    "export_dynamic_quantized_onnx_model": "stopt.convert.sentence_transformers",
    "export_optimized_onnx_model": "stopt.convert.sentence_transformers",
    "export_static_quantized_openvino_model": "stopt.convert.sentence_transformers",
    "optimize": "stopt.convert.optimize",
    "quantize": "stopt.convert.quantize",
    "quantize_embeddings": "stopt.embeddings.quantization",
    "read_recipe": "stopt.recipe",
    "read_spec": "stopt.reading",
    "run": "stopt.convert.run",
}

__all__ = [
    "ArtifactError",
    "CalibrationOptions",
    "CheckOptions",
    "ConversionError",
    "CorruptModel",
    "DynamicOptions",
    "ExportOptions",
    "InputError",
    "MissingExtra",
    "ModelSpec",
    "OptimizeOptions",
    "OptionError",
    "ParityError",
    "ParityReport",
    "Recipe",
    "SentenceTransformer",
    "SourceError",
    "StaticOnnxOptions",
    "StaticOpenVinoOptions",
    "StoptError",
    "StoptWarning",
    "UnsupportedModel",
    "UntrustedModel",
    "WeightOptions",
    "__version__",
    "check",
    "export",
    "export_dynamic_quantized_onnx_model",
    "export_optimized_onnx_model",
    "export_static_quantized_openvino_model",
    "optimize",
    "quantize",
    "quantize_embeddings",
    "read_recipe",
    "read_spec",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'stopt' has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
