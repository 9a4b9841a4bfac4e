"""``stopt verify``."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from stopt.cli.main import cli


@pytest.fixture
def folder(exported: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("bert"), tmp_path / "model"))


def test_a_whole_folder_is_verified(folder) -> None:
    done = CliRunner().invoke(cli, ["verify", str(folder)])
    assert done.exit_code == 0, done.output
    assert "files are as recorded" in done.stdout


def test_what_is_wrong_is_named_for_people_and_programs(folder) -> None:
    (folder / "config.json").unlink()
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    done = CliRunner().invoke(cli, ["verify", str(folder)])
    assert done.exit_code == 4
    assert "config.json is missing" in done.stdout
    assert "tokenizer.json has changed" in done.stderr
    assert "Hint: fetch the model again" in done.stderr
    done = CliRunner().invoke(cli, ["verify", str(folder), "--format", "json"])
    document = json.loads(done.stdout)
    assert document["ok"] is False
    assert document["error"]["type"] == "CorruptModel"
    assert [each["file"] for each in document["result"]["differences"]] == ["config.json", "tokenizer.json"]


def test_an_unknown_file_is_a_warning_or_with_strict_an_error(folder) -> None:
    (folder / "extra.bin").touch()
    done = CliRunner().invoke(cli, ["verify", str(folder)])
    assert done.exit_code == 0
    assert "Warning: not in stopt.json: extra.bin" in done.stderr
    done = CliRunner().invoke(cli, ["verify", str(folder), "--strict"])
    assert done.exit_code == 4
    assert "extra.bin is not in stopt.json" in done.stderr


def test_a_folder_without_a_manifest_says_how_to_get_one(tiny) -> None:
    done = CliRunner().invoke(cli, ["verify", str(tiny("bert"))])
    assert done.exit_code == 1
    assert "has no stopt.json to be held against" in done.stderr
    assert "Hint: files of stopt have one: stopt export" in done.stderr
