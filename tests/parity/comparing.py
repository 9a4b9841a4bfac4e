"""What the parity tests compare with, and how: texts, engines, tolerances."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer as Oracle
from tiny import POSITIONS

from stopt import SentenceTransformer

Exported = Callable[..., Path]
Load = Callable[[Path], Oracle]

# engine and options under the names that tests go by; OpenVINO is asked for float32, its own choice may be bfloat16
ENGINES: dict[str, dict[str, Any]] = {
    "torch": {"backend": "torch"},
    "onnx": {"backend": "onnx"},
    "openvino": {"backend": "openvino", "model_kwargs": {"dtype": "float32"}},
}
# float32 in another order of additions (measured here: below 1e-6); OpenVINO fuses more, so is granted more
TOLERANCES = {"torch": 1e-5, "onnx": 1e-5, "openvino": 1e-4}

# of every length from none to past the limit, in several scripts, with white space that must not be stripped; and pairs
TEXTS: tuple[Any, ...] = (
    "",
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "今天天气很好,我们去公园。東京は日本の首都です。",
    "Great job 😀 thanks 🎉 see you soon 👍🏽",
    "  two  spaces,\ta tab and a line\nbreak ",
    "He drove to the stadium; the train had been late. " * POSITIONS,
    ("What is the capital of France?", "Paris is the capital of France."),
    ("a pair of which one is long", "rice " * 2 * POSITIONS),
)
# closest two texts of any tiny model here: .971
CLEARLY_DIFFERENT = 0.98


def serve(folder: Path, engine: str, **options: Any) -> SentenceTransformer:
    """Our model on one of `ENGINES`."""
    return SentenceTransformer(folder, device="cpu", **ENGINES[engine], **options)


def largest_error(found: Any, expected: Any) -> float:
    """Largest difference of a component, relative to the vector's largest component where that exceeds 1."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.isfinite(expected).all()
    scale = np.maximum(1.0, np.abs(expected).max(axis=-1, keepdims=True))
    # a NaN in what we found is the largest error there is
    return float(np.nan_to_num(np.abs(found - expected) / scale, nan=np.inf).max())


def closest(vectors: Sequence[Any]) -> float:
    """Largest cosine of two different vectors: near 1, equality would prove nothing."""
    rows = np.asarray(vectors, np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -1.0)
    return float(cosines.max())
