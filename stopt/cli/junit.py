"""Parity reports in the XML that CI systems read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from stopt.artifact import write_text
from stopt.parity import ParityReport

__all__ = ["write_junit"]

_PROPERTIES = (
    "precision",
    "min_cosine",
    "mean_cosine",
    "max_abs",
    "batch_cosine",
    "nonfinite_rows",
    "active_overlap",
    "top_overlap",
    "mean_score_error",
    "rank_agreement",
)


def write_junit(path: Path, reports: Sequence[ParityReport]) -> None:
    """Write one test case per file; figures are its properties.

    Raises:
        ArtifactError: If ``path`` cannot be written to.
    """
    failed = sum(not report.passed for report in reports)
    suite = ElementTree.Element(
        "testsuite", name="stopt check", tests=str(len(reports)), failures=str(failed), errors="0"
    )
    for report in reports:
        case = ElementTree.SubElement(suite, "testcase", classname="parity", name=report.candidate)
        properties = ElementTree.SubElement(case, "properties")
        for name in _PROPERTIES:
            if (value := getattr(report, name)) is not None:
                ElementTree.SubElement(properties, "property", name=name, value=str(value))
        if not report.passed:
            failure = ElementTree.SubElement(case, "failure", message="; ".join(report.failures))
            failure.text = f"worst text: {report.worst_text}"
    ElementTree.indent(suite)
    write_text(path, ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n")
