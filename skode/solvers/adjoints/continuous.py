"""The continuous adjoint: the adjoint differential equation, solved backward beside the state (Chen et al. 2018).

With ``a = dL/dy``, the augmented state ``[y, a, g]`` follows ``dy/dt = f``, ``da/dt = -a^T df/dy``,
``dg/dt = -a^T df/dtheta`` from the last output time to the first; at every output time ``a`` jumps by that output's
cotangent (Algorithm 1 and appendix C of the paper). Memory does not grow with the number of steps; the gradient is
as exact as the tolerance, not more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.adjoints.first_order import first_order
from skode.solvers.callbacks import Callbacks
from skode.solvers.integrate import Path, Problem, index, integrate
from skode.solvers.march import StepControl, equal_steps
from skode.solvers.statistics import Statistics
from skode.solvers.step_size import rms_norm
from skode.solvers.stepping.explicit import stage_time
from skode.solvers.stepping.jacobians import Blocks, independent_blocks
from skode.solvers.tableaus import ButcherTableau
from skode.solvers.vector_field import Field, FunctionTape, Session, Tape, column


def solve(problem: Problem, y0: Tensor, times: Tensor | None, func: Any) -> tuple[Tensor, Path]:
    """Solve with gradients by the adjoint equation; see :func:`skode.solvers.adjoints.solve`."""
    holder: list[Path] = []
    outputs = _ContinuousAdjoint.apply(problem, holder, y0, times, *problem.field.parameters)
    return outputs, holder[0]


class _ContinuousAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, problem: Problem, holder: list[Path], y0: Tensor, times: Tensor | None, *parameters: Tensor):
        start = y0.detach().clone() if problem.dense else y0.detach()
        path = integrate(problem, start, record=problem.dense, keep_stages=problem.dense)
        holder.append(path)
        ctx.problem, ctx.output_times, ctx.rows = problem, path.times, path.rows
        ctx.with_time = times is not None and times.requires_grad
        # As torchdiffeq's nodes, this one shows the norm of its error test, and takes another.
        ctx.adjoint_options = {"norm": adjoint_norm(problem)}
        ctx.save_for_backward(path.y_end, path.outputs, y0, times, *parameters)
        return path.outputs

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_outputs: Tensor):
        y_end, outputs, *_ = ctx.saved_tensors
        norm = ctx.adjoint_options["norm"]
        sweep = AdjointSolve(ctx.problem, ctx.output_times, ctx.rows, outputs, grad_outputs, norm)
        grad_y0, grad_parameters = sweep.run(y_end)
        grad_times = sweep.time_gradients(grad_y0) if ctx.with_time else None
        return (None, None, grad_y0, grad_times, *grad_parameters)


def adjoint_norm(problem: Problem) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """The norm of the adjoint equation's error test: of its state ``(0, y, a, *gradients)`` as a tuple.

    By default the largest of the norm of the forward solve over ``y`` and ``a`` and the root mean squares of the
    parameters' gradients, which a seminorm leaves out (Kidger et al. 2021).
    """
    backward, control = problem.backward, problem.control
    if backward.norm is not None:
        return backward.norm
    # Where steps are per sample, that is the norm of one sample.
    of_state = rms_norm if control.per_sample else control.tolerances.norm

    def largest(state: tuple[Tensor, ...]) -> Tensor:
        time, y, adjoint, *gradients = state
        sizes = [time.abs(), of_state(y), of_state(adjoint)]
        if not backward.seminorm:
            sizes += [rms_norm(gradient) for gradient in gradients]
        return torch.stack([torch.as_tensor(size, dtype=y.dtype).reshape(()) for size in sizes]).max()

    return largest


class AugmentedField:
    """The right-hand side of the adjoint equation over the flat state ``[y, a, g]``."""

    parameters: tuple[Tensor, ...] = ()

    def __init__(self, field: Field, like: Tensor, statistics: Statistics, time: float, *, implicit: bool) -> None:
        self.field = field
        self.shape = like.shape
        self.n = like.numel()
        self.statistics = statistics
        self.like = like
        self.evaluation = field.tape(like, 1, pullable=True)
        n_parameters = sum(p.numel() for p in field.parameters)
        self.size = 2 * self.n + n_parameters
        # Implicit methods see the state as blocks of equal size, to which it is filled up.
        self.states = independent_blocks(field, like, time) if implicit else Blocks(like)
        self.size += -self.size % self.states.size if self.n else 0

    def blocks(self) -> AdjointBlocks:
        """How an implicit method may take the state apart."""
        return AdjointBlocks(self)

    def parts(self, y: Tensor) -> list[Tensor]:
        """State, adjoint and the parameters' gradients out of the flat state."""
        shapes = [self.shape, self.shape, *(p.shape for p in self.field.parameters)]
        sizes = [shape.numel() for shape in shapes]
        pieces = y[: sum(sizes)].split(sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    def __call__(self, t: Any, y: Tensor) -> Tensor:
        self.statistics.nfev_backward += 1
        n, tape, session = self.n, self.evaluation, self.field.session()
        rates = torch.empty_like(y)
        tape.place(0).copy_(y[:n])
        tape.evaluate(0, t, rates[:n].view(self.shape))
        adjoint = y[n : 2 * n].view(self.shape)
        session.pull(tape, 0, -adjoint, rates[n : 2 * n].view(self.shape), with_time=False)
        session.flush(tape)
        start = 2 * n
        for parameter, gradient in zip(self.field.parameters, session.parameter_gradients(), strict=True):
            rate = rates[start : start + parameter.numel()]
            if gradient is None:
                rate.zero_()
            else:
                rate.copy_(gradient.reshape(-1))
            start += parameter.numel()
        rates[start:] = 0.0
        return rates

    def tape(self, like: Tensor, n_slots: int, *, pullable: bool) -> Tape:
        return FunctionTape(self, like, n_slots)

    def session(self, *, with_parameters: bool = True) -> Session:
        raise NotImplementedError("the adjoint equation is not differentiated again; use adjoint='backprop'")


class AdjointBlocks(Blocks):
    """The adjoint equation for Newton's method: ``J`` for the state, ``-J^T`` for the adjoint, 0 for the gradients.

    How the adjoint depends on the state and the gradients on both is left out. As neither acts back, the iterations
    converge all the same, the state's first; they may take two more before they begin to.
    """

    patience = 3

    def __init__(self, augmented: AugmentedField) -> None:
        self.augmented = augmented
        self.size = augmented.states.size
        self.n = augmented.size // max(self.size, 1)

    def jacobians(self, field: Any, tape: Any, slot: int, like: Tensor) -> Tensor:
        augmented = self.augmented
        states, inner, evaluation = augmented.states, augmented.field, augmented.evaluation
        own = states.jacobians(inner, evaluation, 0, augmented.like)
        rest = own.new_zeros((self.n - 2 * states.n, self.size, self.size))
        return torch.cat([own, -own.transpose(1, 2), rest])

    def holds(self, field: Any, tape: Any, slot: int, like: Tensor, jacobians: Tensor) -> bool:
        return True


class AdjointSolve:
    """The backward solve: one segment between each two neighbouring output times."""

    def __init__(
        self,
        problem: Problem,
        output_times: np.ndarray,
        rows: np.ndarray | None,
        outputs: Tensor,
        grad_outputs: Tensor,
        norm: Callable[[tuple[Tensor, ...]], Tensor],
    ) -> None:
        self.tableau = problem.backward.tableau or problem.tableau
        self.norm = norm
        self.problem = problem
        self.output_times = output_times
        self.rows = rows
        self.outputs = outputs
        self.grad_outputs = grad_outputs

    def run(self, y_end: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Solve from the last output time to the initial one; returns gradients of ``y0`` and of the parameters."""
        problem = self.problem
        shape, n = y_end.shape, y_end.numel()
        sizes = [p.numel() for p in problem.field.parameters]
        field = AugmentedField(
            problem.field,
            y_end,
            problem.statistics,
            problem.t1,
            implicit=isinstance(self.tableau, ButcherTableau) and self.tableau.implicit,
        )
        augmented = y_end.new_zeros(field.size)
        augmented[:n] = y_end.reshape(-1)
        t = problem.t1
        for time in np.unique(np.append(self.output_times, problem.t0))[:: -1 if problem.t1 >= problem.t0 else 1]:
            # Before the last output the adjoint is zero and, where states are known, there is nothing to solve.
            if time != t and (self.rows is not None or bool(augmented[n : 2 * n].any())):
                augmented = self._segment(field, t, float(time), augmented)
                t = float(time)
            self._jump(time, augmented, n, shape)
            if self.rows is None:
                # The state is known here: start again from it rather than from the backward solve's drifted one.
                known = np.flatnonzero(self.output_times == time)
                if len(known):
                    augmented[:n] = self.outputs[int(known[0])].reshape(-1)
                    t = float(time)
        pieces = augmented[2 * n : 2 * n + sum(sizes)].split(sizes)
        gradients = [g.view(p.shape).to(p) for g, p in zip(pieces, problem.field.parameters, strict=True)]
        return augmented[n : 2 * n].view(shape).clone(), gradients

    def _jump(self, time: float, augmented: Tensor, n: int, shape: torch.Size) -> None:
        positions = np.flatnonzero(self.output_times == time)
        if not len(positions):
            return
        a = augmented[n : 2 * n].view(shape)
        given = self.grad_outputs[index(positions, a)]
        if self.rows is None:
            a += given.sum(0)
        else:
            a.index_add_(0, index(self.rows[positions], a), given)

    def _segment(self, field: AugmentedField, t: float, t_next: float, augmented: Tensor) -> Tensor:
        control = self._control(t, t_next, augmented, field)
        start = stage_time(t, t_next - t, 0.0, (True, True), field.like) if control.nudged else t
        segment = replace(
            self.problem,
            field=field,
            f0=field(start, augmented),
            tableau=self.tableau,
            callbacks=self._callbacks(field),
            t0=t,
            t1=t_next,
            times=np.array([t_next]),
            rows=None,
            control=control,
            statistics=Statistics(),
            grid_is_times=False,
            dense=False,
            tape0=None,
            events=None,
            spans=None,
            on_failure="raise",
            replay=None,
            replay_key=None,
        )
        return integrate(segment, augmented, record=False).y_end

    def _control(self, t: float, t_next: float, augmented: Tensor, field: AugmentedField) -> StepControl:
        problem = self.problem
        if problem.backward.control is not None:
            control = problem.backward.control(field, augmented, t, t_next)
        else:
            control = self._forward_control(t, t_next)

        def norm(x: Tensor) -> Tensor:
            return self.norm((x.new_zeros(()), *field.parts(x)))

        tolerances = problem.backward.tolerances or control.tolerances.tightest()
        return replace(control, tolerances=replace(tolerances, norm=norm))

    def _forward_control(self, t: float, t_next: float) -> StepControl:
        """The step control of the forward solve, between two times and without its norm."""
        problem, control = self.problem, self.problem.control
        low, high = min(t, t_next), max(t, t_next)
        grid = control.grid
        if grid is None and not problem.tableau.adaptive:
            nodes = equal_steps(control, problem.t0, problem.t1)
            grid = np.array(list(itertools.takewhile(lambda node: abs(node - problem.t0) < abs(t - problem.t0), nodes)))
        if grid is not None:
            inner = grid[(grid > low) & (grid < high)]
            grid = np.concatenate([[t], np.sort(inner)[:: 1 if t_next > t else -1], [t_next]])
        landings = sorted((x for x in control.landings if low < x < high), reverse=t_next < t)
        jumps = control.jumps & set(landings)
        return replace(control, per_sample=False, landings=tuple(landings), jumps=jumps, grid=grid, first_step=None)

    def _callbacks(self, field: AugmentedField) -> Callbacks | None:
        """The callbacks of the adjoint equation, which get its state as a tuple."""
        callbacks = self.problem.backward.callbacks
        return None if callbacks is None else callbacks.of(lambda x: (x.new_zeros(()), *field.parts(x)))

    def time_gradients(self, a0: Tensor) -> Tensor:
        """``dL/dt_j = g_j . f(t_j, y_j)`` for the outputs and ``dL/dt0 = -a(t0) . f(t0, y0)``.

        Outputs at the end of every step are at times that stretch with the time span.
        """
        problem = self.problem
        # Outputs at events stay where they are: their times are made differentiable by themselves.
        n_known = len(self.output_times) if problem.times is None else len(problem.times)
        gradients = torch.zeros(2 + n_known, dtype=torch.float64)
        gradients[0] = -(a0 * problem.f0).sum()
        if self.rows is not None:
            self._add_times_of_samples(gradients[2:], a0)
            return gradients
        for j, time in enumerate(self.output_times[:n_known].tolist()):
            gradients[2 + j] = (self.grad_outputs[j] * problem.field(time, self.outputs[j])).sum()
        if problem.times is not None:
            return gradients
        s = torch.from_numpy((self.output_times - problem.t0) / ((problem.t1 - problem.t0) or 1.0))
        return gradients[:2] + torch.stack([(1 - s) @ gradients[2:], s @ gradients[2:]])

    def _add_times_of_samples(self, gradients: Tensor, like: Tensor) -> None:
        """The same for outputs of single samples, of which the field sees one each at a time."""
        assert self.rows is not None
        waiting = [np.flatnonzero(self.rows[: len(gradients)] == i) for i in range(len(like))]
        for k in range(max(map(len, waiting), default=0)):
            positions = np.array([own[min(k, len(own) - 1)] if len(own) else -1 for own in waiting])
            here = np.array([len(own) > k for own in waiting])
            chosen = index(np.maximum(positions, 0), like)
            answered = column(positions >= 0, like).bool()
            states = torch.where(answered, self.outputs[chosen], 0.0)
            rates = self.problem.field(column(self.output_times[np.maximum(positions, 0)], like), states)
            along = (self.grad_outputs[chosen] * rates).flatten(1).sum(1).double().cpu()
            gradients[torch.from_numpy(positions[here])] = along[torch.from_numpy(here)]
