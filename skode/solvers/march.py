"""The forward march: one accepted step after another, adaptive or on a grid.

The arithmetic of time is done in float64 on the host. Every generator yields a :class:`Move` per accepted step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.devices import is_asynchronous
from skode.solvers.errors import (
    MaxStepsError,
    NonFiniteDerivativeError,
    SolverError,
    StepSizeUnderflowError,
    newton_failed,
)
from skode.solvers.step_size import Controller, Tolerances, all_finite, first_step_size
from skode.solvers.stepping import NO_EDGES
from skode.solvers.transforms import untransformed

# As many steps may leave the field's domain while time goes on by less than a thousandth; then that is its end.
MOST_LEAVES = 50

# Elements of states that are looked at at once where the device is not to be waited for.
MOST_WATCHED = 2**24

MAX_STEPS_NAMES = "max_steps (odeint: options['max_num_steps'])"


@dataclass(frozen=True)
class StepControl:
    """How the steps of a solve are chosen.

    Attributes
    ----------
    tolerances : Tolerances
        The error test of adaptive methods.
    exponents : tuple of three floats
        The controller's, see :class:`skode.solvers.step_size.Controller`.
    first_step, min_step, max_step : float or None
        Size of the first step, the size below which steps are taken whatever their error, and the largest allowed;
        found by the solver, no step and unbounded where None.
    max_steps : int
        Attempted steps (per sample where steps are) after which the solve is given up.
    grid : ndarray or None
        Step boundaries of a fixed-step method, first and last at the ends of the time span; None where that has no end.
    step_size : float or None
        What the grid was made from, where it was.
    landings : ndarray
        Times inside the span that steps must end at, in the order of integration.
    jumps : frozenset of float
        Those of them, and of the ends of the span, where the field is discontinuous.
    nudged : bool
        Whether evaluations at the ends of every step are moved into it by one unit in the last place.
    per_sample : bool
        Whether every sample has its own steps.
    """

    tolerances: Tolerances
    exponents: tuple[float, float, float] = (1.0, 0.0, 0.0)
    first_step: float | None = None
    min_step: float | None = None
    max_step: float | None = None
    max_steps: int = 10_000
    grid: np.ndarray | None = None
    step_size: float | None = None
    landings: tuple[float, ...] = ()
    jumps: frozenset[float] = frozenset()
    nudged: bool = False
    per_sample: bool = False


@dataclass(slots=True)
class Move:
    """An accepted step, from ``t`` to ``t_next``.

    Attributes
    ----------
    t, t_next : float, or ndarray of shape (m,)
        Its start and end, of each sample that took it.
    h : float, Tensor or None
        What ``stages`` are multiplied with in the interpolant (a tensor under autograd or per sample).
    taken : TakenStep
        The step itself.
    opens : bool or ndarray of bool
        Whether its first stage was evaluated anew rather than taken over: the first step, or one after a jump.
    rows : ndarray of shape (m,) or None
        The samples that took it; None for all.
    """

    t: Any
    t_next: Any
    h: Any
    taken: Any
    opens: Any = False
    rows: np.ndarray | None = None


class Clock:
    """Times and step sizes as the stepper wants them: plain floats."""

    def at(self, t: float) -> Any:
        return t

    def between(self, t: float, t_next: float, h: float) -> Any:
        return h


FLOATS = Clock()


def march(problem: Any, stepper: Any, y0: Tensor, clock: Clock = FLOATS) -> Iterator[Move]:
    """Accepted steps from the problem's ``t0`` to its ``t1``, in order.

    Raises
    ------
    SolverError
        One of its children where the solve can't go on.
    """
    if problem.t0 == problem.t1 or (problem.tableau.implicit and y0.numel() == 0):
        return iter(())
    refuse_non_finite(problem.f0, problem.t0, 0.0)
    if problem.tableau.adaptive:
        return _adaptive(problem, stepper, y0, clock)
    return _fixed(problem, stepper, y0, clock)


def _adaptive(problem: Any, stepper: Any, y: Tensor, clock: Clock) -> Iterator[Move]:
    control, t, t1 = problem.control, problem.t0, problem.t1
    tolerances, statistics = control.tolerances, stepper.statistics
    order = problem.tableau.error_order
    direction = math.copysign(1.0, t1 - t)
    controller = Controller(control.exponents, order)
    if control.first_step is not None:
        h = direction * control.first_step
    else:
        plain, f = y.detach(), problem.f0
        h = first_step_size(problem.field, t, plain, f, span=t1 - t, order=order, tolerances=tolerances)
        statistics.nfev += 1
    landings = [*control.landings, t1]
    opens, ratio, attempts, shortest = True, 0.0, 0, control.min_step or 0.0
    left_at = math.inf  # where a step last left the field's domain
    leaving_from, leaves = t, 0  # the time since which steps have been counted that did
    while t != t1:
        wanted = h = direction * max(min(abs(h), control.max_step or math.inf), shortest)
        # A step that nearly reaches a time it must end at is stretched to it rather than leaving a sliver behind.
        landing = landings[0]
        t_next = landing if 1.01 * abs(h) >= abs(landing - t) else t + h
        h = t_next - t
        if leaves > MOST_LEAVES:
            if abs(t - leaving_from) <= 1e-3 * abs(t - problem.t0):
                raise too_small(t, h, math.nan)
            leaving_from, leaves = t, 0
        if t_next != t1 and abs(h) <= 10 * math.ulp(t):
            close = abs(left_at - t) <= 1e-3 * (abs(t - problem.t0) + abs(h))
            raise too_small(t, h, math.nan if close else ratio)
        if attempts == control.max_steps:
            raise too_many(control, t, t1, h, y)
        attempts += 1
        edges = NO_EDGES
        if control.nudged or control.jumps:
            edges = (control.nudged or t in control.jumps, control.nudged or t_next in control.jumps)
        step_size = clock.between(t, t_next, h)
        taken = stepper.attempt(clock.at(t), step_size, y, edges)
        ratio = tolerances.error_ratio(stepper.error(taken).detach(), y.detach(), taken.y_next.detach())
        as_short_as_may_be = abs(wanted) <= shortest
        if as_short_as_may_be and taken.unsolved is not None:
            raise newton_failed(t, h)
        if ratio <= 1.0 or (as_short_as_may_be and math.isfinite(ratio)):
            statistics.n_accepted += 1
            yield Move(t, t_next, step_size, taken, opens)
            stepper.accept()
            t, y, opens = t_next, taken.y_next, False
            if t == landing:
                landings.pop(0)
                if t in control.jumps:
                    stepper.restart(clock.at(t), step_size, y, (True, False))
                    opens = True
            factor = controller.factor(min(ratio, 1.0))
            # A step cut short by a landing says little against the size wanted before.
            h = direction * max(abs(h) * factor, min(abs(wanted), abs(wanted) * factor) if t_next == landing else 0.0)
        else:
            statistics.n_rejected += 1
            if not math.isfinite(ratio):
                left_at, leaves = t_next, leaves + 1
            h *= controller.factor(ratio)
    # A state that overflowed stays so, and makes the error test meaningless: one look at the end finds it.
    if not all_finite(y.detach()):
        raise NonFiniteDerivativeError(
            f"The solution overflowed {y.dtype}",
            time=t,
            step_size=0.0,
            sample=first_sample(y.detach()),
            advice="It grows without bound: shorten the time span, scale the state, or use float64.",
        )


def _fixed(problem: Any, stepper: Any, y: Tensor, clock: Clock) -> Iterator[Move]:
    control: StepControl = problem.control
    grid: Any = equal_steps(control, problem.t0, problem.t1) if control.grid is None else control.grid.tolist()
    if control.grid is not None and len(grid) - 1 > control.max_steps:
        # A grid made from a step size was not made longer than it takes to be refused here.
        h = control.step_size or abs(grid[1] - grid[0])
        n_steps = len(grid) - 1 if control.step_size is None else math.ceil(abs(grid[-1] - grid[0]) / h - 1e-9)
        raise MaxStepsError(
            f"The grid has {n_steps} steps, more than max_steps={control.max_steps}; nothing was solved",
            time=grid[0],
            step_size=math.copysign(h, grid[1] - grid[0]),
            advice=f"Raise {MAX_STEPS_NAMES} or step_size.",
        )
    edges = (True, True) if control.nudged else NO_EDGES
    # The last stage of a step, just before its end, does not serve as the first of the next, just after it.
    reopens = control.nudged and getattr(problem.tableau, "carries_last", False)
    opens, watch = True, _Watch(problem, y)
    for t, t_next in itertools.pairwise(grid):
        h = clock.between(t, t_next, t_next - t)
        taken = stepper.attempt(clock.at(t), h, y, edges)
        y_next = taken.y_next
        watch.see(y_next.detach(), t, t_next - t)
        stepper.statistics.n_accepted += 1
        yield Move(t, t_next, h, taken, opens)
        stepper.accept()
        y, opens = y_next, False
        if reopens and t_next != problem.t1:
            stepper.restart(clock.at(t_next), h, y, edges)
            opens = True
    watch.look()
    if math.isinf(problem.t1):
        raise too_many(control, t_next, problem.t1, t_next - t, y)


def equal_steps(control: StepControl, t0: float, t1: float) -> Iterator[float]:
    """The grid of a fixed-step method towards a time that it is not made to end at, as long as it may be."""
    assert control.step_size is not None
    h = math.copysign(control.step_size, t1 - t0)
    return (t0 + n * h for n in range(control.max_steps + 1))


class _Watch:
    """Sees that the results of steps are finite: NaN and infinity spread through every combination of stages.

    Where the device is not to be waited for, and nobody asks where states stop being so, many are looked at at once.
    """

    def __init__(self, problem: Any, y: Tensor) -> None:
        waits = not is_asynchronous(y.device) or problem.on_failure != "raise" or problem.events is not None
        self.most = 1 if waits else int(np.clip(MOST_WATCHED // max(y.numel(), 1), 1, 64))
        self.seen: list[tuple[Tensor, float, float]] = []

    def see(self, y: Tensor, t: float, h: float) -> None:
        """Take note of the result of a step."""
        if self.most == 1:
            refuse_non_finite(y, t, h)
            return
        self.seen.append((y.clone(), t, h))
        if len(self.seen) == self.most:
            self.look()

    def look(self) -> None:
        """Refuse the first of the results noted that is not finite."""
        if self.seen and not all_finite(torch.stack([y for y, _, _ in self.seen])):
            for y, t, h in self.seen:
                refuse_non_finite(y, t, h)
        self.seen = []


def first_sample(value: Tensor) -> int | None:
    """The first sample with an element that is not finite, where the state has samples."""
    if value.ndim < 2:
        return None
    wrong = ~torch.isfinite(value).flatten(1).all(dim=1)
    return int(wrong.nonzero()[0]) if bool(wrong.any()) else None


def refuse_non_finite(value: Tensor, t: float, h: float) -> None:
    """Raise where the field's value, or what was computed from it, is not finite."""
    if not all_finite(value):
        value = untransformed(value)
        count = int((~torch.isfinite(value)).sum())
        raise NonFiniteDerivativeError(
            f"func(t, y) gave NaN or infinity in {count} of {value.numel()} elements",
            time=t,
            step_size=h,
            sample=first_sample(value),
            advice="See that func is finite at this time and state, that the inputs are scaled, and that the "
            "parameters are finite; for a fixed-step method take smaller steps.",
        )


