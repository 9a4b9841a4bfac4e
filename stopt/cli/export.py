"""``stopt export``."""

from __future__ import annotations

from pathlib import Path

import click

from stopt.cli import options
from stopt.cli.output import Output, human_size
from stopt.spec import Backend

__all__ = ["export"]


@click.command()
@options.model
@options.converting_backend
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Copy the model to this folder first.",
)
@options.force
@options.texts
@options.thresholds
@options.hub_options
@options.output_options
def export(
    model: str,
    backends: tuple[str, ...],
    output: Path | None,
    force: bool,
    texts: Path | None,
    min_cosine: float | None,
    max_abs: float | None,
    revision: str | None,
    token: str | None,
    out: Output,
) -> None:
    """Convert MODEL to ONNX or OpenVINO, and prove it.

    New files go beside the model's own, under the names that sentence-transformers uses, once their vectors have been
    compared with torch's; a file that is off is not kept. Needs the extra: pip install 'stopt[convert]'

    \b
    Example:
      stopt export ./my-model --backend onnx --backend openvino
      stopt export sentence-transformers/all-MiniLM-L6-v2 -o ./minilm
    """
    from stopt.convert import require_convert

    require_convert()
    from stopt.convert.export import ExportOptions
    from stopt.convert.export import export as run

    chosen = ExportOptions(
        backends=tuple(Backend(name) for name in dict.fromkeys(backends)),
        output=output,
        force=force,
        texts=options.load_texts(texts),
        min_cosine=min_cosine,
        max_abs=max_abs,
        revision=revision,
        token=token,
    )
    made = run(model, chosen, out.step)
    lines = [
        f"{each.folder / each.file}  {human_size(each.size_bytes)}  "
        f"cosine to torch {each.parity.min_cosine:.6f} (smallest of {each.parity.texts} texts)  {each.seconds:.1f} s"
        for each in made
    ]
    data = [
        {
            "folder": each.folder,
            "file": each.file,
            "size_bytes": each.size_bytes,
            "seconds": round(each.seconds, 3),
            "parity": each.parity.as_dict(),
        }
        for each in made
    ]
    out.result("\n".join(lines), data, "\n".join(str(each.folder / each.file) for each in made))
    out.hint(f"Next: stopt check {made[0].folder}")
