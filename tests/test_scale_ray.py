"""Jobs on a Ray cluster: the same files as in one process, whatever happens to actors. The cluster is this machine."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.data
from corpora import PAIRS, texts_of, tree, write_texts

from stopt import CrossEncoder, SentenceTransformer, SparseEncoder, __version__
from stopt.embeddings.ranges import Ranges
from stopt.errors import ArtifactError, InputError, MissingExtra, OptionError, SourceError, WorkerError
from stopt.scale import EncodeJob, Engine, ModelOptions, OnError, encode_corpus
from stopt.scale.connection import _without_greeting, require_cluster
from stopt.scale.ray import EmbedTexts

# Ray's own: sockets and files of the cluster that are left to the interpreter, and what it will change
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*ray:Warning"),
]

NUMBER = 100


@pytest.fixture(scope="module")
def cluster():
    """Two processors of this machine, on loopback."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            log_to_driver=False,
            logging_level="error",
            object_store_memory=100_000_000,
        )
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.DataContext.get_current().print_on_execution_start = False
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def static(tiny) -> Path:
    return tiny("bert", kind="static")


@pytest.fixture
def job(static, tmp_path) -> EncodeJob:
    file = write_texts(tmp_path, "csv", texts_of(NUMBER))
    options = ModelOptions(str(static))
    return EncodeJob(
        options,
        [file],
        tmp_path / "ray",
        shard_size=10,
        chunk_size=4,
        id_column="key",
        engine=Engine.RAY,
        workers=1,  # a process less to start
    )


def local(job: EncodeJob, output: Path) -> EncodeJob:
    return replace(job, engine=Engine.LOCAL, output=output)


def test_a_cluster_makes_the_same_files(cluster, exported, job, tmp_path) -> None:
    chosen = replace(job, model=ModelOptions(str(exported("bert")), backend="onnx"), workers=None)
    seen = []
    report = encode_corpus(chosen, tell=seen.append)
    assert (report.shape, report.shards) == ((NUMBER, 32), 10)
    encode_corpus(local(chosen, tmp_path / "local"))
    assert tree(chosen.output) == tree(tmp_path / "local")
    assert sorted(each.rows for each in seen) == list(range(10, 101, 10))
    assert seen[-1].share == 1


def test_a_cluster_goes_on_with_what_one_process_began(cluster, job, tmp_path) -> None:
    class StopError(Exception):
        pass

    def stop(progress) -> None:
        if progress.rows >= 45:
            raise StopError

    chosen = replace(job, output=tmp_path / "out.jsonl", resume=True)
    whole = local(job, tmp_path / "whole.jsonl")
    encode_corpus(whole)
    with pytest.raises(StopError):
        encode_corpus(local(chosen, chosen.output), tell=stop)
    assert encode_corpus(chosen).kept_rows == 40
    assert chosen.output.read_bytes() == whole.output.read_bytes()


def test_a_cluster_makes_shards_again_that_are_not_as_recorded(cluster, job, tmp_path) -> None:
    class StopError(Exception):
        pass

    def stop(progress) -> None:
        if progress.rows > 30:
            raise StopError

    rows = [{"text": text, "key": str(place)} for place, text in enumerate(texts_of(50))]
    for row in rows[::3]:
        del row["text"]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = replace(job, inputs=[tmp_path / "some.jsonl"], on_error=OnError.REJECT, resume=True)
    whole = local(chosen, tmp_path / "whole")
    encode_corpus(whole)
    with pytest.raises(StopError):
        encode_corpus(local(chosen, chosen.output), tell=stop)
    os.truncate(chosen.output / "part-000000.parquet", 100)
    (chosen.output / "_progress" / "000001.rejected.jsonl").unlink()
    report = encode_corpus(chosen)
    assert (report.kept_rows, report.rejected) == (10, 17)
    assert tree(chosen.output) == tree(whole.output)


