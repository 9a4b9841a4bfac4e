"""torch: what the transformers of sparse encoders and cross-encoders give, before anything of ours follows."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SparseEncoder

from stopt.errors import CorruptModel
from stopt.reading import read_spec
from stopt.runtime.modules import Features
from stopt.runtime.options import TorchOptions
from stopt.runtime.sessions import open_session
from stopt.runtime.tokenizer import Text, TextTokenizer
from stopt.spec import ModelKind

Tiny = Callable[..., Path]

TEXTS: list[Text] = ["The quick brown fox.", "Paris", "What is the capital of France? " * 30]
PAIRS: list[Text] = [("What is the capital?", "Paris"), ("rice", "boil water " * 60), ("a " * 90, "b " * 90)]


def _run(folder: Path, texts: list[Text]) -> Features:
    spec = read_spec(folder)
    tokenizer = TextTokenizer(folder, spec.tokenizer)
    session = open_session(folder, spec, TorchOptions(), "cpu")
    return session.run(tokenizer.pad(tokenizer.tokenize(texts)))


@pytest.mark.parametrize(
    "architecture",
    ["bert", "distilbert", "roberta", "deberta-v2", "mpnet", "electra", "albert", "modernbert"],
)
def test_scores_are_the_logits_of_sentence_transformers(tiny: Tiny, architecture: str) -> None:
    folder = tiny(architecture, kind="cross-encoder", num_labels=3)
    theirs = CrossEncoder(str(folder), device="cpu").predict(PAIRS, activation_fn=torch.nn.Identity())
    scores = _run(folder, PAIRS)["scores"].numpy()
    assert scores.shape == (3, 3)
    np.testing.assert_allclose(scores, theirs, atol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta", "modernbert"])
def test_logits_pool_to_the_vectors_of_sentence_transformers(tiny: Tiny, architecture: str) -> None:
    folder = tiny(architecture, kind="splade")
    features = _run(folder, TEXTS)
    logits = features["token_embeddings"].relu() * features["attention_mask"][:, :, None]
    theirs = SparseEncoder(str(folder), device="cpu").encode(TEXTS, convert_to_sparse_tensor=False)
    torch.testing.assert_close(logits.amax(dim=1).log1p(), theirs, atol=1e-5, rtol=0)


def test_an_encoder_has_no_classifier(tiny: Tiny, tiny_copy: Tiny) -> None:
    folder = tiny_copy(kind="cross-encoder")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: each for name, each in weights.items() if "classifier" not in name},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(CorruptModel, match=r"the weights lack 2 tensors .*, such as classifier") as caught:
        _run(folder, PAIRS)
    assert "come from different models" in caught.value.hint


def test_a_plain_encoder_is_no_cross_encoder_whatever_it_is_called(tiny_copy: Tiny) -> None:
    """Where sentence-transformers makes up a classifier at random."""
    folder = tiny_copy(modules_json=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": None}))
    spec = read_spec(folder, ModelKind.CROSS_ENCODER)
    with pytest.raises(CorruptModel, match="the weights lack"):
        open_session(folder, spec, TorchOptions(), "cpu")
