"""Turn sentence-transformers models into fast, small, checked files, and serve them without torch.

Names are loaded when they are used, so that ``import stopt`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from stopt.reading import read_spec
    from stopt.runtime.sentence_transformer import SentenceTransformer
    from stopt.spec import ModelSpec

__version__ = "0.1.0"

_PLACES = {
    "ArtifactError": "stopt.errors",
    "ConversionError": "stopt.errors",
    "CorruptModel": "stopt.errors",
    "InputError": "stopt.errors",
    "MissingExtra": "stopt.errors",
    "ModelSpec": "stopt.spec",
    "OptionError": "stopt.errors",
    "ParityError": "stopt.errors",
    "SentenceTransformer": "stopt.runtime.sentence_transformer",
    "SourceError": "stopt.errors",
    "StoptError": "stopt.errors",
    "StoptWarning": "stopt.errors",
    "UnsupportedModel": "stopt.errors",
    "UntrustedModel": "stopt.errors",
    "quantize_embeddings": "stopt.embeddings.quantization",
    "read_spec": "stopt.reading",
}

__all__ = [
    "ArtifactError",
    "ConversionError",
    "CorruptModel",
    "InputError",
    "MissingExtra",
    "ModelSpec",
    "OptionError",
    "ParityError",
    "SentenceTransformer",
    "SourceError",
    "StoptError",
    "StoptWarning",
    "UnsupportedModel",
    "UntrustedModel",
    "__version__",
    "quantize_embeddings",
    "read_spec",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'stopt' has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
