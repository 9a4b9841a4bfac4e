"""Pushing over a connection that breaks, to a Hub that fails, and at the same time as somebody else."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fakehub import FakeHub

from stopt import PushError, PushOptions, push
from stopt.hub import calls

pytestmark = pytest.mark.scorecard("F18")

REPO = "someone/model"
DATA = "onnx/model.onnx", "openvino/openvino_model.bin"
COMMIT = f"POST /api/models/{REPO}/commit"


@pytest.fixture
def folder(exported: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("bert"), tmp_path / "model"))


@pytest.fixture
def home(fake_hub: FakeHub, folder: Path) -> FakeHub:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    own = [name for name in names if not name.startswith(("onnx/", "openvino/")) and name != "stopt.json"]
    fake_hub.model(REPO, {name: (folder / name).read_bytes() for name in own})
    return fake_hub


def whole(hub: FakeHub, folder: Path, branch: str = "main") -> bool:
    """Whether the newest commit has every converted file, as it is here."""
    files = hub.repos[REPO].branches[branch][-1].files
    return all(files.get(name) == (folder / name).read_bytes() for name in DATA)


def untouched(hub: FakeHub) -> bool:
    return len(hub.repos[REPO].commits) == 1 and not hub.repos[REPO].pulls


def count(hub: FakeHub) -> int:
    """Commits and pull requests that a push made."""
    return len(hub.repos[REPO].commits) - 1 + len(hub.repos[REPO].pulls)


STEPS = {
    "storage": r"PUT /storage",
    "verify": "POST /verify",
    "batch": "objects/batch",
    "preupload": "preupload",
    "commit": COMMIT,
    "look": f"GET /api/models/{REPO}/revision/main",
}


@pytest.mark.parametrize("create_pr", [False, True])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("status", [500, 429])
def test_a_failure_of_the_hub_is_survived(home, folder, step, status, create_pr) -> None:
    home.fault(STEPS[step], status, headers={"Retry-After": "1"})
    if step == "look":  # before anything was sent, the first answer is the answer
        with pytest.raises(PushError):
            push(folder, REPO, PushOptions(create_pr=create_pr))
        assert untouched(home)
    push(folder, REPO, PushOptions(create_pr=create_pr))
    assert count(home) == 1
    assert whole(home, folder, "refs/pr/1" if create_pr else "main")


@pytest.mark.parametrize("create_pr", [False, True])
@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"status": 0}, {"status": 504}], ids=["500", "cut", "504"]
)
def test_a_commit_that_was_made_and_not_confirmed_is_not_made_again(home, folder, fault, create_pr) -> None:
    home.fault(COMMIT, **fault, after=True)
    result = push(folder, REPO, PushOptions(create_pr=create_pr))
    assert count(home) == 1
    assert len(home.asked(COMMIT)) == 1
    assert whole(home, folder, "refs/pr/1" if create_pr else "main")
    assert result.commit == home.repos[REPO].branches["refs/pr/1" if create_pr else "main"][-1].oid
    assert result.pull_request == (1 if create_pr else None)


@pytest.mark.parametrize("create_pr", [False, True])
def test_what_cannot_be_looked_at_is_not_sent_again(home, folder, create_pr) -> None:
    home.fault(COMMIT, 500, after=True)
    push_failed = r"discussions" if create_pr else f"GET /api/models/{REPO}/revision/main"
    options = PushOptions(create_pr=create_pr)

    def fail_from_now_on(text: str) -> None:
        if "trying again" in text:
            home.fault(push_failed, 503, times=-1)

    with pytest.raises(PushError, match="the Hub answered 503") as caught:
        push(folder, REPO, options, fail_from_now_on)
    assert "not pushed twice" in caught.value.hint
    assert len(home.asked(COMMIT)) == 1
    home.faults.clear()
    again = push(folder, REPO, options)
    assert again.already_there
    assert count(home) == 1


@pytest.mark.parametrize("bytes_read", [0, 1, 700, 10_000])
@pytest.mark.parametrize("step", ["storage", "commit"])
def test_a_connection_that_drops_while_sending_leaves_one_commit_or_none(
    home, folder, step, bytes_read
) -> None:
    home.fault(STEPS[step], unread=bytes_read, times=2)
    push(folder, REPO)
    assert count(home) == 1
    assert whole(home, folder)


@pytest.mark.parametrize("step", ["storage", "commit"])
def test_a_connection_that_always_drops_leaves_nothing(home, folder, step) -> None:
    home.fault(STEPS[step], unread=100, times=-1)
    with pytest.raises(PushError, match="the connection to the Hub broke") as caught:
        push(folder, REPO)
    assert "push again" in caught.value.hint
    assert untouched(home)
    home.faults.clear()
    push(folder, REPO)
    assert count(home) == 1


def test_an_answer_cut_short_is_looked_into(home, folder) -> None:
    home.fault(COMMIT, cut=20)
    push(folder, REPO)
    assert count(home) == 1


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        (401, "does not accept the token", "hf auth login"),
        (403, "may not write to someone/model", "--create-pr"),
        (404, "the Hub answered 404", "see what it says"),
        (409, "changed while pushing; nothing was pushed", "push again"),
        (412, "changed while pushing; nothing was pushed", "push again"),
        (413, "refuses files of this size", "limits"),
    ],
)
def test_a_refusal_is_told_at_once(home, folder, status, message, hint) -> None:
    home.fault(COMMIT, status, times=-1)
    with pytest.raises(PushError, match=re.escape(message)) as caught:
        push(folder, REPO)
    assert hint in caught.value.hint
    assert len(home.asked(COMMIT)) == 1
    assert untouched(home)


def test_too_long_a_wait_is_left_to_the_user(home, folder) -> None:
    home.fault(COMMIT, 429, headers={"Retry-After": "3600"}, times=-1)
    with pytest.raises(PushError, match="refuses further requests for now") as caught:
        push(folder, REPO)
    assert caught.value.hint == "try again in 3600 s, as it asks"
    assert len(home.asked(COMMIT)) == 1


def test_a_commit_of_somebody_else_is_not_overwritten(home, folder) -> None:
    def meanwhile(text: str) -> None:
        if text.startswith("pushing"):
            home.repos[REPO].commit({"README.md": b"theirs"}, "theirs")

    with pytest.raises(PushError, match="changed while pushing; nothing was pushed"):
        push(folder, REPO, say=meanwhile)
    assert [commit.title for commit in home.repos[REPO].commits] == ["init", "theirs"]
    push(folder, REPO)
    assert home.repos[REPO].files["README.md"].startswith(b"---\n")
    assert b"theirs" in home.repos[REPO].files["README.md"]


def test_a_pull_request_of_another_title_or_with_other_files_is_not_taken_for_ours(home, folder) -> None:
    push(folder, REPO, PushOptions(create_pr=True))
    push(folder, REPO, PushOptions(create_pr=True, commit_message="Another"))
    home.repos[REPO].pulls[0]["status"] = "closed"
    push(folder, REPO, PushOptions(create_pr=True))
    assert [pull["num"] for pull in home.repos[REPO].pulls] == [1, 2, 3]


def test_a_hub_that_never_answers_is_given_up(home, folder, monkeypatch) -> None:
    monkeypatch.setattr(calls, "PATIENCE_S", 0.5)
    monkeypatch.setattr(calls, "SLOWEST", 1e9)
    home.fault(COMMIT, drip_s=0.2, times=-1)
    with pytest.raises(PushError, match="whether the commit was made cannot be told yet") as caught:
        push(folder, REPO)
    assert "not pushed twice" in caught.value.hint
    home.faults.clear()
    assert push(folder, REPO).already_there
    assert count(home) == 1


def test_a_new_repository_that_appears_meanwhile_is_left_alone(fake_hub, folder) -> None:
    def meanwhile(text: str) -> None:
        if text.startswith("making"):
            fake_hub.model(REPO, {"README.md": b"# theirs\n"})

    with pytest.raises(PushError, match="changed while pushing; nothing was pushed"):
        push(folder, REPO, say=meanwhile)
    assert fake_hub.repos[REPO].files == {"README.md": b"# theirs\n"}
    push(folder, REPO)
    assert b"# theirs\n" in fake_hub.repos[REPO].files["README.md"]
    assert whole(fake_hub, folder)


def test_a_repository_that_was_made_before_the_connection_broke_is_filled(fake_hub, folder) -> None:
    fake_hub.fault("POST /api/repos/create", after=True)
    with pytest.raises(PushError, match="the connection to the Hub broke"):
        push(folder, REPO)
    push(folder, REPO)
    assert whole(fake_hub, folder)
    assert "modules.json" in fake_hub.repos[REPO].files
