"""The rules of the code: who may import whom, what stays light, how large things may get."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import stopt
from stopt import errors
from stopt.cli.main import cli

ROOT = Path(stopt.__file__).parent
README = (ROOT.parent / "README.md").read_text(encoding="utf-8")

# from the ground up; a module imports from its own layer and those before it, never in a circle
LAYERS: tuple[tuple[str, ...], ...] = (
    ("stopt.errors",),
    ("stopt.counts", "stopt.folder", "stopt.interrupts", "stopt.layers", "stopt.spec"),
    (
        "stopt.artifact",
        "stopt.cache",
        "stopt.certificate",
        "stopt.examples",
        "stopt.hub",
        "stopt.overlap",
        "stopt.parts",
        "stopt.preflight",
        "stopt.reading",
        "stopt.recipe",
        "stopt.signing",
        "stopt.staging",
        "stopt.steps",
        "stopt.trust",
    ),
    ("stopt.demo", "stopt.embeddings", "stopt.heads", "stopt.runtime"),
    (
        "stopt.benchmarking",
        "stopt.card",
        "stopt.checking",
        "stopt.parity",
        "stopt.publishing",
        "stopt.quality",
    ),
    ("stopt.convert",),
    ("stopt.pipeline", "stopt.scale"),
    ("stopt.__main__", "stopt.cli"),
)
# the public classes convert a model that has no file for its engine, if the packages are there
UPWARD = {("stopt.runtime.loading", "stopt.convert"), ("stopt.runtime.loading", "stopt.convert.cache")}

HEAVY = {"nncf", "onnx", "onnxruntime", "openvino", "optimum", "torch", "transformers"}
# where they may be imported when the module is
AT_THE_TOP = {
    "stopt.runtime.sessions.onnx": {"onnxruntime"},
    "stopt.runtime.sessions.openvino": {"openvino"},
    "stopt.runtime.sessions.torch": {"torch", "transformers"},
}
# and where only inside of functions: when a caller asks for tensors, compares with the original, asks what is installed
WITHIN = {
    "stopt.cli.doctor": {"onnxruntime", "openvino", "torch"},
    "stopt.embeddings.similarity": {"torch"},
    "stopt.parity": {"transformers"},
    "stopt.runtime.accelerators": {"onnxruntime", "openvino", "torch"},
    "stopt.runtime.arrays": {"torch"},
    "stopt.runtime.encoding": {"torch"},
    "stopt.runtime.trial": {"onnxruntime", "openvino"},
}

LINES_OF_A_MODULE = 400
LINES_OF_A_FUNCTION = 80


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(node: ast.AST, *, deep: bool) -> Iterator[str]:
    """Names imported when a module is, or with ``deep`` also later; not those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not deep:
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imports(child, deep=deep)


def of_ours(name: str, *, deep: bool) -> set[str]:
    """Our modules that a module imports; the package itself is nobody's layer."""
    found = set()
    for imported in imports(tree_of(name), deep=deep):
        while imported not in MODULES and "." in imported:
            imported = imported.rpartition(".")[0]
        if imported in MODULES:
            found.add(imported)
    return found - {name, "stopt"}


def layer(name: str) -> int:
    for number, prefixes in enumerate(LAYERS):
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes):
            return number
    return pytest.fail(f"{name} is in no layer")


@pytest.mark.parametrize("name", [name for name in MODULES if name != "stopt"])
def test_imports_go_downward(name) -> None:
    upward = {other for other in of_ours(name, deep=True) if layer(other) > layer(name)}
    assert {(name, other) for other in upward} <= UPWARD


def test_modules_do_not_import_in_circles() -> None:
    waiting = {name: of_ours(name, deep=False) for name in MODULES}
    while ready := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in ready:
            del waiting[name]
    assert waiting == {}


