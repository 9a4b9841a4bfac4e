"""``export``: a model folder gains a plain ONNX or OpenVINO file, proved against torch before it appears."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stopt.artifact import default_file
from stopt.convert.exporters import export_graph
from stopt.convert.fused import write_fused
from stopt.convert.produce import Produced, Product, Say, Workshop, derived_name, produce
from stopt.errors import UnsupportedModel
from stopt.recipe import describe_step
from stopt.runtime.sessions.torch import TorchSession
from stopt.spec import Backend, StaticEmbedding
from stopt.steps import ExportOptions

__all__ = ["export", "export_products"]


def export(model: str | Path, options: ExportOptions, say: Say = lambda _: None) -> list[Produced]:
    """Export a model to each of the backends; see :func:`~stopt.convert.produce.produce`."""
    return produce(model, options, export_products(options), say)


def export_products(options: ExportOptions) -> list[Product]:
    """Return what an export makes: one float32 file per backend, and one with the modules inside if that is asked for."""
    made = []
    for backend in options.backends:
        plain = default_file(backend)
        step = describe_step(replace(options, backends=(backend,), fused=False, with_tokenizer=False))
        make: Callable[..., Mapping[str, Any]] = partial(_make, backend=backend)
        made.append(Product(plain, backend, "float32", {"step": "export"}, make, step=step))
        if options.fused:
            noted: dict[str, Any] = {"step": "export", "fused": True, "source_file": plain}
            with_tokenizer = options.with_tokenizer and backend is Backend.OPENVINO
            if with_tokenizer:
                noted["with_tokenizer"] = True
            make = partial(_make_fused, backend=backend, with_tokenizer=with_tokenizer)
            step = describe_step(replace(options, backends=(backend,), with_tokenizer=with_tokenizer))
            made.append(
                Product(derived_name(plain, "fused"), backend, "float32", noted, make, (plain,), step)
            )
    return made


def _make_fused(
    workshop: Workshop, file: Path, backend: Backend, *, with_tokenizer: bool
) -> Mapping[str, Any]:
    spec = workshop.pipeline.spec
    if isinstance(spec.front, StaticEmbedding):
        raise UnsupportedModel(
            "--fused for a static embedding model",
            [f"{default_file(backend)} has all of its modules inside as it is"],
            "leave out --fused",
        )
    write_fused(workshop.pipeline.root, spec, backend, workshop.find(default_file(backend)), file)
    if with_tokenizer:
        from stopt.convert.with_tokenizer import write_with_tokenizer

        write_with_tokenizer(workshop.pipeline, file, file.with_stem(f"{file.stem}_with_tokenizer"))
    return {}


def _make(workshop: Workshop, file: Path, backend: Backend) -> Mapping[str, Any]:
    pipeline = workshop.pipeline
    if isinstance(pipeline.spec.front, StaticEmbedding):
        from stopt.convert.tables import export_table

        export_table(pipeline.root, pipeline.spec, backend, file)
        return {}
    transformer = pipeline.spec.transformer
    session = pipeline.session
    assert isinstance(session, TorchSession)
    token_types = pipeline.spec.tokenizer.token_types
    export_graph(session.model, backend, file, task=transformer.task, token_types=token_types)
    found = {"task": transformer.task.value}
    if backend is Backend.OPENVINO and b"exported_through" in file.read_bytes():
        found["exported_through"] = "onnx"
    return found
