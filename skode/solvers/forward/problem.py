"""An initial value problem whose arguments have been checked, and how it is to be solved and differentiated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from skode.solvers.forward.callbacks import Callbacks
from skode.solvers.forward.events import EventFinder
from skode.solvers.forward.step_control import StepControl
from skode.solvers.forward.times_on_device import OwnTimes
from skode.solvers.tableaus import Method
from skode.solvers.tolerances import Tolerances


@dataclass(frozen=True)
class TimeSpan:
    """From when to when a problem is solved, in either direction.

    Attributes
    ----------
    t0, t1 : float
        The initial and the final time; the least and the greatest of all samples where these have spans of their own.
    by_sample : ndarray of shape (n_samples, 2) or None
        The time span of each sample, where they have their own and steps are per sample.
    """

    t0: float
    t1: float
    by_sample: np.ndarray | None = None

    @property
    def direction(self) -> float:
        """1 forward in time, -1 backward."""
        return 1.0 if self.t1 >= self.t0 else -1.0

    def of_samples(self, n_samples: int) -> np.ndarray:
        """The time span of each sample, of shape (n_samples, 2)."""
        return np.tile([self.t0, self.t1], (n_samples, 1)) if self.by_sample is None else self.by_sample


@dataclass(frozen=True)
class RequestedOutputs:
    """The states that a solve is to return.

    Attributes
    ----------
    times : ndarray or None
        Output times; None for the end of every step.
    rows : ndarray of int or None
        The sample of each output time; None where each is for the whole batch.
    on_device : OwnTimes or None
        Output times of the samples where they are on the device; ``times`` is None then.
    dense : bool
        Whether the stages of all steps are kept for dense output.
    on_failure : {"raise", "nan"}
        Whether a solve that can't go on raises, or answers NaN from there on.
    """

    times: np.ndarray | None = None
    rows: np.ndarray | None = None
    on_device: OwnTimes | None = None
    dense: bool = False
    on_failure: str = "raise"


@dataclass(frozen=True)
class BackwardSolve:
    """How the adjoint equation is solved, where that differs from the way of the solve that it belongs to.

    Attributes
    ----------
    tableau : ButcherTableau or AdamsMethod or None
        Another method.
    control : callable or None
        Step control of ``control(func, y, t, t_next)`` for the adjoint equation from one time to another.
    tolerances : Tolerances or None
        Other tolerances, whose norm plays no part.
    norm : callable or None
        The norm of its error test, of the tuple ``(0, y, a, *gradients)`` of time (of which there is no error), state,
        adjoint and the gradients of the parameters.
    seminorm : bool
        Whether the default norm leaves out the parameters' gradients.
    callbacks : Callbacks or None
        Functions called at every step.
    """

    tableau: Method | None = None
    control: Callable[[Any, Tensor, float, float], StepControl] | None = None
    tolerances: Tolerances | None = None
    norm: Callable[[tuple[Tensor, ...]], Tensor] | None = None
    seminorm: bool = False
    callbacks: Callbacks | None = None


AS_FORWARD = BackwardSolve()


@dataclass(frozen=True)
class Gradients:
    """How a solve is differentiated.

    Attributes
    ----------
    adjoint : str
        A key of :data:`skode.solvers.adjoints.ADJOINTS`.
    memory_budget : int
        Bytes of stage activations, or of autograd graphs, that the discrete adjoint may keep; beyond it they are
        recomputed.
    backward : BackwardSolve
        How the continuous adjoint solves its equation.
    jump_t : Tensor or None
        The times at which the field jumps, where they require grad.
    parameters : sequence of Tensor or None
        The tensors behind the field whose gradients are wanted; None: all that are found.
    """

    adjoint: str
    memory_budget: int
    backward: BackwardSolve = AS_FORWARD
    jump_t: Tensor | None = None
    parameters: Sequence[Tensor] | None = None


@dataclass(frozen=True)
class Problem:
    r"""An initial value problem, and how it is to be solved and differentiated.

    Attributes
    ----------
    func : callable
        The vector field, ``func(t, y)``.
    y0 : Tensor of shape (\*state)
        The initial state.
    span : TimeSpan
        From when to when.
    tableau : ButcherTableau or AdamsMethod
        The method.
    control : StepControl
        How steps are chosen.
    outputs : RequestedOutputs
        The states that are returned.
    gradients : Gradients
        How the solve is differentiated.
    events : EventFinder or None
        Looks for events on the way.
    """

    func: Callable[..., Any]
    y0: Tensor
    span: TimeSpan
    tableau: Method
    control: StepControl
    outputs: RequestedOutputs
    gradients: Gradients
    events: EventFinder | None = None
