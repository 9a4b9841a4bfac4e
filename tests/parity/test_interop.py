"""Files travel both ways: sentence-transformers serves what we export, we serve what it and optimum export."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from parity.comparing import TEXTS, TOLERANCES, Exported, Load, largest_error, serve
from sentence_transformers import SentenceTransformer as Oracle

from stopt import OptionError, SentenceTransformer

Tiny = Callable[..., Path]

FILES = {"onnx": "onnx/model.onnx", "openvino": "openvino/openvino_model.xml"}
# sentence-transformers leaves the precision to OpenVINO unless told
THEIR_OPTIONS: dict[str, dict[str, Any]] = {
    "onnx": {"provider": "CPUExecutionProvider"},
    "openvino": {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}},
}
# with token types and without, positions of their own, no tokenizer class, an encoder-decoder, two decoders
ARCHITECTURES_OF_EVERY_KIND = ("bert", "xlm-roberta", "modernbert", "t5", "gemma3", "qwen3")
SINGLE_TEXTS = [text for text in TEXTS if isinstance(text, str)]


@contextmanager
def _their_warnings() -> Iterator[None]:
    """Exporters of third parties warn about their own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _theirs(folder: Path, backend: str, **options: Any) -> Oracle:
    with _their_warnings():
        return Oracle(
            str(folder), device="cpu", backend=backend, model_kwargs=THEIR_OPTIONS[backend] | options
        )


@pytest.mark.parametrize("backend", FILES)
@pytest.mark.parametrize("architecture", ARCHITECTURES_OF_EVERY_KIND)
def test_sentence_transformers_serves_what_we_export(
    exported: Exported, oracle: Load, architecture: str, backend: str
) -> None:
    folder = exported(architecture)
    expected = oracle(folder).encode(list(TEXTS))
    model = _theirs(folder, backend, file_name=FILES[backend], export=False)
    assert largest_error(model.encode(list(TEXTS)), expected) <= TOLERANCES[backend]


@pytest.mark.parametrize("backend", FILES)
def test_sentence_transformers_finds_our_file_unasked(
    exported: Exported, oracle: Load, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = exported("bert", dense=24, normalize=True)
    found = _theirs(folder, backend).encode(list(TEXTS))
    assert "Exporting" not in caplog.text
    assert largest_error(found, oracle(folder).encode(list(TEXTS))) <= TOLERANCES[backend]


@pytest.mark.parametrize("backend", FILES)
@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_we_serve_what_sentence_transformers_exports(
    tiny: Tiny, oracle: Load, tmp_path: Path, architecture: str, backend: str
) -> None:
    source = tiny(architecture, dense=24, normalize=True, prompts={"query": "query: "})
    with _their_warnings():
        model = Oracle(str(source), device="cpu", backend=backend, model_kwargs={"export": True})
        model.save_pretrained(str(tmp_path / "theirs"))
    assert (tmp_path / "theirs" / FILES[backend]).is_file()
    assert not list((tmp_path / "theirs").glob("*.safetensors"))
    ours = serve(tmp_path / "theirs", backend)
    for name in (None, "query"):
        expected = oracle(source).encode(list(TEXTS), prompt_name=name)
        assert largest_error(ours.encode(list(TEXTS), prompt_name=name), expected) <= TOLERANCES[backend]


def test_a_file_at_the_root_of_a_folder_is_served(exported: Exported, oracle: Load, tmp_path: Path) -> None:
    source = exported("bert")
    folder = shutil.copytree(source, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "onnx" / "model.onnx").rename(folder / "model.onnx")
    shutil.rmtree(folder / "openvino")
    expected = oracle(source).encode(list(TEXTS))
    for options in ({"backend": "onnx"}, {}, {"model_kwargs": {"file_name": "model.onnx"}}):
        model = SentenceTransformer(folder, **options)
        assert model.file == folder / "model.onnx"
        assert largest_error(model.encode(list(TEXTS)), expected) <= TOLERANCES["onnx"]


def _optimum_onnx(source: Path, output: Path, library: str) -> None:
    from optimum.exporters.onnx import main_export

    with _their_warnings():
        main_export(str(source), output, task="feature-extraction", library_name=library, do_validation=False)


def _optimum_openvino(source: Path, output: Path, library: str) -> None:
    from optimum.exporters.openvino import main_export

    with _their_warnings():
        main_export(str(source), output, task="feature-extraction", library_name=library)


OPTIMUM = {"onnx": _optimum_onnx, "openvino": _optimum_openvino}


@pytest.fixture(scope="module")
def optimum_export(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Factory of model folders as `optimum-cli export` leaves them, with the files of the original beside."""
    made: dict[tuple[str, str], Path] = {}

    def export(backend: str, library: str) -> Path:
        if (backend, library) not in made:
            source = tiny("bert", prompts={"query": "query: "}, normalize=True)
            folder = tmp_path_factory.mktemp("optimum") / "model"
            OPTIMUM[backend](source, folder, library)
            weights = shutil.ignore_patterns("*.safetensors")
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=weights)
            made[backend, library] = folder
        return made[backend, library]

    return export


@pytest.mark.parametrize("library", ["transformers", "sentence_transformers"])
@pytest.mark.parametrize("backend", FILES)
def test_we_serve_what_optimum_exports(
    tiny: Tiny, oracle: Load, optimum_export: Callable[[str, str], Path], backend: str, library: str
) -> None:
    model = serve(optimum_export(backend, library), backend)
    theirs = oracle(tiny("bert", prompts={"query": "query: "}, normalize=True))
    # optimum's graphs for sentence-transformers have no token_type_ids, which pairs need
    texts = SINGLE_TEXTS if library == "sentence_transformers" else list(TEXTS)
    for name in (None, "query"):
        expected = theirs.encode(texts, prompt_name=name)
        assert largest_error(model.encode(texts, prompt_name=name), expected) <= TOLERANCES[backend]


def test_a_graph_with_only_the_pooled_output_is_served(
    tiny: Tiny, oracle: Load, optimum_export: Callable[[str, str], Path], tmp_path: Path
) -> None:
    source = optimum_export("onnx", "sentence_transformers")
    folder = shutil.copytree(source, tmp_path / "model")
    graph = onnx.load(folder / "model.onnx")
    outputs = [node for node in graph.graph.output if node.name != "token_embeddings"]
    assert [node.name for node in outputs] == ["sentence_embedding"]
    del graph.graph.output[:]
    graph.graph.output.extend(outputs)
    onnx.save(graph, folder / "model.onnx")
    model = SentenceTransformer(folder, backend="onnx")
    expected = oracle(tiny("bert", prompts={"query": "query: "}, normalize=True)).encode(SINGLE_TEXTS)
    assert largest_error(model.encode(SINGLE_TEXTS), expected) <= TOLERANCES["onnx"]
    with pytest.raises(OptionError, match="gives no token embeddings"):
        model.encode("a", output_value="token_embeddings")


@pytest.mark.parametrize("backend", FILES)
def test_files_without_sentence_transformers_own_are_pooled_by_mean(
    tiny: Tiny, oracle: Load, tmp_path: Path, backend: str
) -> None:
    """A plain transformers model that optimum exported: no modules.json anywhere."""
    source = tiny("roberta", modules_json=False)
    OPTIMUM[backend](source, tmp_path / "model", "transformers")
    expected = oracle(source).encode(list(TEXTS))
    found = serve(tmp_path / "model", backend).encode(list(TEXTS))
    assert np.abs(expected).max() > 0.1
    assert largest_error(found, expected) <= TOLERANCES[backend]
