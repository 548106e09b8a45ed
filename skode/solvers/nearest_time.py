"""The times next to a discontinuity of the field: one unit in the last place before and after it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def nearest_time(t: Any, direction: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A time in a dtype, and the one nearest to it on a side.

    Parameters
    ----------
    t : float, ndarray or Tensor
        The time, or several.
    direction : float, ndarray or Tensor
        Positive for the side of later times, negative for that of earlier ones; broadcasts against ``t``.
    dtype : torch.dtype
        The dtype that the field receives times in.

    Returns
    -------
    exact, nearest : Tensor
        The time rounded to the dtype, and its neighbour, without graphs.
    """
    exact = torch.as_tensor(t, dtype=dtype).detach()
    return exact, torch.nextafter(exact, torch.as_tensor(direction, dtype=dtype).detach() * math.inf)
