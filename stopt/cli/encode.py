"""``stopt encode``."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import click

from stopt.cli import options
from stopt.cli.output import Format, Output, interactive

__all__ = ["encode"]


@click.command()
@options.model
@click.argument("texts", default="-", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write: .npy, or .jsonl; JSONL on stdout by default.",
)
@click.option("--column", metavar="NAME", help="Member of JSONL objects that has the text.  [default: text]")
@click.option(
    "--jsonl",
    is_flag=True,
    help="Every line is a JSON object; --column and names in .jsonl or .ndjson say so too.",
)
@options.serving_backend
@options.file_name
@click.option("--device", help="cpu, cuda, cuda:1 …")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Texts run together."
)
@click.option("--prompt-name", help="Name of the prompt to put before each text.")
@click.option("--prompt", help="The prompt itself.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "int8", "uint8", "binary", "ubinary"]),
    default="float32",
    show_default=True,
    help="How embeddings are stored.",
)
@click.option("--truncate-dim", type=click.IntRange(min=1), help="Leading dimensions to keep.")
@click.option("--normalize-embeddings", is_flag=True, help="Scale embeddings to unit length.")
@options.force
@options.output_options
def encode(
    model: str,
    texts: Path,
    output: Path | None,
    column: str | None,
    jsonl: bool,
    backend: str | None,
    file_name: str | None,
    device: str | None,
    batch_size: int,
    prompt_name: str | None,
    prompt: str | None,
    precision: str,
    truncate_dim: int | None,
    normalize_embeddings: bool,
    force: bool,
    out: Output,
) -> None:
    """Turn TEXTS into embeddings with MODEL.

    TEXTS is a file with one text per line, or JSONL; standard input by default. Rows come in the order of lines.

    \b
    Example:
      stopt encode ./my-model corpus.txt -o corpus.npy
      echo "some text" | stopt encode ./my-model
      stopt encode ./my-model corpus.jsonl --column body --file-name onnx/model_O3.onnx -o corpus.jsonl
    """
    from stopt.artifact import require_folder_of
    from stopt.errors import ArtifactError, OptionError
    from stopt.runtime.sentence_transformer import SentenceTransformer

    if output is not None and output.suffix not in (".npy", ".jsonl"):
        raise OptionError(f"{output} is neither .npy nor .jsonl", "the name's ending chooses the format")
    if output is not None and output.exists() and not force:
        raise ArtifactError(f"{output} exists already", "replace it with --force")
    if output is not None:
        require_folder_of(output)
    if str(texts) == "-" and sys.stdin.isatty():
        out.hint("Reading texts from the terminal, one per line; Ctrl-D ends them.")
    lines = _read(texts, column or "text", jsonl or column is not None)
    loaded = SentenceTransformer(
        model, backend=backend, device=device, model_kwargs={"file_name": file_name} if file_name else None
    )
    out.step(f"{loaded.file} on {loaded.device} in {loaded.pipeline.session.precision}")
    # one text at least, so that an empty file gives the shape and dtype that any other gives
    embeddings = loaded.encode(
        lines or [""],
        prompt_name,
        prompt,
        batch_size,
        show_progress_bar=interactive() and out.format is Format.HUMAN,
        precision=precision,
        truncate_dim=truncate_dim,
        normalize_embeddings=normalize_embeddings,
    )[: len(lines)]
    data: dict[str, Any] = {
        "file": output,
        "shape": list(embeddings.shape),
        "dtype": str(embeddings.dtype),
        "model_file": loaded.file,
    }
    if output is None and out.format is Format.JSON:
        out.result("", {**data, "embeddings": embeddings.tolist()}, "")
        return
    if output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # JSONL is, whatever the locale
        _write_jsonl(sys.stdout, lines, embeddings)
        return
    _save(output, lines, embeddings)
    shape = " x ".join(map(str, embeddings.shape))
    out.result(f"{output}  {shape} {embeddings.dtype}", data, str(output))


def _read(texts: Path, column: str, jsonl: bool) -> list[str]:
    from stopt.errors import SourceError
    from stopt.folder import parse_texts, read_texts

    if str(texts) != "-":
        return read_texts(texts, column, jsonl=jsonl or None)
    try:
        lines = io.StringIO(sys.stdin.buffer.read().decode("utf-8-sig"), newline="\n")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"stdin is not UTF-8 text: {error.reason} at byte {error.start}", "convert it: iconv -t utf-8"
        ) from error
    return list(parse_texts(lines, jsonl=jsonl, column=column, name="stdin"))


def _save(output: Path, lines: list[str], embeddings: Any) -> None:
    """Write the result in one step: the file is complete or not there."""
    import numpy as np

    from stopt.artifact import replacing

    with replacing(output) as temporary:
        if output.suffix == ".npy":
            with temporary.open("wb") as binary:
                np.save(binary, embeddings)
        else:
            with temporary.open("w", encoding="utf-8") as file:
                _write_jsonl(file, lines, embeddings)


def _write_jsonl(file: Any, lines: list[str], embeddings: Any) -> None:
    for line, row in zip(lines, embeddings, strict=True):
        json.dump({"text": line, "embedding": row.tolist()}, file, ensure_ascii=False)
        file.write("\n")
