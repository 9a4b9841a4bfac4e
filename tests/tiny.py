"""Build tiny sentence-transformers folders on disk: seeded, offline, one per supported encoder family.

Each folder has a real tokenizer of its family's kind (WordPiece, Unigram, byte-level BPE, BPE with byte fallback), a two-layer
backbone whose weights are spread widely enough that different texts get clearly different vectors, and the module files
of either the layout sentence-transformers 5.7 writes or the one older versions wrote. Torch and transformers are
imported on the first build only, so that importing this module stays cheap.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "ARCHITECTURES",
    "CORPUS",
    "HIDDEN",
    "POOLING_MODES",
    "POSITIONS",
    "Layout",
    "build_tiny",
    "build_transformer",
]

Layout = Literal["current", "legacy"]

HIDDEN = 32
INTERMEDIATE = 64
LAYERS = 2
POSITIONS = 128  # tokens a text may have; the RoBERTa family's position tables hold two more
WINDOW = 16  # local attention of ModernBERT and Gemma 3: short enough that ordinary test texts leave it

# The order in which sentence-transformers concatenates the modes of a legacy Pooling configuration.
POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_LEGACY_MODE_KEYS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}

CORPUS = (
    "The quick brown fox jumps over the lazy dog.",
    "A man is playing the guitar on a small stage.",
    "What is the capital of France? Paris is the capital of France.",
    "She said: 'the weather is lovely today', and it was sunny outside!",
    "He drove to the stadium; the train had been late (again).",
    "query: how do I cook rice? passage: boil water, add the rice and wait.",
    "Machine learning models turn sentences into vectors of numbers.",
    "Prices rose by 3.5% in 2024, from $10 to $12,345.67.",
    "Le café était fermé, la crème brûlée était délicieuse.",
    "Der Bär läuft über die große Brücke; schöne Grüße aus Köln!",
    "El niño comió una piña mañana en España.",
    "Привет мир, как дела сегодня? Это тест.",
    "今天天气很好,我们去公园。東京は日本の首都です。",
    "안녕하세요 세계 مرحبا بالعالم नमस्ते दुनिया",
    "def main(args): return sum(x * x for x in args)",
    "Great job 😀 thanks 🎉 see you soon 👍",
)


# ---- tokenizers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenizerPlan:
    """How one family tokenizes.

    Attributes:
        build: Makes the tokenizer from the special tokens in vocabulary order.
        specials: Special tokens; their position is their id.
        roles: transformers' names of special tokens (`pad_token`, ...) and the token each names.
        single: Template of one text.
        pair: Template of a text pair; None where the family has none.
        tokenizer_class: What tokenizer_config.json names.
        inputs: What the tokenizer gives the model (`model_input_names`).
        padding_side: "left" or "right".
        settings: Further keys of tokenizer_config.json.
    """

    build: Callable[[Sequence[str]], Tokenizer]
    specials: tuple[str, ...]
    roles: Mapping[str, str]
    single: str
    pair: str | None
    tokenizer_class: str
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    padding_side: Literal["left", "right"] = "right"
    settings: Mapping[str, Any] = field(default_factory=dict)


def _words() -> Counter[str]:
    """Count the corpus words, accents and case kept."""
    return Counter(word for text in CORPUS for word in re.findall(r"\w+|[^\w\s]", text))


def _wordpiece(specials: Sequence[str]) -> Tokenizer:
    """Make BERT's uncased tokenizer: whole words, and every character both as a start and as a continuation."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    words = sorted({normalizer.normalize_str(word).strip() for word in _words() if word.isascii()})
    characters = sorted({c for text in CORPUS for c in normalizer.normalize_str(text) if not c.isspace()})
    suffixes = ["##ing", "##ed", "##er", "##s", "##ly", "##tion"]
    pieces = [*specials, *characters, *(f"##{c}" for c in characters), *suffixes, *words]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _unigram(specials: Sequence[str], *, uncased: bool = False) -> Tokenizer:
    """Make a SentencePiece-like unigram tokenizer whose log probabilities come from the corpus counts."""
    steps: list[Any] = [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    if uncased:  # as ALBERT
        steps = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), *steps[1:]]
    normalizer = normalizers.Sequence(steps)
    counts: Counter[str] = Counter({"▁": 8})
    for word, count in _words().items():
        text = normalizer.normalize_str(word)
        counts.update(dict.fromkeys(text, count))
        if len(text) > 1 and text.isascii():
            counts[f"▁{text}"] += 4 * count
            counts[text[-3:]] += count
    total = sum(counts.values())
    pieces = [(piece, 0.0) for piece in specials]
    pieces += sorted((piece, math.log(n / total)) for piece, n in counts.items())
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=list(specials).index("<unk>"), byte_fallback=False))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return tokenizer


