"""Options that only torch has."""

import numpy as np
import pytest

from stopt import SentenceTransformer
from stopt.errors import OptionError


@pytest.mark.slow
def test_torch_compile_changes_nothing_but_speed(tiny) -> None:
    texts = ["a", "the quick brown fox", "word " * 40]
    plain = SentenceTransformer(tiny("bert"), backend="torch", device="cpu")
    compiled = SentenceTransformer(
        tiny("bert"), backend="torch", device="cpu", model_kwargs={"compile": True}
    )
    np.testing.assert_allclose(compiled.encode(texts), plain.encode(texts), atol=1e-5)


@pytest.mark.parametrize(("key", "value"), [("compile", "yes"), ("compile", 1), ("threads", 0)])
def test_options_of_torch_are_checked(tiny, key, value) -> None:
    with pytest.raises(OptionError, match=f"{key} is") as caught:
        SentenceTransformer(tiny("bert"), backend="torch", model_kwargs={key: value})
    assert caught.value.hint
