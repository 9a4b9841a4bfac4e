"""The range of each dimension, which decides what an int8 code means: computed over any number of texts, kept with the model.

sentence-transformers takes ranges from the embeddings at hand, so that codes of two calls cannot be compared and one
text alone has no range at all. Stored ranges give a query the codes of the corpus.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.artifact import write_text
from stopt.embeddings.codes import extremes_of
from stopt.errors import CorruptModel, InputError, OptionError
from stopt.folder import contained, read_json_object

__all__ = ["RANGES", "Provenance", "Ranges", "RangesBuilder"]

RANGES = "embedding_ranges.json"
SCHEMA = 1

# rows that percentiles are taken from fit into this: 43,690 of 384 dimensions. The rank of the 99.9th percentile of so
# many is known to +-0.015 percentage points (one standard deviation), whatever the size of the corpus
RESERVOIR_BYTES = 64 * 2**20

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What ranges were computed from.

    Attributes:
        texts: Number of texts.
        sha256: Hash of the texts in order, hexadecimal.
        method: ``minmax`` or ``percentile``.
        percentile: The upper percentile; the lower is its mirror image. None for ``minmax``.
        sampled: Texts that the percentiles were taken from; all of them up to a size, a uniform sample beyond.
        prompt: Text that was put before each.
        file: File that made the embeddings, relative to the model folder; empty for the original weights.
        backend: Engine that ran it.
        precision: What it computed in.
        truncate_dim: Leading dimensions that were kept; None is all.
        normalized: Whether embeddings were scaled to unit length after that, beyond what the model does itself.
    """

    texts: int
    sha256: str
    method: str
    percentile: float | None
    sampled: int
    prompt: str
    file: str
    backend: str
    precision: str
    truncate_dim: int | None
    normalized: bool


