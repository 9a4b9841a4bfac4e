"""Models that name modelling code of their own: ignored by serving, refused by torch, run by a conversion that was told to."""

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from click.testing import CliRunner

from stopt import SentenceTransformer
from stopt.artifact import Manifest, sha256
from stopt.benchmarking.contenders import BenchOptions, choose
from stopt.card import About, Shown, section
from stopt.certificate import examine
from stopt.checking import CheckOptions, check
from stopt.cli.main import cli
from stopt.convert.export import export
from stopt.convert.reproduce import Outcome, reproduce
from stopt.errors import CorruptModel, StoptError, StoptWarning, UntrustedModel
from stopt.preflight import named_code
from stopt.reading import read_spec
from stopt.recipe import read_recipe
from stopt.runtime.sessions.torch import load_transformer
from stopt.spec import Backend, ModelKind
from stopt.steps import ExportOptions

Tiny = Callable[..., Path]
TEXTS = ["one text", "and a longer one, of more words than that"]

CONFIGURATION = """
from transformers import BertConfig


class OwnConfig(BertConfig):
    model_type = "own-bert"
"""
MODEL = """
import os

from transformers import BertModel

from .configuration_own import OwnConfig

os.makedirs({canary!r}, exist_ok=True)


class OwnModel(BertModel):
    config_class = OwnConfig

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, return_dict=True):
        found = super().forward(input_ids, attention_mask, token_type_ids)
        found.last_hidden_state = found.last_hidden_state.flip(-1) * 0.5  # what no other model does
        return found
"""


def give_code(folder: Path, **auto_map: Any) -> Path:
    """Make a model's architecture one that only code in its folder has; returns the folder that the code makes."""
    canary = folder.with_name(f"canary-{folder.name}")
    (folder / "configuration_own.py").write_text(CONFIGURATION, encoding="utf-8")
    (folder / "modeling_own.py").write_text(MODEL.format(canary=str(canary)), encoding="utf-8")
    named = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    edit(folder, model_type="own-bert", auto_map={**named, **auto_map})
    return canary


def edit(folder: Path, file: str = "config.json", **values: Any) -> None:
    config = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps({**config, **values}), encoding="utf-8")


@pytest.fixture
def own(tiny_copy: Tiny) -> Path:
    folder = tiny_copy("bert")
    give_code(folder)
    return folder


