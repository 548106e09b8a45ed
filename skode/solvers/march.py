"""The forward march: one accepted step after another, adaptive or on a grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.errors import MaxStepsError, NonFiniteDerivativeError, StepSizeUnderflowError
from skode.solvers.step_size import Tolerances, first_step_size, step_factor
from skode.solvers.tableaus import ButcherTableau


@dataclass(frozen=True)
class StepControl:
    """How the steps of a solve are chosen.

    Attributes
    ----------
    tolerances : Tolerances
        The error test of adaptive methods.
    first_step, max_step : float or None
        Size of the first step, and the largest step allowed; found by the solver and unbounded where None.
    max_steps : int
        Attempted steps after which the solve is given up.
    grid : ndarray or None
        Step boundaries of a fixed-step method, first and last at the ends of the time span.
    """

    tolerances: Tolerances
    first_step: float | None = None
    max_step: float | None = None
    max_steps: int = 10_000
    grid: np.ndarray | None = None


@dataclass(frozen=True)
class Move:
    """An accepted step, from ``(t, y)`` to ``(t_next, y_next)``. Under autograd ``h`` may be a tensor."""

    t: float
    h: float
    t_next: float
    y: Tensor
    y_next: Tensor


class Clock:
    """Times and step sizes as the stepper wants them: plain floats."""

    def at(self, t: float) -> Any:
        return t

    def between(self, t: float, t_next: float, h: float) -> Any:
        return h


FLOATS = Clock()


def march(
    stepper: Any,
    t0: float,
    t1: float,
    y0: Tensor,
    tableau: ButcherTableau,
    control: StepControl,
    evaluate: Callable[[float, Tensor], Tensor],
    clock: Clock = FLOATS,
) -> Iterator[Move]:
    """Accepted steps from ``t0`` to ``t1``, in order. The stepper's stages are those of the step just yielded.

    Raises
    ------
    SolverError
        One of its children where the solve can't go on.
    """
    if t0 == t1:
        return iter(())
    if tableau.adaptive:
        return _adaptive(stepper, t0, t1, y0, tableau, control, evaluate, clock)
    return _fixed(stepper, y0, control, clock)


def _adaptive(
    stepper: Any,
    t: float,
    t1: float,
    y: Tensor,
    tableau: ButcherTableau,
    control: StepControl,
    evaluate: Callable[[float, Tensor], Tensor],
    clock: Clock,
) -> Iterator[Move]:
    tolerances, order = control.tolerances, tableau.error_order
    direction = math.copysign(1.0, t1 - t)
    statistics = stepper.statistics
    f = stepper.begin(clock.at(t), y).detach()
    _refuse_non_finite(f, t, 0.0)
    if control.first_step is not None:
        h = direction * control.first_step
    else:
        h = first_step_size(evaluate, t, y.detach(), f.view(y.shape), span=t1 - t, order=order, tolerances=tolerances)
        statistics.nfev += 1
    after_rejection, ratio = False, 0.0
    attempts = 0
    while t != t1:
        if control.max_step is not None:
            h = direction * min(abs(h), control.max_step)
        # A step that nearly reaches the end is stretched to it rather than leaving a sliver behind.
        t_next = t1 if 1.01 * abs(h) >= abs(t1 - t) else t + h
        h = t_next - t
        if t_next != t1 and abs(h) <= 10 * math.ulp(t):
            raise _too_small(t, h, ratio)
        if attempts == control.max_steps:
            raise MaxStepsError(
                f"max_steps={control.max_steps} steps did not reach t={t1:.6g}; the solve stopped",
                time=t,
                step_size=h,
                advice="Raise max_steps, loosen rtol and atol, or see whether the dynamics are stiff or explode"
                + (" (float32 cannot meet an rtol below 1e-6: use float64)." if _too_tight(tolerances, y) else "."),
            )
        attempts += 1
        step_size = clock.between(t, t_next, h)
        stepper.begin(clock.at(t), y)
        y_next, error = stepper.attempt(clock.at(t), step_size, y)
        ratio = tolerances.error_ratio(error, y.detach(), y_next.detach())
        if ratio <= 1.0:
            statistics.n_accepted += 1
            yield Move(t, step_size, t_next, y, y_next)
            stepper.accept()
            t, y = t_next, y_next
        else:
            statistics.n_rejected += 1
        h *= step_factor(ratio, order, after_rejection=after_rejection)
        after_rejection = not ratio <= 1.0
    # A state that overflowed stays so, and makes the error test meaningless: one look at the end finds it.
    _refuse_overflow(y.detach(), t)


def _fixed(stepper: Any, y: Tensor, control: StepControl, clock: Clock) -> Iterator[Move]:
    assert control.grid is not None
    grid = control.grid.tolist()
    if len(grid) - 1 > control.max_steps:
        raise MaxStepsError(
            f"The grid has {len(grid) - 1} steps, more than max_steps={control.max_steps}; nothing was solved",
            time=grid[0],
            step_size=grid[1] - grid[0],
            advice="Raise max_steps or step_size.",
        )
    for t, t_next in itertools.pairwise(grid):
        h = clock.between(t, t_next, t_next - t)
        stepper.begin(clock.at(t), y)
        y_next, _ = stepper.attempt(clock.at(t), h, y)
        # One look at the result of each step: NaN and infinity spread through every combination of stages.
        if not math.isfinite(float(y_next.detach().sum())):
            _refuse_non_finite(y_next.detach(), t, t_next - t)
        stepper.statistics.n_accepted += 1
        yield Move(t, h, t_next, y, y_next)
        stepper.accept()
        y = y_next


def _refuse_non_finite(value: Tensor, t: float, h: float) -> None:
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        count = int((~finite).sum())
        raise NonFiniteDerivativeError(
            f"func(t, y) gave NaN or infinity in {count} of {value.numel()} elements",
            time=t,
            step_size=h,
            advice="See that func is finite at this time and state, that the inputs are scaled, and that the "
            "parameters are finite; for a fixed-step method take smaller steps.",
        )


def _refuse_overflow(y: Tensor, t: float) -> None:
    if not bool(torch.isfinite(y).all()):
        raise NonFiniteDerivativeError(
            f"The solution overflowed {y.dtype}",
            time=t,
            step_size=0.0,
            advice="It grows without bound: shorten the time span, scale the state, or use float64.",
        )


def _too_small(t: float, h: float, ratio: float) -> NonFiniteDerivativeError | StepSizeUnderflowError:
    if not math.isfinite(ratio):
        return NonFiniteDerivativeError(
            "func(t, y) gives NaN or infinity however small the step",
            time=t,
            step_size=h,
            advice="The solution leaves the domain of func, or grows without bound, at this time.",
        )
    return StepSizeUnderflowError(
        "The error test asks for a step too small to advance the time",
        time=t,
        step_size=h,
        advice="The solution may be singular here, or rtol and atol too tight for the dtype: loosen them or use "
        "float64.",
    )


def _too_tight(tolerances: Tolerances, y: Tensor) -> bool:
    return tolerances.rtol < 8 * torch.finfo(y.dtype).eps
