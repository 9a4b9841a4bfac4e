"""A model is exported again into the folder that a pool was opened from: rows of one call never come from two models."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from external import with_external_data
from faults.commands import finish, start

from stopt import CrossEncoder, SentenceTransformer, SparseEncoder, __version__
from stopt.errors import ArtifactError, CorruptModel
from stopt.runtime.opened import OpenedFiles
from stopt.runtime.spread import PipelineSource
from stopt.scale import ModelOptions
from stopt.scale.cluster import require_alike
from stopt.scale.crew import Texts, hired
from stopt.scale.encoder import Encoder

Copied = Callable[..., Path]

TEXTS = [f"text number {number} " * (1 + number % 5) for number in range(40)]
TOLERANCE = 1e-5  # float32 in another order of additions
GRAPHS = {"onnx": "onnx/model.onnx", "openvino": "openvino/openvino_model.bin"}
HINT = "open the model again, and start a new pool of it"
SINCE = "the model's files changed since it was opened"
HANG_S = 30


@pytest.fixture
def copied(exported: Callable[..., Path], tmp_path: Path) -> Copied:
    """A converted model of a test's own, to be exported into."""

    def copy(**options: object) -> Path:
        return Path(shutil.copytree(exported("bert", **{"pooling": "cls", **options}), tmp_path / "model"))

    return copy


def export_again(folder: Path, name: str) -> None:
    """Put other weights in the place of a file's, as an export does: by renaming."""
    new = folder / "new"
    if name.endswith(".onnx"):
        model = onnx.load(folder / name)
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                values = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.5), tensor.name))
        onnx.save(model, new)
    else:
        content = bytearray((folder / name).read_bytes())
        content[-64:] = bytes(64)
        new.write_bytes(content)
    new.replace(folder / name)


def kill(*pids: int) -> None:
    """Kill workers that are idle; their pool finds out when it has work for them."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < limit, "it did not come to that"
        time.sleep(0.01)


def workers_of(pid: int) -> set[int]:
    """The processes that a process has started, whatever thread did."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for file in found for child in file.read_text(encoding="ascii").split()}


# ---- pools of an open model -----------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_new_worker_never_opens_other_files(copied, backend, caplog) -> None:
    folder, name = copied(), GRAPHS[backend]
    model = SentenceTransformer(folder, backend=backend, device="cpu", threads=2)
    expected = model.encode(TEXTS)
    with model.start_multi_process_pool(["cpu", "cpu"]) as pool:
        first, second = pool.pids
        kill(first)
        assert np.abs(model.encode(TEXTS, pool=pool, chunk_size=4) - expected).max() < TOLERANCE
        wait_until(lambda: len(pool.pids) == 2)  # nothing has changed: there are two again
        (again,) = {*pool.pids} - {second}
        export_again(folder, name)
        kill(again)
        for _ in range(3):  # the other one goes on, with what it has
            assert np.abs(model.encode(TEXTS, pool=pool, chunk_size=4) - expected).max() < TOLERANCE
        wait_until(lambda: "a worker was lost" in caplog.text)
        assert f"the pool goes on with 1: {SINCE}: {name}" in caplog.text
        assert pool.pids == [second]
        kill(second)
        for _ in range(2):
            with pytest.raises(ArtifactError) as caught:
                model.encode(TEXTS, pool=pool, chunk_size=4)
            assert caught.value.message == f"{SINCE}: {name}"
            assert caught.value.hint == HINT
        assert pool.closed


@pytest.mark.timeout(120)
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_pool_that_is_started_after_an_export_is_refused(copied, backend) -> None:
    folder, name = copied(), GRAPHS[backend]
    model = SentenceTransformer(folder, backend=backend, device="cpu")
    export_again(folder, name)
    for start_one in (
        lambda: model.start_multi_process_pool(["cpu"]),
        lambda: model.encode(TEXTS, device=["cpu", "cpu"]),
    ):
        with pytest.raises(ArtifactError) as caught:
            start_one()
        assert (caught.value.message, caught.value.hint) == (f"{SINCE}: {name}", HINT)
    again = SentenceTransformer(folder, backend=backend, device="cpu", threads=2)
    assert np.abs(again.encode(TEXTS) - model.encode(TEXTS)).max() > 100 * TOLERANCE  # it was another model


