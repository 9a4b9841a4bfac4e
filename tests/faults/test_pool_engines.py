"""Pools of real engines that run out of memory, die in the middle, or are forked."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from faults.stub_jobs import hungry

from stopt import SentenceTransformer, WorkerError
from stopt.errors import InputError, ResourceLimitError
from stopt.runtime.memory import within_memory
from stopt.runtime.pipeline import RunOptions
from stopt.runtime.spread import Spread

Exported = Callable[..., Path]

TEXTS = [f"text number {number} " * (1 + number % 20) for number in range(400)]
# float32 in another order of additions
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(exported: Exported) -> Path:
    return exported("bert")


@pytest.fixture
def served(folder: Path) -> Iterator[SimpleNamespace]:
    model = SentenceTransformer(folder, backend="onnx")
    with model.start_multi_process_pool(["cpu", "cpu"]) as pool:
        yield SimpleNamespace(model=model, pool=pool, expected=model.encode(TEXTS))


def limit_memory(pid: int) -> None:
    """Let a process have no more memory than it has now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + 2**16
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))


@pytest.mark.scorecard("F6")
def test_a_worker_killed_while_it_runs_texts_costs_no_vector(served) -> None:
    for _ in range(3):
        pids, found = served.pool.pids, []
        thread = threading.Thread(
            target=lambda found=found: found.append(
                served.model.encode(TEXTS, pool=served.pool, chunk_size=20)
            )
        )
        thread.start()
        time.sleep(0.02)
        os.kill(pids[0], signal.SIGKILL)
        thread.join(30)
        assert np.abs(found[0] - served.expected).max() < TOLERANCE


@pytest.mark.scorecard("F8")
def test_texts_of_a_worker_without_memory_are_run_by_another(served) -> None:
    limit_memory(served.pool.pids[0])
    long = ["a long text " * 5000, *TEXTS]
    found = served.model.encode(long, pool=served.pool, chunk_size=20)
    assert np.abs(found[1:] - served.expected).max() < TOLERANCE


@pytest.mark.scorecard("F8")
def test_texts_that_no_worker_has_memory_for_are_named(served) -> None:
    for pid in served.pool.pids:
        limit_memory(pid)
    enormous = ["\u4e16" * 3_000_000] * 8
    with pytest.raises(WorkerError) as caught:
        served.model.encode(enormous, pool=served.pool, chunk_size=8)
    assert caught.value.positions == tuple(range(8))
    assert "inputs 0 to 7" in caught.value.message
    assert "another worker had failed on it before" in caught.value.message
    assert "fewer workers" in caught.value.hint


@pytest.mark.scorecard("F8")
def test_texts_that_memory_runs_out_over_are_run_in_smaller_batches(served) -> None:
    texts = ["x" * number for number in range(100)]
    parts = Spread(served.pool, served.model.pipeline, served.model.pipeline, 50).run(
        hungry, texts, RunOptions()
    )
    assert {
        row: int(length)
        for rows, lengths in parts
        for row, (length,) in zip(rows.tolist(), lengths, strict=True)
    } == {number: number for number in range(100)}


@pytest.mark.scorecard("F8")
def test_the_text_that_memory_runs_out_over_is_named(served) -> None:
    texts = [*("x" * number for number in range(30)), "y" * 2000]
    with pytest.raises(WorkerError) as caught:
        list(
            Spread(served.pool, served.model.pipeline, served.model.pipeline, 50).run(
                hungry, texts, RunOptions()
            )
        )
    assert caught.value.positions == (30,)
    assert "memory ran out over input 30 alone, of 2,000 characters: MemoryError" in caught.value.message
    assert "another worker had failed on it before" in caught.value.message
    assert "fewer workers or smaller batches" in caught.value.hint
    assert np.abs(served.model.encode(TEXTS, pool=served.pool) - served.expected).max() < TOLERANCE


def test_smaller_batches_are_told_of(caplog) -> None:
    def run(places, size):
        if (size or 50) > 8:
            raise RuntimeError("std::bad_alloc")
        return len(places)

    assert within_memory(run, [1] * 50, range(50)) == 50
    assert caplog.messages == [
        "memory ran out over 50 texts, which were then run in batches of 8 at most; with smaller ones from the start that is "
        "faster: batch_size=, max_batch_tokens= (RuntimeError: std::bad_alloc)"
    ]


