"""Functions with data of their own for each sample: what they are on some of the samples only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


@runtime_checkable
class TakesSamples(Protocol):
    """A function of a batch of states that also depends on data of each sample: covariates, parameters, a context.

    Where samples take steps of their own, those that have arrived leave the batch, and the function is evaluated on
    the rest. It says by :meth:`take` what it is there. Functions without this method are evaluated as they are.
    """

    def __call__(self, t: Any, y: Tensor) -> Any:
        """The value at ``(t, y)``, of all its samples."""
        ...

    def take(self, rows: Tensor) -> Callable[[Any, Tensor], Any]:
        """The same function of some of its samples, given by their positions, an int64 tensor of shape (m,).

        It depends on the same parameters. Where the function offers its own pullback, that of the whole one must also
        serve the evaluations of the part: what a pullback needs of the samples' data belongs to the residuals.
        """
        ...


class Compiled:
    """A function compiled by ``torch.compile``, which on some samples is one compiled as well.

    Parameters
    ----------
    func : callable
        The function.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func, self.compiled = func, torch.compile(func)  # torch itself remembers what it has compiled
        self.time_dtype = getattr(func, "time_dtype", None)

    def __call__(self, t: Any, y: Tensor) -> Any:
        return self.compiled(t, y)

    def take(self, rows: Tensor) -> Compiled:
        """The function on some samples."""
        func = take_samples(self.func, rows)
        return self if func is self.func else Compiled(func)


def take_samples(func: Function, rows: Tensor) -> Function:
    """The function on some samples: what its :meth:`~TakesSamples.take` answers, or itself where it has none."""
    take = getattr(func, "take", None)
    if take is None:
        return func
    with torch.enable_grad():  # the samples' data are differentiated through their parts
        return take(rows)
