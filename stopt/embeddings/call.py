"""Quantising what one call of ``encode`` makes: whose ranges, and when to refuse.

Ranges hold for embeddings made as those they were taken from. Cutting dimensions off leaves the ranges of the rest as
they are; scaling to unit length after that does not.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stopt.embeddings.codes import parse_precision, require_finite
from stopt.embeddings.quantization import FEW, quantize_embeddings
from stopt.embeddings.ranges import RANGES, Ranges
from stopt.errors import CorruptModel, OptionError
from stopt.folder import contained
from stopt.runtime.arrays import numpy_array
from stopt.spec import ModelSpec, Normalize

__all__ = ["OWN", "CallRanges", "quantize_call", "ranges_for_call", "rescales"]

_ROWS = 4096  # looked at a time
OWN: Literal["call"] = "call"

# what the keyword takes; an array is (2, E)
CallRanges = Ranges | npt.NDArray[Any] | Literal["call"] | None


def rescales(spec: ModelSpec, truncate_dim: int | None, normalize: bool) -> bool:
    """Whether ``normalize_embeddings`` changes anything: not where the model's own end is unit length, uncut."""
    unit = bool(spec.modules) and isinstance(spec.modules[-1], Normalize)
    whole = truncate_dim is None or truncate_dim >= spec.embedding_dimension
    return normalize and not (unit and whole)


def ranges_for_call(
    root: Path,
    spec: ModelSpec,
    given: CallRanges,
    *,
    precision: str | None,
    truncate_dim: int | None = None,
    normalize: bool = False,
) -> CallRanges:
    """Choose the ranges that a call quantises with, before it has computed anything.

    Args:
        root: The model folder, which may have ranges.
        spec: The model.
        given: What the caller gave: they win over the folder's. ``"call"`` takes them from the call's own embeddings,
            as sentence-transformers always does.
        precision: What to quantise to.
        truncate_dim: Leading dimensions that the call keeps.
        normalize: Whether it scales them to unit length.

    Returns:
        Ranges of the call's width, or an array as it was given; None, or ``"call"``, for those of its own embeddings.

    Raises:
        OptionError: If there are ranges that do not hold for such embeddings.
        CorruptModel: If the folder's are damaged, or another model's.
        InputError: If an array's values are no ranges.
    """
    if not parse_precision(precision).has_ranges:
        return None
    if isinstance(given, str):
        if given != OWN:
            raise OptionError(
                f"ranges are {given!r}",
                f"give Ranges, an array of shape (2, E), or {OWN!r}: Ranges.read(path)",
            )
        return OWN
    rescaled = rescales(spec, truncate_dim, normalize)
    whole = spec.embedding_dimension
    width = len(range(whole)[:truncate_dim])
    if given is None:
        stored = _stored(root)
        return None if stored is None else _fitting(_of_model(stored, spec, root), width, rescaled)
    if isinstance(given, Ranges):
        return _fitting(given, width, rescaled)
    if np.shape(given) != (2, width):
        raise OptionError(
            f"ranges have shape {np.shape(given)}, expected (2, {width})",
            "the first row is the smallest value of each dimension, the second the largest",
        )
    return given


def quantize_call(embeddings: Any, precision: str, ranges: CallRanges) -> npt.NDArray[Any]:
    """Quantise all embeddings of a call at once.

    Args:
        embeddings: (N, E) floats, an array or a tensor; N is at least one.
        precision: As :func:`~stopt.embeddings.quantization.quantize_embeddings` takes it.
        ranges: What :func:`ranges_for_call` returned.

    Returns:
        As :func:`~stopt.embeddings.quantization.quantize_embeddings`.

    Raises:
        OptionError: If there are no ranges for int8 or uint8, and too few embeddings to take them from.
        InputError: If an embedding has NaN or infinity in it, for which binary has bits but no sense.
    """
    chosen = parse_precision(precision)
    if chosen.has_ranges and ranges is None and len(embeddings) < FEW:
        raise OptionError(
            f"{chosen.value} needs ranges, which {len(embeddings)} embedding(s) do not give",
            "store them with the model once: stopt calibrate MODEL --texts FILE; or give ranges=; "
            f"ranges={OWN!r} takes them from this call, as sentence-transformers does",
        )
    if chosen.is_binary:
        values = numpy_array(embeddings)
        for first in range(0, len(values), _ROWS):
            require_finite(values[first : first + _ROWS], first)
    return quantize_embeddings(embeddings, chosen, None if isinstance(ranges, str) else ranges)


def _fitting(ranges: Ranges, width: int, rescaled: bool) -> Ranges:
    """Ranges cut to the width of a call; where they come from unknown embeddings, only those of that width."""
    source = ranges.provenance
    again = "calibrate with the same options: stopt calibrate MODEL --texts FILE"
    if source is not None and source.normalized != rescaled:
        made, wanted = ("", "not ") if source.normalized else ("not ", "")
        cut = f" --truncate-dim {width}" if rescaled and width < ranges.dimension else ""
        raise OptionError(
            f"the ranges are of embeddings {made}scaled to unit length, and this call's are {wanted}scaled",
            f"{again}{' --normalize-embeddings' if rescaled else ''}{cut}, or give ranges=",
        )
    if width > ranges.dimension:
        raise OptionError(
            f"the ranges are of {ranges.dimension} dimensions, and embeddings of this call have {width}",
            f"use truncate_dim={ranges.dimension}, or {again}",
        )
    if width < ranges.dimension and (rescaled or source is None):
        raise OptionError(
            f"ranges of {ranges.dimension} dimensions do not hold for the leading {width}"
            + (" scaled to unit length" if rescaled else ", if they were scaled after cutting"),
            f"{again} --truncate-dim {width}"
            if rescaled
            else f"cut them if they were not: truncated({width})",
        )
    return ranges.truncated(width)


def _of_model(ranges: Ranges, spec: ModelSpec, root: Path) -> Ranges:
    """Stored ranges, if they can be those of the model."""
    kept = ranges.provenance.truncate_dim if ranges.provenance else None
    if ranges.dimension != len(range(spec.embedding_dimension)[:kept]):
        raise CorruptModel(
            f"{root / RANGES} is of {ranges.dimension} dimensions, the model's embeddings have "
            f"{spec.embedding_dimension}",
            "make it again: stopt calibrate MODEL --texts FILE --force",
        )
    return ranges


def _stored(root: Path) -> Ranges | None:
    path = contained(root, RANGES)
    if not path.is_file():
        return None
    state = path.stat()
    return _read(path, state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=16)
def _read(path: Path, *_: int) -> Ranges:
    """The file's ranges, read once as long as it does not change."""
    return Ranges.read(path)