def _uncased_unigram(specials: Sequence[str]) -> Tokenizer:
    return _unigram(specials, uncased=True)


def _byte_bpe(specials: Sequence[str]) -> Tokenizer:
    """Make a byte-level BPE tokenizer: 256 bytes and the corpus' most frequent merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _fallback_bpe(specials: Sequence[str]) -> Tokenizer:
    """Make Gemma's kind: BPE over characters, spaces as "▁", bytes for characters outside the vocabulary."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    names = [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=620, special_tokens=names, show_progress=False)
    trained.train_from_iterator([text for text in CORPUS if text.isascii()], trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    bpe = models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


_BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_BERT_ROLES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_ROBERTA_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_ROBERTA_ROLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_WITH_SEGMENTS = ("input_ids", "token_type_ids", "attention_mask")


def _bert_plan(tokenizer_class: str, inputs: tuple[str, ...]) -> TokenizerPlan:
    return TokenizerPlan(
        build=_wordpiece,
        specials=_BERT_SPECIALS,
        roles=_BERT_ROLES,
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        tokenizer_class=tokenizer_class,
        inputs=inputs,
        settings={"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None},
    )


_ALBERT_PLAN = TokenizerPlan(
    build=_uncased_unigram,
    specials=("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
    roles={
        **_BERT_ROLES,
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
    },
    single="[CLS]:0 $A:0 [SEP]:0",
    pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
    tokenizer_class="AlbertTokenizer",
    inputs=_WITH_SEGMENTS,
    settings={"do_lower_case": True, "remove_space": True, "keep_accents": False},
)
_DEBERTA_PLAN = TokenizerPlan(
    build=_unigram,
    specials=("[PAD]", "[CLS]", "[SEP]", "<unk>", "[MASK]"),
    roles={**_BERT_ROLES, "unk_token": "<unk>", "bos_token": "[CLS]", "eos_token": "[SEP]"},
    single="[CLS]:0 $A:0 [SEP]:0",
    pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
    tokenizer_class="DebertaV2Tokenizer",
    inputs=_WITH_SEGMENTS,
    settings={"do_lower_case": False, "split_by_punct": False},
)
_ROBERTA_PLAN = TokenizerPlan(
    build=_byte_bpe,
    specials=_ROBERTA_SPECIALS,
    roles=_ROBERTA_ROLES,
    single="<s>:0 $A:0 </s>:0",
    pair="<s>:0 $A:0 </s>:0 </s>:0 $B:0 </s>:0",
    tokenizer_class="RobertaTokenizer",
    settings={"add_prefix_space": False, "trim_offsets": True},
)
_XLM_ROBERTA_PLAN = TokenizerPlan(
    build=_unigram,
    specials=_ROBERTA_SPECIALS,
    roles=_ROBERTA_ROLES,
    single="<s>:0 $A:0 </s>:0",
    pair="<s>:0 $A:0 </s>:0 </s>:0 $B:0 </s>:0",
    tokenizer_class="XLMRobertaTokenizer",
)
_MPNET_PLAN = TokenizerPlan(
    build=_wordpiece,
    specials=("<s>", "<pad>", "</s>", "[UNK]", "<mask>"),
    roles={**_ROBERTA_ROLES, "unk_token": "[UNK]"},
    single="<s>:0 $A:0 </s>:0",
    pair="<s>:0 $A:0 </s>:0 </s>:0 $B:0 </s>:0",
    tokenizer_class="MPNetTokenizer",
    settings={"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None},
)
_MODERNBERT_PLAN = TokenizerPlan(
    build=_byte_bpe,
    specials=_BERT_SPECIALS,
    roles=_BERT_ROLES,
    single="[CLS]:0 $A:0 [SEP]:0",
    pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
    tokenizer_class="PreTrainedTokenizerFast",
)
_T5_PLAN = TokenizerPlan(
    build=_unigram,
    specials=("<pad>", "</s>", "<unk>"),
    roles={"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    single="$A:0 </s>:0",
    pair="$A:0 </s>:0 $B:0 </s>:0",
    tokenizer_class="T5Tokenizer",
    settings={"extra_ids": 0},
)
_GEMMA_PLAN = TokenizerPlan(
    build=_fallback_bpe,
    specials=("<pad>", "<eos>", "<bos>", "<unk>"),
    roles={"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"},
    single="<bos>:0 $A:0 <eos>:0",
    pair="<bos>:0 $A:0 <eos>:0 <bos>:1 $B:1 <eos>:1",
    tokenizer_class="GemmaTokenizer",
    settings={"add_bos_token": True, "add_eos_token": True},
)
_QWEN_PLAN = TokenizerPlan(
    build=_byte_bpe,
    specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    # As Qwen3-Embedding: the token appended to every text is also the padding token.
    roles={"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
    single="$A:0 <|endoftext|>:0",
    pair="$A:0 <|endoftext|>:0 $B:1 <|endoftext|>:1",
    tokenizer_class="Qwen2Tokenizer",
    padding_side="left",
    settings={"add_bos_token": False, "add_prefix_space": False},
)


def _make_tokenizer(plan: TokenizerPlan, *, lowercase: bool) -> Tokenizer:
    """Build a family's tokenizer with its special tokens and its template."""
    tokenizer = plan.build(plan.specials)
    mask = plan.roles.get("mask_token")
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False, lstrip=token == mask == "<mask>")
            for token in plan.specials
        ]
    )
    template = processors.TemplateProcessing(
        single=plan.single,
        pair=plan.pair,
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in plan.specials],
    )
    tokenizer.post_processor = template
    if isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    if lowercase:  # where sentence-transformers puts it
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), tokenizer.normalizer])
    return tokenizer