@pytest.mark.parametrize("name", MODULES)
def test_heavy_packages_stay_where_they_belong(name) -> None:
    if name == "stopt.convert" or not name.startswith(("stopt.convert.", "stopt.heads.", "stopt.scale.")):
        top = {each.partition(".")[0] for each in imports(tree_of(name), deep=False)} & HEAVY
        everywhere = {each.partition(".")[0] for each in imports(tree_of(name), deep=True)} & HEAVY
        assert top <= AT_THE_TOP.get(name, set())
        assert everywhere <= AT_THE_TOP.get(name, set()) | WITHIN.get(name, set())


def test_the_hub_is_spoken_to_in_one_place() -> None:
    users = {
        name
        for name in MODULES
        if any(each.startswith("huggingface_hub") for each in imports(tree_of(name), deep=True))
    }
    assert users
    assert all(name.startswith("stopt.hub.") for name in users)


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_the_package_is_light() -> None:
    assert not loaded_by("import stopt") & {*HEAVY, "click", "huggingface_hub", "numpy", "tokenizers", "tqdm"}


def test_importing_the_model_class_needs_no_engine() -> None:
    assert not loaded_by("from stopt import SentenceTransformer") & {*HEAVY, "click", "huggingface_hub"}


# ---- public names ---------------------------------------------------------------------------------------------------


def test_public_names_are_those_that_can_be_loaded() -> None:
    places = stopt._PLACES
    assert sorted(stopt.__all__) == sorted([*places, "__version__"])
    assert dir(stopt) == sorted(stopt.__all__)
    for name, place in places.items():
        assert getattr(stopt, name) is getattr(importlib.import_module(place), name)


def test_type_checkers_see_the_same_names() -> None:
    block = next(node for node in tree_of("stopt").body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == dict(stopt._PLACES)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'SentenceTransformr'"):
        _ = stopt.SentenceTransformr


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_all_names_what_a_module_defines_for_others(name) -> None:
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public), public


# ---- size and style -------------------------------------------------------------------------------------------------


def definitions(name: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_stay_small(name) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= LINES_OF_A_MODULE
    for node in definitions(name):
        if not isinstance(node, ast.ClassDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LINES_OF_A_FUNCTION, node.name


@pytest.mark.parametrize("name", MODULES)
def test_signatures_say_what_they_take(name) -> None:
    passed_on = {"wrapped", "_show_warning"}  # these stand in for functions of any signature
    for node in definitions(name):
        if not isinstance(node, ast.ClassDef) and node.name not in passed_on:
            assert node.args.kwarg is None, f"{node.name} takes **{node.args.kwarg and node.args.kwarg.arg}"


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_is_documented(name) -> None:
    tree = tree_of(name)
    assert ast.get_docstring(tree) or name == "stopt.__main__"
    bodies = [
        tree.body,
        *(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"),
    ]
    for node in (node for body in bodies for node in body):
        setter = any(ast.unparse(each).endswith(".setter") for each in getattr(node, "decorator_list", ()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not setter:
            assert ast.get_docstring(node), node.name


def test_names_say_what_is_inside() -> None:
    vague = {"base", "common", "core", "helper", "helpers", "misc", "tools", "util", "utils"}
    assert not {name for name in MODULES if name.rpartition(".")[2] in vague}


# ---- the README -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", cli.commands)
def test_every_command_is_in_the_readme(command) -> None:
    assert re.search(rf"^\| `stopt {command}\b", README, re.MULTILINE)


def test_every_error_is_in_the_tree_of_errors() -> None:
    for name in errors.__all__:
        if name not in ("StoptWarning", "suggest"):
            assert re.search(rf"\b{name} ", errors.__doc__ or ""), name


def test_exit_codes_of_the_readme_are_those_of_the_errors() -> None:
    codes = {
        getattr(errors, name).exit_code
        for name in errors.__all__
        if name.endswith(("Error", "Model", "Extra"))
    }
    sentence = re.search(r"Exit codes: (.*?)\.\n", README, re.DOTALL)
    assert sentence is not None
    assert {0, 2, 130} | codes == {int(code) for code in re.findall(r"\b(\d+) ", sentence.group(1))}
