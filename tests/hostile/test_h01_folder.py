"""H1 to H5: pickles, modules, activation functions, configuration keys and paths of a folder."""

import itertools
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from victim import CONFIG, MODULES, POOLING, SECRET, build, weights, write_json
from watched import Report, watch

Change = Callable[[Path], None]


class _Canary:
    """Pickles into a call that leaves a file."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.file,)


def _pickle(folder: Path) -> bytes:
    return pickle.dumps(_Canary(folder.parent / f"canary-{folder.name}"))


# ---- H1: pickles ----------------------------------------------------------------------------------------------------


def _only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(_pickle(folder))


def _a_pickle_by_another_name(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(_pickle(folder))


def _an_archive_by_another_name(folder: Path) -> None:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("archive/data.pkl", _pickle(folder))
    (folder / "model.safetensors").write_bytes(archive.getvalue())


def _a_pickle_of_a_module(folder: Path) -> None:
    write_json(
        folder / "modules.json", [*MODULES, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
    )
    write_json(folder / "2_Dense" / "config.json", {"in_features": 4, "out_features": 2, "bias": False})
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(_pickle(folder))


def _pickles_in_pieces(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model-00001-of-00001.bin").write_bytes(_pickle(folder))
    write_json(
        folder / "pytorch_model.bin.index.json", {"weight_map": {"w": "pytorch_model-00001-of-00001.bin"}}
    )


PICKLES: dict[str, Change] = {
    "only a pickle": _only_a_pickle,
    "a pickle called safetensors": _a_pickle_by_another_name,
    "a zip called safetensors": _an_archive_by_another_name,
    "a module's pickle": _a_pickle_of_a_module,
    "pickles in pieces": _pickles_in_pieces,
}
EVERY_FORMAT = ("model.pkl", "model.pt", "model.pt2", "model.h5", "model.keras", "model.npy", "model.joblib")

# ---- H2, H3: names of classes ---------------------------------------------------------------------------------------

TYPES = [
    "os.path.join",
    "antigravity",
    "modeling_evil.Evil",
    "sentence_transformers.base.sampler.pickle",
    "sentence_transformers.evil",
    "sentence_transformers.models.Transformer.torch",
    "sentence_transformers_evil.Pooling",
    "",
    7,
    None,
    ["sentence_transformers.models.Pooling"],
    "x" * 1_000_000,
]
ACTIVATIONS = [
    "torch.utils.collect_env.main",
    "torch.nn.Identity.__init__",
    "torch.nn.modules.module.torch.utils.collect_env.main",
    "torch.hub.load",
    "os.abort",
    "Tanh",
    5,
]


def _module(kind: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / "modeling_evil.py").write_text("import os; os.mkdir('/tmp/stopt-evil')")
        write_json(folder / "modules.json", [MODULES[0], {**MODULES[1], "type": kind}])

    return change


def _activation(name: Any) -> Change:
    def change(folder: Path) -> None:
        _a_pickle_of_a_module(folder)
        config = {"in_features": 4, "out_features": 2, "bias": False, "activation_function": name}
        write_json(folder / "2_Dense" / "config.json", config)

    return change


def _score_activation(name: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / "modules.json").unlink()
        own = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a"}}
        write_json(
            folder / "config.json", {**CONFIG, **own, "sentence_transformers": {"activation_fn": name}}
        )

    return change


# ---- H4: keys -------------------------------------------------------------------------------------------------------

KEYS: dict[str, Any] = {
    "auto_map": {"AutoModel": "modeling_evil.Evil"},
    "trust_remote_code": True,
    "_attn_implementation_internal": "attacker/kernel",
    "_attn_implementation": "attacker/kernel:run",
    "attn_implementation": {"text_config": "attacker/kernel"},
    "custom_pipelines": {"evil": {"impl": "evil.Pipeline"}},
    "configuration_files": ["config.4.0.0.json"],
    "transformers_weights": "../outside.safetensors",
}
HARMLESS_KEYS: dict[str, Any] = {"_name_or_path": "attacker/x", "chat_template": "{{ ''.__class__.__mro__ }}"}


def _key(key: str, depth: int, file: str = "config.json") -> Change:
    def change(folder: Path) -> None:
        value: Any = {key: KEYS[key]}
        for level in range(depth):
            value = {"text_config": value} if level % 2 else {"backbone": [value]}
        content = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
        write_json(folder / file, {**content, **value})
        (folder / "modeling_evil.py").write_text("raise SystemExit(66)")

    return change


# ---- H5: paths ------------------------------------------------------------------------------------------------------

PATHS = [
    "../outside",
    "a/../../outside",
    "{outside}",
    "C:\\outside",
    "\\\\host\\outside",
    "linked",
    "linked/.",
    "x\0",
]


def _outside(folder: Path) -> Path:
    outside = folder.parent / f"outside-{folder.name}"
    if not outside.is_dir():
        outside.mkdir()
        write_json(outside / "config.json", POOLING)
        write_json(outside / "tokenizer.json", SECRET.decode())
        for name in ("model.safetensors", "model.onnx", "tokenizer_config.json"):
            (outside / name).write_bytes(SECRET)
        (folder / "linked").symlink_to(outside)
    return outside


def _module_path(path: str) -> Change:
    def change(folder: Path) -> None:
        named = path.format(outside=_outside(folder))
        write_json(folder / "modules.json", [MODULES[0], {**MODULES[1], "path": named}])

    return change


def _shards(path: str) -> Change:
    def change(folder: Path) -> None:
        named = path.format(outside=_outside(folder)) + "/model.safetensors"
        (folder / "model.safetensors").unlink()
        names = dict.fromkeys(weights(), named)
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": names})

    return change


def _link(name: str) -> Change:
    def change(folder: Path) -> None:
        outside = _outside(folder)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside / Path(name).name)

    return change


LINKS = ["config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx", "model.safetensors"]

# ---- all of them ----------------------------------------------------------------------------------------------------

CASES: dict[tuple[str, str], tuple[str, Change]] = {
    **{("pickle", name): ("torch", change) for name, change in PICKLES.items()},
    **{("type", f"{kind!r:.60}"): ("onnx", _module(kind)) for kind in TYPES},
    **{("activation", str(name)): ("onnx", _activation(name)) for name in ACTIVATIONS},
    **{("score", str(name)): ("cross_encoder", _score_activation(name)) for name in ACTIVATIONS},
    **{
        ("key", f"{key} {depth}"): ("torch", _key(key, depth))
        for key, depth in itertools.product(KEYS, range(5))
    },
    **{
        ("other key", f"{key} in {file}"): ("onnx", _key(key, 1, file))
        for key in ("auto_map", "custom_pipelines", "_attn_implementation_internal")
        for file in ("tokenizer_config.json", "config_sentence_transformers.json", "1_Pooling/config.json")
    },
    **{("module path", path): ("onnx", _module_path(path)) for path in PATHS},
    **{("shard", path): ("torch", _shards(path)) for path in PATHS},
    **{("link", name): ("torch" if "safe" in name else "onnx", _link(name)) for name in LINKS},
}


@pytest.fixture(scope="module")
def reports(
    harmless: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], tuple[Path, Report]]:
    """Every case's folder, and how opening it went; one process with torch, one without."""
    root = tmp_path_factory.mktemp("folders")
    folders = {}
    for number, (case, (_, change)) in enumerate(CASES.items()):
        folders[case] = shutil.copytree(harmless, root / f"m{number}")
        change(folders[case])
    found: dict[tuple[str, str], tuple[Path, Report]] = {}
    for actions in (("torch",), ("onnx",), ("cross_encoder",)):
        cases = [case for case, (action, _) in CASES.items() if action in actions]
        warm = harmless if actions != ("cross_encoder",) else None
        made = watch([(CASES[case][0], str(folders[case])) for case in cases], warm)
        found.update({case: (folders[case], report) for case, report in zip(cases, made, strict=True)})
    return found


