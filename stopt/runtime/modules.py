"""What follows the transformer, written once for numpy and torch through the array API.

Shapes: B texts, T tokens, D values per token, E values per embedding. Every module takes and returns
:data:`Features`, a dict of arrays by the names that sentence-transformers uses: ``token_embeddings`` (B, T, D),
``attention_mask`` (B, T), ``sentence_embedding`` (B, E), ``scores`` (B, labels), and the int ``prompt_length``. Arithmetic is done in the
dtype of the embeddings. ``tests/parity`` compares each with sentence-transformers live.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from stopt.errors import CorruptModel, UnsupportedModel
from stopt.folder import contained
from stopt.preflight import vet_safetensors
from stopt.runtime.arrays import Array, namespace
from stopt.spec import (
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
    "AutoEncoder",
    "Features",
    "Module",
    "activate",
    "l2_normalize",
    "load_modules",
    "module_weights",
    "pool",
    "read_weights",
    "weight_files",
    "without_prompt",
]

Features = dict[str, Any]
Module = Callable[[Features], Features]
Constant = Callable[[npt.NDArray[np.float32]], Array]

# as in sentence-transformers, so that near-zero divisors give the same values
MEAN_EPSILON = 1e-9
NORM_EPSILON = 1e-12
LAYER_NORM_EPSILON = 1e-5
STD_EPSILON = 1e-5

WEIGHTS_FILE = "model.safetensors"


def load_modules(root: Path, modules: Sequence[ModuleSpec], constant: Constant) -> tuple[Module, ...]:
    """Build modules, weights included.

    Args:
        root: The model folder.
        modules: The modules.
        constant: Turns weights into arrays of the engine that runs the model: its type, dtype and device.

    Raises:
        CorruptModel: If weights are missing or of the wrong shape.
        UnsupportedModel: If weights exist only as a pickle.
    """
    return tuple(_build(root, module, constant) for module in modules)


def module_weights(root: Path, spec: ModuleSpec) -> dict[str, npt.NDArray[np.float32]]:
    """Read the weights of a module, by the names that sentence-transformers gives them; empty if it has none."""
    match spec:
        case Dense():
            shapes: dict[str, tuple[int, ...]] = {"linear.weight": (spec.out_features, spec.in_features)}
            if spec.bias:
                shapes["linear.bias"] = (spec.out_features,)
        case LayerNorm():
            shapes = {"norm.weight": (spec.dimension,), "norm.bias": (spec.dimension,)}
        case SparseAutoEncoder():
            shapes = {
                "pre_bias": (spec.input_dim,),
                "encoder.weight": (spec.hidden_dim, spec.input_dim),
                "latent_bias": (spec.hidden_dim,),
            }
        case Pooling() | SpladePooling() | Normalize():
            return {}
        case _:
            assert_never(spec)
    return read_weights(root, spec.path, shapes)


def weight_files(root: Path, modules: Sequence[ModuleSpec]) -> list[Path]:
    """The files that modules have their weights in."""
    with_weights = (each for each in modules if isinstance(each, Dense | LayerNorm | SparseAutoEncoder))
    return [contained(root, each.path, WEIGHTS_FILE) for each in with_weights]


def _build(root: Path, spec: ModuleSpec, constant: Constant) -> Module:
    weights = {name: constant(array) for name, array in module_weights(root, spec).items()}
    match spec:
        case Pooling():
            return _Pool(spec)
        case SpladePooling():
            return _SpladePool(spec)
        case Normalize():
            return _normalize
        case Dense():
            return _Dense(spec, weights["linear.weight"].T, weights.get("linear.bias"))
        case LayerNorm():
            return _LayerNorm(weights["norm.weight"], weights["norm.bias"])
        case SparseAutoEncoder():
            return AutoEncoder(spec, weights["encoder.weight"].T, weights["pre_bias"], weights["latent_bias"])
        case _:
            assert_never(spec)


@dataclass(frozen=True, slots=True)
class _Pool:
    spec: Pooling

    def __call__(self, features: Features) -> Features:
        embeddings, mask = features["token_embeddings"], features["attention_mask"]
        if not self.spec.include_prompt:
            mask = without_prompt(mask, features["prompt_length"])
        xp = namespace(embeddings)
        pooled = [pool(embeddings, mask, mode) for mode in self.spec.modes]
        return {
            **features,
            "sentence_embedding": pooled[0] if len(pooled) == 1 else xp.concat(pooled, axis=-1),
        }


@dataclass(frozen=True, slots=True)
class _SpladePool:
    spec: SpladePooling

    def __call__(self, features: Features) -> Features:
        logits, mask = features["token_embeddings"], features["attention_mask"]
        xp = namespace(logits)
        if self.spec.maximum:  # log1p(relu(x)) grows with x: the largest may be taken first
            real = xp.where((mask != 0)[:, :, None], logits, xp.zeros_like(logits))
            weights = self._saturated(xp, xp.max(real, axis=1))
        else:
            weights = _weighted_sum(self._saturated(xp, logits), mask)
        return {**features, "sentence_embedding": weights}

    def _saturated(self, xp: Any, x: Array) -> Array:
        x = xp.log1p(xp.clip(x, min=0))
        return xp.log1p(x) if self.spec.double_log else x


@dataclass(frozen=True, slots=True)
class AutoEncoder:
    """:class:`~stopt.spec.SparseAutoEncoder` with its weights; ``replace`` its spec to keep another number of values."""

    spec: SparseAutoEncoder
    weight: Array  # (input_dim, hidden_dim)
    pre_bias: Array
    latent_bias: Array

    def __call__(self, features: Features) -> Features:
        """(B, input_dim) to (B, hidden_dim), all but the largest ``k`` of a row zero."""
        x = features["sentence_embedding"]
        xp = namespace(x)
        if self.spec.normalize:
            centred = x - xp.mean(x, axis=-1, keepdims=True)
            x = centred / (xp.std(centred, axis=-1, keepdims=True, correction=1) + STD_EPSILON)
        latents = (x - self.pre_bias) @ self.weight + self.latent_bias
        smallest_kept = xp.sort(latents, axis=-1)[:, -self.spec.k][:, None]
        kept = xp.where(latents >= smallest_kept, latents, xp.zeros_like(latents))
        return {**features, "sentence_embedding": xp.clip(kept, min=0)}


@dataclass(frozen=True, slots=True)
class _Dense:
    spec: Dense
    weight: Array  # (in_features, out_features)
    bias: Array | None

    def __call__(self, features: Features) -> Features:
        result = features[self.spec.source] @ self.weight
        if self.bias is not None:
            result = result + self.bias
        return {**features, self.spec.target: activate(result, self.spec.activation)}


@dataclass(frozen=True, slots=True)
class _LayerNorm:
    weight: Array
    bias: Array

    def __call__(self, features: Features) -> Features:
        values = features["sentence_embedding"]
        xp = namespace(values)
        wide = _at_least_float32(values)
        centred = wide - xp.mean(wide, axis=-1, keepdims=True)
        variance = xp.mean(centred * centred, axis=-1, keepdims=True)
        normal = xp.astype(centred / xp.sqrt(variance + LAYER_NORM_EPSILON), values.dtype)
        return {**features, "sentence_embedding": normal * self.weight + self.bias}


def _normalize(features: Features) -> Features:
    return {**features, "sentence_embedding": l2_normalize(features["sentence_embedding"])}


def l2_normalize(values: Array) -> Array:
    """Scale the vectors on the last axis to unit length; a zero vector stays zero."""
    xp = namespace(values)
    wide = _at_least_float32(values)
    norm = xp.sqrt(xp.sum(wide * wide, axis=-1, keepdims=True))
    return xp.astype(wide / xp.clip(norm, min=NORM_EPSILON), values.dtype)


def _at_least_float32(values: Array) -> Array:
    """Half precision as float32, as torch's kernels do inside: squares soon leave the range of float16."""
    xp = namespace(values)
    return xp.astype(values, xp.float32) if values.dtype.itemsize < 4 else values


