"""Our vectors are sentence-transformers' own, for every architecture, choice of modules and engine; compared live."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parity.comparing import (
    CLEARLY_DIFFERENT,
    ENGINES,
    TEXTS,
    TOLERANCES,
    Exported,
    Load,
    closest,
    largest_error,
    serve,
)
from tiny import ARCHITECTURES, HIDDEN, POOLING_MODES

from stopt import SentenceTransformer

PROMPTS = {"query": "query: ", "document": "", "long": "Represent this text for retrieval, please: "}
# a right-padding encoder, a decoder padded on the left, and the two that sentence-transformers' own backends get wrong
FEW = ("bert", "qwen3", "t5", "gemma3")
# a batch changes a vector by the order of additions in matrix products only (measured: below 1e-6)
NOISE = 1e-5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_of_every_architecture_equal_sentence_transformers(
    exported: Exported, oracle: Load, architecture: str, engine: str
) -> None:
    folder = exported(architecture)
    expected = oracle(folder).encode(list(TEXTS))
    assert closest(expected) < CLEARLY_DIFFERENT
    found = serve(folder, engine).encode(list(TEXTS))
    assert found.dtype == np.float32
    assert largest_error(found, expected) <= TOLERANCES[engine]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_token_embeddings_equal_sentence_transformers(
    exported: Exported, oracle: Load, architecture: str, engine: str
) -> None:
    folder = exported(architecture)
    expected = oracle(folder).encode(list(TEXTS), output_value="token_embeddings")
    # padding on the left stays, so the shapes are those of the batch: theirs is one of all texts
    found = serve(folder, engine).encode(list(TEXTS), output_value="token_embeddings", max_batch_tokens=10**6)
    tokens = [len(row) for row in serve(folder, engine).pipeline.tokenizer.tokenize(TEXTS)]
    for ours, theirs, count in zip(found, expected, tokens, strict=True):
        assert ours.shape == tuple(theirs.shape)
        # padding on the left stays in, and nothing defines what stands there
        assert largest_error(ours[-count:], theirs[-count:].numpy()) <= TOLERANCES[engine]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("architecture", FEW)
def test_all_features_equal_sentence_transformers(
    exported: Exported, oracle: Load, architecture: str, engine: str
) -> None:
    folder = exported(architecture)
    texts = list(TEXTS[1:5])  # sentence-transformers 5.7 raises IndexError for five texts and more
    expected = oracle(folder).encode(texts, output_value=None)
    # in one batch, as theirs: padding is a feature too
    found = serve(folder, engine).encode(texts, output_value=None, max_batch_tokens=10**6)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours["input_ids"], theirs["input_ids"])
        assert np.array_equal(ours["attention_mask"], theirs["attention_mask"])
        real = np.asarray(ours["attention_mask"]) == 1
        tolerance = TOLERANCES[engine]
        assert largest_error(ours["sentence_embedding"], theirs["sentence_embedding"]) <= tolerance
        tokens = np.asarray(ours["token_embeddings"])[real]
        assert largest_error(tokens, theirs["token_embeddings"].numpy()[real]) <= tolerance


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", [*POOLING_MODES, POOLING_MODES], ids=str)
@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_pooling_with_and_without_prompt_equals_sentence_transformers(
    exported: Exported,
    oracle: Load,
    architecture: str,
    pooling: str | tuple[str, ...],
    include_prompt: bool,
    engine: str,
) -> None:
    folder = exported(architecture, pooling=pooling, include_prompt=include_prompt, prompts=PROMPTS)
    theirs, ours = oracle(folder), serve(folder, engine)
    bare = theirs.encode(list(TEXTS))
    for name in ("document", "query", "long"):
        expected = theirs.encode(list(TEXTS), prompt_name=name)
        # weightedmean counts padding on the left: vectors are comparable only from the same batch
        found = ours.encode(list(TEXTS), prompt_name=name, max_batch_tokens=10**6)
        # a prompt must matter, or leaving it out would pass too
        assert (name == "document") or np.abs(expected - bare).max() > 0.1
        assert largest_error(found, expected) <= TOLERANCES[engine]


# one row per value, so that each meets each engine, and a few combinations
HEADS: dict[str, dict[str, Any]] = {
    "dense": {"dense": 24},
    "normalize": {"normalize": True},
    "layer-norm": {"layer_norm": True},
    "dropout": {"dropout": True},
    "all": {"pooling": "cls", "dropout": True, "dense": 24, "layer_norm": True, "normalize": True},
    "concatenated-dense": {"pooling": ("mean", "max"), "dense": 16, "normalize": True},
    "default-prompt": {
        "prompts": PROMPTS,
        "default_prompt_name": "query",
        "include_prompt": False,
        "dense": 24,
    },
    "truncated": {"dense": 24, "normalize": True, "truncate_dim": 8},
    "limited": {"max_seq_length": 20, "normalize": True},
    "legacy": {"layout": "legacy", "pooling": "cls", "dense": 24, "max_seq_length": 30},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("architecture", ["xlm-roberta", "qwen3", "t5"])
def test_modules_after_pooling_equal_sentence_transformers(
    exported: Exported, oracle: Load, architecture: str, head: str, engine: str
) -> None:
    folder = exported(architecture, **HEADS[head])
    theirs, ours = oracle(folder), serve(folder, engine)
    for options in ({}, {"normalize_embeddings": True, "truncate_dim": 6}):
        expected = theirs.encode(list(TEXTS), **options)
        assert largest_error(ours.encode(list(TEXTS), **options), expected) <= TOLERANCES[engine]


@pytest.mark.parametrize("engine", ENGINES)
def test_query_and_document_prompts_equal_sentence_transformers(
    exported: Exported, oracle: Load, engine: str
) -> None:
    folder = exported(
        "xlm-roberta", prompts={"query": "query: ", "document": "passage: "}, default_prompt_name="query"
    )
    theirs, ours = oracle(folder), serve(folder, engine)
    expected = [getattr(theirs, f"encode_{kind}")(list(TEXTS)) for kind in ("query", "document")]
    found = [getattr(ours, f"encode_{kind}")(list(TEXTS)) for kind in ("query", "document")]
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    assert largest_error(found, expected) <= TOLERANCES[engine]
    assert largest_error(ours.similarity(*found), theirs.similarity(*expected)) <= TOLERANCES[engine]


@pytest.fixture(scope="module")
def served(exported: Exported) -> Callable[[str, str], SentenceTransformer]:
    """Our models, opened once: hypothesis encodes with them many times."""
    opened: dict[tuple[str, str], SentenceTransformer] = {}

    def load(architecture: str, engine: str) -> SentenceTransformer:
        key = architecture, engine
        return opened.setdefault(key, opened.get(key) or serve(exported(architecture), engine))

    return load


_WORD = st.sampled_from(["the", "fox", "Paris", "über", "東京", "😀", "3.5%", "\t", "rice,"])
_TEXT = st.one_of(
    st.lists(_WORD, max_size=60).map(" ".join), st.text(st.characters(codec="utf-8"), max_size=30)
)


@pytest.mark.parametrize(("architecture", "engine"), product((*FEW, "modernbert"), ENGINES))
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), texts=st.lists(_TEXT, min_size=1, max_size=9), batch_size=st.integers(1, 9))
def test_company_and_order_do_not_change_a_vector(
    served: Callable[[str, str], SentenceTransformer],
    architecture: str,
    engine: str,
    data: st.DataObject,
    texts: list[str],
    batch_size: int,
) -> None:
    model = served(architecture, engine)
    alone = np.stack([model.encode(text) for text in texts])
    assert largest_error(model.encode(texts, batch_size=batch_size), alone) <= NOISE
    order = data.draw(st.permutations(range(len(texts))))
    found = model.encode([texts[place] for place in order], batch_size=batch_size)
    assert largest_error(found, alone[list(order)]) <= NOISE
    # company past the limit pads every other text to the full length
    padded = model.encode([*texts, "rice " * 400], batch_size=len(texts) + 1)
    assert largest_error(padded[:-1], alone) <= NOISE


def test_vectors_have_the_models_width(exported: Exported) -> None:
    for engine in ENGINES:
        model = serve(exported("bert", pooling=("mean", "max"), dense=24), engine)
        assert model.encode("a").shape == (24,) == (model.get_embedding_dimension(),)
        assert serve(exported("bert"), engine).encode(["a"]).shape == (1, HIDDEN)
