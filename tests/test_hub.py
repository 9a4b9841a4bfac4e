"""Models by name: folders, the Hub's cache, and a Hub that speaks over HTTP on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stopt import hub
from stopt.artifact import default_file
from stopt.errors import OptionError, SourceError
from stopt.spec import Backend

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# ---- folders and names ----------------------------------------------------------------------------------------------


def test_a_folder_is_itself(tmp_path) -> None:
    assert hub.fetch(tmp_path) == hub.Source(tmp_path, str(tmp_path), None)
    assert hub.fetch(str(tmp_path)).folder == tmp_path


def test_a_folder_goes_before_a_repository_of_its_name(tmp_path, monkeypatch) -> None:
    (tmp_path / "org/name@v1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.fetch("org/name@v1").revision is None


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "the empty path does not exist"),
        ("./nowhere", "./nowhere does not exist"),
        ("/nowhere/at/all", "/nowhere/at/all does not exist"),
        ("~/nowhere", "~/nowhere does not exist"),
        ("a/b/c", "a/b/c does not exist"),
        ("a\\b", "does not exist"),
        ("not a name/x", "no folder not a name/x, and it is no Hub id either"),
        ("a/b..c", "it is no Hub id either"),
        ("org/name", "no folder org/name, and org/name is neither cached nor reachable"),
        ("name", "no folder name, and sentence-transformers/name is neither cached nor reachable"),
        ("org/name@v1", "no folder org/name@v1, and org/name is neither cached nor reachable"),
        ("org/name@", "org/name@ names no revision after the @"),
    ],
)
def test_what_is_nowhere_is_an_error_with_a_hint(tmp_path, reference, message) -> None:
    with pytest.raises(SourceError) as caught:
        hub.fetch(reference, cache_folder=tmp_path)
    assert message in caught.value.message
    assert caught.value.hint


def test_a_file_is_not_a_model(tmp_path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(SourceError, match="is a file, not a model folder"):
        hub.fetch(tmp_path / "model.onnx")


def test_two_revisions_contradict_each_other(tmp_path) -> None:
    with pytest.raises(OptionError, match="name different revisions"):
        hub.fetch("org/name@v1", revision="v2", cache_folder=tmp_path)


# ---- the cache ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache as huggingface_hub leaves it: blobs, a snapshot of links, a reference."""
    home = tmp_path / "cache/models--org--name"
    snapshot = home / "snapshots" / COMMIT
    for folder in (home / "blobs", home / "refs", snapshot):
        folder.mkdir(parents=True)
    (home / "blobs/1").write_text("{}", encoding="utf-8")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    for name in ("main", "v1"):
        (home / "refs" / name).write_text(COMMIT, encoding="utf-8")
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("reference", "revision"),
    [
        ("org/name", None),
        ("org/name@v1", None),
        ("org/name", "v1"),
        ("org/name@v1", "v1"),
        (f"org/name@{COMMIT}", None),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_what_is_cached_is_found_offline(cache, reference, revision, local) -> None:
    source = hub.fetch(reference, revision=revision, cache_folder=cache, local_files_only=local)
    assert source.folder == cache / "models--org--name/snapshots" / COMMIT
    assert (source.name, source.revision) == ("org/name", COMMIT)


def test_the_cache_of_sentence_transformers_is_used(cache, monkeypatch) -> None:
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(cache))
    assert hub.fetch("org/name").revision == COMMIT


def test_another_revision_is_not_taken_instead(cache) -> None:
    with pytest.raises(SourceError, match="neither cached nor reachable"):
        hub.fetch("org/name@v2", cache_folder=cache)


# ---- over HTTP ------------------------------------------------------------------------------------------------------


@dataclass
class FakeHub:
    """As much of the Hub's API as fetching a snapshot takes.

    Attributes:
        files: What ``org/name`` has.
        served: Files that were asked for, in order.
        status: What every request is answered with; 200 for real answers.
        reason: The Hub's own name of the error, in its header.
    """

    files: dict[str, bytes]
    served: list[str] = field(default_factory=list)
    status: int = 200
    reason: str = ""
    url: str = ""


