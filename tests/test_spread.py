"""A call spread over a pool gives what the model gives by itself: the same values, types, orders and errors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from stopt import CrossEncoder, InputError, OptionError, SentenceTransformer, SparseEncoder, WorkerPool
from stopt.runtime.spread import plan_chunks

Exported = Callable[..., Path]

BACKENDS = ("onnx", "openvino", "torch")
TEXTS: list[Any] = [
    "",
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "今天天气很好,我们去公园。東京は日本の首都です。",
    "He drove to the stadium; the train had been late. " * 40,
    ("What is the capital of France?", "Paris is the capital of France."),
    *(f"text {number} " * (number % 7) for number in range(30)),
]
PAIRS = [("What is the capital of France?", text) for text in TEXTS if isinstance(text, str)]
PROMPTS = {"query": "query: ", "document": "passage: "}
# float32 in another order of additions: batches have other shapes
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=BACKENDS)
def served(exported: Exported, request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """A dense model and a pool of two workers with it."""
    folder = exported("bert", prompts=PROMPTS, include_prompt=False)
    model = SentenceTransformer(folder, backend=request.param, device="cpu")
    with model.start_multi_process_pool(["cpu", "cpu"]) as pool:
        yield SimpleNamespace(model=model, pool=pool, folder=folder)


@pytest.fixture(scope="module")
def onnx(exported: Exported) -> Iterator[SimpleNamespace]:
    """Like ``served``, with ONNX Runtime alone."""
    model = SentenceTransformer(exported("bert", prompts=PROMPTS), backend="onnx")
    with model.start_multi_process_pool(["cpu", "cpu"]) as pool:
        yield SimpleNamespace(model=model, pool=pool)


def assert_same(found: Any, expected: Any) -> None:
    """Same types all the way down, same values."""
    assert type(found) is type(expected)
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, int):
        assert found == expected
    else:
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        if scipy.sparse.issparse(expected):
            found, expected = found.toarray(), expected.toarray()
        elif isinstance(expected, torch.Tensor):
            found, expected = found.to_dense().numpy(), expected.to_dense().numpy()
        assert np.abs(found - expected).max(initial=0) <= TOLERANCE


# ---- dense models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt_name": "query"},
        {"prompt": "say: ", "normalize_embeddings": True},
        {"truncate_dim": 8, "normalize_embeddings": True, "chunk_size": 3},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"output_value": "token_embeddings", "chunk_size": 7},
        {"output_value": None, "batch_size": 4},
        {"chunk_size": 1000},
        {"precision": "ubinary"},
    ],
    ids=str,
)
def test_a_pool_gives_what_the_model_gives(served, options) -> None:
    alone = {key: value for key, value in options.items() if key != "chunk_size"}
    found = served.model.encode(TEXTS, pool=served.pool, **options)
    if options.get("output_value", "") is None:
        # batches, and so the padding in features, are others; what comes of them is not
        found = [features["sentence_embedding"] for features in found]
        expected = [features["sentence_embedding"] for features in served.model.encode(TEXTS, **alone)]
        assert_same(found, expected)
    else:
        assert_same(found, served.model.encode(TEXTS, **alone))


@pytest.mark.parametrize("inputs", [[], "one text", ["one"], ("two", "texts"), np.array(["an", "array"])])
@pytest.mark.parametrize("options", [{}, {"convert_to_tensor": True}, {"convert_to_numpy": False}], ids=str)
def test_few_texts_have_the_shapes_that_they_have_without_a_pool(onnx, inputs, options) -> None:
    found = onnx.model.encode(inputs, pool=onnx.pool, **options)
    assert_same(found, onnx.model.encode(inputs, **options))


def test_the_older_method_still_works_and_says_so(onnx) -> None:
    with pytest.warns(DeprecationWarning, match=r"is now encode\(..., pool=\)"):
        found = onnx.model.encode_multi_process(TEXTS, onnx.pool, "query", chunk_size=5)
    assert_same(found, onnx.model.encode(TEXTS, "query"))


@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
def test_prompts_of_queries_and_documents_are_used(onnx, method) -> None:
    call = getattr(onnx.model, method)
    found = call(TEXTS, pool=onnx.pool, chunk_size=5)
    assert_same(found, call(TEXTS))
    assert np.abs(found - onnx.model.encode(TEXTS)).max() > 0.01


def test_codes_are_made_once_for_the_whole_call(onnx) -> None:
    texts = TEXTS * 3
    found = onnx.model.encode(texts, precision="int8", pool=onnx.pool, chunk_size=9)
    expected = onnx.model.encode(texts, precision="int8")
    assert found.dtype == np.int8
    assert np.abs(found.astype(int) - expected).max() <= 1  # what a rounding error can do
    assert (found != expected).mean() < 0.01


def test_a_device_for_each_worker_starts_a_pool_for_the_call(onnx) -> None:
    assert_same(onnx.model.encode(TEXTS, device=["cpu", torch.device("cpu")]), onnx.model.encode(TEXTS))


def test_what_was_set_after_the_pool_was_started_counts(served) -> None:
    model = SentenceTransformer(served.folder, backend=served.model.get_backend(), device="cpu")
    before = model.encode(TEXTS, prompt="a prompt ")
    model.max_seq_length = 9
    assert_same(model.encode(TEXTS, pool=served.pool), model.encode(TEXTS))
    model.set_pooling_include_prompt(True)
    found = model.encode(TEXTS, prompt="a prompt ", pool=served.pool)
    assert_same(found, model.encode(TEXTS, prompt="a prompt "))
    assert np.abs(found - before).max() > 0.001


def test_a_bar_is_drawn_by_the_caller_alone(onnx, capfd) -> None:
    onnx.model.encode(TEXTS, pool=onnx.pool, show_progress_bar=True)
    shown = capfd.readouterr().err
    assert f"{len(TEXTS)}/{len(TEXTS)}" in shown
    assert shown.count("Encoding: 100%") == 1


def threads_of(model: Any, chunk: Any) -> tuple[int, str]:
    """A job: how the worker's model was opened."""
    pipeline = model.as_seen(chunk)
    return pipeline.options.threads, pipeline.session.device


