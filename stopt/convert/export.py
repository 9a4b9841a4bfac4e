"""``export``: a model folder gains a plain ONNX or OpenVINO file, proved against torch before it appears."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from stopt.artifact import default_file
from stopt.convert.exporters import export_graph
from stopt.convert.produce import Produced, Product, Say, Workshop, produce
from stopt.runtime.sessions.torch import TorchSession
from stopt.spec import Backend
from stopt.steps import ExportOptions

__all__ = ["export", "export_products"]


def export(model: str | Path, options: ExportOptions, say: Say = lambda _: None) -> list[Produced]:
    """Export a model to each of the backends; see :func:`~stopt.convert.produce.produce`."""
    return produce(model, options, export_products(options), say)


def export_products(options: ExportOptions) -> list[Product]:
    """Return what an export makes: one float32 file per backend."""
    return [
        Product(
            default_file(backend), backend, "float32", {"step": "export"}, partial(_make, backend=backend)
        )
        for backend in options.backends
    ]


def _make(workshop: Workshop, file: Path, backend: Backend) -> Mapping[str, Any]:
    session = workshop.pipeline.session
    assert isinstance(session, TorchSession)
    export_graph(session.model, backend, file, token_types=workshop.pipeline.spec.tokenizer.token_types)
    return {}
