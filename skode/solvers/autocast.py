"""Solves under autocast: the field is evaluated in the lower precision, the solver's own sums are not.

States, stages and errors keep the state's dtype, or every step would be rounded to the lower precision and no error
test would mean anything.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from skode.solvers.fields.pullback import has_own_pullback
from skode.solvers.fields.samples import take_samples

Solver = TypeVar("Solver", bound=Callable[..., Any])


def outside_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Where nothing is cast, whatever the caller has begun."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def solves_outside_autocast(solve: Solver) -> Solver:
    """Make a solver, called as ``solve(func, ...)`` with a ``y0``, one that only evaluates ``func`` under autocast."""
    signature = inspect.signature(solve)

    @functools.wraps(solve)
    def wrapper(func: Any, *args: Any, **kwargs: Any) -> Any:
        if not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
            return solve(func, *args, **kwargs)
        y0 = signature.bind(func, *args, **kwargs).arguments["y0"]
        first = y0[0] if isinstance(y0, tuple) and y0 else y0
        if not isinstance(first, Tensor) or not torch.is_autocast_enabled(first.device.type):
            return solve(func, *args, **kwargs)
        if callable(func) and not has_own_pullback(func):
            func = InAutocast(func, first.device.type, torch.get_autocast_dtype(first.device.type))
        with outside_autocast(first.device):
            return solve(func, *args, **kwargs)

    return cast(Solver, wrapper)


class InAutocast:
    """A field that is evaluated under autocast, whose values have the states' dtype all the same.

    Parameters
    ----------
    func : callable
        ``func(t, y)``.
    kind : str
        Kind of the device.
    dtype : torch.dtype
        The dtype that operations are cast to.
    """

    def __init__(self, func: Callable, kind: str, dtype: torch.dtype) -> None:
        self.func, self.kind, self.dtype = func, kind, dtype

    def take(self, rows: Tensor) -> InAutocast:
        """The field on some samples."""
        return InAutocast(take_samples(self.func, rows), self.kind, self.dtype)

    def __call__(self, t: Tensor, y: Any) -> Any:
        # Without the cache, which would keep copies of weights that were made where no graph was recorded.
        with torch.autocast(self.kind, dtype=self.dtype, cache_enabled=False):
            value = self.func(t, y)
        if isinstance(value, tuple | list):
            return tuple(map(self._raised, value, y))
        return self._raised(value, y)

    def _raised(self, value: Any, y: Tensor) -> Any:
        """A value of autocast's dtype in that of the state."""
        return value.to(y.dtype) if isinstance(value, Tensor) and value.dtype == self.dtype else value
