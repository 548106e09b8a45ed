"""The forward solve: march, read outputs, and remember what the reverse sweep will need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.march import StepControl, march
from skode.solvers.readout import EveryStep, OutputTimes, Reading, Readout
from skode.solvers.statistics import Statistics
from skode.solvers.stepping import Stepper
from skode.solvers.tableaus import ButcherTableau
from skode.solvers.vector_field import Field


@dataclass(frozen=True)
class Problem:
    """An initial value problem and how to solve it.

    Attributes
    ----------
    field : Field
        The vector field.
    f0 : Tensor
        Its value at the start.
    residuals0 : object or None
        What the pullback of that evaluation needs, where it was kept.
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
        Bytes of stage activations that the discrete adjoint may keep; beyond it they are recomputed.
    seminorm : bool
        Whether the continuous adjoint's error test leaves out the parameters' gradients.
    grid_is_times : bool
        Whether the steps' boundaries are the output times themselves, and move with them.
    dense : bool
        Whether the stages of all steps are kept for dense output.
    """

    field: Field
    f0: Tensor
    t0: float
    t1: float
    tableau: ButcherTableau
    control: StepControl
    times: np.ndarray | None
    rows: np.ndarray | None
    statistics: Statistics
    memory_budget: int
    seminorm: bool = False
    grid_is_times: bool = False
    dense: bool = False
    residuals0: Any = None

    def readout(self) -> Readout:
        """A fresh account of the outputs still to be answered."""
        if self.times is None:
            return EveryStep()
        return OutputTimes(self.times, self.rows, 1.0 if self.t1 >= self.t0 else -1.0)


@dataclass(slots=True)
class RecordedStep:
    """One accepted step, as the reverse sweep and the dense output need it.

    Attributes
    ----------
    t, h : float
        Start and size.
    y : Tensor
        The state at the start.
    readings : list of Reading
        The outputs it answered.
    residuals : list or None
        What the field kept at each stage; None where it is to be recomputed.
    stages : Tensor of shape (s, n) or None
        The stages, where they were asked for.
    """

    t: float
    h: float
    y: Tensor
    readings: list[Reading]
    residuals: list[Any] | None
    stages: Tensor | None


@dataclass
class Path:
    r"""A finished solve.

    Attributes
    ----------
    outputs : Tensor
        States at the output times, of shape (m, \\*state) or, for single samples, (m, \\*state[1:]).
    times : ndarray of shape (m,)
        Where those are.
    y_end : Tensor
        The state at the end of the time span.
    start : list of Reading
        Outputs at the initial time.
    steps : list of RecordedStep
        Empty unless recorded.
    """

    outputs: Tensor
    times: np.ndarray
    y_end: Tensor
    start: list[Reading]
    steps: list[RecordedStep] = field(default_factory=list)


class Outputs:
    """Collects states at output times, in the order asked for."""

    def __init__(self) -> None:
        self.pieces: list[Tensor] = []
        self.positions: list[np.ndarray] = []

    def take(self, reading: Reading, state: Tensor) -> None:
        """Outputs that are the state itself."""
        rows = reading.rows
        self.pieces.append(
            state.expand(len(reading.positions), *state.shape) if rows is None else state[index(rows, state)]
        )
        self.positions.append(reading.positions)

    def interpolate(self, reading: Reading, stepper: Any, h: Any, y: Tensor, weights: Tensor) -> None:
        """Outputs inside a step."""
        if reading.rows is None:
            self.pieces.append(stepper.interpolate(h, y, weights))
        else:
            self.pieces.append(stepper.interpolate_rows(h, y, weights, index(reading.rows, y)))
        self.positions.append(reading.positions)

    def assemble(self, y0: Tensor, *, rowwise: bool) -> Tensor:
        """All outputs, stacked: each a state, or the state of one sample."""
        if not self.pieces:
            return y0.new_empty((0, *y0.shape[int(rowwise) :]))
        stacked = torch.cat(self.pieces)
        positions = np.concatenate(self.positions)
        if np.array_equal(positions, np.arange(len(positions))):
            return stacked
        return stacked[index(np.argsort(positions, kind="stable"), stacked)]


def index(positions: np.ndarray, like: Tensor) -> Tensor:
    """Numpy indices as torch ones, on the device of the tensor they index."""
    return torch.from_numpy(np.ascontiguousarray(positions, dtype=np.int64)).to(like.device)


def weights_tensor(tableau: ButcherTableau, theta: np.ndarray, like: Tensor) -> Tensor:
    """Interpolation weights, computed in float64, in the state's dtype."""
    return torch.from_numpy(tableau.interpolation_weights(theta)).to(like)


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
    keep_residuals = problem.residuals0 is not None and record and problem.memory_budget > 0
    stepper = Stepper(problem.tableau, problem.field, y0, problem.f0, problem.statistics)
    if keep_residuals:
        stepper.keep_residuals(problem.residuals0)
    readout = problem.readout()
    outputs = Outputs()
    times: list[float] = [problem.t0]
    start = readout.at_start(problem.t0)
    if start is not None:
        outputs.take(start, y0)
    path = Path(y0, np.empty(0), y0, [] if start is None else [start])
    kept = step_bytes = 0
    with torch.no_grad():
        for move in march(stepper, problem.t0, problem.t1, y0, problem.tableau, problem.control, problem.field):
            readings = readout.in_step(move.t, move.t_next)
            for reading in readings:
                if reading.at_end:
                    outputs.take(reading, move.y_next)
                else:
                    weights = weights_tensor(problem.tableau, reading.theta, y0)
                    outputs.interpolate(reading, stepper, move.h, move.y, weights)
            path.y_end = move.y_next
            times.append(move.t_next)
            if record:
                residuals = None
                if keep_residuals:
                    step_bytes = step_bytes or sum(nbytes(r) for r in stepper.residuals)
                    kept += step_bytes
                    if kept <= problem.memory_budget:
                        residuals = list(stepper.residuals[: stepper.coefficients.n_own])
                    else:
                        keep_residuals = stepper.keeps_residuals = False
                stages = stepper.stages.clone() if keep_stages else None
                path.steps.append(RecordedStep(move.t, move.h, move.y, readings, residuals, stages))
        path.outputs = outputs.assemble(y0, rowwise=problem.rows is not None)
    path.times = np.array(times) if problem.times is None else problem.times
    return path


def nbytes(residuals: Any) -> int:
    """Memory of a nest of tensors."""
    if isinstance(residuals, Tensor):
        return residuals.numel() * residuals.element_size()
    if isinstance(residuals, Sequence):
        return sum(nbytes(r) for r in residuals)
    return 0
