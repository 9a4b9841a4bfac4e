"""The modules that may follow a transformer, as data: what each reads, writes and is set to.

Frozen data; standard library only. :mod:`stopt.spec` has the models that they make up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

__all__ = [
    "SCORES",
    "SENTENCE",
    "TOKENS",
    "Activation",
    "Dense",
    "LayerNorm",
    "ModuleSpec",
    "Normalize",
    "Pooling",
    "PoolingMode",
    "SparseAutoEncoder",
    "SpladePooling",
]

# features that modules read and write, under sentence-transformers' names
TOKENS = "token_embeddings"
SENTENCE = "sentence_embedding"
SCORES = "scores"


class PoolingMode(StrEnum):
    """How token embeddings become one vector."""

    CLS = "cls"
    MAX = "max"
    MEAN = "mean"
    MEAN_SQRT_LEN = "mean_sqrt_len_tokens"
    WEIGHTED_MEAN = "weightedmean"
    LAST_TOKEN = "lasttoken"


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
        target: Feature that is written; these, or ``scores``.
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


@dataclass(frozen=True, slots=True)
class SpladePooling:
    """Logits of a masked language model to one weight per vocabulary entry: ``log1p(relu(logits))`` over the tokens.

    Attributes:
        maximum: Whether the tokens' largest is taken; otherwise their sum.
        double_log: Whether ``log1p`` is applied once more (``log1p_relu``).
    """

    maximum: bool = True
    double_log: bool = False

    source: ClassVar[str] = TOKENS
    target: ClassVar[str] = SENTENCE
    wanted_width: ClassVar[int | None] = None

    def width(self, width: int) -> int:
        """Width of what it writes, given the width of what it reads."""
        return width


@dataclass(frozen=True, slots=True)
class SparseAutoEncoder:
    """An embedding as a few of many learned directions: the ``k`` largest of ``relu(W (x - b) + c)``.

    Attributes:
        path: Folder with the weights, relative to the model's.
        input_dim: Width that it is given.
        hidden_dim: Width of what it writes.
        k: Values that are kept, unless a call says otherwise.
        normalize: Whether its input is standardised per row.
    """

    path: str
    input_dim: int
    hidden_dim: int
    k: int
    normalize: bool = False

    source: ClassVar[str] = SENTENCE
    target: ClassVar[str] = SENTENCE

    @property
    def wanted_width(self) -> int:
        """Width that it must be given."""
        return self.input_dim

    def width(self, _: int) -> int:
        """Width of what it writes."""
        return self.hidden_dim


ModuleSpec = Pooling | Dense | Normalize | LayerNorm | SpladePooling | SparseAutoEncoder
