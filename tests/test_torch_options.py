"""Options that only torch has."""

import json

import numpy as np
import pytest

from stopt import CrossEncoder, SentenceTransformer, SparseEncoder
from stopt.errors import CorruptModel, OptionError
from stopt.runtime.tokenizer import Batch

TEXTS = ["a", "the quick brown fox", "word " * 40, "¿qué?"]
PAIRS = [(text, "a lazy dog") for text in TEXTS]
# a half keeps 11 bits (float16) or 8 (bfloat16) of 24; ten times what was seen
COSINE = {"float16": 0.99998, "bfloat16": 0.9995}
SPARSE_COSINE = {"float16": 0.9999, "bfloat16": 0.99}  # log1p(relu()) is steep where most logits are
LOSS = {"float16": 0.01, "bfloat16": 0.06}


@pytest.mark.slow
def test_torch_compile_changes_nothing_but_speed(tiny) -> None:
    texts = ["a", "the quick brown fox", "word " * 40]
    plain = SentenceTransformer(tiny("bert"), backend="torch", device="cpu")
    compiled = SentenceTransformer(
        tiny("bert"), backend="torch", device="cpu", model_kwargs={"compile": True}
    )
    np.testing.assert_allclose(compiled.encode(texts), plain.encode(texts), atol=1e-5)


@pytest.mark.parametrize(("key", "value"), [("compile", "yes"), ("compile", 1), ("threads", 0)])
def test_options_of_torch_are_checked(tiny, key, value) -> None:
    with pytest.raises(OptionError, match=f"{key} is") as caught:
        SentenceTransformer(tiny("bert"), backend="torch", model_kwargs={key: value})
    assert caught.value.hint


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "gemma3", "qwen3"])
def test_sdpa_and_eager_attention_give_the_same_vectors(tiny, architecture) -> None:
    found = []
    for attention in ("sdpa", "eager"):
        kwargs = {"attn_implementation": attention}
        model = SentenceTransformer(tiny(architecture), backend="torch", device="cpu", model_kwargs=kwargs)
        assert model.pipeline.session.model.config._attn_implementation == attention
        found.append(model.encode(TEXTS))
    np.testing.assert_allclose(*found, atol=1e-5)


def test_decoders_are_told_positions_and_keep_no_keys(tiny, monkeypatch) -> None:
    session = SentenceTransformer(tiny("qwen3"), backend="torch", device="cpu").pipeline.session
    given = {}
    monkeypatch.setattr(session, "_forward", lambda **each: given.update(each) or session.model(**each))
    ids = np.array([[0, 0, 7], [5, 6, 7]])
    session.run(Batch(ids, np.array([[0, 0, 1], [1, 1, 1]]), np.zeros_like(ids)))
    assert given["position_ids"].tolist() == [[0, 0, 0], [0, 1, 2]]
    assert given["use_cache"] is False


def _cosines(found, wanted) -> np.ndarray:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "gemma3", "qwen3"])
def test_dense_vectors_in_half_precision_are_near_float32(tiny, architecture, dtype) -> None:
    full = SentenceTransformer(tiny(architecture), backend="torch", device="cpu")
    half = SentenceTransformer(
        tiny(architecture), backend="torch", device="cpu", model_kwargs={"dtype": dtype}
    )
    assert half.pipeline.session.precision == dtype
    cosines = _cosines(half.encode(TEXTS), full.encode(TEXTS))
    assert cosines.min() > COSINE[dtype]
    assert cosines.min() < 1 - 1e-9  # it is not float32 that has run


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sparse_vectors_in_half_precision_are_near_float32(tiny, dtype) -> None:
    folder = tiny("bert", kind="splade")
    full = SparseEncoder(folder, backend="torch", device="cpu")
    half = SparseEncoder(folder, backend="torch", device="cpu", model_kwargs={"dtype": dtype})
    assert half.pipeline.session.precision == dtype
    found, wanted = (
        model.encode(TEXTS, convert_to_sparse_tensor=False).float().numpy() for model in (half, full)
    )
    assert _cosines(found, wanted).min() > SPARSE_COSINE[dtype]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scores_in_half_precision_are_near_float32(tiny, dtype) -> None:
    folder = tiny("bert", kind="cross-encoder")
    full = CrossEncoder(folder, backend="torch", device="cpu")
    half = CrossEncoder(folder, backend="torch", device="cpu", model_kwargs={"dtype": dtype})
    assert half.pipeline.session.precision == dtype
    np.testing.assert_allclose(half.predict(PAIRS), full.predict(PAIRS), atol=LOSS[dtype])


def test_attention_of_another_name_is_refused(tiny) -> None:
    """transformers would fetch it from the Hub, code and all."""
    with pytest.raises(
        OptionError, match="attn_implementation 'kernels-community/flash-attn' is not in"
    ) as caught:
        SentenceTransformer(
            tiny("bert"),
            backend="torch",
            model_kwargs={"attn_implementation": "kernels-community/flash-attn"},
        )
    assert caught.value.hint == "known: eager, flash_attention_2, flash_attention_3, flex_attention, sdpa"


def test_attention_that_a_model_lacks_is_told(tiny) -> None:
    with pytest.raises(OptionError, match="cannot run a deberta-v2 with 'sdpa': DebertaV2Model") as caught:
        SentenceTransformer(
            tiny("deberta-v2"), backend="torch", device="cpu", model_kwargs={"attn_implementation": "sdpa"}
        )
    assert caught.value.hint == "attn_implementation='eager' in model_kwargs, or leave it out"


def test_other_errors_with_attention_in_them_are_not_taken_for_that(tiny_copy) -> None:
    folder = tiny_copy("bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 5}))
    with pytest.raises(CorruptModel, match="not a multiple of the number of attention heads"):
        SentenceTransformer(folder, backend="torch", device="cpu")
