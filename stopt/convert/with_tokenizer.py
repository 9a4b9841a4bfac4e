"""OpenVINO graphs that read text: openvino-tokenizers' graph of the tokenizer before a graph with the modules in it.

Its operators are an extension that whoever opens such a file loads first (``import openvino_tokenizers``). That it makes
the model's own tokens is checked on texts of many languages each time, and a file that does not is not written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stopt.convert.exporters import silent
from stopt.convert.graphs import save_openvino
from stopt.errors import ConversionError
from stopt.folder import contained
from stopt.heads import POOLING_MASK
from stopt.parity.samples import check_texts, sample_texts
from stopt.runtime.pipeline import Pipeline
from stopt.spec import ModelKind

__all__ = ["TEXTS", "write_with_tokenizer"]

TEXTS = "texts"  # name of its input
_WITHOUT = "leave out --with-tokenizer, and tokenise with tokenizer.json"
# what tokenizers differ over, beside the texts of a check
_PROBES = (
    "  two  spaces\tand\na line ",
    "Ünïcödé, ﬁ, ｆｕｌｌ, a\u0301",
    "😀 smile 👩‍👩‍👧",
    "[CLS] [MASK] <s> </s> <pad>",
    "x" * 300,
    "日本語 한국어 в чём дело",
)
LARGEST_DIFFERENCE = 1e-4  # between embeddings of the same tokens, both in float32


def write_with_tokenizer(pipeline: Pipeline, fused: Path, file: Path) -> None:
    """Put the tokenizer before a graph that has the modules in it.

    Args:
        pipeline: The model.
        fused: Its OpenVINO file with all modules.
        file: Where to: a graph from ``texts`` (B,) strings to what ``fused`` gives, padding and truncation included.

    Raises:
        ConversionError: If openvino-tokenizers has no graph for the tokenizer, or one that makes other tokens.
    """
    if pipeline.spec.kind is ModelKind.CROSS_ENCODER:
        raise ConversionError(
            "a cross-encoder reads two texts, and a graph with the tokenizer in it one", _WITHOUT
        )
    texts = [str(text) for text in (*check_texts(sample_texts(), pipeline), *_PROBES)]
    with silent():
        import openvino as ov
        from openvino_tokenizers import connect_models

        model = ov.Core().read_model(fused)
        if any(POOLING_MASK in port.get_names() for port in model.inputs):
            raise ConversionError(
                "the model leaves out its prompt's tokens, which a tokenizer does not mark", _WITHOUT
            )
        tokenizer = _tokenizer_graph(pipeline)
        _check_tokens(pipeline, tokenizer, texts)
        limits = tokenizer.get_sinks()
        joined = connect_models(tokenizer, model)
        joined.add_sinks(
            limits
        )  # the length that texts are cut to is a state, whose end is lost on the way (2026.4)
        joined.inputs[0].set_names({TEXTS})
        _check_embeddings(pipeline, joined, fused, texts)
        save_openvino(joined, file)


def _tokenizer_graph(pipeline: Pipeline) -> Any:
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    spec = pipeline.spec.tokenizer
    try:
        source = AutoTokenizer.from_pretrained(
            contained(pipeline.root, spec.path), local_files_only=True, trust_remote_code=False
        )
        limit = spec.max_seq_length
        options = {} if limit is None else {"max_length": limit}
        return convert_tokenizer(
            source, add_special_tokens=spec.add_special_tokens, truncation=limit is not None, **options
        )
    except Exception as error:  # of whatever its steps meet
        raise ConversionError(
            f"openvino-tokenizers has no graph for this tokenizer: {type(error).__name__}: {error}", _WITHOUT
        ) from error


def _check_tokens(pipeline: Pipeline, graph: Any, texts: Sequence[str]) -> None:
    """Compare the tokens of each text with those that the model is served with."""
    import openvino as ov

    made = ov.Core().compile_model(graph, "CPU")(list(texts))
    ids, mask = made["input_ids"], made["attention_mask"]
    for row, (text, expected) in enumerate(zip(texts, pipeline.tokenizer.tokenize(texts), strict=True)):
        found = ids[row][mask[row] != 0]
        if not np.array_equal(found, expected.ids):
            raise ConversionError(
                f"openvino-tokenizers makes {_few(found)} of {text[:60]!r}, the model's tokenizer {_few(expected.ids)}",
                _WITHOUT,
            )


def _few(ids: Any) -> str:
    """The first few ids, and how many there are."""
    return f"{[int(each) for each in ids[:8]]} ({len(ids)} tokens)"


def _check_embeddings(pipeline: Pipeline, joined: Any, fused: Path, texts: Sequence[str]) -> None:
    """Compare the embeddings with those of the same texts, tokenised here."""
    import openvino as ov

    core, config = ov.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
    found = core.compile_model(joined, "CPU", config)(list(texts))[0]
    compiled = core.compile_model(fused, "CPU", config)
    batch = pipeline.tokenizer.pad(pipeline.tokenizer.tokenize(texts))
    feed = {port.get_any_name(): getattr(batch, port.get_any_name()) for port in compiled.inputs}
    apart = float(np.abs(found - compiled(feed)[0]).max())
    if not apart <= LARGEST_DIFFERENCE:
        raise ConversionError(
            f"with the tokenizer in the graph, embeddings differ by {apart:.2g}, more than {LARGEST_DIFFERENCE:g}",
            _WITHOUT,
        )
