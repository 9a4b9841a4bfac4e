"""Pushing to a Hub that speaks over HTTP on this machine: what goes there, in how many commits, and what is refused."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakehub import TOKEN, FakeHub

import stopt
from stopt import (
    ArtifactError,
    CorruptModel,
    OptionError,
    PushError,
    PushOptions,
    SourceError,
    StoptWarning,
    push,
)
from stopt.artifact import Manifest

REPO = "someone/model"
ONNX = "onnx/model.onnx"
XML, BIN = "openvino/openvino_model.xml", "openvino/openvino_model.bin"
OWN = {"README.md": b"---\nlicense: mit\n---\n# A model\n", "config.json": b"{}", "modules.json": b"[]"}


@pytest.fixture
def folder(exported: Callable[..., Path], tmp_path: Path) -> Path:
    """A model with both plain files, as stopt made them."""
    return Path(shutil.copytree(exported("bert"), tmp_path / "model"))


@pytest.fixture
def home(folder: Path, fake_hub: FakeHub) -> FakeHub:
    """A Hub that has the model, without converted files."""
    fake_hub.model(REPO, own_files(folder))
    return fake_hub


def own_files(folder: Path) -> dict[str, bytes]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    own = [name for name in names if not name.startswith(("onnx/", "openvino/")) and name != "stopt.json"]
    return {name: (folder / name).read_bytes() for name in own}


# ---- what goes there ------------------------------------------------------------------------------------------------


def test_one_commit_has_the_files_the_manifest_and_the_card(home, folder) -> None:
    before = home.repos[REPO].commits[0]
    result = push(folder, REPO)
    assert len(home.repos[REPO].commits) == 2
    commit = home.repos[REPO].commits[-1]
    assert {name: commit.files[name] for name in before.files} == before.files
    added = commit.files.keys() - before.files.keys()
    assert added == {ONNX, XML, BIN, "stopt.json", "README.md"}
    assert commit.files[ONNX] == (folder / ONNX).read_bytes()
    assert commit.files[BIN] == (folder / BIN).read_bytes()
    assert (result.commit, result.url) == (commit.oid, f"{home.url}/{REPO}/commit/{commit.oid}")
    assert commit.title == "Add 2 exported ONNX and OpenVINO models"
    assert "| `onnx/model.onnx` |" in commit.description


def test_a_new_repository_gets_the_whole_model(fake_hub, folder) -> None:
    (folder / "notes.txt").write_text("private", encoding="utf-8")
    (folder / "secrets.json").write_text("{}", encoding="utf-8")
    result = push(folder, REPO, PushOptions(private=True))
    repo = fake_hub.repos[REPO]
    assert repo.private
    assert [commit.title for commit in repo.commits] == ["init", result.title]
    assert repo.files.keys() >= {"config.json", "modules.json", "model.safetensors", "tokenizer.json", ONNX}
    assert not {"notes.txt", "secrets.json"} & repo.files.keys()


def test_what_was_pushed_opens_from_the_hub_with_the_same_vectors(fake_hub, folder) -> None:
    push(folder, REPO)
    for backend in ("onnx", "openvino"):
        here = stopt.SentenceTransformer(folder, backend=backend).encode("one text")
        there = stopt.SentenceTransformer(REPO, backend=backend).encode("one text")
        assert there.tolist() == here.tolist()


def test_pushing_again_changes_nothing(home, folder) -> None:
    first = push(folder, REPO)
    second = push(folder, REPO)
    assert len(home.repos[REPO].commits) == 2
    assert (second.already_there, second.commit) == (True, first.commit)
    assert {file.state for file in second.files} == {"same"}


def test_only_what_is_included_goes(home, folder) -> None:
    push(folder, REPO, PushOptions(include=("*.xml",)))
    files = home.repos[REPO].files
    assert {XML, BIN, "stopt.json"} <= files.keys()
    assert ONNX not in files
    assert list(json.loads(files["stopt.json"])["files"]) == [XML]


def test_the_manifest_in_the_repository_keeps_what_was_pushed_before(home, folder) -> None:
    push(folder, REPO, PushOptions(include=("*.xml",)))
    push(folder, REPO, PushOptions(include=("*.onnx",)))
    manifest = json.loads(home.repos[REPO].files["stopt.json"])
    assert set(manifest["files"]) == {ONNX, XML}


def test_the_card_keeps_the_rows_of_what_stays(home, folder) -> None:
    push(folder, REPO, PushOptions(include=("*.xml",)))
    push(folder, REPO, PushOptions(include=("*.onnx",)))
    card = home.repos[REPO].files["README.md"].decode()
    assert "| `onnx/model.onnx` |" in card
    assert "| `openvino/openvino_model.xml` |" in card
    assert "`openvino" not in home.repos[REPO].commits[-1].description


def bench_file(folder: Path, **changes: object) -> Path:
    """What ``stopt bench --format json`` prints, as far as it is read."""
    row = {
        "file": ONNX,
        "size_bytes": (folder / ONNX).stat().st_size,
        "texts_per_second": 519.4,
        "speedup": 3.46,
    }
    machine = {"processor": "A Processor", "threads": 2}
    report = {"rows": [{**row, **changes}], "machine": machine, "tokens": 3000, "texts": 100}
    file = folder.parent / "bench.json"
    file.write_text(json.dumps({"schema": 1, "ok": True, "result": report}), encoding="utf-8")
    return file


def test_a_measured_speed_is_in_the_card(home, folder) -> None:
    push(folder, REPO, PushOptions(bench=bench_file(folder)))
    card = home.repos[REPO].files["README.md"].decode()
    row = next(line for line in card.splitlines() if line.startswith("| `onnx/model.onnx` |"))
    assert row.endswith("| 519 (3.5x torch) |")
    assert "Speed: A Processor, 2 threads, texts of 30 tokens." in card


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"size_bytes": 7}, "is of another onnx/model.onnx: 7 bytes", "measure it again"),
        ({"file": "onnx/model_O3.onnx"}, "has no speed of .*; it has onnx/model_O3.onnx", "measure these"),
        ({"texts_per_second": "fast"}, "is not what stopt bench prints: ValueError", "--format json"),
    ],
)
def test_a_speed_of_something_else_is_refused(home, folder, changes, message, hint) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        push(folder, REPO, PushOptions(bench=bench_file(folder, **changes)))
    assert hint in caught.value.hint
    assert len(home.repos[REPO].commits) == 1


def test_large_files_go_in_parts(home, folder) -> None:
    home.part_size = 5_000
    push(folder, REPO, PushOptions(include=("*.onnx",)))
    assert home.asked(r"PUT /storage/\w+/3")
    assert home.repos[REPO].files[ONNX] == (folder / ONNX).read_bytes()


def test_a_dry_run_sends_nothing(fake_hub, folder) -> None:
    result = push(folder, REPO, PushOptions(dry_run=True))
    assert REPO not in fake_hub.repos
    assert all(line.startswith("GET") for line in fake_hub.requests)
    assert {file.path for file in result.files} >= {ONNX, XML, BIN, "stopt.json", "README.md", "config.json"}
    assert result.card is not None
    assert (result.commit, result.dry_run) == (None, True)


def test_a_dry_run_without_a_token_looks_at_what_everybody_may_see(home, folder, monkeypatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    result = push(folder, REPO, PushOptions(dry_run=True))
    assert result.unseen is None
    states = {file.path: file.state for file in result.files}
    assert states[ONNX] == "new"
    assert "config.json" not in states  # the repository has the model


def test_a_dry_run_that_cannot_look_says_so_and_shows_the_rest(home, folder, monkeypatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    home.repos[REPO].private = True
    result = push(folder, REPO, PushOptions(dry_run=True, create_pr=True))
    assert result.unseen is not None
    assert REPO in result.unseen
    assert {file.path for file in result.files} >= {ONNX, XML, BIN, "stopt.json", "README.md", "config.json"}
    assert {file.state for file in result.files} == {"unknown"}
    assert 'revision="refs/pr/N"' in result.text
    assert "onnx/model.onnx" in str(result.card)
    assert (result.already_there, result.commit) == (False, None)
    assert all(line.startswith("GET") for line in home.requests)


def test_a_dry_run_with_a_token_fails_as_the_push_would(home, folder) -> None:
    home.repos[REPO].private = True
    with pytest.raises(PushError):
        push(folder, REPO, PushOptions(dry_run=True, token="hf_unknown"))


def test_a_branch_is_made_where_there_is_none(home, folder) -> None:
    push(folder, REPO, PushOptions(revision="converted"))
    repo = home.repos[REPO]
    assert len(repo.commits) == 1
    assert ONNX in repo.branches["converted"][-1].files
    assert 'revision="converted"' in repo.branches["converted"][-1].files["README.md"].decode()


def test_a_pull_request_leaves_main_alone(home, folder) -> None:
    result = push(folder, REPO, PushOptions(create_pr=True, commit_message="Files for ONNX"))
    repo = home.repos[REPO]
    assert len(repo.commits) == 1
    assert (result.pull_request, result.url) == (1, f"{home.url}/{REPO}/discussions/1")
    assert repo.branches["refs/pr/1"][-1].files[ONNX] == (folder / ONNX).read_bytes()
    assert [pull["title"] for pull in repo.pulls] == ["Files for ONNX"]
    assert 'revision="refs/pr/1",' in repo.pulls[0]["text"]


@pytest.mark.parametrize("card", [True, False])
def test_a_pull_request_says_what_it_changes(home, folder, card) -> None:
    push(folder, REPO, PushOptions(create_pr=True, card=card))
    said = "Nothing that is here is changed, except that the model card gains a section and tags."
    assert (said if card else "Nothing that is here is changed.\n") in home.repos[REPO].pulls[0]["text"]


def test_the_snippet_has_the_number_also_when_somebody_was_faster(home, folder) -> None:
    def meanwhile(text: str) -> None:
        if text.startswith("pushing"):
            home.repos[REPO].pulls.append({"num": 1, "title": "A question", "text": "?", "pull": False})

    result = push(folder, REPO, PushOptions(create_pr=True), meanwhile)
    assert result.pull_request == 2
    assert 'revision="refs/pr/2",' in home.repos[REPO].pulls[1]["text"]
    assert result.text == home.repos[REPO].pulls[1]["text"]


def test_a_snippet_that_cannot_be_mended_is_told(home, folder) -> None:
    def meanwhile(text: str) -> None:
        if text.startswith("pushing"):
            home.repos[REPO].pulls.append({"num": 1, "title": "A question", "text": "?", "pull": False})

    home.fault("/edit", 403, times=-1)
    with pytest.warns(StoptWarning, match="the text of pull request 2 has another number"):
        assert push(folder, REPO, PushOptions(create_pr=True), meanwhile).pull_request == 2


def test_the_same_pull_request_is_not_opened_twice(home, folder) -> None:
    first = push(folder, REPO, PushOptions(create_pr=True))
    second = push(folder, REPO, PushOptions(create_pr=True))
    assert (second.already_there, second.url) == (True, first.url)
    assert len(home.repos[REPO].pulls) == 1


def test_the_card_and_its_metadata_are_kept(fake_hub, folder) -> None:
    card = "---\n# ours\nlicense: mit   # as before\ntags:\n  - mine\n---\n# A model\n\nText.\n"
    fake_hub.model(REPO, {**own_files(folder), "README.md": card.encode()})
    push(folder, REPO)
    text = fake_hub.repos[REPO].files["README.md"].decode()
    kept = card.replace("  - mine\n", "  - mine\n  - sentence-transformers\n  - onnx\n  - openvino\n")
    assert text.startswith(kept)
    push(folder, REPO, PushOptions(include=("*.onnx",)))
    again = fake_hub.repos[REPO].files["README.md"].decode()
    assert again.count("<!-- stopt:begin -->") == 1
    assert again.startswith(kept)


def test_without_a_card_the_readme_is_left_alone(home, folder) -> None:
    push(folder, REPO, PushOptions(card=False))
    assert "README.md" not in home.repos[REPO].files


# ---- what is refused ------------------------------------------------------------------------------------------------


def spoil(folder: Path, **changes: object) -> None:
    """Change what the manifest says of the check of the ONNX file."""
    document = json.loads((folder / "stopt.json").read_text(encoding="utf-8"))
    document["files"][ONNX]["parity"].update(changes)
    (folder / "stopt.json").write_text(json.dumps(document), encoding="utf-8")


def test_a_file_that_did_not_pass_is_refused_or_marked(home, folder) -> None:
    spoil(folder, passed=False, failures=["mean cosine 0.5 < 0.9"])
    with pytest.raises(
        ArtifactError, match=r"onnx/model.onnx has not passed a check: mean cosine 0.5 < 0.9"
    ) as caught:
        push(folder, REPO)
    assert "--unchecked" in caught.value.hint
    assert len(home.repos[REPO].commits) == 1
    push(folder, REPO, PushOptions(unchecked=True))
    files = home.repos[REPO].files
    assert "Not checked, or not passed: `onnx/model.onnx`" in files["README.md"].decode()
    assert list(json.loads(files["stopt.json"])["files"]) == [XML]


def test_a_changed_file_is_refused(home, folder) -> None:
    with (folder / BIN).open("r+b") as file:
        file.write(b"\1")
    with pytest.raises(CorruptModel, match=r"openvino_model.bin is not the file that was checked") as caught:
        push(folder, REPO)
    assert caught.value.hint == "convert it again"
    assert home.received == []


def test_a_missing_file_is_refused(home, folder) -> None:
    (folder / BIN).unlink()
    with pytest.raises(CorruptModel, match=r"openvino_model.bin is missing, which stopt.json records"):
        push(folder, REPO)


def test_files_of_other_tools_stay_here_unless_they_are_asked_for(home, folder) -> None:
    shutil.copy(folder / ONNX, folder / "onnx/model_theirs.onnx")
    assert push(folder, REPO).left_out == ("onnx/model_theirs.onnx",)
    assert "onnx/model_theirs.onnx" not in home.repos[REPO].files
    push(folder, REPO, PushOptions(unchecked=True, include=("*theirs*",)))
    assert "onnx/model_theirs.onnx" in home.repos[REPO].files
    assert "| `onnx/model_theirs.onnx` |" in home.repos[REPO].files["README.md"].decode()


def test_a_folder_without_a_manifest_is_refused(home, folder) -> None:
    (folder / "stopt.json").unlink()
    with pytest.raises(ArtifactError, match="has converted files that stopt has not checked") as caught:
        push(folder, REPO)
    assert "--unchecked" in caught.value.hint
    shutil.rmtree(folder / "onnx")
    shutil.rmtree(folder / "openvino")
    with pytest.raises(ArtifactError, match="has no converted files") as caught:
        push(folder, REPO)
    assert "stopt export" in caught.value.hint


def test_a_repository_of_another_model_is_refused(fake_hub, folder) -> None:
    other = {**own_files(folder), "model.safetensors": b"other weights"}
    fake_hub.model(REPO, other)
    with pytest.raises(PushError, match=r"has another model: its model.safetensors is not the one") as caught:
        push(folder, REPO)
    assert "--include '*'" in caught.value.hint
    push(folder, REPO, PushOptions(include=("*",)))
    assert fake_hub.repos[REPO].files["model.safetensors"] == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("repository", "options", "error", "message", "hint"),
    [
        ("model", PushOptions(), PushError, "'model' is no name of a Hub repository", "organisation/name"),
        ("a b/model", PushOptions(), PushError, "'a b/model' is no name", "organisation/name"),
        (
            "someone/new",
            PushOptions(create_pr=True),
            PushError,
            "no repository someone/new to open",
            "leave out",
        ),
        (REPO, PushOptions(private=True), PushError, "exists, and is public", "make it private"),
        (
            REPO,
            PushOptions(include=("*O3*",)),
            OptionError,
            "no file of the model matches --include",
            "known",
        ),
        (REPO, PushOptions(token="hf_unknown"), PushError, "may not write", "--create-pr"),
        (
            REPO,
            PushOptions(token="hf new\nline"),
            OptionError,
            "characters that no token has",
            "copy it again",
        ),
    ],
)
def test_what_cannot_be_pushed_is_told(home, folder, repository, options, error, message, hint) -> None:
    with pytest.raises(error, match=message) as caught:
        push(folder, repository, options)
    assert hint in caught.value.hint
    assert len(home.repos[REPO].commits) == 1
    assert list(home.repos) == [REPO]


def test_a_repository_without_a_main_branch_is_told(home, folder) -> None:
    home.fault("GET /api", 404, code="RevisionNotFound")
    with pytest.raises(PushError, match="someone/model has no branch main") as caught:
        push(folder, REPO)
    assert caught.value.hint == "name another: --revision BRANCH"


def test_without_a_token_nothing_is_tried(home, folder, monkeypatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PushError, match="pushing needs a Hub token") as caught:
        push(folder, REPO)
    assert "hf auth login" in caught.value.hint
    assert home.requests == []


def test_a_folder_that_is_not_there_is_told(tmp_path) -> None:
    with pytest.raises(SourceError, match="there is no folder") as caught:
        push(tmp_path / "nowhere", REPO)
    assert caught.value.hint == "name the model folder that the files are in"


def test_what_the_repository_ignores_is_noticed(fake_hub, folder) -> None:
    fake_hub.model(REPO, {**own_files(folder), ".gitignore": b"*.bin\n"})
    with pytest.raises(PushError, match=r"does not hold openvino/openvino_model.bin as sent") as caught:
        push(folder, REPO)
    assert ".gitignore" in caught.value.hint


def test_a_file_that_changes_while_it_is_pushed_is_noticed(home, folder, monkeypatch) -> None:
    from stopt import hub

    def sneaky(*args: object) -> object:
        (folder / ONNX).write_bytes(b"changed")
        return upload(*args)

    upload = hub.upload
    monkeypatch.setattr(hub, "upload", sneaky)
    with pytest.raises(CorruptModel, match=r"onnx/model.onnx changed while it was pushed"):
        push(folder, REPO)
    assert len(home.repos[REPO].commits) == 1


def test_the_manifest_that_is_pushed_is_one(home, folder, tmp_path) -> None:
    push(folder, REPO)
    (tmp_path / "stopt.json").write_bytes(home.repos[REPO].files["stopt.json"])
    manifest = Manifest.read(tmp_path)
    assert manifest is not None
    for name, record in manifest.files.items():
        for part, known in record.parts.items():
            assert hashlib.sha256(home.repos[REPO].files[part]).hexdigest() == known["sha256"], name


def test_the_token_goes_to_the_hub_and_not_to_its_storage(home, folder) -> None:
    push(folder, REPO, PushOptions(token=TOKEN))
    stopt.SentenceTransformer(REPO, backend="onnx", token=TOKEN)
    assert home.leaked == []


# ---- what people read -----------------------------------------------------------------------------------------------


def snippets(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def told(home, folder) -> list[str]:
    """The snippets of pull requests and model cards, for both engines."""
    for include in ("*.onnx", "*.xml"):
        push(folder, REPO, PushOptions(include=(include,), create_pr=True))
        push(folder, REPO, PushOptions(include=(include,)))
    repo = home.repos[REPO]
    texts = [
        *(pull["text"] for pull in repo.pulls),
        *(each.files["README.md"].decode() for each in repo.commits[1:]),
    ]
    found = [code for text in texts for code in snippets(text)]
    assert len(found) == 4
    return found


@pytest.mark.slow  # pytest -m slow tests/test_push.py
def test_the_snippets_run_as_they_are(home, told, tmp_path) -> None:
    environment = {
        **os.environ,
        "HF_ENDPOINT": home.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
    }
    code = "\n".join(told)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("tensor([[") == 4


def test_the_snippets_run_with_one_word_changed(told, capsys) -> None:
    for code in told:
        exec(compile(code.replace("from sentence_transformers", "from stopt"), "snippet", "exec"), {})
    assert capsys.readouterr().out.count("[[") == 4