@pytest.mark.scorecard("F18")
def test_a_killed_actor_costs_time_and_no_rows(cluster, job, tmp_path) -> None:
    file = write_texts(tmp_path, "txt", texts_of(6000), "long")
    chosen = replace(job, inputs=[file], id_column=None, shard_size=100, workers=2)
    killed = []

    def kill_one() -> None:
        while len(list(chosen.output.glob("part-*"))) < 5:
            time.sleep(0.005)
        killed.append(actors()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    report = encode_corpus(chosen)
    killer.join(10)
    assert killed
    assert report.shape == (6000, 24)
    encode_corpus(local(chosen, tmp_path / "local"))
    assert tree(chosen.output) == tree(tmp_path / "local")


def actors() -> list[int]:
    """Processes of the actors that make shards, of this process's cluster."""
    found, parents = [], {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"MapBatches(ShardMaker)" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue

    def ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    return [pid for pid in found if ours(pid)]


@pytest.mark.scorecard("F18")
def test_errors_of_actors_are_those_of_one_process(cluster, job, tmp_path) -> None:
    lines = [json.dumps({"text": text, "key": str(place)}) for place, text in enumerate(texts_of(40))]
    lines[25] = '{"text": "\\ud800", "key": "x"}'
    (tmp_path / "broken.jsonl").write_text("\n".join(lines) + "\n")
    chosen = replace(job, inputs=[tmp_path / "broken.jsonl"])
    with pytest.raises(InputError, match=r"line 26 of .*broken.jsonl has a lone surrogate") as caught:
        encode_corpus(chosen)
    assert caught.value.index == 25
    assert not list(chosen.output.glob(".part-000002.*"))  # the shard that failed
    rejecting = replace(chosen, on_error=OnError.REJECT, force=True)
    assert encode_corpus(rejecting).rejected == 1
    encode_corpus(local(rejecting, tmp_path / "local"))
    assert tree(chosen.output) == tree(tmp_path / "local")


def test_a_model_that_cannot_be_opened_is_said_by_the_cluster(cluster, job) -> None:
    with pytest.raises(OptionError, match="there is no prompt named 'none'"):
        encode_corpus(replace(job, model=replace(job.model, prompt_name="none")))
    assert not job.output.exists()


@pytest.mark.parametrize(
    ("change", "error", "message", "hint"),
    [
        ({"inputs": ["-"]}, OptionError, "standard input cannot be read by a cluster", "name files"),
        (
            {"workers": 3},
            OptionError,
            "room for 2 actors of 1 processors, and the job wants 3",
            "ask for fewer",
        ),
        ({"inputs": ["none.txt"]}, SourceError, "none.txt cannot be read", "name a text file"),
    ],
)
def test_what_a_cluster_cannot_do(cluster, job, change, error, message, hint) -> None:
    with pytest.raises(error) as caught:
        encode_corpus(replace(job, **change))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_inputs_that_differ_between_machines_are_noticed(cluster, job, monkeypatch) -> None:
    """The driver's view of the rows is what is changed here."""
    from stopt.scale import cluster as on_ray

    original = on_ray._wanted
    monkeypatch.setattr(
        on_ray, "_wanted", lambda *args: [{**each, "sha256": "other"} for each in original(*args)]
    )
    with pytest.raises(ArtifactError) as caught:
        encode_corpus(job)
    assert "part-000000.parquet was made of are not those that this machine reads" in caught.value.message
    assert "the same files" in caught.value.hint


@pytest.mark.scorecard("F18")
def test_a_job_whose_actors_die_too_often_ends_and_is_gone_on_with(
    cluster, job, tmp_path, monkeypatch
) -> None:
    file = write_texts(tmp_path, "txt", texts_of(6000), "long")
    chosen = replace(job, inputs=[file], id_column=None, shard_size=100)
    monkeypatch.setattr("stopt.scale.cluster.RETRIES", 0)
    over = threading.Event()

    def kill_all() -> None:
        while not over.wait(0.005):
            # a shard that is there and not recorded yet is made again
            if len(list(chosen.output.glob("_progress/*.json"))) >= 3:
                for pid in actors():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_all, daemon=True)
    killer.start()
    try:
        with pytest.raises(WorkerError) as caught:
            encode_corpus(chosen)
    finally:
        over.set()
        killer.join()
    assert "the cluster could not make all shards: " in caught.value.message
    assert caught.value.hint == "see Ray's logs; what is complete stays, go on with --resume"
    encode_corpus(local(chosen, tmp_path / "local"))
    left = sorted(chosen.output.glob("part-*"))
    assert 3 <= len(left) < 60
    for part in left:
        assert part.read_bytes() == (tmp_path / "local" / part.name).read_bytes()
    assert encode_corpus(replace(chosen, engine=Engine.LOCAL, resume=True)).kept_rows >= 300
    assert tree(chosen.output) == tree(tmp_path / "local")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"sha256": "other"}, r'sha256 was "other", is "[0-9a-f]{50}'),
        ({"versions": {"numpy": "1.0", "tokenizers": "0.1"}}, r'versions numpy was "1.0", is "'),
    ],
)
def test_a_machine_with_another_model_or_other_versions_is_refused(
    cluster, job, monkeypatch, changed, named
) -> None:
    """What the job is about is what is changed here."""
    from stopt.scale import cluster as on_ray

    original = on_ray._described

    def described(*args):
        about = original(*args)
        return replace(about, decisive={**about.decisive, **changed})

    monkeypatch.setattr(on_ray, "_described", described)
    with pytest.raises(ArtifactError, match=named) as caught:
        encode_corpus(job)
    assert f"machine {socket.gethostname()} of the cluster has another model, or other versions" in (
        caught.value.message
    )
    assert "install the same versions on all machines" in caught.value.hint
    assert not list(job.output.glob("part-*"))


