"""``stopt index``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stopt.cli import options
from stopt.cli.kinds import require_dense
from stopt.cli.output import Format, Output, fields, human_size, interactive

if TYPE_CHECKING:
    from stopt.embeddings.index import SearchIndex

__all__ = ["index"]


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--model", default=".", show_default="the current folder", help="Model folder or Hub id.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write.  [default: FILE's name with .index]",
)
@click.option("--column", metavar="NAME", help="Member of JSONL objects that has the text.  [default: text]")
@options.serving_backend
@options.file_name
@click.option("--device", help="cpu, cuda, cuda:1 …")
@options.batch_size
@click.option(
    "--precision",
    type=click.Choice(["float32", "int8", "uint8", "binary", "ubinary"]),
    default="float32",
    show_default=True,
    help="How embeddings are stored.",
)
@click.option("--truncate-dim", type=click.IntRange(min=1), help="Leading dimensions to keep.")
@click.option(
    "--engine",
    type=click.Choice(["exact", "faiss", "usearch"]),
    default="exact",
    show_default=True,
    help="Who searches; exact is numpy.",
)
@click.option(
    "--approximate", is_flag=True, help="Search by a graph (faiss, usearch): faster, and misses some."
)
@click.option(
    "--rescore-by",
    type=click.Choice(["codes", "int8", "float32", "none"]),
    help="What candidates are ordered by; int8 and float32 stay on disk.  [default: codes for int8, int8 for binary]",
)
@click.option(
    "--rescore-multiplier",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Candidates for each result.",
)
@options.force
@options.output_options
def index(
    file: Path,
    model: str,
    output: Path | None,
    column: str | None,
    backend: str | None,
    file_name: str | None,
    device: str | None,
    batch_size: int | None,
    precision: str,
    truncate_dim: int | None,
    engine: str,
    approximate: bool,
    rescore_by: str | None,
    rescore_multiplier: int,
    force: bool,
    out: Output,
) -> None:
    """Build a search index of the texts in FILE.

    FILE has one text per line, or is JSONL; empty lines are left out. Search it with: stopt search

    \b
    Example:
      stopt index corpus.txt --model ./my-model
      stopt index corpus.jsonl --model ./my-model --precision binary --engine faiss -o corpus.index
    """
    from stopt.artifact import require_folder_of
    from stopt.embeddings.index import IndexOptions, index_texts
    from stopt.embeddings.index_files import require_free, save_index
    from stopt.folder import read_texts
    from stopt.overlap import require_apart, require_not_of_model
    from stopt.runtime.sentence_transformer import SentenceTransformer

    chosen = IndexOptions(precision, engine, approximate, rescore_by, rescore_multiplier)
    target = output or Path(file.name).with_suffix(".index")
    require_folder_of(target)
    require_apart(target, [file])
    require_not_of_model(target, model)
    require_free(target, force=force)
    require_dense(model, "stopt index")
    read = read_texts(file, column or "text", jsonl=True if column else None)
    texts = {line: text for line, text in enumerate(read, start=1) if text.strip()}
    loaded = SentenceTransformer(
        model, backend=backend, device=device, model_kwargs={"file_name": file_name} if file_name else None
    )
    out.step(f"{loaded.file} on {loaded.device}: encoding {len(texts):,} texts")
    started = time.perf_counter()
    made = index_texts(
        loaded,
        list(texts.values()),
        chosen,
        name=str(Path(model).resolve()) if Path(model).exists() else model,
        lines=list(texts),
        truncate_dim=truncate_dim,
        batch_size=batch_size,
        show_progress_bar=interactive() and out.format is Format.HUMAN,
    )
    seconds = time.perf_counter() - started
    save_index(made, target, force=force)
    _show(made, target, seconds, loaded.file, out)


def _show(made: SearchIndex, target: Path, seconds: float, model_file: Path, out: Output) -> None:
    """Print what was built and what to do with it."""
    chosen = made.options
    size = sum(path.stat().st_size for path in target.iterdir())
    data = {
        "index": target,
        "documents": len(made),
        "dimension": made.dimension,
        "precision": chosen.precision,
        "bytes_per_vector": made.bytes_per_vector,
        "engine": chosen.engine,
        "approximate": chosen.approximate,
        "rescore_by": chosen.rescore_by,
        "size_bytes": size,
        "seconds": round(seconds, 3),
        "model_file": model_file,
    }
    rescored = "not rescored" if chosen.rescore_by == "none" else f"rescored by {chosen.rescore_by}"
    engine = "numpy" if chosen.engine == "exact" else chosen.engine
    shown = {
        "index": str(target),
        "documents": f"{len(made):,} of {made.dimension} dimensions",
        "precision": f"{chosen.precision}, {made.bytes_per_vector} bytes per document searched, {rescored}",
        "engine": f"{engine}, {'approximate' if chosen.approximate else 'exact'}",
        "on disk": human_size(size),
        "time": f"{seconds:.1f} s",
    }
    out.result(fields(shown), data, str(target))
    out.hint(f'Search it with: stopt search {target} "a query"')