def without_prompt(mask: Array, prompt_length: int) -> Array:
    """Take the prompt's tokens out of an attention mask.

    Args:
        mask: (B, T), 1 for real tokens, padded on either side.
        prompt_length: Leading real tokens of every text that are its prompt.
    """
    if not prompt_length:
        return mask
    xp = namespace(mask)
    columns = xp.arange(mask.shape[1], device=mask.device)
    first = xp.argmax(mask, axis=1, keepdims=True)
    return mask * xp.astype(columns[None, :] >= first + prompt_length, mask.dtype)


def pool(token_embeddings: Array, mask: Array, mode: PoolingMode) -> Array:
    """Combine the embeddings of real tokens into one vector per text.

    Args:
        token_embeddings: (B, T, D).
        mask: (B, T), 1 for real tokens. Cast to the embeddings' dtype here: an integer mask would make float64 of
            float32.
        mode: How.

    Returns:
        (B, D). A text without a real token gives zeros, except ``max``: -inf, and ``cls``: its first token, as in
        sentence-transformers.
    """
    xp = namespace(token_embeddings)
    dtype = token_embeddings.dtype
    match mode:
        case PoolingMode.CLS:
            return _at(token_embeddings, xp.argmax(mask, axis=1))
        case PoolingMode.LAST_TOKEN:
            last = mask.shape[1] - 1 - xp.argmax(xp.flip(mask, axis=1), axis=1)
            return _at(token_embeddings * xp.astype(mask, dtype)[:, :, None], last)
        case PoolingMode.MAX:
            lowest = xp.full_like(token_embeddings, -math.inf)
            return xp.max(xp.where((mask != 0)[:, :, None], token_embeddings, lowest), axis=1)
        case PoolingMode.MEAN:
            return _weighted_sum(token_embeddings, mask) / _clamped_sum(mask, dtype)
        case PoolingMode.MEAN_SQRT_LEN:
            return _weighted_sum(token_embeddings, mask) / xp.sqrt(_clamped_sum(mask, dtype))
        case PoolingMode.WEIGHTED_MEAN:
            weights = mask * (xp.arange(mask.shape[1], device=mask.device) + 1)[None, :]
            return _weighted_sum(token_embeddings, weights) / _clamped_sum(weights, dtype)
        case _:
            assert_never(mode)


