"""Steps of Adams' multistep methods: derivatives of past steps are used again.

A step takes over the derivatives at the starts of the steps before it, newest first, and hands on its own in front of
them. In reverse it hands back their cotangents. The first steps, and those after a change of step size, are made by a
Runge-Kutta method.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skode.solvers.errors import ConvergenceError
from skode.solvers.fields.protocols import Field, Session
from skode.solvers.statistics import Statistics
from skode.solvers.stepping.coefficients import tableau_tensors
from skode.solvers.stepping.explicit import ExplicitStepper
from skode.solvers.stepping.graph import GraphStepper
from skode.solvers.stepping.step import NO_EDGES, Edges, PulledStep, TakenStep, changed_field, stage_time
from skode.solvers.tableaus.adams import AdamsMethod
from skode.solvers.tolerances import Tolerances

MAX_ITERATIONS = 100


class _History:
    """The derivatives at the starts of past steps of one size, newest first."""

    def __init__(self, method: AdamsMethod) -> None:
        self.method = method
        self.past: list[Tensor] = []
        self.size: float | None = None

    def fits(self, h: Any) -> bool:
        """Whether it can be used for a step of this size; forgets it where the size has changed."""
        size = float(h)
        if self.size is not None and abs(size - self.size) > 1e-6 * abs(size):
            self.past = []
        self.size = size
        return len(self.past) == self.method.n_past

    def add(self, derivative: Tensor) -> None:
        self.past = [derivative, *self.past][: self.method.n_past]


class AdamsStepper:
    """Takes steps of one method over one field; see :class:`skode.solvers.stepping.stepper.ReversibleStepper`."""

    needs_stages = True  # to see that the field is still what it was
    keeps_first = False
    keep = False

    def __init__(
        self,
        method: AdamsMethod,
        field: Field,
        like: Tensor,
        statistics: Statistics,
        tolerances: Tolerances,
        *,
        keep: bool = False,
    ) -> None:
        self.method = method
        self.field = field
        self.like = like
        self.shape = like.shape
        self.statistics = statistics
        self.weights = tableau_tensors(method.formula, like.dtype, like.device).b
        self.starter = ExplicitStepper(method.starter, field, like, statistics, tolerances)
        self.time_dtype = self.starter.time_dtype
        self.history = _History(method)
        self.n_carried = method.n_past
        self.stages = like.new_empty((method.order, like.numel()))

    def start(self, f0: Tensor) -> None:
        self.starter.start(f0)

    def release(self) -> None:
        self.starter.release()

    def stop_keeping(self) -> None:
        """Nothing is kept."""

    def attempt(self, t: Any, h: Any, y: Tensor, edges: Edges = NO_EDGES) -> TakenStep:
        begins = not self.history.past
        if not self.history.fits(h):
            begins = not self.history.past
            taken = self.starter.attempt(t, h, y, edges)
            taken.begins = begins
            return taken
        n_past = self.method.n_past
        self._evaluate(0, stage_time(t, h, 0.0, edges, self.time_dtype), y)
        for j, past in enumerate(self.history.past):
            self.stages[1 + j].copy_(past)
        flat = y.reshape(-1)
        known = torch.addmv(flat, self.stages[: 1 + n_past].t(), self.weights[: 1 + n_past], alpha=h)
        y_next = self._solve(known, t, h, edges) if self.method.implicit else known
        return TakenStep(t, h, y, y_next.view(self.shape), self.stages, self.method.formula, None, edges)

    def _solve(self, known: Tensor, t: Any, h: float, edges: Edges) -> Tensor:
        """``y1 = known + h b f(t + h, y1)`` by functional iteration, which needs no Jacobian."""
        time, weight = stage_time(t, h, 1.0, edges, self.time_dtype), float(self.weights[-1]) * h
        y_next = torch.add(known, self.stages[0], alpha=weight)
        before = None
        for _ in range(MAX_ITERATIONS):
            self._evaluate(-1, time, y_next.view(self.shape))
            new = torch.add(known, self.stages[-1], alpha=weight)
            moved = float((new - y_next).abs().max())
            y_next = new
            if settled(moved, before, float(new.abs().max()), new.dtype):
                return y_next
            before = moved
        raise not_solved(t, h)

    def accept(self) -> None:
        made_by_starter = len(self.history.past) < self.method.n_past
        self.history.add((self.starter.stages if made_by_starter else self.stages)[0].clone())
        self.starter.accept()

    def _evaluate(self, i: int, t: Any, y: Tensor) -> None:
        self.statistics.nfev += 1
        self.stages[i].view(self.shape).copy_(self.field(t, y))

    def pull(
        self,
        step: TakenStep,
        session: Session,
        cotangent: Tensor,
        carried: Tensor | None,
        given: Tensor | None,
    ) -> PulledStep:
        """The vector-Jacobian product of one step; see :class:`skode.solvers.stepping.stepper.ReversibleStepper`."""
        n_past = self.n_carried
        if carried is None:
            carried = self.stages.new_zeros((n_past, self.like.numel()))
        if step.tableau is not self.method.formula:
            given = carried.new_zeros((step.tableau.n_stages, carried.shape[1])) if given is None else given
            given[0] += carried[0]
            pulled = self.starter.pull(step, session, cotangent, None, given)
            # What it took over it handed on as it was, one place further back.
            handed_on = torch.zeros_like(carried)
            if not step.begins:
                handed_on[:-1] = carried[1:]
            pulled.carried = handed_on
            return pulled
        assert step.tape is not None
        h, weights, lam = step.h, self.weights, cotangent.reshape(-1)
        total = self._pull_implicit(step, session, lam, given) if self.method.implicit else lam
        kbar = h * torch.outer(weights[: 1 + n_past], total)
        if given is not None:
            kbar += given[: 1 + n_past]
        kbar[:-1] += carried
        ybar = torch.empty_like(lam)
        session.pull(step.tape, 0, kbar[0].view(self.shape), ybar.view(self.shape))
        session.flush(step.tape)
        return PulledStep((total + ybar).view(self.shape), kbar[1:])

    def _pull_implicit(self, step: TakenStep, session: Session, lam: Tensor, given: Tensor | None) -> Tensor:
        """``k = h b (lam + J^T k) + g`` by the iteration that solved the step; returns ``lam + J^T k``."""
        assert step.tape is not None
        weight = float(self.weights[-1]) * step.h
        constant = weight * lam if given is None else weight * lam + given[-1]
        k, ybar = constant, torch.empty_like(lam)
        probe = self.field.session(with_parameters=False)
        before = None
        for _ in range(MAX_ITERATIONS):
            probe.pull(step.tape, 1, k.view(self.shape), ybar.view(self.shape))
            probe.discard()
            new = torch.add(constant, ybar, alpha=weight)
            moved = float((new - k).abs().max())
            k = new
            if settled(moved, before, float(new.abs().max()), new.dtype):
                break
            before = moved
        session.pull(step.tape, 1, k.view(self.shape), ybar.view(self.shape))
        return lam + ybar

    def remake(self, step: TakenStep, first: Tensor | None, *, last_is_used: bool) -> Tensor:
        """Evaluate a step's own derivatives again, on a new tape that can be pulled back."""
        if step.tableau is not self.method.formula:
            return self.starter.remake(step, None, last_is_used=True)
        step.tape = self.field.tape(step.y, 1 + self.method.implicit, pullable=True)
        states = [(0.0, step.y), (1.0, step.y_next)]
        for slot in range(step.tape.n_slots):
            c, state = states[slot]
            step.tape.place(slot).copy_(state.reshape(-1))
            time = stage_time(step.t, step.h, c, step.edges, self.time_dtype)
            row = -slot
            step.tape.evaluate(slot, time, self.stages[row].view(self.shape))
            assert step.stages is not None
            before, again = step.stages[row], self.stages[row]
            tolerance = torch.finfo(again.dtype).eps ** 0.5
            if not torch.allclose(again, before, rtol=tolerance, atol=tolerance * float(before.abs().max())):
                raise changed_field()
        return step.y_next


