"""The one engine behind both doors: a checked problem in, its solution out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.adjoints import ADJOINTS
from skode.solvers.device import recordable, recordings_for, runs_ahead
from skode.solvers.devices import is_asynchronous
from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.bind import as_field
from skode.solvers.fields.protocols import Field
from skode.solvers.fields.samples import uncompiled
from skode.solvers.forward.problem import Problem
from skode.solvers.forward.run import Path, Run
from skode.solvers.fused import fused_solve
from skode.solvers.integrate import integrate, start_time
from skode.solvers.statistics import Statistics
from skode.solvers.time_gradients import Jumps
from skode.solvers.tolerances import all_finite
from skode.solvers.transforms import TORCH_FUNC, check_adjoint_of_transform, transform_of


def solve(problem: Problem) -> tuple[Tensor, Path, Run]:
    """Solve a problem whose arguments have been checked.

    Parameters
    ----------
    problem : Problem
        The problem.

    Returns
    -------
    outputs : Tensor
        States at the output times, with gradients as the problem says.
    path : Path
        The solve as recorded.
    run : Run
        The solve's statistics, events and failures.
    """
    fused = fused_solve(problem)
    if fused is not None:
        return fused
    y0, plain = problem.y0, problem.y0.detach()
    if not y0.numel():  # states without elements have nothing to sweep over
        problem = replace(problem, gradients=replace(problem.gradients, adjoint="backprop"))
    adjoint, jumps = ADJOINTS[problem.gradients.adjoint], _jumps_of(problem)
    start = start_time(problem, problem.func, plain)
    transform = transform_of(problem.func, start, y0, None if jumps is None else jumps.times)
    if transform is not None:
        run = _transformed(problem, transform, start, jumps)
        return *adjoint(run, y0, problem.func), run
    recorded, func = _recorded(problem, plain, jumps), problem.func
    if recorded is None or recorded.recordings.replay is None:
        run, func = _evaluated(problem, start, plain, jumps, recorded)
    else:
        run = recorded
    waits = problem.gradients.adjoint == "backprop" or not runs_ahead(problem, plain)
    if is_asynchronous(plain.device) and waits and not all_finite(plain):
        raise ValueError("y0 contains NaN or infinity.")
    if _is_differentiated(run.field, y0, jumps):
        return *adjoint(run, y0, func), run
    # Dense output holds on to the initial state, which the caller may change.
    dense = problem.outputs.dense
    path = integrate(run, plain.clone() if dense else plain, record=dense, keep_stages=dense)
    return path.outputs, path, run


def _jumps_of(problem: Problem) -> Jumps | None:
    """The jumps whose times require grad."""
    jump_t, span, stops = problem.gradients.jump_t, problem.span, problem.control.stops
    if jump_t is None:
        return None
    direction = np.sign(span.t1 - span.t0 if span.by_sample is None else np.diff(span.by_sample)[:, 0])
    return Jumps(jump_t, stops.jumps & {*stops.times}, direction)


def _is_differentiated(field: Field, y0: Tensor, jumps: Jumps | None) -> bool:
    """Whether gradients may be wanted of the solve."""
    inputs = [y0, *field.parameters] if jumps is None else [y0, *field.parameters, jumps.times]
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)


def _transformed(problem: Problem, transform: str, start: Any, jumps: Jumps | None) -> Run:
    """A solve inside a transform of ``torch.func``, or differentiated forward by autograd."""
    _check_transform(transform, problem)
    if transform == TORCH_FUNC:
        control = problem.control
        problem = replace(problem, control=replace(control, tolerances=control.tolerances.mapped()))
    field = AutogradField(problem.func, ())  # autograd finds what it depends on
    f0 = field(start, problem.y0.detach())
    return Run(problem, field, f0, jumps=jumps, statistics=Statistics(nfev=1))


def _recorded(problem: Problem, y0: Tensor, jumps: Jumps | None) -> Run | None:
    """A solve that recordings on the device may serve; None for others."""
    gradients, func = problem.gradients, problem.func
    as_it_is = jumps is None and gradients.parameters is None and uncompiled(func) is func
    found = recordable(func, y0) if as_it_is and gradients.adjoint != "backprop" else None
    if found is None:
        return None
    field, field_key = found
    run = Run(problem, field, statistics=Statistics(nfev=1))
    kept = gradients.adjoint == "discrete" and gradients.memory_budget > 0
    recordings = recordings_for(run, field_key, y0, pullable=kept and _is_differentiated(field, problem.y0, jumps))
    if recordings is None:
        return None
    run.recordings = recordings
    return run


def _evaluated(
    problem: Problem, start: Any, y0: Tensor, jumps: Jumps | None, recorded: Run | None
) -> tuple[Run, Callable[..., Any]]:
    """A solve whose field has been evaluated at the start, and the function to differentiate where autograd does."""
    func, gradients = problem.func, problem.gradients
    plain = uncompiled(func)
    field, f0, tape0 = as_field(
        plain,
        start,
        y0,
        differentiate=torch.is_grad_enabled(),
        keep_graph=gradients.adjoint == "backprop",
        parameters=gradients.parameters,
    )
    if isinstance(field, AutogradField):
        field.func = func
    else:
        func = plain
    run = Run(problem, field, f0, jumps=jumps, statistics=Statistics(nfev=1))
    if gradients.adjoint == "discrete" and _is_differentiated(field, problem.y0, jumps):
        run.tape0 = tape0
    if recorded is not None:
        run.recordings = recorded.recordings
    return run, func


def _check_transform(transform: str, problem: Problem) -> None:
    """Refuse what can't be done forward by autograd, or inside a transform of ``torch.func``."""
    check_adjoint_of_transform(transform, problem.gradients.adjoint)
    if transform != TORCH_FUNC:
        return
    unknown = None
    if problem.control.per_sample:
        unknown = "step_control='per_sample'"
    elif problem.tableau.implicit:
        unknown = f"the implicit method={problem.tableau.name!r}"
    if unknown is not None:
        raise TypeError(
            f"The solve is inside {transform}, which does not go with {unknown}: pass a batch of states as one y0, and "
            "take gradients by backward() or torch.autograd.grad."
        )