def too_small(t: float, h: float, ratio: float, sample: int | None = None) -> SolverError:
    """The error of a step size at which time stands still."""
    if not math.isfinite(ratio):
        return NonFiniteDerivativeError(
            "func(t, y) gives NaN or infinity however small the step",
            time=t,
            step_size=h,
            sample=sample,
            advice="The solution leaves the domain of func, or grows without bound, at this time.",
        )
    return StepSizeUnderflowError(
        "The error test asks for a step too small to advance the time",
        time=t,
        step_size=h,
        sample=sample,
        advice="The solution may be singular here, or rtol and atol too tight for the dtype: loosen them or use "
        "float64.",
    )


def too_many(control: StepControl, t: float, t1: float, h: float, y: Tensor, sample: int | None = None) -> SolverError:
    """The error of a solve that used up its steps."""
    if math.isinf(t1):
        return MaxStepsError(
            f"max_steps={control.max_steps} steps met no event; the solve stopped",
            time=t,
            step_size=h,
            sample=sample,
            advice="See that event_fn changes its sign along the solution, in this direction of time; where it does so "
            "later, raise options['max_num_steps'].",
        )
    too_tight = control.tolerances.tightest().rtol < 8 * torch.finfo(y.dtype).eps
    return MaxStepsError(
        f"max_steps={control.max_steps} steps did not reach t={t1:.6g}; the solve stopped",
        time=t,
        step_size=h,
        sample=sample,
        advice=f"Raise {MAX_STEPS_NAMES}, loosen rtol and atol, or try a method for stiff problems (kvaerno5), or see "
        "whether the dynamics explode"
        + (" (float32 cannot meet an rtol below 1e-6: use float64)." if too_tight else "."),
    )
