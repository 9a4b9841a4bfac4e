"""How files get into a folder: staged, complete, as a set, whatever happens meanwhile."""

import json
import os
import time
from pathlib import Path

import pytest

from stopt.errors import ArtifactError, CorruptModel, UntrustedModel
from stopt.staging import STALE_SECONDS, commit, held, settle, staging


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("onnx/model.onnx", "onnx/model_O3.onnx", "config.json"):
        file = tmp_path / "model" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name, encoding="utf-8")
    return tmp_path / "model"


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# ---- staging --------------------------------------------------------------------------------------------------------


def test_staged_files_move_into_place(tmp_path) -> None:
    root = tmp_path / "new/model"
    with staging(root) as staged:
        assert staged.parent == root
        (staged / "onnx").mkdir()
        (staged / "onnx/model.onnx").write_text("made", encoding="utf-8")
        (staged / "scrap").touch()
        commit(staged, root, ["onnx/model.onnx"])
    assert tree(root) == {"onnx", "onnx/model.onnx"}


def test_commit_replaces_files(folder) -> None:
    with staging(folder) as staged:
        (staged / "onnx").mkdir()
        (staged / "onnx/model.onnx").write_text("new", encoding="utf-8")
        commit(staged, folder, ["onnx/model.onnx"])
    assert (folder / "onnx/model.onnx").read_text(encoding="utf-8") == "new"
    assert (folder / "onnx/model_O3.onnx").read_text(encoding="utf-8") == "onnx/model_O3.onnx"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_have_the_mode_that_the_umask_asks_for(folder, umask, mode) -> None:
    old = os.umask(umask)
    try:
        with staging(folder) as staged:
            (staged / "onnx").mkdir()
            handle = os.open(staged / "onnx/model.onnx", os.O_CREAT | os.O_WRONLY, 0o600)
            os.close(handle)
            commit(staged, folder, ["onnx/model.onnx"])
    finally:
        os.umask(old)
    assert (folder / "onnx/model.onnx").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_a_folder_as_it_was(folder, error) -> None:
    before = tree(folder)

    def fail() -> None:
        with staging(folder) as staged:
            (staged / "half").touch()
            raise error

    with pytest.raises(error):
        fail()
    assert tree(folder) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_removes_every_folder_it_made(tmp_path, error) -> None:
    (tmp_path / "there").mkdir()

    def fail() -> None:
        with staging(tmp_path / "there/a/b/c") as staged:
            (staged / "half").touch()
            raise error

    with pytest.raises(error):
        fail()
    assert tree(tmp_path) == {"there"}


def test_an_empty_folder_that_was_there_stays(tmp_path) -> None:
    with staging(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_a_place_that_cannot_be_made_is_an_error_with_a_hint(tmp_path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ArtifactError, match="cannot be written to: Not a directory") as caught,
        staging(tmp_path / "file/x"),
    ):
        pass
    assert "-o FOLDER" in caught.value.hint


def test_a_full_disk_is_told(tmp_path) -> None:
    with pytest.raises(ArtifactError, match=r"No space left on device") as caught, staging(tmp_path / "x"):
        Path("/dev/full").write_text("x", encoding="utf-8")
    assert caught.value.hint == "is the disk full?"
    assert tree(tmp_path) == set()


# ---- a set of files -------------------------------------------------------------------------------------------------