@pytest.fixture
def fake_hub(tiny: Callable[..., Path], served_model: Path) -> Iterator[FakeHub]:
    files = {
        path.relative_to(served_model).as_posix(): path.read_bytes()
        for path in served_model.rglob("*")
        if path.is_file()
    }
    state = FakeHub(
        {**files, "pytorch_model.bin": b"pickle", "onnx/model_O4.onnx": b"other", "README.md": b"text"}
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, *, body: bool) -> None:
            info, content = "/api/models/org/name/revision/{}", None
            if state.status == 200 and self.path in (info.format("main"), info.format(COMMIT)):
                listed = [{"rfilename": name} for name in state.files]
                content = json.dumps({"id": "org/name", "sha": COMMIT, "siblings": listed}).encode()
            elif state.status == 200 and self.path.startswith(f"/org/name/resolve/{COMMIT}/"):
                name = self.path.split("/", 5)[5]
                content = state.files.get(name)
                if body and content is not None:
                    state.served.append(name)
            self.send_response(
                state.status
                if content is None and state.status != 200
                else 200
                if content is not None
                else 404
            )
            if content is None:
                self.send_header("X-Error-Code", state.reason or "RepoNotFound")
            content = content if content is not None else b"{}"
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def served_model(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose ONNX file is real, and whose other files only have to be left alone."""
    from click.testing import CliRunner

    from stopt.cli.main import cli

    folder = tmp_path_factory.mktemp("hub") / "model"
    texts = folder.parent / "texts.txt"
    texts.write_text("one text\nand another\n", encoding="utf-8")
    args = ["export", str(tiny("bert", dense=16)), "-o", str(folder), "--check-texts", str(texts)]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 0, result.output
    (folder / "openvino").mkdir()
    for ending in ("xml", "bin"):
        (folder / f"openvino/openvino_model.{ending}").write_bytes(b"not asked for")
    return folder


def online(fake: FakeHub, cache: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that takes ``fake`` for the Hub."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={
            **environment,
            "HF_ENDPOINT": fake.url,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        },
    )


ENCODE = (
    "from stopt import SentenceTransformer\n"
    "print(*SentenceTransformer('org/name@main', backend={backend!r}).encode('one text').tolist())"
)


def test_a_model_is_fetched_with_only_the_files_that_it_needs(fake_hub, served_model, tmp_path) -> None:
    from stopt import SentenceTransformer

    done = online(fake_hub, tmp_path, ENCODE.format(backend="onnx"))
    assert done.returncode == 0, done.stderr
    expected = SentenceTransformer(served_model, backend="onnx").encode("one text")
    assert [float(value) for value in done.stdout.split()] == pytest.approx(expected.tolist(), abs=1e-6)
    assert sorted(fake_hub.served) == sorted(set(fake_hub.served)), "a file was fetched twice"
    large = {name for name in fake_hub.served if not name.endswith((".json", ".txt"))}
    assert large == {default_file(Backend.ONNX), "2_Dense/model.safetensors"}


def test_what_was_fetched_is_used_without_the_hub(fake_hub, tmp_path) -> None:
    first = online(fake_hub, tmp_path, ENCODE.format(backend="onnx"))
    assert first.returncode == 0, first.stderr
    fake_hub.served.clear()
    fake_hub.status = 503
    again = online(
        fake_hub, tmp_path, "import os; os.environ['HF_HUB_OFFLINE'] = '1'\n" + ENCODE.format(backend="onnx")
    )
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert fake_hub.served == []


@pytest.mark.parametrize(
    ("status", "reason", "message", "hint"),
    [
        (
            404,
            "RepoNotFound",
            "no folder org/name and no Hub repository org/name for you",
            "name a model folder",
        ),
        (
            401,
            "RepoNotFound",
            "no folder org/name and no Hub repository org/name for you",
            "name a model folder",
        ),
        (403, "GatedRepo", "org/name is gated", "hf auth login"),
        (404, "RevisionNotFound", "org/name has no revision", "branch, tag or commit"),
    ],
)
def test_what_the_hub_refuses_is_told(fake_hub, tmp_path, status, reason, message, hint) -> None:
    fake_hub.status, fake_hub.reason = status, reason
    code = (
        "from stopt import SourceError, hub\n"
        "try: hub.fetch('org/name')\n"
        "except SourceError as error: print(error.message, error.hint, sep='\\n')"
    )
    done = online(fake_hub, tmp_path, code)
    assert done.returncode == 0, done.stderr
    said, advice = done.stdout.splitlines()
    assert message in said
    assert hint in advice


def test_nobody_listening_is_not_reachable(tmp_path) -> None:
    code = (
        "from stopt import SourceError, hub\n"
        "try: hub.fetch('org/name')\n"
        "except SourceError as error: print(error.message)"
    )
    done = online(FakeHub({}, url="http://127.0.0.1:9"), tmp_path, code)
    assert "org/name is neither cached nor reachable" in done.stdout, done.stderr
