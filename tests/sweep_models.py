"""A tiny model of every text architecture that the installed transformers registers, made from a seed.

Unlike :mod:`tiny`, which knows a few families well, this derives a small configuration from the names of an
architecture's own settings, so that one that transformers adds tomorrow is tried, too.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import tiny

__all__ = ["NoTinyModel", "architectures", "build"]

_WIDTHS = {
    "hidden_size",
    "d_model",
    "n_embd",
    "emb_dim",
    "embed_dim",
    "dim",
    "embedding_size",
    "true_hidden_size",
}
_LAYERS = {
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
    "num_encoder_layers", "num_decoder_layers",
}  # fmt: skip
_HEADS = {
    "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
    "num_encoder_attention_heads", "num_decoder_attention_heads",
}  # fmt: skip
_INNER = {
    "intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "n_inner", "hidden_dim", "dim_ff",
    "dff", "ffn_hidden_size", "moe_intermediate_size", "shared_expert_intermediate_size", "d_inner", "inner_dim",
    "mlp_dim", "shared_intermediate_size", "intermediate_size_mlp", "expert_ffn_hidden_size", "moe_shared_expert_intermediate_size",
}  # fmt: skip
_POSITIONS = {
    "max_position_embeddings", "n_positions", "n_ctx", "max_encoder_position_embeddings", "max_seq_len",
    "max_decoder_position_embeddings", "max_target_positions", "max_source_positions",
}  # fmt: skip
_EXPERTS = {"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"}
_EXPERTS_USED = {"num_experts_per_tok", "moe_k", "moe_topk", "num_selected_experts"}

# what no rule of names tells
_OWN: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_d_head": 16, "mamba_n_heads": 4, "mamba_d_state": 8, "attn_layer_indices": [1]},
    "big_bird": {"block_size": 4, "num_random_blocks": 1},
    "bigbird_pegasus": {"block_size": 4, "num_random_blocks": 1},
    "convbert": {"head_ratio": 2, "embedding_size": 32, "conv_kernel_size": 3, "num_groups": 1},
    "dbrx": {"attn_config": {"kv_n_heads": 2}, "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2}},
    "deepseek_v2": {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "kv_lora_rank": 16, "q_lora_rank": 16, "n_group": 1, "topk_group": 1},
    "deepseek_v3": {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "kv_lora_rank": 16, "q_lora_rank": 16, "n_group": 1, "topk_group": 1, "head_dim": None},
    "longcat_flash": {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "kv_lora_rank": 16, "q_lora_rank": 16, "head_dim": 8},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1},
    "falcon_mamba": {"state_size": 8, "time_step_rank": 4},
    "funnel": {"block_sizes": [1, 1], "d_head": 8, "num_decoder_layers": 1},
    "gemma3n_text": {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": None, "laurel_rank": 8, "num_kv_shared_layers": 0, "intermediate_size": 64, "activation_sparsity_pattern": 0.0, "layer_types": ["sliding_attention", "full_attention"]},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "layer_types": ["mamba", "attention"]},
    "jamba": {"mamba_d_state": 8, "mamba_dt_rank": 4, "attn_layer_offset": 1, "attn_layer_period": 2, "use_mamba_kernels": False},
    "jetmoe": {"kv_channels": 8, "num_key_value_heads": 2},
    "led": {"attention_window": 8},
    "longformer": {"attention_window": 8},
    "longt5": {"local_radius": 7, "global_block_size": 4, "d_kv": 8},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
    "mamba": {"state_size": 8, "time_step_rank": 4},
    "mamba2": {"head_dim": 16, "num_heads": 4, "n_groups": 1, "state_size": 8},
    "mega": {"nhead": 4, "chunk_size": -1, "max_positions": 128, "bidirectional": True},
    "mobilebert": {"intra_bottleneck_size": 16, "embedding_size": 16, "num_feedforward_networks": 2, "hidden_size": 32},
    "mra": {"block_per_row": 1},
    "nystromformer": {"num_landmarks": 8, "segment_means_seq_len": 8},
    "openai-gpt": {},
    "pegasus_x": {"block_size": 4, "num_global_tokens": 2},
    "qwen3_next": {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"lru_width": 32, "attention_window_size": 16, "block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_shape": [16, 8], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local", "lsh"], "lsh_attn_chunk_length": 8, "local_attn_chunk_length": 8, "attention_head_size": 8, "feed_forward_size": 64, "num_buckets": 4, "num_hashes": 1},
    "roc_bert": {"pronunciation_vocab_size": 20, "shape_vocab_size": 20, "pronunciation_embed_dim": 8, "shape_embed_dim": 8},
    "transfo-xl": {"cutoffs": [], "d_embed": 32, "d_head": 8, "mem_len": 8, "clamp_len": 8},
    "zamba": {"mamba_d_state": 8, "mamba_dt_rank": 4, "n_mamba_heads": 2, "attention_hidden_size": 64, "attention_head_dim": 16, "use_mamba_kernels": False, "layers_block_type": ["mamba", "hybrid"]},
    "zamba2": {"mamba_d_state": 8, "mamba_headdim": 16, "n_mamba_heads": 4, "mamba_ngroups": 1, "layers_block_type": ["mamba", "hybrid"], "num_mem_blocks": 1, "hybrid_layer_ids": [1]},
}  # fmt: skip

# parameters that are no weights of a product: decay rates and the like, whose size keeps a recurrence from diverging
_KEPT = ("A_log", "dt_bias", ".D", "time_decay", "time_first", "recurrent_param", "rope", "inv_freq")


class NoTinyModel(Exception):
    """No small model of an architecture could be made here; says why."""


def architectures() -> list[str]:
    """Names (``model_type``) of the architectures of AutoModel that read ``input_ids`` and need nothing else."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    found = []
    for name, classes in MODEL_MAPPING_NAMES.items():
        class_name = classes if isinstance(classes, str) else classes[0]
        model = getattr(transformers, class_name, None)
        if model is None or name not in CONFIG_MAPPING_NAMES:
            continue
        accepted = inspect.signature(model.forward).parameters
        senses = (
            "pixel_values",
            "input_features",
            "input_values",
            "audio_codes",
            "audio_input_ids",
            "visual_feats",
        )
        reads_text = getattr(model, "main_input_name", "") == "input_ids" and "input_ids" in accepted
        if reads_text and not any(sense in accepted for sense in senses):
            found.append(name)
    return sorted(found)


