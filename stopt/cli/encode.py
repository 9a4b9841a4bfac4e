"""``stopt encode``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stopt.cli import options
from stopt.cli.output import Output

__all__ = ["encode"]

_model_options = options.collect(
    "model_options",
    "backend",
    "file_name",
    "device",
    "dtype",
    "threads",
    "batch_size",
    "max_batch_tokens",
    "prompt_name",
    "prompt",
    "role",
    "precision",
    "truncate_dim",
    "normalize_embeddings",
    "max_active_dims",
)
_job_options = options.collect(
    "job_options",
    "column",
    "id_column",
    "jsonl",
    "shard_size",
    "on_error",
    "workers",
    "ray_address",
    "resume",
    "force",
)


@click.command()
@options.model
@click.argument("texts", nargs=-1, metavar="[TEXTS]...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A file: .parquet, .jsonl, .npy (.npz of a sparse encoder); or a folder, for shards. JSONL on stdout by default.",
)
@click.option(
    "--output-format",
    type=click.Choice(["parquet", "jsonl", "npy", "npz"]),
    help="What a folder's shards are.  [default: parquet]",
)
@click.option(
    "--column",
    metavar="NAME",
    default="",
    help="Column or member that has the text, or two with a comma for pairs.  [default: text]",
)
@click.option(
    "--id-column",
    metavar="NAME",
    help="Column or member that has the row's id; rows are numbered by default.",
)
@click.option(
    "--jsonl",
    is_flag=True,
    help="Every line is a JSON object; --column and names in .jsonl or .ndjson say so too.",
)
@options.serving_backend
@options.file_name
@click.option("--device", help="cpu, cuda, cuda:1 …")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that encode, which share the threads; for each device, if --device names several with commas. In Ray, "
    "actors in all.  [default: 1; in Ray as many as there is room for]",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Who does it: this machine, or a Ray cluster that sees the same files.",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="Where the cluster is; by default one of this machine is started.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16", "auto"]),
    help="Precision of the arithmetic, of OpenVINO and torch; float32 by default.",
)
@options.threads
@options.batch_size
@options.max_batch_tokens
@click.option("--prompt-name", help="Name of the prompt to put before each text.")
@click.option("--prompt", help="The prompt itself.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "int8", "uint8", "binary", "ubinary"]),
    default="float32",
    show_default=True,
    help="How embeddings are stored.",
)
@click.option(
    "--ranges",
    "ranges_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Ranges for int8 and uint8, from stopt calibrate -o; by default those in the model folder.",
)
@click.option(
    "--ranges-from-call",
    is_flag=True,
    help="Take ranges from these texts, however few, as sentence-transformers does; they are held in memory.",
)
@click.option("--truncate-dim", type=click.IntRange(min=1), help="Leading dimensions to keep.")
@click.option("--normalize-embeddings", is_flag=True, help="Scale embeddings to unit length.")
@click.option(
    "--max-active-dims", type=click.IntRange(min=1), help="Of a sparse encoder: values to keep of each text."
)
@click.option(
    "--role",
    type=click.Choice(["query", "document"]),
    help="Encode as queries or as documents: with their prompt, through their route of a Router.",
)
@click.option(
    "--shard-size", type=click.IntRange(min=1), default=16_384, show_default=True, help="Rows of a shard."
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "reject"]),
    default="stop",
    show_default=True,
    help="What becomes of a row that cannot be encoded: it ends the job, or goes to a file with the reason.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with what an interrupted job left; what is complete stays."
)
@options.force
@options.output_options
@_model_options
@_job_options
def encode(
    model: str,
    texts: tuple[str, ...],
    output: Path | None,
    output_format: str | None,
    engine: str,
    ranges_file: Path | None,
    ranges_from_call: bool,
    model_options: dict[str, Any],
    job_options: dict[str, Any],
    out: Output,
) -> None:
    """Turn TEXTS into embeddings with MODEL, or pairs into scores.

    TEXTS are files, folders or patterns such as 'data/*.jsonl': one text per line, JSONL, CSV, TSV or Parquet, the first
    four also as .gz; standard input by default. Rows come in the order of lines. A sparse encoder gives of each text the
    indices, values and tokens that are not zero, or an .npz file for SciPy. A cross-encoder reads pairs, with a tab between
    the texts or in two columns, and gives a score for each.

    A corpus of any size takes the same memory. Results are written in shards, each of which appears when it is complete:
    what is interrupted goes on with --resume, and ends with the same bytes. What --force replaces stays until all is complete.

    \b
    Example:
      stopt encode ./my-model corpus.txt -o corpus.npy
      echo "some text" | stopt encode ./my-model
      stopt encode ./my-model corpus.jsonl --column body --file-name onnx/model_O3.onnx -o corpus.jsonl
      stopt encode ./my-model 'parts/*.parquet' --column body --id-column doc_id --resume -o embeddings/
      stopt encode ./my-reranker pairs.jsonl --column query,document
    """
    from stopt.cli.encoding import chosen_ranges, print_rows, write_corpus
    from stopt.scale import EncodeJob, Engine, Format, ModelOptions, OnError

    ranges = chosen_ranges(ranges_file, output, from_call=ranges_from_call)
    format_ = None if output_format is None else Format(output_format)
    job_options |= {"on_error": OnError(job_options["on_error"]), "engine": Engine(engine)}
    chosen = ModelOptions(model, ranges=ranges, **model_options)
    job = EncodeJob(chosen, texts or ("-",), output, format_, **job_options)
    if output is None:
        print_rows(job, out)
    else:
        write_corpus(job, out)
