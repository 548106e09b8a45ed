"""The reverse sweep over a forward solve on arrays.

The formulas are those of :meth:`skode.solvers.stepping.ExplicitStepper.pull`. The state of the last stage is the
step's result, so that their cotangents are one.
"""

from __future__ import annotations

import numpy as np

from skode.solvers.forward.output_times import Reading
from skode.solvers.forward.run import Run
from skode.solvers.fused.forward import FusedStep, evaluate_stages
from skode.solvers.fused.memory import Workspace
from skode.solvers.fused.readings import Cotangents

# Looked up once: names of a module's own are found faster.
dot, multiply, copyto, add = np.dot, np.multiply, np.copyto, np.add


def sweep(
    run: Run, work: Workspace, steps: list[FusedStep], cotangents: Cotangents, start: Reading | None
) -> np.ndarray:
    """Cotangent of the initial state, of shape (d, n); the field keeps the sums for its parameters.

    Parameters
    ----------
    run : Run
        The solve.
    work : Workspace
        Its memory, with the evaluations that are kept.
    steps : list of FusedStep
        Its steps.
    cotangents : Cotangents
        Those of the outputs.
    start : Reading or None
        The outputs at the initial time.
    """
    step, field, n_own = work.step, work.field, work.n_own
    shape = step.y_state.shape
    lam, lam_state = step.cotangent, step.pulled_states[-1]
    work.make_room()
    pulled, uses, places = step.pulled_states, step.uses, field.cotangents
    lam.fill(0.0)
    carried = None
    open_tape, low, high = None, 0, 0  # slots pulled, of which the parameters' gradients are to be formed
    for n in range(len(steps) - 1, -1, -1):
        taken = steps[n]
        for reading in taken.readings:
            if reading.at_end:
                cotangents.add(reading, lam_state)
        given = cotangents.inside(taken.readings, taken.h, shape, lam.dtype) if taken.readings else None
        last_is_used = carried is not None or given is not None
        if taken.start is None:
            tape, slot = work.tape_of(n)
        else:
            tape, slot = work.remade, 1
            if open_tape is not None:
                field.form(open_tape, low, high)
                open_tape = None
            copyto(step.y, taken.start[0])
            copyto(step.first, taken.start[1])
            evaluate_stages(work, tape, slot, taken.t, taken.h, n_last=not last_is_used)
        end = slot + n_own
        if tape is not open_tape:
            if open_tape is not None:
                field.form(open_tape, low, high)
            open_tape, high = tape, end - (not last_is_used)
            tape.differentiate(0 if n < work.steps_per_tape and taken.start is None else 1, high)
        low = slot
        multiply(step.coefficients.uses, taken.h, step.h_uses)
        run.statistics.nfev_backward += n_own - (not last_is_used)
        if last_is_used:
            place = places[end - 1]
            if carried is None:
                copyto(place, given[-1])  # type: ignore[index]
            else:
                copyto(place, carried)
                if given is not None:
                    add(place, given[-1], place)
            field.pull(end - 1, pulled[0])
            add(lam, step.pulled[0], lam)
        for i in range(n_own - 1, 0, -1):
            place = places[slot + i - 1]
            dot(*uses[i], place)
            if given is not None:
                add(place, given[i + 1], place)
            field.pull(slot + i - 1, pulled[i])
        carried = dot(*uses[0])
        if given is not None:
            carried += given[1]
        dot(step.ones, step.all_pulled, step.pulled[0])
        copyto(lam, step.pulled[0])
        if given is not None:
            add(lam, given[0], lam)
    assert carried is not None
    _pull_opening(work, carried, open_tape, low, high)
    run.statistics.nfev_backward += 1
    if start is not None:
        cotangents.add(start, lam_state)
    return lam_state


def _pull_opening(work: Workspace, carried: np.ndarray, open_tape: object, low: int, high: int) -> None:
    """Pull the evaluation at the start."""
    step, field, first = work.step, work.field, work.tapes[0]
    if open_tape is not first:
        if open_tape is not None:
            field.form(open_tape, low, high)
        first.differentiate(0, 1)
        high = 1
    elif low > 1:
        field.form(first, low, high)
        high = 1
    copyto(field.cotangents[0], carried)
    field.pull(0, step.pulled_states[0])
    add(step.cotangent, step.pulled[0], step.cotangent)
    field.form(first, 0, high)
