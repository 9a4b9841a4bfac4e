"""Tiny models of every kind but the dense ones with a transformer: seeded, offline, saved by sentence-transformers itself.

The transformer, its tokenizer and its weights are those of `tiny`; older layouts are what sentence-transformers 5.7 saved,
rewritten as earlier versions had it.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny import CORPUS, HIDDEN, POSITIONS, build_tiny, build_transformer

if TYPE_CHECKING:
    import torch

__all__ = ["BUILDERS", "STATIC_WIDTH"]

STATIC_WIDTH = 24


# ---- sparse encoders ------------------------------------------------------------------------------------------------


def build_splade(
    folder: Path,
    architecture: str = "bert",
    *,
    seed: int = 0,
    strategy: str = "max",
    activation: str = "relu",
    max_seq_length: int = POSITIONS,
    prompts: Mapping[str, str] | None = None,
    similarity: str | None = None,
    layout: str = "current",
) -> Path:
    """Write a SPLADE model: a masked language model and SpladePooling.

    Args:
        folder: Where to write.
        architecture: One of `tiny.ARCHITECTURES` with a masked language model.
        seed: Seed of every weight.
        strategy: "max" or "sum".
        activation: "relu" or "log1p_relu".
        max_seq_length: Longest text in tokens.
        prompts: Prompt texts by name.
        similarity: Stored similarity function; None is the class's default.
        layout: "current"; "legacy" with the MLMTransformer of versions before 5.4; "plain" without
            sentence-transformers' files.
    """
    plain = folder if layout == "plain" else folder / "plain"
    _masked_language_model(plain, architecture, seed, max_seq_length)
    if layout == "plain":
        return folder
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    transformer = Transformer(str(plain), transformer_task="fill-mask")
    pooling = SpladePooling(pooling_strategy=strategy, activation_function=activation)
    model = SparseEncoder(
        modules=[transformer, pooling], device="cpu", prompts=prompts, similarity_fn_name=similarity
    )
    _save(model, folder)
    if layout == "legacy":
        _set_types(
            folder,
            "sentence_transformers.sparse_encoder.models.MLMTransformer",
            "sentence_transformers.sparse_encoder.models.SpladePooling",
        )
        _write(
            folder / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False}
        )
    return folder


def build_inference_free(
    folder: Path,
    architecture: str = "bert",
    *,
    seed: int = 0,
    max_seq_length: int = POSITIONS,
    default_route: str | None = "document",
    allow_empty_key: bool = True,
    layout: str = "current",
) -> Path:
    """Write a Router whose queries have a weight per token and whose documents go through SPLADE.

    Args:
        folder: Where to write.
        architecture: As for `build_splade`.
        seed: Seed of every weight.
        max_seq_length: Longest text in tokens, of both routes.
        default_route: Route for calls that name no task.
        allow_empty_key: Whether the first route, "query", is the default where there is none.
        layout: "current", or "legacy" with the class names before 5.4.
    """
    plain = folder / "plain"
    _masked_language_model(plain, architecture, seed, max_seq_length)
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

    transformer = Transformer(str(plain), transformer_task="fill-mask")
    size = len(transformer.tokenizer.get_vocab())
    weight = torch.rand(size, generator=torch.Generator().manual_seed(seed)) * 5
    router = Router.for_query_document(
        [SparseStaticEmbedding(transformer.tokenizer, weight, frozen=True)],
        [transformer, SpladePooling()],
        default_route=default_route,
        allow_empty_key=allow_empty_key,
    )
    _save(SparseEncoder(modules=[router], device="cpu"), folder)
    if layout == "legacy":
        _set_types(folder, "sentence_transformers.models.Router")
        config = json.loads((folder / "router_config.json").read_text())
        names = {"Transformer": "MLMTransformer"}
        for key, kind in config["types"].items():
            name = kind.rpartition(".")[2]
            config["types"][key] = f"sentence_transformers.sparse_encoder.models.{names.get(name, name)}"
        config["parameters"].pop("route_mappings", None)
        _write(folder / "config.json", config)
        (folder / "router_config.json").unlink()
    return folder


def build_csr(
    folder: Path,
    architecture: str = "bert",
    *,
    seed: int = 0,
    hidden_dim: int = 48,
    k: int = 8,
    normalize: bool = False,
    dense: int | None = None,
    layout: str = "current",
) -> Path:
    """Write a dense backbone with a SparseAutoEncoder.

    Args:
        folder: Where to write.
        architecture: One of `tiny.ARCHITECTURES`.
        seed: Seed of every weight.
        hidden_dim: Width of the sparse vector.
        k: Values kept of it.
        normalize: Whether its input is standardised.
        dense: Width of a Dense module before it; None for no Dense.
        layout: "current", or "legacy" with the class names before 5.4.
    """
    import torch
    from sentence_transformers import SentenceTransformer, SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    plain = build_tiny(folder / "plain", architecture, seed=seed, dense=dense)
    backbone = SentenceTransformer(str(plain), device="cpu")
    auto = SparseAutoEncoder(
        backbone.get_embedding_dimension(), hidden_dim=hidden_dim, k=k, k_aux=hidden_dim, normalize=normalize
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (auto.encoder.weight, auto.pre_bias, auto.latent_bias):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    _save(SparseEncoder(modules=[*backbone, auto], device="cpu"), folder)
    if layout == "legacy":
        kinds = [entry["type"] for entry in json.loads((folder / "modules.json").read_text())]
        _set_types(folder, *kinds[:-1], "sentence_transformers.sparse_encoder.models.SparseAutoEncoder")
    return folder


def _masked_language_model(folder: Path, architecture: str, seed: int, max_length: int) -> None:
    build_transformer(
        folder,
        architecture,
        seed=seed,
        model_class="AutoModelForMaskedLM",
        max_length=max_length,
        prepare=lambda model: _make_sparse(folder, model),
    )


def _make_sparse(folder: Path, model: "torch.nn.Module") -> None:
    """Lower the bias of the vocabulary's logits until few are above zero, as a trained SPLADE model's are."""
    import torch
    from transformers import AutoTokenizer

    batch = AutoTokenizer.from_pretrained(folder)(list(CORPUS), padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits[batch["attention_mask"] == 1]
        model.get_output_embeddings().bias -= torch.quantile(logits, 0.97, dim=0)


# ---- cross-encoders -------------------------------------------------------------------------------------------------


def build_cross_encoder(
    folder: Path,
    architecture: str = "bert",
    *,
    seed: int = 0,
    num_labels: int = 1,
    activation: str | None = None,
    max_length: int = POSITIONS,
    prompts: Mapping[str, str] | None = None,
    default_prompt_name: str | None = None,
    layout: str = "current",
) -> Path:
    """Write a cross-encoder.

    Args:
        folder: Where to write.
        architecture: One of `tiny.ARCHITECTURES` with a classifier.
        seed: Seed of every weight.
        num_labels: Labels.
        activation: Class of torch.nn on the logits, such as "Sigmoid"; None leaves it to the class.
        max_length: Longest pair in tokens.
        prompts: Prompt texts by name; in the current layout only.
        default_prompt_name: Name of the prompt before every query; in the current layout only.
        layout: "current" with modules.json; "legacy" as versions before 5.4 wrote, "oldest" as before 4.0, both with
            the activation in config.json; "plain" as transformers writes, without one.
    """
    from sentence_transformers import CrossEncoder
    from torch import nn

    plain = folder / "plain" if layout == "current" else folder
    build_transformer(
        plain,
        architecture,
        seed=seed,
        model_class="AutoModelForSequenceClassification",
        labels=num_labels,
        max_length=max_length,
        prepare=lambda model: _make_decided(plain, model, num_labels),
    )
    if layout == "current":
        function = None if activation is None else getattr(nn, activation)()
        model = CrossEncoder(
            str(plain),
            device="cpu",
            activation_fn=function,
            prompts=None if prompts is None else dict(prompts),
            default_prompt_name=default_prompt_name,
        )
        _save(model, folder)
    elif layout != "plain" and activation is not None:
        name = f"{getattr(nn, activation).__module__}.{activation}"
        config = json.loads((folder / "config.json").read_text())
        if layout == "legacy":
            config["sentence_transformers"] = {"activation_fn": name, "version": "5.0.0"}
        else:
            config["sbert_ce_default_activation_function"] = name
        _write(folder / "config.json", config)
    return folder


def _make_decided(folder: Path, model: "torch.nn.Module", labels: int) -> None:
    """Move and widen the logits until pairs get clearly different scores, as a trained model's do."""
    import torch
    from transformers import AutoTokenizer

    pairs = AutoTokenizer.from_pretrained(folder)(
        list(CORPUS), list(CORPUS[3:] + CORPUS[:3]), padding=True, return_tensors="pt"
    )
    last = [
        each for each in model.modules() if isinstance(each, torch.nn.Linear) and each.out_features == labels
    ][-1]
    with torch.no_grad():
        logits = model(**pairs).logits
        factor = (1.5 / logits.std(dim=0)).clamp(max=10)
        last.weight *= factor[:, None]
        last.bias.copy_((last.bias - logits.mean(dim=0)) * factor)


