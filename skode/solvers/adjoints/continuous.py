"""The continuous adjoint: the adjoint differential equation, solved backward beside the state (Chen et al. 2018).

With ``a = dL/dy``, the augmented state ``[y, a, g]`` follows ``dy/dt = f``, ``da/dt = -a^T df/dy``,
``dg/dt = -a^T df/dtheta`` from the last output time to the first; at every output time ``a`` jumps by that output's
cotangent (Algorithm 1 and appendix C of the paper). Memory does not grow with the number of steps; the gradient is
as exact as the tolerance, not more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.adjoints.first_order import first_order
from skode.solvers.integrate import Path, Problem, index, integrate
from skode.solvers.march import StepControl
from skode.solvers.statistics import Statistics
from skode.solvers.step_size import rms_norm
from skode.solvers.vector_field import Field, GradientSession


def solve(problem: Problem, y0: Tensor, times: Tensor | None, func: Any) -> tuple[Tensor, Path]:
    """Solve with gradients by the adjoint equation; see :func:`skode.solvers.adjoints.solve`."""
    holder: list[Path] = []
    outputs = _ContinuousAdjoint.apply(problem, holder, y0, times, *problem.field.parameters)
    return outputs, holder[0]


class _ContinuousAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, problem: Problem, holder: list[Path], y0: Tensor, times: Tensor | None, *parameters: Tensor):
        path = integrate(problem, y0.detach(), record=problem.dense, keep_stages=problem.dense)
        holder.append(path)
        ctx.problem, ctx.output_times = problem, path.times
        ctx.with_time = times is not None and times.requires_grad
        ctx.save_for_backward(path.y_end, path.outputs, y0, times, *parameters)
        return path.outputs

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_outputs: Tensor):
        y_end, outputs, *_ = ctx.saved_tensors
        sweep = AdjointSolve(ctx.problem, ctx.output_times, outputs, grad_outputs)
        grad_y0, grad_parameters = sweep.run(y_end)
        grad_times = sweep.time_gradients(grad_y0) if ctx.with_time else None
        return (None, None, grad_y0, grad_times, *grad_parameters)


class AugmentedField:
    """The right-hand side of the adjoint equation over the flat state ``[y, a, g]``."""

    parameters: tuple[Tensor, ...] = ()

    def __init__(self, field: Field, shape: torch.Size, statistics: Statistics) -> None:
        self.field = field
        self.shape = shape
        self.n = shape.numel()
        self.statistics = statistics

    def __call__(self, t: float, y: Tensor) -> Tensor:
        self.statistics.nfev_backward += 1
        state = y[: self.n].view(self.shape)
        adjoint = y[self.n : 2 * self.n].view(self.shape)
        value, residuals = self.field.linearize(t, state)
        session = self.field.session()
        grad_y, _ = session.pull(residuals, adjoint, with_time=False)
        rates = [value.reshape(-1), -grad_y.reshape(-1)]
        for parameter, gradient in zip(self.field.parameters, session.parameter_gradients(), strict=True):
            rate = torch.zeros_like(parameter) if gradient is None else -gradient
            rates.append(rate.reshape(-1).to(y))
        return torch.cat(rates)

    def linearize(self, t: float, y: Tensor) -> tuple[Tensor, Any]:
        raise NotImplementedError("the adjoint equation is not differentiated again; use adjoint='backprop'")

    def session(self) -> GradientSession:
        raise NotImplementedError("the adjoint equation is not differentiated again; use adjoint='backprop'")


class AdjointSolve:
    """The backward solve: one segment between each two neighbouring output times."""

    def __init__(self, problem: Problem, output_times: np.ndarray, outputs: Tensor, grad_outputs: Tensor) -> None:
        self.problem = problem
        self.output_times = output_times
        self.outputs = outputs
        self.grad_outputs = grad_outputs

    def run(self, y_end: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Solve from the last output time to the initial one; returns gradients of ``y0`` and of the parameters."""
        problem = self.problem
        shape, n = y_end.shape, y_end.numel()
        sizes = [p.numel() for p in problem.field.parameters]
        field = AugmentedField(problem.field, shape, problem.statistics)
        augmented = y_end.new_zeros(2 * n + sum(sizes))
        augmented[:n] = y_end.reshape(-1)
        t = problem.t1
        for time in np.unique(np.append(self.output_times, problem.t0))[:: -1 if problem.t1 >= problem.t0 else 1]:
            # Before the last output the adjoint is zero and, where states are known, there is nothing to solve.
            if time != t and (problem.rows is not None or bool(augmented[n : 2 * n].any())):
                augmented = self._segment(field, t, float(time), augmented, n)
                t = float(time)
            self._jump(time, augmented, n, shape)
            if problem.rows is None:
                # The state is known here: start again from it rather than from the backward solve's drifted one.
                known = np.flatnonzero(self.output_times == time)
                if len(known):
                    augmented[:n] = self.outputs[int(known[0])].reshape(-1)
                    t = float(time)
        pieces = augmented[2 * n :].split(sizes)
        gradients = [g.view(p.shape).to(p) for g, p in zip(pieces, problem.field.parameters, strict=True)]
        return augmented[n : 2 * n].view(shape).clone(), gradients

    def _jump(self, time: float, augmented: Tensor, n: int, shape: torch.Size) -> None:
        positions = np.flatnonzero(self.output_times == time)
        if not len(positions):
            return
        a = augmented[n : 2 * n].view(shape)
        given = self.grad_outputs[index(positions, a)]
        if self.problem.rows is None:
            a += given.sum(0)
        else:
            a.index_add_(0, index(self.problem.rows[positions], a), given)

    def _segment(self, field: AugmentedField, t: float, t_next: float, augmented: Tensor, n: int) -> Tensor:
        segment = replace(
            self.problem,
            field=field,
            f0=field(t, augmented),
            t0=t,
            t1=t_next,
            times=np.array([t_next]),
            rows=None,
            control=self._control(t, t_next, n),
            statistics=Statistics(),
            grid_is_times=False,
            dense=False,
        )
        return integrate(segment, augmented, record=False).y_end

    def _control(self, t: float, t_next: float, n: int) -> StepControl:
        control, seminorm = self.problem.control, self.problem.seminorm

        def norm(x: Tensor) -> Tensor:
            """The largest of the blocks' norms; a seminorm leaves out the parameters' (Kidger et al. 2021)."""
            blocks = [x[:n], x[n : 2 * n]]
            if x.numel() > 2 * n and not seminorm:
                blocks.append(x[2 * n :])
            return torch.stack([rms_norm(block) for block in blocks]).max()

        grid = control.grid
        if grid is not None:
            low, high = min(t, t_next), max(t, t_next)
            inner = grid[(grid > low) & (grid < high)]
            grid = np.concatenate([[t], np.sort(inner)[:: 1 if t_next > t else -1], [t_next]])
        return replace(control, grid=grid, first_step=None, tolerances=replace(control.tolerances, norm=norm))

    def time_gradients(self, a0: Tensor) -> Tensor:
        """``dL/dt_j = g_j . f(t_j, y_j)`` for the outputs and ``dL/dt0 = -a(t0) . f(t0, y0)``.

        Outputs at the end of every step are at times that stretch with the time span.
        """
        problem = self.problem
        gradients = torch.zeros(2 + len(self.output_times), dtype=torch.float64)
        gradients[0] = -(a0 * problem.f0).sum()
        if problem.rows is not None:
            raise NotImplementedError(
                "adjoint='continuous' gives no gradient of per-sample output times; use adjoint='discrete'."
            )
        for j, time in enumerate(self.output_times.tolist()):
            gradients[2 + j] = (self.grad_outputs[j] * problem.field(time, self.outputs[j])).sum()
        if problem.times is not None:
            return gradients
        s = torch.from_numpy((self.output_times - problem.t0) / ((problem.t1 - problem.t0) or 1.0))
        return gradients[:2] + torch.stack([(1 - s) @ gradients[2:], s @ gradients[2:]])
