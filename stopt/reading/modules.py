"""modules.json, and the configuration of every module but the one at the front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stopt.errors import CorruptModel, UnsupportedModel, UntrustedModel, suggest
from stopt.folder import read_json
from stopt.reading.files import Reading
from stopt.spec import (
    SCORES,
    SENTENCE,
    TOKENS,
    Activation,
    Dense,
    FrontSpec,
    LayerNorm,
    ModelKind,
    ModuleSpec,
    Normalize,
    Pooling,
    PoolingMode,
    SparseAutoEncoder,
    SpladePooling,
)

__all__ = [
    "FRONTS",
    "ROUTERS",
    "SPARSE_MODULES",
    "TABLES",
    "Entry",
    "check_widths",
    "class_name",
    "default_pooling",
    "note_unknown",
    "read_activation",
    "read_entries",
    "read_modules",
]

Entry = tuple[str, str]  # class name and folder of a module

_PACKAGE = "sentence_transformers."

# modules that read token ids, and those that choose between sub-models
TABLES = ("StaticEmbedding", "SparseStaticEmbedding", "IDF")
FRONTS = ("Transformer", "MLMTransformer", *TABLES)
ROUTERS = ("Router", "Asym")

# modules that make a model a sparse encoder
SPARSE_MODULES = (
    "CSRSparsity",
    "IDF",
    "MLMTransformer",
    "SparseAutoEncoder",
    "SparseStaticEmbedding",
    "SpladePooling",
)

# modules that sentence-transformers knows and stopt does not run, and what they are
_KNOWN_UNSUPPORTED = {
    "BoW": "bag of words",
    "CLIPModel": "images and text",
    "CNN": "convolutions over word embeddings",
    "LSTM": "recurrence over word embeddings",
    "LogitScore": "reranking with a language model, which needs chat templates and a graph that generates text",
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


def read_entries(reading: Reading) -> list[Entry]:
    """Read modules.json.

    Returns:
        Class name and folder of every module, in order; empty without modules.json.

    Raises:
        UntrustedModel: If a module is not one of sentence-transformers, or its folder is outside the model's.
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
        entries.append((class_name(reading, kind), "" if path == "." else path))
    return entries


def class_name(reading: Reading, kind: str) -> str:
    """Return the class of a dotted ``type``; nothing is ever imported by that name.

    Raises:
        UntrustedModel: If it is not one of sentence-transformers.
    """
    if not kind.startswith(_PACKAGE):
        raise UntrustedModel(
            f"{reading.root} wants to import {kind!r:.120}",
            "stopt never runs code from a model; only the modules of sentence-transformers can be read",
        )
    return kind.rpartition(".")[2]


def note_unknown(reading: Reading, entries: Sequence[Entry]) -> None:
    """Put every module that stopt does not run into the reading's reasons."""
    known = [*_READERS, *FRONTS, *ROUTERS]
    for name, _ in entries:
        if name in _KNOWN_UNSUPPORTED:
            reading.reasons.append(f"module {name} ({_KNOWN_UNSUPPORTED[name]})")
        elif name not in known:
            reading.reasons.append(f"unknown module {name!r:.120} ({suggest(name, known)})")
        elif name in SPARSE_MODULES and reading.kind is not ModelKind.SPARSE:
            reading.reasons.append(f"module {name} (of a sparse encoder, in a {_A[reading.kind]})")


_A = {ModelKind.DENSE: "dense model", ModelKind.CROSS_ENCODER: "cross-encoder"}


