"""A callable for Ray pipelines of one's own. Jobs on a cluster are :mod:`stopt.scale.cluster`'s."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.errors import InputError
from stopt.runtime.sparse_arrays import SparseRows
from stopt.scale.encoder import Encoder
from stopt.scale.job import ModelOptions

__all__ = ["EmbedTexts", "lists"]


class EmbedTexts:
    """A model for ``ray.data``: adds embeddings to batches of a data set.

    ``ds.map_batches(EmbedTexts, fn_constructor_kwargs={"model": "/models/minilm"}, num_cpus=2,
    compute=ray.data.ActorPoolStrategy(size=4))`` opens the model once in each of four actors, with as many threads as Ray
    gives them processors. Vectors are those of :meth:`stopt.SentenceTransformer.encode`; with files that compute each text
    by itself (all but dynamic int8) they do not depend on how Ray cuts the batches, beyond the last bits.

    Args:
        model: Path of the model folder on every machine, or :class:`~stopt.scale.ModelOptions`.
        column: Column with the texts, or two with a comma for a cross-encoder.
        output: Column to add: (N, E) floats or codes; of a cross-encoder scores. A sparse encoder adds two, with
            ``_indices`` and ``_values`` behind the name.

    Raises:
        StoptError: If the model cannot be opened, or an option does not fit it.
    """

    def __init__(self, model: str | ModelOptions, *, column: str = "text", output: str = "embedding") -> None:
        options = ModelOptions(model) if isinstance(model, str) else model
        self._encoder = Encoder(replace(options, threads=options.threads or _assigned_threads()))
        self._encoder.require_cut()
        self._columns = tuple(each.strip() for each in column.split(","))
        self._output = output

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encode a batch, columns as numpy arrays; returns it with the results.

        Raises:
            InputError: If a text cannot be encoded; says which of the batch.
        """
        columns = [np.asarray(batch[name]).tolist() for name in self._columns]
        texts = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        found = self._encoder(texts)
        for place, reason in found.refused.items():
            raise InputError(
                f"row {place} of a batch {reason}", "leave it out before: ds.filter(...)", index=place
            )
        if not isinstance(found.block, SparseRows):
            return {**batch, self._output: found.block}
        parts = {"indices": found.block.columns, "values": found.block.values}
        split = {
            f"{self._output}_{name}": lists(np.split(values, found.block.starts[1:-1]))
            for name, values in parts.items()
        }
        return {**batch, **split}


def lists(arrays: Sequence[Any]) -> npt.NDArray[np.object_]:
    """Arrays of several lengths as one array of objects."""
    found = np.empty(len(arrays), object)
    found[:] = list(arrays)
    return found


def _assigned_threads() -> int | None:
    """Processors that Ray has given to this actor; None outside of one."""
    import ray

    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return None
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