def of(kind: str) -> list[str]:
    return [name for each, name in CASES if each == kind]


@pytest.fixture
def safe() -> Callable[..., None]:
    """Check that nothing came of opening a folder: an error in words, and no code, file, process or connection."""

    def check(case: tuple[Path, Report], *errors: str) -> None:
        folder, report = case
        assert report.error in errors, report
        assert report.code in (1, 4), report
        assert report.hint, report
        assert str(folder) in report.message, report
        assert len(report.message) < 1500
        assert report.seconds < 1
        assert not (folder.parent / f"canary-{folder.name}").exists()
        assert SECRET.decode() not in report.message
        assert not report.of(
            "os.exec", "os.posix_spawn", "os.system", "socket.connect", "subprocess.Popen"
        ), report
        imported = {name.partition(".")[0] for name in report.of("import")}
        assert not imported & {"antigravity", "modeling_evil", "sentence_transformers", "evil"}, report
        opened = report.opened()
        assert not {path for path in opened if "outside" in path}, report
        assert not {path for path in opened if path.endswith((".bin", "modeling_evil.py"))}, report

    return check


@pytest.mark.scorecard("H1")
@pytest.mark.parametrize("name", of("pickle"))
def test_a_pickle_is_never_opened(reports, safe, name) -> None:
    safe(reports["pickle", name], "CorruptModel" if "called" in name else "UnsupportedModel")


