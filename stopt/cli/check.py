"""``stopt check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stopt.cli import options
from stopt.cli.kinds import require_dense
from stopt.cli.output import Output, table
from stopt.cli.parity import columns
from stopt.spec import ModelKind

if TYPE_CHECKING:
    from stopt.runtime.sentence_transformer import SentenceTransformer

__all__ = ["check"]


@click.command()
@options.working_model
@options.file_name
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Precision of the arithmetic, of OpenVINO and torch; float32 by default.",
)
@options.thresholds
@options.hints
@options.texts
@click.option(
    "--sts",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Correlate with the scores of sentence pairs: TSV with score, sentence1, sentence2.",
)
@click.option(
    "--retrieval",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Search a retrieval set in BEIR's layout: nDCG@10 and recall@10.",
)
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a JUnit report; a file that is there is replaced.",
)
@click.option(
    "--index-compat",
    nargs=2,
    metavar="A B",
    help="Instead: can queries of A search an index built with B? Each a file in MODEL, a model folder, or torch.",
)
@options.trust_remote_code
@options.output_options
@options.collect("hints", "min_agreement", "task", "library", "trust_remote_code")
def check(
    model: str,
    file_name: str | None,
    dtype: str | None,
    min_cosine: float | None,
    max_abs: float | None,
    texts: Path | None,
    sts: Path | None,
    retrieval: Path | None,
    junit: Path | None,
    index_compat: tuple[str, str] | None,
    hints: dict[str, Any],
    out: Output,
) -> None:
    """Compare MODEL's files with torch on real text.

    Every file of the folder, or the one named, is run over texts of many languages and lengths, alone and in padded
    batches, and compared with the original weights in torch: vectors by their cosine, those of sparse encoders by their
    active dimensions too, a cross-encoder's scores and their order over pairs. Ends with exit code 3 if a file is further
    off than its precision explains. Needs the extra: pip install 'stopt[torch]'

    \b
    Example:
      stopt check ./my-model
      stopt check ./my-model --index-compat onnx/model_qint8_avx512_vnni.onnx torch
      stopt check ./my-model --file-name onnx/model_O3.onnx --min-cosine 0.9999 --junit parity.xml
    """
    from stopt.artifact import require_folder_of
    from stopt.checking import CheckOptions
    from stopt.checking import check as run
    from stopt.cli.junit import write_junit
    from stopt.overlap import require_apart, require_not_of_model

    if index_compat is not None:
        if any((file_name, dtype, min_cosine, max_abs, sts, retrieval, junit, *hints.values())):
            raise click.UsageError("--index-compat goes with --texts only")
        _check_index(model, index_compat, texts, out)
        return
    if junit is not None:
        require_folder_of(junit)
        require_apart(junit, filter(None, (texts, sts, retrieval)), what="the report")
        require_not_of_model(junit, model, what="the report")
    chosen = CheckOptions(
        file_name, dtype, options.load_examples(texts), min_cosine, max_abs, sts, retrieval, **hints
    )
    reports = run(model, chosen, out.step)
    rows = [
        [
            report.candidate,
            report.precision,
            *columns(report).values(),
            "ok" if report.passed else "FAILED",
        ]
        for report in reports
    ]
    lines = [table(rows, ["file", "precision", *columns(reports[0]), "verdict"])]
    measured = [
        [
            report.candidate,
            each.metric,
            f"{each.reference:.4f}",
            f"{each.candidate:.4f}",
            f"{100 * each.kept:.2f} %",
        ]
        for report in reports
        for each in report.quality
    ]
    if measured:
        lines += ["", table(measured, ["file", "benchmark", "torch", "file's", "kept"])]
    what = "pair" if reports[0].kind is ModelKind.CROSS_ENCODER else "text"
    lines += [
        f"{report.candidate}: worst {what} {report.worst_text!r}" for report in reports if not report.passed
    ]
    if junit is not None:
        write_junit(junit, reports)
    failures = [failure for report in reports if (failure := report.failure())]
    data = [report.as_dict() for report in reports]
    out.result("\n".join(lines), data, "failed" if failures else "ok", next(iter(failures), None))
    if failures:
        raise failures[0]


def _check_index(model: str, files: tuple[str, str], texts: Path | None, out: Output) -> None:
    """Answer whether queries of one file can search an index of another, and end with 3 if not."""
    from stopt.convert.calibration import read_calibration
    from stopt.embeddings.space import index_compatibility
    from stopt.examples import as_texts
    from stopt.steps import CalibrationOptions

    require_dense(model, "--index-compat")
    queries, documents = (_open(model, name) for name in files)
    out.step("searching with both files")
    given = options.load_texts(texts) or as_texts(read_calibration(CalibrationOptions()).texts, "the samples")
    found = index_compatibility(queries, documents, given)
    figures = [f"{100 * found.recall:.1f} %", f"{found.mean_cosine:.6f}", f"{found.min_cosine:.6f}"]
    row = [
        found.queries,
        found.documents,
        str(found.texts),
        *(["", "", ""] if found.reason else figures),
        "yes" if found.compatible else "NO",
    ]
    header = ["queries", "index", "texts", "recall@10", "cosine mean", "min", "compatible"]
    failure = found.failure()
    out.result(table([row], header), found.as_dict(), "no" if failure else "yes", failure)
    if failure is not None:
        raise failure


def _open(model: str, name: str) -> SentenceTransformer:
    """A file of a model, the original weights, or another model's folder."""
    from stopt.runtime.sentence_transformer import SentenceTransformer

    if name == "torch":
        return SentenceTransformer(model, backend="torch")
    if Path(name).is_dir():
        return SentenceTransformer(name)
    backend = "openvino" if name.endswith(".xml") else "onnx"
    return SentenceTransformer(model, backend=backend, model_kwargs={"file_name": name})
