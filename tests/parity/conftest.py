"""The oracle: sentence-transformers on torch."""

from pathlib import Path

import pytest
from parity.comparing import Load
from sentence_transformers import SentenceTransformer as Oracle


@pytest.fixture(scope="session")
def oracle() -> Load:
    """sentence-transformers on torch, loaded once per folder."""
    loaded: dict[Path, Oracle] = {}

    def load(folder: Path) -> Oracle:
        if folder not in loaded:
            loaded[folder] = Oracle(str(folder), device="cpu")
        return loaded[folder]

    return load