@pytest.mark.scorecard("H1")
def test_pickles_beside_a_model_are_ignored(tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    for name in EVERY_FORMAT:
        (folder / name).write_bytes(_pickle(folder))
    reports = watch([("onnx", str(folder)), ("openvino", str(folder)), ("inspect", str(folder))])
    assert [report.error for report in reports] == [None, None, None]
    assert not {path for report in reports for path in report.opened() if path.endswith(EVERY_FORMAT)}
    shown = json.loads(reports[2].value["stdout"])["result"]["preflight"]
    assert shown["ignored"] == sorted(EVERY_FORMAT)
    assert not (tmp_path / "canary-model").exists()


@pytest.mark.scorecard("H2")
@pytest.mark.parametrize("name", of("type"))
def test_a_class_that_is_not_a_module_is_not_imported(reports, safe, name) -> None:
    errors = ("UntrustedModel", "UnsupportedModel") if name[:1] in "'\"" else ("CorruptModel",)
    safe(reports["type", name], *errors)
    assert not reports["type", name][1].of("import"), reports["type", name][1]


@pytest.mark.scorecard("H3")
@pytest.mark.parametrize("kind", ["activation", "score"])
@pytest.mark.parametrize("name", of("activation"))
def test_an_activation_function_is_not_called(reports, safe, kind, name) -> None:
    safe(reports[kind, name], "UntrustedModel", "UnsupportedModel")


@pytest.mark.scorecard("H4")
@pytest.mark.parametrize("name", of("key"))
def test_keys_that_ask_for_code_are_refused_at_any_depth(reports, safe, name) -> None:
    safe(reports["key", name], "UntrustedModel")
    assert "never runs code from a model" in reports["key", name][1].hint


@pytest.mark.scorecard("H4")
@pytest.mark.parametrize("name", of("other key"))
def test_keys_that_ask_for_code_are_refused_in_any_file(reports, safe, name) -> None:
    safe(reports["other key", name], "UntrustedModel")


@pytest.fixture(scope="module")
def with_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with converted files, whose configurations name classes of its own; their code leaves a canary."""
    folder = build(tmp_path_factory.mktemp("code") / "model")
    canary = folder.parent / "canary"
    for name in ("modeling_evil.py", "tokenization_evil.py"):
        (folder / name).write_text(f"import os; os.mkdir({str(canary)!r}); raise SystemExit(66)")
    for file, classes in (
        ("config.json", {"AutoConfig": "modeling_evil.EvilConfig", "AutoModel": "modeling_evil.Evil"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_evil.Evil", None]}),
    ):
        content = json.loads((folder / file).read_text())
        write_json(folder / file, {**content, "auto_map": classes})
    return folder


def _no_code_ran(folder: Path, report: Report) -> None:
    assert not (folder.parent / "canary").exists()
    assert not {path for path in report.opened() if path.endswith("_evil.py")}, report
    assert not report.of("os.exec", "os.posix_spawn", "os.system", "socket.connect", "subprocess.Popen")
    assert not {name for name in report.of("import") if "evil" in name or "transformers_modules" in name}


@pytest.mark.scorecard("H4")
def test_converted_files_are_served_without_the_code_beside_them(harmless: Path, with_code: Path) -> None:
    actions = ("onnx", "openvino", "any", "inspect")
    reports = watch([(action, str(with_code)) for action in actions])
    plain = watch([("onnx", str(harmless))])[0]
    for report in reports:
        assert report.error is None, report
        _no_code_ran(with_code, report)
    assert reports[0].value == plain.value
    shown = json.loads(reports[3].value["stdout"])["result"]["preflight"]
    assert shown["code_ignored"] == ["config.json", "tokenizer_config.json"]
    assert shown["ignored"] == ["modeling_evil.py", "tokenization_evil.py"]


@pytest.mark.scorecard("H4")
@pytest.mark.parametrize("named_in", [("config.json",), ("tokenizer_config.json",)])
def test_what_needs_the_original_model_refuses_its_code(
    with_code: Path, tmp_path: Path, harmless: Path, named_in: tuple[str, ...]
) -> None:
    folder = shutil.copytree(with_code, tmp_path / "model")
    for file in {"config.json", "tokenizer_config.json"}.difference(named_in):
        shutil.copyfile(harmless / file, folder / file)
    converted = shutil.copytree(folder, tmp_path / "unconverted")
    shutil.rmtree(converted / "onnx")
    # the first serves the original weights, the second would convert them
    for place, report in zip(
        (folder, converted), watch([("torch", str(folder)), ("onnx", str(converted))], harmless), strict=True
    ):
        assert (report.error, report.code) == ("UntrustedModel", 4), report
        assert f"{place / named_in[0]} names code of its own (auto_map)" in report.message
        assert "--trust-remote-code" in report.hint
        _no_code_ran(with_code, report)


@pytest.mark.scorecard("H4")
def test_keys_that_name_what_is_not_needed_are_ignored(tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    for file in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / file).read_text())
        write_json(folder / file, {**content, **HARMLESS_KEYS, "trust_remote_code": False})
    report = watch([("onnx", str(folder))])[0]
    assert report.error is None, report
    assert not report.of("socket.connect", "subprocess.Popen")
    assert "jinja2" not in report.of("import")


@pytest.mark.scorecard("H5")
@pytest.mark.parametrize("kind", ["module path", "shard"])
@pytest.mark.parametrize("name", of("module path"))
def test_a_path_out_of_the_folder_is_not_followed(reports, safe, kind, name) -> None:
    safe(reports[kind, name], "UntrustedModel")


@pytest.mark.scorecard("H5")
@pytest.mark.parametrize("name", of("link"))
def test_a_link_out_of_the_folder_is_not_followed(reports, safe, name) -> None:
    safe(reports["link", name], "UntrustedModel")