class GraphAdamsStepper:
    """The same steps for autograd to record; the implicit ones by recording the iteration."""

    def __init__(self, method: AdamsMethod, func: Any, like: Tensor, statistics: Statistics) -> None:
        self.method = method
        self.like = like
        self.shape = like.shape
        self.statistics = statistics
        self.starter = GraphStepper(method.starter, func, like, statistics)
        self.time_dtype = self.starter.time_dtype
        self.weights = tableau_tensors(method.formula, like.dtype, like.device).b
        self.history = _History(method)
        self.first: Tensor | None = None

    def start(self, f0: Tensor) -> None:
        """The first derivative is evaluated with its graph when it is needed."""

    def release(self) -> None:
        """Do nothing: what steps have used belongs to the graph."""

    def attempt(self, t: Any, h: Any, y: Tensor, edges: Edges = NO_EDGES) -> TakenStep:
        if not self.history.fits(h.detach() if isinstance(h, Tensor) else h):
            taken = self.starter.attempt(t, h, y, edges)
            self.first = self.starter.stages[0].reshape(-1)
            return taken
        size = h.to(y.dtype) if isinstance(h, Tensor) else h
        self.first = self.starter._evaluate(stage_time(t, h, 0.0, edges, self.time_dtype), y).reshape(-1)
        stages = [self.first, *self.history.past]
        y_next = known = y.reshape(-1) + size * (self.weights[: len(stages)] @ torch.stack(stages))
        if self.method.implicit:
            new, y_next = self._solve(known, self.first, t, h, size, edges)
            stages.append(new)
        return TakenStep(t, h, y, y_next.view(self.shape), torch.stack(stages), self.method.formula, None, edges)

    def _solve(self, known: Tensor, guess: Tensor, t: Any, h: Any, size: Any, edges: Edges) -> tuple[Tensor, Tensor]:
        time, before, extra = stage_time(t, h, 1.0, edges, self.time_dtype), None, None
        y_next = known + size * self.weights[-1] * guess
        for i in range(MAX_ITERATIONS):
            rate = self.starter._evaluate(time, y_next.view(self.shape)).reshape(-1)
            new = known + size * self.weights[-1] * rate
            moved, largest = float((new - y_next).detach().abs().max()), float(new.detach().abs().max())
            y_next = new
            if extra is None and settled(moved, before, largest, new.dtype):
                extra = i + 1 + i // 2  # derivatives settle as the values do, but start later
            if extra is not None and i >= extra:
                return rate, y_next
            before = moved
        raise not_solved(t, h)

    def accept(self) -> None:
        assert self.first is not None
        self.history.add(self.first)
        self.starter.accept()


def settled(moved: float, before: float | None, size: float, dtype: torch.dtype) -> bool:
    """Whether an iteration has reached its fixed point, up to rounding."""
    eps = torch.finfo(dtype).eps
    return moved <= 2 * eps * size or (before is not None and before <= moved <= 1e3 * eps * size) or moved != moved


def not_solved(t: Any, h: Any) -> ConvergenceError:
    """The error of a step that functional iteration does not solve."""
    return ConvergenceError(
        "The iteration for the implicit step does not converge",
        time=float(t),
        step_size=float(h),
        advice="The problem is stiff at this step size: take smaller steps, or kvaerno5.",
    )
