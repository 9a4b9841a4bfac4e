"""``stopt push``."""

import json

import pytest

REPO = "someone/model"


def test_a_dry_run_lists_what_would_go(run, served, fake_hub, one_document) -> None:
    result = run("push", served, REPO, "--dry-run")
    assert result.exit_code == 0
    assert "onnx/model.onnx" in result.stdout
    assert "would push" in result.stdout
    document = one_document(run("push", served, REPO, "--dry-run", "--format", "json"))["result"]
    assert {file["path"] for file in document["files"]} >= {"onnx/model.onnx", "stopt.json", "README.md"}
    assert document["card"].startswith("---\n")
    assert fake_hub.repos == {}


def test_a_dry_run_without_a_token_says_what_it_cannot_know(run, served, fake_hub, monkeypatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    result = run("push", served, REPO, "--dry-run")
    assert result.exit_code == 0
    assert "unknown" in result.stdout
    assert f"{REPO} was not looked at (" in result.stderr
    assert "a private one is seen with a token" in result.stderr
    assert "hf auth login" in result.stderr
    assert fake_hub.repos == {}


def test_the_current_folder_is_the_model(run, served, fake_hub, monkeypatch) -> None:
    monkeypatch.chdir(served)
    result = run("push", REPO, "--include", "*.xml", "--no-card", "-q")
    assert (result.exit_code, result.stdout.strip()) == (
        0,
        f"{fake_hub.url}/{REPO}/commit/{fake_hub.repos[REPO].commits[-1].oid}",
    )
    assert result.stderr == ""
    again = run("push", REPO, "--include", "*.xml", "--no-card")
    assert "has all of this already" in again.stdout


def test_a_failure_has_a_hint_and_a_code(run, served, fake_hub) -> None:
    result = run("push", served, REPO, "--create-pr", "--format", "json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert (error["type"], error["hint"]) == ("PushError", "leave out --create-pr: it is then made")


@pytest.mark.parametrize("args", [(), ("a", "b", "c/d")])
def test_one_or_two_names_are_expected(run, args) -> None:
    assert run("push", *args).exit_code == 2


# ---- pushing what was just made -------------------------------------------------------------------------------------


@pytest.fixture
def home(served, fake_hub):
    """A Hub that has the model, without converted files."""
    names = (path.relative_to(served).as_posix() for path in served.rglob("*") if path.is_file())
    own = [name for name in names if not name.startswith(("onnx/", "openvino/")) and name != "stopt.json"]
    fake_hub.model(REPO, {name: (served / name).read_bytes() for name in own})
    return fake_hub


def test_what_was_made_goes_to_the_hub(run, served, home, few, tmp_path, one_document) -> None:
    args = [served, "-o", tmp_path / "copy", "--check-texts", few, "--push-to-hub", REPO, "--create-pr"]
    document = one_document(run("optimize", *args, "-O1", "--format", "json"))["result"]
    assert document["push"]["pull_request"] == 1
    assert [file["file"] for file in document["files"]] == ["onnx/model_O1.onnx"]
    pushed = home.repos[REPO].branches["refs/pr/1"][-1].files
    assert "onnx/model_O1.onnx" in pushed
    assert "onnx/model.onnx" not in pushed
    result = run("quantize", *args[:-1], "--avx2")
    assert result.exit_code == 0
    assert "pushed" in result.stdout
    assert "onnx/model_quint8_avx2.onnx" in home.repos[REPO].files


def test_a_model_of_the_hub_goes_back_to_its_repository(run, home, few, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    commit = home.repos[REPO].commits[-1].oid
    result = run("export", REPO, "--check-texts", few, "--push-to-hub", "--commit-message", "For ONNX")
    assert result.exit_code == 0, result.stderr
    assert [each.title for each in home.repos[REPO].commits] == ["init", "For ONNX"]
    manifest = json.loads(home.repos[REPO].files["stopt.json"])
    assert manifest["source"]["name"] == REPO
    assert manifest["source"]["revision"] == commit
    assert (tmp_path / "model/onnx/model.onnx").is_file()


def test_a_recipe_is_pushed(run, served, home, few, tmp_path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'[source]\nrepo = "{served}"\n[[step]]\nkind = "optimize"\nlevel = "O1"\n[check]\ntexts = "{few}"\n',
        encoding="utf-8",
    )
    result = run("run", recipe, "-o", tmp_path / "copy", "--push-to-hub", REPO)
    assert result.exit_code == 0, result.stderr
    assert "onnx/model_O1.onnx" in home.repos[REPO].files


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--push-to-hub"], "is no repository to push to"),
        (["--create-pr"], "--create-pr has no use without --push-to-hub"),
        (["--private", "--commit-message", "x"], "--private and --commit-message has no use"),
        (["--push-to-hub", "someone/other", "--create-pr"], "no repository someone/other to open"),
        (["--push-to-hub", REPO, "--private"], "exists, and is public"),
    ],
)
def test_what_cannot_be_pushed_is_told_before_the_work(run, served, home, tmp_path, args, message) -> None:
    result = run("export", served, "-o", tmp_path / "copy", *args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "running" not in result.stderr
    assert not (tmp_path / "copy").exists()


def test_files_stay_when_pushing_them_fails(run, served, home, few, tmp_path, one_document) -> None:
    home.fault("/commit/", 403, times=-1)
    copy = tmp_path / "copy"
    args = [served, "-o", copy, "--check-texts", few, "--push-to-hub", REPO, "--format", "json"]
    result = run("optimize", "-O1", *args)
    assert result.exit_code == 1
    document = one_document(result)
    assert document["error"]["type"] == "PushError"
    assert [file["file"] for file in document["result"]] == ["onnx/model_O1.onnx"]
    assert (copy / "onnx/model_O1.onnx").is_file()
