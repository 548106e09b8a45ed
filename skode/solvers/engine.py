"""The one engine behind both doors: a checked problem in, its solution out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from skode.solvers.adjoints import ADJOINTS
from skode.solvers.device import recordable, runs_ahead, with_replay
from skode.solvers.devices import is_asynchronous, total_memory
from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.bind import as_field
from skode.solvers.fields.protocols import Field, Tape
from skode.solvers.fields.samples import Compiled
from skode.solvers.forward.callbacks import Callbacks
from skode.solvers.forward.events import EventFinder
from skode.solvers.forward.problem import AS_FORWARD, BackwardSolve, Path, Problem
from skode.solvers.forward.step_control import StepControl
from skode.solvers.forward.times_on_device import OwnTimes
from skode.solvers.integrate import integrate, start_time
from skode.solvers.statistics import Statistics
from skode.solvers.tableaus import Method
from skode.solvers.time_gradients import Jumps
from skode.solvers.tolerances import all_finite
from skode.solvers.transforms import TORCH_FUNC, refuse_adjoint, transform_of

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
    jump_t: Tensor | None = None,
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
    jump_t : Tensor or None
        The times at which the field jumps, where they require grad.
    events : EventFinder or None
        Looks for events on the way.
    compile : bool
        Whether a field without its own pullback is compiled by torch.
    memory_budget : int or None
        As in :class:`~skode.solvers.forward.problem.Problem`; None: :data:`DEFAULT_MEMORY_BUDGET`, and a quarter of a
        GPU's memory.
    parameters : sequence of Tensor or None
        The tensors behind ``func`` whose gradients are wanted; None: all that are found.
    tableau, control, adjoint, backward, times, rows, dense, spans, on_failure, own_times, callbacks
        As in :class:`skode.solvers.forward.problem.Problem`.

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
    jumps = None
    if jump_t is not None:
        direction = np.sign(t1 - t0 if spans is None else spans[:, 1] - spans[:, 0])
        jumps = Jumps(jump_t, control.jumps & {*control.stop_times}, direction)
    plain, differentiate = y0.detach(), torch.is_grad_enabled()
    if not y0.numel():
        adjoint = "backprop"  # states without elements have nothing to sweep over
    start = start_time(t0, t1, spans, control, func, plain)
    transform = transform_of(func, start, y0, None if jumps is None else jumps.times)
    if transform is not None:
        _check_transform(transform, adjoint, tableau, control)
        if transform == TORCH_FUNC:
            control = replace(control, tolerances=control.tolerances.mapped())

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
            jumps=jumps,
            dense=dense,
            spans=spans,
            events=events,
            on_failure=on_failure,
            own_times=own_times,
        )

    def to_differentiate(field: Field) -> bool:
        inputs = [y0, *field.parameters] if jumps is None else [y0, *field.parameters, jumps.times]
        return differentiate and any(tensor.requires_grad for tensor in inputs)

    problem = None
    if transform is not None:
        unsearched = AutogradField(func, ())  # autograd finds what it depends on
        problem = problem_of(unsearched, unsearched(start, plain), None)
        outputs, path = ADJOINTS[adjoint](problem, y0, func)
        return outputs, path, problem
    as_it_is = adjoint != "backprop" and jumps is None and not compile and parameters is None
    found = recordable(func, plain) if as_it_is else None
    if found is not None:
        field, field_key = found
        pullable = adjoint == "discrete" and memory_budget > 0 and to_differentiate(field)
        problem = with_replay(problem_of(field, None, None), field, field_key, plain, pullable=pullable)
    if problem is None or problem.replay is None:
        key = None if problem is None else problem.replay_key
        field, f0, tape0 = as_field(
            func,
            start,
            plain,
            differentiate=differentiate,
            keep_graph=adjoint == "backprop",
            parameters=parameters,
        )
        if compile and isinstance(field, AutogradField):
            func = field.func = Compiled(func)
        wanted = to_differentiate(field) and adjoint == "discrete"
        problem = replace(problem_of(field, f0, tape0 if wanted else None), replay_key=key)
    waits = adjoint == "backprop" or not runs_ahead(problem, plain)
    if is_asynchronous(plain.device) and waits and not all_finite(plain):
        raise ValueError("y0 contains NaN or infinity.")
    differentiate = to_differentiate(problem.field)
    if not differentiate:
        # Dense output holds on to the initial state, which the caller may change.
        path = integrate(problem, y0.detach().clone() if dense else y0.detach(), record=dense, keep_stages=dense)
        return path.outputs, path, problem
    outputs, path = ADJOINTS[adjoint](problem, y0, func)
    return outputs, path, problem


def _check_transform(transform: str, adjoint: str, tableau: Method, control: StepControl) -> None:
    """Refuse what can't be done forward by autograd, or inside a transform of ``torch.func``."""
    refuse_adjoint(transform, adjoint)
    if transform != TORCH_FUNC:
        return
    unknown = None
    if control.per_sample:
        unknown = "step_control='per_sample'"
    elif tableau.implicit:
        unknown = f"the implicit method={tableau.name!r}"
    if unknown is not None:
        raise TypeError(
            f"The solve is inside {transform}, which does not go with {unknown}: pass a batch of states as one y0, and "
            "take gradients by backward() or torch.autograd.grad."
        )
