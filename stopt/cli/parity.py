"""How the figures of a comparison are shown: a column each, as many as the kind of model has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stopt.spec import ModelKind

if TYPE_CHECKING:
    from stopt.parity import ParityReport

__all__ = ["batch_note", "columns"]


def columns(report: ParityReport) -> dict[str, str]:
    """Return the figures of a report by the names of their columns."""
    if report.kind is ModelKind.CROSS_ENCODER:
        return {
            "score error": f"{report.max_abs:.1e}",
            "mean": f"{report.mean_score_error:.1e}",
            "same order": f"{report.rank_agreement:.4f}",
            "alone/batch": f"{report.batch_abs:.1e}",
        }
    shown = {
        "cosine min": f"{report.min_cosine:.6f}",
        "mean": f"{report.mean_cosine:.6f}",
        "max error": f"{report.max_abs:.1e}",
    }
    if report.active_overlap is not None and report.top_overlap is not None:
        shown["active dims"] = f"{100 * report.active_overlap:.1f} %"
        shown["top 10"] = f"{100 * report.top_overlap:.1f} %"
    if report.rank_overlap is not None:
        shown["same neighbours"] = f"{100 * report.rank_overlap:.1f} %"
    return {**shown, "alone/batch": f"{report.batch_cosine:.6f}"}


def batch_note(report: ParityReport) -> str:
    """Say that a file's results depend on their batch, and how much; empty if they do not."""
    if not report.depends_on_batch:
        return ""
    if report.batch_cosine is None:
        return (
            f"{report.candidate}: scores depend on the batch they are in (dynamic int8): up to {report.batch_abs:.3f} "
            "from the same pair alone; static int8 has no such effect"
        )
    return (
        f"{report.candidate}: vectors depend on the batch they are in (dynamic int8): cosine to the same text alone "
        f"down to {report.batch_cosine:.4f}; static int8 has no such effect"
    )