def _smaller(name: str, value: Any) -> Any:
    """A small value for a setting, going by its name; the value itself where its name says nothing."""
    if name in _WIDTHS:
        return 32
    if name in _LAYERS:
        return 2
    if name in _HEADS:
        return 4
    if name in _INNER:
        return 64
    if name in _POSITIONS:
        return tiny.POSITIONS + 2
    if name in _EXPERTS:
        return 4
    if name in _EXPERTS_USED:
        return 2
    if name == "num_key_value_heads":
        return 2
    if name in ("head_dim", "d_kv", "kv_channels") and value is not None:
        return 8
    if name in ("sliding_window", "attention_window", "local_attention") and value is not None:
        return 16
    if name in ("use_cache", "output_router_logits"):
        return False
    if "dropout" in name or name in ("attention_probs_dropout_prob", "drop_path_rate", "layerdrop"):
        return 0.0 if isinstance(value, float) else value
    return value


def _config(name: str, vocabulary: int, roles: dict[str, int | None]) -> Any:
    """The architecture's configuration with small sizes; settings that its class does not name are left out."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[name]
    defaults = kind().to_dict()
    aliases = set(getattr(kind, "attribute_map", {}))
    accepted = set(inspect.signature(kind.__init__).parameters) | set(
        getattr(kind, "__dataclass_fields__", ())
    )
    changed: dict[str, Any] = {}
    for key, value in defaults.items():
        if key not in accepted or key in aliases:
            continue
        small = _smaller(key, value)
        if small != value or key in _WIDTHS | _LAYERS | _HEADS | _INNER:
            changed[key] = small
    layers = 2
    for key in ("layer_types", "no_rope_layers", "mlp_layer_types", "layers_block_type"):
        if isinstance(defaults.get(key), list) and defaults[key] and key in accepted:
            changed[key] = defaults[key][-layers:]
    changed["vocab_size"] = vocabulary
    changed |= {
        key: number
        for key, number in roles.items()
        if key in accepted or key.startswith(("pad", "eos", "bos"))
    }
    return kind(**{**changed, **_OWN.get(name, {})})


def _spread(model: Any, generator: Any) -> None:
    """Give weights a spread at which texts differ, whatever the architecture does with them."""
    import torch

    def noise(parameter: torch.Tensor, std: float) -> torch.Tensor:
        return torch.randn(parameter.shape, generator=generator) * std

    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if any(kept in path for kept in _KEPT) or not parameter.is_floating_point():
                continue
            if id(parameter) in embeddings:
                shared = "position" in path or "token_type" in path or "wpe" in path
                parameter.copy_(noise(parameter, 0.3 if shared else 1.0))
            elif parameter.ndim >= 2:
                parameter.copy_(noise(parameter, 1.2 / parameter.shape[-1] ** 0.5))
            else:
                parameter.add_(noise(parameter, 0.1))


def build(folder: Path, name: str) -> Path:
    """Write a sentence-transformers folder of the architecture, with mean pooling.

    Raises:
        NoTinyModel: If transformers makes none of this size.
    """
    import torch
    import transformers

    segments = "token_type_ids" in inspect.signature(_model_class(name).forward).parameters
    inputs = tiny._WITH_SEGMENTS if segments else ("input_ids", "attention_mask")
    bert = tiny._bert_plan("PreTrainedTokenizerFast", inputs)
    plan = tiny._ROBERTA_PLAN if _counts_positions_from_padding(name) else bert
    tokenizer = tiny._make_tokenizer(plan, lowercase=False)
    folder.mkdir(parents=True, exist_ok=True)
    tiny._save_tokenizer(folder, plan, tokenizer, tiny.POSITIONS)
    roles = {
        f"{role}_id": tokenizer.token_to_id(plan.roles.get(role, ""))
        for role in ("pad_token", "bos_token", "eos_token", "cls_token", "sep_token", "mask_token")
    }
    ends = {
        "eos_token_id": "sep_token_id",
        "bos_token_id": "cls_token_id",
        "decoder_start_token_id": "pad_token_id",
    }
    roles |= {key: roles[other] for key, other in ends.items() if roles.get(key) is None}
    try:
        config = _config(name, tokenizer.get_vocab_size(with_added_tokens=True), roles)
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(config).float().eval()
        _spread(model, torch.Generator().manual_seed(0))
        model.save_pretrained(folder)
    except Exception as error:
        raise NoTinyModel(f"{type(error).__name__}: {error}") from error
    width = _width(folder, model)
    modules = [
        tiny.Module("Transformer"),
        tiny.Module(
            "Pooling", {"embedding_dimension": width, "pooling_mode": "mean", "include_prompt": True}
        ),
    ]
    tiny._save_modules(folder, modules, "current")
    tiny._save_transformer_settings(folder, layout="current", max_seq_length=None, lowercase=False)
    tiny._save_settings(
        folder, layout="current", prompts=None, default_prompt_name=None, truncate_dim=None, similarity=None
    )
    return folder


def _model_class(name: str) -> Any:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    classes = MODEL_MAPPING_NAMES[name]
    return getattr(transformers, classes if isinstance(classes, str) else classes[0])


def _counts_positions_from_padding(name: str) -> bool:
    """Whether an architecture is of RoBERTa's family, whose first position follows the padding token's id."""
    module = inspect.getmodule(_model_class(name))
    return module is not None and "create_position_ids_from_input_ids" in inspect.getsource(module)


def _width(folder: Path, model: Any) -> int:
    """Width of the token embeddings, as the model itself gives them."""
    import torch

    with torch.no_grad():
        encoder = (
            model.get_encoder()
            if hasattr(model, "get_encoder") and "t5" in type(model).__name__.lower()
            else model
        )
        ids = torch.tensor([[2, 5, 6, 7, 8, 9, 10, 3]])
        try:
            return int(encoder(input_ids=ids).last_hidden_state.shape[-1])
        except Exception:
            return int(getattr(model.config, "hidden_size", 32))


def settings(folder: Path) -> dict[str, Any]:
    """The model's config.json."""
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found
