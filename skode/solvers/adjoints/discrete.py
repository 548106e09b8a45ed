"""The discrete adjoint: the exact gradient of the computed solution, by a reverse sweep over the accepted steps.

No autograd graph of the solve exists. Each step is a few matrix-vector products and one vector-Jacobian product per
stage; see :func:`skode.solvers.stepping.pull_step` for the formula and its sources. Step sizes count as constants of
the solution, except that the grid of steps stretches with the ends of the time span, which makes the derivatives
with respect to them exact too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skode.solvers.adjoints.first_order import first_order
from skode.solvers.integrate import Path, Problem, RecordedStep, index, integrate, weights_tensor
from skode.solvers.readout import Reading
from skode.solvers.statistics import Statistics
from skode.solvers.stepping import Stepper, pull_step
from skode.solvers.times import TimeGradients
from skode.solvers.vector_field import GradientSession


def solve(problem: Problem, y0: Tensor, times: Tensor | None, func: Any) -> tuple[Tensor, Path]:
    """Solve with gradients by the discrete adjoint; see :func:`skode.solvers.adjoints.solve`."""
    holder: list[Path] = []
    outputs = _DiscreteAdjoint.apply(problem, holder, y0, times, *problem.field.parameters)
    return outputs, holder[0]


class _DiscreteAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, problem: Problem, holder: list[Path], y0: Tensor, times: Tensor | None, *parameters: Tensor):
        ctx.with_time = times is not None and times.requires_grad
        path = integrate(problem, y0.detach(), record=True, keep_stages=ctx.with_time or problem.dense)
        holder.append(path)
        # The node must not hold on to the outputs, which hold on to it: neither would be freed.
        outputs, path.outputs = path.outputs, path.outputs.detach()
        ctx.problem, ctx.path = problem, path
        # Saved only so that autograd notices if one of them is changed in place before the backward pass.
        ctx.save_for_backward(y0, times, *parameters)
        return outputs

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_outputs: Tensor):
        _ = ctx.saved_tensors
        problem, path = ctx.problem, ctx.path
        sweep = ReverseSweep(problem, path, grad_outputs, with_time=ctx.with_time)
        grad_y0 = sweep.run()
        grad_times = sweep.times.gathered() if sweep.times is not None else None
        return (None, None, grad_y0, grad_times, *sweep.session.parameter_gradients())


class ReverseSweep:
    """The reverse sweep over one recorded path.

    Parameters
    ----------
    problem : Problem
        What was solved.
    path : Path
        Its recorded solution.
    grad_outputs : Tensor
        Cotangents of the outputs.
    with_time : bool
        Whether the gradients of the times are wanted.
    """

    def __init__(self, problem: Problem, path: Path, grad_outputs: Tensor, *, with_time: bool) -> None:
        self.problem = problem
        self.path = path
        self.grad_outputs = grad_outputs
        self.session: GradientSession = problem.field.session()
        self.stepper = Stepper(problem.tableau, problem.field, path.y_end, problem.f0, Statistics())
        self.coefficients = self.stepper.coefficients
        self.times = TimeGradients(problem, path) if with_time else None

    def run(self) -> Tensor:
        """Sweep from the end to the start; returns the cotangent of ``y0``."""
        steps = self.path.steps
        cotangent = torch.zeros_like(self.path.y_end)
        if steps:
            cotangent = self._pull_last_stage(cotangent)
        for n in reversed(range(len(steps))):
            step = steps[n]
            self._add_states(cotangent, step.readings, "at_end")
            pulled = self._pull(n, cotangent)
            if self.times is not None:
                self.times.add_step(n, pulled.grad_t, pulled.grad_h)
            cotangent = pulled.grad_y
            for reading in step.readings:
                if not reading.at_end:
                    self._add_rows(cotangent, reading)
        self._add_states(cotangent, self.path.start, "at_start")
        if self.times is not None:
            self.times.add_outputs(self.grad_outputs)
        return cotangent

    def _pull(self, n: int, cotangent: Tensor):
        steps, step = self.path.steps, self.path.steps[n]
        residuals = step.residuals if step.residuals is not None else self._recompute(n)
        self.problem.statistics.nfev_backward += len(residuals)
        stage_cotangents = self._stage_cotangents(step)
        if self.coefficients.n_own < self.problem.tableau.n_stages and n > 0:
            # The first stage is also the last one of the step before, which may have read outputs off it.
            earlier = self._stage_cotangents(steps[n - 1])
            if earlier is not None:
                if stage_cotangents is None:
                    stage_cotangents = torch.zeros_like(earlier)
                stage_cotangents[0] += earlier[-1]
        return pull_step(self.stepper, self.session, step.h, residuals, step.stages, cotangent, stage_cotangents)

    def _pull_last_stage(self, cotangent: Tensor) -> Tensor:
        """Outputs inside the last step may lean on a last stage that no further step owns."""
        if self.coefficients.n_own == self.problem.tableau.n_stages:
            return cotangent
        last = self.path.steps[-1]
        stage_cotangents = self._stage_cotangents(last)
        if stage_cotangents is None:
            return cotangent
        t_end = last.t + last.h
        _, residuals = self.problem.field.linearize(t_end, self.path.y_end)
        self.problem.statistics.nfev_backward += 1
        kbar = stage_cotangents[-1].view(self.path.y_end.shape)
        grad_y, grad_t = self.session.pull(residuals, kbar, with_time=self.times is not None)
        self.session.flush()
        if self.times is not None and grad_t is not None:
            self.times.add_end(float(grad_t))
        return cotangent + grad_y

    def _recompute(self, n: int) -> list[Any]:
        """Linearize the field again at each of the step's own stages, and see that it answers as before."""
        step, tableau, stepper = self.path.steps[n], self.problem.tableau, self.stepper
        flat = step.y.reshape(-1)
        residuals = []
        for i in range(self.coefficients.n_own):
            state = step.y if i == 0 else torch.addmv(flat, stepper.earlier[i], self.coefficients.a[i], alpha=step.h)
            value, kept = self.problem.field.linearize(step.t + tableau.c[i] * step.h, state.view(step.y.shape))
            stepper.stages[i] = value.reshape(-1)
            residuals.append(kept)
        n_own = self.coefficients.n_own
        again = torch.addmv(flat, stepper.earlier[n_own], self.coefficients.b[:n_own], alpha=step.h)
        before = self.path.steps[n + 1].y if n + 1 < len(self.path.steps) else self.path.y_end
        # Rounding may differ between two evaluations, by threads for example; a dropout mask differs by much more.
        tolerance = torch.finfo(again.dtype).eps ** 0.5
        if not torch.allclose(again, before.reshape(-1), rtol=tolerance, atol=tolerance):
            raise RuntimeError(
                "func(t, y) gave other values when it was evaluated again for the gradient: it is random (dropout in "
                "training mode?) or something that it uses has changed since the solve. adjoint='backprop' "
                "evaluates it only once."
            )
        return residuals

    def _stage_cotangents(self, step: RecordedStep) -> Tensor | None:
        """``g_i = h sum_j b_i(theta_j) ybar_j`` of the outputs inside a step, of shape (s, n)."""
        total = None
        for reading in step.readings:
            if reading.at_end:
                continue
            weights = weights_tensor(self.problem.tableau, reading.theta, self.grad_outputs).mul_(step.h)
            given = self.grad_outputs[index(reading.positions, self.grad_outputs)][..., None].flatten(1)
            if reading.rows is None:
                part = weights.t() @ given
            else:
                per_entry = torch.einsum("qs,qf->sqf", weights, given)
                part = per_entry.new_zeros((per_entry.shape[0], step.y.shape[0], given.shape[1]))
                part.index_add_(1, index(reading.rows, self.grad_outputs), per_entry)
                part = part.flatten(1)
            total = part if total is None else total + part
        return total

    def _add_states(self, cotangent: Tensor, readings: list[Reading], where: str) -> None:
        """Add the cotangents of outputs that are the state itself."""
        for reading in readings:
            if getattr(reading, where):
                self._add_rows(cotangent, reading)

    def _add_rows(self, cotangent: Tensor, reading: Reading) -> None:
        """Add output cotangents to those of the state that the outputs start from."""
        given = self.grad_outputs[index(reading.positions, self.grad_outputs)]
        if reading.rows is None:
            cotangent += given.sum(0)
        else:
            cotangent.index_add_(0, index(reading.rows, self.grad_outputs), given)
