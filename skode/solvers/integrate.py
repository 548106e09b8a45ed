"""The forward solve: march, read outputs, and remember what the reverse sweep will need."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.callbacks import Callbacks, observed
from skode.solvers.device import AheadStepper, march_ahead, marches_ahead
from skode.solvers.device.own_times import OwnReading, OwnTimes, OwnTimesCollector
from skode.solvers.errors import SolverError
from skode.solvers.march import FLOATS, Clock, Move, StepControl, march
from skode.solvers.per_sample import explained_by_samples, march_each
from skode.solvers.readout import EveryStep, OutputTimes, OwnOutputTimes, Positions, Reading, Readout
from skode.solvers.statistics import Statistics
from skode.solvers.step_size import Tolerances
from skode.solvers.stepping import TakenStep, new_stepper
from skode.solvers.stepping.explicit import stage_time
from skode.solvers.tableaus import ButcherTableau, Method
from skode.solvers.times import Jumps
from skode.solvers.vector_field import Field, Tape, column, time_dtype_of


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
        See :class:`skode.solvers.events.EventFinder`.
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


@dataclass(slots=True)
class RecordedStep:
    """One accepted step, as the reverse sweep and the dense output need it.

    Attributes
    ----------
    taken : TakenStep
        The step.
    t, t_next : float or ndarray
        Its ends.
    readings : list of Reading
        The outputs it answered.
    opens : bool
        Whether its first stage was evaluated anew.
    first : Tensor of shape (n,) or None
        Its first stage, where that was taken over and is kept.
    rows : Tensor of int64 or None
        The samples that took it; None for all.
    """

    taken: TakenStep
    t: Any
    t_next: Any
    readings: list[Reading]
    opens: bool
    first: Tensor | None
    rows: Tensor | None


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
    steps : list of RecordedStep
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
    steps: list[RecordedStep] = dataclasses.field(default_factory=list)
    failure: SolverError | None = None
    n_known: int = 0
    tape0: Tape | None = None
    reading: OwnReading | None = None


class Collector:
    """Reads outputs and events off the steps of a solve, as they are taken."""

    def __init__(self, problem: Problem, y0: Tensor) -> None:
        self.problem = problem
        self.y0 = y0
        n_samples = len(y0) if y0.ndim else 1
        self.positions = Positions(0)
        self.readout: Any = problem.readout(n_samples, self.positions)
        self.positions.n += self.readout.n_outputs
        self.n_known = self.positions.n
        self.outputs = Outputs()
        start = self.readout.at_start(problem.t0)
        self.start = [] if start is None else [start]
        self.path = Path(y0, np.empty(0), None, y0, problem.t0, self.start, self.readout)

    def in_step(self, move: Move) -> list[Reading]:
        """The outputs that a step answers, those at events included."""
        readings: list[Reading] = self.readout.in_step(move.t, move.t_next, move.rows)
        events = self.problem.events
        if events is None:
            return readings
        stopped = events.stopped.copy()
        n = len(self.y0) if self.y0.ndim else 1
        with explained_by_samples(n if move.rows is None else len(move.rows), n):
            at_events, stop = events.in_step(move, self.positions)
        samples = np.arange(len(stop)) if move.rows is None or not events.rowwise else move.rows
        stop = np.where(stopped[samples], -1.0, stop)
        kept = [reading.until(stop) for reading in readings]
        return [reading for reading in kept if reading is not None] + at_events

    @property
    def ended(self) -> bool:
        """Whether terminal events have ended the solve for all samples."""
        return self.problem.events is not None and bool(self.problem.events.stopped.all())

    def finish(self, failure: SolverError | None) -> Path:
        """The path with its outputs, NaN where they were not reached."""
        problem, path = self.problem, self.path
        path.failure, path.n_known = failure, self.n_known
        path.outputs = self.outputs.assemble(self.y0, rowwise=problem.rowwise, n_outputs=self.positions.n)
        known_times = np.empty(0) if problem.times is None else problem.times
        known_rows = problem.rows
        if problem.rowwise and known_rows is None:
            n = len(self.y0)
            known_rows, known_times = np.tile(np.arange(n), len(known_times)), np.repeat(known_times, n)
        path.times = np.concatenate([known_times, *self.positions.times])
        path.rows = None if known_rows is None else np.concatenate([known_rows, *self.positions.rows])
        return path


class Outputs:
    """Collects states at output times, in the order asked for."""

    def __init__(self) -> None:
        self.pieces: list[Tensor] = []
        self.positions: list[np.ndarray] = []

    def take(self, reading: Reading, state: Tensor, *, copy: bool = False) -> None:
        """Outputs that are the state itself."""
        rows = reading.rows
        if rows is not None:
            piece = state.index_select(0, index(rows, state))
        else:
            state = state.clone() if copy else state
            piece = state.expand(len(reading.positions), *state.shape)
        self.pieces.append(piece)
        self.positions.append(reading.positions)

    def put(self, reading: Reading, states: Tensor) -> None:
        """Outputs that are known otherwise."""
        self.pieces.append(states)
        self.positions.append(reading.positions)

    def interpolate(self, reading: Reading, move: Move, weights: Tensor) -> None:
        """Outputs inside a step: ``y + h sum_i b_i(theta) k_i``, of all samples or of one each."""
        y, stages, h = move.taken.y, move.taken.stages, move.h
        if reading.rows is None:
            flat = y.reshape(-1)
            if isinstance(h, float):
                inside = torch.addmm(flat, weights, stages, alpha=h)
            else:
                inside = flat + h * (weights @ stages)
            self.pieces.append(inside.view(len(weights), *y.shape))
        else:
            rows = index(reading.rows, y)
            own = stages.view(len(stages), y.shape[0], -1).index_select(1, rows)
            inside = (own * weights.t()[..., None]).sum(0).view(len(weights), *y.shape[1:])
            per_sample = isinstance(h, torch.Tensor) and h.ndim > 0
            self.pieces.append(y.index_select(0, rows) + (h.index_select(0, rows) if per_sample else h) * inside)
        self.positions.append(reading.positions)

    def assemble(self, y0: Tensor, *, rowwise: bool, n_outputs: int) -> Tensor:
        """All outputs, stacked: each a state, or the state of one sample; NaN for those never reached."""
        shape = y0.shape[int(rowwise) :]
        if not self.pieces and not y0.numel():  # with the graph of the initial state
            return y0.reshape(n_outputs, *shape) if rowwise else y0.expand(n_outputs, *y0.shape).clone()
        if not self.pieces:
            return y0.new_full((n_outputs, *shape), torch.nan)
        stacked = torch.cat(self.pieces)
        positions = np.concatenate(self.positions)
        given = np.arange(len(positions))
        if len(positions) == n_outputs and np.array_equal(positions, given):
            return stacked
        place = np.full(n_outputs, len(positions))
        place[positions] = given
        if len(positions) < n_outputs:
            stacked = torch.cat([stacked, stacked.new_full((1, *shape), torch.nan)])
        return stacked.index_select(0, index(place, stacked))


def index(positions: np.ndarray, like: Tensor) -> Tensor:
    """Numpy indices as torch ones, on the device of the tensor they index."""
    return torch.from_numpy(np.ascontiguousarray(positions, dtype=np.int64)).to(like.device)


def entries(x: Tensor, positions: np.ndarray) -> Tensor:
    """``x[positions]``: a view where they are neighbours in order."""
    first, m = int(positions[0]), len(positions)
    if m == 1 or bool((positions[1:] - positions[:-1] == 1).all()):
        return x[first : first + m]
    return x.index_select(0, index(positions, x))


def weights_tensor(tableau: ButcherTableau, theta: np.ndarray, like: Tensor) -> Tensor:
    """Interpolation weights, computed in float64, in the state's dtype."""
    return torch.from_numpy(tableau.interpolation_weights(theta)).to(like)


