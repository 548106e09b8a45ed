"""Autograd through the solver's own operations: the RK-Net of Chen et al. (2018), table 1.

The memory grows with every stage of every step; it is the reference that the two adjoints are tested against, and
the one that supports derivatives of higher order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skode.solvers.errors import SolverError
from skode.solvers.integrate import (
    Collector,
    Path,
    Problem,
    RecordedStep,
    differentiable_weights,
    index,
    moves,
    start_time,
    weights_tensor,
)
from skode.solvers.march import Clock
from skode.solvers.stepping import new_graph_stepper
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

    stepper = new_graph_stepper(problem.tableau, cast, y0, problem.statistics, problem.control.tolerances)
    stepper.start(problem.f0)
    collector = Collector(problem, y0)
    outputs, path = collector.outputs, collector.path
    # Outputs whose own times carry gradients are all read off an interpolant, those at the ends of steps too.
    along = None
    if times is not None and times.requires_grad and problem.times is not None and not problem.grid_is_times:
        along = times[2:]
    waiting = collector.start
    if along is None or problem.t0 == problem.t1:
        for reading in waiting:
            outputs.take(reading, y0)
        waiting = []
    elif problem.control.per_sample:
        # The samples' first steps may be taken in different rounds.
        rates = cast(start_time(problem, y0), y0) if waiting else y0
        for reading in waiting:
            assert reading.rows is not None
            rows, at = index(reading.rows, y0), index(reading.positions, along)
            passed = (along[at] - along[at].detach()).to(y0).view(-1, *[1] * (y0.ndim - 1))
            outputs.put(reading, y0[rows] + passed * rates[rows])
        waiting = []
    failure = None
    try:
        for move in moves(problem, stepper, y0, clock):
            taken = move.taken
            readings = collector.in_step(move)
            for reading in waiting + readings:
                # Times of events come after the user's own; they are made differentiable later.
                if along is not None and reading.positions[0] < len(along):
                    if problem.control.per_sample:
                        assert reading.rows is not None
                        rows = index(reading.rows, along)
                        start, h = torch.from_numpy(move.t).to(along)[rows], move.h.reshape(-1).to(along.device)[rows]
                    else:
                        start, h = clock.at(move.t), move.h
                    theta = (along[index(reading.positions, along)] - start) / h
                    outputs.interpolate(reading, move, differentiable_weights(taken.tableau, theta).to(y0))
                elif reading.at_end:
                    outputs.take(reading, taken.y_next)
                else:
                    outputs.interpolate(reading, move, weights_tensor(taken.tableau, reading.theta, y0))
            waiting = []
            path.y_end, path.t_end = taken.y_next, move.t_next
            if problem.dense:
                path.steps.append(RecordedStep(taken, move.t, move.t_next, readings, move.opens, None, None))
            if collector.ended:
                break
    except SolverError as error:
        if problem.on_failure == "raise":
            raise
        failure = error
    collector.finish(failure)
    return path.outputs, path
