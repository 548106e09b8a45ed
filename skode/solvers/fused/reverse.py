"""The reverse sweep over a forward solve on arrays.

The formulas are those of :meth:`skode.solvers.stepping.ExplicitStepper.pull`. The state of the last stage is the
step's result, so that their cotangents are one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skode.solvers.forward.output_times import Reading
from skode.solvers.forward.run import Run
from skode.solvers.fused.forward import FusedStep, evaluate_stages
from skode.solvers.fused.memory import Workspace
from skode.solvers.fused.readings import Cotangents

# Looked up once: names of a module's own are found faster.
dot, multiply, copyto, add = np.dot, np.multiply, np.copyto, np.add


class Sweep:
    """A reverse sweep, after which the field has the sums for its parameters' gradients.

    Parameters
    ----------
    run : Run
        The solve.
    work : Workspace
        Its memory, with the evaluations that are kept.
    cotangents : Cotangents
        Those of the outputs.
    """

    def __init__(self, run: Run, work: Workspace, cotangents: Cotangents) -> None:
        work.make_room()
        self.run, self.work, self.cotangents = run, work, cotangents
        # The tape at hand, and which of its slots are pulled, whose part of the sums is still to be added.
        self.tape: Any = None
        self.low = self.high = 0

    def pull(self, steps: list[FusedStep], start: Reading | None) -> np.ndarray:
        """Cotangent of the initial state, of shape (d, n), from the steps and the outputs at the initial time."""
        step, run, work = self.work.step, self.run, self.work
        lam, carried = step.pulled_states[-1], None
        step.cotangent.fill(0.0)
        for n in range(len(steps) - 1, -1, -1):
            taken = steps[n]
            for reading in taken.readings:
                if reading.at_end:
                    self.cotangents.add(reading, lam)
            given = None
            if taken.readings:
                given = self.cotangents.inside(taken.readings, taken.h, lam.shape, lam.dtype)
            # The last stage of the last step is used by outputs inside the step alone.
            n_unused = int(carried is None and given is None)
            run.statistics.nfev_backward += work.n_own - n_unused
            slot = self._turn_to(n, taken, n_unused)
            carried = self._pull_step(taken.h, slot, carried, given, n_unused)
        assert carried is not None
        self._pull_opening(steps[0], carried)
        if start is not None:
            self.cotangents.add(start, lam)
        return lam

    def _turn_to(self, n: int, taken: FusedStep, n_unused: int) -> int:
        """Have a step's evaluations on the tape at hand, but for the unused ones; returns the first slot."""
        work, step, kept = self.work, self.work.step, taken.start is None
        tape, slot = work.tape_of(n) if kept else (work.remade, 1)
        if tape is not self.tape or not kept:
            self._form()
            if taken.start is not None:
                copyto(step.y, taken.start[0])
                copyto(step.first, taken.start[1])
                evaluate_stages(work, tape, slot, taken.t, taken.h, n_unused)
            self.tape, self.high = tape, slot + work.n_own - n_unused
            tape.differentiate(0 if kept and n < work.steps_per_tape else 1, self.high)
        self.low = slot
        return slot

    def _pull_step(
        self, h: float, slot: int, carried: np.ndarray | None, given: np.ndarray | None, n_unused: int
    ) -> np.ndarray:
        """Pull a step: the cotangent of its state is replaced, that of its first stage is returned."""
        step, field, lam = self.work.step, self.work.field, self.work.step.cotangent
        pulled, uses, places, last = step.pulled_states, step.uses, field.cotangents, self.work.n_own
        multiply(step.coefficients.uses, h, step.h_uses)
        if not n_unused:
            place = places[slot + last - 1]
            place.fill(0.0)
            for part in (carried, None if given is None else given[-1]):
                if part is not None:
                    add(place, part, place)
            field.pull(slot + last - 1, pulled[0])
            add(lam, step.pulled[0], lam)
        for i in range(last - 1, 0, -1):
            place = places[slot + i - 1]
            dot(*uses[i], place)
            if given is not None:
                add(place, given[i + 1], place)
            field.pull(slot + i - 1, pulled[i])
        carried = dot(*uses[0])
        dot(step.ones, step.all_pulled, step.pulled[0])
        copyto(lam, step.pulled[0])
        if given is not None:
            carried += given[1]
            add(lam, given[0], lam)
        return carried

    def _pull_opening(self, first: FusedStep, carried: np.ndarray) -> None:
        """Pull the evaluation at the start."""
        step, field, work = self.work.step, self.work.field, self.work
        self.run.statistics.nfev_backward += 1
        if first.start is not None:  # it was not kept either
            self._form()
            self.tape, self.high = work.remade, 1
            copyto(self.tape.states[0], first.start[0])
            self.tape.evaluate(0, self.run.span.t0, step.stages[0])
            self.tape.differentiate(0, 1)
        copyto(field.cotangents[0], carried)
        field.pull(0, step.pulled_states[0])
        add(step.cotangent, step.pulled[0], step.cotangent)
        self.low = 0
        self._form()

    def _form(self) -> None:
        """Add the part of the slots pulled to the sums."""
        if self.low < self.high:
            self.work.field.form(self.tape, self.low, self.high)
        self.low = self.high = 0
