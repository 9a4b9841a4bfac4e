"""``stopt inspect``."""

from __future__ import annotations

from dataclasses import asdict

import click

from stopt.cli import options
from stopt.cli.output import Output, fields, human_size, table

__all__ = ["inspect"]


@click.command()
@options.working_model
@options.hub_options
@options.output_options
def inspect(model: str, revision: str | None, token: str | None, out: Output) -> None:
    """Show what MODEL is made of.

    Reads configuration only: no weights are loaded and no code is run, so it is safe on any folder.

    \b
    Example:
      stopt inspect ./my-model
    """
    from stopt import hub
    from stopt.artifact import Manifest, engine_files
    from stopt.reading import read_spec
    from stopt.spec import Backend

    source = hub.fetch(model, (), revision=revision, token=token)
    root = source.folder
    spec = read_spec(root)
    manifest = Manifest.read(root)
    tokenizer = spec.tokenizer
    described = {
        "model": f"{source.name}{f' at {source.revision}' if source.revision else ''}",
        "kind": spec.kind.value,
        "transformer": f"{spec.transformer.model_type}, {spec.transformer.hidden_size} values per token",
        "modules": " -> ".join(["Transformer", *map(str, map(_short, spec.modules))]),
        "dimension": str(spec.embedding_dimension)
        + (f", truncated to {spec.truncate_dim}" if spec.truncate_dim is not None else ""),
        "max tokens": str(tokenizer.max_seq_length or "no limit"),
        "padding": tokenizer.padding_side,
        "similarity": spec.similarity.value,
        "prompts": ", ".join(f"{name}={text!r}" for name, text in spec.prompts.items()) or "none",
        "default prompt": spec.default_prompt_name or "none",
    }
    rows, files = [], []
    for backend in (Backend.ONNX, Backend.OPENVINO):
        for name in engine_files(root, backend):
            record = manifest.files.get(name) if manifest else None
            paths = [root / part for part in record.parts] if record else [root / name]
            size = sum(path.stat().st_size for path in paths if path.is_file())
            cosine = record.parity.get("min_cosine") if record else None
            rows.append(
                [name, human_size(size), f"{cosine:.6f}" if cosine is not None else "not checked by stopt"]
            )
            files.append(
                {"file": name, "size_bytes": size, "parity": dict(record.parity) if record else None}
            )
    if rows:
        listing = table(rows, ["file", "size", "cosine to torch"])
    elif source.revision is not None:
        listing = f"no converted files fetched so far; the Hub may have some, else: stopt export {model}"
    else:
        listing = f"no converted files; make one: stopt export {model}"
    data = {"source": source.name, "revision": source.revision, "spec": asdict(spec), "files": files}
    out.result(f"{fields(described)}\n\n{listing}", data, spec.kind.value)


def _short(module: object) -> str:
    """A module in a few characters: ``Pooling(mean)``, ``Dense(384 -> 128, Tanh)``."""
    from stopt.spec import Dense, Pooling

    match module:
        case Pooling(modes=modes, include_prompt=include):
            return f"Pooling({' + '.join(modes)}{'' if include else ', without prompt'})"
        case Dense(in_features=width, out_features=out, activation=activation):
            return f"Dense({width} -> {out}, {activation})"
        case _:
            return type(module).__name__