def differentiable_weights(tableau: ButcherTableau, theta: Tensor) -> Tensor:
    """Interpolation weights as a differentiable function of the position in the step."""
    coefficients = torch.tensor(tableau.interpolant, dtype=theta.dtype, device=theta.device)
    powers = torch.arange(1, coefficients.shape[1] + 1, device=theta.device)
    return theta[:, None] ** powers @ coefficients.T


def start_time(t0: float, t1: float, spans: np.ndarray | None, control: StepControl, func: Any, y0: Tensor) -> Any:
    """Where the field is first evaluated, just after a jump: of all samples, or a column of one for each."""
    dtype, jumps = time_dtype_of(func, y0), control.jumps
    if spans is None:
        inside = control.nudged or t0 in jumps
        return stage_time(t0, math.copysign(1.0, t1 - t0), 0.0, (inside, False), dtype)
    here: Any = (
        column(np.isin(spans[:, 0], sorted(jumps)), y0).bool() if jumps and not control.nudged else control.nudged
    )
    start, direction = column(spans[:, 0], y0, dtype), column(np.copysign(1.0, spans[:, 1] - spans[:, 0]), y0)
    return stage_time(start, direction, 0.0, (here, False), dtype)


def moves(problem: Problem, stepper: Any, y0: Tensor, clock: Clock = FLOATS) -> Any:
    """The accepted steps, of the whole state or of each sample by itself."""
    if isinstance(stepper, AheadStepper):
        return march_ahead(problem, stepper, y0)
    if problem.control.per_sample:
        return march_each(problem, stepper, y0)
    if problem.callbacks is not None:
        return observed(march, problem, stepper, y0, clock)
    return march(problem, stepper, y0, clock)