def build_dense_cross_encoder(
    folder: Path, architecture: str = "bert", *, seed: int = 0, num_labels: int = 1
) -> Path:
    """Write a cross-encoder of an encoder, Pooling, and a Dense module that writes the scores."""
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    plain = folder / "plain"
    build_transformer(plain, architecture, seed=seed)
    torch.manual_seed(seed)
    head = Dense(HIDDEN, num_labels, activation_function=torch.nn.Identity(), module_output_name="scores")
    modules = [Transformer(str(plain)), Pooling(HIDDEN, pooling_mode="cls"), head]
    _save(CrossEncoder(modules=modules, device="cpu"), folder)
    return folder


# ---- tables and routers ---------------------------------------------------------------------------------------------


def build_static(
    folder: Path,
    architecture: str = "bert",
    *,
    seed: int = 0,
    normalize: bool = False,
    dense: int | None = None,
    dtype: str = "float32",
    prompts: Mapping[str, str] | None = None,
    truncation: int | None = None,
    layout: str = "current",
) -> Path:
    """Write a table of token embeddings.

    Args:
        folder: Where to write.
        architecture: Whose tokenizer to use.
        seed: Seed of every weight.
        normalize: Whether a Normalize module comes last.
        dense: Width of a Dense module; None for no Dense.
        dtype: torch's name of the table's dtype.
        prompts: Prompt texts by name; in the current layout only.
        truncation: Tokens that tokenizer.json itself cuts a text to.
        layout: "current" as sentence-transformers writes; "model2vec" as model2vec does, with modules.json; "plain" as
            model2vec does, without.
    """
    import torch
    from safetensors.torch import save_file
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    tokenizer = build_transformer(folder / "plain", architecture, seed=seed)
    if truncation is not None:
        tokenizer.enable_truncation(truncation)
    torch.manual_seed(seed)
    table = torch.randn(tokenizer.get_vocab_size(), STATIC_WIDTH)
    if layout == "current":
        modules: list[torch.nn.Module] = [StaticEmbedding(tokenizer, embedding_weights=table)]
        modules += [Dense(STATIC_WIDTH, dense)] if dense is not None else []
        modules += [Normalize()] if normalize else []
        _save(SentenceTransformer(modules=modules, device="cpu", prompts=prompts), folder)
        if dtype != "float32":
            path = folder / "model.safetensors"
            save_file({"embedding.weight": table.to(getattr(torch, dtype))}, path)
        return folder
    shutil.rmtree(folder / "plain")
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"embeddings": table.to(getattr(torch, dtype))}, folder / "model.safetensors")
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": normalize}
    _write(folder / "config.json", {**config, "hidden_dim": STATIC_WIDTH, "seq_length": 1_000_000})
    if layout == "model2vec":
        kinds = [("StaticEmbedding", "."), *([("Normalize", "1_Normalize")] if normalize else [])]
        entries = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (name, path) in enumerate(kinds)
        ]
        _write(folder / "modules.json", entries)
    return folder


