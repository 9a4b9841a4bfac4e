"""Exported tiny models and the oracle, sentence-transformers on torch, each made once per session.

The transformer's graph does not depend on the modules after it, so an architecture is exported once and its files are
put beside every other choice of modules.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parity.comparing import Exported, Load
from sentence_transformers import SentenceTransformer as Oracle

from stopt.convert.export import ExportOptions, export
from stopt.spec import Backend


@pytest.fixture(scope="session")
def exported(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Factory of tiny models with both plain files: ``exported("bert", pooling="cls")``. Not to be changed."""
    made: dict[str, Path] = {}

    def transformer(architecture: str) -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(f"exported-{architecture}")
            # their own check is no part of these tests: two texts
            options = ExportOptions(
                (Backend.ONNX, Backend.OPENVINO), output=folder, texts=["one text", "and a longer one"]
            )
            export(tiny(architecture), options)
            made[architecture] = folder
        return made[architecture]

    def build(architecture: str, **options: Any) -> Path:
        plain = transformer(architecture)
        if not options:
            return plain
        key = repr((architecture, sorted(options.items())))
        if key not in made:
            source = tiny(architecture, **options)
            weights = "model.safetensors"
            assert (source / weights).read_bytes() == (plain / weights).read_bytes(), "another transformer"
            folder = shutil.copytree(source, tmp_path_factory.mktemp(architecture) / "model")
            for backend in (Backend.ONNX, Backend.OPENVINO):
                shutil.copytree(plain / backend.value, folder / backend.value)
            made[key] = folder
        return made[key]

    return build


@pytest.fixture(scope="session")
def oracle() -> Load:
    """sentence-transformers on torch, loaded once per folder."""
    loaded: dict[Path, Oracle] = {}

    def load(folder: Path) -> Oracle:
        if folder not in loaded:
            loaded[folder] = Oracle(str(folder), device="cpu")
        return loaded[folder]

    return load
