"""``predict``: from pairs of texts to the scores that the caller asked for.

The order of steps is sentence-transformers': logits, activation, softmax, and one label's scores without their axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stopt.errors import OptionError, suggest
from stopt.runtime.arrays import Array, is_tensor, namespace, numpy_array
from stopt.runtime.encoding import joined, require_torch
from stopt.runtime.modules import activate
from stopt.runtime.pipeline import Pipeline, RunOptions
from stopt.runtime.rows import check_finite
from stopt.runtime.spread import Spread
from stopt.runtime.tokenizer import Ints
from stopt.spec import SCORES, Activation

__all__ = ["ActivationFunction", "ScoreOptions", "find_logits", "parse_activation", "score"]

ActivationFunction = Activation | Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """Options of one call; see :meth:`stopt.CrossEncoder.predict`."""

    run: RunOptions
    activation: ActivationFunction
    softmax: bool = False
    as_numpy: bool = True
    as_tensor: bool = False


def score(
    pipeline: Pipeline,
    pairs: Sequence[tuple[str, str]],
    options: ScoreOptions,
    spread: Spread | None = None,
) -> Any:
    """Score pairs with a cross-encoder, by itself or in a pool; result as in :meth:`stopt.CrossEncoder.predict`."""
    if spread is None:
        logits = find_logits(pipeline, pairs, options.run)
    else:
        alone = replace(options.run, show_progress=False)
        parts = spread.run(find_logits, pairs, alone, show_progress=options.run.show_progress)
        logits = joined(parts, len(pairs))
    if logits is None:
        if options.as_tensor:
            return require_torch().empty(0)
        # float64, as sentence-transformers has it
        return np.empty(0) if options.as_numpy else []
    xp = namespace(logits)
    wide = xp.astype(logits, xp.float32) if logits.dtype.itemsize < 4 else logits
    scores = _activated(wide, options.activation)
    if options.softmax and scores.ndim > 1:
        scores = _softmax(scores)
    if logits.shape[1] == 1 and scores.ndim > 1 and scores.shape[-1] == 1:
        scores = scores[..., 0]
    if options.as_numpy and not options.as_tensor:
        return numpy_array(scores).astype(np.float32, copy=False)
    if scores.dtype == wide.dtype:
        scores = xp.astype(scores, logits.dtype)
    tensor = scores if is_tensor(scores) else require_torch().from_numpy(scores)
    return tensor if options.as_tensor else list(tensor)


def parse_activation(value: ActivationFunction | str) -> ActivationFunction:
    """Turn a name into an activation; a function stays one.

    Raises:
        OptionError: If there is no such name, or it is neither.
    """
    known = [str(each) for each in Activation]
    if isinstance(value, str):
        if value not in known:
            raise OptionError(f"activation_fn {value!r} is unknown", suggest(value, known))
        return Activation(value)
    if isinstance(value, type):
        raise OptionError(
            f"activation_fn is the class {value.__name__}, expected a function",
            f"make one of it: {value.__name__}()",
        )
    if not callable(value):
        raise OptionError(
            f"activation_fn is {value!r}, expected a function",
            "or the name of one: 'Sigmoid', 'Identity' …",
        )
    return value


def find_logits(
    pipeline: Pipeline,
    pairs: Sequence[tuple[str, str]],
    options: RunOptions,
    positions: Ints | None = None,
) -> Array | None:
    """(N, labels) in the engine's array type, in the order of the pairs; None for no pair."""
    batches = pipeline.stream(pairs, options, positions)
    logits = joined(((rows, features[SCORES]) for rows, features in batches), len(pairs))
    if logits is not None and options.check_rows:
        check_finite(logits, positions, "scores")
    return logits


def _activated(logits: Array, function: ActivationFunction) -> Array:
    """Apply an activation to (N, labels) float32 logits; the result has N rows, in the same array type."""
    if isinstance(function, Activation):
        return activate(logits, function)
    given = (
        require_torch().from_numpy(logits) if _takes_tensors(function) and not is_tensor(logits) else logits
    )
    scores = function(given)
    shape = tuple(getattr(scores, "shape", ()))
    if shape[:1] != logits.shape[:1]:
        what = f"an array of shape {shape}" if hasattr(scores, "shape") else type(scores).__name__
        raise OptionError(
            f"activation_fn made {what} of logits of shape {tuple(logits.shape)}",
            "it must return an array with a row per pair",
        )
    scores = scores.detach() if is_tensor(scores) else scores  # a module may have weights
    return numpy_array(scores) if is_tensor(scores) and not is_tensor(logits) else scores


def _takes_tensors(function: Callable[[Any], Any]) -> bool:
    """Whether a function is torch's own or a torch module, which take nothing but tensors."""
    modules = [getattr(function, "__module__", None), *(cls.__module__ for cls in type(function).__mro__)]
    return any(str(module).partition(".")[0] == "torch" for module in modules)


def _softmax(scores: Array) -> Array:
    """Softmax over the labels, axis 1."""
    xp = namespace(scores)
    powers = xp.exp(scores - xp.max(scores, axis=1, keepdims=True))  # never overflows
    return powers / xp.sum(powers, axis=1, keepdims=True)