def read_modules(reading: Reading, entries: Sequence[Entry]) -> tuple[ModuleSpec, ...]:
    """Read what follows the module at the front; what is unsupported goes into the reading's reasons.

    Raises:
        CorruptModel: If a configuration is not valid.
    """
    for name, _ in entries:
        if name in ROUTERS:
            reading.reasons.append(f"a {name} module inside of another, or a second one")
        elif name in FRONTS:
            reading.reasons.append(
                f"a second {name} module" if name == "Transformer" else f"{name} after another module"
            )
    other = () if reading.kind is ModelKind.SPARSE else SPARSE_MODULES
    specs = (
        _READERS[name](reading, path) for name, path in entries if name in _READERS and name not in other
    )
    return tuple(spec for spec in specs if spec is not None)


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
    targets = (SENTENCE, TOKENS, SCORES) if reading.kind is ModelKind.CROSS_ENCODER else (SENTENCE, TOKENS)
    for feature, known in ((source, (SENTENCE, TOKENS)), (target, targets)):
        if feature not in known:
            reading.reasons.append(f"a Dense module on the feature {feature!r}")
    if config.get("use_residual"):
        reading.reasons.append("a Dense module with a residual connection")
    return Dense(
        path=path,
        in_features=reading.positive(config, "in_features"),
        out_features=reading.positive(config, "out_features"),
        bias=reading.flag(config, "bias", default=True),
        activation=read_activation(
            reading, config.get("activation_function", "torch.nn.modules.activation.Tanh")
        ),
        source=str(source),
        target=str(target),
    )


def read_activation(reading: Reading, dotted: Any) -> Activation:
    """Return the activation function of a dotted class path; nothing is ever imported by that name.

    Raises:
        UntrustedModel: If it is not a class of torch.nn.
    """
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


def _splade_pooling(reading: Reading, path: str) -> SpladePooling:
    config = reading.required(path, "config.json")
    strategy, activation = config.get("pooling_strategy", "max"), config.get("activation_function", "relu")
    for what, value, known in (
        ("pooling strategy", strategy, ["max", "sum"]),
        ("activation", activation, ["relu", "log1p_relu"]),
    ):
        if value not in known:
            reading.reasons.append(
                f"SpladePooling with the {what} {value!r:.120} ({suggest(str(value), known)})"
            )
    return SpladePooling(maximum=strategy == "max", double_log=activation == "log1p_relu")


def _sparse_auto_encoder(reading: Reading, path: str) -> SparseAutoEncoder:
    config = {"hidden_dim": 512, "k": 8, **reading.required(path, "config.json")}
    module = SparseAutoEncoder(
        path=path,
        input_dim=reading.positive(config, "input_dim"),
        hidden_dim=reading.positive(config, "hidden_dim"),
        k=reading.positive(config, "k"),
        normalize=reading.flag(config, "normalize"),
    )
    if module.k > module.hidden_dim:
        raise CorruptModel(
            f"{reading.root}: SparseAutoEncoder keeps {module.k} of {module.hidden_dim} values"
        )
    return module


_READERS: Mapping[str, Callable[[Reading, str], ModuleSpec | None]] = {
    "Pooling": _pooling,
    "Dense": _dense,
    "Normalize": _normalize,
    "LayerNorm": _layer_norm,
    "Dropout": _dropout,
    "SpladePooling": _splade_pooling,
    "SparseAutoEncoder": _sparse_auto_encoder,
    "CSRSparsity": _sparse_auto_encoder,
}

_NO_RESULT = {
    ModelKind.DENSE: "it has no Pooling module, so it makes no sentence embeddings",
    ModelKind.SPARSE: "it has no Pooling or SpladePooling module, so it makes no sentence embeddings",
    ModelKind.CROSS_ENCODER: "nothing in it makes scores",
}


def check_widths(reading: Reading, front: FrontSpec, modules: Sequence[ModuleSpec]) -> None:
    """Follow the widths of the features through the modules, and see that what the model is for comes to be.

    Raises:
        UnsupportedModel: If a module reads what none before it makes, or the result is missing.
        CorruptModel: If a module does not fit the one before.
    """
    widths = {front.target: front.width}
    for module in modules:
        name, width = type(module).__name__, widths.get(module.source)
        if width is None:
            raise UnsupportedModel(
                str(reading.root), [f"{name} reads {module.source}, which no module before it makes"]
            )
        if module.wanted_width not in (None, width):
            raise CorruptModel(
                f"{reading.root}: {name} expects {module.wanted_width} values and gets {width}",
                "its files come from different models",
            )
        widths[module.target] = module.width(width)
    wanted = SCORES if reading.kind is ModelKind.CROSS_ENCODER else SENTENCE
    if wanted not in widths:
        raise UnsupportedModel(str(reading.root), [_NO_RESULT[reading.kind]])