def _save_tokenizer(folder: Path, plan: TokenizerPlan, tokenizer: Tokenizer, max_length: int) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "special_tokens_map.json", dict(plan.roles))
    config = {
        **plan.roles,
        **plan.settings,
        "added_tokens_decoder": {
            str(i): {
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            }
            for i, token in sorted(tokenizer.get_added_tokens_decoder().items())
        },
        "clean_up_tokenization_spaces": False,
        "model_input_names": list(plan.inputs),
        "model_max_length": max_length,
        "padding_side": plan.padding_side,
        "tokenizer_class": plan.tokenizer_class,
    }
    _write_json(folder / "tokenizer_config.json", config)


# ---- backbones ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """One encoder family.

    Attributes:
        config_class: Configuration class of transformers.
        tokenizer: How the family tokenizes.
        config: Keyword arguments of the configuration, vocabulary size and token ids excepted.
        model_class: Model class of transformers.
        architecture: What config.json names instead of `model_class`.
        weight_std: Spread of the weight matrices.
        embedding_std: Spread of the token embeddings.
    """

    config_class: str
    tokenizer: TokenizerPlan
    config: Mapping[str, Any]
    model_class: str = "AutoModel"
    architecture: str | None = None
    weight_std: float = 0.2
    embedding_std: float = 1.0


_COMMON = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": POSITIONS,
}
_OFFSET = {**_COMMON, "max_position_embeddings": POSITIONS + 2}
_DECODER = {**_COMMON, "num_key_value_heads": 2, "head_dim": 8, "use_cache": False}

_RECIPES: Mapping[str, Recipe] = {
    "bert": Recipe("BertConfig", _bert_plan("BertTokenizer", _WITH_SEGMENTS), _COMMON),
    "distilbert": Recipe(
        "DistilBertConfig",
        _bert_plan("DistilBertTokenizer", ("input_ids", "attention_mask")),
        {
            "dim": HIDDEN,
            "n_layers": LAYERS,
            "n_heads": 4,
            "hidden_dim": INTERMEDIATE,
            "max_position_embeddings": POSITIONS,
        },
    ),
    "albert": Recipe("AlbertConfig", _ALBERT_PLAN, {**_COMMON, "embedding_size": 16, "num_hidden_groups": 1}),
    "electra": Recipe(
        "ElectraConfig", _bert_plan("ElectraTokenizer", _WITH_SEGMENTS), {**_COMMON, "embedding_size": 16}
    ),
    "deberta-v2": Recipe(
        "DebertaV2Config",
        _DEBERTA_PLAN,
        {
            **_COMMON,
            "relative_attention": True,
            "position_buckets": 16,
            "max_relative_positions": -1,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "roberta": Recipe("RobertaConfig", _ROBERTA_PLAN, {**_OFFSET, "type_vocab_size": 1}),
    "xlm-roberta": Recipe("XLMRobertaConfig", _XLM_ROBERTA_PLAN, {**_OFFSET, "type_vocab_size": 1}),
    "mpnet": Recipe("MPNetConfig", _MPNET_PLAN, _OFFSET),
    "modernbert": Recipe(
        "ModernBertConfig",
        _MODERNBERT_PLAN,
        {**_COMMON, "global_attn_every_n_layers": 2, "local_attention": WINDOW, "reference_compile": False},
    ),
    "t5": Recipe(
        "T5Config",
        _T5_PLAN,
        {
            "d_model": HIDDEN,
            "d_kv": 8,
            "d_ff": INTERMEDIATE,
            "num_layers": LAYERS,
            "num_heads": 4,
            "relative_attention_num_buckets": 16,
            "relative_attention_max_distance": 64,
        },
        model_class="T5EncoderModel",
        weight_std=0.15,  # attention scores are not divided by the square root of the head width
    ),
    "gemma3": Recipe(
        "Gemma3TextConfig",
        _GEMMA_PLAN,
        {
            **_DECODER,
            "use_bidirectional_attention": True,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 8,
        },
        embedding_std=0.2,  # the model multiplies them by the square root of the hidden size
    ),
    "qwen3": Recipe("Qwen3Config", _QWEN_PLAN, _DECODER, architecture="Qwen3ForCausalLM"),
}

ARCHITECTURES: tuple[str, ...] = tuple(_RECIPES)


def _spread_weights(model: "torch.nn.Module", recipe: Recipe, generator: "torch.Generator") -> None:
    """Re-initialise a model so that its outputs depend strongly on its inputs.

    What all texts share (segments, positions) is kept small beside what tells them apart (tokens).
    """
    import torch

    def noise(parameter: torch.Tensor, std: float) -> torch.Tensor:
        return torch.randn(parameter.shape, generator=generator) * std

    with torch.no_grad():
        for path, module in model.named_modules():
            is_norm = "norm" in type(module).__name__.lower()
            shared = "token_type" in path or "position_embeddings" in path
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(module, torch.nn.Embedding):
                    parameter.copy_(noise(parameter, 0.3 if shared else recipe.embedding_std))
                elif name == "bias":
                    parameter.copy_(noise(parameter, 0.1))
                elif is_norm:
                    # Gemma stores the distance from one, and so starts at zero.
                    centre = parameter.mean().round().clamp(0, 1)
                    parameter.copy_(centre + noise(parameter, 0.2))
                else:
                    parameter.copy_(noise(parameter, recipe.weight_std))


def _save_backbone(
    folder: Path,
    recipe: Recipe,
    tokenizer: Tokenizer,
    generator: "torch.Generator",
    *,
    model_class: str | None = None,
    labels: int | None = None,
    prepare: Callable[["torch.nn.Module"], None] | None = None,
) -> None:
    """Save config.json and model.safetensors.

    Args:
        folder: Where to.
        recipe: The family.
        tokenizer: The family's tokenizer, which says how large the vocabulary is.
        generator: Source of the weights.
        model_class: Class of transformers that is saved; the recipe's if None.
        labels: Labels of its classifier, if it has one.
        prepare: Called with the model before it is saved.
    """
    import transformers

    roles = {role: tokenizer.token_to_id(token) for role, token in recipe.tokenizer.roles.items()}
    ids = {f"{name}_id": roles.get(name) for name in ("pad_token", "bos_token", "eos_token") if name in roles}
    if recipe.config_class == "ModernBertConfig":
        ids |= {"cls_token_id": roles["cls_token"], "sep_token_id": roles["sep_token"]}
        ids |= {"bos_token_id": roles["cls_token"], "eos_token_id": roles["sep_token"]}
    config = getattr(transformers, recipe.config_class)(
        vocab_size=tokenizer.get_vocab_size(with_added_tokens=True), **ids, **recipe.config
    )
    if labels is not None:
        config.num_labels = labels
    name = model_class or recipe.model_class
    found = getattr(transformers, name)
    model = found.from_config(config) if name.startswith("Auto") else found(config)
    _spread_weights(model, recipe, generator)
    if prepare is not None:
        prepare(model.eval())
    model.save_pretrained(folder, safe_serialization=True)
    if recipe.architecture is not None and model_class is None:
        path = folder / "config.json"
        _write_json(path, {**json.loads(path.read_text()), "architectures": [recipe.architecture]})


# ---- module files ---------------------------------------------------------------------------------------------------

_CURRENT_PATHS = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dropout": "sentence_transformers.sentence_transformer.modules.dropout.Dropout",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "LayerNorm": "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
    "Normalize": "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
}


@dataclass(frozen=True)
class Module:
    """One module after the transformer: its class name, its config.json and its weights."""

    name: str
    config: Mapping[str, Any] | None = None
    weights: Mapping[str, "torch.Tensor"] | None = None


def _pooling(modes: Sequence[str], *, include_prompt: bool, layout: Layout) -> Module:
    if layout == "current":
        mode = modes[0] if len(modes) == 1 else list(modes)
        return Module(
            "Pooling", {"embedding_dimension": HIDDEN, "pooling_mode": mode, "include_prompt": include_prompt}
        )
    flags = {key: mode in modes for mode, key in _LEGACY_MODE_KEYS.items()}
    return Module("Pooling", {"word_embedding_dimension": HIDDEN, **flags, "include_prompt": include_prompt})


def _dense(width: int, out: int, generator: "torch.Generator", layout: Layout) -> Module:
    import torch

    config: dict[str, Any] = {
        "in_features": width,
        "out_features": out,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    if layout == "current":
        config |= {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    weight = torch.randn(out, width, generator=generator) / math.sqrt(width)
    return Module(
        "Dense", config, {"linear.weight": weight, "linear.bias": torch.randn(out, generator=generator) * 0.1}
    )


def _layer_norm(width: int, generator: "torch.Generator") -> Module:
    import torch

    weight = 1 + torch.randn(width, generator=generator) * 0.2
    bias = torch.randn(width, generator=generator) * 0.1
    return Module("LayerNorm", {"dimension": width}, {"norm.weight": weight, "norm.bias": bias})


def _save_modules(folder: Path, modules: Iterable[Module], layout: Layout) -> None:
    from safetensors.torch import save_file

    entries = []
    for i, module in enumerate(modules):
        path = "" if i == 0 else f"{i}_{module.name}"
        legacy = f"sentence_transformers.models.{module.name}"
        kind = _CURRENT_PATHS[module.name] if layout == "current" else legacy
        entries.append({"idx": i, "name": str(i), "path": path, "type": kind})
        (folder / path).mkdir(exist_ok=True)
        if module.config is not None:
            _write_json(folder / path / "config.json", module.config)
        if module.weights is not None:
            save_file(dict(module.weights), folder / path / "model.safetensors")
    _write_json(folder / "modules.json", entries)


def _save_settings(
    folder: Path,
    *,
    layout: Layout,
    prompts: Mapping[str, str] | None,
    default_prompt_name: str | None,
    truncate_dim: int | None,
    similarity: str | None,
) -> None:
    """Write config_sentence_transformers.json."""
    versions = {"pytorch": "2.0.0", "sentence_transformers": "3.0.0", "transformers": "4.41.0"}
    settings: dict[str, Any] = {
        "__version__": versions,
        "default_prompt_name": default_prompt_name,
        "prompts": dict(prompts or {}),
        "similarity_fn_name": similarity,
    }
    if layout == "current":
        settings["__version__"] = {
            "pytorch": "2.13.0",
            "sentence_transformers": "5.7.0",
            "transformers": "4.57.6",
        }
        settings["model_type"] = "SentenceTransformer"
        settings["prompts"] = {"document": "", "query": "", **(prompts or {})}
        settings["similarity_fn_name"] = similarity or "cosine"
    if truncate_dim is not None:
        settings["truncate_dim"] = truncate_dim
    _write_json(folder / "config_sentence_transformers.json", settings)


def _save_transformer_settings(
    folder: Path, *, layout: Layout, max_seq_length: int | None, lowercase: bool
) -> None:
    """Write sentence_bert_config.json."""
    settings: dict[str, Any] = {"max_seq_length": max_seq_length, "do_lower_case": lowercase}
    if layout == "current":
        settings = {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        }
    _write_json(folder / "sentence_bert_config.json", settings)


def _write_json(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    path.write_text(
        json.dumps(value, indent=2, sort_keys=isinstance(value, Mapping), ensure_ascii=False), "utf-8"
    )


# ---- the whole folder -----------------------------------------------------------------------------------------------


def build_transformer(
    folder: Path,
    architecture: str,
    *,
    seed: int = 0,
    model_class: str | None = None,
    labels: int | None = None,
    max_length: int = POSITIONS,
    prepare: Callable[["torch.nn.Module"], None] | None = None,
) -> Tokenizer:
    """Write a plain transformers folder, such as that of a masked language model or a classifier.

    Args:
        folder: Where to write.
        architecture: One of `ARCHITECTURES`.
        seed: Seed of every weight.
        model_class: An ``AutoModelFor...`` of transformers; None is the bare encoder.
        labels: Labels of a classifier.
        max_length: What tokenizer_config.json says of it.
        prepare: Called with the model before it is saved.

    Returns:
        Its tokenizer.
    """
    import torch

    recipe = _RECIPES[architecture]
    tokenizer = _make_tokenizer(recipe.tokenizer, lowercase=False)
    folder.mkdir(parents=True, exist_ok=True)
    _save_tokenizer(folder, recipe.tokenizer, tokenizer, max_length)
    generator = torch.Generator().manual_seed(seed)
    _save_backbone(
        folder, recipe, tokenizer, generator, model_class=model_class, labels=labels, prepare=prepare
    )
    return tokenizer


def build_tiny(
    folder: Path,
    architecture: str = "bert",
    *,
    seed: int = 0,
    pooling: str | Sequence[str] = "mean",
    include_prompt: bool = True,
    prompts: Mapping[str, str] | None = None,
    default_prompt_name: str | None = None,
    dense: int | None = None,
    normalize: bool = False,
    layer_norm: bool = False,
    dropout: bool = False,
    truncate_dim: int | None = None,
    similarity: str | None = None,
    max_seq_length: int | None = None,
    do_lower_case: bool = False,
    layout: Layout = "current",
    modules_json: bool = True,
) -> Path:
    """Write a tiny sentence-transformers model.

    Modules come in the order Transformer, Pooling, Dropout, Dense, LayerNorm, Normalize.

    Args:
        folder: Where to write; made if missing, files of the same names are replaced.
        architecture: One of `ARCHITECTURES`.
        seed: Seed of every weight.
        pooling: One mode or several to concatenate, of `POOLING_MODES`.
        include_prompt: Whether pooling counts the prompt's tokens.
        prompts: Prompt texts by name.
        default_prompt_name: Name of the prompt put before every text.
        dense: Output width of a Dense module with Tanh; None for no Dense.
        normalize: Whether a Normalize module comes last.
        layer_norm: Whether there is a LayerNorm module.
        dropout: Whether there is a Dropout module, which does nothing at inference.
        truncate_dim: Stored output width.
        similarity: Stored similarity function: "cosine", "dot", "euclidean" or "manhattan".
        max_seq_length: Longest text in tokens; None leaves the limit to `POSITIONS`.
        do_lower_case: Whether to lower texts before the family's own normaliser.
        layout: "current" as sentence-transformers 5.7 writes, "legacy" as versions before 5.4 did.
        modules_json: Whether to write sentence-transformers' files at all; without them the folder is a
            plain transformers model, and what describes the modules has no effect.

    Returns:
        The folder.

    Raises:
        ValueError: If the architecture or a pooling mode is unknown.
    """
    import torch

    if architecture not in _RECIPES:
        raise ValueError(f"unknown architecture {architecture!r}; one of {', '.join(ARCHITECTURES)}")
    modes = [pooling] if isinstance(pooling, str) else list(pooling)
    if unknown := set(modes) - set(POOLING_MODES):
        raise ValueError(f"unknown pooling modes: {', '.join(sorted(unknown))}")
    folder.mkdir(parents=True, exist_ok=True)
    recipe = _RECIPES[architecture]
    generator = torch.Generator().manual_seed(seed)
    in_tokenizer = layout == "current"  # the legacy layout keeps limit and case in sentence_bert_config.json
    limit = max_seq_length if in_tokenizer and max_seq_length is not None else POSITIONS
    tokenizer = _make_tokenizer(recipe.tokenizer, lowercase=do_lower_case and in_tokenizer)
    _save_tokenizer(folder, recipe.tokenizer, tokenizer, limit)
    _save_backbone(folder, recipe, tokenizer, generator)
    if not modules_json:
        return folder

    modules = [Module("Transformer"), _pooling(modes, include_prompt=include_prompt, layout=layout)]
    width = len(modes) * HIDDEN
    if dropout:
        modules.append(Module("Dropout", {"dropout": 0.1}))
    if dense is not None:
        modules.append(_dense(width, dense, generator, layout))
        width = dense
    if layer_norm:
        modules.append(_layer_norm(width, generator))
    if normalize:
        modules.append(Module("Normalize"))
    _save_modules(folder, modules, layout)
    _save_transformer_settings(folder, layout=layout, max_seq_length=max_seq_length, lowercase=do_lower_case)
    _save_settings(
        folder,
        layout=layout,
        prompts=prompts,
        default_prompt_name=default_prompt_name,
        truncate_dim=truncate_dim,
        similarity=similarity,
    )
    return folder