def as_in_the_cache(folder: Path) -> Path:
    """The folder as the Hub's cache has it: links into a folder of blobs."""
    home = folder.parent / "models--someone--tiny"
    snapshot = home / "snapshots" / ("a" * 40)
    (home / "blobs").mkdir(parents=True)
    for number, file in enumerate(path for path in sorted(folder.rglob("*")) if path.is_file()):
        place = snapshot / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(home / "blobs" / str(number))
        place.symlink_to(os.path.relpath(home / "blobs" / str(number), place.parent))
    return snapshot


@pytest.mark.timeout(120)
def test_what_leaves_the_model_as_it_is_is_no_change(copied, tmp_path, monkeypatch) -> None:
    folder = as_in_the_cache(copied())
    monkeypatch.chdir(folder.parent)
    model = SentenceTransformer(folder.name, backend="onnx", threads=1)
    expected = model.encode(TEXTS)
    with model.start_multi_process_pool(["cpu"]) as pool:
        shutil.copytree(folder, tmp_path / "copy")
        for blob in (folder.parent.parent / "blobs").iterdir():
            os.link(blob, tmp_path / f"link-{blob.name}")
            blob.chmod(0o444)
        (folder / "onnx/model_O1.onnx").write_bytes(b"another file")
        (folder / "stopt.json").write_text("{}")
        relinked = folder / GRAPHS["onnx"]
        target = relinked.readlink()
        relinked.unlink()
        relinked.symlink_to(target)
        for path in (folder, folder / "onnx"):
            path.chmod(0o555)
        monkeypatch.chdir(tmp_path)  # and the path that the model was opened by leads nowhere
        try:
            kill(*pool.pids)
            assert np.abs(model.encode(TEXTS, pool=pool) - expected).max() < TOLERANCE
        finally:
            for path in (folder, folder / "onnx"):
                path.chmod(0o755)


@pytest.mark.timeout(120)
def test_a_worker_that_opens_a_file_once_more_sees_that_it_is_another(copied) -> None:
    model = SentenceTransformer(copied(), backend="onnx", threads=1)
    with model.start_multi_process_pool(["cpu"]) as pool:
        export_again(model.pipeline.root, GRAPHS["onnx"])
        for where in ({"pool": pool}, {}):
            with pytest.raises(ArtifactError) as caught:
                model.encode(TEXTS, output_value="token_embeddings", **where)
            assert (caught.value.message, caught.value.hint) == (f"{SINCE}: {GRAPHS['onnx']}", HINT)
        assert model.encode(TEXTS, pool=pool).shape == (len(TEXTS), 32)  # which needs no other form of it


# ---- which files ----------------------------------------------------------------------------------------------------


def refused(
    model: SentenceTransformer | SparseEncoder | CrossEncoder, folder: Path, names: list[str]
) -> None:
    """See that a worker opens none of the files once it is another, and all of them while they are the same."""
    source = PipelineSource.of(model.pipeline)
    assert {Path(path).relative_to(folder).as_posix() for path in source.files.identities} == {*names}
    source.open("cpu", 1)
    for name in names:
        kept = (folder / name).rename(folder / "kept")
        for missing in (False, True):
            if not missing:
                shutil.copyfile(
                    kept, folder / name
                )  # the same bytes in another file: nobody reads all of them to see
            with pytest.raises(ArtifactError) as caught:
                source.open("cpu", 1)
            assert (caught.value.message, caught.value.hint) == (f"{SINCE}: {name}", HINT)
            (folder / name).unlink(missing_ok=True)
        kept.rename(folder / name)
    source.open("cpu", 1)


DENSE = ["2_Dense/model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize(
    ("backend", "names"),
    [
        ("onnx", ["onnx/model.onnx"]),
        ("openvino", ["openvino/openvino_model.xml", "openvino/openvino_model.bin"]),
        ("torch", ["config.json", "model.safetensors"]),
    ],
)
def test_a_worker_holds_every_file_that_it_reads_against_what_it_was(copied, backend, names) -> None:
    folder = copied(dense=16)
    refused(SentenceTransformer(folder, backend=backend, device="cpu"), folder, [*names, *DENSE])


def test_data_beside_a_graph_is_held_against_what_it_was(exported, tmp_path) -> None:
    folder = with_external_data(exported("bert"), tmp_path / "model")
    names = ["onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json"]
    refused(SentenceTransformer(folder, backend="onnx"), folder, names)


def test_tables_are_held_against_what_they_were(tiny_copy) -> None:
    folder = tiny_copy("bert", kind="static")
    model = SentenceTransformer(folder)
    names = [str(path.relative_to(folder)) for path in (model.file, model.pipeline.tokenizer.file)]
    refused(model, folder, names)


