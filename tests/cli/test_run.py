"""``stopt run`` as a command: what it makes and prints, the plan without making it, mistakes in recipes."""

import pytest

STEPS = """
[[step]]
kind = "export"

[[step]]
kind = "optimize"
level = "O3"

[[step]]
kind = "quantize"
target = "avx2"
from = "onnx/model_O3.onnx"

[check]
texts = "few.txt"
"""
MADE = ["onnx/model.onnx", "onnx/model_O3.onnx", "onnx/model_O3_quint8_avx2.onnx"]


@pytest.fixture
def recipe(tiny, tmp_path, few):
    """A recipe of three steps for a tiny model."""
    (tmp_path / "few.txt").write_bytes(few.read_bytes())
    file = tmp_path / "mine.toml"
    file.write_text(f'[source]\nrepo = "{tiny("bert")}"\n{STEPS}', encoding="utf-8")
    return file


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_all_files_are_made_in_one_go(run, recipe, tiny, tmp_path) -> None:
    out = tmp_path / "new" / "out"
    result = run("run", recipe, "-o", out)
    assert result.exit_code == 0
    assert [str(out / name) in result.stdout for name in MADE] == [True] * 3
    assert "[3/3] making onnx/model_O3_quint8_avx2.onnx" in result.stderr
    assert f"Next: stopt check {out}" in result.stderr
    assert files_of(out) - files_of(tiny("bert")) == {*MADE, "stopt.json"}


def test_quiet_and_json(run, recipe, tmp_path, one_document) -> None:
    result = run("run", recipe, "-o", tmp_path / "out", "-q")
    assert result.stderr == ""
    assert result.stdout.splitlines() == [str(tmp_path / "out" / name) for name in MADE]
    document = one_document(run("run", recipe, "-o", tmp_path / "out", "--force", "--format", "json"))
    assert [made["file"] for made in document["result"]] == MADE


def test_existing_files_are_kept_unless_forced(run, recipe, tmp_path) -> None:
    (tmp_path / "out" / "onnx").mkdir(parents=True)
    (tmp_path / "out" / MADE[2]).write_bytes(b"old")
    result = run("run", recipe, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert f"{tmp_path / 'out' / MADE[2]} exists already" in result.stderr
    assert "Hint: replace it with --force" in result.stderr
    assert files_of(tmp_path / "out") == {MADE[2]}


def test_a_plan_makes_nothing(run, recipe, tiny, tmp_path, one_document) -> None:
    before = files_of(tmp_path), files_of(tiny("bert"))
    result = run("run", recipe, "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()[2:]]
    assert rows == [
        [MADE[0], "float32", str(tiny("bert"))],
        [MADE[1], "approximate", MADE[0]],
        [MADE[2], "int8", MADE[1]],
    ]
    document = one_document(run("run", recipe, "--dry-run", "--format", "json"))
    assert [each["file"] for each in document["result"]["files"]] == MADE
    assert document["result"]["files"][2]["options"]["target"] == "avx2"
    assert run("run", recipe, "--dry-run", "-q").stdout.splitlines() == MADE
    assert (files_of(tmp_path), files_of(tiny("bert"))) == before


def test_a_step_that_fails_leaves_nothing(run, recipe, tmp_path) -> None:
    recipe.write_text(recipe.read_text("utf-8") + "min_cosine = 0.9999999\n", encoding="utf-8")
    result = run("run", recipe, "-o", tmp_path / "out")
    assert result.exit_code == 3
    assert "onnx/model_O3" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_mistake_is_named_with_its_line(run, recipe, one_document) -> None:
    recipe.write_text(recipe.read_text("utf-8").replace("level", "levle"), encoding="utf-8")
    result = run("run", recipe, "--format", "json")
    assert result.exit_code == 1
    error = one_document(result)["error"]
    assert error["message"] == f"{recipe}, line 9: optimize has no option 'levle'"
    assert error["hint"] == "did you mean 'level'?"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file or directory"), ("[source", "is not TOML: ")],
)
def test_what_is_no_recipe(run, tmp_path, content, message) -> None:
    if content is not None:
        (tmp_path / "mine.toml").write_text(content, encoding="utf-8")
    result = run("run", tmp_path / "mine.toml")
    assert result.exit_code == 1
    assert f"{tmp_path / 'mine.toml'} {message}" in result.stderr
    assert "Hint: " in result.stderr


def test_a_model_that_is_not_there(run, tmp_path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[source]\nrepo = "organisation/unknown"\n[[step]]\nkind = "export"\n', encoding="utf-8")
    result = run("run", file)
    assert result.exit_code == 1
    assert "organisation/unknown is neither cached nor reachable" in result.stderr


def test_a_recipe_must_be_named(run) -> None:
    result = run("run")
    assert result.exit_code == 2
    assert "Missing argument 'RECIPE'" in result.stderr


def test_a_recipe_is_for_other_models_too(run, tiny, recipe, tmp_path, one_document) -> None:
    recipe.write_text(
        recipe.read_text()
        .replace("[source]", '[source]\nrevision = "v1"')
        .replace(str(tiny("bert")), "org/gone")
    )
    result = run(
        "run", recipe, "--model", tiny("bert"), "-o", tmp_path / "out", "--dry-run", "--format", "json"
    )
    assert one_document(result)["result"]["model"] == str(tiny("bert"))
    result = run("run", recipe, "--model", tiny("bert"), "-o", tmp_path / "out", "--format", "json")
    assert result.exit_code == 0, result.stderr
    assert files_of(tmp_path / "out") >= set(MADE)
