"""``stopt encode``."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stopt.cli import options
from stopt.cli.output import Format, Output, interactive

if TYPE_CHECKING:
    from stopt.cli.encoding import Request
    from stopt.spec import ModelKind

__all__ = ["encode"]


@click.command()
@options.model
@click.argument("texts", default="-", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write: .jsonl, or .npy (.npz of a sparse encoder); JSONL on stdout by default.",
)
@click.option(
    "--column",
    metavar="NAME",
    help="Member of JSONL objects that has the text, or two with a comma for pairs.  [default: text]",
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
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16", "auto"]),
    help="Precision of the arithmetic, of OpenVINO and torch; float32 by default.",
)
@options.threads
@options.batching
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
    help="Take ranges from these texts, however few, as sentence-transformers does.",
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
    dtype: str | None,
    threads: int | None,
    batching: Mapping[str, int | None],
    prompt_name: str | None,
    prompt: str | None,
    precision: str,
    ranges_file: Path | None,
    ranges_from_call: bool,
    truncate_dim: int | None,
    normalize_embeddings: bool,
    max_active_dims: int | None,
    role: str | None,
    force: bool,
    out: Output,
) -> None:
    """Turn TEXTS into embeddings with MODEL, or pairs into scores.

    TEXTS is a file with one text per line, or JSONL; standard input by default. Rows come in the order of lines. A sparse
    encoder gives of each text the indices, values and tokens that are not zero, or an .npz file for SciPy. A cross-encoder
    reads pairs, with a tab between the texts or JSONL with two in every line, and gives a score for each.

    \b
    Example:
      stopt encode ./my-model corpus.txt -o corpus.npy
      echo "some text" | stopt encode ./my-model
      stopt encode ./my-model corpus.jsonl --column body --file-name onnx/model_O3.onnx -o corpus.jsonl
      stopt encode ./my-reranker pairs.jsonl --column query,document
    """
    from stopt.cli.encoding import Request, encode_other, refuse
    from stopt.embeddings.call import OWN
    from stopt.spec import ModelKind

    kind = _kind(model)
    if output is not None:
        _check_output(output, force, kind)
    ranges = _ranges(ranges_file, ranges_from_call)
    if str(texts) == "-" and sys.stdin.isatty():
        out.hint("Reading texts from the terminal, one per line; Ctrl-D ends them.")
    lines = _read(texts, column or "text", jsonl or column is not None, pairs=kind is ModelKind.CROSS_ENCODER)
    asked = {"file_name": file_name, "dtype": dtype}
    engine: dict[str, Any] = {"backend": backend, "device": device, "threads": threads}
    engine["model_kwargs"] = {key: value for key, value in asked.items() if value is not None}
    call: dict[str, Any] = {"prompt_name": prompt_name, "prompt": prompt, **batching}
    refuse(
        kind,
        truncate_dim=truncate_dim,
        normalize_embeddings=normalize_embeddings,
        ranges=ranges,
        precision=precision if precision != "float32" else None,
        max_active_dims=max_active_dims,
        role=role,
    )
    if kind is not ModelKind.DENSE:
        call |= {"max_active_dims": max_active_dims} if kind is ModelKind.SPARSE else {}
        encode_other(kind, Request(model, lines, output, engine, call, role), out)
        return
    stored: dict[str, Any] = {"truncate_dim": truncate_dim, "normalize_embeddings": normalize_embeddings}
    stored |= {"precision": precision, "ranges": ranges if lines else OWN}
    _encode_dense(Request(model, lines, output, engine, call, role), stored, out)


def _encode_dense(request: Request, stored: Mapping[str, Any], out: Output) -> None:
    """Encode with a dense model, and write or print the embeddings; ``stored`` is how they are kept."""
    from stopt.runtime.sentence_transformer import SentenceTransformer

    loaded = SentenceTransformer(request.model, **request.engine)
    out.step(f"{loaded.file} on {loaded.device} in {loaded.pipeline.session.precision}")
    by_role = {"query": loaded.encode_query, "document": loaded.encode_document}
    run = by_role.get(request.role or "", loaded.encode)
    # one text at least, so that an empty file gives the shape and dtype that any other gives
    embeddings = run(
        request.lines or [""],
        **request.call,
        **stored,
        show_progress_bar=interactive() and out.format is Format.HUMAN,
    )[: len(request.lines)]
    data: dict[str, Any] = {
        "file": request.output,
        "shape": list(embeddings.shape),
        "dtype": str(embeddings.dtype),
        "model_file": loaded.file,
    }
    if request.output is None and out.format is Format.JSON:
        out.result("", {**data, "embeddings": embeddings.tolist()}, "")
        return
    if request.output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # JSONL is, whatever the locale
        _write_jsonl(sys.stdout, request.lines, embeddings)
        return
    _save(request.output, request.lines, embeddings)
    shape = " x ".join(map(str, embeddings.shape))
    out.result(f"{request.output}  {shape} {embeddings.dtype}", data, str(request.output))


def _kind(model: str) -> ModelKind:
    """What a model is, going by its small files."""
    from stopt import hub
    from stopt.reading import read_spec

    return read_spec(hub.fetch(model, ()).folder).kind


def _check_output(output: Path, force: bool, kind: ModelKind) -> None:
    from stopt.artifact import require_folder_of
    from stopt.errors import ArtifactError, OptionError

    if kind.value == "dense" and output.suffix not in (".npy", ".jsonl"):
        raise OptionError(f"{output} is neither .npy nor .jsonl", "the name's ending chooses the format")
    if output.exists() and not force:
        raise ArtifactError(f"{output} exists already", "replace it with --force")
    require_folder_of(output)


def _ranges(file: Path | None, from_call: bool) -> Any:
    from stopt.embeddings.call import OWN
    from stopt.embeddings.ranges import Ranges
    from stopt.errors import OptionError

    if file is not None and from_call:
        raise OptionError("--ranges and --ranges-from-call name different ranges", "give one of the two")
    if from_call:
        return OWN
    return None if file is None else Ranges.read(file)


def _read(texts: Path, column: str, jsonl: bool, *, pairs: bool) -> list[Any]:
    from stopt.errors import SourceError
    from stopt.examples import parse_pairs
    from stopt.folder import parse_texts, read_texts

    jsonl = jsonl or texts.suffix in (".jsonl", ".ndjson")
    if str(texts) != "-":
        if pairs and jsonl:
            return list(parse_pairs(read_texts(texts, jsonl=False), column, str(texts)))
        return read_texts(texts, column, jsonl=jsonl)
    try:
        lines = io.StringIO(sys.stdin.buffer.read().decode("utf-8-sig"), newline="\n")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"stdin is not UTF-8 text: {error.reason} at byte {error.start}", "convert it: iconv -t utf-8"
        ) from error
    if pairs and jsonl:
        return list(parse_pairs(lines, column, "stdin"))
    return list(parse_texts(lines, jsonl=jsonl, column=column, name="stdin"))


def _save(output: Path, lines: Sequence[Any], embeddings: Any) -> None:
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


def _write_jsonl(file: Any, lines: Sequence[Any], embeddings: Any) -> None:
    for line, row in zip(lines, embeddings, strict=True):
        json.dump({"text": line, "embedding": row.tolist()}, file, ensure_ascii=False)
        file.write("\n")
