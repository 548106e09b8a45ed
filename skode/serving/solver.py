"""Solves as graphs: explicit Runge-Kutta methods in a loop that ``torch.export`` and ONNX can hold.

The steps are those of :mod:`skode.solvers.forward.per_sample_steps`: each sample has its own, by the same error test
and controller, so that a program answers as the estimator does, and a row of a batch as if it came alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skode.serving.fields import traceable
from skode.solvers import METHODS, get_method
from skode.solvers.forward.giving_up import LEAST_ULPS
from skode.solvers.forward.step_size import MAX_FACTOR, MIN_FACTOR, NON_FINITE_FACTOR, SAFETY
from skode.solvers.tableaus import ButcherTableau
from skode.solvers.tableaus.tableau import square
from skode.training import Solver
from skode.training.solver import DEFAULT_FIXED_STEPS

#: A step that comes so near to the end is stretched to it, as those of the solver are.
STRETCH = 1.01


class Solved(NamedTuple):
    r"""The part of a :class:`skode.solvers.Solution` that programs use.

    Attributes
    ----------
    y : Tensor of shape (1, n, \*state) or (n, n_times, \*state)
        States at the end, or at the times of each sample; NaN where a solve could not go on, or there is no time.
    """

    y: Tensor


class State(NamedTuple):
    r"""State of a solve between two attempts of a step.

    Attributes
    ----------
    attempts : Tensor of int64
        Number of attempts so far.
    running : Tensor of bool, of shape (n,)
        Samples that are on their way.
    t, h : Tensor of shape (n,), float64
        Time reached, and signed size of the next step.
    rejected : Tensor of bool, of shape (n,)
        Whether the last attempt was rejected.
    y, k : Tensor of shape (n, \*state)
        States, and the first stages of the next steps.
    outputs : Tensor of shape (n, n_times, size) or None
        Flattened states at requested times; None where only the end is wanted.
    """

    attempts: Tensor
    running: Tensor
    t: Tensor
    h: Tensor
    rejected: Tensor
    y: Tensor
    k: Tensor
    outputs: Tensor | None = None


class TracedSolver(nn.Module):
    """Solves initial value problems as a :class:`skode.training.Solver` does, in a graph.

    Numbers that are not whole are buffers, of which slices are read: numbers of Python and tensors without dimensions
    are rounded to single precision in the graphs of ONNX.

    Parameters
    ----------
    solver : Solver
        Method, tolerances and step size.

    Raises
    ------
    ValueError
        If the method is implicit or one of Adams'.
    """

    a: Tensor
    b: Tensor
    c: Tensor
    e: Tensor
    interpolant: Tensor
    tolerances: Tensor
    factors: Tensor
    least: Tensor

    def __init__(self, solver: Solver) -> None:
        super().__init__()
        tableau = get_method(solver.method)
        if not isinstance(tableau, ButcherTableau) or tableau.implicit:
            known = sorted(n for n, m in METHODS.items() if isinstance(m, ButcherTableau) and not m.implicit)
            raise ValueError(
                f"method={solver.method!r} can't be exported: its steps solve equations, or use former steps. "
                f"Set the estimator's method to one of {known}."
            )
        self.tableau, self.max_steps = tableau, solver.max_steps
        self.step_size = 1.0 / DEFAULT_FIXED_STEPS if solver.step_size is None else solver.step_size
        exponent = -1.0 / (tableau.error_order + 1)
        arrays = {
            "a": square(tableau.a),
            "b": tableau.b,
            "c": tableau.c,
            "e": tableau.e or (),
            "interpolant": tableau.interpolant,
            "tolerances": (solver.rtol, solver.atol),
            "factors": (SAFETY, MIN_FACTOR, MAX_FACTOR, NON_FINITE_FACTOR, exponent, -exponent, STRETCH, 1e-10),
            "least": (0.01, 1e-5, 1e-6, 1e-3, 1e-15, LEAST_ULPS * torch.finfo(torch.float64).eps),
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.tensor(array, dtype=torch.float64), persistent=False)

    def forward(
        self, func: Callable[..., Tensor], t_span: Any, y0: Tensor, t_eval: Any = None, first_step: float | None = None
    ) -> Solved:
        r"""Solve ``dy/dt = func(t, y)`` for samples, each by itself.

        Parameters
        ----------
        func : callable
            The vector field, of times of shape (n, 1, ...) and states.
        t_span : tuple of float, or Tensor of shape (n, 2)
            Initial and final time, of all samples or of each.
        y0 : Tensor of shape (n, \*state)
            Initial states.
        t_eval : tuple of float, or Tensor of shape (n, n_times)
            The end of the span, or times of each sample; NaN: none.
        first_step : float or None
            Size of the first step; found from the field where None. Methods of fixed steps ignore it.

        Returns
        -------
        Solved
            States of shape (1, n, \*state) at the end, or (n, n_times, \*state) at the times of each sample.
        """
        field = traceable(func)
        zeros = torch.zeros_like(y0.flatten(1)[:, 0], dtype=torch.float64)
        # Copies: a loop takes no two tensors that share memory.
        t0, t1 = ((t_span[:, i] if isinstance(t_span, Tensor) else zeros + t_span[i]).clone() for i in (0, 1))
        inside = isinstance(t_eval, Tensor)
        solve = _Solve(self, field, t0, t1, t_eval.clone() if inside else t1[:, None].clone(), y0, inside=inside)
        if isinstance(t_span, Tensor):  # fixed steps are shares of the spans
            solve.n_steps = max(math.ceil(1.0 / self.step_size - 1e-9), 1)
        else:
            solve.n_steps = max(math.ceil(abs(t_span[1] - t_span[0]) / self.step_size - 1e-9), 1)
        end = solve.run(first_step)
        if end.outputs is not None:
            return Solved(end.outputs.unflatten(2, y0.shape[1:]))
        arrived = (end.t == t1) & torch.isfinite(end.y.flatten(1)).all(1)
        return Solved(torch.where(solve.column(arrived), end.y, torch.nan)[None])


class _Solve:
    """One solve; the arguments are those of :class:`TracedSolver`, spelled out."""

    n_steps = 0

    def __init__(
        self,
        method: TracedSolver,
        field: Callable[..., Tensor],
        t0: Tensor,
        t1: Tensor,
        times: Tensor,
        y0: Tensor,
        *,
        inside: bool,
    ) -> None:
        self.method, self.field, self.t0, self.t1, self.times, self.y0 = method, field, t0, t1, times, y0
        self.inside = inside
        self.direction = torch.where(t1 < t0, -1.0, 1.0).double()
        self.a, self.b, self.c, self.e = (x.to(y0.dtype) for x in (method.a, method.b, method.c, method.e))
        self.tolerances = method.tolerances.to(y0.dtype)

    def column(self, values: Tensor) -> Tensor:
        """One number per sample, of a shape that broadcasts against states."""
        return values.reshape(-1, *[1] * (self.y0.ndim - 1))

    def at(self, values: Tensor) -> Tensor:
        """Times or step sizes as fields take them."""
        return self.column(values.to(self.y0.dtype))

    def run(self, first_step: float | None) -> State:
        """From the start to the end of all samples, or to where they can't go on."""
        y0, t0 = self.y0, self.t0
        k = self.field(self.at(t0), y0)
        running = (t0 != self.t1) & torch.isfinite(k.flatten(1)).all(1)
        if not self.method.tableau.adaptive:
            h = (self.t1 - t0) / self.n_steps
        elif first_step is None:
            h = self.first_step(k)
        else:
            h = self.direction * first_step
        outputs = None
        if self.inside:
            at_start = (self.times == t0[:, None])[..., None]
            outputs = torch.where(at_start, y0.flatten(1)[:, None], torch.nan)
        attempts = torch.zeros((), dtype=torch.int64, device=y0.device)
        start = State(attempts, running, t0.clone(), h, torch.zeros_like(running), y0.clone(), k, outputs)
        step = self.adaptive_step if self.method.tableau.adaptive else self.fixed_step
        most = self.method.max_steps if self.method.tableau.adaptive else self.n_steps

        def goes_on(*state: Tensor) -> Tensor:
            return (state[0] < most) & state[1].any()

        def carried(state: State) -> tuple[Any, ...]:
            return tuple(state) if self.inside else tuple(state)[:-1]

        return State(*torch.while_loop(goes_on, lambda *state: carried(step(State(*state))), carried(start)))

    def first_step(self, f: Tensor) -> Tensor:
        """See :func:`skode.solvers.forward.step_size.first_step_sizes`."""
        hundredth, least_size, shortest, thousandth, flat, _ = self.method.least.split(1)
        span, y = (self.t1 - self.t0).abs(), self.y0
        allowed = y.abs() * self.tolerances[0:1] + self.tolerances[1:2]
        size_y, size_f = self.size(y / allowed), self.size(f / allowed)
        usable = (size_y >= least_size) & (size_f >= least_size) & torch.isfinite(size_f)
        guess = torch.minimum(torch.where(usable, hundredth * size_y / size_f, shortest), span)
        moved = self.field(self.at(self.t0 + self.direction * guess), y + self.at(self.direction * guess) * f)
        size_second = self.size((moved - f) / allowed) / guess
        steepest = torch.maximum(size_f, size_second)
        by_order = torch.pow(hundredth / steepest, self.method.factors[5:6])
        second = torch.where(steepest <= flat, torch.maximum(shortest, guess * thousandth), by_order)
        step = torch.minimum(torch.minimum(100.0 * guess, second), span)
        return self.direction * torch.where(torch.isfinite(size_f + size_second), step, guess)

    def size(self, x: Tensor) -> Tensor:
        """Root mean square of each sample, float64."""
        return x.flatten(1).square().mean(1).sqrt().double()

    def attempt(self, t: Tensor, h: Tensor, y: Tensor, k: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The state after a step, and its stages."""
        tableau, t, h = self.method.tableau, self.at(t), self.at(h)
        stages = [k if tableau.fsal else self.field(t, y)]
        for i in range(1, tableau.n_stages):
            state = y + h * self.combined(self.a[i], stages)
            stages.append(self.field(t + self.c[i] * h, state))
        return (state if tableau.fsal else y + h * self.combined(self.b, stages)), stages

    def combined(self, weights: Tensor, stages: list[Tensor]) -> Tensor:
        """``sum_j w_j k_j``, by one product: the fewer operations, the smaller the graph."""
        return torch.mv(torch.stack(stages, dim=-1).flatten(0, -2), weights[: len(stages)]).view(self.y0.shape)

    def fixed_step(self, now: State) -> State:
        """One of the steps of equal size, the last of which ends at the end."""
        done = now.attempts + 1
        moved = self.t0 + (self.t1 - self.t0) * done.double() / self.n_steps
        t_next = torch.where(done == self.n_steps, self.t1, moved)
        h = t_next - now.t
        y_next, stages = self.attempt(now.t, h, now.y, now.k)
        y_next = torch.where(self.column(now.running), y_next, now.y)
        outputs = self.read(now, now.running, t_next, h, y_next, stages)
        running = now.running & (done < self.n_steps)
        return State(done, running, t_next, h, now.rejected.clone(), y_next, now.k.clone(), outputs)

    def adaptive_step(self, now: State) -> State:
        """One attempt of all samples; see :meth:`skode.solvers.forward.per_sample_steps.ActiveSamples.attempt`."""
        safety, least, most, shrunk, exponent, _, stretch, smallest = self.method.factors.split(1)
        wanted = self.direction * now.h.abs()
        close = stretch * wanted.abs() >= (self.t1 - now.t).abs()
        t_next = torch.where(close, self.t1, now.t + wanted)
        h = t_next - now.t
        too_short = (t_next != self.t1) & (h.abs() <= self.method.least[5:6] * now.t.abs())
        running = now.running & ~too_short
        y_next, stages = self.attempt(now.t, h, now.y, now.k)
        error = self.at(h) * self.combined(self.e, stages)
        allowed = torch.maximum(now.y.abs(), y_next.abs()) * self.tolerances[0:1] + self.tolerances[1:2]
        ratio = self.size(error / allowed)
        finite, good = torch.isfinite(ratio), running & (ratio <= 1.0)
        bounded = torch.where(finite, torch.maximum(ratio, smallest), 1.0)
        factor = torch.minimum(torch.maximum(safety * torch.pow(bounded, exponent), least), most)
        factor = torch.where(now.rejected | ~good, factor.clamp(max=1.0), factor)
        factor = torch.where(finite, factor, shrunk)
        cut = good & (h.abs() < wanted.abs())
        grown = torch.where(cut, torch.minimum(wanted.abs(), wanted.abs() * factor), 0.0)
        outputs = self.read(now, good, t_next, h, y_next, stages)
        moved = self.column(good)
        t = torch.where(good, t_next, now.t)
        arrived = good & (t_next == self.t1)
        return State(
            now.attempts + 1,
            running & ~arrived,
            t,
            self.direction * torch.maximum(h.abs() * factor, grown),
            ~good,
            torch.where(moved, y_next, now.y),
            torch.where(moved, stages[-1], now.k),
            outputs,
        )

    def read(
        self, now: State, good: Tensor, t_next: Tensor, h: Tensor, y_next: Tensor, stages: list[Tensor]
    ) -> Tensor | None:
        """The outputs, with those inside a step read off its interpolant and those at its end."""
        if now.outputs is None:
            return None
        times, sign = self.times * self.direction[:, None], self.direction
        after, until = times > (sign * now.t)[:, None], times <= (sign * t_next)[:, None]
        theta = (self.times - now.t[:, None]) / torch.where(h == 0.0, 1.0, h)[:, None]
        theta = torch.where(after & until, theta, 0.0)
        powers = [theta]
        for _ in range(self.method.interpolant.shape[1] - 1):
            powers.append(powers[-1] * theta)
        weights = (torch.stack(powers, dim=2) @ self.method.interpolant.T).to(self.y0.dtype)
        moved = weights @ torch.stack([stage.flatten(1) for stage in stages], dim=1)
        states = now.y.flatten(1)[:, None] + h.to(self.y0.dtype)[:, None, None] * moved
        states = torch.where((self.times == t_next[:, None])[..., None], y_next.flatten(1)[:, None], states)
        return torch.where((good[:, None] & after & until)[..., None], states, now.outputs)
