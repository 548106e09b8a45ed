"""Which step is tried next, where all samples share their steps."""

from __future__ import annotations

import math

from torch import Tensor

from skode.solvers.forward.giving_up import LEAST_ULPS, MOST_EXITS, DomainExits, too_many
from skode.solvers.forward.run import Run
from skode.solvers.forward.step_size import Controller
from skode.solvers.stepping.step import NO_EDGES, Edges
from skode.solvers.tableaus import runge_kutta


class Pacing:
    """Steps one after another from a problem's ``t0`` to its ``t1``, as long as their errors allow.

    :meth:`propose` sets the step to try, :meth:`settle` takes its error. The arithmetic of time is done in float64.

    Parameters
    ----------
    run : Run
        The solve; its statistics count the steps.
    h : float
        Signed size of the first step to try.

    Attributes
    ----------
    t, t_next, h : float
        Start, end and size of the step to try.
    t1 : float
        The end of the time span.
    opens : bool
        Whether the step's first stage is evaluated anew: at the start, and after a jump.
    jumped : bool
        Whether the step accepted last ended at a jump.
    as_short_as_may_be : bool
        Whether the step is of the least size, so that its error does not matter.
    """

    def __init__(self, run: Run, h: float) -> None:
        control, span = run.control, run.span
        self.control, self.statistics = control, run.statistics
        self.t, self.t1, self.t_next, self.h = span.t0, span.t1, span.t0, h
        self.direction = span.direction
        self.controller = Controller(control.exponents, runge_kutta(run.tableau).error_order)
        self.least, self.most = control.sizes.min_step or 0.0, control.sizes.max_step or math.inf
        self.stops = control.stops
        self.stop_times = [*self.stops.times, span.t1]
        self.opens, self.jumped, self.as_short_as_may_be = True, False, False
        self.ratio, self.attempts, self.wanted = 0.0, 0, h
        self.exits = DomainExits(span.t0)

    def propose(self, y: Tensor) -> None:
        """Set the next step to try from a state.

        Raises
        ------
        SolverError
            One of its children where the solve can't go on.
        """
        t, direction = self.t, self.direction
        size = max(min(abs(self.h), self.most), self.least)
        self.wanted, self.as_short_as_may_be = direction * size, size <= self.least
        # A step that nearly reaches a time it must end at is stretched to it rather than leaving a sliver behind.
        stop_time = self.stop_times[0]
        t_next = stop_time if 1.01 * size >= abs(stop_time - t) else t + self.wanted
        h = t_next - t
        too_short = t_next != self.t1 and abs(h) <= LEAST_ULPS * math.ulp(t)
        if too_short or self.exits.n > MOST_EXITS:
            self.exits.check(t, h, self.ratio, too_short=too_short)
        if self.attempts == self.control.max_steps:
            raise too_many(self.control, t, self.t1, h, y)
        self.attempts += 1
        self.t_next, self.h = t_next, h

    @property
    def edges(self) -> Edges:
        """Whether the field is to be evaluated just inside the step's ends."""
        stops = self.stops
        if not (stops.nudged or stops.jumps):
            return NO_EDGES
        return stops.nudged or self.t in stops.jumps, stops.nudged or self.t_next in stops.jumps

    def settle(self, ratio: float) -> bool:
        """Change the step size by the step's error, in units of the allowed one, and move on if it is accepted.

        Returns whether it is.
        """
        self.ratio = ratio
        if not (ratio <= 1.0 or (self.as_short_as_may_be and math.isfinite(ratio))):
            self.statistics.n_rejected += 1
            if not math.isfinite(ratio):
                self.exits.note(self.t_next)
            self.h *= self.controller.factor(ratio)
            return False
        self.statistics.n_accepted += 1
        self.t, self.opens = self.t_next, False
        factor, wanted = self.controller.factor(min(ratio, 1.0)), abs(self.wanted)
        cut_short = 0.0
        if self.t == self.stop_times[0]:
            self.stop_times.pop(0)
            self.jumped = self.opens = self.t in self.stops.jumps
            # A step cut short by a stop_time says little against the size wanted before.
            cut_short = min(wanted, wanted * factor)
        else:
            self.jumped = False
        self.h = self.direction * max(abs(self.h) * factor, cut_short)
        return True
