"""The continuous adjoint: the adjoint differential equation, solved backward beside the state (Chen et al. 2018).

With ``a = dL/dy``, the augmented state ``[y, a, g]`` follows ``dy/dt = f``, ``da/dt = -a^T df/dy``,
``dg/dt = -a^T df/dtheta`` from the last output time to the first; at every output time ``a`` jumps by that output's
cotangent (Algorithm 1 and appendix C of the paper). Memory does not grow with the number of steps; the gradient is
as exact as the tolerance, not more.

A stiff state can't be solved backward: what has died out forward grows without bound. For the implicit methods that
choose their steps, ``y`` is read off the forward solve instead, whose steps are kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from skode.solvers.adjoints.adjoint_equation import AdjointSolve, CotangentsOfOutputs, adaptive_implicit, adjoint_norm
from skode.solvers.adjoints.adjoint_equation_per_sample import PerSampleAdjointSolve
from skode.solvers.buffer_pool import LITTLE, no_more_idle_memory
from skode.solvers.dense_output import DenseOutput
from skode.solvers.fields.pullback import PullbackField
from skode.solvers.first_order import first_order
from skode.solvers.forward.run import Path, Run
from skode.solvers.integrate import integrate


def solve(run: Run, y0: Tensor, func: Any) -> tuple[Tensor, Path]:
    """Solve with gradients by the adjoint equation; see :mod:`skode.solvers.adjoints`."""
    holder: list[Path] = []
    jump_times = None if run.jumps is None else run.jumps.times
    outputs = _ContinuousAdjoint.apply(run, holder, y0, jump_times, *run.field.parameters)
    return outputs, holder[0]


class _ContinuousAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Run, holder: list[Path], y0: Tensor, jumps: Tensor | None, *parameters: Tensor):
        start = y0.detach().clone() if run.outputs.dense else y0.detach()
        kept = run.outputs.dense or keeps_states(run)
        with no_more_idle_memory():  # it is chosen for the little that it keeps
            path = integrate(run, start, record=kept, keep_stages=kept)
        holder.append(path)
        ctx.states = None
        if keeps_states(run) and path.steps:
            ctx.states = DenseOutput(path, run.span.t0, path.t_end)
        # As with torchdiffeq's nodes, the norm of the error test can be read here, and set.
        ctx.adjoint_options = {"norm": adjoint_norm(run)}
        # Neither the first evaluation nor copies of many weights are kept: these are made again.
        field, n_bytes = run.field, sum(p.numel() * p.element_size() for p in parameters)
        if isinstance(field, PullbackField) and n_bytes > LITTLE // 2:
            field = field.unbound()
        ctx.run = replace(run, field=field, f0=None)
        ctx.output_times, ctx.rows, ctx.t_end = path.times, path.rows, path.t_end
        ctx.save_for_backward(path.y_end, path.outputs, y0, jumps, *parameters)
        return path.outputs

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_outputs: Tensor):
        y_end, outputs, y0, *_ = ctx.saved_tensors
        run, norm = ctx.run, ctx.adjoint_options["norm"]
        if isinstance(run.field, PullbackField) and run.field.func is None:
            run = replace(run, field=run.field.bound())
        given = CotangentsOfOutputs.of(ctx.output_times, ctx.rows, outputs, grad_outputs)
        grad_jumps = None if run.jumps is None else torch.zeros_like(run.jumps.times)
        with no_more_idle_memory():
            if run.control.per_sample:
                sweep: AdjointSolve = PerSampleAdjointSolve(run, given, grad_jumps, y0, norm)
            else:
                sweep = AdjointSolve(run, given, grad_jumps, y_end, ctx.t_end, norm, ctx.states)
            grad_y0, grad_parameters = sweep.solve()
        return (None, None, grad_y0, grad_jumps, *grad_parameters)


def keeps_states(run: Run) -> bool:
    """Whether the forward solve is kept for the adjoint equation: that of stiff problems, with steps for the batch."""
    return adaptive_implicit(run.tableau) and not run.control.per_sample
