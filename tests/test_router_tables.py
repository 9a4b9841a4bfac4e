"""A Router with a table beside a transformer: export makes a file for the transformer alone, and that is enough."""

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer as Original
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

import stopt
from stopt.convert.export import export
from stopt.spec import Backend
from stopt.steps import ExportOptions


@pytest.fixture(scope="module")
def mixed(tiny, tmp_path_factory) -> Path:
    """Queries through a table, documents through BERT; exported for both engines."""
    import torch

    torch.manual_seed(0)
    bert = Original(str(tiny("bert")), device="cpu")
    tokenizer = bert.tokenizer.backend_tokenizer
    weights = torch.randn(tokenizer.get_vocab_size(), bert.get_sentence_embedding_dimension())
    table = StaticEmbedding(tokenizer, embedding_weights=weights)
    folder = tmp_path_factory.mktemp("mixed") / "model"
    router = Router.for_query_document([table], list(bert))
    Original(modules=[router], device="cpu").save(str(folder))
    export(folder, ExportOptions(backends=(Backend.ONNX, Backend.OPENVINO)))
    return folder


@pytest.mark.parametrize("backend", ["torch", "onnx", "openvino"])
@pytest.mark.parametrize("verb", ["encode_query", "encode_document"])
def test_a_table_beside_a_transformer_needs_no_file(mixed, backend, verb) -> None:
    texts = ["The quick brown fox.", "What is the capital of France?", "fox"]
    expected = getattr(Original(str(mixed), device="cpu"), verb)(texts)
    model = stopt.SentenceTransformer(str(mixed), backend=backend, device="cpu")
    assert np.abs(np.asarray(getattr(model, verb)(texts)) - expected).max() < 1e-5
    one = np.asarray(getattr(model, verb)(texts[0]))
    assert np.abs(one - expected[0]).max() < 1e-5
