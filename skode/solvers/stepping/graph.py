"""Steps as differentiable operations, for autograd to record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.samples import take_samples
from skode.solvers.fields.times import time_dtype_of, time_tensor
from skode.solvers.statistics import Statistics
from skode.solvers.stepping.coefficients import Terms, combined, terms_of
from skode.solvers.stepping.implicit import ImplicitStepper
from skode.solvers.stepping.step import NO_EDGES, Edges, SeparateStages, TakenStep, stage_time
from skode.solvers.tableaus import ButcherTableau, get_method
from skode.solvers.tolerances import Tolerances
from skode.solvers.transforms import in_dual_level, no_derivatives

#: Order of the derivatives up to which recorded implicit steps are right.
HIGHEST_DERIVATIVE = 4


class GraphStepper:
    """Explicit steps with a graph; times and step sizes may be tensors that require grad.

    An :class:`skode.solvers.stepping.stepper.AdaptiveStepper`.
    """

    def __init__(self, tableau: ButcherTableau, func: Any, like: Tensor, statistics: Statistics) -> None:
        self.tableau = tableau
        self.func = func
        self.like = like
        self.time_dtype = time_dtype_of(func, like)
        self.shape = like.shape
        self.statistics = statistics
        self.terms = terms_of(tableau)
        self.first: Tensor | None = None  # the first stage, where it is known
        self.stages: list[Tensor] = []  # of the state's shape
        # Samples that moved on, and the stepper of their step, where it was made again without the others.
        self.again: tuple[Tensor, GraphStepper] | None = None

    def start(self, f0: Tensor) -> None:
        """The first stage is evaluated with its graph when it is needed."""

    def attempt(self, t: Any, h: Any, y: Tensor, edges: Edges = NO_EDGES) -> TakenStep:
        if self.first is None:
            self.first = self._evaluate(stage_time(t, h, 0.0, edges, self.time_dtype), y)
        self.stages = [self.first]
        y_next = self._finish(t, h, y, edges)
        return SeparateStages(t, h, y, y_next, list(self.stages), self.tableau, None, edges)  # type: ignore[arg-type]

    def _finish(self, t: Any, h: Any, y: Tensor, edges: Edges) -> Tensor:
        """Evaluate the stages after the first; returns the state at the end."""
        tableau, a = self.tableau, self.terms.a
        for i in range(1, tableau.n_stages):
            state = self._advance(y, a[i], h)
            self.stages.append(self._evaluate(stage_time(t, h, tableau.c[i], edges, self.time_dtype), state))
        return state if tableau.fsal else self._advance(y, self.terms.b, h)

    def _advance(self, y: Tensor, terms: Terms, h: Any) -> Tensor:
        return combined(y, self.stages, terms, h.to(y.dtype) if isinstance(h, Tensor) else h) if terms else y

    @torch.no_grad()
    def error(self, step: TakenStep) -> Tensor:
        return combined(None, self.stages, self.terms.e, step.h).detach()

    def accept(self) -> None:
        self.first = self.stages[-1] if self.tableau.fsal else None

    def accept_some(self, moved: Tensor) -> None:
        if self.again is not None and self.tableau.fsal and self.first is not None:
            these, other = self.again
            self.first = self.first.index_copy(0, these, other.stages[-1])
        elif self.tableau.fsal and self.first is not None:
            self.first = torch.where(moved, self.stages[-1], self.first)
        else:
            self.first = None

    def part(self, step: TakenStep, these: Tensor) -> TakenStep:
        """The step just tried, of some samples only."""
        self.again = None
        assert step.stages is not None
        # The last stage, which no state depends on yet, may overflow by itself.
        if all(bool(torch.isfinite(x.detach()).all()) for x in (step.y_next, step.stages)):
            return step.part(these)
        # Autograd would multiply infinite derivatives in samples that try again by 0: leave them out of the graph.
        other = self.take(these)
        self.again = these, other
        edges = tuple(edge[these] if isinstance(edge, Tensor) else edge for edge in step.edges)
        return other.attempt(step.t[these], step.h[these], step.y[these], edges)  # type: ignore[arg-type]

    def restart(self, t: Any, h: Any, y: Tensor, edges: Edges) -> None:
        self.first = None

    def restart_some(self, t: Any, h: Tensor, y: Tensor, edges: Edges) -> None:
        if self.first is not None:
            value = self._evaluate(stage_time(t, h, 0.0, edges, self.time_dtype), y)
            self.first = torch.where(torch.as_tensor(edges[0]), value, self.first)

    def release(self) -> None:
        """Do nothing: what steps have used belongs to the graph."""

    def take(self, these: Tensor) -> Self:
        """The same over some samples only."""
        func = take_samples(self.func, these)
        other = type(self)(self.tableau, func, self.like[these], self.statistics)
        if self.first is not None:
            other.first = self.first[these]
        return other

    def _evaluate(self, t: Any, y: Tensor) -> Tensor:
        self.statistics.nfev += 1
        value = self.func(t, y)
        # Tangents of vectorized Jacobians may have one dimension more than the value, which sums refuse.
        return value.reshape(1, -1).reshape(y.shape) if in_dual_level() else value


def local_error(func: Any, t: float, h: float, y: Tensor, *, method: str = "dopri5") -> Tensor:
    """The error estimate of one step, as autograd can differentiate it.

    Parameters
    ----------
    func : callable
        The vector field ``func(t, y)``.
    t, h : float
        Start and size of the step.
    y : Tensor
        The state at its start.
    method : str, default="dopri5"
        An adaptive explicit method, one of :data:`skode.solvers.METHODS`.

    Returns
    -------
    Tensor
        Of the state's shape: ``h sum_i e_i k_i`` with the weights ``e`` of the embedded formula (Hairer, Norsett,
        Wanner, Solving Ordinary Differential Equations I, section II.4).

    Raises
    ------
    ValueError
        Where the method has no such estimate.
    """
    tableau = get_method(method)
    if not isinstance(tableau, ButcherTableau) or not tableau.adaptive or tableau.implicit:
        raise ValueError(f"method={method!r} has no error estimate that could be differentiated.")

    def cast(t: Any, y: Tensor) -> Tensor:
        return func(time_tensor(t, y), y)

    stepper = GraphStepper(tableau, cast, y, Statistics())
    taken = stepper.attempt(t, h, y)
    assert taken.stages is not None
    return combined(None, stepper.stages, stepper.terms.e, h)


class GraphImplicitStepper(GraphStepper):
    """Implicit steps with a graph.

    The stages are solved for without one; :data:`HIGHEST_DERIVATIVE` Newton iterations with the exact Jacobian,
    recorded, then carry as many derivatives (an iteration from the solution has one more right than the one before).
    """

    def __init__(
        self, tableau: ButcherTableau, func: Any, like: Tensor, statistics: Statistics, tolerances: Tolerances
    ) -> None:
        super().__init__(tableau, func, like, statistics)
        self.tolerances = tolerances
        plain = like.detach()
        self.inner = ImplicitStepper(tableau, AutogradField(func, ()), plain, statistics, tolerances)

    def start(self, f0: Tensor) -> None:
        self.inner.start(f0)

    def attempt(self, t: Any, h: Any, y: Tensor, edges: Edges = NO_EDGES) -> TakenStep:
        per_sample = isinstance(h, Tensor) and h.ndim > 0
        plain_t, plain_h = (t, h) if per_sample else (_number(t), _number(h))
        tableau, inner = self.tableau, self.inner
        if tableau.fsal and self.first is None:
            self.first = self._evaluate(stage_time(t, h, 0.0, edges, self.time_dtype), y)
        with no_derivatives():
            if self.first is not None:
                inner.stages[0] = self.first.reshape(-1)
            taken = inner.attempt(plain_t, plain_h, y.detach(), edges)
            assert taken.stages is not None
            inner.remake(taken, None, last_is_used=True)
        self.stages = list(taken.stages.clone().view(-1, *self.shape).unbind())
        if self.first is not None:
            self.stages[0] = self.first
        for group in inner.groups:
            with no_derivatives():
                matrix = inner.newton_matrix(group, taken)
            for _ in range(HIGHEST_DERIVATIVE):
                self._iterate(group, matrix, t, h, y, edges)
        return replace(
            taken,
            t=t,
            h=h,
            y=y,
            y_next=self._end(y, h),
            stages=torch.stack(self.stages).view(len(self.stages), -1),
            tape=None,
        )

    def _end(self, y: Tensor, h: Any) -> Tensor:
        """The state at the step's end; the one at its start where it was not solved."""
        y_next, failed = self._advance(y, self.terms.b, h), self.inner.failed
        n = len(failed)
        if not bool(failed.any()):
            return y_next
        return torch.where(failed.view(-1, 1), y.reshape(n, -1), y_next.reshape(n, -1)).view(self.shape)

    def _iterate(self, group: list[int], matrix: Tensor, t: Any, h: Any, y: Tensor, edges: Edges) -> None:
        """One Newton iteration ``k + M^(-1) (f(Y) - k)`` for the stages of a group."""
        a, blocks = self.terms.a, self.inner.blocks
        residuals = []
        for i in group:
            time = stage_time(t, h, self.tableau.c[i], edges, self.time_dtype)
            residuals.append(self._evaluate(time, self._advance(y, a[i], h)) - self.stages[i])
        right = torch.stack(residuals).view(len(group), blocks.n, blocks.size).transpose(0, 1)
        moved = torch.linalg.solve(matrix, right.reshape(blocks.n, -1, 1)).view_as(right).transpose(0, 1)
        for j, i in enumerate(group):
            self.stages[i] = self.stages[i] + moved[j].reshape(self.shape)

    def error(self, step: TakenStep) -> Tensor:
        return self.inner.mark_unsolved(super().error(step), step.y.detach())

    def accept(self) -> None:
        super().accept()
        self.inner.accept()

    def accept_some(self, moved: Tensor) -> None:
        super().accept_some(moved)
        self.inner.accept_some(moved)

    def restart(self, t: Any, h: Any, y: Tensor, edges: Edges) -> None:
        super().restart(t, h, y, edges)
        with no_derivatives():
            self.inner.restart(t, h, y.detach(), edges)

    def take(self, these: Tensor) -> Self:
        like = self.like[these]
        func = take_samples(self.func, these)
        other = type(self)(self.tableau, func, like, self.statistics, self.tolerances)
        other.inner = self.inner.take(these)
        if self.first is not None:
            other.first = self.first[these]
        return other


def _number(x: Any) -> float:
    return float(x.detach()) if isinstance(x, Tensor) else x
