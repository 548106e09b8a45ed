"""When a solve can't go on, and the errors that say so.

A step may be rejected because the field was not finite on it. The next one is shorter, and the solve goes on, unless
time hardly goes on any longer: where :data:`MOST_EXITS` steps have left the field's domain while time went on by less
than :data:`NEAR` of the way from the start, or where a step is too short to advance the time. The same rules hold for
steps that all samples share (:class:`DomainExits`) and for those of each sample (:class:`DomainExitsEach`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.errors import (
    MaxStepsError,
    NonFiniteDerivativeError,
    SolverError,
    StepSizeUnderflowError,
)
from skode.solvers.forward.step_control import StepControl
from skode.solvers.tolerances import all_finite
from skode.solvers.transforms import untransformed

#: Number of steps that may leave the field's domain while time goes on by less than :data:`NEAR`.
MOST_EXITS = 50

#: Share of the way from the start within which two times count as near to each other.
NEAR = 1e-3

#: Units in the last place of the time that a step must be longer than.
LEAST_ULPS = 10

MAX_STEPS_NAMES = "max_steps (odeint: options['max_num_steps'])"


class DomainExits:
    """The steps of a solve that left the field's domain, where all samples share their steps.

    Parameters
    ----------
    t0 : float
        The initial time.

    Attributes
    ----------
    n : int
        Number of such steps since ``counted_from``.
    counted_from : float
        The time since which they are counted.
    last : float
        Where the last of them ended.
    """

    __slots__ = ("counted_from", "last", "n", "t0")

    def __init__(self, t0: float) -> None:
        self.t0 = self.counted_from = t0
        self.n, self.last = 0, math.inf

    def note(self, t_next: float) -> None:
        """Count a step that ended outside the domain."""
        self.n, self.last = self.n + 1, t_next

    def check(self, t: float, h: float, ratio: float, *, too_short: bool) -> None:
        """Raise where the solve can't go on by the step chosen next.

        Parameters
        ----------
        t, h : float
            The present time, and the size of that step.
        ratio : float
            How many times the allowed error the step before made.
        too_short : bool
            Whether the step is not the last one, and at most :data:`LEAST_ULPS` units in the last place of ``t``.
        """
        if self.n > MOST_EXITS:
            stays = _is_near(t, self.counted_from, self.t0)
            self.counted_from, self.n = t, 0
            if stays:
                raise too_small(t, h, math.nan)
        if too_short:
            raise too_small(t, h, math.nan if _is_near(t, self.last, self.t0, h) else ratio)


class DomainExitsEach:
    """The steps that left the field's domain, where each sample has steps of its own: arrays with one entry for each.

    Parameters
    ----------
    t0 : ndarray of shape (n,)
        The initial times.
    """

    def __init__(self, t0: np.ndarray) -> None:
        self.t0 = self.counted_from = t0
        self.n, self.last = np.zeros(len(t0), dtype=np.int64), np.full(len(t0), np.inf)

    def note(self, t_next: np.ndarray, outside: np.ndarray) -> None:
        """Count the steps that ended outside the domain."""
        self.n, self.last = self.n + outside, np.where(outside, t_next, self.last)

    def check(self, t: np.ndarray, h: np.ndarray, ratio: np.ndarray, too_short: np.ndarray) -> Any:
        """Which samples can't go on, and a function that makes the error of one of them by its position and name."""
        many = self.n > MOST_EXITS
        stays = many & _is_near(t, self.counted_from, self.t0)
        self.counted_from, self.n = np.where(many, t, self.counted_from), np.where(many, 0, self.n)
        ratio = np.where(stays | _is_near(t, self.last, self.t0, h), np.nan, ratio)
        return stays | too_short, lambda i, sample: too_small(float(t[i]), float(h[i]), float(ratio[i]), sample)

    def keep(self, these: np.ndarray) -> None:
        """Forget all samples but these."""
        self.t0, self.counted_from, self.n, self.last = (
            x[these] for x in (self.t0, self.counted_from, self.n, self.last)
        )


def is_too_short(t: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Whether steps advance their times by too little for the float64 that these are in."""
    return np.abs(h) <= LEAST_ULPS * np.spacing(np.abs(t))


def _is_near(t: Any, other: Any, t0: Any, h: Any = 0.0) -> Any:
    """Whether another time is near to the present one, on the scale of the way come so far and of a step."""
    return abs(other - t) <= NEAR * (abs(t - t0) + abs(h))


def first_sample(value: Tensor) -> int | None:
    """The first sample with an element that is not finite, where the state has samples."""
    if value.ndim < 2:
        return None
    wrong = ~torch.isfinite(value).flatten(1).all(dim=1)
    return int(wrong.nonzero()[0]) if bool(wrong.any()) else None


def check_finite(value: Tensor, t: float, h: float) -> None:
    """Raise where the field's value, or a state computed from it, is not finite."""
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


def not_finite(t: float, sample: int) -> SolverError:
    """The error of a sample whose field is not finite at its start."""
    return NonFiniteDerivativeError(
        "func(t, y) gave NaN or infinity",
        time=t,
        step_size=0.0,
        sample=sample,
        advice="See that func is finite at this time and state, and that the inputs are scaled.",
    )


def overflowed(t: float, dtype: torch.dtype, sample: int | None) -> SolverError:
    """The error of a state that is not finite at the end: it overflowed on the way."""
    return NonFiniteDerivativeError(
        f"The solution overflowed {dtype}",
        time=t,
        step_size=0.0,
        sample=sample,
        advice="It grows without bound: shorten the time span, scale the state, or use float64.",
    )
