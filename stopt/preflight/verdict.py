"""What a check of a file found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A file that breaks no rule.

    Attributes:
        file: The file.
        data: Its data files, relative to its folder, as it names them.
        doubts: Why it cannot be told without trying that opening it takes little time and memory; empty if it can.
    """

    file: Path
    data: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