def _at(token_embeddings: Array, columns: Array) -> Array:
    """(B, D): of each text the token in its column (B,)."""
    xp = namespace(token_embeddings)
    return token_embeddings[xp.arange(columns.shape[0], device=columns.device), columns]


def _weighted_sum(token_embeddings: Array, weights: Array) -> Array:
    """(B, D): a matrix product, so that no second (B, T, D) array comes to be."""
    xp = namespace(token_embeddings)
    return (xp.astype(weights, token_embeddings.dtype)[:, None, :] @ token_embeddings)[:, 0, :]


def _clamped_sum(weights: Array, dtype: Any) -> Array:
    """(B, 1): the sum of weights, never zero."""
    xp = namespace(weights)
    return xp.clip(xp.astype(xp.sum(weights, axis=1, keepdims=True), dtype), min=MEAN_EPSILON)


def activate(x: Array, activation: Activation) -> Array:
    """Apply an activation function of ``torch.nn`` with its default arguments."""
    return _ACTIVATIONS[activation](namespace(x), x)


def _sigmoid(x: Array) -> Array:
    xp = namespace(x)
    small = xp.exp(-xp.abs(x))  # never overflows
    return xp.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _softplus(x: Array) -> Array:
    xp = namespace(x)
    return xp.clip(x, min=0) + xp.log1p(xp.exp(-xp.abs(x)))


def _erf(x: Array) -> Array:
    """Exact error function; numpy and the array API have none."""
    if isinstance(x, np.ndarray):
        return np.vectorize(math.erf, otypes=[x.dtype])(x)
    return x.erf()


def _selu(xp: Any, x: Array) -> Array:
    alpha, scale = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017, arXiv:1706.02515
    return scale * xp.where(x > 0, x, alpha * xp.expm1(xp.clip(x, max=0)))


_ACTIVATIONS: Mapping[Activation, Callable[[Any, Array], Array]] = {
    Activation.IDENTITY: lambda _, x: x,
    Activation.TANH: lambda xp, x: xp.tanh(x),
    Activation.RELU: lambda xp, x: xp.clip(x, min=0),
    Activation.RELU6: lambda xp, x: xp.clip(x, min=0, max=6),
    Activation.HARDTANH: lambda xp, x: xp.clip(x, min=-1, max=1),
    Activation.GELU: lambda _, x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    Activation.SIGMOID: lambda _, x: _sigmoid(x),
    Activation.LOG_SIGMOID: lambda _, x: -_softplus(-x),
    Activation.SILU: lambda _, x: x * _sigmoid(x),
    Activation.SOFTPLUS: lambda _, x: _softplus(x),
    Activation.MISH: lambda xp, x: x * xp.tanh(_softplus(x)),
    Activation.SOFTSIGN: lambda xp, x: x / (1 + xp.abs(x)),
    Activation.LEAKY_RELU: lambda xp, x: xp.where(x >= 0, x, 0.01 * x),
    Activation.ELU: lambda xp, x: xp.where(x > 0, x, xp.expm1(xp.clip(x, max=0))),
    Activation.SELU: _selu,
}

# a tensor that two modules share is stored once: an autoencoder's, under its decoder's name
_STORED_AS = {"encoder.weight": "decoder.linear.weight"}
_DTYPES: Mapping[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def read_weights(
    root: Path, path: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, npt.NDArray[np.float32]]:
    """Read a small module's weights as float32.

    Args:
        root: The model folder.
        path: The module's folder in it.
        shapes: The tensors it must have, with their shapes.

    Raises:
        UnsupportedModel: If there is only a pickle, which could run code.
        CorruptModel: If the file is missing, cut short, or has other tensors or shapes.
    """
    from safetensors import SafetensorError, deserialize

    file = contained(root, path, WEIGHTS_FILE)
    if not file.is_file():
        if file.with_name("pytorch_model.bin").is_file():
            raise UnsupportedModel(
                str(root),
                [
                    f"{path} has its weights only as a pickle (pytorch_model.bin), which can run code when opened"
                ],
                "save the model again with a current sentence-transformers, which writes safetensors",
            )
        raise CorruptModel(f"{file} is missing", "fetch the model again")
    vet_safetensors(file)
    try:
        found = dict(deserialize(file.read_bytes()))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise CorruptModel(f"{file} is not a safetensors file: {error}", "fetch the file again") from error
    weights = {}
    for name, shape in shapes.items():
        tensor = found.get(name, found.get(_STORED_AS.get(name, name)))
        if tensor is None or tuple(tensor["shape"]) != shape or tensor["dtype"] not in _DTYPES:
            what = f"is {tensor['dtype']} {tuple(tensor['shape'])}" if tensor else "is missing"
            raise CorruptModel(f"{file}: tensor {name} {what}, expected floats of shape {shape}")
        array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(shape)
        if tensor["dtype"] == "BF16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        weights[name] = array.astype(np.float32)
    return weights
