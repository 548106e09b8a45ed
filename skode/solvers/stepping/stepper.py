"""Steppers, as protocols: how the solver takes the steps of a method, and pulls them back."""

from __future__ import annotations

from typing import Any, Protocol, Self

import torch
from torch import Tensor

from skode.solvers.fields.protocols import Field, Session
from skode.solvers.statistics import Statistics
from skode.solvers.stepping.step import NO_EDGES, Edges, PulledStep, TakenStep


class Stepper(Protocol):
    """Takes steps of one method over one field, forward.

    A step is tried by :meth:`attempt`. It is moved on from by :meth:`accept`, or tried again with another size.

    Attributes
    ----------
    statistics : Statistics
        Where evaluations are counted.
    time_dtype : torch.dtype
        The dtype of the times that the field receives.
    """

    statistics: Statistics
    time_dtype: torch.dtype

    def start(self, f0: Tensor) -> None:
        """Begin a solve with the derivative ``f0`` at the initial state."""
        ...

    def attempt(self, t: Any, h: Any, y: Tensor, edges: Edges = NO_EDGES) -> TakenStep:
        """Try a step of size ``h`` from ``(t, y)``; numbers, or columns of them where steps are per sample."""
        ...

    def accept(self) -> None:
        """Move on from the step just tried."""
        ...

    def release(self) -> None:
        """Let others have the memory: neither the stepper nor the stages of its steps are used any longer."""
        ...


class AdaptiveStepper(Stepper, Protocol):
    """A stepper whose steps estimate their error, and may be those of single samples."""

    def error(self, step: TakenStep) -> Tensor:
        """The estimated local error of the step just tried, of the state's shape."""
        ...

    def restart(self, t: Any, h: Any, y: Tensor, edges: Edges) -> None:
        """Evaluate the first stage anew, after a discontinuity of the field."""
        ...

    def restart_some(self, t: Any, h: Tensor, y: Tensor, edges: Edges) -> None:
        """The same for the samples marked in the first of ``edges``."""
        ...

    def accept_some(self, moved: Tensor) -> None:
        """Move on with some samples, given as a column of booleans; the others try again."""
        ...

    def part(self, step: TakenStep, these: Tensor) -> TakenStep:
        """The step just tried, of some samples only."""
        ...

    def take(self, these: Tensor) -> Self:
        """A stepper of some samples only."""
        ...


class ReversibleStepper(Stepper, Protocol):
    """A stepper whose steps can be kept, and pulled back.

    Attributes
    ----------
    field : Field
        The vector field; a reverse sweep sets that of the samples whose step it pulls back.
    keep : bool
        Whether each step gets a tape of its own, to be kept.
    n_carried : int
        Number of derivatives that a step takes over from those before it: 1 where the first stage is the last step's
        last.
    keeps_first : bool
        Whether a step is pulled back more cheaply if its first stage is remembered.
    needs_stages : bool
        Whether a step can be pulled back only with its stages' derivatives.
    """

    field: Field
    keep: bool
    n_carried: int
    keeps_first: bool
    needs_stages: bool

    def stop_keeping(self) -> None:
        """Use the same memory for all steps from here on."""
        ...

    def remake(self, step: TakenStep, first: Tensor | None, *, last_is_used: bool) -> Tensor:
        """Evaluate a step again, on a new tape that can be pulled back; returns the state at its end."""
        ...

    def pull(
        self, step: TakenStep, session: Session, cotangent: Tensor, carried: Tensor | None, given: Tensor | None
    ) -> PulledStep:
        """The vector-Jacobian product of a step.

        Parameters
        ----------
        step : TakenStep
            The step; its tape holds its evaluations.
        session : Session
            Where vector-Jacobian products are taken.
        cotangent : Tensor
            That of the state at its end, of the state's shape.
        carried : Tensor of shape (r, n) or None
            Cotangents of the derivatives that later steps took over from this one.
        given : Tensor of shape (s, n) or None
            Those that outputs inside the step give its stages.
        """
        ...
