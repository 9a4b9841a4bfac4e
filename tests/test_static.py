"""Tables of token embeddings and of token weights: the same vectors as sentence-transformers, with numpy alone."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from installed import run_without
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer as Reference
from sentence_transformers import SparseEncoder
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tiny import CORPUS
from tokenizers import Tokenizer

from stopt import SentenceTransformer
from stopt.errors import CorruptModel, OptionError
from stopt.reading import read_spec
from stopt.runtime.options import OnnxOptions, TorchOptions
from stopt.runtime.sessions import open_session
from stopt.runtime.sessions.table import GATHERED_VALUES, SparseTableSession
from stopt.runtime.tokenizer import TextTokenizer
from stopt.spec import Backend, SparseStaticEmbedding

Tiny = Callable[..., Path]

TEXTS = [*CORPUS, "", " ", "a", "fox " * 60, "\u200b", "[CLS] [PAD] </s>", "x" * 300]
PAIRS = [("The quick brown fox", "the dog"), ("", "Paris"), ("Paris", "")]


def _reference(folder: Path) -> Reference:
    return Reference(str(folder), device="cpu")


def _same(ours: Any, theirs: Any) -> None:
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


# ---- parity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"normalize": True}, {"dense": 8, "normalize": True}, {"truncation": 5}, {"layout": "model2vec"}],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["bert", "roberta", "t5"])
def test_a_table_gives_the_vectors_of_sentence_transformers(
    tiny: Tiny, architecture: str, options: dict[str, Any]
) -> None:
    folder = tiny(architecture, kind="static", **options)
    model = SentenceTransformer(folder)
    assert model.get_backend() == "numpy"
    _same(model.encode(TEXTS), _reference(folder).encode(TEXTS))
    _same(model.encode(TEXTS[0]), _reference(folder).encode(TEXTS[0]))


def test_the_mean_of_a_long_text_is_at_least_as_exact_as_theirs(tiny: Tiny) -> None:
    """sentence-transformers adds up token by token, and drifts away from the mean of many."""
    folder = tiny(kind="static", layout="model2vec")
    text = " ".join(CORPUS * 300)
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    exact = load_file(folder / "model.safetensors")["embeddings"].double()[ids].mean(0).numpy()
    ours = np.abs(SentenceTransformer(folder).encode(text) - exact).max()
    assert ours <= np.abs(_reference(folder).encode(text) - exact).max()
    assert ours < 1e-5


def test_pairs_are_one_text_after_the_other(tiny: Tiny) -> None:
    folder = tiny(kind="static")
    _same(SentenceTransformer(folder).encode(PAIRS), _reference(folder).encode(PAIRS))


def test_prompts_and_options_of_encode_work_as_for_any_model(tiny: Tiny) -> None:
    folder = tiny(kind="static", prompts={"query": "query: "})
    ours, theirs = SentenceTransformer(folder), _reference(folder)
    _same(ours.encode_query(CORPUS), theirs.encode_query(list(CORPUS)))
    _same(
        ours.encode(CORPUS, normalize_embeddings=True, truncate_dim=5),
        theirs.encode(list(CORPUS), normalize_embeddings=True, truncate_dim=5),
    )
    assert torch.allclose(
        ours.encode(CORPUS, convert_to_tensor=True), theirs.encode(list(CORPUS), convert_to_tensor=True)
    )
    assert (
        ours.encode(CORPUS, precision="ubinary") == theirs.encode(list(CORPUS), precision="ubinary")
    ).all()


@pytest.mark.parametrize("normalize", [True, False])
def test_a_folder_of_model2vec_alone_is_what_its_modules_would_be(tiny: Tiny, normalize: bool) -> None:
    folder = tiny(kind="static", layout="plain", normalize=normalize)
    table = load_file(folder / "model.safetensors")["embeddings"]
    static = StaticEmbedding(Tokenizer.from_file(str(folder / "tokenizer.json")), embedding_weights=table)
    theirs = Reference(modules=[static, *([Normalize()] if normalize else [])], device="cpu")
    _same(SentenceTransformer(folder).encode(TEXTS), theirs.encode(TEXTS))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_table_of_another_dtype_is_averaged_in_float32(tiny: Tiny, dtype: str) -> None:
    folder = tiny(kind="static", dtype=dtype)
    table = load_file(folder / "model.safetensors")["embedding.weight"].double()
    ours = SentenceTransformer(folder).encode(CORPUS)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in CORPUS]
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, np.stack([table[each].mean(0).numpy() for each in ids]), atol=1e-6)


@pytest.mark.parametrize("limit", [None, 5])
def test_token_weights_are_those_of_sentence_transformers(tiny: Tiny, limit: int | None) -> None:
    folder = tiny(kind="inference-free", **({} if limit is None else {"max_seq_length": limit}))
    route = read_spec(folder).routes["query"]
    theirs = SparseEncoder(str(folder), device="cpu")
    texts = [text for text in TEXTS if "[PAD]" not in text]  # theirs takes that for padding, if there is any
    tokenizer = TextTokenizer(folder, route.tokenizer)
    session = open_session(folder, route, OnnxOptions())
    found = session.run(tokenizer.pad(tokenizer.tokenize(texts)))["sentence_embedding"]
    assert (session.backend, found.dtype) == (Backend.NUMPY, np.float32)
    np.testing.assert_array_equal(found, theirs.encode_query(texts, convert_to_sparse_tensor=False).numpy())


# ---- how -------------------------------------------------------------------------------------------------------------


def test_a_table_needs_neither_torch_nor_an_engine(tiny: Tiny, tmp_path: Path) -> None:
    folder = tiny(kind="static", normalize=True)
    code = (
        "import json; from stopt import SentenceTransformer; "
        f"print(json.dumps(SentenceTransformer({str(folder)!r}).encode('text').tolist()))"
    )
    absent = {"torch", "transformers", "sentence_transformers", "scipy", "onnx", "onnxruntime", "openvino"}
    done = run_without(absent, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), _reference(folder).encode("text"), atol=1e-6)


@pytest.mark.parametrize("length", [1, 2])
def test_a_long_text_takes_no_more_memory_than_its_tokens(tiny: Tiny, length: int) -> None:
    folder = tiny(kind="static")
    spec = read_spec(folder)
    session = open_session(folder, spec, TorchOptions())
    tokens = 20 * GATHERED_VALUES // spec.front.width
    tokenizer = TextTokenizer(folder, spec.tokenizer)
    row = tokenizer.tokenize(["fox dog"])[0]
    long = type(row)(np.resize(row.ids[:length], tokens), np.zeros(tokens, np.int64))
    batch = tokenizer.pad([long, row])
    tracemalloc.start()
    vectors = session.run(batch)["sentence_embedding"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (
        peak < 3 * 8 * tokens + 4 * 4 * GATHERED_VALUES
    )  # its ids and their rows, and not 80 MB of embeddings
    np.testing.assert_allclose(vectors[0], vectors[1] if length == 2 else vectors[0], atol=1e-5)


def test_a_batch_without_a_token_is_zeros(tiny: Tiny) -> None:
    assert not SentenceTransformer(tiny(kind="static")).encode(["", "", ""]).any()


def test_the_budget_of_a_batch_follows_the_vocabulary(tiny: Tiny) -> None:
    folder = tiny(kind="inference-free")
    front = read_spec(folder).routes["query"].front
    assert isinstance(front, SparseStaticEmbedding)
    tokens = SparseTableSession(folder, front).limits.tokens
    assert tokens is not None
    assert tokens * front.width <= 2**24


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_a_tokenizer_with_more_tokens_than_the_table_is_told(tiny_copy: Tiny) -> None:
    folder = tiny_copy(kind="static")
    path = folder / "model.safetensors"
    save_file({"embedding.weight": load_file(path)["embedding.weight"][:20].clone()}, path)
    with pytest.raises(CorruptModel, match=r"has 20 rows, and tokenizer\.json has a token \d+") as caught:
        SentenceTransformer(folder).encode(CORPUS)
    assert caught.value.hint == "its files come from different models"


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({"device": "cuda"}, "device 'cuda' has no use: the model is a table"),
        ({"model_kwargs": {"dtype": "float16"}}, "dtype in model_kwargs has no use"),
        (
            {"backend": "torch", "model_kwargs": {"compile": True, "attn_implementation": "sdpa"}},
            "attn_implementation and compile in model_kwargs has no use",
        ),
    ],
    ids=str,
)
def test_options_of_engines_are_refused(tiny: Tiny, keywords: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match) as caught:
        SentenceTransformer(tiny(kind="static"), **keywords)
    assert caught.value.hint == "leave it out"


def test_numpy_is_not_a_backend_to_ask_for(tiny: Tiny) -> None:
    with pytest.raises(OptionError, match="backend 'numpy' is unknown") as caught:
        SentenceTransformer(tiny(kind="static"), backend="numpy")
    assert caught.value.hint == "known: onnx, openvino, torch"
