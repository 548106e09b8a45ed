"""The forward solve on arrays: one accepted step after another, of all samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from skode.solvers.forward.giving_up import check_finite, first_sample, overflowed
from skode.solvers.forward.output_times import Reading
from skode.solvers.forward.pacing import Pacing
from skode.solvers.forward.run import Run
from skode.solvers.forward.step_size import first_step_size
from skode.solvers.fused.errors import ArrayTolerances
from skode.solvers.fused.memory import Workspace
from skode.solvers.fused.readings import Outputs
from skode.solvers.tolerances import all_finite

# Looked up once: names of a module's own are found faster.
dot, multiply, copyto = np.dot, np.multiply, np.copyto


@dataclass(slots=True)
class FusedStep:
    """An accepted step, as the reverse sweep needs it.

    Attributes
    ----------
    t, h : float
        Its start and size.
    readings : list of Reading
        The outputs read off it.
    start : tuple of two ndarray or None
        Its first state and first stage, where its evaluations are not kept.
    """

    t: float
    h: float
    readings: list[Reading]
    start: tuple[np.ndarray, np.ndarray] | None = None


def evaluate_stages(work: Workspace, tape: Any, slot: int, t: float, h: float, n_last: int = 0) -> None:
    """Evaluate a step's own stages, from its first state and stage, into slots of a tape; but for the last ``n_last``.

    The state of the last one is the step's result.
    """
    step = work.step
    multiply(step.coefficients.a, h, step.h_a)
    states, evaluate, c, stages = tape.states, tape.evaluate, step.coefficients.c, step.stages
    place, most = slot, len(stages) - n_last
    for i, weights, rows in step.combine:
        dot(weights, rows, states[place])
        if i < most:
            evaluate(place, t + c[i] * h, stages[i])
        place += 1


def march(run: Run, work: Workspace, y0: np.ndarray, outputs: Outputs, budget: int) -> list[FusedStep]:
    """Go from the problem's ``t0`` to its ``t1``.

    Parameters
    ----------
    run : Run
        The solve.
    work : Workspace
        Its memory.
    y0 : ndarray of shape (n, d)
        The initial state.
    outputs : Outputs
        Takes the outputs.
    budget : int
        Bytes of evaluations that may be kept; negative where the solve is not to be pulled back.

    Returns
    -------
    list of FusedStep
        The accepted steps; empty where the solve is not to be pulled back.
    """
    step, statistics, span = work.step, run.statistics, run.span
    step.y_state[...] = y0.T
    step_nbytes = work.step_nbytes
    opening, first = work.tape_of(0)[0] if budget >= step_nbytes else work.passing, step.stages[0]
    copyto(opening.states[0], step.y)
    opening.evaluate(0, span.t0, first)
    statistics.nfev += 1
    if not all_finite(first):
        check_finite(torch.from_numpy(first.T.copy()), span.t0, 0.0)
    tolerances = ArrayTolerances(run.control.tolerances)
    pacing = Pacing(run, _first_step(run, work, opening, tolerances))
    np.abs(step.y, step.size)
    steps: list[FusedStep] = []
    n_kept = 0
    while pacing.t != pacing.t1:
        pacing.propose(run.problem.y0)
        t, t_next, h = pacing.t, pacing.t_next, pacing.h
        kept = budget >= step_nbytes
        tape, slot = work.tape_of(n_kept) if kept else (work.passing, 1)
        evaluate_stages(work, tape, slot, t, h)
        statistics.nfev += work.n_own
        y_next = tape.states[slot + work.n_own - 1]
        if not pacing.settle(tolerances.error_ratio(step, h, y_next)):
            continue
        readings = outputs.in_step(step, t, t_next, y_next)
        if budget >= 0:
            start = None
            if kept:
                budget -= step_nbytes
                n_kept += 1
            else:
                budget = 0
                start = step.y.copy(), step.first.copy()
            steps.append(FusedStep(t, h, readings, start))
        copyto(step.y, y_next)
        copyto(step.first, step.last)
        step.size, step.size_next = step.size_next, step.size
    # A state that overflowed stays so, and makes the error test meaningless: one look at the end finds it.
    if not all_finite(step.y):
        end = torch.from_numpy(step.y_state.T.copy())
        raise overflowed(pacing.t, end.dtype, first_sample(end))
    return steps


def march_again(run: Run, work: Workspace, y0: np.ndarray, steps: list[FusedStep]) -> None:
    """Go through the same steps once more, to evaluate those that are kept."""
    step = work.step
    step.y_state[...] = y0.T
    opening = work.remade if steps[0].start is not None else work.tape_of(0)[0]
    copyto(opening.states[0], step.y)
    opening.evaluate(0, run.span.t0, step.stages[0])
    for i, taken in enumerate(steps):
        if taken.start is not None:
            break
        tape, slot = work.tape_of(i)
        evaluate_stages(work, tape, slot, taken.t, taken.h)
        copyto(step.y, tape.states[slot + work.n_own - 1])
        copyto(step.first, step.last)


def _first_step(run: Run, work: Workspace, tape: Any, tolerances: ArrayTolerances) -> float:
    """Signed size of the first step to try."""
    span, control, step = run.span, run.control, work.step
    if control.sizes.first_step is not None:
        return span.direction * control.sizes.first_step
    out = step.stages[1]

    def evaluate(t: float, moved: np.ndarray) -> np.ndarray:
        copyto(tape.states[1], moved.reshape(-1))
        tape.evaluate(1, t, out)
        return out

    run.statistics.nfev += 1
    order = run.tableau.error_order  # type: ignore[union-attr]
    length = span.t1 - span.t0
    y: Any = step.y_state
    first: Any = step.stages[0]
    return first_step_size(evaluate, span.t0, y, first, span=length, order=order, tolerances=tolerances)  # type: ignore[arg-type]
