"""Read a sentence-transformers folder into a :class:`~stopt.spec.ModelSpec`.

Understands every dense layout that sentence-transformers wrote since its first release: historic and current
class paths, legacy and current keys, folders without modules.json. What it does not understand it refuses, all
reasons at once. Opens configuration files only: no weights, no code, nothing outside the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stopt.errors import CorruptModel, SourceError, UnsupportedModel, UntrustedModel, suggest
from stopt.folder import contained, read_json, read_json_object
from stopt.spec import (
    Activation,
    Dense,
    LayerNorm,
    ModelKind,
    ModelSpec,
    ModuleSpec,
    Normalize,
    Pooling,
    PoolingMode,
    Similarity,
    TokenizerSpec,
    TransformerSpec,
)
from stopt.tokenizer_files import read_tokenizer_spec

__all__ = ["read_spec"]

_PACKAGE = "sentence_transformers."

# modules that sentence-transformers knows and stopt does not run, and what they are
_KNOWN_UNSUPPORTED = {
    "Asym": "one sub-model per kind of text",
    "BoW": "bag of words",
    "CLIPModel": "images and text",
    "CNN": "convolutions over word embeddings",
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

_TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)

# their position ids start after the padding id, so the table holds that many tokens fewer
_OFFSET_POSITIONS = {
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "luke",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}

# model arguments of sentence_bert_config.json that do not change a vector computed in float32
_HARMLESS_MODEL_ARGUMENTS = {
    "add_pooling_layer",
    "attn_implementation",
    "dtype",
    "torch_dtype",
    "trust_remote_code",
    "use_safetensors",
}
_TOKENIZER_ARGUMENTS = {
    "model_max_length",
    "padding_side",
    "truncation_side",
    "trust_remote_code",
    "use_fast",
}


def read_spec(folder: str | Path) -> ModelSpec:
    """Read the model in ``folder`` as data.

    Args:
        folder: A folder as sentence-transformers writes it, or a plain transformers folder (mean pooling, or the
            last token for causal language models).

    Raises:
        SourceError: If the folder or a file it must have is missing.
        UnsupportedModel: If the model needs something stopt does not do; lists every reason.
        UntrustedModel: If it asks for code of its own, or names a path outside the folder.
        CorruptModel: If a file is not valid, or contradicts another.
    """
    root = Path(folder)
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise SourceError(f"{root} {kind}", "name the folder of a sentence-transformers model")
    return _Reader(root).read()


class _Reader:
    """One reading of one folder; collects what is unsupported and reports it together."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.reasons: list[str] = []

    def read(self) -> ModelSpec:
        settings = self._optional("config_sentence_transformers.json")
        entries = self._entries()
        path = entries[0][1] if entries else ""
        if entries and entries[0][0] != "Transformer":
            self._fail_unless_transformer_first(entries)
        config = self._transformer_config(path)
        transformer, bert = self._transformer(path, config)
        if entries:
            modules = tuple(spec for entry in entries[1:] if (spec := self._module(*entry)) is not None)
        else:
            modules = (_default_pooling(config),)
        if settings.get("model_type", "SentenceTransformer") != "SentenceTransformer":
            self.reasons.append(f"it is a {settings['model_type']}, not a dense embedding model")
        tokenizer_arguments = self._tokenizer_arguments(bert)
        if self.reasons:
            raise UnsupportedModel(
                str(self.root), self.reasons, "`stopt inspect` lists what a model consists of"
            )
        self._check_widths(transformer, modules)
        return ModelSpec(
            kind=ModelKind.DENSE,
            transformer=transformer,
            tokenizer=self._tokenizer(path, config, bert, tokenizer_arguments),
            modules=modules,
            prompts=self._prompts(settings),
            default_prompt_name=self._default_prompt(settings),
            similarity=self._similarity(settings),
            truncate_dim=self._truncate_dim(settings),
        )

    # -- files ---------------------------------------------------------------------------------------------

    def _optional(self, relative: str) -> dict[str, Any]:
        path = contained(self.root, relative)
        return read_json_object(path) if path.is_file() else {}

    def _entries(self) -> list[tuple[str, str]]:
        """Class name and path of every module, in order; empty without modules.json."""
        file = contained(self.root, "modules.json")
        if not file.is_file():
            return []
        document = read_json(file)
        if not isinstance(document, list) or not document:
            raise CorruptModel(f"{file} is not a list of modules")
        entries = []
        for position, entry in enumerate(document):
            if not isinstance(entry, dict):
                raise CorruptModel(f"{file}: module {position} is not an object")
            kind, path = entry.get("type"), entry.get("path", "")
            if not isinstance(kind, str) or not isinstance(path, str):
                raise CorruptModel(f"{file}: module {position} needs a 'type' and a 'path' that are text")
            contained(self.root, path)
            entries.append((self._class_name(kind), path))
        return entries

    def _class_name(self, kind: str) -> str:
        """The class of a dotted ``type``; only names that sentence-transformers has are let through."""
        name = kind.rpartition(".")[2]
        if not kind.startswith(_PACKAGE) or (name not in _MODULE_READERS and name not in _KNOWN_UNSUPPORTED):
            if kind.startswith(_PACKAGE):
                known = [*_MODULE_READERS, "Transformer"]
                self.reasons.append(f"unknown module {kind!r:.120} ({suggest(name, known)})")
                return name
            raise UntrustedModel(
                f"{self.root} wants to import {kind!r:.120}",
                "stopt never runs code from a model; only the modules of sentence-transformers can be read",
            )
        if name in _KNOWN_UNSUPPORTED:
            self.reasons.append(f"module {name} ({_KNOWN_UNSUPPORTED[name]})")
        return name

    def _fail_unless_transformer_first(self, entries: list[tuple[str, str]]) -> None:
        if not self.reasons:
            self.reasons.append(f"its first module is {entries[0][0]}, expected Transformer")
        raise UnsupportedModel(str(self.root), self.reasons)

    # -- the transformer -----------------------------------------------------------------------------------

    def _transformer_config(self, path: str) -> dict[str, Any]:
        file = contained(self.root, f"{path}/config.json" if path else "config.json")
        if not file.is_file():
            hint = "is this the folder of a sentence-transformers model?"
            if contained(self.root, "adapter_config.json").is_file():
                hint = "this is a PEFT adapter: merge it into its base model (merge_and_unload) and save that"
            raise SourceError(f"{file} is missing", hint)
        config = read_json_object(file)
        if "auto_map" in config:
            raise UntrustedModel(
                f"{file} names code of its own (auto_map)",
                "stopt never runs code from a model; use one whose architecture transformers has built in",
            )
        return config

    def _transformer(self, path: str, config: Mapping[str, Any]) -> tuple[TransformerSpec, dict[str, Any]]:
        model_type = config.get("model_type")
        if not isinstance(model_type, str):
            raise CorruptModel(f"{self.root}: config.json has no model_type", "is this a transformers model?")
        width = next(
            (config[key] for key in ("hidden_size", "d_model", "dim", "n_embd") if key in config), None
        )
        if isinstance(width, bool) or not isinstance(width, int) or not 0 < width < 10**6:
            raise CorruptModel(f"{self.root}: config.json has no usable hidden_size (found {width!r})")
        bert = next(
            (
                found
                for name in _TRANSFORMER_CONFIGS
                if (found := self._optional(f"{path}/{name}" if path else name))
            ),
            {},
        )
        task = bert.get("transformer_task", "feature-extraction")
        if task != "feature-extraction":
            self.reasons.append(f"its transformer does {task!r}, not feature extraction")
        if bert.get("tokenizer_name_or_path"):
            self.reasons.append("its tokenizer is in another place (tokenizer_name_or_path)")
        arguments = _merged(bert, "model_args", "model_kwargs")
        for key in sorted(set(arguments) - _HARMLESS_MODEL_ARGUMENTS):
            self.reasons.append(f"model argument {key!r} in sentence_bert_config.json")
        for key in sorted(_merged(bert, "config_args", "config_kwargs").keys() - {"trust_remote_code"}):
            self.reasons.append(f"configuration argument {key!r} in sentence_bert_config.json")
        dtype = arguments.get("dtype") or arguments.get("torch_dtype")
        return TransformerSpec(
            path, model_type, width, str(dtype).removeprefix("torch.") if dtype else None
        ), bert

    def _tokenizer_arguments(self, bert: Mapping[str, Any]) -> dict[str, Any]:
        arguments = _merged(bert, "tokenizer_args", "processor_kwargs")
        for key in sorted(set(arguments) - _TOKENIZER_ARGUMENTS):
            self.reasons.append(f"tokenizer argument {key!r} in sentence_bert_config.json")
        for section, options in _merged(bert, "processing_kwargs").items():
            for key in sorted(set(options if isinstance(options, dict) else ()) - {"max_length"}):
                self.reasons.append(f"tokenizing with {section}.{key} (processing_kwargs)")
        return arguments

    def _tokenizer(
        self, path: str, config: Mapping[str, Any], bert: Mapping[str, Any], arguments: Mapping[str, Any]
    ) -> TokenizerSpec:
        """The tokenizer, with the number of tokens after which a text is cut.

        A limit in the model's own files counts as it is, else the smaller of the tokenizer's and the transformer's;
        none may exceed a position table, whose end an engine would read past.
        """
        table, stated = _positions(config)
        tokenizer = read_tokenizer_spec(
            self.root,
            path,
            str(config["model_type"]),
            arguments,
            lower_case=self._flag(bert, "do_lower_case"),
            position_limit=table,
        )
        explicit = self._explicit_length(bert, arguments)
        if explicit is not None:
            limits = [explicit, table]
        elif "model_max_length" in arguments:
            limits = [tokenizer.max_seq_length, table]
        else:
            limits = [tokenizer.max_seq_length, stated]
        return replace(tokenizer, max_seq_length=min((n for n in limits if n is not None), default=None))

    def _explicit_length(self, bert: Mapping[str, Any], arguments: Mapping[str, Any]) -> int | None:
        """``max_seq_length`` of sentence_bert_config.json or its newer equivalent, if that is what counts."""
        for section in ("text", "common"):
            options = _merged(_merged(bert, "processing_kwargs"), section)
            if "max_length" in options:
                return self._positive(options, "max_length")
        if "model_max_length" in arguments or bert.get("max_seq_length") is None:
            return None
        return self._positive(bert, "max_seq_length")

    # -- the modules behind it -----------------------------------------------------------------------------

    def _module(self, name: str, path: str) -> ModuleSpec | None:
        reader = _MODULE_READERS.get(name)
        return reader(self, path) if reader else None

    def _pooling(self, path: str) -> Pooling:
        config = self._module_config(path)
        modes = config.get("pooling_mode")
        if modes is None:
            modes = [mode for key, mode in _LEGACY_POOLING.items() if config.get(key)] or [PoolingMode.MEAN]
        known = [str(mode) for mode in PoolingMode]
        chosen = []
        for mode in [modes] if isinstance(modes, str) else modes if isinstance(modes, list) else []:
            if mode in known:
                chosen.append(PoolingMode(mode))
            else:
                self.reasons.append(f"pooling mode {mode!r} ({suggest(str(mode), known)})")
        if not chosen and not self.reasons:
            raise CorruptModel(f"{self.root / path}: config.json names no pooling mode")
        return Pooling(tuple(chosen), include_prompt=self._flag(config, "include_prompt", default=True))

    def _dense(self, path: str) -> Dense:
        config = self._module_config(path)
        source = config.get("module_input_name", "sentence_embedding")
        target = config.get("module_output_name") or source
        for feature in {source, target} - {"sentence_embedding", "token_embeddings"}:
            self.reasons.append(f"a Dense module on the feature {feature!r}")
        if config.get("use_residual"):
            self.reasons.append("a Dense module with a residual connection")
        return Dense(
            path=path,
            in_features=self._positive(config, "in_features"),
            out_features=self._positive(config, "out_features"),
            bias=self._flag(config, "bias", default=True),
            activation=self._activation(
                config.get("activation_function", "torch.nn.modules.activation.Tanh")
            ),
            source=str(source),
            target=str(target),
        )

    def _activation(self, dotted: Any) -> Activation:
        prefix, _, name = str(dotted).rpartition(".")
        known = [str(activation) for activation in Activation]
        if not isinstance(dotted, str) or not prefix.startswith("torch.nn"):
            raise UntrustedModel(
                f"{self.root} wants to import the activation function {dotted!r:.120}",
                f"activation functions are classes of torch.nn: {', '.join(known)}",
            )
        if name not in known or (prefix != "torch.nn" and not prefix.startswith("torch.nn.modules.")):
            self.reasons.append(f"activation function {dotted!r:.120} ({suggest(name, known)})")
            return Activation.IDENTITY
        return Activation(name)

    def _normalize(self, path: str) -> Normalize:
        config = self._optional(f"{path}/config.json") if path else {}
        for key in ("module_input_name", "module_output_name"):
            if config.get(key, "sentence_embedding") != "sentence_embedding":
                self.reasons.append(f"a Normalize module on the feature {config[key]!r}")
        return Normalize()

    def _layer_norm(self, path: str) -> LayerNorm:
        return LayerNorm(path, self._positive(self._module_config(path), "dimension"))

    def _dropout(self, path: str) -> None:
        """Identity at inference: not part of the spec."""

    def _module_config(self, path: str) -> dict[str, Any]:
        return read_json_object(contained(self.root, f"{path}/config.json"))

    def _check_widths(self, transformer: TransformerSpec, modules: tuple[ModuleSpec, ...]) -> None:
        width = transformer.hidden_size
        for module in modules:
            expected = {Dense: "in_features", LayerNorm: "dimension"}.get(type(module))
            if expected and (wanted := getattr(module, expected)) != width:
                raise CorruptModel(
                    f"{self.root}: {type(module).__name__} expects {wanted} values per vector and gets {width}",
                    "its files come from different models",
                )
            width = module.out_features if isinstance(module, Dense) else module.width(width)

    # -- settings ------------------------------------------------------------------------------------------

    def _prompts(self, settings: Mapping[str, Any]) -> dict[str, str | None]:
        prompts = settings.get("prompts") or {}
        if not isinstance(prompts, dict) or not all(
            isinstance(text, str | None) for text in prompts.values()
        ):
            raise CorruptModel(
                f"{self.root}: 'prompts' in config_sentence_transformers.json is not names with texts"
            )
        return prompts

    def _default_prompt(self, settings: Mapping[str, Any]) -> str | None:
        name = settings.get("default_prompt_name")
        if not isinstance(name, str | None):
            raise CorruptModel(f"{self.root}: default_prompt_name is {name!r}, expected a name")
        return name

    def _similarity(self, settings: Mapping[str, Any]) -> Similarity:
        name = settings.get("similarity_fn_name") or Similarity.COSINE
        known = [str(similarity) for similarity in Similarity]
        if name not in known:
            raise UnsupportedModel(str(self.root), [f"similarity {name!r} ({suggest(str(name), known)})"])
        return Similarity(name)

    def _truncate_dim(self, settings: Mapping[str, Any]) -> int | None:
        return None if settings.get("truncate_dim") is None else self._positive(settings, "truncate_dim")

    def _positive(self, config: Mapping[str, Any], key: str) -> int:
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CorruptModel(f"{self.root}: {key} is {value!r}, expected a positive whole number")
        return value

    def _flag(self, config: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
        value = config.get(key, default)
        if not isinstance(value, bool):
            raise CorruptModel(f"{self.root}: {key} is {value!r}, expected true or false")
        return value


_MODULE_READERS: Mapping[str, Callable[[_Reader, str], ModuleSpec | None]] = {
    "Transformer": lambda reader, _: reader.reasons.append("a second Transformer module"),
    "Pooling": _Reader._pooling,
    "Dense": _Reader._dense,
    "Normalize": _Reader._normalize,
    "LayerNorm": _Reader._layer_norm,
    "Dropout": _Reader._dropout,
}


def _default_pooling(config: Mapping[str, Any]) -> Pooling:
    architectures = config.get("architectures") or [""]
    causal = str(architectures[0]).endswith("ForCausalLM") and config.get("is_causal") is not False
    return Pooling((PoolingMode.LAST_TOKEN if causal else PoolingMode.MEAN,))


def _positions(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """How many tokens fit.

    Returns:
        The size of the position table (None where positions are computed, not looked up), and the limit that
        config.json states. Models of the RoBERTa family lose as many positions as their padding id, plus one.
    """
    keys = (
        ("max_position_embeddings", "n_positions")
        if config["model_type"] == "gpt2"
        else ("max_position_embeddings",)
    )
    stated = next((config[key] for key in keys if isinstance(config.get(key), int)), None)
    if stated is None or stated < 1:  # XLNet says -1
        return None, None
    if config["model_type"] in _OFFSET_POSITIONS:
        padding_id = config.get("pad_token_id")
        stated -= (padding_id if isinstance(padding_id, int) else 1) + 1
    computed = (
        any("rope" in key for key in config)
        or config.get("position_biased_input") is False
        or config.get("position_embedding_type", "absolute") in {"rotary", "rope", "alibi"}
    )
    return (None if computed else stated), stated


def _merged(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The sections ``keys`` of a configuration as one; later ones win."""
    merged: dict[str, Any] = {}
    for key in keys:
        section = config.get(key) or {}
        if not isinstance(section, dict):
            raise CorruptModel(f"{key} in sentence_bert_config.json is not an object")
        merged.update(section)
    return merged
