"""torchdiffeq's callbacks: functions that a vector field carries, called at every step of its solve.

``callback_step(t0, y0, dt)`` is called before a step is tried, ``callback_accept_step`` and ``callback_reject_step``
when an adaptive method has accepted or rejected it; those with ``_adjoint`` behind their names, in the same places of
the solve of the adjoint equation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Callback = Callable[[Tensor, Any, Tensor], Any]


@dataclass(frozen=True)
class Callbacks:
    """Functions that are called at the steps of a solve.

    Attributes
    ----------
    step, accept, reject : callable or None
        ``callback(t0, y0, dt)``, with time, state and positive size of a step.
    """

    step: Callback | None = None
    accept: Callback | None = None
    reject: Callback | None = None

    def of(self, parts: Callable[[Tensor], Any]) -> Callbacks:
        """Those that receive the state taken apart."""
        each = (self.step, self.accept, self.reject)
        return Callbacks(*(None if callback is None else taking_apart(callback, parts) for callback in each))

    @staticmethod
    def call(callback: Callback | None, t: Any, y: Tensor, h: Any) -> None:
        """Call one of them, with tensors that nothing else writes to."""
        if callback is not None:
            callback(_time(t), y if y.requires_grad else y.clone(), _time(h).abs())


def taking_apart(callback: Callback, parts: Callable[[Tensor], Any]) -> Callback:
    """The same callback, which receives the state taken apart."""
    return lambda t, y, dt: callback(t, parts(y), dt)


def _time(t: Any) -> Tensor:
    return t.detach().clone() if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