def test_files_of_all_routes_are_held_against_what_they_were(tiny_copy) -> None:
    folder = tiny_copy("bert", kind="router")
    model = SentenceTransformer(folder, backend="torch", device="cpu")
    names = [Path(path).relative_to(folder).as_posix() for path in model.pipeline.files.identities]
    dense = [name for name in names if "Dense/model.safetensors" in name]
    assert len(dense) == 3  # one of one route, two of the other
    assert {"config.json", "model.safetensors", "tokenizer.json"} < {*names}
    refused(model, folder, names)


def test_a_change_while_files_are_opened_explains_the_error(tmp_path) -> None:
    file = tmp_path / "a"
    file.touch()
    files = OpenedFiles.now(tmp_path, [file])
    with files.kept():
        pass
    with pytest.raises(ArtifactError, match=rf"{SINCE}: a \({HINT}\)"), files.kept():  # noqa: PT012
        file.write_text("other")
        raise CorruptModel("cannot be read")
    with pytest.raises(CorruptModel) as caught:
        files.require_settled()
    assert caught.value.message == f"{tmp_path}: a changed while the model was opened"
    assert caught.value.hint == "open it again, when nobody writes to it"


def test_what_differs_between_two_is_named_by_its_place_in_the_folder(tmp_path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    one = OpenedFiles.now(tmp_path, [tmp_path / "a"]).with_values({"settings": 1})
    assert one.differing(one) == []
    assert one.differing(one.with_values({"settings": 2})) == ["settings"]
    assert one.differing(one | OpenedFiles.now(tmp_path, [tmp_path / "b", Path("/")])) == ["b", "/"]


# ---- stopt encode ---------------------------------------------------------------------------------------------------


def test_what_a_cluster_compares_knows_every_weight_and_is_of_what_was_opened(copied) -> None:
    folder = copied(dense=16)
    options = ModelOptions(str(folder), backend="onnx", threads=1)
    encoder = Encoder(options)
    about = encoder.about()
    require_alike(Encoder(options).about(), about, __version__)
    export_again(folder, DENSE[0])
    with pytest.raises(ArtifactError) as caught:
        encoder.about()
    assert (caught.value.message, caught.value.hint) == (f"{SINCE}: {DENSE[0]}", HINT)
    with pytest.raises(ArtifactError, match=rf"another model.*modules {DENSE[0]} was .*, is ") as caught:
        require_alike(Encoder(options).about(), about, __version__)
    assert "same model folder" in caught.value.hint


CREW = "the model's files changed since the first worker opened them"
CREW_HINT = "start again, when nobody writes to the model's folder"


@pytest.mark.timeout(120)
def test_workers_of_a_corpus_have_the_same_files(copied) -> None:
    folder = copied(prompts={"query": "a: "})
    options = ModelOptions(str(folder), backend="onnx", threads=2)
    before = workers_of(os.getpid())
    chunk = Texts(TEXTS, range(len(TEXTS)))
    with hired(options, 2, tokens=False) as crew:
        (expected,) = crew.encode([chunk])
        kill(*(workers_of(os.getpid()) - before))
        (found,) = crew.encode([chunk])  # nothing has changed
        assert np.abs(found.block - expected.block).max() < TOLERANCE
        settings = folder / "config_sentence_transformers.json"
        settings.write_text(settings.read_text().replace('"a: "', '"b: "'))
        kill(*(workers_of(os.getpid()) - before))
        with pytest.raises(ArtifactError) as caught:
            list(crew.encode([chunk]))
        assert (caught.value.message, caught.value.hint) == (f"{CREW}: its settings", CREW_HINT)


@pytest.mark.timeout(120)
def test_the_command_ends_with_an_error_and_writes_nothing(copied, tmp_path) -> None:
    folder, output = copied(), tmp_path / "out.npy"
    process = start(
        ["encode", folder, "-", "--backend", "onnx", "--workers", "2", "-o", output], stdin=subprocess.PIPE
    )
    assert process.stderr is not None
    assert process.stdin is not None
    assert "onnx/model.onnx on" in process.stderr.readline()  # the workers have it open
    workers = workers_of(process.pid)
    assert len(workers) == 2
    export_again(folder, GRAPHS["onnx"])
    kill(*workers)
    process.stdin.write("one text\nanother\n")
    stdout, stderr = finish(process)
    assert process.returncode == 1, stderr
    assert stdout == ""
    assert stderr.splitlines()[-2:] == [f"Error: {CREW}: onnx/model.onnx", f"Hint: {CREW_HINT}"]
    assert not output.exists()
