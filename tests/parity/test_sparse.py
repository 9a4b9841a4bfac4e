"""Our sparse vectors are sentence-transformers' own, for every architecture, module and engine; compared live."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from installed import run_without
from parity.comparing import ENGINES, TOLERANCES, Exported, largest_error
from sentence_transformers import SparseEncoder as Oracle

from stopt import SentenceTransformer, SparseEncoder
from stopt.errors import InputError, OptionError

# torch's, of what sentence-transformers does with its tensors
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
    pytest.mark.filterwarnings("ignore:Using scipy for sparse Manhattan"),
]

Load = Callable[[Path], Oracle]

ARCHITECTURES = (
    "bert",
    "distilbert",
    "albert",
    "electra",
    "deberta-v2",
    "roberta",
    "xlm-roberta",
    "mpnet",
    "modernbert",
)
STRINGS = [
    "",
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "今天天气很好,我们去公园。東京は日本の首都です。",
    "  two  spaces,\ta tab and a line\nbreak ",
    "He drove to the stadium; the train had been late. " * 128,
]
TEXTS: list[Any] = [*STRINGS, ("What is the capital of France?", "Paris is the capital of France.")]
# a value this near to zero may be zero in another order of additions
NEARLY_ZERO = 1e-4
PROMPTS = {"query": "what is ", "document": "about: "}
METHODS = ("encode", "encode_query", "encode_document")


@pytest.fixture(scope="module")
def oracle() -> Load:
    """sentence-transformers on torch, loaded once per folder."""
    loaded: dict[Path, Oracle] = {}

    def load(folder: Path) -> Oracle:
        if folder not in loaded:
            loaded[folder] = Oracle(str(folder), device="cpu")
        return loaded[folder]

    return load


def serve(folder: Path, engine: str, **options: Any) -> SparseEncoder:
    return SparseEncoder(folder, device="cpu", **ENGINES[engine], **options)


def dense(embeddings: Any) -> np.ndarray:
    """Any of the results as numpy's, half precision as float32."""
    if isinstance(embeddings, torch.Tensor):
        return embeddings.to_dense().float().numpy()
    return embeddings.toarray() if scipy.sparse.issparse(embeddings) else embeddings


def assert_same(found: Any, expected: torch.Tensor, engine: str) -> None:
    """The same values in the same places, in what the engine's results are."""
    theirs, ours = dense(expected), dense(found)
    assert largest_error(ours, theirs) <= TOLERANCES[engine]
    clear = np.abs(theirs) > NEARLY_ZERO
    assert clear.any()
    assert ((ours != 0) == (theirs != 0))[clear | (ours == 0)].all()
    if engine == "torch":
        assert found.layout is torch.sparse_coo
        assert found.is_coalesced()
        assert found.dtype == expected.dtype
    else:
        assert isinstance(found, scipy.sparse.csr_array)
        assert (found.dtype, found.indices.dtype, found.indptr.dtype) == (np.float32, np.int32, np.int32)
        assert found.has_canonical_format
        assert found.nnz == np.count_nonzero(ours)


# ---- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_splade_of_every_architecture_equals_sentence_transformers(
    exported: Exported, oracle: Load, architecture: str, engine: str
) -> None:
    folder = exported(architecture, kind="splade")
    expected = oracle(folder).encode(TEXTS)
    share = expected._nnz() / expected.numel()
    assert 0 < share < 0.9, "neither all nor nothing, or leaving the activation out would pass"
    assert_same(serve(folder, engine).encode(TEXTS), expected, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("strategy", ["max", "sum"])
def test_every_pooling_equals_sentence_transformers(
    exported: Exported, oracle: Load, strategy: str, activation: str, engine: str
) -> None:
    folder = exported("bert", kind="splade", strategy=strategy, activation=activation)
    expected = oracle(folder).encode(TEXTS)
    model = serve(folder, engine)
    assert_same(model.encode(TEXTS), expected, engine)
    model.splade_pooling_chunk_size = 4  # of no consequence
    assert model.splade_pooling_chunk_size == 4
    assert_same(model.encode(TEXTS, batch_size=2), expected, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_routes_with_and_without_a_transformer_equal_sentence_transformers(
    exported: Exported, oracle: Load, engine: str
) -> None:
    folder = exported("bert", kind="inference-free")
    theirs, ours = oracle(folder), serve(folder, engine)
    assert ours.file.is_relative_to(folder), "converted anew, not served as exported"
    for method in METHODS:
        expected = getattr(theirs, method)(STRINGS)
        assert_same(getattr(ours, method)(STRINGS), expected, engine)
    query, document = theirs.encode_query(STRINGS), theirs.encode_document(STRINGS)
    assert np.abs(dense(query) - dense(document)).max() > 0.1
    assert_same(ours.encode(STRINGS, task="query"), query, engine)
    assert_same(ours.encode(STRINGS, task="document"), document, engine)
    assert_same(
        ours.encode_query(STRINGS, max_active_dims=2),
        theirs.encode_query(STRINGS, max_active_dims=2),
        engine,
    )
    pairs = [("a fox", "the dog"), ("rice", "water")]
    assert_same(ours.encode_query(pairs), theirs.encode_query(pairs), engine)
    scores = ours.similarity(ours.encode_query(STRINGS), ours.encode_document(STRINGS))
    assert largest_error(scores, theirs.similarity(query, document)) <= TOLERANCES[engine]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"dense": 24}], ids=str)
