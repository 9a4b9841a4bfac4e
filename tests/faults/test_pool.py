"""Pools whose workers fail, die, or are left alone, at every stage: nothing hangs, nothing gets lost, nothing is mixed up."""

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import count, islice
from pathlib import Path

import pytest
from faults.stub_jobs import Chunk, Stub, Triple

from stopt import ForkError, InputError, OptionError, WorkerError, WorkerPool

TESTS = Path(__file__).parents[1]
HANG_S = 30  # on a loaded machine; failures are told, and workers end, in a fraction of a second
DEATHS = {
    "os._exit": "ended with exit code 7",
    "kill": "was killed by SIGKILL",
    "segfault": "was killed by SIGSEGV",
}
ERRORS = {
    "raise": "ValueError: boom",
    "raise unpicklable": "CannotBePickledError: boom",
    "raise without text": "HasNoTextError: (its text cannot be had)",
    "panic": "Panic: boom",
    "exit": "SystemExit: 3",
    "return unpicklable": "Can't pickle",
    "return what cannot be read": "ValueError: cannot be read back",
    "memory": "MemoryError",
}


def chunks(number, size=2):
    for first in range(0, size * number, size):
        values = tuple(range(first, first + size))
        yield Chunk(values, tuple(100 + value for value in values))


def results(pool, job, number=6):
    return [values for values, _, _ in pool.map(job, chunks(number))]


EXPECTED = [[0, 3], [6, 9], [12, 15], [18, 21], [24, 27], [30, 33]]


def wait_until(condition, seconds=HANG_S):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come to that"
        time.sleep(0.01)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture(scope="module")
def shared():
    """A pool that every failure of a call must leave usable."""
    with WorkerPool(Stub(), ["cpu", "cpu"], threads=3) as pool:
        yield pool


# ---- what works -----------------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_chunks(shared) -> None:
    found = list(shared.map(Triple(sleep_s=0.01), chunks(6)))
    assert [values for values, _, _ in found] == EXPECTED
    assert {pid for _, pid, _ in found} == set(shared.pids)
    assert os.getpid() not in shared.pids


def test_results_can_be_had_as_they_come(shared) -> None:
    found = dict(shared.unordered(Triple(), chunks(6)))
    assert [found[number][0] for number in range(6)] == EXPECTED


def test_each_worker_has_its_share_of_the_threads(shared) -> None:
    opened = {model for _, _, model in shared.map(Triple(sleep_s=0.05), chunks(4))}
    assert opened == {("cpu", 1), ("cpu", 2)}


def test_no_chunks_are_no_results(shared) -> None:
    assert results(shared, Triple(), 0) == []


def test_what_a_worker_prints_is_no_result(shared, capfd) -> None:
    assert list(shared.map(Triple(trouble="print"), chunks(1))) == [None]
    assert results(shared, Triple()) == EXPECTED
    assert "hello from a worker" not in capfd.readouterr().out


@pytest.mark.scorecard("F12")
def test_chunks_are_taken_two_per_worker_ahead_of_a_slow_consumer(shared) -> None:
    taken = count()
    endless = (chunk for chunk in chunks(10**9) if next(taken) >= 0)
    found = shared.map(Triple(), endless)
    for values, _, _ in islice(found, 5):
        time.sleep(0.05)
        assert values
    found.close()
    assert next(taken) <= 5 + 2 * len(shared)


def test_a_failing_source_of_chunks_leaves_the_pool_usable(shared) -> None:
    def broken():
        yield from chunks(3)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(shared.map(Triple(), broken()))
    assert results(shared, Triple()) == EXPECTED


# ---- calls that fail ------------------------------------------------------------------------------------------------


@pytest.mark.scorecard("F7")
@pytest.mark.parametrize("bad", [4, None], ids=["one chunk", "every chunk"])
@pytest.mark.parametrize("trouble", [*ERRORS, *DEATHS])
def test_a_chunk_that_fails_twice_is_named_with_its_error(shared, trouble, bad) -> None:
    begin = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        results(shared, Triple(bad, trouble))
    assert time.monotonic() - begin < HANG_S
    error = caught.value
    assert {**ERRORS, **DEATHS}[trouble] in error.message
    assert "another worker had failed on it before" in error.message
    if bad is not None:
        assert (error.chunk, error.positions) == (2, (104, 105))
        assert "running chunk 2, inputs 104 to 105" in error.message
    if trouble in DEATHS:
        assert "memory ran out or native code crashed" in error.hint
    elif trouble == "memory":
        assert "fewer workers or smaller batches" in error.hint
    else:
        assert "without a pool" in error.hint
    assert not shared.closed
    assert results(shared, Triple()) == EXPECTED


