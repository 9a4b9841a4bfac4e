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
