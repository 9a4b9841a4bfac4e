"""``stopt check``."""

from __future__ import annotations

from pathlib import Path

import click

from stopt.cli import options
from stopt.cli.output import Output, table

__all__ = ["check"]


@click.command()
@options.working_model
@options.file_name
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Precision that OpenVINO is to run in; by default its own choice.",
)
@options.thresholds
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
@options.output_options
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
    out: Output,
) -> None:
    """Compare MODEL's files with torch on real text.

    Every file of the folder, or the one named, is run over texts of many languages and lengths, alone and in padded
    batches, and compared with the original weights in torch. Ends with exit code 3 if a file is further off than its
    precision explains. Needs the extra: pip install 'stopt[torch]'

    \b
    Example:
      stopt check ./my-model
      stopt check ./my-model --file-name onnx/model_O3.onnx --min-cosine 0.9999 --junit parity.xml
    """
    from stopt.artifact import require_folder_of
    from stopt.checking import CheckOptions
    from stopt.checking import check as run
    from stopt.cli.junit import write_junit

    if junit is not None:
        require_folder_of(junit)
    chosen = CheckOptions(file_name, dtype, options.load_texts(texts), min_cosine, max_abs, sts, retrieval)
    reports = run(model, chosen, out.step)
    rows = [
        [
            report.candidate,
            report.precision,
            f"{report.min_cosine:.6f}",
            f"{report.mean_cosine:.6f}",
            f"{report.max_abs:.1e}",
            f"{100 * report.rank_overlap:.1f} %",
            f"{report.batch_cosine:.6f}",
            "ok" if report.passed else "FAILED",
        ]
        for report in reports
    ]
    header = [
        "file",
        "precision",
        "cosine min",
        "mean",
        "max error",
        "same neighbours",
        "alone/batch",
        "verdict",
    ]
    lines = [table(rows, header)]
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
    lines += [
        f"{report.candidate}: worst text {report.worst_text!r}" for report in reports if not report.passed
    ]
    if junit is not None:
        write_junit(junit, reports)
    failures = [failure for report in reports if (failure := report.failure())]
    data = [report.as_dict() for report in reports]
    out.result("\n".join(lines), data, "failed" if failures else "ok", next(iter(failures), None))
    if failures:
        raise failures[0]
