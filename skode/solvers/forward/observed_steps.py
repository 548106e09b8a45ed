"""Steps that are reported to the callbacks of a problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from skode.solvers.errors import SolverError
from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.callbacks import Callbacks
from skode.solvers.forward.run import Run
from skode.solvers.stepping.stepper import Stepper


def observed(
    march: Callable[..., Iterator[AcceptedStep]], run: Run, stepper: Stepper, y0: Tensor
) -> Iterator[AcceptedStep]:
    """A march whose steps are reported to the problem's callbacks."""
    assert run.control.callbacks is not None
    observer = _Observer(stepper, run.control.callbacks)
    try:
        for step in march(run, observer, y0):
            observer.moved()
            yield step
    except SolverError:
        observer.rejected()
        raise


class _Observer:
    """A stepper whose attempts are reported: one that is followed by another, without having been accepted, was not."""

    def __init__(self, stepper: Stepper, callbacks: Callbacks) -> None:
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
