"""One spelling of array operations for numpy and torch: the Python array API standard.

numpy (from 2.1) speaks it itself; torch does through array-api-compat, which is imported only when a tensor turns up.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Array", "is_tensor", "namespace", "numpy_array"]

Array = Any  # numpy.ndarray or torch.Tensor


def namespace(*arrays: Array) -> Any:
    """Return the module with the array API functions for these arrays; tensors win over arrays."""
    if any(map(is_tensor, arrays)):
        import array_api_compat.torch

        return array_api_compat.torch
    return np


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a torch tensor; imports nothing."""
    return type(value).__module__.partition(".")[0] == "torch"


def numpy_array(values: Array) -> Any:
    """Return a tensor as numpy's array, bfloat16 as float32, for numpy has none; an array, or a list of numbers, as an array."""
    if is_tensor(values):
        values = values.detach().cpu()
        values = (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
    return np.asarray(values)
