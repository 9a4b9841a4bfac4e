"""The command in this process, and one model with both files that commands read."""

import json
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from stopt.cli.main import cli

Run = Callable[..., Result]

PROMPTS = {"query": "query: ", "document": ""}


@pytest.fixture
def run() -> Run:
    """``run("check", folder, "--format", "json", input=...)``: its exit code, stdout and stderr."""

    def invoke(*args: Any, input: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(cli, [str(arg) for arg in args], input=input, prog_name="stopt")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two texts: enough for a check that is not itself under test."""
    file = tmp_path_factory.mktemp("texts") / "few.txt"
    file.write_text("one text\nand a longer one, with more words\n", encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def served(tiny: Callable[..., Path], few: Path, build_once: Callable[..., Path]) -> Path:
    """A tiny model with an ONNX and an OpenVINO file. Not to be changed."""

    def build(folder: Path) -> Path:
        args = ["export", tiny("bert", prompts=PROMPTS), "--backend", "onnx", "--backend", "openvino"]
        args += ["-o", folder / "model", "--check-texts", few]
        result = CliRunner().invoke(cli, list(map(str, args)))
        assert result.exit_code == 0, result.output
        return folder / "model"

    return build_once("served", "", build)


@pytest.fixture
def lean_site(tmp_path: Path) -> Callable[..., Path]:
    """Make a site-packages folder with only some of the installed distributions in it, for a fresh interpreter."""

    def make(*names: str) -> Path:
        site = tmp_path / "site"
        site.mkdir()
        for name in names:
            found = distribution(name)
            tops = {file.parts[0] for file in found.files or [] if file.parts[0] != ".."}
            for top in tops - {"__pycache__", "bin"}:
                if not (site / top).exists():
                    (site / top).symlink_to(Path(str(found.locate_file(top))))
        return site

    return make


@pytest.fixture
def one_document() -> Callable[[Result], Any]:
    """Parse stdout, which must be one JSON object and nothing else."""

    def parse(result: Result) -> Any:
        document = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert document["schema"] == 1
        return document

    return parse
