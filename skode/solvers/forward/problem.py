"""An initial value problem and its finished solve, as records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from skode.solvers.errors import SolverError
from skode.solvers.fields.protocols import Field, Tape
from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.callbacks import Callbacks
from skode.solvers.forward.output_times import EveryStep, OutputTimes, OwnOutputTimes, Positions, Reading, Readout
from skode.solvers.forward.step_control import StepControl
from skode.solvers.forward.times_on_device import OwnReading, OwnTimes
from skode.solvers.statistics import Statistics
from skode.solvers.tableaus import Method
from skode.solvers.time_gradients import Jumps
from skode.solvers.tolerances import Tolerances


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
        What is called at every step.
    """

    tableau: Method | None = None
    control: Callable[[Any, Tensor, float, float], StepControl] | None = None
    tolerances: Tolerances | None = None
    norm: Callable[[tuple[Tensor, ...]], Tensor] | None = None
    seminorm: bool = False
    callbacks: Callbacks | None = None


AS_FORWARD = BackwardSolve()


@dataclass(frozen=True)
class Problem:
    """An initial value problem and how to solve it.

    Attributes
    ----------
    field : Field
        The vector field.
    f0 : Tensor
        Its value at the start.
    tape0 : Tape or None
        That evaluation, where it can be pulled back.
    t0, t1 : float
        The time span, in either direction.
    tableau : ButcherTableau
        The method.
    control : StepControl
        How steps are chosen.
    times : ndarray or None
        Output times; None for the end of every step.
    rows : ndarray of int or None
        The sample of each output time; None where each is for the whole batch.
    statistics : Statistics
        Where the work is counted.
    memory_budget : int
        Bytes of stage activations, or of autograd graphs, that the discrete adjoint may keep; beyond it they are
        recomputed.
    backward : BackwardSolve
        How the continuous adjoint solves its equation.
    jumps : Jumps or None
        The times at which the field jumps, where these require grad.
    dense : bool
        Whether the stages of all steps are kept for dense output.
    events : object or None
        See :class:`skode.solvers.forward.events.EventFinder`.
    on_failure : {"raise", "nan"}
        Whether a solve that can't go on raises, or answers NaN from there on.
    spans : ndarray of shape (n_samples, 2) or None
        The time span of each sample, where they have their own and steps are per sample.
    failures : dict
        Why samples, by their index, could not go on, where steps are per sample.
    replay : object or None
        The recordings by which it is solved, see :class:`skode.solvers.device.replay.Replay`: the field has not been
        evaluated then, and ``f0`` is None.
    replay_key : hashable
        What these are kept under.
    opening : list
        What keeps the first evaluation by a recording, once it was made and if it can be pulled back.
    own_times : OwnTimes or None
        Output times of the samples where they are on the device; ``times`` is None then.
    callbacks : Callbacks or None
        What is called at every step.
    """

    field: Field
    f0: Any
    t0: float
    t1: float
    tableau: Method
    control: StepControl
    times: np.ndarray | None
    rows: np.ndarray | None
    statistics: Statistics
    memory_budget: int
    backward: BackwardSolve = AS_FORWARD
    jumps: Jumps | None = None
    dense: bool = False
    tape0: Tape | None = None
    events: Any = None
    on_failure: str = "raise"
    spans: np.ndarray | None = None
    failures: dict[int, SolverError] = dataclasses.field(default_factory=dict)
    replay: Any = None
    replay_key: Any = None
    opening: list[Any] = dataclasses.field(default_factory=list)
    own_times: OwnTimes | None = None
    callbacks: Callbacks | None = None

    def readout(self, n_samples: int, positions: Positions) -> Readout:
        """A fresh account of the outputs still to be answered."""
        direction = 1.0 if self.t1 >= self.t0 else -1.0
        if self.times is None:
            initial = None if self.spans is None else self.spans[:, 0]
            return EveryStep(positions, n_samples if self.rowwise else None, initial)
        if self.control.per_sample:
            spans = self.spans if self.spans is not None else np.tile([self.t0, self.t1], (n_samples, 1))
            return OwnOutputTimes(self.times, self.rows, spans)
        return OutputTimes(self.times, self.rows, direction)

    @property
    def rowwise(self) -> bool:
        """Whether every output is the state of one sample."""
        events_of_samples = self.events is not None and self.events.rowwise
        return self.rows is not None or self.control.per_sample or events_of_samples


@dataclass
class Path:
    r"""A finished solve.

    Attributes
    ----------
    outputs : Tensor
        States at the output times, of shape (m, \*state) or, for single samples, (m, \*state[1:]). After those asked
        for come those at events and, where none were asked for, at the ends of steps.
    times : ndarray of shape (m,)
        Where those are.
    rows : ndarray of int, of shape (m,), or None
        The samples that they belong to, where they are the states of single samples.
    y_end : Tensor
        The last state.
    t_end : float
        Its time.
    start : list of Reading
        Outputs at the initial time.
    readout : object
        The account of the outputs.
    steps : list of AcceptedStep
        Empty unless recorded.
    failure : SolverError or None
        Why the solve ended early, where that is answered with NaN.
    n_known : int
        How many outputs were asked for.
    tape0 : Tape or None
        The first evaluation, until it is pulled back.
    reading : OwnReading or None
        How outputs at times on the device were read off the steps.
    """

    outputs: Tensor
    times: np.ndarray
    rows: np.ndarray | None
    y_end: Tensor
    t_end: float
    start: list[Reading]
    readout: Any
    steps: list[AcceptedStep] = dataclasses.field(default_factory=list)
    failure: SolverError | None = None
    n_known: int = 0
    tape0: Tape | None = None
    reading: OwnReading | None = None