def test_workers_share_the_threads_of_the_model(exported) -> None:
    model = SentenceTransformer(exported("bert"), backend="onnx", threads=3)
    with model.start_multi_process_pool() as pool:
        assert pool.devices == ("cpu",) * 3
        view = SimpleNamespace(route=None, max_seq_length=128, include_prompt=(True,), fused=True)
        assert {*pool.map(threads_of, [view] * 6)} == {(1, "CPUExecutionProvider")}
        model.stop_multi_process_pool(pool)
        assert pool.closed


# ---- sparse models, tables, routes ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sparse(exported: Exported) -> Iterator[SimpleNamespace]:
    model = SparseEncoder(exported("bert", kind="splade"), backend="onnx")
    with model.start_multi_process_pool(["cpu", "cpu"]) as pool:
        yield SimpleNamespace(model=model, pool=pool)


@pytest.mark.parametrize("inputs", [TEXTS, [], "one text"], ids=["texts", "none", "one"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_active_dims": 5, "chunk_size": 4},
        {"convert_to_sparse_tensor": False},
        {"convert_to_tensor": True},
        {"convert_to_tensor": False},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_embeddings_are_the_same(sparse, inputs, options) -> None:
    alone = {key: value for key, value in options.items() if key != "chunk_size"}
    assert_same(
        sparse.model.encode(inputs, pool=sparse.pool, **options), sparse.model.encode(inputs, **alone)
    )


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_tensors_of_torch_come_home_to_the_cpu(exported) -> None:
    model = SparseEncoder(exported("bert", kind="csr"), backend="torch", device="cpu")
    with model.start_multi_process_pool(["cpu"]) as pool:
        for options in ({}, {"max_active_dims": 3}):
            assert_same(model.encode(TEXTS, pool=pool, **options), model.encode(TEXTS, **options))


@pytest.mark.filterwarnings("ignore:Sparse")
def test_routes_are_taken_in_workers_too(exported) -> None:
    model = SparseEncoder(exported("bert", kind="inference-free"), backend="onnx")
    with model.start_multi_process_pool(["cpu", "cpu"]) as pool:
        assert_same(model.encode_query(TEXTS, pool=pool), model.encode_query(TEXTS))
        assert_same(model.encode_document(TEXTS, pool=pool), model.encode_document(TEXTS))


def test_tables_are_served_by_pools_too(tiny) -> None:
    model = SentenceTransformer(tiny("bert", kind="static"))
    with model.start_multi_process_pool(["cpu", "cpu"]) as pool:
        assert_same(model.encode(TEXTS, pool=pool), model.encode(TEXTS))


# ---- cross-encoders -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cross(exported: Exported) -> Iterator[SimpleNamespace]:
    model = CrossEncoder(exported("bert", kind="cross-encoder"), backend="onnx")
    with model.start_multi_process_pool(["cpu", "cpu"]) as pool:
        yield SimpleNamespace(model=model, pool=pool)


@pytest.mark.parametrize("inputs", [PAIRS, [], PAIRS[0]], ids=["pairs", "none", "one"])
@pytest.mark.parametrize(
    "options",
    [
        {"chunk_size": 4},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"activation_fn": lambda logits: logits * 2},
    ],
    ids=["plain", "tensor", "list", "function"],
)
def test_scores_are_the_same(cross, inputs, options) -> None:
    alone = {key: value for key, value in options.items() if key != "chunk_size"}
    found = cross.model.predict(inputs, pool=cross.pool, **options)
    assert_same(found, cross.model.predict(inputs, **alone))


def test_ranks_are_the_same(cross) -> None:
    documents = [document for _, document in PAIRS]
    found = cross.model.rank("a question", documents, top_k=5, pool=cross.pool, chunk_size=3)
    assert_same(found, cross.model.rank("a question", documents, top_k=5))
    assert_same(cross.model.rank("a question", documents, device=["cpu"], top_k=5), found)


# ---- what is refused ------------------------------------------------------------------------------------------------

BAD_TEXTS: dict[str, Any] = {
    "a missing value": [*TEXTS, None],
    "not a number": ["a", float("nan"), "b"],
    "bytes": ["a", "b", b"c"],
    "a number": [1],
    "a nested list": ["a", ["b"]],
    "not a list": 7,
    "a lone surrogate": [*TEXTS, "ok\ud800"],
    "a lone surrogate in a pair": [*TEXTS, ("a", "\udfff")],
    "a lone surrogate alone": "\ud800",
}


@pytest.mark.scorecard("F16")
@pytest.mark.parametrize("bad", BAD_TEXTS)
def test_bad_texts_are_refused_with_the_same_words(served, bad) -> None:
    errors = []
    for options in ({}, {"pool": served.pool, "chunk_size": 4}):
        with pytest.raises(InputError) as caught:
            served.model.encode(BAD_TEXTS[bad], **options)
        errors.append((caught.value.message, caught.value.hint, caught.value.index))
    assert errors[0] == errors[1]
    assert_same(served.model.encode(TEXTS[:3], pool=served.pool), served.model.encode(TEXTS[:3]))


@pytest.mark.scorecard("F16")
def test_odd_texts_are_finite_and_the_same(served) -> None:
    odd = ["", "   ", "\0", "a\0b", "e" + "\u0301" * 10_000, "\u202eabc", "👩\u200d👩", "x" * 100_000]
    found = served.model.encode(odd, pool=served.pool, chunk_size=2)
    assert np.isfinite(found).all()
    assert_same(found, served.model.encode(odd))


def message_of(call: Callable[[], Any]) -> str:
    with pytest.raises(OptionError) as caught:
        call()
    assert caught.value.hint
    return str(caught.value)


def test_a_pool_with_another_model_is_refused(onnx, cross) -> None:
    assert message_of(lambda: onnx.model.encode(TEXTS, pool=cross.pool)) == (
        "the pool has another model open than this one (start one with this model's start_multi_process_pool())"
    )


def test_a_pool_is_one_of_ours(onnx) -> None:
    assert message_of(lambda: onnx.model.encode(TEXTS, pool={"input": None})) == (
        "pool is dict, expected a WorkerPool (start one with start_multi_process_pool())"
    )


@pytest.mark.parametrize("size", [0, -1, True, "10"])
def test_a_chunk_has_a_positive_number_of_texts(onnx, size) -> None:
    assert message_of(lambda: onnx.model.encode(TEXTS, pool=onnx.pool, chunk_size=size)) == (
        f"chunk_size is {size!r} (a positive number of texts, or None)"
    )


def test_target_devices_are_a_list(onnx) -> None:
    assert message_of(lambda: onnx.model.start_multi_process_pool("cpu")) == (
        "target_devices is 'cpu', expected a list of devices (one for each worker: ['cpu', 'cpu'])"
    )


def test_a_device_that_is_not_there_is_the_engines_error(onnx) -> None:
    text = message_of(lambda: onnx.model.start_multi_process_pool(["cpu", "cuda:7"]))
    assert text.startswith("provider 'CUDAExecutionProvider' is not in this build of ONNX Runtime (it has ")
    assert "onnxruntime-gpu" in text


def test_session_options_cannot_go_to_workers(exported) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    model = SentenceTransformer(exported("bert"), backend="onnx", model_kwargs={"session_options": options})
    assert message_of(model.start_multi_process_pool) == (
        "session_options belong to this process, and workers cannot have them (leave them out of model_kwargs; "
        "threads= and provider_options are passed on)"
    )


# ---- chunks ---------------------------------------------------------------------------------------------------------


def test_every_text_is_in_one_chunk_longest_first() -> None:
    texts = ["x" * (number * 37 % 1000) for number in range(5000)]
    plan = plan_chunks(texts, 2, 256)
    order = np.concatenate(plan)
    assert sorted(order.tolist()) == list(range(5000))
    lengths = [len(texts[row]) for row in order]
    assert lengths == sorted(lengths, reverse=True)
    work = [sum(len(texts[row]) for row in rows) for rows in plan]
    assert work[0] < 0.2 * sum(work)
    assert work[-1] < 0.02 * sum(work)


def test_few_texts_are_shared_by_all_workers() -> None:
    assert len(plan_chunks(["a text"] * 32, 4, 256)) >= 4
    assert [len(rows) for rows in plan_chunks(["a", "b"], 4, 256)] == [1, 1]


def test_one_long_text_is_no_more_work_than_the_model_reads() -> None:
    plan = plan_chunks(["x" * 10**6, *["y" * 500] * 1000], 2, 128)
    assert len(plan[0]) > 10


def test_a_chunk_is_no_larger_than_what_one_may_lose() -> None:
    assert max(map(len, plan_chunks(["a"] * 50_000, 1, None))) == 5000


def test_chunk_size_is_the_callers() -> None:
    assert [len(rows) for rows in plan_chunks(["a"] * 10, 2, 128, 4)] == [4, 4, 2]
    assert plan_chunks([], 2, 128) == plan_chunks([], 2, 128, 4) == []


def test_pools_are_what_the_package_says(onnx) -> None:
    assert isinstance(onnx.pool, WorkerPool)
    assert repr(onnx.pool) == "WorkerPool(2 workers on cpu, cpu; open)"
