"""The forward march: one accepted step after another, adaptive or on a grid.

The arithmetic of time is done in float64 on the host. Every generator yields a :class:`AcceptedStep` per accepted step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor

from skode.solvers.devices import is_asynchronous
from skode.solvers.errors import MaxStepsError, newton_failed
from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.giving_up import MAX_STEPS_NAMES, check_finite, first_sample, overflowed, too_many
from skode.solvers.forward.pacing import Pacing
from skode.solvers.forward.problem import TimeSpan
from skode.solvers.forward.run import Run
from skode.solvers.forward.step_control import StepControl
from skode.solvers.forward.step_size import first_step_size
from skode.solvers.stepping import NO_EDGES
from skode.solvers.stepping.stepper import AdaptiveStepper, Stepper
from skode.solvers.tableaus import runge_kutta
from skode.solvers.tolerances import all_finite

# Elements of states that are looked at at once where the device is not to be waited for.
MOST_WATCHED = 2**24


def march(run: Run, stepper: Stepper, y0: Tensor) -> Iterator[AcceptedStep]:
    """Accepted steps from the problem's ``t0`` to its ``t1``, in order.

    Raises
    ------
    SolverError
        One of its children where the solve can't go on.
    """
    if run.span.t0 == run.span.t1 or (run.tableau.implicit and y0.numel() == 0):
        return iter(())
    check_finite(run.f0, run.span.t0, 0.0)
    if run.tableau.adaptive:
        return _adaptive(run, cast(AdaptiveStepper, stepper), y0)
    return _fixed(run, stepper, y0)


def _adaptive(run: Run, stepper: AdaptiveStepper, y: Tensor) -> Iterator[AcceptedStep]:
    control, span = run.control, run.span
    if control.sizes.first_step is not None:
        h = span.direction * control.sizes.first_step
    else:
        order, tolerances = runge_kutta(run.tableau).error_order, control.tolerances
        length = span.t1 - span.t0
        h = first_step_size(run.field, span.t0, y.detach(), run.f0, span=length, order=order, tolerances=tolerances)
        run.statistics.nfev += 1
    pacing = Pacing(run, h)
    while pacing.t != pacing.t1:
        pacing.propose(y)
        t, t_next, opens = pacing.t, pacing.t_next, pacing.opens
        h = pacing.h
        taken = stepper.attempt(t, h, y, pacing.edges)
        ratio = control.tolerances.error_ratio(stepper.error(taken).detach(), y.detach(), taken.y_next.detach())
        if pacing.as_short_as_may_be and taken.unsolved is not None:
            raise newton_failed(t, h)
        if pacing.settle(ratio):
            yield AcceptedStep(taken, t, t_next, opens)
            stepper.accept()
            y = taken.y_next
            if pacing.jumped:
                stepper.restart(t_next, h, y, (True, False))
    # A state that overflowed stays so, and makes the error test meaningless: one look at the end finds it.
    if not all_finite(y.detach()):
        raise overflowed(pacing.t, y.dtype, first_sample(y.detach()))


def _boundaries(control: StepControl, span: TimeSpan) -> Iterable[float]:
    """The ends of the steps of a fixed-step method, if there are no more than may be."""
    grid = control.grid
    assert grid is not None
    if grid.times is None:
        return grid.equal_steps(span.t0, span.t1, control.max_steps)
    times = grid.times.tolist()
    if len(times) - 1 > control.max_steps:
        # A grid made from a step size was not made longer than it takes to be refused here.
        h = grid.step_size or abs(times[1] - times[0])
        n_steps = len(times) - 1 if grid.step_size is None else math.ceil(abs(times[-1] - times[0]) / h - 1e-9)
        raise MaxStepsError(
            f"The grid has {n_steps} steps, more than max_steps={control.max_steps}; nothing was solved",
            time=times[0],
            step_size=math.copysign(h, times[1] - times[0]),
            advice=f"Raise {MAX_STEPS_NAMES} or step_size.",
        )
    return times


def _fixed(run: Run, stepper: Stepper, y: Tensor) -> Iterator[AcceptedStep]:
    control, span = run.control, run.span
    grid = _boundaries(control, span)
    edges = (True, True) if control.stops.nudged else NO_EDGES
    # The last stage of a step, just before its end, does not serve as the first of the next, just after it.
    reopens = control.stops.nudged and getattr(run.tableau, "fsal", False)
    opens, watch = True, _Watch(run, y)
    for t, t_next in itertools.pairwise(grid):
        h = t_next - t
        taken = stepper.attempt(t, h, y, edges)
        y_next = taken.y_next
        watch.see(y_next.detach(), t, t_next - t)
        stepper.statistics.n_accepted += 1
        yield AcceptedStep(taken, t, t_next, opens)
        stepper.accept()
        y, opens = y_next, False
        if reopens and t_next != run.span.t1:
            cast(AdaptiveStepper, stepper).restart(t_next, h, y, edges)
            opens = True
    watch.look()
    if math.isinf(run.span.t1):
        raise too_many(control, t_next, run.span.t1, t_next - t, y)


class _Watch:
    """Sees that the results of steps are finite: NaN and infinity spread through every combination of stages.

    Where the device is not to be waited for, and nobody asks where states stop being so, many are looked at at once.
    """

    def __init__(self, run: Run, y: Tensor) -> None:
        waits = not is_asynchronous(y.device) or run.outputs.on_failure != "raise" or run.events is not None
        self.most = 1 if waits else int(np.clip(MOST_WATCHED // max(y.numel(), 1), 1, 64))
        self.seen: list[tuple[Tensor, float, float]] = []

    def see(self, y: Tensor, t: float, h: float) -> None:
        """Take note of the result of a step."""
        if self.most == 1:
            check_finite(y, t, h)
            return
        self.seen.append((y.clone(), t, h))
        if len(self.seen) == self.most:
            self.look()

    def look(self) -> None:
        """Refuse the first of the results noted that is not finite."""
        if self.seen and not all_finite(torch.stack([y for y, _, _ in self.seen])):
            for y, t, h in self.seen:
                check_finite(y, t, h)
        self.seen = []
