"""``export --fused``: files that need no pooling code, opened by bare engines, by sentence-transformers and by stopt."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import openvino as ov
import pytest
from sentence_transformers import CrossEncoder as ReferenceReranker
from sentence_transformers import SentenceTransformer as Reference

from stopt import SentenceTransformer
from stopt.artifact import engine_files
from stopt.convert.export import export
from stopt.convert.with_tokenizer import write_with_tokenizer
from stopt.errors import ConversionError, OptionError
from stopt.reading import read_spec
from stopt.runtime.options import OpenVinoOptions
from stopt.runtime.pipeline import Pipeline
from stopt.runtime.tokenizer import TextTokenizer
from stopt.spec import Backend
from stopt.steps import ExportOptions

TEXTS = ["a", "the quick brown fox", "word " * 40]
NAMES = {Backend.ONNX: "onnx/model_fused.onnx", Backend.OPENVINO: "openvino/openvino_model_fused.xml"}


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("fused")
    options = ExportOptions((Backend.ONNX, Backend.OPENVINO), fused=True, output=target, check_texts=TEXTS)
    made = export(tiny("bert", pooling=["cls", "mean"], dense=8, normalize=True), options)
    assert sorted(each.file for each in made) == sorted(
        [*NAMES.values(), "onnx/model.onnx", "openvino/openvino_model.xml"]
    )
    return target


def tokenizer_of(folder: Path) -> TextTokenizer:
    return TextTokenizer(folder, read_spec(folder).tokenizer)


def bare(folder: Path, backend: Backend, feeds: dict[str, Any]) -> tuple[list[str], np.ndarray]:
    """Names of the outputs, and the first of them, without any code of ours."""
    if backend is Backend.ONNX:
        session = ort.InferenceSession(str(folder / NAMES[backend]), providers=["CPUExecutionProvider"])
        names = {node.name for node in session.get_inputs()}
        outputs = [node.name for node in session.get_outputs()]
        return outputs, session.run(None, {key: feeds[key] for key in names})[0]
    compiled = ov.Core().compile_model(folder / NAMES[backend], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = {port.get_any_name() for port in compiled.inputs}
    outputs = [port.get_any_name() for port in compiled.outputs]
    return outputs, compiled({key: feeds[key] for key in names})[0]


@pytest.mark.parametrize("backend", NAMES)
def test_a_bare_engine_gives_the_embeddings_of_sentence_transformers(folder, backend) -> None:
    tokenizer = tokenizer_of(folder)
    batch = tokenizer.pad(tokenizer.tokenize(TEXTS))
    feeds = {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "token_type_ids")}
    outputs, first = bare(folder, backend, feeds)
    assert outputs == ["sentence_embedding", "last_hidden_state"]
    expected = Reference(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(first, expected, atol=1e-5)


@pytest.mark.parametrize("backend", NAMES)
def test_we_serve_it_with_the_modules_that_are_in_it(folder, backend) -> None:
    fused = SentenceTransformer(folder, backend=backend.value, model_kwargs={"file_name": NAMES[backend]})
    plain = SentenceTransformer(folder, backend=backend.value)
    assert not fused.pipeline.modules
    np.testing.assert_allclose(fused.encode(TEXTS), plain.encode(TEXTS), atol=1e-6)
    tokens = zip(
        fused.encode(TEXTS, output_value="token_embeddings"),
        plain.encode(TEXTS, output_value="token_embeddings"),
        strict=True,
    )
    for ours, theirs in tokens:
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("backend", NAMES)
def test_other_modules_than_the_model_has_now_are_not_served(folder, backend, tmp_path) -> None:
    """The file was fused with cls and mean; a folder that says otherwise since then is right about its vectors."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = copy / "1_Pooling" / "config.json"
    text = config.read_text()
    changed = text.replace('"cls"', '"max"')
    assert changed != text
    config.write_text(changed)
    opened = {"backend": backend.value, "verify": False}  # unsealed: the change is meant
    served = SentenceTransformer(copy, model_kwargs={"file_name": NAMES[backend]}, **opened)
    plain = SentenceTransformer(copy, **opened)
    old = SentenceTransformer(folder, backend=backend.value)
    np.testing.assert_allclose(served.encode(TEXTS), plain.encode(TEXTS), atol=1e-6)
    assert np.abs(served.encode(TEXTS) - old.encode(TEXTS)).max() > 1e-3