@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """Smallest and largest value of each dimension. Immutable; compare by :attr:`fingerprint`.

    Attributes:
        minimum: (E,) float32.
        maximum: (E,) float32.
        provenance: What they were computed from; None if they were given.

    Raises:
        InputError: If the two are no ranges.
    """

    minimum: Floats
    maximum: Floats
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        low, high = self.minimum, self.maximum
        if low.ndim != 1 or low.shape != high.shape or not len(low) or {low.dtype, high.dtype} != {_FLOAT32}:
            raise InputError(
                f"ranges of shapes {low.shape} and {high.shape}, {low.dtype} and {high.dtype}; expected (E,) float32",
                "Ranges.from_array makes them from an array of shape (2, E)",
            )
        require_ordered(low, high)
        low.setflags(write=False)
        high.setflags(write=False)

    @classmethod
    def from_array(cls, array: Any, provenance: Provenance | None = None) -> Ranges:
        """Make them from sentence-transformers' form: (2, E), minima and maxima.

        Raises:
            InputError: If it is not of that shape, or no ranges.
        """
        values = np.array(array, np.float32)
        if values.ndim != 2 or len(values) != 2:
            raise InputError(
                f"ranges have shape {values.shape}, expected (2, E)",
                "the first row is the smallest value of each dimension, the second the largest",
            )
        return cls(values[0], values[1], provenance)

    @classmethod
    def of(cls, embeddings: Any) -> Ranges:
        """Take them from embeddings, (N, E) floats.

        Raises:
            InputError: If there is none, or one has NaN or infinity.
        """
        builder = RangesBuilder()
        builder.add(np.asarray(embeddings))
        return builder.finish()

    @property
    def array(self) -> Floats:
        """(2, E) float32, as sentence-transformers takes them."""
        return np.stack((self.minimum, self.maximum))

    @property
    def dimension(self) -> int:
        """Number of dimensions E."""
        return len(self.minimum)

    @property
    def fingerprint(self) -> str:
        """sha256 of the values: two with the same one make the same codes."""
        return hashlib.sha256(self.array.astype("<f4").tobytes()).hexdigest()

    def truncated(self, dimension: int | None) -> Ranges:
        """Return those of the leading dimensions; None, or more than there are, is all.

        Holds for embeddings that are cut and not scaled afterwards; :func:`stopt.embeddings.call.ranges_for_call`
        decides.
        """
        if dimension is None or dimension >= self.dimension:
            return self
        return Ranges(self.minimum[:dimension], self.maximum[:dimension], self.provenance)

    def document(self) -> dict[str, Any]:
        """Return what :meth:`parse` reads: plain numbers and texts."""
        source = None if self.provenance is None else asdict(self.provenance)
        return {
            "schema": SCHEMA,
            "minimum": self.minimum.tolist(),
            "maximum": self.maximum.tolist(),
            "provenance": source,
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any], name: str) -> Ranges:
        """Read what :meth:`document` returned.

        Args:
            document: The object.
            name: What it is called in errors.

        Raises:
            CorruptModel: If it is not one, or one of another schema.
        """
        if document.get("schema") != SCHEMA:
            raise CorruptModel(
                f"{name} has schema {document.get('schema')!r}, this stopt reads {SCHEMA}",
                "update stopt, or make it again: stopt calibrate",
            )
        try:
            source = document["provenance"]
            provenance = None if source is None else _provenance(source)
            return cls(_floats(document["minimum"]), _floats(document["maximum"]), provenance)
        except (KeyError, TypeError, ValueError) as error:  # InputError is a ValueError
            reason = error.message if isinstance(error, InputError) else error
            raise CorruptModel(
                f"{name} has no ranges of embeddings: {reason}", "make it again: stopt calibrate"
            ) from error

    @classmethod
    def read(cls, path: Path) -> Ranges:
        """Read a file that :meth:`write` wrote.

        Raises:
            SourceError: If it is missing or cannot be read.
            CorruptModel: If it is something else, or cut short.
        """
        return cls.parse(read_json_object(path), str(path))

    @classmethod
    def stored(cls, root: Path) -> Ranges | None:
        """Read those of a model folder; None if it has none.

        Raises:
            CorruptModel: If the file is something else, or cut short.
        """
        path = contained(root, RANGES)
        return cls.read(path) if path.is_file() else None

    def write(self, path: Path) -> None:
        """Write them to a file, in one step.

        Raises:
            ArtifactError: If it cannot be written; what was there is as it was.
        """
        members = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in self.document().items()]
        write_text(path, "{\n" + ",\n".join(members) + "\n}\n")


_FLOAT32 = np.dtype(np.float32)


def require_ordered(low: npt.NDArray[Any], high: npt.NDArray[Any]) -> None:
    """Make sure that two rows can be ranges.

    Raises:
        InputError: If a value is not finite, or a minimum is above its maximum.
    """
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError("ranges have NaN or infinity in them", "calibrate with finite embeddings")
    if (low > high).any():
        raise InputError(
            f"the minimum of dimension {int(np.argmax(low > high))} is above its maximum",
            "the first row is the smallest value of each dimension, the second the largest",
        )


