"""Times in float64 for states of lower precision, where these could not tell the times of a solve apart.

Seconds since 1970 are 128 seconds apart in float32: a function of such a time needs more digits than its state has.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.fields.autograd import evaluated
from skode.solvers.fields.pullback import has_own_pullback
from skode.solvers.fields.samples import take_samples

# How many times its own length a span may lie away from zero before the state's precision is not relied on, and before
# the answer is worth a warning.
FAR, TOO_FAR = 16.0, 1e4


class WideTime:
    """A vector field that receives its time in float64.

    Parameters
    ----------
    func : callable
        The vector field ``func(t, y)``; a value that its time has made float64 is converted to the state's dtype.
    """

    time_dtype = torch.float64

    def __init__(self, func: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.func = func

    def take(self, rows: Tensor) -> WideTime:
        """The field on some samples."""
        return WideTime(take_samples(self.func, rows))

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        value = self.func(t, y)
        return value.to(y.dtype) if isinstance(value, Tensor) and value.dtype == torch.float64 else value


def with_wide_time(func: Any, t0: float | np.ndarray, t1: float | np.ndarray, y0: Tensor) -> Any:
    r"""The vector field, with its time in float64 where that is needed and it can take it.

    Parameters
    ----------
    func : callable
        The vector field.
    t0, t1 : float or ndarray of shape (batch,)
        Ends of the time span, or of each sample's; ``t1`` may be infinite.
    y0 : Tensor of shape (\*state)
        The initial state, of the dtype that is to be solved in.

    Returns
    -------
    callable
        ``func`` itself, or a :class:`WideTime`.

    Warns
    -----
    UserWarning
        Where ``func`` fails with a float64 time, though the state's dtype can hardly tell its times apart.
    """
    if y0.dtype == torch.float64:
        return func
    one_span = not np.ndim(t0)  # whose distance is found at once
    if (one_span and _distance(t0, t1) <= FAR) or not callable(func) or has_own_pullback(func):
        return func
    distance = _distance(t0, t1)
    if distance <= FAR:
        return func
    start = np.atleast_1d(t0)
    wide = WideTime(func)
    shape = (len(start), *[1] * (y0.ndim - 1)) if np.ndim(t0) else ()
    try:
        with torch.no_grad():
            time = torch.as_tensor(start, dtype=torch.float64, device=y0.device).view(shape)
            value = evaluated(wide, time, y0.detach())
        takes_it = value.dtype == y0.dtype
    except Exception:  # whatever else is wrong with func shows in the solve itself
        takes_it = False
    if takes_it:
        return wide
    if distance > TOO_FAR:
        furthest = np.abs(start).max()
        warnings.warn(
            f"func(t, y) cannot take a float64 time beside a state of {y0.dtype}, in which times of {furthest:.6g} are "
            f"{np.spacing(np.float32(furthest)):.3g} apart: subtract an offset from the times, or use a float64 state.",
            UserWarning,
            stacklevel=3,
        )
    return func


def _distance(t0: float | np.ndarray, t1: float | np.ndarray) -> float:
    """How many times its own length a span is away from zero; of several the largest."""
    if isinstance(t0, np.ndarray) and t0.ndim:
        return max(map(_distance, t0.tolist(), np.asarray(t1).tolist()), default=0.0)
    t0, t1 = float(t0), float(t1)
    length = abs(t1 - t0) if math.isfinite(t1) else 1.0
    return abs(t0) / length if length > 0.0 else 0.0