def test_autoencoders_equal_sentence_transformers(
    exported: Exported, oracle: Load, options: dict[str, Any], engine: str
) -> None:
    folder = exported("bert", kind="csr", **options)
    theirs, ours = oracle(folder), serve(folder, engine)
    assert ours.max_active_dims == theirs.max_active_dims == 8
    assert ours.get_embedding_dimension() == 48
    expected = theirs.encode(TEXTS)
    assert_same(ours.encode(TEXTS), expected, engine)
    for count in (3, 16, 48):
        found = ours.encode(TEXTS, max_active_dims=count)
        assert_same(found, theirs.encode(TEXTS, max_active_dims=count), engine)
    assert_same(ours.encode(TEXTS), expected, engine)  # a call leaves the model as it was
    assert_decoded(ours.decode(ours.encode("a"), 3), theirs.decode(theirs.encode("a"), 3), engine)


def test_a_plain_folder_of_a_masked_language_model_is_splade(tiny: Exported, oracle: Load) -> None:
    folder = tiny("bert", kind="splade", layout="plain")
    assert_same(serve(folder, "torch").encode(TEXTS), oracle(folder).encode(TEXTS), "torch")


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def splade(exported: Exported) -> Path:
    return exported("bert", kind="splade")


@pytest.mark.parametrize("engine", ENGINES)
def test_max_active_dims_of_call_and_model_equal_sentence_transformers(
    splade: Path, oracle: Load, engine: str
) -> None:
    theirs, ours = oracle(splade), serve(splade, engine)
    for count in (1, 16, 10_000):
        expected = theirs.encode(TEXTS, max_active_dims=count)
        assert_same(ours.encode(TEXTS, max_active_dims=count), expected, engine)
    limited = serve(splade, engine, max_active_dims=16)
    assert limited.max_active_dims == 16
    expected = theirs.encode(TEXTS, max_active_dims=16)
    assert_same(limited.encode(TEXTS), expected, engine)
    assert limited.sparsity(limited.encode(STRINGS[2:]))["active_dims"] == 16.0
    expected = theirs.encode(TEXTS, max_active_dims=4)
    assert_same(limited.encode(TEXTS, max_active_dims=4), expected, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_prompts_equal_sentence_transformers(exported: Exported, oracle: Load, engine: str) -> None:
    folder = exported("bert", kind="splade", prompts=PROMPTS)
    theirs, ours = oracle(folder), serve(folder, engine)
    for method in METHODS:
        assert_same(getattr(ours, method)(TEXTS), getattr(theirs, method)(TEXTS), engine)
    for options in ({"prompt": "rice "}, {"prompt_name": "query"}):
        assert_same(ours.encode(TEXTS, **options), theirs.encode(TEXTS, **options), engine)
    assert np.abs(dense(theirs.encode_query(TEXTS)) - dense(theirs.encode(TEXTS))).max() > 0.1


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("engine", ENGINES)
def test_tensors_have_the_shapes_of_sentence_transformers(
    splade: Path, oracle: Load, engine: str, sparse: bool
) -> None:
    theirs, ours = oracle(splade), serve(splade, engine)
    for inputs in (STRINGS, STRINGS[2], STRINGS[2:3], [], ()):
        options = {"convert_to_sparse_tensor": sparse, "save_to_cpu": True}
        found = ours.encode(inputs, convert_to_tensor=True, **options)
        expected = theirs.encode(inputs, **options)
        assert (found.shape, found.dtype, found.layout) == (expected.shape, expected.dtype, expected.layout)
        if found.numel():
            assert largest_error(found.to_dense(), expected.to_dense()) <= TOLERANCES[engine]


@pytest.mark.parametrize("sparse", [True, False])
def test_lists_of_tensors_have_the_shapes_of_sentence_transformers(
    splade: Path, oracle: Load, sparse: bool
) -> None:
    options = {"convert_to_tensor": False, "convert_to_sparse_tensor": sparse}
    found, expected = (model.encode(STRINGS, **options) for model in (serve(splade, "torch"), oracle(splade)))
    assert isinstance(found, list)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.shape, ours.dtype, ours.layout) == (theirs.shape, theirs.dtype, theirs.layout)
        assert largest_error(ours.to_dense(), theirs.to_dense()) <= TOLERANCES["torch"]
    assert serve(splade, "torch").encode([], **options) == oracle(splade).encode([], **options) == []


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_without_torch_asked_for_results_are_scipys_and_numpys(
    splade: Path, oracle: Load, engine: str
) -> None:
    model, expected = serve(splade, engine), dense(oracle(splade).encode(STRINGS))
    width = expected.shape[1]
    one = model.encode(STRINGS[2])
    assert isinstance(one, scipy.sparse.csr_array)
    assert one.shape == (width,)
    rows = model.encode(STRINGS, convert_to_tensor=False)
    assert [row.shape for row in rows] == [(width,)] * len(STRINGS)
    matrix = model.encode(STRINGS, convert_to_sparse_tensor=False)
    assert isinstance(matrix, np.ndarray)
    assert matrix.dtype == np.float32
    vectors = model.encode(STRINGS, convert_to_tensor=False, convert_to_sparse_tensor=False)
    for found in (matrix, np.stack([row.toarray() for row in rows]), np.stack(vectors)):
        assert largest_error(found, expected) <= TOLERANCES[engine]
    assert largest_error(one.toarray(), expected[2]) <= TOLERANCES[engine]
    assert model.encode(STRINGS[2], convert_to_sparse_tensor=False).shape == (width,)
    assert model.encode([]).shape == model.encode([], convert_to_sparse_tensor=False).shape == (0, width)
    assert model.encode([], convert_to_tensor=False) == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tensors_keep_the_models_dtype(splade: Path, dtype: str) -> None:
    model = SparseEncoder(splade, backend="torch", device="cpu", model_kwargs={"dtype": dtype})
    theirs = Oracle(str(splade), device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
    found, expected = model.encode(STRINGS[2]), theirs.encode(STRINGS[2])
    assert found.dtype == expected.dtype == getattr(torch, dtype)
    assert np.abs(dense(found) - dense(expected)).max() < 0.05
    assert [token for token, _ in model.decode(found, 3)] == [t for t, _ in theirs.decode(expected, 3)]


@pytest.mark.parametrize("engine", ENGINES)
def test_company_and_order_do_not_change_a_vector(splade: Path, engine: str) -> None:
    model = serve(splade, engine)
    alone = np.stack([dense(model.encode(text)) for text in STRINGS])
    for options in ({}, {"batch_size": 1}, {"batch_size": 3}, {"max_batch_tokens": 40}):
        assert largest_error(dense(model.encode(STRINGS, **options)), alone) <= TOLERANCES[engine]
    assert largest_error(dense(model.encode(STRINGS[::-1])), alone[::-1]) <= TOLERANCES[engine]


# ---- looking at embeddings ------------------------------------------------------------------------------------------


def assert_decoded(found: list[Any], expected: list[Any], engine: str) -> None:
    assert [token for token, _ in found] == [token for token, _ in expected]
    weights = [[weight for _, weight in each] for each in (found, expected)]
    assert np.abs(np.subtract(*weights)).max(initial=0) <= TOLERANCES[engine]
    assert all(isinstance(weight, float) for weight in weights[0])


@pytest.mark.parametrize("engine", ENGINES)
def test_decode_and_its_order_equal_sentence_transformers(splade: Path, oracle: Load, engine: str) -> None:
    theirs, ours = oracle(splade), serve(splade, engine)
    expected, found = theirs.encode(STRINGS), ours.encode(STRINGS)
    for top_k in (1, 5, 10_000):
        for one, other in zip(ours.decode(found, top_k), theirs.decode(expected, top_k), strict=True):
            assert len(one) == len(other)
            assert_decoded(one[:20], other[:20], engine)
    assert_decoded(
        ours.decode(ours.encode(STRINGS[2]), 5), theirs.decode(theirs.encode(STRINGS[2]), 5), engine
    )
    # whatever the kind of array
    for given in (expected, expected.to_dense(), dense(found), scipy.sparse.coo_matrix(dense(found))):
        assert_decoded(ours.decode(given, 5)[2], theirs.decode(expected, 5)[2], engine)
    nothing = np.zeros((2, ours.get_embedding_dimension()), np.float32)
    assert ours.decode(nothing) == [[], []]
    assert ours.decode(nothing[0]) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_comparing_equals_sentence_transformers(splade: Path, oracle: Load, engine: str) -> None:
    theirs, ours = oracle(splade), serve(splade, engine)
    expected, found = theirs.encode(STRINGS), ours.encode(STRINGS)
    assert ours.similarity_fn_name == theirs.similarity_fn_name == "dot"
    assert ours.sparsity(found) == pytest.approx(theirs.sparsity(expected), rel=1e-6)
    shared = theirs.intersection(expected[2], expected)
    first = ours.encode(STRINGS[2])
    assert largest_error(dense(ours.intersection(first, found)), dense(shared)) <= 10 * TOLERANCES[engine]
    assert_decoded(ours.decode(ours.intersection(first, found))[2][:5], theirs.decode(shared)[2][:5], engine)
    tolerance = 10 * TOLERANCES[engine]  # sums of hundreds of products of values with that error
    for name in ("dot", "cosine", "manhattan"):
        model = serve(splade, engine, similarity_fn_name=name)
        theirs = Oracle(str(splade), device="cpu", similarity_fn_name=name)
        scores = model.similarity(found, found)
        assert largest_error(scores, theirs.similarity(expected, expected)) <= tolerance
        backwards = model.encode(STRINGS[::-1]), theirs.encode(STRINGS[::-1])
        pairs = model.similarity_pairwise(found, backwards[0])
        assert largest_error(pairs, theirs.similarity_pairwise(expected, backwards[1])) <= tolerance


# ---- misuse ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, True, 2.5, "3"])
def test_counts_that_are_none_are_refused(splade: Path, value: Any) -> None:
    model = serve(splade, "onnx")
    for name, use in (
        ("max_active_dims", lambda: model.encode("a", max_active_dims=value)),
        ("max_active_dims", lambda: model.encode_query("a", max_active_dims=value)),
        ("max_active_dims", lambda: serve(splade, "onnx", max_active_dims=value)),
        ("top_k", lambda: model.decode(model.encode("a"), value)),
        ("splade_pooling_chunk_size", lambda: setattr(model, "splade_pooling_chunk_size", value)),
    ):
        with pytest.raises(OptionError) as caught:
            use()
        assert caught.value.message == f"{name} is {value!r}"
        assert caught.value.hint == "a positive number, or None"


def test_an_autoencoder_cannot_keep_more_than_it_has(tiny: Exported) -> None:
    model = serve(tiny("bert", kind="csr"), "torch")
    for inputs in ("a", []):
        with pytest.raises(OptionError, match="max_active_dims 49 is more than the model's 48") as caught:
            model.encode(inputs, max_active_dims=49)
        assert caught.value.hint == "use at most 48"


def test_a_model_of_another_kind_names_its_class(splade: Path, tiny: Exported) -> None:
    with pytest.raises(OptionError, match="is a dense embedding model, not a sparse encoder") as caught:
        serve(tiny("bert"), "torch")
    assert "open it with SentenceTransformer" in caught.value.hint
    with pytest.raises(OptionError, match="is a sparse encoder, not a dense embedding model") as caught:
        SentenceTransformer(splade, backend="onnx")
    assert "open it with SparseEncoder" in caught.value.hint


def test_other_misuse_is_refused(splade: Path) -> None:
    model = serve(splade, "onnx")
    with pytest.raises(InputError, match="input 1 is 3, expected a text"):
        model.encode(["a", 3])
    with pytest.raises(InputError, match="expected embeddings, got str") as decoding:
        model.decode("a text")
    assert decoding.value.hint == "pass what encode() returned"
    with pytest.raises(OptionError, match="similarity_fn_name 'dott' is unknown") as caught:
        model.similarity_fn_name = "dott"
    assert caught.value.hint == "did you mean 'dot'?"
    with pytest.raises(OptionError, match="the model is on 'CPUExecutionProvider', not on 'cuda'"):
        model.encode("a", device="cuda")


def test_a_router_without_a_default_wants_to_be_told(tiny: Exported) -> None:
    folder = tiny("bert", kind="inference-free", default_route=None, allow_empty_key=False)
    model = serve(folder, "torch")
    with pytest.raises(OptionError, match="the call names none") as caught:
        model.encode("a")
    assert "use encode_query or encode_document" in caught.value.hint
    with pytest.raises(OptionError, match="no route for task 'qery'") as caught:
        model.encode("a", task="qery")
    assert caught.value.hint == "did you mean 'query'?"


# ---- what it needs --------------------------------------------------------------------------------------------------

ENCODE = """
import json, sys
from stopt import SparseEncoder
folder, options, texts = json.loads(sys.argv[1])
model = SparseEncoder(folder, device="cpu", **options)
try:
    found = model.encode(texts)
    print(json.dumps([found.toarray().tolist(), model.decode(found, 3), model.similarity(found, found).tolist()]))
except ImportError as error:
    print(json.dumps([str(error), model.encode(texts, convert_to_sparse_tensor=False).tolist()]))
    found = None
try:
    model.encode(texts, convert_to_tensor=True)
except ImportError as error:
    print(json.dumps(str(error)))
print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))
"""
HEAVY = {"torch", "transformers", "optimum", "nncf", "onnx", "sentence_transformers", "datasets"}


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_encoding_works_where_torch_is_not_installed(
    splade: Path, oracle: Load, tmp_path: Path, engine: str
) -> None:
    done = run_without(HEAVY, tmp_path, "-c", ENCODE, json.dumps([str(splade), ENGINES[engine], STRINGS]))
    assert done.returncode == 0, done.stderr
    (vectors, decoded, scores), error, loaded = map(json.loads, done.stdout.splitlines())
    theirs = oracle(splade)
    expected = theirs.encode(STRINGS)
    assert largest_error(vectors, expected.to_dense()) <= TOLERANCES[engine]
    assert [each[0][0] for each in decoded] == [each[0][0] for each in theirs.decode(expected, 1)]
    assert largest_error(scores, theirs.similarity(expected, expected)) <= 10 * TOLERANCES[engine]
    assert error == "torch is not installed (pip install 'stopt[torch]')"
    assert not HEAVY & set(loaded)


def test_a_missing_scipy_is_named_and_dense_results_do_without(
    splade: Path, oracle: Load, tmp_path: Path
) -> None:
    arguments = json.dumps([str(splade), ENGINES["onnx"], STRINGS])
    done = run_without({*HEAVY, "scipy"}, tmp_path, "-c", ENCODE, arguments)
    assert done.returncode == 0, done.stderr
    (error, vectors), *_ = map(json.loads, done.stdout.splitlines())
    assert error == "scipy is not installed (pip install 'stopt[sparse]')"
    assert largest_error(vectors, oracle(splade).encode(STRINGS).to_dense()) <= TOLERANCES["onnx"]


MEASURE = """
import re, sys
from pathlib import Path
import scipy.sparse
from stopt import SparseEncoder

def megabytes(field):
    return int(re.search(rf"{field}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

folder, backend, threads, texts = sys.argv[1:]
model = SparseEncoder(folder, backend=backend, device="cpu", threads=int(threads))
before = megabytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
found = model.encode(["rice " * 600] * int(texts))
assert found.shape == (int(texts), 30522) and found.nnz, found
print(megabytes("VmHWM") - before)
"""
# sentence-transformers' logits of 32 texts alone are 2 GB; here they come one text at a time, each of 60 MB, so that 12
# texts show it as well
MEGABYTES = 300


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Factory of exported models that are tiny but for BERT's own vocabulary and 512 tokens."""
    import transformers
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling
    from tiny import HIDDEN, build_transformer

    from stopt.convert.export import ExportOptions, export
    from stopt.spec import Backend

    plain = tmp_path_factory.mktemp("wide")
    build_transformer(plain, "bert", max_length=512)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30522,
        hidden_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=HIDDEN,
    )
    transformers.BertForMaskedLM(config).save_pretrained(plain)

    def save(strategy: str) -> Path:
        folder = tmp_path_factory.mktemp(strategy)
        transformer = Transformer(str(plain), transformer_task="fill-mask")
        model = Oracle(modules=[transformer, SpladePooling(pooling_strategy=strategy)], device="cpu")
        model.save_pretrained(str(folder), create_model_card=False)
        return folder

    backends = (Backend.ONNX, Backend.OPENVINO)
    made = tmp_path_factory.mktemp("wide-exported")
    export(save("max"), ExportOptions(backends, output=made, check_texts=["one text", "and another"]))

    def build(strategy: str) -> Path:
        folder = save(strategy)
        for backend in backends:  # of the transformer alone, and so the same for both
            shutil.copytree(made / backend.value, folder / backend.value)
        return folder

    return build


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak")
@pytest.mark.parametrize(("strategy", "texts"), [("max", 32), ("sum", 12)])
def test_a_vocabularys_logits_do_not_fill_the_memory(
    wide: Callable[[str], Path], strategy: str, texts: int
) -> None:
    folder = wide(strategy)
    for engine in ("onnx", "openvino"):
        # more threads must not mean more logits at a time
        arguments = [sys.executable, "-c", MEASURE, str(folder), engine, "4", str(texts)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) < MEGABYTES, engine