class RangesBuilder:
    """Computes ranges over embeddings that come in blocks, in bounded memory.

    Minimum and maximum are exact. Percentiles are taken from a uniform sample of the rows (all of them, and so exact,
    up to :data:`RESERVOIR_BYTES`), the same for the same rows in the same order.

    Args:
        percentile: Upper percentile, above 50 and below 100, the lower being its mirror image: 99.9 leaves a
            thousandth of the values above and one below. None is minimum and maximum.
        capacity_bytes: Memory of the sample.

    Raises:
        OptionError: If the percentile is out of its bounds.
    """

    def __init__(self, percentile: float | None = None, capacity_bytes: int = RESERVOIR_BYTES) -> None:
        if percentile is not None and not (50 < percentile < 100):
            raise OptionError(
                f"percentile is {percentile!r}",
                "above 50 and below 100, such as 99.9; none for minimum and maximum",
            )
        self._percentile = percentile
        self._capacity_bytes = capacity_bytes
        self._random = np.random.default_rng(0)
        self._extremes: Floats | None = None
        self._sample: Floats | None = None
        self.count = 0

    @property
    def sampled(self) -> int:
        """Rows that percentiles are taken from; for minimum and maximum all."""
        return self.count if self._sample is None else min(self.count, len(self._sample))

    def add(self, embeddings: npt.NDArray[Any]) -> None:
        """Take in (N, E) floats.

        Raises:
            InputError: If they are something else, of another width than before, or have NaN or infinity.
        """
        if embeddings.ndim != 2 or not np.issubdtype(embeddings.dtype, np.floating):
            raise InputError(
                f"expected float embeddings of shape (N, E), got {embeddings.dtype} of shape {embeddings.shape}",
                "ranges are taken from what encode() returns with precision='float32'",
            )
        if self._extremes is not None and self._extremes.shape[1] != embeddings.shape[1]:
            raise InputError(
                f"embeddings of {self._extremes.shape[1]} and {embeddings.shape[1]} dimensions have no common ranges",
                "encode all with the same model and the same truncate_dim",
            )
        if not len(embeddings):
            return
        found = extremes_of(embeddings).astype(np.float32)
        if not np.isfinite(found).all():
            row = int(np.argmin(np.isfinite(embeddings).all(axis=1)))
            raise InputError(
                f"embedding {self.count + row} has NaN or infinity in it",
                "check the model: stopt check",
                index=self.count + row,
            )
        if self._extremes is not None:
            found = np.stack(
                (np.minimum(self._extremes[0], found[0]), np.maximum(self._extremes[1], found[1]))
            )
        self._extremes = found
        if self._percentile is not None:
            self._draw(embeddings)
        self.count += len(embeddings)

    def finish(self, provenance: Provenance | None = None) -> Ranges:
        """Return the ranges of all that was added.

        Raises:
            InputError: If nothing was.
        """
        if self._extremes is None:
            raise InputError(
                "there are no embeddings to take ranges from", "give some texts, better hundreds"
            )
        if self._sample is None or self._percentile is None:
            return Ranges(self._extremes[0], self._extremes[1], provenance)
        rows = self._sample[: self.sampled]
        found = np.percentile(rows, [100 - self._percentile, self._percentile], axis=0, overwrite_input=False)
        return Ranges.from_array(found, provenance)

    def _draw(self, embeddings: npt.NDArray[Any]) -> None:
        """Keep a uniform sample of all rows so far: row n replaces a random one with probability size / (n + 1)."""
        if self._sample is None:
            width = embeddings.shape[1]
            self._sample = np.empty((max(1, self._capacity_bytes // (4 * max(1, width))), width), np.float32)
        size = len(self._sample)
        filled = min(self.count, size)
        fresh = embeddings[: size - filled]
        self._sample[filled : filled + len(fresh)] = fresh
        rest = embeddings[len(fresh) :]
        numbers = self.count + len(fresh) + np.arange(len(rest))
        places = self._random.integers(0, numbers + 1)
        kept = places < size
        self._sample[places[kept]] = rest[kept]  # of two rows for one place the later wins, as one by one


def _floats(values: Any) -> Floats:
    """A list of JSON numbers as an array."""
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise TypeError("a list of numbers is something else")
    if not all(abs(value) <= _LARGEST for value in values):
        raise ValueError("a number does not fit float32")
    return np.array(values, np.float32)


_LARGEST = float(np.finfo(np.float32).max)


def _provenance(value: Any) -> Provenance:
    if not isinstance(value, dict) or set(value) != {field.name for field in fields(Provenance)}:
        raise TypeError("its provenance has other members")
    found = Provenance(**value)
    texts = (found.sha256, found.method, found.prompt, found.file, found.backend, found.precision)
    counts = (found.texts, found.sampled, found.truncate_dim or 0)
    if not all(isinstance(text, str) for text in texts) or not all(type(count) is int for count in counts):
        raise TypeError("a member of its provenance has another type")
    if not isinstance(found.normalized, bool) or type(found.percentile) not in (int, float, type(None)):
        raise TypeError("a member of its provenance has another type")
    return found