def interrupted(folder: Path, moved: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin to move a new set in, and stop after ``moved``, as a killed process would."""
    replace = Path.replace

    def stopping(self: Path, target: Path) -> Path:
        if self.name not in moved:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), staging(folder) as staged:  # noqa: PT012
        (staged / "onnx").mkdir()
        for name in ("onnx/model.onnx", "onnx/model.onnx_data", "stopt.json"):
            (staged / name).write_text("new", encoding="utf-8")
        patch.setattr(Path, "replace", stopping)
        files = ["onnx/model.onnx_data", "onnx/model.onnx", "stopt.json"]
        commit(staged, folder, files, remove=["onnx/model_O3.onnx", "onnx/model.onnx"])


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


NEW = {"config.json": "config.json"} | dict.fromkeys(
    ("onnx/model.onnx", "onnx/model.onnx_data", "stopt.json"), "new"
)


@pytest.mark.parametrize(
    "moved", [[], ["model.onnx_data"], ["model.onnx_data", "model.onnx"]], ids=["none", "one", "two"]
)
def test_what_was_cut_short_is_finished_by_the_next(folder, moved, monkeypatch) -> None:
    interrupted(folder, moved, monkeypatch)
    assert content(folder) != NEW
    assert settle(folder)
    assert content(folder) == NEW
    assert not settle(folder)
    assert ".stopt-commit" not in tree(folder)


def test_the_next_to_write_finishes_it_first(folder, monkeypatch) -> None:
    interrupted(folder, [], monkeypatch)
    with staging(folder) as staged:
        assert (folder / "stopt.json").read_text(encoding="utf-8") == "new"
        (staged / "stopt.json").write_text("newer", encoding="utf-8")
        commit(staged, folder, ["stopt.json"])
    assert content(folder) == NEW | {"stopt.json": "newer"}


def test_a_set_that_is_found_on_the_way_in_is_finished_too(folder, monkeypatch) -> None:
    with staging(folder) as staged:
        (staged / "config.json").write_text("changed", encoding="utf-8")
        interrupted(folder, [], monkeypatch)
        commit(staged, folder, ["config.json"])
    assert content(folder) == NEW | {"config.json": "changed"}


def test_nothing_is_decided_where_a_folder_is_in_the_way(folder) -> None:
    (folder / "stopt.json").mkdir()
    before = tree(folder)
    with pytest.raises(ArtifactError, match="is a folder") as caught, staging(folder) as staged:  # noqa: PT012
        for name in ("config.json", "stopt.json"):
            (staged / name).write_text("new", encoding="utf-8")
        commit(staged, folder, ["config.json", "stopt.json"])
    assert caught.value.hint
    assert tree(folder) == before
    assert (folder / "config.json").read_text(encoding="utf-8") == "config.json"


@pytest.mark.parametrize("names", [["../outside"], ["/outside"]])
def test_a_list_of_moves_that_was_put_there_cannot_leave_the_folder(folder, names) -> None:
    (folder / ".stopt-commit").mkdir()
    (folder / ".stopt-commit/moves.json").write_text(json.dumps({"move": names}), encoding="utf-8")
    with pytest.raises(UntrustedModel):
        settle(folder)


@pytest.mark.parametrize("text", ["[]", "{", '{"move": 7}'])
def test_a_list_of_moves_that_is_none_is_corrupt(folder, text) -> None:
    (folder / ".stopt-commit").mkdir()
    (folder / ".stopt-commit/moves.json").write_text(text, encoding="utf-8")
    with pytest.raises(CorruptModel, match=r"moves\.json"):
        settle(folder)


def test_a_journal_that_cannot_be_finished_is_an_error_with_a_hint(folder, monkeypatch) -> None:
    interrupted(folder, [], monkeypatch)

    def denied(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", denied)
        with pytest.raises(ArtifactError, match=r"has two sets of files.*Permission denied") as caught:
            settle(folder)
    assert "a user who may write" in caught.value.hint
    assert settle(folder)
    assert content(folder) == NEW


# ---- what others leave, and others at work --------------------------------------------------------------------------


def test_what_a_killed_process_left_is_removed_when_it_is_old(folder) -> None:
    old, recent = folder / ".stopt-old", folder / ".stopt-recent"
    for left in (old, recent):
        left.mkdir()
        (left / "half").touch()
    long_ago = time.time() - STALE_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    with staging(folder):
        pass
    assert not old.exists()
    assert recent.exists()


def test_a_folder_that_somebody_works_in_stays_however_old(folder) -> None:
    long_ago = time.time() - STALE_SECONDS - 60
    with staging(folder) as working:
        os.utime(working, (long_ago, long_ago))
        with staging(folder):
            pass
        assert working.exists()


def test_who_waits_too_long_for_another_is_told(folder, monkeypatch, caplog) -> None:
    monkeypatch.setattr("stopt.staging.LOCK_SECONDS", 1.2)
    with held(folder):
        with pytest.raises(ArtifactError, match="is being written to by another process") as caught:  # noqa: SIM117
            with held(folder):
                pytest.fail("two at once")
        assert "wait until it is done" in caught.value.hint
    assert "waiting for it" in caplog.text
    with held(folder):
        pass


def test_files_and_their_list_are_on_the_disk_before_the_renaming_that_decides(tmp_path, monkeypatch) -> None:
    """After power is lost, the set is the old one or the new: never a list of moves of files that are empty."""
    calls: list[str] = []
    rename = Path.rename

    def renamed(self: Path, target: Path) -> Path:
        calls.append("rename")
        return rename(self, target)

    monkeypatch.setattr("stopt.staging._sync", lambda path: calls.append(Path(path).name))
    monkeypatch.setattr(Path, "rename", renamed)
    with staging(tmp_path) as staged:
        (staged / "onnx").mkdir()
        for name in ("onnx/model.onnx", "stopt.json"):
            (staged / name).write_text(name, encoding="utf-8")
        commit(staged, tmp_path, ["onnx/model.onnx", "stopt.json"])
        hidden = staged.name
    decided = calls.index("rename")
    assert calls[:decided][:3] == ["model.onnx", "stopt.json", "moves.json"]
    assert {*calls[3:decided]} == {"onnx", hidden}
    assert tmp_path.name in calls[decided:]
