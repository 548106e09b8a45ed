"""torchdiffeq's callbacks: functions that a vector field carries, called at every step of its solve.

``callback_step(t0, y0, dt)`` is called before a step is tried, ``callback_accept_step`` and ``callback_reject_step``
when an adaptive method has accepted or rejected it; those with ``_adjoint`` behind their names, in the same places of
the solve of the adjoint equation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skode.solvers.errors import SolverError
from skode.solvers.forward.move import Move

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
        return Callbacks(*(None if callback is None else _taking_apart(callback, parts) for callback in each))

    @staticmethod
    def call(callback: Callback | None, t: Any, y: Tensor, h: Any) -> None:
        """Call one of them, with tensors that nothing else writes to."""
        if callback is not None:
            callback(_time(t), y if y.requires_grad else y.clone(), _time(h).abs())


def observed(
    march: Callable[..., Iterator[Move]], problem: Any, stepper: Any, y0: Tensor, clock: Any
) -> Iterator[Move]:
    """A march whose steps are reported to the problem's callbacks."""
    observer = _Observer(stepper, problem.callbacks)
    try:
        for move in march(problem, observer, y0, clock):
            observer.moved()
            yield move
    except SolverError:
        observer.rejected()
        raise


class _Observer:
    """A stepper whose attempts are reported: one that is followed by another, without having been accepted, was not."""

    def __init__(self, stepper: Any, callbacks: Callbacks) -> None:
        self.stepper = stepper
        self.callbacks = callbacks
        self.tried: tuple[Any, Tensor, Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stepper, name)

    def attempt(self, t: Any, h: Any, y: Tensor, *edges: Any) -> Any:
        self.rejected()
        self.callbacks.call(self.callbacks.step, t, y, h)
        self.tried = (t, y, h)
        return self.stepper.attempt(t, h, y, *edges)

    def moved(self) -> None:
        """The step just tried was accepted."""
        assert self.tried is not None
        (t, y, h), self.tried = self.tried, None
        self.callbacks.call(self.callbacks.accept, t, y, h)

    def rejected(self) -> None:
        """The step tried before, if it was not accepted, is tried no longer."""
        if self.tried is not None:
            (t, y, h), self.tried = self.tried, None
            self.callbacks.call(self.callbacks.reject, t, y, h)


def _taking_apart(callback: Callback, parts: Callable[[Tensor], Any]) -> Callback:
    return lambda t, y, dt: callback(t, parts(y), dt)


def _time(t: Any) -> Tensor:
    return t.detach().clone() if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
