"""What decides a vector: the ModelSpec, and nothing else.

A :class:`ModelSpec` is read once from a sentence-transformers folder (:func:`stopt.reading.read_spec`) and
interpreted in three places that must agree: numpy/torch arrays (:mod:`stopt.runtime.modules`), the exported
graph, and sentence-transformers itself, the oracle of the tests. Frozen data; standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar

from stopt.errors import UnsupportedModel
from stopt.layers import (
    SCORES,
    SENTENCE,
    TOKENS,
    Activation,
    Dense,
    LayerNorm,
    ModuleSpec,
    Normalize,
    Pooling,
    PoolingMode,
    SparseAutoEncoder,
    SpladePooling,
)

__all__ = [
    "ENGINES",
    "SCORES",
    "SENTENCE",
    "TOKENS",
    "Activation",
    "Backend",
    "Dense",
    "FrontSpec",
    "LayerNorm",
    "ModelKind",
    "ModelSpec",
    "ModuleSpec",
    "Normalize",
    "Pooling",
    "PoolingMode",
    "Similarity",
    "SparseAutoEncoder",
    "SparseStaticEmbedding",
    "SpladePooling",
    "StaticEmbedding",
    "Task",
    "TokenizerSpec",
    "TransformerSpec",
    "merge_prompts",
]


class Backend(StrEnum):
    """What runs the module at the front: the engine of a transformer, or numpy for a table."""

    TORCH = "torch"
    ONNX = "onnx"
    OPENVINO = "openvino"
    NUMPY = "numpy"


# those that can be asked for; a table is read with numpy without asking
ENGINES = (Backend.TORCH, Backend.ONNX, Backend.OPENVINO)


class Task(StrEnum):
    """What the transformer's last layer gives, under transformers' names."""

    FEATURES = "feature-extraction"
    MASKED_LM = "fill-mask"
    CLASSIFICATION = "sequence-classification"


class ModelKind(StrEnum):
    """What a model turns text into."""

    DENSE = "dense"
    SPARSE = "sparse"
    CROSS_ENCODER = "cross-encoder"


class Similarity(StrEnum):
    """How two embeddings are compared."""

    COSINE = "cosine"
    DOT = "dot"
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"


@dataclass(frozen=True, slots=True)
class TransformerSpec:
    """The transformer at the front.

    Attributes:
        path: Its folder, relative to the model's (``""`` is the model folder itself).
        model_type: ``model_type`` of its config.json, such as ``"bert"``.
        hidden_size: Width D of a token embedding.
        dtype: dtype that the model's files ask for when torch loads it; None stands for float32.
        task: What its last layer gives.
        head_size: Width of that where it is not a token embedding: entries of the vocabulary, or labels.
    """

    path: str
    model_type: str
    hidden_size: int
    dtype: str | None = None
    task: Task = Task.FEATURES
    head_size: int | None = None

    @property
    def target(self) -> str:
        """Feature that it writes."""
        return SCORES if self.task is Task.CLASSIFICATION else TOKENS

    @property
    def width(self) -> int:
        """Width of that feature."""
        return self.hidden_size if self.head_size is None else self.head_size


@dataclass(frozen=True, slots=True)
class StaticEmbedding:
    """A table of token embeddings in the transformer's place; a text is the mean of its tokens' rows.

    Attributes:
        path: Folder of the table (and of its tokenizer), relative to the model's.
        tensor: Name of the table, (V, E), in its safetensors file.
        tokens: Rows V.
        width: Columns E.
    """

    path: str
    tensor: str
    tokens: int
    width: int

    target: ClassVar[str] = SENTENCE


@dataclass(frozen=True, slots=True)
class SparseStaticEmbedding:
    """A weight per token in the transformer's place; a text has the weight of each token that it contains.

    Attributes:
        path: Folder of the weights (and of their tokenizer), relative to the model's.
        width: Size of the vocabulary.
    """

    path: str
    width: int

    target: ClassVar[str] = SENTENCE


FrontSpec = TransformerSpec | StaticEmbedding | SparseStaticEmbedding


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """Everything about tokenising that tokenizer.json does not settle.

    Attributes:
        path: Folder with tokenizer.json, relative to the model's.
        max_seq_length: Tokens after which a text is cut, special tokens included; None is no limit.
        position_limit: Tokens the transformer's position table has room for; a longer max_seq_length would read
            past its end. None is no limit.
        lower_case: Whether text is lower-cased before the tokenizer's own normalisation.
        padding_side: ``"right"`` or ``"left"``.
        truncation_side: ``"right"`` (the end is cut) or ``"left"``.
        pad_token: The token that fills a batch.
        pad_type_id: The token type of those.
        token_types: Whether the tokenizer's token types are passed on; otherwise they are all zero.
        add_special_tokens: Whether a text gets the special tokens of its template; tables are read without them.
        special_tokens: The tokens that the model's files give a role (start, end, padding, mask …).
        vocabulary: Ids that the model has embeddings for, from 0; None if that is not said.
        overrides: Settings of tokenizer_config.json that transformers applies over tokenizer.json.
    """

    path: str
    max_seq_length: int | None
    position_limit: int | None = None
    lower_case: bool = False
    padding_side: str = "right"
    truncation_side: str = "right"
    pad_token: str | None = None
    pad_type_id: int = 0
    token_types: bool = True
    add_special_tokens: bool = True
    special_tokens: frozenset[str] = frozenset()
    vocabulary: int | None = None
    overrides: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as data: what decides a vector, and nothing else.

    Attributes:
        kind: What the model turns text into.
        front: The module that reads token ids: a transformer, or a table.
        tokenizer: How text becomes token ids.
        modules: What follows it, in order. Dropout is the identity at inference and left out.
        prompts: Prompt texts by name, as the model's files have them.
        default_prompt_name: Name of the prompt for calls that name none.
        similarity: How its vectors are compared.
        truncate_dim: Leading dimensions that are kept; None keeps all.
        activation: What a cross-encoder does to its logits.
        routes: The models of a Router by the task that a call names, this one among them; empty without one. This one
            is the route that has a transformer, ``document`` if several do: what converts a model converts that.
        default_route: Key of ``routes`` for calls that name no task; None is an error for them.
    """

    kind: ModelKind
    front: FrontSpec
    tokenizer: TokenizerSpec
    modules: tuple[ModuleSpec, ...]
    prompts: Mapping[str, str | None]
    default_prompt_name: str | None = None
    similarity: Similarity = Similarity.COSINE
    truncate_dim: int | None = None
    activation: Activation | None = None
    routes: Mapping[str, ModelSpec] = field(default_factory=lambda: MappingProxyType({}))
    default_route: str | None = None

    @property
    def transformer(self) -> TransformerSpec:
        """The module at the front, of a model that has a transformer there.

        Raises:
            UnsupportedModel: If it has not: there is nothing in it for an engine to run.
        """
        if isinstance(self.front, TransformerSpec):
            return self.front
        raise UnsupportedModel(
            self.front.path or "the model",
            [f"{type(self.front).__name__} is a table, not a transformer"],
            "serve it as it is: stopt reads such models with numpy alone",
        )

    @property
    def feature(self) -> str:
        """The feature that the model gives: ``scores`` of a cross-encoder, else ``sentence_embedding``."""
        return SCORES if self.kind is ModelKind.CROSS_ENCODER else SENTENCE

    @property
    def embedding_dimension(self) -> int:
        """Width of a vector before ``truncate_dim``; of a cross-encoder, its number of labels."""
        widths = {self.front.target: self.front.width}
        for module in self.modules:
            widths[module.target] = module.width(widths[module.source])
        return widths[self.feature]


def merge_prompts(
    given: Mapping[str, str | None] | None, stored: Mapping[str, str | None], names: tuple[str, ...]
) -> dict[str, str]:
    """Combine the caller's prompts with the model's, as sentence-transformers does.

    The caller's win, an empty text included; the model's fill names that are absent or None; what is still None
    becomes the empty prompt.

    Args:
        given: The caller's prompts.
        stored: The model's.
        names: Names that exist in any case (``query`` and ``document`` for bi-encoders).
    """
    merged: dict[str, str | None] = dict.fromkeys(names)
    merged.update(given or {})
    for name, text in stored.items():
        if merged.get(name) is None:
            merged[name] = text
    return {name: text or "" for name, text in merged.items()}
