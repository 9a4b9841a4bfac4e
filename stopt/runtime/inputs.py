"""What callers pass as text, checked before any model work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stopt.errors import InputError
from stopt.runtime.tokenizer import Text

__all__ = ["read_inputs", "read_pairs"]

_PAIRS = "give (query, document), or a list of such pairs"
_REPLACE = "decode bytes, and replace missing values by '' or leave them out"


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
    raise InputError(
        f"input {index} is {_named(item)}, expected a text or a pair of texts", _REPLACE, index=index
    )


def read_pairs(inputs: Any) -> tuple[list[tuple[str, str]], bool]:
    """Tell one pair of texts from many and check each.

    A list or tuple whose first element is a text is one pair; otherwise a list, a tuple, an array or a ``datasets``
    column is many.

    Returns:
        The pairs, and whether it was a single one.

    Raises:
        InputError: If something is not a pair of texts; says which.
    """
    if isinstance(inputs, str):
        raise InputError("expected a pair of texts or a list of pairs, got one text", _PAIRS)
    if isinstance(inputs, np.ndarray) and inputs.ndim >= 1 and inputs.dtype.kind in "UO":
        inputs = inputs.tolist()
    elif type(inputs).__module__.partition(".")[0] == "datasets":
        inputs = list(inputs)
    if not isinstance(inputs, list | tuple):
        raise InputError(
            f"expected a pair of texts or a list of pairs, got {type(inputs).__name__}",
            "wrap other iterables in list()",
        )
    if not (inputs and isinstance(inputs[0], str)):
        return [_pair(f"input {index}", index, item) for index, item in enumerate(inputs)], False
    for index, item in enumerate(inputs):
        if isinstance(item, list | tuple | np.ndarray):
            raise InputError(
                f"input 0 is one text and input {index} is not: texts and pairs are mixed", _PAIRS, index=0
            )
    return [_pair("the input", None, inputs)], True


def _pair(name: str, index: int | None, item: Any) -> tuple[str, str]:
    match item.tolist() if isinstance(item, np.ndarray) else item:
        case [str(first), str(second)]:
            return str(first), str(second)
        case [first, second]:
            place, part = ("second", second) if isinstance(first, str) else ("first", first)
            raise InputError(
                f"{name} has {_named(part)} as its {place} text, expected text", _REPLACE, index=index
            )
        case str():
            what = "one text"
        case [*parts]:
            what = f"{len(parts)} text{'s' * (len(parts) != 1)}"
        case _:
            what = _named(item)
    raise InputError(f"{name} is {what}, expected a pair of texts", _PAIRS, index=index)


def _named(item: Any) -> str:
    return repr(item) if isinstance(item, int | float | None) else type(item).__name__
