"""A solve under way, and as it was when it ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from skode.solvers.errors import SolverError
from skode.solvers.fields.protocols import Field, Tape
from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.events import EventFinder
from skode.solvers.forward.output_times import Reading
from skode.solvers.forward.problem import Gradients, Problem, RequestedOutputs, TimeSpan
from skode.solvers.forward.step_control import StepControl
from skode.solvers.forward.times_on_device import OwnReading
from skode.solvers.statistics import Statistics
from skode.solvers.tableaus import Method
from skode.solvers.time_gradients import Jumps


@dataclass
class Recordings:
    """Recordings on a device by which a problem is solved, see :class:`skode.solvers.device.replay.Replay`.

    Attributes
    ----------
    key : hashable
        The key that they are kept under.
    replay : Replay or None
        The recordings; None where there are none yet.
    opening : list
        The lease of the first evaluation by a recording, once it was made and if it can be pulled back.
    """

    key: Hashable = None
    replay: Any = None
    opening: list[Any] = dataclasses.field(default_factory=list)


@dataclass
class Run:
    """A solve of a problem under way.

    Attributes
    ----------
    problem : Problem
        The problem.
    field : Field
        Its vector field.
    f0 : Tensor or None
        The field's value at the start; None where a recording evaluates it.
    tape0 : Tape or None
        That evaluation, where it can be pulled back, and until it is.
    jumps : Jumps or None
        The times at which the field jumps, where these require grad.
    recordings : Recordings
        Those by which it is solved, if there are any.
    statistics : Statistics
        Counts of the work.
    failures : dict
        Why samples, by their index, could not go on, where steps are per sample.
    """

    problem: Problem
    field: Field
    f0: Any = None
    tape0: Tape | None = None
    jumps: Jumps | None = None
    recordings: Recordings = dataclasses.field(default_factory=Recordings)
    statistics: Statistics = dataclasses.field(default_factory=Statistics)
    failures: dict[int, SolverError] = dataclasses.field(default_factory=dict)

    @property
    def span(self) -> TimeSpan:
        """From when to when the problem is solved."""
        return self.problem.span

    @property
    def tableau(self) -> Method:
        """The method."""
        return self.problem.tableau

    @property
    def control(self) -> StepControl:
        """How steps are chosen."""
        return self.problem.control

    @property
    def outputs(self) -> RequestedOutputs:
        """The states that are returned."""
        return self.problem.outputs

    @property
    def gradients(self) -> Gradients:
        """How the solve is differentiated."""
        return self.problem.gradients

    @property
    def events(self) -> EventFinder | None:
        """Looks for events on the way."""
        return self.problem.events

    @property
    def rowwise(self) -> bool:
        """Whether every output is the state of one sample."""
        events_of_samples = self.events is not None and self.events.rowwise
        return self.outputs.rows is not None or self.control.per_sample or events_of_samples


@dataclass
class Path:
    r"""A finished solve.

    Attributes
    ----------
    outputs : Tensor
        States at the output times, of shape (m, \*state) or, for single samples, (m, \*state[1:]). After those that
        were requested come those at events and, where none were requested, at the ends of steps.
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
        Number of outputs that were requested.
    reading : OwnReading or None
        How outputs at times on the device were read off the steps.
    ahead : bool
        Whether the steps were taken ahead of the host, whose tapes hold single evaluations.
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
    reading: OwnReading | None = None
    ahead: bool = False
