"""One implicit Runge-Kutta step: stages by Newton's method, pulled back by the implicit function theorem.

Stages that depend on each other form a group: single stages of a diagonally implicit method, all stages of the others.
A group's equations ``k_i = f(t + c_i h, y + h sum_j a_ij k_j)`` are solved by simplified Newton iterations with the
Jacobian at the start of the step, one LU decomposition for each block of the state (Hairer, Wanner, Solving Ordinary
Differential Equations II, section IV.8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from skode.solvers.errors import newton_failed
from skode.solvers.fields.protocols import Session, Tape
from skode.solvers.stepping.explicit import ExplicitStepper
from skode.solvers.stepping.jacobians import Blocks, SharedJacobian, blocks_of
from skode.solvers.stepping.step import NO_EDGES, Edges, PulledStep, StepSize, TakenStep, changed_field, stage_time

MAX_ITERATIONS = 10  # of an adaptive method, which can take a smaller step instead
MAX_ITERATIONS_FIXED = 50
REFRESH = 8  # iterations after which a fixed step takes the Jacobian at the present iterate
CONVERGED = 1e-3  # of the error allowed to a step


@dataclass
class _Linearization:
    """The Jacobians at the start of a step, and the Newton matrices made of them."""

    jacobians: Tensor
    factors: dict[Any, tuple[Tensor, Tensor]]


class ImplicitStepper(ExplicitStepper):
    """Takes implicit steps; see :class:`skode.solvers.stepping.ExplicitStepper` for its interface."""

    needs_stages = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keep = False  # the iterations' evaluations are not those that are pulled back
        self.groups = [[i] for i in self.own] if self.tableau.diagonal else [list(self.own)]
        self.blocks = blocks_of(self.field, self.like)
        self.shared = SharedJacobian.offered(self.field, self.like)
        self.linearization: _Linearization | None = None
        # Blocks whose equations the last attempt did not solve.
        self.failed = torch.zeros(self.blocks.n, dtype=torch.bool, device=self.like.device)

    def start(self, f0: Tensor) -> None:
        # The first guess of the first stage, or that stage itself.
        self.values[0].copy_(f0)

    def attempt(self, t: Any, h: StepSize, y: Tensor, edges: Edges = NO_EDGES) -> TakenStep:
        if self.linearization is None:
            self._linearize(stage_time(t, h, 0.0, edges, self.time_dtype), y)
        elif isinstance(h, Tensor):
            self.linearization.factors.clear()
        guess = self.stages[0] if self.n_carried else self.stages[-1 if self.first_is_current else 0]
        if isinstance(h, Tensor) and self.blocks.n < len(h):
            raise ValueError("func mixes the samples of the batch: step_control='per_sample' needs them independent.")
        self.failed = torch.zeros(self.blocks.n, dtype=torch.bool, device=y.device)
        for group in self.groups:
            for i in group:
                self.stages[i].copy_(guess)
            self._solve(group, t, h, y, edges)
            guess = self.stages[group[-1]]
        unsolved = None
        y_next = torch.empty_like(y, memory_format=torch.contiguous_format)
        self._combine(y, self.coefficients.b, h, y_next)
        if bool(self.failed.any()):
            if not self.tableau.adaptive:
                raise newton_failed(float(t), float(h))
            unsolved = self.failed.cpu().numpy()
            there = self.failed.view(-1, 1)
            y_next = torch.where(there, y.reshape(self.blocks.n, -1), y_next.view(self.blocks.n, -1)).view(self.shape)
        return TakenStep(t, h, y, y_next, self.stages, self.tableau, None, edges, unsolved=unsolved)

    def error(self, step: TakenStep) -> Tensor:
        return self.mark_unsolved(super().error(step), step.y)

    def mark_unsolved(self, error: Tensor, y: Tensor) -> Tensor:
        """The error, a thousand times what is allowed where a step was not solved, so that it shrinks at once."""
        if not bool(self.failed.any()):
            return error
        allowed = self.tolerances.allowed(y)
        there, n = self.failed.view(-1, 1), len(self.failed)
        return torch.where(there, 1e3 * allowed.reshape(n, -1), error.reshape(n, -1)).view(self.shape)

    def accept(self) -> None:
        self.linearization = None
        self.first_is_current = True
        if self.n_carried:
            self.stages[0].copy_(self.stages[-1])

    def accept_some(self, moved: Tensor) -> None:
        self.linearization = None
        self.first_is_current = True
        if self.n_carried:
            self.values[0].copy_(torch.where(moved, self.values[-1], self.values[0]))

    def restart(self, t: Any, h: Any, y: Tensor, edges: Edges) -> None:
        super().restart(t, h, y, edges)
        self.linearization = None

    def take(self, these: Tensor) -> Self:
        like = self.like[these]
        field = self.field.take(these)
        other = type(self)(self.tableau, field, like, self.statistics, self.tolerances)
        other.stages[:] = self.stages.view(-1, *self.shape)[:, these].flatten(1)
        other.first_is_current = self.first_is_current
        if self.blocks.n == 1 and len(self.like) > 1:
            other.blocks = Blocks(like, whole=True)
        return other

    def _linearize(self, t: Any, y: Tensor) -> None:
        """Jacobians at the start of a step."""
        if self.shared is not None:
            self.statistics.nfev += 1
            self.linearization = _Linearization(self.shared.jacobians(t, y), {})
            return
        tape = self.field.tape(y, 1, pullable=True)
        tape.place(0).copy_(y.reshape(-1))
        self.statistics.nfev += 1
        tape.evaluate(0, t, torch.empty_like(y, memory_format=torch.contiguous_format))
        jacobians = self._jacobians(tape, 0)
        tape.release()
        self.linearization = _Linearization(jacobians, {})

    def _jacobians(self, tape: Tape, slot: int) -> Tensor:
        """Jacobians at an evaluation, per block; where blocks turn out to depend on one another they become one."""
        jacobians = self.blocks.jacobians(self.field, tape, slot, self.like)
        if self.blocks.holds(self.field, tape, slot, self.like, jacobians):
            return jacobians
        self.blocks = Blocks(self.like, whole=True)
        return self.blocks.jacobians(self.field, tape, slot, self.like)

    def _factors(self, group: list[int], h: StepSize) -> tuple[Tensor, Tensor]:
        """LU of ``I - h A (x) J`` for a group of stages, per block."""
        assert self.linearization is not None
        a = self.coefficients.full[group][:, group]
        key = (None if isinstance(h, Tensor) else h, tuple(a.flatten().tolist()))
        known = self.linearization.factors
        if key not in known:
            jacobians = self.linearization.jacobians
            matrix = _kronecker(a.expand(len(jacobians), *a.shape), jacobians) * self.blocks.column(h)
            identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
            known[key] = torch.linalg.lu_factor_ex(identity - matrix)[:2]
        return known[key]

    def _solve(self, group: list[int], t: Any, h: StepSize, y: Tensor, edges: Edges) -> None:
        """Newton's method for one group; blocks that don't converge are marked in ``failed``."""
        tableau, n, size = self.tableau, self.blocks.n, self.blocks.size
        adaptive = tableau.adaptive
        h_block = self.blocks.column(h)
        known = self._known_part(group, h, y)
        eps = torch.finfo(y.dtype).eps
        scale = self.tolerances.allowed(y).reshape(n, 1, size)
        rows = slice(group[0], group[-1] + 1)
        a = self.coefficients.full[rows, rows]
        factors = self._factors(group, h)
        done = self.failed.clone()
        patience = self.blocks.patience if self.shared is None else self.shared.patience
        before = None
        states, largest = known, torch.maximum(known.abs(), y.reshape(n, 1, size).abs())
        for iteration in range(MAX_ITERATIONS if adaptive else MAX_ITERATIONS_FIXED):
            if iteration and not adaptive and iteration % REFRESH == 0:
                self._linearize(t, states[:, -1].reshape(self.shape))
                if self.blocks.n != n:
                    self.failed = self.failed.any()[None]
                    self._solve(group, t, h, y, edges)
                    return
                factors = self._factors(group, h)
            k = self.stages[rows].view(len(group), n, size).transpose(0, 1)
            states = known + h_block * (a @ k)
            rates = self._rates(group, t, h, states, edges)
            residual = (h_block * (rates - k)).reshape(n, -1, 1)
            if self.shared is None:
                step = torch.linalg.lu_solve(*factors, residual).view_as(k)
            else:
                step = self.shared.solve(factors, residual).view_as(k)
            step = torch.where(done.view(-1, 1, 1), 0.0, step)
            self.stages[rows] = (k + step / h_block).transpose(0, 1).reshape(len(group), -1)
            moved = a @ step
            # Rounding is as small as increments can get.
            size_now = torch.maximum(states.abs(), largest).amax(dim=(1, 2), keepdim=True)
            allowed = 4 * eps * size_now + torch.finfo(y.dtype).tiny
            if adaptive:
                allowed = torch.maximum(allowed, CONVERGED * scale)
            sizes = torch.linalg.vector_norm((moved / allowed).flatten(1), dim=1) / (moved[0].numel() ** 0.5)
            converged = sizes <= 1.0
            if before is not None:
                grows = (sizes >= before) & (iteration > patience)
                if adaptive:
                    diverges = grows & ~converged & ~done
                    self.failed |= diverges
                    # NaN is left where it is: the error test, or the look at a fixed step's result, finds it.
                    done = done | diverges | ~torch.isfinite(sizes)
                else:  # rounding does not let it shrink further
                    converged |= grows & (sizes <= 1e3)
            done = done | converged
            before = sizes
            if bool(done.all()):
                return
        self.failed |= ~done & torch.isfinite(sizes)

    def _known_part(self, group: list[int], h: StepSize, y: Tensor) -> Tensor:
        """``y + h sum_j a_ij k_j`` over the stages outside the group, of shape (n, stages of the group, size)."""
        n, size = self.blocks.n, self.blocks.size
        known = y.reshape(n, 1, size).expand(n, len(group), size)
        first = group[0]
        if first == 0:
            return known
        moved = self.coefficients.full[first : group[-1] + 1, :first] @ self.stages[:first]
        return known + self.blocks.column(h) * moved.view(len(group), n, size).transpose(0, 1)

    def _rates(self, group: list[int], t: Any, h: StepSize, states: Tensor, edges: Edges) -> Tensor:
        """The field at a group's stages, of shape (n, stages of the group, size)."""
        rates = torch.empty_like(states)
        for j, i in enumerate(group):
            self.statistics.nfev += 1
            time = stage_time(t, h, self.tableau.c[i], edges, self.time_dtype)
            rates[:, j] = self.field(time, states[:, j].reshape(self.shape)).reshape(self.blocks.n, -1)
        return rates

    def _combine(self, y: Tensor, weights: Tensor, h: StepSize, out: Tensor) -> None:
        torch.mv(self.stages.t(), weights, out=out.view(-1))
        out.mul_(h).add_(y)

    def pull(
        self,
        step: TakenStep,
        session: Session,
        cotangent: Tensor,
        carried: Tensor | None,
        given: Tensor | None,
    ) -> PulledStep:
        """The vector-Jacobian product of one step, by the implicit function theorem.

        As for an explicit step, but a group's ``kbar_i = h (b_i lam + sum_j a_ji ybar_j) + g_i``,
        ``ybar_i = J_i^T kbar_i`` is a system of linear equations, with the Jacobians at the stages themselves.
        """
        h, stages = step.h, step.stages
        assert step.tape is not None
        assert stages is not None
        a, b = self.coefficients.full, self.coefficients.b
        if carried is not None and self.n_carried:
            given = torch.zeros_like(stages) if given is None else given
            given[-1] += carried[0]
        lam = cotangent.reshape(-1)
        ybar = torch.zeros_like(stages)
        for group in reversed(self.groups):
            outside = torch.addmm(torch.outer(b[group], lam), a[:, group].t(), ybar).view(-1, *self.shape) * h
            right = outside.reshape(len(group), -1)
            right = right if given is None else right + given[group]
            kbar = self._solve_transposed(group, step, right)
            for j, i in enumerate(group):
                slot, k = i - self.n_carried, kbar[j].view(self.shape)
                session.pull(step.tape, slot, k, ybar[i].view(self.shape))
        session.flush(step.tape)
        handed_on = None
        if self.n_carried:
            first = ((b[0] * lam + a[:, 0] @ ybar).view(self.shape) * h).reshape(-1)
            handed_on = (first if given is None else first + given[0])[None]
        total = cotangent + ybar.sum(0).view(self.shape)
        return PulledStep(total, handed_on)

    def newton_matrix(self, group: list[int], step: TakenStep) -> Tensor:
        """``I - h a_ij J_i`` over a group, with the Jacobians at the stages themselves; per block."""
        assert step.tape is not None
        blocks = self.blocks
        each = [self._jacobians(step.tape, i - self.n_carried) for i in group]
        if self.blocks is not blocks:  # found to depend on one another
            each = [self._jacobians(step.tape, i - self.n_carried) for i in group]
        jacobians = torch.stack(each, dim=1)
        n, m, size = jacobians.shape[:3]
        a = self.coefficients.full[group][:, group]
        product = torch.einsum("ij,bipq->bipjq", a, jacobians).reshape(n, m * size, m * size)
        identity = torch.eye(m * size, dtype=product.dtype, device=product.device)
        return identity - self.blocks.column(step.h) * product

    def _solve_transposed(self, group: list[int], step: TakenStep, right: Tensor) -> Tensor:
        """``kbar_i - h sum_j a_ji J_j^T kbar_j = right_i`` over a group, per block; of shape (stages, n)."""
        matrix = self.newton_matrix(group, step)
        self._refuse_changed_field(group, step, matrix)
        n, size, m = self.blocks.n, self.blocks.size, len(group)
        vector = right.view(m, n, size).transpose(0, 1).reshape(n, m * size, 1)
        solved = torch.linalg.solve(matrix.transpose(1, 2), vector).view(n, m, size)
        return solved.transpose(0, 1).reshape(m, -1).contiguous()

    def _refuse_changed_field(self, group: list[int], step: TakenStep, matrix: Tensor) -> None:
        """See that the stages still solve their equations, up to what Newton's method left."""
        assert step.stages is not None
        n, m = self.blocks.n, len(group)
        residual = torch.stack([self.remade[i] - step.stages[i] for i in group]).view(m, *self.shape) * step.h
        vector = residual.reshape(m, n, -1).transpose(0, 1).reshape(n, -1, 1)
        left = torch.linalg.solve(matrix, vector).abs().amax()
        # Rounding is relative to the state and to what the step adds to it: a state of 0 is no exact one.
        added = step.stages.view(-1, *self.shape) * step.h
        size = torch.maximum(step.y.abs().max(), added.abs().max())
        allowed = torch.finfo(size.dtype).eps ** 0.5 * size
        if self.tableau.adaptive:
            allowed = allowed + self.tolerances.allowed(size.expand_as(step.y)).max()
        if not bool(left <= allowed):
            raise changed_field()

    def remake(self, step: TakenStep, first: Tensor | None, *, last_is_used: bool) -> Tensor:
        """Evaluate the field at the known stages, on a tape; returns the state at the step's end."""
        assert step.stages is not None
        step.tape = self.field.tape(step.y, len(self.own), pullable=True)
        self.remade: dict[int, Tensor] = {}
        h = step.h
        for slot, i in enumerate(self.own):
            state = step.tape.place(slot)
            moved = (self.coefficients.full[i] @ step.stages).view(self.shape)
            state.copy_((step.y + h * moved).reshape(-1))
            time = stage_time(step.t, h, self.tableau.c[i], step.edges, self.time_dtype)
            value = torch.empty_like(self.like, memory_format=torch.contiguous_format)
            step.tape.evaluate(slot, time, value)
            self.remade[i] = value.reshape(-1)
        return step.y_next


def _kronecker(a: Tensor, jacobians: Tensor) -> Tensor:
    """``A (x) J`` for a batch: of shape (n, s d, s d)."""
    n, s, d = len(jacobians), a.shape[-1], jacobians.shape[-1]
    return torch.einsum("bij,bpq->bipjq", a, jacobians).reshape(n, s * d, s * d)
