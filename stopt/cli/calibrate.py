"""``stopt calibrate``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from stopt.cli import options
from stopt.cli.kinds import require_dense
from stopt.cli.output import Output, fields

__all__ = ["calibrate"]


@click.command()
@options.working_model
@click.option(
    "--texts",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    required=True,
    help="Texts of the kind that will be encoded, one per line or JSONL; of any number.",
)
@click.option("--column", metavar="NAME", help="Member of JSONL objects that has the text.  [default: text]")
@click.option(
    "--percentile",
    type=click.FloatRange(50, 100, min_open=True, max_open=True),
    metavar="P",
    help="Leave out values above the Pth percentile and below its mirror image, such as 99.9; by default none.",
)
@options.serving_backend
@options.file_name
@click.option("--device", help="cpu, cuda, cuda:1 …")
@options.batch_size
@click.option("--prompt-name", help="Name of the prompt to put before each text.")
@click.option("--prompt", help="The prompt itself.")
@click.option(
    "--truncate-dim",
    type=click.IntRange(min=1),
    help="Leading dimensions to keep.",
)
@click.option("--normalize-embeddings", is_flag=True, help="Scale embeddings to unit length.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the ranges here instead of to the model folder.",
)
@options.force
@options.output_options
def calibrate(
    model: str,
    texts: Path,
    column: str | None,
    percentile: float | None,
    backend: str | None,
    file_name: str | None,
    device: str | None,
    batch_size: int | None,
    prompt_name: str | None,
    prompt: str | None,
    truncate_dim: int | None,
    normalize_embeddings: bool,
    output: Path | None,
    force: bool,
    out: Output,
) -> None:
    """Store the range of each dimension of MODEL's embeddings.

    With ranges in the folder, int8 and uint8 embeddings mean the same in every call: a single query gets the codes of
    the corpus. Ranges come from your texts; the prompts of queries and documents may differ, the ranges should not.

    \b
    Example:
      stopt calibrate ./my-model --texts corpus.txt
      stopt encode ./my-model corpus.txt --precision int8 -o corpus.npy
      echo "a query" | stopt encode ./my-model --precision int8
    """
    from stopt.artifact import require_folder_of
    from stopt.embeddings.calibration import RangeOptions, calibrate_ranges
    from stopt.embeddings.ranges import RANGES
    from stopt.errors import ArtifactError, OptionError
    from stopt.overlap import require_apart, require_not_of_model
    from stopt.runtime.sentence_transformer import SentenceTransformer

    if output is None and not Path(model).is_dir():
        raise OptionError(f"{model} is no folder to put ranges in", "name a file for them: -o FILE")
    target = Path(model) / RANGES if output is None else output
    require_apart(target, [texts])
    require_not_of_model(target, model, but=RANGES)
    if target.exists() and not force:
        raise ArtifactError(f"{target} exists already", "replace it with --force")
    require_folder_of(target)
    require_dense(model, "stopt calibrate")
    loaded = SentenceTransformer(
        model, backend=backend, device=device, model_kwargs={"file_name": file_name} if file_name else None
    )
    out.step(f"{loaded.file} on {loaded.device} in {loaded.pipeline.session.precision}")
    chosen = RangeOptions(percentile, prompt_name, prompt, truncate_dim, normalize_embeddings, batch_size)
    ranges = calibrate_ranges(loaded, _texts(texts, column), chosen, out.step)
    ranges.write(target)
    source = ranges.provenance
    assert source is not None
    widths = ranges.maximum - ranges.minimum
    described = {
        "file": str(target),
        "dimensions": str(ranges.dimension),
        "texts": f"{source.texts}, sha256 {source.sha256[:12]}…",
        "method": source.method
        if source.percentile is None
        else f"percentiles {100 - source.percentile:g} and {source.percentile:g} of {source.sampled} texts",
        "prompt": repr(source.prompt) if source.prompt else "none",
        "width of a range": f"{widths.min():.3g} to {widths.max():.3g}",
    }
    data = {
        "file": target,
        "dimension": ranges.dimension,
        "fingerprint": ranges.fingerprint,
        "provenance": asdict(source),
    }
    out.result(fields(described), data, str(target))


def _texts(file: Path, column: str | None) -> Iterator[str]:
    """The texts of a file, one by one; blank lines are none."""
    from stopt.folder import stream_texts

    found = stream_texts(file, column or "text", jsonl=True if column is not None else None)
    return (text for text in found if text.strip())