@pytest.mark.parametrize(
    "error", [ValueError("boom"), InputError("'out of memory' has a lone surrogate, boom")]
)
def test_what_is_not_about_memory_is_raised_at_once(error) -> None:
    asked = []

    def run(places, size):
        asked.append(size)
        raise error

    with pytest.raises(ValueError, match="boom"):
        within_memory(run, [1, 2, 3], [0, 1, 2])
    assert asked == [None]


def test_memory_that_runs_out_over_no_text_in_particular_is_an_error_too() -> None:
    asked = []

    def run(places, size):
        asked.append((len(places), size))
        if len(places) > 1:
            raise MemoryError("none left")

    with pytest.raises(ResourceLimitError) as caught:
        within_memory(run, [1, 3, 2], [5, 6, 7])
    assert asked == [(3, None), (3, 2), (3, 1), (1, None), (1, None), (1, None)]
    assert caught.value.message == "memory ran out over 3 texts, run one by one: MemoryError: none left"
    assert caught.value.hint == "fewer workers leave more for each"
    assert caught.value.positions == ()


@pytest.mark.scorecard("F10")
def test_threads_that_share_a_pool_get_their_own_vectors(served) -> None:
    found: dict[int, np.ndarray] = {}

    def call(number: int) -> None:
        found[number] = served.model.encode(TEXTS[number::4], pool=served.pool, chunk_size=7)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number in range(4):
        assert np.abs(found[number] - served.expected[number::4]).max() < TOLERANCE


SCRIPT = """
import sys
from stopt import SentenceTransformer
model = SentenceTransformer(sys.argv[1], backend="onnx")
print(model.encode(["a", "b"], device=["cpu", "cpu"]).shape)
"""


@pytest.mark.parametrize("how", ["-c", "-"])
def test_scripts_need_no_main_guard(folder, how) -> None:
    arguments = ["-c", SCRIPT] if how == "-c" else ["-"]
    done = subprocess.run(
        [sys.executable, *arguments, str(folder)],
        input=SCRIPT if how == "-" else "",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "(2, 32)\n", done.stderr
    assert not done.stderr


FORK = """
import os, signal, sys
from stopt import ForkError, SentenceTransformer
folder, backend = sys.argv[1:]
texts = ["a text " * number for number in range(1, 60)]
open_model = lambda: SentenceTransformer(folder, backend=backend, device="cpu")
model = open_model()
model.encode(texts)

def in_copy(work):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    signal.alarm(30)  # a hang ends with a signal
    work()
    os._exit(9)

def use():
    try:
        model.encode(texts)
    except ForkError as error:
        print(error.message.partition(",")[2], "|", error.hint)
        sys.exit(0)

def open_another():
    try:
        open_model().encode(texts)
        print("opened")
    except ForkError as error:
        print(error.message.partition(",")[2], "|", error.hint)
    sys.exit(0)

def drop():
    del globals()["model"]
    sys.exit(5)

print(in_copy(use), in_copy(open_another), in_copy(drop), flush=True)
model.encode(texts)
"""


@pytest.mark.scorecard("F11")
@pytest.mark.parametrize("backend", ["onnx", "openvino", "torch"])
def test_a_forked_copy_of_a_model_is_refused_and_ends(folder, backend) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(folder), backend], capture_output=True, text=True, timeout=200
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "0 0 5", done.stderr
    assert lines[0] == (
        f" and this is a copy of that made by fork; {backend} does not survive one | open the model in this process, "
        "or use start_multi_process_pool(), which starts fresh ones"
    )
    assert lines[1] == (
        " and this is a copy of that made by fork | start the process with 'spawn', or serve an ONNX or OpenVINO file, "
        "which can be opened in a copy"
        if backend == "torch"
        else "opened"
    )


@pytest.mark.scorecard("F11")
def test_tables_work_in_forked_copies(tiny) -> None:
    model = SentenceTransformer(tiny("bert", kind="static"))
    expected = model.encode(TEXTS)
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        same = False
        try:
            same = np.array_equal(model.encode(TEXTS), expected)
        finally:
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
