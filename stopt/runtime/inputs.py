"""What callers pass as text, checked before any model work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stopt.errors import InputError
from stopt.runtime.tokenizer import Text

__all__ = ["read_inputs"]


def read_inputs(inputs: Any) -> tuple[list[Text], bool]:
    """Tell one text from many and check each.

    A list, a tuple, an array of texts or a ``datasets`` column is many (so a tuple of two texts is two texts); within
    them, a pair of texts is one input, tokenised together.

    Returns:
        The texts and pairs, and whether it was a single one.

    Raises:
        InputError: If something is not a text; says which.
    """
    if isinstance(inputs, str):
        return [inputs], True
    if isinstance(inputs, list | tuple):
        items: Iterable[Any] = inputs
    elif isinstance(inputs, np.ndarray) and inputs.ndim >= 1 and inputs.dtype.kind in "UO":
        items = inputs.tolist()
    elif type(inputs).__module__.partition(".")[0] == "datasets":
        items = list(inputs)
    else:
        raise InputError(
            f"expected a text or a list of texts, got {type(inputs).__name__}",
            "wrap other iterables in list()",
        )
    return [_text(index, item) for index, item in enumerate(items)], False


def _text(index: int, item: Any) -> Text:
    if isinstance(item, str):
        return str(item)
    if isinstance(item, list | tuple) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return str(item[0]), str(item[1])
    what = repr(item) if isinstance(item, int | float | None) else type(item).__name__
    raise InputError(
        f"input {index} is {what}, expected a text or a pair of texts",
        "decode bytes, and replace missing values by '' or leave them out",
        index=index,
    )