def integrate(problem: Problem, y0: Tensor, *, record: bool, keep_stages: bool = False) -> Path:
    """Solve forward without an autograd graph.

    Parameters
    ----------
    problem : Problem
        What to solve.
    y0 : Tensor
        The initial state, without grad.
    record : bool
        Whether to keep the accepted steps, and the stage activations while they fit the memory budget.
    keep_stages : bool, default=False
        Whether the recorded steps also keep the stages themselves (for dense output and the times' gradients).

    Returns
    -------
    Path
        The outputs and, if recorded, the steps.
    """
    budget = problem.memory_budget
    new: Any = AheadStepper if marches_ahead(problem, y0) else new_stepper
    stepper = new(
        problem.tableau,
        problem.field,
        y0,
        problem.statistics,
        tolerances=problem.control.tolerances,
        keep=record and (problem.tape0 is not None or problem.replay is not None) and budget > 0,
    )
    stepper.start(problem.f0)
    collector: Any = Collector(problem, y0)
    if problem.own_times is not None:
        collector = OwnTimesCollector(problem, collector.path)
    outputs, path = collector.outputs, collector.path
    for reading in collector.start:
        outputs.take(reading, y0)
    keep_stages = keep_stages or (stepper.needs_stages and record)
    failure = None
    with torch.no_grad():
        try:
            for move in moves(problem, stepper, y0):
                taken = move.taken
                readings = collector.in_step(move)
                for reading in readings:
                    if reading.at_end:
                        outputs.take(reading, taken.y_next, copy=taken.tape is not None and taken.tape.reused)
                    else:
                        outputs.interpolate(reading, move, weights_tensor(taken.tableau, reading.theta, y0))
                if record:
                    tape = taken.tape
                    if stepper.keep and tape is not None:
                        nbytes = tape.nbytes()
                        if nbytes > budget:
                            stepper.stop_keeping()
                        else:
                            budget -= nbytes
                    if not stepper.keep:
                        taken.tape = None
                    held = taken.lasting and stepper.keep  # until nothing refers to the step any longer
                    if tape is not None and tape.reused and not held:  # the state is wanted longer than that memory
                        taken.y_next = taken.y_next.clone()
                    first = None
                    if keep_stages:
                        taken.stages = taken.stages.clone()
                    else:
                        if stepper.keeps_first:
                            budget -= taken.y.numel() * taken.y.element_size()
                            if budget >= 0:
                                first = taken.stages[0] if held else taken.stages[0].clone()
                        taken.stages = None
                    if not held and taken.lasting:
                        taken.y = taken.y.clone()
                    rows = None if move.rows is None else index(move.rows, y0)
                    path.steps.append(RecordedStep(taken, move.t, move.t_next, readings, move.opens, first, rows))
                if move.rows is None:
                    path.y_end, path.t_end = taken.y_next, move.t_next
                else:
                    path.y_end = path.y_end.index_copy(0, index(move.rows, y0), taken.y_next)
                if collector.ended:
                    break
        except SolverError as error:
            if problem.on_failure == "raise":
                raise
            failure = error
        if not record:
            path.y_end = path.y_end.clone()
        stepper.release()
        return collector.finish(failure)