def test_a_machine_with_another_stopt_is_refused(static) -> None:
    from stopt.scale.cluster import require_alike
    from stopt.scale.encoder import Encoder

    about = Encoder(ModelOptions(str(static))).about()
    require_alike(about, about, __version__)
    with pytest.raises(ArtifactError, match=f'stopt was "0.0.1", is "{__version__}"'):
        require_alike(about, about, "0.0.1")


# ---- addresses ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def listening(answer: bytes):
    """A server that says one thing, or nothing, to whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.sendall(answer)
                    connection.recv(1) if not answer else None
                    time.sleep(0 if answer else 1)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def refused(job, address) -> OptionError:
    begin = time.monotonic()
    with pytest.raises(OptionError) as caught:
        encode_corpus(replace(job, ray_address=address))
    assert time.monotonic() - begin < 15
    assert not job.output.exists()
    return caught.value


@pytest.fixture
def elsewhere(monkeypatch):
    """As if this process were connected to no cluster."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.parametrize(
    "address", ["nonsense", "127.0.0.1", "http://127.0.0.1:8265", "127.0.0.1:port", "10.0.0.1:99999", ":6379"]
)
def test_what_is_no_address_is_refused(elsewhere, job, address) -> None:
    error = refused(job, address)
    assert error.message == f"{address!r} is no address of a Ray cluster"
    assert error.hint.startswith("the host and port of its head, such as 10.0.0.1:6379")


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_an_address_where_nobody_is_is_said_at_once(elsewhere, job, prefix) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{prefix}127.0.0.1:{server.getsockname()[1]}"
    error = refused(job, address)
    assert error.message == f"there is no Ray cluster at {address}: Connection refused"
    assert error.hint.startswith("start one: ray start --head")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what is there is something else"),
        (b"", "timed out"),
    ],
)
def test_an_address_where_something_else_is_is_said_in_seconds(
    elsewhere, job, monkeypatch, answer, said
) -> None:
    monkeypatch.setattr("stopt.scale.connection.ANSWER_S", 0.5)
    with listening(answer) as address:
        assert refused(job, address).message == f"there is no Ray cluster at {address}: {said}"