@pytest.mark.parametrize("backend", NAMES)
def test_sentence_transformers_opens_it(folder, backend) -> None:
    kwargs: dict[str, Any] = {"file_name": NAMES[backend]}
    if backend is Backend.OPENVINO:
        kwargs["ov_config"] = {"INFERENCE_PRECISION_HINT": "f32"}
    theirs = Reference(str(folder), backend=backend.value, model_kwargs=kwargs, device="cpu")
    expected = Reference(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(theirs.encode(TEXTS), expected, atol=1e-4)


def test_what_cannot_be_in_a_graph_is_refused(tiny, tmp_path) -> None:
    options = ExportOptions(fused=True, output=tmp_path / "out", check_texts=TEXTS)
    with pytest.raises(ConversionError, match="SparseAutoEncoder cannot be put into a graph") as caught:
        export(tiny("bert", kind="csr"), options)
    assert "--fused" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_reranker_gives_its_scores(tiny, tmp_path) -> None:
    source = tiny("bert", kind="cross-encoder")
    export(source, ExportOptions(fused=True, output=tmp_path / "out"))
    tokenizer = tokenizer_of(tmp_path / "out")
    pairs = [("a query", "a passage"), ("another", "word " * 30)]
    batch = tokenizer.pad(tokenizer.tokenize(pairs))
    session = ort.InferenceSession(
        str(tmp_path / "out" / NAMES[Backend.ONNX]), providers=["CPUExecutionProvider"]
    )
    assert [node.name for node in session.get_outputs()] == ["scores", "logits"]
    feeds = {node.name: getattr(batch, node.name) for node in session.get_inputs()}
    expected = ReferenceReranker(str(source), device="cpu").predict(pairs)
    np.testing.assert_allclose(session.run(["scores"], feeds)[0][:, 0], expected, atol=1e-5)


# ---- the tokenizer in the graph -------------------------------------------------------------------------------------

WITH_TOKENIZER = "openvino/openvino_model_fused_with_tokenizer.xml"
READS_TEXT = ExportOptions((Backend.OPENVINO,), fused=True, with_tokenizer=True, check_texts=TEXTS)


def test_a_graph_with_the_tokenizer_reads_texts(tiny, tmp_path) -> None:
    from openvino_tokenizers import _ext_path

    source = tiny("bert", pooling=["cls", "mean"], dense=8, normalize=True)
    made = export(source, replace(READS_TEXT, output=tmp_path / "out"))
    assert [each.file for each in made] == ["openvino/openvino_model.xml", NAMES[Backend.OPENVINO]]
    core = ov.Core()
    core.add_extension(_ext_path)
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(tmp_path / "out" / WITH_TOKENIZER, "CPU", config)
    assert [port.get_any_name() for port in compiled.inputs] == ["texts"]
    texts = [*TEXTS, "", "Ünïcödé \t 日本語", "long " * 600]
    found = compiled(texts)[0]
    np.testing.assert_allclose(found, Reference(str(source), device="cpu").encode(texts), atol=1e-5)
    # it is part of what was made, and no file that the classes are to open
    record = json.loads((tmp_path / "out" / "stopt.json").read_text("utf-8"))["files"][
        NAMES[Backend.OPENVINO]
    ]
    assert WITH_TOKENIZER in record["parts"]
    assert WITH_TOKENIZER not in engine_files(tmp_path / "out", Backend.OPENVINO)


def test_other_tokens_than_the_model_s_are_refused(folder, tmp_path) -> None:
    pipeline = Pipeline.open(folder, read_spec(folder), OpenVinoOptions())
    other = replace(pipeline, tokenizer=pipeline.tokenizer.with_max_seq_length(4))  # not what its files say
    file = tmp_path / "made.xml"
    with pytest.raises(
        ConversionError, match=r"openvino-tokenizers makes \[.* tokens\) of '.*', the model's .*\(4 tokens\)"
    ) as caught:
        write_with_tokenizer(other, folder / NAMES[Backend.OPENVINO], file)
    assert caught.value.hint == "leave out --with-tokenizer, and tokenise with tokenizer.json"
    assert not file.exists()


def test_two_texts_do_not_go_through_one_input(tiny, tmp_path) -> None:
    options = replace(READS_TEXT, output=tmp_path / "out", check_texts=None)
    with pytest.raises(ConversionError, match="a cross-encoder reads two texts") as caught:
        export(tiny("bert", kind="cross-encoder"), options)
    assert "--with-tokenizer" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"fused": False}, {"backends": (Backend.ONNX,)}])
def test_a_tokenizer_goes_before_openvino_s_fused_graph_alone(options) -> None:
    with pytest.raises(OptionError, match="a tokenizer is put before OpenVINO's graph") as caught:
        replace(READS_TEXT, **options)
    assert caught.value.hint == "ask for that too: --fused --backend openvino"