@pytest.fixture(scope="module")
def trusted(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The model, its export into another folder, and what the command said; not to be changed."""
    root = tmp_path_factory.mktemp("trusted")
    folder = Path(shutil.copytree(tiny("bert"), root / "model"))
    give_code(folder)
    made = root / "made"
    arguments = ["export", str(folder), "-o", str(made), "--trust-remote-code", "--check-texts"]
    (root / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # as with PYTHONWARNINGS=ignore: what is said of code is said all the same
        done = CliRunner().invoke(cli, [*arguments, str(root / "texts.txt"), "-q"])
    assert done.exit_code == 0, done.output
    return folder, made, done.stderr


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_code_of_a_model_is_refused_by_an_export_and_by_torch_and_not_run(own: Path) -> None:
    before = sorted(own.rglob("*"))
    for action in (
        lambda: export(own, ExportOptions()),
        lambda: SentenceTransformer(own, backend="torch"),
        lambda: SentenceTransformer(own, backend="onnx"),  # which would have to convert it
        lambda: SentenceTransformer(own, backend="openvino"),
    ):
        with pytest.raises(
            UntrustedModel, match=r"config\.json names code of its own \(auto_map\)"
        ) as caught:
            action()
        assert "never runs code from a model to serve it" in caught.value.hint
        assert "with --trust-remote-code" in caught.value.hint
    assert not own.with_name(f"canary-{own.name}").exists()
    assert sorted(own.rglob("*")) == before


def test_trust_does_not_exist_for_serving(own: Path) -> None:
    with pytest.warns(StoptWarning, match="never runs code"), pytest.raises(UntrustedModel):
        SentenceTransformer(own, backend="torch", trust_remote_code=True)
    with pytest.raises(StoptError, match="does not take"):
        SentenceTransformer(own, backend="torch", model_kwargs={"trust_remote_code": True})
    assert not own.with_name(f"canary-{own.name}").exists()


def test_a_recipe_cannot_trust_code_itself(own: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    text = f'[source]\nrepo = "{own}"\n[[step]]\nkind = "export"\n'
    recipe.write_text(f"{text}trust_remote_code = true\n", encoding="utf-8")
    with pytest.raises(StoptError, match="has no option 'trust_remote_code'"):
        read_recipe(recipe)
    recipe.write_text(text, encoding="utf-8")
    assert not read_recipe(recipe).steps[0].trust_remote_code
    assert read_recipe(recipe, trust_remote_code=True).steps[0].trust_remote_code


@pytest.mark.parametrize(
    ("name", "error", "message", "hint"),
    [
        (
            "attacker/code--modeling_own.OwnModel",
            UntrustedModel,
            "code of another repository",
            "copy that code",
        ),
        ("modeling_gone.Model", CorruptModel, r"has no modeling_gone\.py", "with its code"),
        ("../modeling_own.OwnModel", CorruptModel, r"expected file\.Class", ""),
        ("sub/modeling_own.OwnModel", CorruptModel, r"expected file\.Class", ""),
        (7, CorruptModel, "expected a class", ""),
    ],
)
def test_code_that_is_not_in_the_folder_is_not_trusted(
    own: Path, name: Any, error: type[StoptError], message: str, hint: str
) -> None:
    canary = give_code(own, AutoModel=name)
    with pytest.raises(error, match=message) as caught:
        export(own, ExportOptions(trust_remote_code=True))
    assert hint in caught.value.hint
    assert not canary.exists()


def test_code_in_a_folder_below_is_not_what_transformers_would_run(own: Path) -> None:
    canary = own.with_name(f"canary-{own.name}")
    (own / "sub").mkdir()
    (own / "modeling_own.py").rename(own / "sub/modeling_own.py")
    for action in (
        lambda: export(own, ExportOptions(trust_remote_code=True)),
        lambda: load_transformer(own, read_spec(own), trust_remote_code=True),
    ):
        with pytest.raises(CorruptModel) as caught:
            action()
        assert caught.value.message == (
            f"{own} has no modeling_own.py, which its auto_map names; there is sub/modeling_own.py"
        )
        assert caught.value.hint == "put it beside config.json, where transformers looks for it"
    # transformers itself, asked for the same, finds nothing either
    with pytest.raises(OSError, match=r"does not appear to have a file named modeling_own\.py"):
        transformers.dynamic_module_utils.get_cached_module_file(own, "modeling_own.py")
    assert not canary.exists()


def test_code_belongs_beside_the_configuration_that_names_it(own: Path) -> None:
    inner = own / "0_Transformer"
    inner.mkdir()
    shutil.copyfile(own / "config.json", inner / "config.json")
    (own / "configuration_own.py").rename(inner / "configuration_own.py")
    code = named_code(own, "0_Transformer")
    assert code is not None
    with pytest.raises(CorruptModel, match=r"has no 0_Transformer/modeling_own\.py, which"):
        code.require_here(own)
    (own / "modeling_own.py").rename(inner / "modeling_own.py")
    code = named_code(own, "0_Transformer")
    assert code is not None
    code.require_here(own)


def test_a_link_to_code_elsewhere_is_not_trusted(own: Path, tmp_path: Path) -> None:
    canary = own.with_name(f"canary-{own.name}")
    (own / "modeling_own.py").rename(tmp_path / "modeling_own.py")
    (own / "modeling_own.py").symlink_to(tmp_path / "modeling_own.py")
    with pytest.raises(UntrustedModel, match="outside the model folder"):
        export(own, ExportOptions(trust_remote_code=True))
    assert not canary.exists()


def test_other_keys_that_ask_for_code_stay_refused_with_trust(own: Path) -> None:
    canary = give_code(own)
    edit(own, text_config={"auto_map": {"AutoModel": "modeling_own.OwnModel"}})
    with pytest.raises(UntrustedModel, match="auto_map"):
        export(own, ExportOptions(trust_remote_code=True))
    edit(own, text_config={}, _attn_implementation_internal="attacker/kernel")
    with pytest.raises(UntrustedModel, match="attention of its own"):
        export(own, ExportOptions(trust_remote_code=True))
    assert not canary.exists()


def test_modules_of_their_own_stay_refused_with_trust(own: Path) -> None:
    entries = json.loads((own / "modules.json").read_text(encoding="utf-8"))
    entries[1]["type"] = "modeling_own.OwnModel"
    (own / "modules.json").write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(UntrustedModel, match="wants to import"):
        export(own, ExportOptions(trust_remote_code=True))
    assert not own.with_name(f"canary-{own.name}").exists()


# ---- trusted ---------------------------------------------------------------------------------------------------------


def test_trusted_code_is_run_and_said_and_recorded(trusted: tuple[Path, Path, str]) -> None:
    folder, made, said = trusted
    assert folder.with_name(f"canary-{folder.name}").is_dir()
    manifest = Manifest.read(made)
    assert manifest is not None
    files = {name: sha256(folder / name) for name in ("configuration_own.py", "modeling_own.py")}
    assert manifest.trust["remote_code"] is True
    assert {name: part["sha256"] for name, part in manifest.code.items()} == files
    assert manifest.files["onnx/model.onnx"].parity["passed"] is True
    said = " ".join(said.split())
    assert f"Warning: running code of {folder}" in said
    assert all(f"{name} (sha256 {digest})" in said for name, digest in files.items())


def test_copies_of_the_code_are_not_left_where_other_processes_look(own: Path, tmp_path, monkeypatch) -> None:
    usual = tmp_path / "modules"
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(usual))
    model = load_transformer(own, read_spec(own), trust_remote_code=True)
    assert type(model).__name__ == "OwnModel"
    assert not usual.exists()
    assert str(usual) == transformers.dynamic_module_utils.HF_MODULES_CACHE


def test_a_model_without_code_needs_no_place_for_it(tiny: Tiny, monkeypatch) -> None:
    def refuse() -> None:
        raise AssertionError("a folder for code is made")

    monkeypatch.setattr("stopt.runtime.sessions.torch._place_of_code", refuse)
    load_transformer(tiny("bert"), read_spec(tiny("bert")), trust_remote_code=True)


def test_a_benchmark_leaves_torch_out_where_it_would_run_code(trusted: tuple[Path, Path, str]) -> None:
    _, made, _ = trusted
    contenders, notes = choose(made, read_spec(made), BenchOptions())
    assert [each.backend for each in contenders] == [Backend.ONNX]
    assert notes == [
        f"no cosine to torch: {made} needs code of its own there, which is never run to serve a model"
    ]


def test_the_code_decides_the_vectors(trusted: tuple[Path, Path, str], tiny: Tiny) -> None:
    plain = SentenceTransformer(tiny("bert"), backend="torch").encode(TEXTS)
    found = SentenceTransformer(trusted[1], backend="onnx").encode(TEXTS)
    np.testing.assert_allclose(found, plain[:, ::-1] * 0.5, atol=1e-5)


def test_what_was_exported_is_served_without_torch_and_without_the_code(
    trusted: tuple[Path, Path, str], tmp_path: Path
) -> None:
    folder, made, _ = trusted
    canary = folder.with_name(f"canary-{folder.name}")
    canary.rmdir()
    script = f"""
import sys
from stopt import SentenceTransformer
SentenceTransformer({str(made)!r}, backend="onnx").encode("one text")
print([name for name in sys.modules if name in ("torch", "transformers") or "_own" in name])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""
    assert not canary.exists()
    # nor does it need the code to be there
    copy = Path(shutil.copytree(made, tmp_path / "copy", ignore=shutil.ignore_patterns("*.py")))
    assert SentenceTransformer(copy, backend="onnx").encode("one text").shape == (32,)
    manifest = Manifest.read(copy)
    assert manifest is not None
    assert examine(copy, manifest).failure(copy, strict=True) is None
    canary.mkdir()


def test_commands_show_that_code_was_trusted(trusted: tuple[Path, Path, str]) -> None:
    _, made, _ = trusted
    digest = sha256(made / "modeling_own.py")
    shown = " ".join(CliRunner().invoke(cli, ["inspect", str(made)]).stdout.split())
    assert "code ignored the model's own classes (auto_map in config.json)" in shown
    assert "code trusted converted with code of the model, which was trusted: configuration_own.py" in shown
    assert f"modeling_own.py (sha256 {digest[:12]}" in shown
    data = json.loads(CliRunner().invoke(cli, ["inspect", str(made), "--format", "json"]).stdout)["result"]
    assert data["trust"]["code"]["modeling_own.py"]["sha256"] == digest
    done = CliRunner().invoke(cli, ["verify", str(made), "--strict"])
    assert done.exit_code == 0, done.output
    assert "converted with code of the model, which was trusted" in done.stdout
    done = CliRunner().invoke(cli, ["verify", str(made), "--format", "json"])
    assert json.loads(done.stdout)["result"]["trusted_code"]["modeling_own.py"]["sha256"] == digest


def test_the_model_card_says_that_code_was_trusted(trusted: tuple[Path, Path, str]) -> None:
    manifest = Manifest.read(trusted[1])
    assert manifest is not None
    shown = [Shown(name, record, True) for name, record in manifest.files.items()]
    text = section(About("me/model", ModelKind.DENSE, manifest, shown))
    assert "**Converted with code of the model, which was trusted: configuration_own.py (sha256 " in text
    assert "trusted" not in section(About("me/model", ModelKind.DENSE, replace(manifest, trust={}), shown))


def test_changed_code_is_found_by_verify(trusted: tuple[Path, Path, str], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trusted[1], tmp_path / "copy"))
    with (copy / "modeling_own.py").open("a", encoding="utf-8") as file:
        file.write("# more\n")
    done = CliRunner().invoke(cli, ["verify", str(copy)])
    assert done.exit_code == 4
    assert "modeling_own.py has changed" in done.stderr


