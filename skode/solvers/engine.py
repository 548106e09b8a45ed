"""The one engine behind both doors: a checked problem in, its solution out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.adjoints import ADJOINTS
from skode.solvers.callbacks import Callbacks
from skode.solvers.device import marches_ahead, recordable, with_replay
from skode.solvers.device.own_times import OwnTimes
from skode.solvers.devices import is_asynchronous, total_memory
from skode.solvers.events import EventFinder
from skode.solvers.integrate import AS_FORWARD, BackwardSolve, Path, Problem, integrate
from skode.solvers.march import StepControl
from skode.solvers.statistics import Statistics
from skode.solvers.step_size import all_finite
from skode.solvers.stepping.explicit import stage_time
from skode.solvers.tableaus import Method
from skode.solvers.vector_field import AutogradField, Field, Tape, as_field, column

#: Bytes that the discrete adjoint may keep where the user gives no number, and the device is no GPU.
DEFAULT_MEMORY_BUDGET = 2**28


def run(
    func: Callable[[Tensor, Tensor], Tensor],
    y0: Tensor,
    span: tuple[float, float],
    *,
    tableau: Method,
    control: StepControl,
    adjoint: str,
    memory_budget: int | None,
    backward: BackwardSolve = AS_FORWARD,
    times: np.ndarray | None,
    rows: np.ndarray | None = None,
    moving_times: Tensor | None = None,
    grid_is_times: bool = False,
    dense: bool = False,
    spans: np.ndarray | None = None,
    events: EventFinder | None = None,
    on_failure: str = "raise",
    compile: bool = False,
    own_times: OwnTimes | None = None,
    callbacks: Callbacks | None = None,
    parameters: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Path, Problem]:
    """Solve a problem whose arguments have been checked.

    Parameters
    ----------
    func, y0, span
        The problem: vector field, initial state, initial and final time.
    moving_times : Tensor of shape (2 + m,), float64, or None
        ``[t0, t1, *times]`` where any of them requires grad.
    events : EventFinder or None
        Looks for events on the way.
    compile : bool
        Whether a field without its own pullback is compiled by torch.
    memory_budget : int or None
        As in :class:`skode.solvers.integrate.Problem`; None: :data:`DEFAULT_MEMORY_BUDGET`, and a quarter of a GPU's
        memory.
    parameters : sequence of Tensor or None
        The tensors behind ``func`` whose gradients are wanted; None: all that are found.
    tableau, control, adjoint, backward, times, rows, grid_is_times, dense, spans, on_failure, own_times, callbacks
        As in :class:`skode.solvers.integrate.Problem`.

    Returns
    -------
    outputs : Tensor
        States at the output times, with gradients as ``adjoint`` says.
    path : Path
        The solve as recorded.
    problem : Problem
        What was solved, with its statistics, events and failures.
    """
    if memory_budget is None:
        memory_budget = (total_memory(y0.device) or 4 * DEFAULT_MEMORY_BUDGET) // 4
    t0, t1 = span
    plain, differentiate = y0.detach(), torch.is_grad_enabled()

    def problem_of(field: Field, f0: Tensor | None, tape0: Tape | None) -> Problem:
        return Problem(
            field=field,
            f0=f0,
            tape0=tape0,
            t0=t0,
            t1=t1,
            tableau=tableau,
            control=control,
            times=times,
            rows=rows,
            statistics=Statistics(nfev=1),
            memory_budget=memory_budget,
            backward=backward,
            callbacks=callbacks,
            grid_is_times=grid_is_times,
            dense=dense,
            spans=spans,
            events=events,
            on_failure=on_failure,
            own_times=own_times,
        )

    def to_differentiate(field: Field) -> bool:
        moving = moving_times is not None
        return differentiate and (moving or y0.requires_grad or any(p.requires_grad for p in field.parameters))

    problem = None
    as_it_is = adjoint != "backprop" and moving_times is None and not compile and parameters is None
    found = recordable(func, plain) if as_it_is else None
    if found is not None:
        field, field_key = found
        pullable = adjoint == "discrete" and memory_budget > 0 and to_differentiate(field)
        problem = with_replay(problem_of(field, None, None), field, field_key, plain, pullable=pullable)
    if problem is None or problem.replay is None:
        key = None if problem is None else problem.replay_key
        start: Any = t0 if spans is None else column(spans[:, 0], y0)
        if control.nudged:
            start = stage_time(start, t1 - t0, 0.0, (True, True), plain)
        field, f0, tape0 = as_field(
            func,
            start,
            plain,
            differentiate=differentiate,
            with_time=moving_times is not None,
            keep_graph=adjoint == "backprop",
            parameters=parameters,
        )
        if compile and isinstance(field, AutogradField):
            func = field.func = torch.compile(func)  # torch itself remembers what it has compiled
        wanted = to_differentiate(field) and adjoint == "discrete"
        problem = replace(problem_of(field, f0, tape0 if wanted else None), replay_key=key)
    waits = adjoint == "backprop" or not marches_ahead(problem, plain)
    if is_asynchronous(plain.device) and waits and not all_finite(plain):
        raise ValueError("y0 contains NaN or infinity.")
    differentiate = to_differentiate(problem.field)
    if not differentiate:
        # Dense output holds on to the initial state, which the caller may change.
        path = integrate(problem, y0.detach().clone() if dense else y0.detach(), record=dense, keep_stages=dense)
        return path.outputs, path, problem
    outputs, path = ADJOINTS[adjoint](problem, y0, moving_times, func)
    return outputs, path, problem