def test_what_ray_does_not_take_is_an_error_of_ours(elsewhere, job, monkeypatch) -> None:
    def init(**_):
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 1.0")

    monkeypatch.setattr(ray, "init", init)
    error = refused(job, "auto")
    assert error.message.startswith("Ray cannot connect to auto: Version mismatch")
    assert "the same versions of Ray and Python" in error.hint


def test_a_cluster_answers(cluster) -> None:
    require_cluster(ray.get_runtime_context().gcs_address)


def test_what_is_said_at_the_start_is_passed_on_but_for_the_greeting(capfd) -> None:
    with _without_greeting():
        os.write(2, b"Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3\na real error\n")
    assert capfd.readouterr().err == "a real error\n"


def test_an_address_is_for_ray_alone(job) -> None:
    with pytest.raises(OptionError) as caught:
        replace(job, engine=Engine.LOCAL, ray_address="127.0.0.1:1")
    assert caught.value.hint == "add --engine ray"


def test_ray_missing_is_said(job, monkeypatch) -> None:
    monkeypatch.setattr("stopt.scale.connection.find_spec", lambda _: None)
    with pytest.raises(MissingExtra) as caught:
        encode_corpus(job)
    assert caught.value.hint == "pip install 'stopt[ray]'"


# ---- pipelines of one's own -----------------------------------------------------------------------------------------


def test_a_data_set_gets_embeddings(cluster, exported) -> None:
    folder = exported("bert")
    texts = texts_of(50)
    made = ray.data.from_items([{"n": place, "text": text} for place, text in enumerate(texts)]).map_batches(
        EmbedTexts,
        fn_constructor_kwargs={"model": ModelOptions(str(folder), backend="onnx")},
        batch_size=16,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    )
    rows = sorted(made.take_all(), key=lambda row: row["n"])
    assert [row["text"] for row in rows] == texts
    wanted = SentenceTransformer(folder, backend="onnx").encode(texts)
    np.testing.assert_allclose([row["embedding"] for row in rows], wanted, atol=1e-6)


def test_batches_of_the_other_kinds(tiny) -> None:
    pairs = {"query": [first for first, _ in PAIRS], "document": [second for _, second in PAIRS]}
    folder = tiny("bert", kind="cross-encoder")
    options = ModelOptions(str(folder), backend="torch")
    scores = EmbedTexts(options, column="query,document", output="score")(pairs)["score"]
    np.testing.assert_allclose(scores, CrossEncoder(folder, backend="torch").predict(PAIRS), atol=1e-6)
    folder = tiny("bert", kind="splade")
    found = EmbedTexts(ModelOptions(str(folder), backend="torch"))({"text": np.array(texts_of(3), object)})
    wanted = SparseEncoder(folder, backend="torch").encode(texts_of(3)).to_dense().numpy()
    for place, row in enumerate(wanted):
        assert found["embedding_indices"][place].tolist() == np.flatnonzero(row).tolist()
        np.testing.assert_allclose(found["embedding_values"][place], row[np.flatnonzero(row)], atol=1e-6)


def test_a_batch_never_makes_its_own_ranges(static) -> None:
    options = ModelOptions(str(static), precision="int8")
    with pytest.raises(OptionError, match="need ranges, which all parts of a corpus must share"):
        EmbedTexts(options)
    ranges = Ranges.of(SentenceTransformer(static).encode(texts_of(NUMBER)))
    assert EmbedTexts(replace(options, ranges=ranges))({"text": ["one"]})["embedding"].dtype == np.int8


def test_a_text_of_a_batch_that_cannot_be_encoded_is_named(static) -> None:
    with pytest.raises(InputError, match="text 1 has a lone surrogate") as caught:
        EmbedTexts(str(static))({"text": ["one", "\ud800"]})
    assert caught.value.index == 1
