"""Which problems have a fused path, and a solve by it with its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.devices import is_asynchronous
from skode.solvers.fields.protocols import FusedForm
from skode.solvers.fields.pullback import has_own_pullback
from skode.solvers.first_order import first_order
from skode.solvers.forks import Lock
from skode.solvers.forward.output_times import OutputTimes, Reading
from skode.solvers.forward.problem import Problem
from skode.solvers.forward.run import Path, Run
from skode.solvers.fused.forward import FusedStep, march, march_again
from skode.solvers.fused.memory import Workspace, workspace
from skode.solvers.fused.readings import Cotangents, Outputs
from skode.solvers.fused.reverse import Sweep
from skode.solvers.fused.threads import holding_threads, is_small
from skode.solvers.tableaus import ButcherTableau, runge_kutta
from skode.solvers.tolerances import SharedNorm, rms_norm
from skode.solvers.transforms import in_dual_level

DTYPES = (torch.float32, torch.float64)


def fused_solve(problem: Problem) -> tuple[Tensor, Path, Run] | None:
    """Solve a problem by its fused path, if it has one; see :func:`skode.solvers.engine.solve`."""
    form = _form_of(problem)
    if form is None:
        return None
    y0 = problem.y0
    run = Run(problem, form)  # type: ignore[arg-type]
    wanted = torch.is_grad_enabled() and (y0.requires_grad or any(p.requires_grad for p in form.parameters))
    solve = FusedSolve(run, form)
    outputs = _FusedAdjoint.apply(solve, y0, *form.parameters) if wanted else solve.forward(y0.detach(), keep=False)
    return outputs, solve.path, run


def _form_of(problem: Problem) -> FusedForm | None:
    """The field's form on arrays; None where the problem has no fused path."""
    y0, tableau, control, outputs = problem.y0, problem.tableau, problem.control, problem.outputs
    if not (
        isinstance(tableau, ButcherTableau)
        and tableau.fsal
        and tableau.adaptive
        and not tableau.implicit
        and y0.device.type == "cpu"
        and not is_asynchronous(y0.device)
        and y0.ndim == 2
        and y0.dtype in DTYPES
        and y0.numel()
        and problem.span.by_sample is None
        and problem.span.t0 != problem.span.t1
        and not control.per_sample
        and control.callbacks is None
        and not control.stops.nudged
        and not control.stops.jumps
        and (control.tolerances.norm is rms_norm or isinstance(control.tolerances.norm, SharedNorm))
        and not control.tolerances.of_elements
        and outputs.times is not None
        and not outputs.dense
        and outputs.on_failure == "raise"
        and problem.events is None
        and not torch._C._are_functorch_transforms_active()
        and not in_dual_level()
    ):
        return None
    gradients, func = problem.gradients, problem.func
    if gradients.jump_t is not None or gradients.parameters is not None:
        return None
    if gradients.adjoint != "discrete" and torch.is_grad_enabled():
        return None
    if not hasattr(func, "fused") or not has_own_pullback(func):
        return None
    form = func.fused(y0)
    return form if form is not None and is_small(len(y0), form.largest) else None


class FusedSolve:
    """One solve, which may be pulled back as often as its graph is kept.

    Parameters
    ----------
    run : Run
        The solve.
    form : FusedForm
        Its field.

    Attributes
    ----------
    path : Path
        The solve, once it is made.
    """

    def __init__(self, run: Run, form: FusedForm) -> None:
        self.run, self.form = run, form
        self.tableau = runge_kutta(run.tableau)
        self.work: Workspace | None = None
        self.steps: list[FusedStep] = []
        self.start: Reading | None = None
        self.path: Path

    def forward(self, y0: Tensor, *, keep: bool) -> Tensor:
        """Solve from an initial state of shape (n, d); ``keep`` says whether the solve is to be pulled back."""
        run, y = self.run, y0.numpy()
        requested, span = run.outputs, run.span
        assert requested.times is not None
        outputs = Outputs(self.tableau, OutputTimes(requested.times, requested.rows, span.direction), y)
        self.start = outputs.at_start(span.t0)
        self.work = work = workspace(self.form, self.tableau, len(y), y.dtype)
        budget = run.gradients.memory_budget if keep else -1
        try:
            with holding_threads(len(y), self.form.largest), np.errstate(all="ignore"):
                self.steps = march(run, work, y, outputs, budget)
        except BaseException:
            self.release()
            raise
        if not keep:
            self.release()
        self.path = Path(y0, requested.times, requested.rows, y0, span.t1, [], None, n_known=len(requested.times))
        return torch.from_numpy(outputs.values)

    def backward(self, y0: Tensor, grad_outputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Gradients of the initial state and of the parameters."""
        run, y = self.run, y0.numpy()
        with holding_threads(len(y), self.form.largest), np.errstate(all="ignore"):
            # A sweep that is broken off leaves sums behind: its memory is given back only where it ends.
            work, self.work = self.work, None
            if work is None:  # a second backward pass, which few ask for
                work = workspace(self.form, self.tableau, len(y), y.dtype)
                march_again(run, work, y, self.steps)
            cotangents = Cotangents(self.tableau, grad_outputs.numpy())
            grad_y0 = Sweep(run, work, cotangents).pull(self.steps, self.start).T.copy()
            gradients = work.field.gradients()
        work.release()
        return torch.from_numpy(grad_y0), [torch.from_numpy(gradient) for gradient in gradients]

    def release(self) -> None:
        """Let others have the memory."""
        work, self.work = self.work, None
        if work is not None:
            work.release()

    def __del__(self) -> None:  # a graph that is let go of without a backward pass
        self.release()


class _FusedAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solve: FusedSolve, y0: Tensor, *parameters: Tensor):
        ctx.solve, ctx.lock = solve, Lock()
        # Saved so that autograd notices if one of them is changed in place before the backward pass.
        ctx.save_for_backward(y0, *parameters)
        return solve.forward(y0.detach(), keep=True)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_outputs: Tensor):
        y0, *_ = ctx.saved_tensors
        with ctx.lock:  # threads may share a graph
            grad_y0, gradients = ctx.solve.backward(y0.detach(), grad_outputs)
        return (None, grad_y0, *gradients)
