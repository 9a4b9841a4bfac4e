"""H16: a token is seen by the Hub alone: in no output, file, upload, or argument of a child, whatever the outcome."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fakehub import TOKEN, FakeHub

import stopt
from stopt.cli.main import cli
from stopt.runtime.loading import LoadRequest

pytestmark = pytest.mark.scorecard("H16")

REPO = "someone/model"
OUTCOMES = {
    "401": {"status": 401},
    "401 of nobody": {"status": 401, "code": "RepoNotFound"},
    "403": {"status": 403},
    "404": {"status": 404},
    "429": {"status": 429, "headers": {"Retry-After": "100"}},
    "500": {"status": 500},
    "cut": {"cut": 30},
    "redirected": {"redirect": "http://127.0.0.1:9/{token}"},
}


@pytest.fixture
def folder(exported: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("bert"), tmp_path / "model"))


@pytest.fixture
def home(folder: Path, fake_hub: FakeHub) -> FakeHub:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    fake_hub.model(REPO, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})
    return fake_hub


@pytest.fixture(autouse=True)
def children() -> Iterator[None]:
    """No process on this machine, but this one, has the token among its arguments while a test runs."""
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    if int(file.parent.name) != os.getpid():
                        seen.add(file.read_bytes())
                except OSError:
                    continue
            over.wait(0.02)

    watcher = threading.Thread(target=look)
    watcher.start()
    yield
    over.set()
    watcher.join()
    assert seen or sys.platform != "linux"
    assert not [line for line in seen if TOKEN.encode() in line]


def everything_said(result: Result) -> str:
    said = result.output
    if result.exc_info is not None and not isinstance(result.exception, SystemExit):
        said += "".join(traceback.format_exception(*result.exc_info))
    return said


def assert_nowhere(folder: Path, hub: FakeHub) -> None:
    """The token is in no file below a folder, and in nothing that was sent to the Hub but headers."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert TOKEN.encode() not in path.read_bytes(), path
    assert not any(TOKEN.encode() in body for body in hub.received)
    for repo in hub.repos.values():
        for history in repo.branches.values():
            assert not any(
                TOKEN.encode() in content for commit in history for content in commit.files.values()
            )
        assert TOKEN not in str(repo.pulls)
    assert hub.leaked == []


def commands(folder: Path) -> dict[str, list[str]]:
    """A call of every command that may speak to the Hub."""
    texts = folder.parent / "texts.txt"
    texts.write_text("one text\nand a longer one\n", encoding="utf-8")
    recipe = folder.parent / "recipe.toml"
    recipe.write_text(
        f'[source]\nrepo = "{REPO}"\n[[step]]\nkind = "export"\nbackend = "onnx"\n[check]\ntexts = "texts.txt"\n',
        encoding="utf-8",
    )
    made = ["-o", str(folder.parent / "made"), "--check-texts", str(texts), "--token", TOKEN]
    return {
        "inspect": ["inspect", REPO, "--token", TOKEN],
        "export": ["export", REPO, "--force", *made, "--push-to-hub", "--create-pr"],
        "optimize": ["optimize", str(folder), "-O1", *made, "--push-to-hub", REPO],
        "quantize": ["quantize", str(folder), "--avx2", *made, "--push-to-hub", REPO],
        "run": ["run", str(recipe), "-o", str(folder.parent / "ran"), "--force", "--token", TOKEN],
        "push": ["push", str(folder), REPO, "--token", TOKEN],
        "push --create-pr": ["push", str(folder), REPO, "--create-pr", "--commit-message", "x"],
        "push --dry-run": ["push", str(folder), REPO, "--dry-run", "--format", "json"],
        "check": ["check", REPO, "--texts", str(texts), "--file-name", "onnx/model.onnx"],
        "encode": ["encode", REPO, str(texts), "--format", "json"],
        "bench": ["bench", REPO, "--texts", str(texts), "--rounds", "1", "--seconds", "0.05", "--no-torch"],
    }


