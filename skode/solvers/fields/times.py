"""Times as vector fields receive them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def time_dtype_of(func: Any, y: Tensor) -> torch.dtype:
    """Of which dtype times are for a field, or a function: the state's, unless it says otherwise."""
    return getattr(func, "time_dtype", None) or y.dtype


def time_tensor(t: float | Tensor, y: Tensor, func: Any = None) -> Tensor:
    """A time as the tensor, on the state's device, that ``func`` receives: 0-dimensional, or per sample."""
    if isinstance(t, float):  # in half the time
        return torch.scalar_tensor(t, dtype=time_dtype_of(func, y), device=y.device)
    return torch.as_tensor(t, dtype=time_dtype_of(func, y), device=y.device)


def column(values: np.ndarray, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """One number per sample, in the dtype of states like this one and of a shape that broadcasts against them."""
    given = torch.tensor(values, dtype=dtype or like.dtype, device=like.device)
    return given.view(len(values), *[1] * (like.ndim - 1))
