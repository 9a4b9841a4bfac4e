"""Whole numbers that callers give."""

from typing import Any

import numpy as np
import pytest

from stopt.counts import require_count
from stopt.errors import OptionError
from stopt.runtime.options import parse_model_kwargs
from stopt.spec import Backend


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)], ids=repr)
def test_a_count_is_an_int_whoever_made_it(value: Any) -> None:
    found = require_count(value, "top_k")
    assert (type(found), found) == (int, 3)


@pytest.mark.parametrize("value", [0, -1, True, np.True_, 2.0, np.float64(2), "3", None, [3]], ids=repr)
def test_what_is_no_count_is_refused(value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        require_count(value, "top_k")
    assert (caught.value.message, caught.value.hint) == (f"top_k is {value!r}", "a whole number from 1 up")


def test_nothing_may_be_enough() -> None:
    assert require_count(0, "top_k", least=0) == 0
    with pytest.raises(OptionError, match="top_k is -1") as caught:
        require_count(-1, "top_k", "a number of documents", least=0)
    assert caught.value.hint == "a number of documents"


def test_engines_get_an_int_of_threads() -> None:
    options = parse_model_kwargs(Backend.ONNX, None, np.int64(2))
    assert type(options.threads) is int