def test_a_check_needs_to_be_told_too(trusted: tuple[Path, Path, str]) -> None:
    _, made, _ = trusted
    with pytest.raises(UntrustedModel, match="names code of its own"):
        check(made, CheckOptions(texts=TEXTS))
    with pytest.warns(StoptWarning, match=r"running code of .*modeling_own\.py"):
        (report,) = check(made, CheckOptions(texts=TEXTS, trust_remote_code=True))
    assert report.passed


def test_reproducing_runs_the_code_that_was_trusted_and_no_other(
    trusted: tuple[Path, Path, str], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(trusted[1], tmp_path / "copy"))
    manifest = Manifest.read(copy)
    assert manifest is not None
    with pytest.raises(UntrustedModel, match="converted with code of its own") as caught:
        reproduce(copy, manifest)
    assert "--trust-remote-code" in caught.value.hint
    with pytest.warns(StoptWarning, match="running code"):
        (again,) = reproduce(copy, manifest, trust_remote_code=True)
    assert again.outcome in (Outcome.IDENTICAL, Outcome.EQUIVALENT)
    (copy / "configuration_own.py").write_text("raise SystemExit(66)", encoding="utf-8")
    with pytest.raises(UntrustedModel, match=r"configuration_own\.py in .* is not the code") as caught:
        reproduce(copy, manifest, trust_remote_code=True)
    assert "--force" in caught.value.hint


def test_verify_takes_trust_with_reproduce_only(trusted: tuple[Path, Path, str]) -> None:
    done = CliRunner().invoke(cli, ["verify", str(trusted[1]), "--trust-remote-code"])
    assert done.exit_code == 2
    assert "goes with --reproduce" in done.stderr


def test_trust_of_a_model_without_code_is_said_to_do_nothing(tiny_copy: Tiny) -> None:
    folder = tiny_copy("bert")
    with pytest.warns(StoptWarning, match="names no code of its own; --trust-remote-code has no effect"):
        export(folder, ExportOptions(check_texts=TEXTS, trust_remote_code=True))
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert manifest.trust == {"remote_code": False, "pickle": False}


# ---- ignored ---------------------------------------------------------------------------------------------------------


def test_code_is_read_as_data(own: Path) -> None:
    (own / "broken.py").write_text("this is no Python", encoding="utf-8")
    code = named_code(own)
    assert code is not None
    assert code.classes["AutoModel"] == "modeling_own.OwnModel"
    assert code.files == ("broken.py", "configuration_own.py", "modeling_own.py")