def build_router(
    folder: Path,
    architecture: str = "bert",
    *,
    seed: int = 0,
    width: int = 8,
    default_route: str | None = None,
    allow_empty_key: bool = True,
    route_mappings: Mapping[Any, str] | None = None,
    normalize: bool = False,
    layout: str = "current",
) -> Path:
    """Write a dense model with a Dense module per route after a shared Transformer and Pooling.

    Args:
        folder: Where to write.
        architecture: One of `tiny.ARCHITECTURES`.
        seed: Seed of every weight.
        width: Width of both routes.
        default_route: Route for calls that name no task.
        allow_empty_key: Whether the first route, "query", is the default where there is none.
        route_mappings: Routes by (task, modality).
        normalize: Whether a Normalize module follows the Router.
        layout: "current", or "legacy" with the Asym module of versions before 5.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Router
    from sentence_transformers.sentence_transformer.modules import Normalize

    plain = build_tiny(folder / "plain", architecture, seed=seed)
    torch.manual_seed(seed)
    router = Router(
        {"query": [Dense(HIDDEN, width)], "document": [Dense(HIDDEN, width), Dense(width, width)]},
        default_route=default_route,
        allow_empty_key=allow_empty_key,
        route_mappings=None if route_mappings is None else dict(route_mappings),
    )
    modules = [*SentenceTransformer(str(plain), device="cpu"), router, *([Normalize()] if normalize else [])]
    _save(SentenceTransformer(modules=modules, device="cpu"), folder)
    if layout == "legacy":
        kinds = [entry["type"] for entry in json.loads((folder / "modules.json").read_text())]
        kinds[2] = "sentence_transformers.models.Asym"
        _set_types(folder, *kinds)
        place = folder / "2_Router"
        config = json.loads((place / "router_config.json").read_text())
        config["types"] = {key: "sentence_transformers.models.Dense" for key in config["types"]}
        config["parameters"] = {"allow_empty_key": allow_empty_key}
        _write(place / "config.json", config)
        (place / "router_config.json").unlink()
    return folder


BUILDERS: Mapping[str, Callable[..., Path]] = {
    "splade": build_splade,
    "inference-free": build_inference_free,
    "csr": build_csr,
    "cross-encoder": build_cross_encoder,
    "dense-cross-encoder": build_dense_cross_encoder,
    "static": build_static,
    "router": build_router,
}


# ---- files ----------------------------------------------------------------------------------------------------------


def _save(model: Any, folder: Path) -> None:
    """Have sentence-transformers write the folder, and remove what it was made of."""
    model.save_pretrained(str(folder), create_model_card=False)
    shutil.rmtree(folder / "plain", ignore_errors=True)


def _set_types(folder: Path, *types: str) -> None:
    entries = json.loads((folder / "modules.json").read_text())
    for entry, kind in zip(entries, types, strict=True):
        entry["type"] = kind
    _write(folder / "modules.json", entries)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), "utf-8")
