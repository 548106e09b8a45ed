"""Autograd through the solver's own operations: the RK-Net of Chen et al. (2018), table 1.

The memory grows with every stage of every step; it is the reference that the two adjoints are tested against, and
the one that supports derivatives of higher order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.integrate import Outputs, Path, Problem, RecordedStep, index, weights_tensor
from skode.solvers.march import Clock, march
from skode.solvers.stepping import GraphStepper
from skode.solvers.times import TensorClock
from skode.solvers.vector_field import check_value


class _ConstantClock(Clock):
    """Times as tensors, because ``func`` receives tensors; step sizes as floats."""

    def at(self, t: float) -> Tensor:
        return torch.tensor(t, dtype=torch.float64)


def solve(problem: Problem, y0: Tensor, times: Tensor | None, func: Any) -> tuple[Tensor, Path]:
    """Solve while autograd records; see :func:`skode.solvers.adjoints.solve`."""
    clock = TensorClock(problem, times) if times is not None and times.requires_grad else _ConstantClock()

    def cast(t: Any, y: Tensor) -> Tensor:
        value = func(torch.as_tensor(t, dtype=y.dtype, device=y.device), y)
        check_value(value, y)
        return value

    def evaluate(t: float, y: Tensor) -> Tensor:
        with torch.no_grad():
            return cast(t, y)

    stepper = GraphStepper(problem.tableau, cast, y0, problem.statistics)
    readout = problem.readout()
    outputs = Outputs()
    reached = [problem.t0]
    path = Path(y0, np.empty(0), y0, [])
    # Outputs whose own times carry gradients are all read off an interpolant, those at the ends of steps too.
    along = None
    if times is not None and times.requires_grad and problem.times is not None and not problem.grid_is_times:
        along = times[2:]
    start = readout.at_start(problem.t0)
    waiting = [] if start is None else [start]
    if along is None or problem.t0 == problem.t1:
        for reading in waiting:
            outputs.take(reading, y0)
        waiting = []
    for move in march(stepper, problem.t0, problem.t1, y0, problem.tableau, problem.control, evaluate, clock):
        readings = readout.in_step(move.t, move.t_next)
        for reading in waiting + readings:
            if along is not None:
                theta = (along[index(reading.positions, along)] - clock.at(move.t)) / move.h
                weights = _differentiable_weights(problem, theta).to(y0)
                outputs.interpolate(reading, stepper, move.h, move.y, weights)
            elif reading.at_end:
                outputs.take(reading, move.y_next)
            else:
                weights = weights_tensor(problem.tableau, reading.theta, y0)
                outputs.interpolate(reading, stepper, move.h, move.y, weights)
        waiting = []
        path.y_end = move.y_next
        reached.append(move.t_next)
        if problem.dense:
            stages = torch.stack(stepper.stages).detach()
            step = RecordedStep(move.t, move.t_next - move.t, move.y.detach(), readings, None, stages)
            path.steps.append(step)
    path.outputs = outputs.assemble(y0, rowwise=problem.rows is not None)
    path.times = np.array(reached) if problem.times is None else problem.times
    return path.outputs, path


def _differentiable_weights(problem: Problem, theta: Tensor) -> Tensor:
    """Interpolation weights as a differentiable function of the position in the step."""
    coefficients = torch.tensor(problem.tableau.interpolant, dtype=theta.dtype, device=theta.device)
    powers = torch.arange(1, coefficients.shape[1] + 1, device=theta.device)
    return theta[:, None] ** powers @ coefficients.T