def test_the_traceback_of_the_worker_comes_along(shared) -> None:
    with pytest.raises(WorkerError) as caught:
        results(shared, Triple(4, "raise"))
    assert "stub_jobs.py" in caught.value.__notes__[0]


@pytest.mark.parametrize(("trouble", "kind"), [("option", OptionError), ("input", InputError)])
def test_errors_of_ours_stay_what_they_are_and_are_not_tried_again(shared, tmp_path, trouble, kind) -> None:
    with pytest.raises(kind) as caught:
        results(shared, Triple(4, trouble, once=str(tmp_path / "tried")))
    assert str(caught.value).startswith(f"bad {trouble} with [4, 5] (")
    if kind is InputError:
        assert caught.value.index == 7
    assert results(shared, Triple()) == EXPECTED


@pytest.mark.scorecard("F6")
@pytest.mark.parametrize("trouble", ["kill", "os._exit", "raise", "memory"])
def test_a_chunk_that_fails_once_is_done_by_another_worker(tmp_path, trouble) -> None:
    with WorkerPool(Stub(), ["cpu", "cpu"]) as pool:
        for round_ in range(3):
            job = Triple(4, trouble, once=str(tmp_path / f"failed-{round_}"))
            assert results(pool, job) == EXPECTED


@pytest.mark.scorecard("F6")
def test_one_worker_alone_is_replaced(tmp_path) -> None:
    with WorkerPool(Stub(), ["cpu"]) as pool:
        (before,) = pool.pids
        assert results(pool, Triple(4, "kill", once=str(tmp_path / "failed"))) == EXPECTED
        assert pool.pids != [before]


@pytest.mark.scorecard("F6")
def test_workers_killed_in_the_middle_of_chunks_cost_no_result() -> None:
    with WorkerPool(Stub(), ["cpu", "cpu"]) as pool:
        found = pool.map(Triple(sleep_s=0.1), chunks(6))
        assert next(found)[0] == EXPECTED[0]
        os.kill(pool.pids[0], signal.SIGKILL)
        assert [values for values, _, _ in found] == EXPECTED[1:]


@pytest.mark.scorecard("F6")
def test_workers_killed_while_idle_are_replaced() -> None:
    with WorkerPool(Stub(), ["cpu", "cpu"]) as pool:
        for _ in range(2):
            for pid in pool.pids:
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: not is_alive(pid))
            assert results(pool, Triple()) == EXPECTED


@pytest.mark.scorecard("F6")
def test_a_worker_killed_at_start_is_started_again(tmp_path) -> None:
    with WorkerPool(Stub("kill", once=str(tmp_path / "killed")), ["cpu", "cpu"]) as pool:
        assert results(pool, Triple()) == EXPECTED


@pytest.mark.parametrize(
    ("trouble", "kind", "text"),
    [
        ("kill", WorkerError, r"worker \d \(cpu\) was killed by SIGKILL while opening the model"),
        (
            "raise",
            WorkerError,
            r"worker \d \(cpu\) failed while opening the model: ValueError: boom at start",
        ),
        ("option", OptionError, r"bad option at start \(another one\)"),
    ],
)
def test_workers_that_cannot_open_the_model_say_why(trouble, kind, text) -> None:
    with pytest.raises(kind, match=text):
        WorkerPool(Stub(trouble), ["cpu", "cpu"])


def test_a_pool_whose_workers_cannot_be_replaced_is_closed_and_says_so(tmp_path) -> None:
    broken = tmp_path / "broken"
    with WorkerPool(Stub("raise unless", once=str(broken)), ["cpu", "cpu"]) as pool:
        broken.touch()
        with pytest.raises(WorkerError):  # of the chunk, or of the pool: whichever is noticed first
            results(pool, Triple(None, "kill"))
        for _ in range(2):
            with pytest.raises(WorkerError) as caught:
                results(pool, Triple())
            assert "the pool is closed: worker" in caught.value.message
            assert "while opening the model: ValueError: boom at start" in caught.value.message
            assert caught.value.hint == "start another one"
            assert pool.closed