NAMES = list(commands(Path("/tmp/x"))) if Path("/tmp").is_dir() else []


@pytest.mark.parametrize("name", NAMES)
def test_a_command_that_ends_well_shows_no_token(home, folder, tmp_path, name) -> None:
    result = CliRunner().invoke(cli, [*commands(folder)[name], "-v"])
    assert result.exit_code == 0, everything_said(result)
    assert TOKEN not in everything_said(result)
    assert_nowhere(tmp_path, home)


# a traceback has the message in it, so that not every outcome is tried without one
@pytest.mark.parametrize(
    ("outcome", "debug"), [*((each, "1") for each in OUTCOMES), ("401", "0"), ("500", "0")]
)
@pytest.mark.parametrize("name", NAMES)
def test_a_command_that_fails_shows_no_token(
    home, folder, tmp_path, monkeypatch, name, outcome, debug
) -> None:
    monkeypatch.setenv("STOPT_DEBUG", debug)
    # a Hub, or a proxy before it, that says what it was sent
    home.fault("", **OUTCOMES[outcome], message="you sent {token}", times=-1)
    result = CliRunner().invoke(cli, [*commands(folder)[name], "-v"])
    assert result.exit_code == 1
    assert TOKEN not in everything_said(result)
    assert_nowhere(tmp_path, home)


@pytest.mark.parametrize(
    "step", ["preupload", "objects/batch", "PUT /storage", "/commit/", "GET /api/models/.*/discussions"]
)
@pytest.mark.parametrize("status", [401, 429, 500])
def test_a_push_that_fails_half_way_shows_no_token(home, folder, tmp_path, monkeypatch, step, status) -> None:
    monkeypatch.setenv("STOPT_DEBUG", "1")
    home.repos[REPO].commit({"onnx/model.onnx": b"old"})
    home.fault(step, status, message="you sent {token}", headers={"Retry-After": "100"}, times=-1)
    args = ["push", str(folder), REPO, "--create-pr", "--commit-message", "x", "--token", TOKEN]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 1
    assert TOKEN not in everything_said(result)
    assert_nowhere(tmp_path, home)


@pytest.mark.parametrize("blank", ["\n", " ", "\r\n"])
def test_blanks_around_a_token_are_left_out(home, folder, blank) -> None:
    result = CliRunner().invoke(cli, ["push", str(folder), REPO, "--token", f"{TOKEN}{blank}"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("token", [f"{TOKEN}\nX-Header: 1", f"{TOKEN} x", f"{TOKEN}\0", f"{TOKEN}é"])
@pytest.mark.parametrize("command", ["push", "inspect"])
def test_a_token_that_breaks_its_header_is_refused_unseen(home, folder, monkeypatch, token, command) -> None:
    monkeypatch.setenv("STOPT_DEBUG", "1")
    args = ["push", str(folder), REPO] if command == "push" else ["inspect", REPO]
    result = CliRunner().invoke(cli, [*args, "--token", token])
    assert result.exit_code == 1
    assert "characters that no token has" in everything_said(result)
    assert TOKEN not in everything_said(result)


def test_options_that_are_printed_hide_it() -> None:
    for options in (
        stopt.PushOptions(token=TOKEN),
        stopt.ExportOptions(token=TOKEN),
        LoadRequest("x", token=TOKEN),
    ):
        assert TOKEN not in repr(options)


def test_an_interrupt_shows_no_token(home, folder, tmp_path) -> None:
    home.fault("/commit/", drip_s=0.2, times=-1)
    environment = {
        **os.environ,
        "HF_ENDPOINT": home.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "stopt", "push", str(folder), REPO, "--commit-message", "x", "-v"],
        env={**environment, "HF_TOKEN": TOKEN, "HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    home.repos[REPO].commit({"onnx/model.onnx": b"old"})
    deadline = time.monotonic() + 60
    while not home.asked("/commit/") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Interrupted." in stderr
    assert TOKEN not in stdout + stderr
    assert_nowhere(tmp_path, home)
