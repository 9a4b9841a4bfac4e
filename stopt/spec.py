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

__all__ = [
    "SENTENCE",
    "TOKENS",
    "Activation",
    "Backend",
    "Dense",
    "LayerNorm",
    "ModelKind",
    "ModelSpec",
    "ModuleSpec",
    "Normalize",
    "Pooling",
    "PoolingMode",
    "Similarity",
    "TokenizerSpec",
    "TransformerSpec",
    "merge_prompts",
]


# features that modules read and write, under sentence-transformers' names
TOKENS = "token_embeddings"
SENTENCE = "sentence_embedding"


class Backend(StrEnum):
    """The engine that runs the transformer."""

    TORCH = "torch"
    ONNX = "onnx"
    OPENVINO = "openvino"


class ModelKind(StrEnum):
    """What a model turns text into."""

    DENSE = "dense"
    SPARSE = "sparse"
    CROSS_ENCODER = "cross-encoder"


class PoolingMode(StrEnum):
    """How token embeddings become one vector."""

    CLS = "cls"
    MAX = "max"
    MEAN = "mean"
    MEAN_SQRT_LEN = "mean_sqrt_len_tokens"
    WEIGHTED_MEAN = "weightedmean"
    LAST_TOKEN = "lasttoken"


class Similarity(StrEnum):
    """How two embeddings are compared."""

    COSINE = "cosine"
    DOT = "dot"
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"


class Activation(StrEnum):
    """Activation functions a Dense module may name: the classes of ``torch.nn`` that take no argument."""

    IDENTITY = "Identity"
    TANH = "Tanh"
    RELU = "ReLU"
    RELU6 = "ReLU6"
    GELU = "GELU"
    SIGMOID = "Sigmoid"
    SILU = "SiLU"
    MISH = "Mish"
    ELU = "ELU"
    SELU = "SELU"
    LEAKY_RELU = "LeakyReLU"
    SOFTPLUS = "Softplus"
    SOFTSIGN = "Softsign"
    HARDTANH = "Hardtanh"
    LOG_SIGMOID = "LogSigmoid"


@dataclass(frozen=True, slots=True)
class TransformerSpec:
    """The transformer at the front.

    Attributes:
        path: Its folder, relative to the model's (``""`` is the model folder itself).
        model_type: ``model_type`` of its config.json, such as ``"bert"``.
        hidden_size: Width D of a token embedding.
        dtype: dtype that the model's files ask for when torch loads it; None stands for float32.
    """

    path: str
    model_type: str
    hidden_size: int
    dtype: str | None = None


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
        special_tokens: The tokens that the model's files give a role (start, end, padding, mask …).
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
    special_tokens: frozenset[str] = frozenset()
    overrides: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Pooling:
    """Token embeddings to one vector: the modes' results side by side, in order."""

    modes: tuple[PoolingMode, ...]
    include_prompt: bool = True

    source: ClassVar[str] = TOKENS
    target: ClassVar[str] = SENTENCE
    wanted_width: ClassVar[int | None] = None

    def width(self, width: int) -> int:
        """Width of what it writes, given the width of what it reads."""
        return width * len(self.modes)


@dataclass(frozen=True, slots=True)
class Dense:
    """``activation(W x + b)`` on one feature.

    Attributes:
        path: Folder with the weights, relative to the model's.
        source: Feature that is read: ``sentence_embedding`` or ``token_embeddings``.
        target: Feature that is written; the same names.
    """

    path: str
    in_features: int
    out_features: int
    bias: bool = True
    activation: Activation = Activation.TANH
    source: str = SENTENCE
    target: str = SENTENCE

    @property
    def wanted_width(self) -> int:
        """Width that it must be given."""
        return self.in_features

    def width(self, _: int) -> int:
        """Width of what it writes."""
        return self.out_features


@dataclass(frozen=True, slots=True)
class Normalize:
    """Unit length in the L2 norm."""

    source: ClassVar[str] = SENTENCE
    target: ClassVar[str] = SENTENCE
    wanted_width: ClassVar[int | None] = None

    def width(self, width: int) -> int:
        """Width of what it writes, given the width of what it reads."""
        return width


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Layer normalisation with weights."""

    path: str
    dimension: int

    source: ClassVar[str] = SENTENCE
    target: ClassVar[str] = SENTENCE

    @property
    def wanted_width(self) -> int:
        """Width that it must be given."""
        return self.dimension

    def width(self, width: int) -> int:
        """Width of what it writes, given the width of what it reads."""
        return width


ModuleSpec = Pooling | Dense | Normalize | LayerNorm


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as data: what decides a vector, and nothing else.

    Attributes:
        kind: What the model turns text into.
        transformer: The module at the front.
        tokenizer: How text becomes token ids.
        modules: What follows the transformer, in order. Dropout is the identity at inference and left out.
        prompts: Prompt texts by name, as the model's files have them.
        default_prompt_name: Name of the prompt for calls that name none.
        similarity: How its vectors are compared.
        truncate_dim: Leading dimensions that are kept; None keeps all.
    """

    kind: ModelKind
    transformer: TransformerSpec
    tokenizer: TokenizerSpec
    modules: tuple[ModuleSpec, ...]
    prompts: Mapping[str, str | None]
    default_prompt_name: str | None = None
    similarity: Similarity = Similarity.COSINE
    truncate_dim: int | None = None

    @property
    def embedding_dimension(self) -> int:
        """Width of a vector before ``truncate_dim``."""
        widths = {TOKENS: self.transformer.hidden_size}
        for module in self.modules:
            widths[module.target] = module.width(widths[module.source])
        return widths[SENTENCE]


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
