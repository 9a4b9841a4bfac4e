"""numpy: tables of token embeddings or of token weights, which need no engine.

Shapes: B texts, T tokens, V rows of the table, E columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stopt.errors import CorruptModel
from stopt.folder import contained
from stopt.reading.files import Reading
from stopt.reading.tables import TABLE_FILE, TensorHeader, read_header
from stopt.runtime.arrays import Array
from stopt.runtime.batching import BatchLimits
from stopt.runtime.modules import Features
from stopt.runtime.opened import OpenedFiles
from stopt.runtime.tokenizer import Batch, Ints
from stopt.spec import SENTENCE, Backend, SparseStaticEmbedding, StaticEmbedding

__all__ = ["SparseTableSession", "TableSession"]

Floats = npt.NDArray[np.float32]

BATCH_TOKENS = 65_536
GATHERED_VALUES = 2**20  # of a table's values, copied at a time: 4 MiB, which stay in a CPU's cache
WIDEST_BATCH = 2**24  # values that the vectors of a batch have: 64 MiB

_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


class _Table:
    """What both kinds of table share: a file on the disk, mapped into memory and run on the CPU."""

    backend = Backend.NUMPY
    device = "cpu"
    precision = "float32"
    fused = 0

    def __init__(self, root: Path, path: str, tensor: str, limits: BatchLimits) -> None:
        self.file = contained(root, path, TABLE_FILE)
        self.files = OpenedFiles.now(root, [self.file])
        self.limits = limits
        self._values = _open(self.file, read_header(Reading(root), path)[tensor])

    def map(self, batches: Iterable[Batch]) -> Iterator[Features]:
        """Run many batches, one after the other; see :class:`~stopt.runtime.sessions.Session`."""
        return map(self.run, batches)

    def run(self, batch: Batch) -> Features:
        """Run one batch.

        Returns:
            ``sentence_embedding`` (B, E) float32, and ``attention_mask`` (B, T).
        """
        real = batch.attention_mask != 0
        ids, rows = batch.input_ids[real], np.nonzero(real)[0]
        if len(ids) and ids.max() >= len(self._values):
            raise CorruptModel(
                f"{self.file} has {len(self._values)} rows, and tokenizer.json has a token {ids.max()}",
                "its files come from different models",
            )
        return {SENTENCE: self._combine(ids, rows, len(real)), "attention_mask": batch.attention_mask}

    def _combine(self, ids: Ints, rows: Ints, texts: int) -> Floats:
        raise NotImplementedError

    def constant(self, array: Floats) -> Array:
        """Weights for numpy modules: as they are."""
        return array


class TableSession(_Table):
    """A table of token embeddings: of each text the mean of its tokens' rows, zeros for one without tokens.

    Args:
        root: The model folder.
        spec: The table.
    """

    def __init__(self, root: Path, spec: StaticEmbedding) -> None:
        super().__init__(root, spec.path, spec.tensor, BatchLimits(tokens=BATCH_TOKENS))
        self._width = spec.width
        self._step = max(1, GATHERED_VALUES // spec.width)

    def _combine(self, ids: Ints, rows: Ints, texts: int) -> Floats:
        """(B, E): rows are gathered a few at a time, so that a long text takes no more memory than a short one."""
        sums = np.zeros((texts, self._width), np.float32)
        for start in range(0, len(ids), self._step):
            owners = rows[start : start + self._step]
            starts = np.flatnonzero(np.diff(owners, prepend=-1))  # each text's first token in this portion
            values = _float32(self._values[ids[start : start + self._step]])
            sums[owners[starts]] += np.add.reduceat(values, starts, axis=0)
        counts = np.bincount(rows, minlength=texts)
        return sums / np.maximum(counts, 1).astype(np.float32)[:, None]


class SparseTableSession(_Table):
    """A weight per token: of each text the weights of the tokens that it contains, zeros elsewhere.

    Args:
        root: The model folder.
        spec: The weights.
    """

    def __init__(self, root: Path, spec: SparseStaticEmbedding) -> None:
        # a text's vector is as wide as the vocabulary, however short it is
        super().__init__(root, spec.path, "weight", BatchLimits(tokens=max(1, WIDEST_BATCH // spec.width)))

    def _combine(self, ids: Ints, rows: Ints, texts: int) -> Floats:
        weights = np.zeros((texts, len(self._values)), np.float32)
        weights[rows, ids] = _float32(self._values[ids])
        return weights


def _open(file: Path, header: TensorHeader) -> npt.NDArray[np.generic]:
    """Map a tensor into memory: what no text asks for is never read."""
    try:
        mapped = np.memmap(file, _DTYPES[header.dtype], "r", header.offset, header.shape)
    except (OSError, ValueError) as error:
        raise CorruptModel(f"{file} cannot be read: {error}", "fetch the file again") from error
    return mapped.view(np.ndarray)


def _float32(values: npt.NDArray[np.generic]) -> Floats:
    if values.dtype == np.uint16:  # bfloat16, the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)
