"""Batches without padding give the vectors of padded ones. The kernel is a stand-in, see `flash`; no GPU is needed."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from flash import Flash, standing_in
from tiny import WINDOW, build_transformer

from stopt import CrossEncoder, SentenceTransformer
from stopt.errors import OptionError
from stopt.runtime.batching import BatchLimits, plan_batches
from stopt.runtime.sessions.packing import Packed, check_flash, takes_packed
from stopt.runtime.tokenizer import Batch
from stopt.spec import Task

# sums in another order, over two layers
CLOSE = 1e-5
# beyond WINDOW and beyond the limit of tokens, and down to none
TEXTS = ["a", "the quick brown fox", "word " * 400, "", "hello there " * 20, "x y"]
MODES = ["mean", "cls", "lasttoken", "max"]
FLASH = {"attn_implementation": "flash_attention_2"}
EAGER = {"attn_implementation": "eager"}


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> Flash:
    return standing_in(monkeypatch)


def open_torch(folder: Path, **model_kwargs: Any) -> SentenceTransformer:
    return SentenceTransformer(folder, backend="torch", device="cpu", model_kwargs=model_kwargs)


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_vectors_are_those_of_padded_batches(tiny, flash, architecture, include_prompt) -> None:
    folder = tiny(architecture, pooling=MODES, include_prompt=include_prompt)
    plain, packed = open_torch(folder, **EAGER), open_torch(folder, **FLASH)
    for prompt in (None, "query: "):
        found = packed.encode(TEXTS, prompt=prompt)
        np.testing.assert_allclose(found, plain.encode(TEXTS, prompt=prompt), atol=CLOSE)


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_a_text_has_the_same_vector_alone_and_among_others(tiny, flash, architecture) -> None:
    packed = open_torch(tiny(architecture), **FLASH)
    alone = [packed.encode(text) for text in TEXTS]
    np.testing.assert_allclose(packed.encode(TEXTS), alone, atol=CLOSE)


@pytest.mark.slow
def test_batches_without_padding_can_be_compiled(tiny, flash) -> None:
    model = open_torch(tiny("qwen3"), compile=True, **FLASH)
    plain = open_torch(tiny("qwen3"), **EAGER)
    for texts in (TEXTS, TEXTS[:3], TEXTS[1:2]):
        np.testing.assert_allclose(model.encode(texts), plain.encode(texts), atol=CLOSE)
        assert len(flash.varlen[-1]) == len(texts)


def test_weightedmean_counts_the_columns_of_padding_on_the_left_all_the_same(tiny, flash) -> None:
    folder = tiny("qwen3", pooling="weightedmean")
    found = open_torch(folder, **FLASH).encode(TEXTS)
    np.testing.assert_allclose(found, open_torch(folder, **EAGER).encode(TEXTS), atol=CLOSE)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_stays_near_float32(tiny, flash, dtype) -> None:
    """The kernel knows no other."""
    folder = tiny("gemma3", normalize=True)
    packed = open_torch(folder, dtype=dtype, **FLASH)
    assert packed.encode(TEXTS, convert_to_tensor=True).dtype == getattr(torch, dtype)
    cosines = (packed.encode(TEXTS).astype(np.float32) * open_torch(folder).encode(TEXTS)).sum(1)
    assert cosines.min() > 0.998  # unit length is rounded too


def test_the_run_has_no_padding(tiny, flash) -> None:
    model = open_torch(tiny("qwen3"), **FLASH)
    model.encode(TEXTS)
    lengths = sorted((len(row) for row in model.pipeline.tokenizer.tokenize(TEXTS)), reverse=True)
    assert lengths[0] > WINDOW > lengths[-1] == 1
    assert flash.varlen == [lengths] * 2  # a layer each
    assert flash.dense == []


_DECODERS: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        "head_dim": 8,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 2,
    },  # sees backward only
    "granite": {"attention_multiplier": 0.3, "embedding_multiplier": 2.0},
    "llama": {},
    "mistral": {"sliding_window": WINDOW, "head_dim": 8},
    "olmo2": {},
    "phi3": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1, "head_dim": 8},
    "smollm3": {"no_rope_layers": [1, 0]},
}


@pytest.mark.parametrize("model_type", _DECODERS)
def test_every_decoder_that_is_packed_can_be(tiny_copy, flash, model_type) -> None:
    folder = tiny_copy("qwen3", pooling=["mean", "lasttoken"])
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        model_type,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        vocab_size=512,
        pad_token_id=511,
        initializer_range=0.3,  # so that tokens look at others at all
        **_DECODERS[model_type],
    )
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    plain, packed = open_torch(folder, **EAGER), open_torch(folder, **FLASH)
    assert packed.pipeline.session.limits.padding_free
    found, wanted = packed.encode(TEXTS), plain.encode(TEXTS)
    np.testing.assert_allclose(found, wanted, atol=CLOSE * float(np.abs(wanted).max()))
    assert len(flash.varlen) == 2


def test_a_text_without_tokens_is_run_as_by_itself(tiny, flash) -> None:
    session = open_torch(tiny("qwen3"), **FLASH).pipeline.session
    plain = open_torch(tiny("qwen3"), **EAGER).pipeline.session
    ids = np.array([[0, 0, 0], [0, 7, 8]])
    found = session.run(Batch(ids, np.array([[0, 0, 0], [0, 1, 1]]), np.zeros_like(ids)))
    assert flash.varlen[0] == [1, 2]
    assert found["attention_mask"].tolist() == [[0, 0, 0], [0, 1, 1]]
    alone = plain.run(Batch(ids[:1, :1], np.zeros((1, 1), np.int64), ids[:1, :1]))["token_embeddings"]
    embeddings = found["token_embeddings"]
    np.testing.assert_allclose(embeddings[0, 0], alone[0, 0], atol=CLOSE)
    assert not embeddings[0, 1:].any()
    assert not embeddings[1, 0].any()
    only = session.run(Batch(ids[:1], np.zeros((1, 3), np.int64), ids[:1]))
    np.testing.assert_allclose(only["token_embeddings"][0, 0], alone[0, 0], atol=CLOSE)


def test_tokens_go_where_they_stood() -> None:
    mask = np.array([[0, 0, 1], [1, 1, 1], [0, 1, 1]])
    packed = Packed.of(Batch(np.arange(9).reshape(3, 3), mask, np.zeros((3, 3), np.int64)))
    assert packed.input_ids.tolist() == [[2, 3, 4, 5, 7, 8]]
    assert packed.position_ids.tolist() == [[0, 0, 1, 2, 0, 1]]
    assert packed.starts.tolist() == [0, 1, 4, 6]
    assert packed.starts.dtype == np.int32
    assert packed.longest == 3
    values = torch.arange(1.0, 13).reshape(1, 6, 2)
    padded = packed.unpacked(values, torch.from_numpy(packed.places))
    assert padded.shape == (3, 3, 2)
    assert padded[:, :, 1].tolist() == [[0, 0, 2], [4, 6, 8], [0, 10, 12]]


def test_batches_without_padding_are_counted_in_real_tokens() -> None:
    lengths = [50, 30, 10, 10]
    plans = [
        list(map(len, plan_batches(lengths, BatchLimits(tokens=100, padding_free=free))))
        for free in (True, False)
    ]
    assert plans == [[4], [2, 2]]


def test_one_long_text_does_not_take_all_short_ones_along() -> None:
    plan = list(plan_batches([100] + [1] * 400, BatchLimits(tokens=200, padding_free=True)))
    assert [len(rows) for rows in plan] == [8, 200, 193]
    assert len(next(plan_batches([0] * 9, BatchLimits(tokens=4, padding_free=True)))) == 4


def test_what_cannot_be_packed_is_padded(tmp_path, flash, caplog) -> None:
    folder = tmp_path / "reranker"
    build_transformer(folder, "qwen3", model_class="AutoModelForSequenceClassification", labels=1)
    pairs = [("a", "b"), ("the quick brown fox", "word " * 6)]
    with caplog.at_level(logging.INFO, "stopt"):
        model = CrossEncoder(folder, backend="torch", device="cpu", model_kwargs=FLASH)
    assert "flash_attention_2, the model is given padded batches" in caplog.text
    assert "padding_free" not in repr(model)
    plain = CrossEncoder(folder, backend="torch", device="cpu", model_kwargs=EAGER)
    np.testing.assert_allclose(model.predict(pairs), plain.predict(pairs), atol=CLOSE)
    assert flash.varlen  # transformers takes padding out around each attention


def test_it_is_said_that_batches_have_no_padding(tiny, flash, caplog) -> None:
    with caplog.at_level(logging.INFO, "stopt"):
        model = open_torch(tiny("qwen3"), **FLASH)
    assert "flash_attention_2, the model is given batches without padding" in caplog.text
    assert "precision='float32', padding_free=True, " in repr(model)
    assert "padding_free" not in repr(open_torch(tiny("qwen3")))


@pytest.mark.parametrize(
    ("attention", "model_type", "task", "expected"),
    [
        ("flash_attention_2", "qwen3", Task.FEATURES, True),
        ("flash_attention_3", "qwen3", Task.FEATURES, True),
        ("sdpa", "qwen3", Task.FEATURES, False),
        ("flash_attention_2", "qwen3", Task.CLASSIFICATION, False),
        ("flash_attention_2", "lfm2", Task.FEATURES, False),
    ],
)
def test_only_known_decoders_are_packed(attention, model_type, task, expected) -> None:
    assert takes_packed(attention, model_type, task) is expected


# ---- what flash attention needs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "dtype", "reasons", "hint"),
    [
        (
            "cpu",
            "float32",
            "runs on CUDA devices.*is cpu; .*is float32; .*flash_attn is not installed",
            "'sdpa'",
        ),
        (
            "cuda",
            "bfloat16",
            "^[^;]*: the package flash_attn is not installed \\(",
            "'sdpa', the default, runs",
        ),
        ("cuda", "auto", "^[^;]*: the package flash_attn is not installed \\(", "'sdpa', the default, runs"),
        (
            "npu",
            "float32",
            "^[^;]*: it computes in float16 or bfloat16, and the dtype is float32 \\(",
            "dtype='bfl",
        ),
    ],
)
def test_every_reason_against_flash_attention_is_told(device, dtype, reasons, hint) -> None:
    with pytest.raises(OptionError, match=reasons) as caught:
        check_flash("flash_attention_2", device, dtype)
    assert hint in caught.value.hint


def test_it_is_told_before_the_weights_are_read(tiny_copy) -> None:
    folder = tiny_copy("qwen3")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        OptionError, match="attn_implementation 'flash_attention_2' is not possible: it runs on CUDA"
    ):
        open_torch(folder, dtype="float16", **FLASH)


def test_nothing_stands_against_it_where_all_is_there(monkeypatch) -> None:
    monkeypatch.setattr("stopt.runtime.sessions.packing.find_spec", lambda name: name)
    check_flash("flash_attention_2", "cuda", "bfloat16")
    check_flash("flash_attention_3", "cuda", "auto")


def test_the_checkpoints_dtype_counts_too(tiny, flash, monkeypatch) -> None:
    """``dtype="auto"`` is known once the weights are read."""
    asked: list[tuple[str, str, str]] = []
    monkeypatch.setattr("stopt.runtime.sessions.torch.check_flash", lambda *given: asked.append(given))
    open_torch(tiny("qwen3"), dtype="auto", **FLASH)
    assert asked == [("flash_attention_2", "cpu", "auto"), ("flash_attention_2", "cpu", "float32")]


def test_a_model_without_flash_attention_says_so(tiny, flash) -> None:
    with pytest.raises(
        OptionError, match=r"cannot run a bert with 'flash_attention_2': BertModel does not support Flash"
    ) as caught:
        open_torch(tiny("bert"), **FLASH)
    assert caught.value.hint == "attn_implementation='sdpa' in model_kwargs, or leave it out"


def test_modernbert_does_not_pick_flash_attention_by_itself(tiny, monkeypatch) -> None:
    """As it does in transformers, in float32 too, which it then computes in bfloat16."""
    folder = tiny("modernbert")  # built without it
    standing_in(monkeypatch)
    session = open_torch(folder).pipeline.session
    assert session.model.config._attn_implementation == "sdpa"