def test_a_pool_needs_a_device() -> None:
    with pytest.raises(
        OptionError, match=r"a pool needs at least one device .*name a device for each worker"
    ):
        WorkerPool(Stub(), [])


# ---- workers that hang ----------------------------------------------------------------------------------------------

LIMIT_S = 1.0


@pytest.fixture(scope="module")
def impatient():
    with WorkerPool(Stub(), ["cpu", "cpu"], hang_limit_s=LIMIT_S) as pool:
        yield pool


@pytest.mark.skipif(sys.platform != "linux", reason="hangs are noticed on Linux")
@pytest.mark.scorecard("F6")
@pytest.mark.parametrize("trouble", ["stop", "deadlock"])
def test_a_chunk_of_a_worker_that_hangs_is_done_by_another(impatient, tmp_path, trouble) -> None:
    before = impatient.pids
    begin = time.monotonic()
    assert results(impatient, Triple(4, trouble, once=str(tmp_path / "hung"))) == EXPECTED
    assert LIMIT_S <= time.monotonic() - begin < HANG_S
    wait_until(lambda: sum(map(is_alive, before)) == 1)
    assert results(impatient, Triple()) == EXPECTED


@pytest.mark.skipif(sys.platform != "linux", reason="hangs are noticed on Linux")
@pytest.mark.scorecard("F7")
def test_a_chunk_on_which_two_workers_hang_is_named(impatient) -> None:
    with pytest.raises(WorkerError) as caught:
        results(impatient, Triple(4, "deadlock"))
    assert caught.value.positions == (104, 105)
    assert "gave no sign of life for 1 s and was killed while running chunk 2" in caught.value.message
    assert "another worker had failed on it before" in caught.value.message
    assert "deadlock" in caught.value.hint
    assert "hang_limit_s=" in caught.value.hint
    assert results(impatient, Triple()) == EXPECTED


@pytest.mark.skipif(sys.platform != "linux", reason="hangs are noticed on Linux")
@pytest.mark.scorecard("F6")
@pytest.mark.parametrize("trouble", ["stop", "deadlock"])
def test_a_worker_that_hangs_while_it_opens_the_model_is_replaced(tmp_path, trouble) -> None:
    with WorkerPool(Stub(trouble, once=str(tmp_path / "hung")), ["cpu"], hang_limit_s=LIMIT_S) as pool:
        assert results(pool, Triple()) == EXPECTED


@pytest.mark.skipif(sys.platform != "linux", reason="hangs are noticed on Linux")
@pytest.mark.scorecard("F6")
def test_a_pool_whose_workers_all_hang_while_they_open_the_model_says_so() -> None:
    with pytest.raises(WorkerError) as caught:
        WorkerPool(Stub("deadlock"), ["cpu"], hang_limit_s=LIMIT_S)
    assert "gave no sign of life for 1 s and was killed while opening the model" in caught.value.message
    assert "open it without a pool" in caught.value.hint
    assert "hang_limit_s=" in caught.value.hint


@pytest.mark.skipif(sys.platform != "linux", reason="hangs are noticed on Linux")
def test_a_stopped_worker_that_reads_nothing_holds_up_nobody(impatient) -> None:
    """A chunk that is larger than what a pipe holds."""
    large = [Chunk(tuple(range(200_000)), ())] * 2
    os.kill(impatient.pids[0], signal.SIGSTOP)
    found = [values for values, _, _ in impatient.map(Triple(), large)]
    assert [len(values) for values in found] == [200_000] * 2


def test_a_slow_worker_is_left_alone(impatient) -> None:
    before = impatient.pids
    list(impatient.map(Triple(4, "busy"), chunks(6)))
    assert set(before) <= set(impatient.pids)


@pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
def test_a_limit_is_a_positive_number(limit) -> None:
    with pytest.raises(OptionError) as caught:
        WorkerPool(Stub(), ["cpu"], hang_limit_s=limit)
    assert f"hang_limit_s is {limit!r}" in caught.value.message
    assert caught.value.hint == "a positive number of seconds, or None"


