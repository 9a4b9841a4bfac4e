"""modules.json, and the configuration of every module but the transformer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stopt.errors import CorruptModel, UnsupportedModel, UntrustedModel, suggest
from stopt.folder import read_json
from stopt.reading.files import Reading
from stopt.spec import (
    SENTENCE,
    TOKENS,
    Activation,
    Dense,
    LayerNorm,
    ModuleSpec,
    Normalize,
    Pooling,
    PoolingMode,
    TransformerSpec,
)

__all__ = ["Entry", "default_pooling", "read_entries", "read_modules"]

Entry = tuple[str, str]  # class name and folder of a module

_PACKAGE = "sentence_transformers."

# modules that sentence-transformers knows and stopt does not run, and what they are
_KNOWN_UNSUPPORTED = {
    "Asym": "one sub-model per kind of text",
    "BoW": "bag of words",
    "CLIPModel": "images and text",
    "CNN": "convolutions over word embeddings",
    "CSRSparsity": "a sparse encoder",
    "IDF": "a sparse encoder",
    "LSTM": "recurrence over word embeddings",
    "LogitScore": "reranking with a language model",
    "MLMTransformer": "a sparse encoder",
    "Router": "one sub-model per kind of text",
    "SparseAutoEncoder": "a sparse encoder",
    "SparseStaticEmbedding": "a sparse encoder",
    "SpladePooling": "a sparse encoder",
    "StaticEmbedding": "token embeddings without a transformer",
    "WeightedLayerPooling": "a mix of all layers, which exported graphs do not have",
    "WordEmbeddings": "word vectors",
    "WordWeights": "weights per word",
}

_LEGACY_POOLING = {
    "pooling_mode_cls_token": PoolingMode.CLS,
    "pooling_mode_max_tokens": PoolingMode.MAX,
    "pooling_mode_mean_tokens": PoolingMode.MEAN,
    "pooling_mode_mean_sqrt_len_tokens": PoolingMode.MEAN_SQRT_LEN,
    "pooling_mode_weightedmean_tokens": PoolingMode.WEIGHTED_MEAN,
    "pooling_mode_lasttoken": PoolingMode.LAST_TOKEN,
}

_FEATURES = (SENTENCE, TOKENS)


def read_entries(reading: Reading) -> list[Entry]:
    """Read modules.json.

    Returns:
        Class name and folder of every module, in order; empty without modules.json.

    Raises:
        UntrustedModel: If a module is not one of sentence-transformers, or its folder is outside the model's.
        UnsupportedModel: If the first is not a Transformer.
        CorruptModel: If the file is not a list of modules.
    """
    file = reading.file("modules.json")
    if not file.is_file():
        return []
    document = read_json(file)
    if not isinstance(document, list) or not document:
        raise CorruptModel(f"{file} is not a list of modules")
    entries = []
    for position, entry in enumerate(document):
        kind, path = (entry.get("type"), entry.get("path", "")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str):
            raise CorruptModel(f"{file}: module {position} needs a 'type' and a 'path' that are text")
        reading.file(path)
        entries.append((_class_name(reading, kind), path))
    if entries[0][0] != "Transformer":
        reasons = reading.reasons or [f"its first module is {entries[0][0]}, expected Transformer"]
        raise UnsupportedModel(str(reading.root), reasons)
    return entries


def _class_name(reading: Reading, kind: str) -> str:
    """The class of a dotted ``type``; nothing is ever imported by that name."""
    name = kind.rpartition(".")[2]
    if not kind.startswith(_PACKAGE):
        raise UntrustedModel(
            f"{reading.root} wants to import {kind!r:.120}",
            "stopt never runs code from a model; only the modules of sentence-transformers can be read",
        )
    if name in _KNOWN_UNSUPPORTED:
        reading.reasons.append(f"module {name} ({_KNOWN_UNSUPPORTED[name]})")
    elif name not in _READERS:
        reading.reasons.append(f"unknown module {kind!r:.120} ({suggest(name, [*_READERS])})")
    return name


def read_modules(
    reading: Reading, entries: Sequence[Entry], transformer: TransformerSpec
) -> tuple[ModuleSpec, ...]:
    """Read what follows the transformer; what is unsupported goes into the reading's reasons.

    Raises:
        CorruptModel: If a configuration is not valid, or a module does not fit the one before.
    """
    specs = (_READERS[name](reading, path) for name, path in entries[1:] if name in _READERS)
    modules = tuple(spec for spec in specs if spec is not None)
    if not reading.reasons:
        _check_widths(reading, transformer, modules)
    return modules


def default_pooling(config: Mapping[str, Any]) -> Pooling:
    """Pooling of a folder without modules.json: the last token for causal language models, else the mean."""
    architectures = config.get("architectures")
    first = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    causal = first.endswith("ForCausalLM") and config.get("is_causal") is not False
    return Pooling((PoolingMode.LAST_TOKEN if causal else PoolingMode.MEAN,))


def _pooling(reading: Reading, path: str) -> Pooling:
    config = reading.required(path, "config.json")
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode.value for key, mode in _LEGACY_POOLING.items() if config.get(key)] or [
            PoolingMode.MEAN.value
        ]
    known = [str(mode) for mode in PoolingMode]
    listed = [modes] if isinstance(modes, str) else modes
    if not isinstance(listed, list) or not listed:
        raise CorruptModel(f"{reading.root / path}/config.json names no pooling mode")
    reading.reasons.extend(
        f"pooling mode {mode!r} ({suggest(str(mode), known)})" for mode in listed if mode not in known
    )
    chosen = tuple(PoolingMode(mode) for mode in listed if mode in known)
    return Pooling(chosen, include_prompt=reading.flag(config, "include_prompt", default=True))


def _dense(reading: Reading, path: str) -> Dense:
    config = reading.required(path, "config.json")
    source = config.get("module_input_name", SENTENCE)
    target = config.get("module_output_name") or source
    for feature in (source, target):
        if feature not in _FEATURES:
            reading.reasons.append(f"a Dense module on the feature {feature!r}")
    if config.get("use_residual"):
        reading.reasons.append("a Dense module with a residual connection")
    return Dense(
        path=path,
        in_features=reading.positive(config, "in_features"),
        out_features=reading.positive(config, "out_features"),
        bias=reading.flag(config, "bias", default=True),
        activation=_activation(
            reading, config.get("activation_function", "torch.nn.modules.activation.Tanh")
        ),
        source=str(source),
        target=str(target),
    )


def _activation(reading: Reading, dotted: Any) -> Activation:
    """The activation function of a dotted class path; nothing is ever imported by that name."""
    prefix, _, name = str(dotted).rpartition(".")
    known = [str(activation) for activation in Activation]
    if not isinstance(dotted, str) or (prefix != "torch.nn" and not prefix.startswith("torch.nn.modules.")):
        raise UntrustedModel(
            f"{reading.root} wants to import the activation function {dotted!r:.120}",
            f"activation functions are classes of torch.nn: {', '.join(known)}",
        )
    if name not in known:
        reading.reasons.append(f"activation function {dotted!r:.120} ({suggest(name, known)})")
        return Activation.IDENTITY
    return Activation(name)


def _normalize(reading: Reading, path: str) -> Normalize:
    config = reading.optional(path, "config.json") if path else {}
    for key in ("module_input_name", "module_output_name"):
        if config.get(key, SENTENCE) != SENTENCE:
            reading.reasons.append(f"a Normalize module on the feature {config[key]!r}")
    return Normalize()


def _layer_norm(reading: Reading, path: str) -> LayerNorm:
    return LayerNorm(path, reading.positive(reading.required(path, "config.json"), "dimension"))


def _dropout(_: Reading, __: str) -> None:
    """Identity at inference: not part of the spec."""


def _second_transformer(reading: Reading, _: str) -> None:
    reading.reasons.append("a second Transformer module")


_READERS: Mapping[str, Callable[[Reading, str], ModuleSpec | None]] = {
    "Transformer": _second_transformer,
    "Pooling": _pooling,
    "Dense": _dense,
    "Normalize": _normalize,
    "LayerNorm": _layer_norm,
    "Dropout": _dropout,
}


def _check_widths(reading: Reading, transformer: TransformerSpec, modules: Sequence[ModuleSpec]) -> None:
    """Follow the widths of the features through the modules, and see that a vector comes to be."""
    widths = {TOKENS: transformer.hidden_size}
    for module in modules:
        name, width = type(module).__name__, widths.get(module.source)
        if width is None:
            raise UnsupportedModel(
                str(reading.root), [f"{name} comes before Pooling, which makes the vector that it needs"]
            )
        if module.wanted_width not in (None, width):
            raise CorruptModel(
                f"{reading.root}: {name} expects {module.wanted_width} values and gets {width}",
                "its files come from different models",
            )
        widths[module.target] = module.width(width)
    if SENTENCE not in widths:
        raise UnsupportedModel(
            str(reading.root), ["it has no Pooling module, so it makes no sentence embeddings"]
        )
