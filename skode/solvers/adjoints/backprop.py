"""Autograd through the solver's own operations: the RK-Net of Chen et al. (2018), table 1.

The memory grows with every stage of every step; it is the reference that the two adjoints are tested against, and
the one that supports derivatives of higher order.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from skode.solvers.errors import SolverError
from skode.solvers.fields.autograd import WithGrad
from skode.solvers.fields.function import check_value
from skode.solvers.fields.samples import take_samples
from skode.solvers.fields.times import time_dtype_of, time_tensor
from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.outputs import Collector, weights_tensor
from skode.solvers.forward.run import Path, Run
from skode.solvers.indexing import index
from skode.solvers.integrate import accepted_steps
from skode.solvers.stepping import new_graph_stepper
from skode.solvers.time_gradients import Jumps


class _RecordedField:
    """The vector field as autograd records it, its values checked."""

    def __init__(self, func: Any, like: Tensor) -> None:
        self.func, self.like = func, like
        self.time_dtype = time_dtype_of(func, like)

    def __call__(self, t: Any, y: Tensor) -> Tensor:
        try:
            value = self.func(time_tensor(t, y, self), y)
        except RuntimeError as error:
            self.func = WithGrad.instead_of(self.func, error)
            return self(t, y)
        check_value(value, y)
        return value

    def take(self, rows: Tensor) -> _RecordedField:
        """The field on some samples."""
        return _RecordedField(take_samples(self.func, rows), self.like)


def solve(run: Run, y0: Tensor, func: Any) -> tuple[Tensor, Path]:
    """Solve while autograd records; see :mod:`skode.solvers.adjoints`."""
    field = _RecordedField(func, y0)
    y0 = y0.view_as(y0)  # func may call y.requires_grad_()
    stepper = new_graph_stepper(run.tableau, field, y0, run.statistics, run.control.tolerances)
    stepper.start(run.f0)
    collector = Collector(run, y0)
    outputs, path = collector.outputs, collector.path
    for reading in collector.start:
        outputs.take(reading, y0)
    failure = None
    try:
        for step in accepted_steps(run, stepper, y0):
            taken = step.taken
            readings = collector.in_step(step)
            for reading in readings:
                if reading.at_end:
                    outputs.take(reading, taken.y_next)
                else:
                    outputs.interpolate(reading, step, weights_tensor(taken.tableau, reading.theta, y0))
            if run.jumps is not None:
                taken.y_next = _moved_by_jumps(run.jumps, field, step)
            path.y_end, path.t_end = taken.y_next, step.t_next
            if run.outputs.dense:
                step.readings = readings
                path.steps.append(step)
            if collector.ended:
                break
    except SolverError as error:
        if run.outputs.on_failure == "raise":
            raise
        failure = error
    collector.finish(failure)
    return path.outputs, path


def _moved_by_jumps(jumps: Jumps, field: _RecordedField, step: AcceptedStep) -> Tensor:
    """The state at the end of a step, which jumps there step."""
    y = step.taken.y_next
    for t, samples in jumps.at(step.t_next):
        if samples is None:
            y = jumps.move(field, t, y, None)
        else:
            assert step.rows is not None
            these = index(samples, y)
            own = field.take(index(step.rows[samples], y))
            y = y.index_copy(0, these, jumps.move(own, t, y[these], step.rows[samples]))
    return y