def test_closing_ends_a_stopped_worker_too(monkeypatch) -> None:
    monkeypatch.setattr("stopt.runtime.process.GRACE_S", 0.5)
    pool = WorkerPool(Stub(), ["cpu"], hang_limit_s=None)
    (pid,) = pool.pids

    def call() -> None:
        with pytest.raises(WorkerError, match="the pool is closed"):
            results(pool, Triple(sleep_s=60))

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.1)
    os.kill(pid, signal.SIGSTOP)
    pool.close()
    thread.join(HANG_S)
    assert not is_alive(pid)


# ---- the end --------------------------------------------------------------------------------------------------------


def test_closing_ends_the_workers_whatever_they_do() -> None:
    pool = WorkerPool(Stub(), ["cpu", "cpu"])
    pids, failed = pool.pids, []

    def call() -> None:
        with pytest.raises(WorkerError, match="the pool is closed: it was stopped") as caught:
            results(pool, Triple(sleep_s=60))
        failed.append(caught.value)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.1)
    pool.close()
    pool.close()
    thread.join(HANG_S)
    assert len(failed) == 1
    wait_until(lambda: not any(map(is_alive, pids)))
    assert "closed" in repr(pool)


def test_a_forgotten_pool_ends_its_workers() -> None:
    pool = WorkerPool(Stub(), ["cpu"])
    pids = pool.pids
    del pool
    wait_until(lambda: not any(map(is_alive, pids)))


PARENT = """
import sys, time
from faults.stub_jobs import Chunk, Stub, Triple
from stopt.runtime.workers import WorkerPool
pool = WorkerPool(Stub(), ["cpu", "cpu"])
print(*pool.pids, flush=True)
if sys.argv[1:] == ["busy"]:
    list(pool.map(Triple(sleep_s=60), [Chunk((1,), (0,)), Chunk((2,), (1,))]))
time.sleep(60)
"""


@pytest.mark.scorecard("F9")
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_workers_end_with_a_parent_that_is_killed(state) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, state], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        time.sleep(0.1)
        parent.kill()
        parent.wait()
        wait_until(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize("how", ["-c", "stdin"])
def test_no_main_module_is_needed_nor_run_again(how) -> None:
    program = PARENT.replace(
        "time.sleep(60)", "print([v for v, _, _ in pool.map(Triple(), [Chunk((5,), ())])])"
    )
    program = "print('once')\n" + program
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    done = subprocess.run(
        [sys.executable, *(["-c", program] if how == "-c" else ["-"])],
        input=None if how == "-c" else program,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "once"
    assert lines[2:] == ["[[15]]"]
    assert not done.stderr


@pytest.mark.scorecard("F11")
def test_a_forked_copy_of_a_pool_is_refused(shared) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            results(shared, Triple())
        except ForkError as error:
            os._exit(0 if "made by fork" in error.message and "'spawn'" in error.hint else 1)
        os._exit(2)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert results(shared, Triple()) == EXPECTED


# ---- threads --------------------------------------------------------------------------------------------------------


@pytest.mark.scorecard("F10")
def test_threads_that_share_a_pool_get_their_own_results(shared) -> None:
    found = {}

    def call(number) -> None:
        mine = [Chunk((1000 * number + value,), ()) for value in range(20)]
        found[number] = [values[0] for values, _, _ in shared.map(Triple(sleep_s=0.001), mine)]

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert found == {number: [3 * (1000 * number + value) for value in range(20)] for number in range(4)}


@pytest.mark.scorecard("F10")
def test_nothing_of_a_call_that_failed_comes_out_of_the_next(shared) -> None:
    for _ in range(5):
        with pytest.raises(WorkerError):
            results(shared, Triple(0, "raise", sleep_s=0.01))
        assert results(shared, Triple()) == EXPECTED


@pytest.mark.scorecard("F10")
def test_nothing_of_a_call_that_was_given_up_comes_out_of_the_next(shared) -> None:
    for _ in range(5):
        found = shared.map(Triple(sleep_s=0.01), chunks(6))
        next(found)
        found.close()
        assert results(shared, Triple()) == EXPECTED


def test_whatever_keeps_a_process_from_starting_is_told(monkeypatch) -> None:
    def refuse(threads: int) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("stopt.runtime.workers.WorkerProcess", refuse)
    with pytest.raises(WorkerError, match="RuntimeError: can't start new thread") as caught:
        WorkerPool(Stub(), ["cpu", "cpu"])
    assert caught.value.hint
