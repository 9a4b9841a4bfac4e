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
    from stopt.embeddings.calibration import RangeOptions, calibrate_ranges
    from stopt.embeddings.index import IndexOptions, SearchIndex, index_texts
    from stopt.embeddings.index_files import load_index, save_index
    from stopt.embeddings.plain_search import cos_sim, dot_score, semantic_search
    from stopt.embeddings.quantization import dequantize_embeddings, quantize_embeddings, truncate_embeddings
    from stopt.embeddings.ranges import Ranges
    from stopt.embeddings.search import semantic_search_faiss, semantic_search_usearch
    from stopt.embeddings.space import Compatibility, index_compatibility
    from stopt.errors import (
        ArtifactError,
        ConversionError,
        CorruptModel,
        ForkError,
        InputError,
        MissingExtra,
        OptionError,
        ParityError,
        PushError,
        SourceError,
        SpaceError,
        StoptError,
        StoptWarning,
        UnsupportedModel,
        UntrustedModel,
        VectorError,
        WorkerError,
    )
    from stopt.parity import ParityReport
    from stopt.publishing import PushOptions, PushResult, push
    from stopt.reading import read_spec
    from stopt.recipe import Recipe, read_recipe
    from stopt.runtime.cross_encoder import CrossEncoder
    from stopt.runtime.sentence_transformer import SentenceTransformer
    from stopt.runtime.sparse_encoder import SparseEncoder
    from stopt.runtime.workers import WorkerPool
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
    "Compatibility": "stopt.embeddings.space",
    "ConversionError": "stopt.errors",
    "CorruptModel": "stopt.errors",
    "CrossEncoder": "stopt.runtime.cross_encoder",
    "DynamicOptions": "stopt.steps",
    "ExportOptions": "stopt.steps",
    "ForkError": "stopt.errors",
    "IndexOptions": "stopt.embeddings.index",
    "InputError": "stopt.errors",
    "MissingExtra": "stopt.errors",
    "ModelSpec": "stopt.spec",
    "OptimizeOptions": "stopt.steps",
    "OptionError": "stopt.errors",
    "ParityError": "stopt.errors",
    "ParityReport": "stopt.parity",
    "PushError": "stopt.errors",
    "PushOptions": "stopt.publishing",
    "PushResult": "stopt.publishing",
    "RangeOptions": "stopt.embeddings.calibration",
    "Ranges": "stopt.embeddings.ranges",
    "Recipe": "stopt.recipe",
    "SearchIndex": "stopt.embeddings.index",
    "SentenceTransformer": "stopt.runtime.sentence_transformer",
    "SourceError": "stopt.errors",
    "SpaceError": "stopt.errors",
    "SparseEncoder": "stopt.runtime.sparse_encoder",
    "StaticOnnxOptions": "stopt.steps",
    "StaticOpenVinoOptions": "stopt.steps",
    "StoptError": "stopt.errors",
    "StoptWarning": "stopt.errors",
    "UnsupportedModel": "stopt.errors",
    "UntrustedModel": "stopt.errors",
    "VectorError": "stopt.errors",
    "WeightOptions": "stopt.steps",
    "WorkerError": "stopt.errors",
    "WorkerPool": "stopt.runtime.workers",
    "calibrate_ranges": "stopt.embeddings.calibration",
    "check": "stopt.checking",
    "cos_sim": "stopt.embeddings.plain_search",
    "dequantize_embeddings": "stopt.embeddings.quantization",
    "dot_score": "stopt.embeddings.plain_search",
    "export": "stopt.convert.export",
    "export_dynamic_quantized_onnx_model": "stopt.convert.sentence_transformers",
    "export_optimized_onnx_model": "stopt.convert.sentence_transformers",
    "export_static_quantized_openvino_model": "stopt.convert.sentence_transformers",
    "index_compatibility": "stopt.embeddings.space",
    "index_texts": "stopt.embeddings.index",
    "load_index": "stopt.embeddings.index_files",
    "optimize": "stopt.convert.optimize",
    "push": "stopt.publishing",
    "quantize": "stopt.convert.quantize",
    "quantize_embeddings": "stopt.embeddings.quantization",
    "read_recipe": "stopt.recipe",
    "read_spec": "stopt.reading",
    "run": "stopt.convert.run",
    "save_index": "stopt.embeddings.index_files",
    "semantic_search": "stopt.embeddings.plain_search",
    "semantic_search_faiss": "stopt.embeddings.search",
    "semantic_search_usearch": "stopt.embeddings.search",
    "truncate_embeddings": "stopt.embeddings.quantization",
}

__all__ = [
    "ArtifactError",
    "CalibrationOptions",
    "CheckOptions",
    "Compatibility",
    "ConversionError",
    "CorruptModel",
    "CrossEncoder",
    "DynamicOptions",
    "ExportOptions",
    "ForkError",
    "IndexOptions",
    "InputError",
    "MissingExtra",
    "ModelSpec",
    "OptimizeOptions",
    "OptionError",
    "ParityError",
    "ParityReport",
    "PushError",
    "PushOptions",
    "PushResult",
    "RangeOptions",
    "Ranges",
    "Recipe",
    "SearchIndex",
    "SentenceTransformer",
    "SourceError",
    "SpaceError",
    "SparseEncoder",
    "StaticOnnxOptions",
    "StaticOpenVinoOptions",
    "StoptError",
    "StoptWarning",
    "UnsupportedModel",
    "UntrustedModel",
    "VectorError",
    "WeightOptions",
    "WorkerError",
    "WorkerPool",
    "__version__",
    "calibrate_ranges",
    "check",
    "cos_sim",
    "dequantize_embeddings",
    "dot_score",
    "export",
    "export_dynamic_quantized_onnx_model",
    "export_optimized_onnx_model",
    "export_static_quantized_openvino_model",
    "index_compatibility",
    "index_texts",
    "load_index",
    "optimize",
    "push",
    "quantize",
    "quantize_embeddings",
    "read_recipe",
    "read_spec",
    "run",
    "save_index",
    "semantic_search",
    "semantic_search_faiss",
    "semantic_search_usearch",
    "truncate_embeddings",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'stopt' has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
