"""Batches without padding: the texts of a batch one after the other in a single row, for flash attention.

Flash attention is told where each text starts and looks no further, so padding is neither computed nor stored. Imports no
engine: what it is given decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.errors import OptionError
from stopt.runtime.arrays import Array
from stopt.runtime.tokenizer import Batch, Ints
from stopt.spec import Task

__all__ = ["FLASH", "Packed", "check_flash", "takes_packed"]

# flash attention under transformers' names, and the package that each is in
FLASH = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_3"}
_HALF = ("float16", "bfloat16")
# transformers brings its own for these
_BUILT_IN = {"npu"}

# Decoders whose layers hand the texts' places on to the attention and mix tokens nowhere else (transformers 4.57), each
# tested. The flags of transformers' classes do not tell: Lfm2Model has them, and its convolutions run from text to text.
_PACKED_MODELS = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "granite",
        "llama",
        "mistral",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
    }
)


def check_flash(name: str, device: str, dtype: str) -> None:
    """See that a flash attention can run.

    Args:
        name: Its name, one of :data:`FLASH`.
        device: Kind of the torch device, such as ``"cuda"``.
        dtype: The model's dtype; ``"auto"`` is not known yet.

    Raises:
        OptionError: If it cannot; with every reason.
    """
    reasons = []
    if device != "cuda" and device not in _BUILT_IN:
        reasons.append(f"it runs on CUDA devices, and the device is {device}")
    if dtype not in (*_HALF, "auto"):
        reasons.append(f"it computes in {' or '.join(_HALF)}, and the dtype is {dtype}")
    if device not in _BUILT_IN and find_spec(FLASH[name]) is None:
        reasons.append(f"the package {FLASH[name]} is not installed")
    if not reasons:
        return
    if len(reasons) == 1 and dtype not in (*_HALF, "auto"):
        hint = "add dtype='bfloat16' or 'float16' to model_kwargs"
    else:
        hint = "attn_implementation='sdpa', the default, runs everywhere"
    raise OptionError(f"attn_implementation {name!r} is not possible: {'; '.join(reasons)}", hint)


def takes_packed(attention: str | None, model_type: str, task: Task) -> bool:
    """Whether a transformer may be given texts without padding.

    Heads are left out: they look for each row's last token.
    """
    return attention in FLASH and model_type in _PACKED_MODELS and task is Task.FEATURES


@dataclass(frozen=True, slots=True)
class Packed:
    """The N tokens of B texts that would be padded to T.

    Attributes:
        input_ids: (1, N) int64.
        position_ids: (1, N) int64, from 0 in every text.
        starts: (B + 1,) int32, where each text starts, and N.
        longest: Tokens of the longest text.
        places: (N,) int64, where each token stands in the padded batch, row after row.
        shape: (B, T).
    """

    input_ids: Ints
    position_ids: Ints
    starts: npt.NDArray[np.int32]
    longest: int
    places: Ints
    shape: tuple[int, int]

    @classmethod
    def of(cls, batch: Batch) -> Packed:
        """Leave out a batch's padding. A text without a token is run as one token of padding, as it is by itself."""
        kept = batch.attention_mask != 0
        kept[~kept.any(axis=1), 0] = True
        lengths = kept.sum(axis=1)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        places = np.flatnonzero(kept)
        positions = np.arange(len(places)) - np.repeat(starts[:-1], lengths)
        return cls(
            batch.input_ids.reshape(1, -1)[:, places],
            positions[None],
            starts,
            int(lengths.max()),
            places,
            (kept.shape[0], kept.shape[1]),
        )

    def unpacked(self, values: Array, places: Array) -> Array:
        """Put each token's values where they stand in the padded batch.

        Args:
            values: (1, N, D) tensor.
            places: ``places`` as a tensor on the same device.

        Returns:
            (B, T, D), zeros for padding.
        """
        if len(self.places) == self.shape[0] * self.shape[1]:
            return values.reshape(*self.shape, -1)
        padded: Any = values.new_zeros(self.shape[0] * self.shape[1], values.shape[-1])
        padded[places] = values[0]
        return padded.reshape(*self.shape, -1)
