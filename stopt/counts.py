"""Whole numbers that callers give: how many texts, tokens, threads or results."""

from __future__ import annotations

from numbers import Integral
from operator import index
from typing import Any

from stopt.errors import OptionError

__all__ = ["is_whole", "require_count"]


def is_whole(value: Any) -> bool:
    """Whether something is a whole number, Python's or numpy's; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def require_count(value: Any, name: str, expected: str = "a whole number from 1 up", least: int = 1) -> int:
    """Return a count that a caller gave, which may be numpy's, as an int.

    Args:
        value: What was given.
        name: What it is called.
        expected: What it should be, in words.
        least: Smallest number that makes sense.

    Raises:
        OptionError: If it is no whole number, a bool, or less than that.
    """
    if not is_whole(value) or value < least:
        raise OptionError(f"{name} is {value!r}", expected)
    return index(value)
