"""Which texts are run together, and that nobody can tell from the results."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stopt import SentenceTransformer
from stopt.errors import OptionError
from stopt.runtime import batching
from stopt.runtime.batching import BatchLimits, plan_batches
from stopt.runtime.pipeline import RunOptions
from stopt.runtime.sessions import overlapped

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "nobody",
    "is",
    "looking",
    "at",
    "all",
]
ENGINES = ("onnx", "openvino")


def mixed_texts(count: int, seed: int = 0) -> list[str]:
    """Texts with lengths spread as in real corpora: many short, a few very long."""
    rng = random.Random(seed)
    return [
        " ".join(rng.choices(WORDS, k=min(100, int(rng.lognormvariate(2.5, 1)) + 1))) for _ in range(count)
    ]


@given(
    st.lists(st.integers(0, 600), max_size=200),
    st.one_of(st.none(), st.integers(1, 40)),
    st.one_of(st.none(), st.integers(1, 4096)),
    st.sampled_from([1, 4, 8]),
    st.one_of(st.none(), st.integers(0, 100)),
)
def test_plans_hold_every_text_once_within_the_limits(
    lengths: list[int], texts: int | None, tokens: int | None, step: int, cost: int | None
) -> None:
    limits = BatchLimits(texts, tokens, step, run_cost=cost)
    plan = list(plan_batches(lengths, limits))
    assert sorted(row for rows in plan for row in rows) == list(range(len(lengths)))
    longest = [max(lengths[row] for row in rows) for rows in plan]
    assert longest == sorted(longest, reverse=True)
    for rows, length in zip(plan, longest, strict=True):
        padded = limits.length(length)
        assert padded % step == 0
        assert texts is None or len(rows) <= texts
        assert tokens is None or len(rows) == 1 or len(rows) * padded <= tokens


@given(st.lists(st.integers(1, 70), min_size=1, max_size=9), st.integers(0, 40))
def test_no_other_plan_is_cheaper(lengths: list[int], cost: int) -> None:
    limits = BatchLimits(tokens=128, run_cost=cost)

    def work(sizes: list[int]) -> int:
        longest = [falling[sum(sizes[:place])] for place in range(len(sizes))]
        return sum(cost + size * length for size, length in zip(sizes, longest, strict=True))

    def cuttings(count: int) -> Iterator[list[int]]:
        if count == 0:
            yield []
        for first in range(1, count + 1):
            yield from ([first, *rest] for rest in cuttings(count - first))

    falling = sorted(lengths, reverse=True)
    found = work([len(rows) for rows in plan_batches(lengths, limits)])
    allowed = (
        sizes
        for sizes in cuttings(len(lengths))
        if all(size == 1 or size * falling[sum(sizes[:place])] <= 128 for place, size in enumerate(sizes))
    )
    assert found == min(map(work, allowed))


def served(count: int) -> Iterator[list[int]]:
    """Lengths of the texts of calls as a server gets them: one to sixteen texts, of one word to the limit."""
    rng = random.Random(0)
    for _ in range(count):
        texts = rng.randint(1, 16)
        yield [min(256, int(rng.lognormvariate(4, 0.8)) + 2) for _ in range(texts)]


def test_calls_of_all_sizes_make_few_shapes(exported) -> None:
    limits = SentenceTransformer(exported("bert"), backend="openvino").pipeline.session.limits
    shapes = set()
    for lengths in served(2000):
        for rows in plan_batches(lengths, limits):
            shapes.add((len(rows), limits.length(max(lengths[row] for row in rows))))
    # its products are made for a number of places, whatever they are
    assert len({texts * length for texts, length in shapes}) <= 48
    assert len({length for _, length in shapes}) <= 24


@pytest.mark.parametrize("engine", [*ENGINES, "torch"])
def test_short_texts_of_a_small_call_are_not_padded_to_its_longest(exported, engine: str) -> None:
    limits = SentenceTransformer(exported("bert"), backend=engine).pipeline.session.limits
    real = padded = 0
    for lengths in served(300):
        for rows in plan_batches(lengths, limits):
            longest = limits.length(max(lengths[row] for row in rows))
            real, padded = real + sum(lengths[row] for row in rows), padded + len(rows) * longest
    assert real / padded >= 0.9


@given(st.integers(1, 5000), st.sampled_from([1, 4, 8]))
def test_lengths_are_few_and_near(tokens: int, step: int) -> None:
    length = BatchLimits(length_step=step).length(tokens)
    assert tokens <= length <= max(tokens + step - 1, tokens * 9 / 8)
    assert step > 1 or length == tokens


def test_a_large_budget_does_not_make_planning_slow() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(1, 256) for _ in range(2000)]
    for step in (1, 8):
        limits = BatchLimits(tokens=100_000_000, length_step=step, run_cost=10)
        assert max(len(batching._sizes(limits, limits.length(length))) for length in lengths) < 250
        assert sum(map(len, plan_batches(lengths, limits))) == 2000


def test_the_longest_come_first() -> None:
    plan = list(plan_batches([3, 9, 1, 9], BatchLimits(texts=1)))
    assert [int(rows[0]) for rows in plan] == [1, 3, 0, 2]


@pytest.mark.parametrize("engine", ENGINES)
def test_padding_is_at_most_a_tenth_of_the_work(exported, engine: str) -> None:
    pipeline = SentenceTransformer(exported("bert"), backend=engine).pipeline
    real = padded = 0
    for _, features in pipeline.stream(mixed_texts(2000), RunOptions()):
        mask = features["attention_mask"]
        real, padded = real + int(mask.sum()), padded + mask.size
    assert real / padded >= 0.9


@pytest.mark.parametrize("engine", ENGINES)
def test_few_shapes_reach_openvino(exported, engine: str) -> None:
    pipeline = SentenceTransformer(exported("bert"), backend=engine).pipeline
    lengths = {features["attention_mask"].shape[1] for _, features in pipeline.stream(mixed_texts(500))}
    limit = pipeline.spec.tokenizer.max_seq_length
    if engine == "openvino":
        assert all(length % 8 == 0 or length == limit for length in lengths)


@pytest.mark.parametrize("backend", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize(
    "options",
    [{"batch_size": 1}, {"batch_size": 7}, {"max_batch_tokens": 1}, {"max_batch_tokens": 64}, {}],
    ids=str,
)
def test_rows_come_in_the_order_of_the_texts_whatever_the_batches(
    exported, monkeypatch, backend: str, options: dict[str, Any]
) -> None:
    # so that the texts do not fit into one portion
    monkeypatch.setattr(batching, "BATCHES_AHEAD", 1)
    monkeypatch.setattr(batching, "TEXTS_AHEAD", 3)
    model = SentenceTransformer(exported("bert"), backend=backend)
    texts = mixed_texts(40)
    alone = np.stack([model.encode(text) for text in texts])
    np.testing.assert_allclose(model.encode(texts, **options), alone, atol=2e-6)


def test_texts_are_tokenised_in_portions(exported, monkeypatch) -> None:
    model = SentenceTransformer(exported("bert"), backend="onnx")
    sizes = []
    tokenize = type(model.pipeline.tokenizer).tokenize

    def counting(self: Any, texts: Any, positions: Any = None) -> Any:
        sizes.append(len(texts))
        return tokenize(self, texts, positions)

    monkeypatch.setattr(type(model.pipeline.tokenizer), "tokenize", counting)
    model.encode(mixed_texts(3000))
    assert sum(sizes) == 3000
    assert len(sizes) > 3


@pytest.mark.parametrize("engine", ENGINES)
def test_many_threads_may_share_a_model(exported, engine: str) -> None:
    model = SentenceTransformer(exported("bert"), backend=engine)
    texts = mixed_texts(60)
    expected = model.encode(texts)

    def work(number: int) -> bool:
        if number % 2:
            return np.allclose(model.encode(texts), expected, atol=2e-6)
        row = number % len(texts)
        return np.allclose(model.encode(texts[row]), expected[row], atol=2e-6)

    with ThreadPoolExecutor(6) as workers:
        assert all(workers.map(work, range(36)))


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_are_a_budget(exported, engine: str) -> None:
    model = SentenceTransformer(exported("bert"), backend=engine, threads=1)
    texts = mixed_texts(50)
    before = {thread.name for thread in threading.enumerate()}
    vectors = model.encode(texts, batch_size=2)
    started = [t for t in threading.enumerate() if t.name not in before and t.name.startswith("stopt")]
    assert len(started) <= 1
    np.testing.assert_allclose(
        vectors, SentenceTransformer(exported("bert"), backend=engine).encode(texts), atol=2e-6
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_token_embeddings_open_the_model_once_more_and_no_oftener(exported, monkeypatch, engine: str) -> None:
    model = SentenceTransformer(exported("bert"), backend=engine)
    texts = mixed_texts(4)
    opened = []
    open_again = type(model.pipeline)._again

    def counting(self: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(options)
        return open_again(self, *arguments, **options)

    monkeypatch.setattr(type(model.pipeline), "_again", counting)
    first = model.encode(texts, output_value="token_embeddings")
    model.encode(texts, output_value=None)
    model.max_seq_length = 5
    cut = model.encode(texts, output_value="token_embeddings")
    assert len(opened) == 1
    assert max(map(len, cut)) == 5 < max(map(len, first))


@pytest.mark.parametrize("threads", [0, -2, 1.5, "2", True])
def test_a_number_of_threads_that_is_none_is_refused(exported, threads: Any) -> None:
    with pytest.raises(OptionError, match="threads is") as caught:
        SentenceTransformer(exported("bert"), backend="onnx", threads=threads)
    assert "positive number" in caught.value.hint


# ---- several at a time -----------------------------------------------------------------------------------------------


def test_overlapped_keeps_the_order_and_the_depth() -> None:
    running: list[int] = []
    deepest = 0

    def submit(batch: Any) -> Any:
        nonlocal deepest
        running.append(batch)
        deepest = max(deepest, len(running))
        return lambda: running.remove(batch) or batch

    assert list(overlapped(range(10), submit, 3)) == list(range(10))
    assert deepest == 3


def test_overlapped_waits_for_all_when_one_fails() -> None:
    finished = []

    def submit(batch: Any) -> Any:
        def wait() -> Any:
            finished.append(batch)
            if batch == 1:
                raise RuntimeError("no")
            return batch

        return wait

    with pytest.raises(RuntimeError, match="no"):
        list(overlapped(range(8), submit, 4))
    assert finished[:2] == [0, 1]
    assert len(finished) == 5  # those that had been started, and no more


def test_overlapped_waits_for_all_when_nobody_listens_any_more() -> None:
    finished = []

    def submit(batch: Any) -> Any:
        return lambda: finished.append(batch) or batch

    results: Iterator[Any] = overlapped(range(8), submit, 3)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert finished == [0, 1, 2]
