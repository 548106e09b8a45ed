"""The size of the first step, and of the next one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor

from skode.solvers.tolerances import EachSample, Tolerances

SAFETY = 0.9
MIN_FACTOR = 0.2
MAX_FACTOR = 10.0
NON_FINITE_FACTOR = 0.1
# Exponents (b1, b2, b3) of the digital filters of Soderlind, "Digital filters in adaptive time-stepping", ACM TOMS 29,
# 2003, table I: the elementary controller, PI.4.2 and H312PID.
CONTROLLERS = {"I": (1.0, 0.0, 0.0), "PI": (3 / 5, -1 / 5, 0.0), "PID": (1 / 18, 1 / 9, 1 / 18)}


def first_step_size(
    evaluate: Callable[[float, Tensor], Tensor],
    t: float,
    y: Tensor,
    f: Tensor,
    *,
    span: float,
    order: int,
    tolerances: Tolerances,
) -> float:
    """A first step whose error is probably acceptable.

    Two guesses from the sizes of ``y``, ``y'`` and a difference quotient of ``y'`` (Hairer, Norsett, Wanner,
    Solving Ordinary Differential Equations I, section II.4, "Starting Step Size"). Costs one evaluation.

    Parameters
    ----------
    evaluate : callable
        The vector field.
    t, y, f
        Initial time, state and derivative.
    span : float
        Signed length of the integration interval.
    order : int
        Order of the method's error estimate.
    tolerances : Tolerances
        The error test.

    Returns
    -------
    float
        The signed step size, no longer than ``span``.
    """
    direction = math.copysign(1.0, span)
    allowed = tolerances.allowed(y)
    size_y, size_f = tolerances.size(tolerances.over(y, allowed)), tolerances.size(tolerances.over(f, allowed))
    guess = 0.01 * size_y / size_f if size_y >= 1e-5 and 1e-5 <= size_f < math.inf else 1e-6
    guess = min(guess, abs(span))
    moved = evaluate(t + direction * guess, y + (direction * guess) * f)
    size_second = tolerances.size(tolerances.over(moved - f, allowed)) / guess
    if not math.isfinite(size_f + size_second):
        return direction * guess
    steepest = max(size_f, size_second)
    second = max(1e-6, guess * 1e-3) if steepest <= 1e-15 else (0.01 / steepest) ** (1 / (order + 1))
    return direction * min(100 * guess, second, abs(span))


def first_step_sizes(
    evaluate: Callable[[np.ndarray, Tensor], Tensor],
    column: Callable[[np.ndarray], Tensor],
    t: np.ndarray,
    y: Tensor,
    f: Tensor,
    *,
    span: np.ndarray,
    order: int,
    measure: EachSample,
) -> np.ndarray:
    """The same for each sample of a batch: signed step sizes of shape (n,).

    ``evaluate`` takes times of shape (n,), and ``column`` makes n numbers broadcast against the state.
    """
    direction = np.where(span < 0.0, -1.0, 1.0)
    over, allowed = measure.tolerances.over, measure.tolerances.allowed(y)
    size_y, size_f = measure.size(over(y, allowed)), measure.size(over(f, allowed))
    with np.errstate(all="ignore"):
        usable = (size_y >= 1e-5) & (size_f >= 1e-5) & np.isfinite(size_f)
        guess = np.minimum(np.where(usable, 0.01 * size_y / size_f, 1e-6), np.abs(span))
        moved = evaluate(t + direction * guess, y + column(direction * guess) * f)
        size_second = measure.size(over(moved - f, allowed)) / guess
        steepest = np.maximum(size_f, size_second)
        second = np.where(steepest <= 1e-15, np.maximum(1e-6, guess * 1e-3), (0.01 / steepest) ** (1 / (order + 1)))
        step = np.minimum(np.minimum(100 * guess, second), np.abs(span))
    return direction * np.where(np.isfinite(size_f + size_second), step, guess)


class Controller:
    """By what factor to change the step size, given the error ratios of the last attempts.

    ``0.9 r_n^(-b1/k) r_(n-1)^(-b2/k) r_(n-2)^(-b3/k)`` with ``k = q + 1`` for an error estimate of order q, where only
    accepted steps enter the history, bounded to [0.2, 10], and not growing right after a rejection (Soderlind 2003;
    Hairer, Norsett, Wanner I, eq. II.4.13 is ``b = (1, 0, 0)``).

    Parameters
    ----------
    exponents : tuple of three floats
        ``(b1, b2, b3)``.
    error_order : int
        q.
    """

    def __init__(self, exponents: tuple[float, float, float], error_order: int) -> None:
        self.exponents = tuple(-b / (error_order + 1) for b in exponents)
        self.elementary = -1 / (error_order + 1)
        self.before = (1.0, 1.0)
        self.after_rejection = False

    def factor(self, ratio: float) -> float:
        """The factor after an attempt; a ratio of at most 1 means that it was accepted."""
        after_rejection, self.after_rejection = self.after_rejection, not ratio <= 1.0
        if not math.isfinite(ratio):
            return NON_FINITE_FACTOR
        bounded = max(ratio, 1e-10)
        if self.after_rejection:
            return min(1.0, max(MIN_FACTOR, SAFETY * bounded**self.elementary))
        b1, b2, b3 = self.exponents
        factor = SAFETY * bounded**b1
        if b2 or b3:
            factor *= self.before[0] ** b2 * self.before[1] ** b3
        self.before = (bounded, self.before[0])
        factor = min(MAX_FACTOR, max(MIN_FACTOR, factor))
        return min(1.0, factor) if after_rejection else factor


class ControllerEach:
    """The same for many samples at once, each with its own history."""

    def __init__(self, exponents: tuple[float, float, float], error_order: int, n: int) -> None:
        self.exponents = tuple(-b / (error_order + 1) for b in exponents)
        self.elementary = -1 / (error_order + 1)
        self.before = np.ones((2, n))
        self.after_rejection = np.zeros(n, dtype=bool)

    def factor(self, ratio: np.ndarray) -> np.ndarray:
        """The factors after an attempt of all samples."""
        finite = np.isfinite(ratio)
        accepted = ratio <= 1.0
        bounded = np.where(finite, np.maximum(ratio, 1e-10), 1.0)
        b1, b2, b3 = self.exponents
        after_acceptance = SAFETY * bounded**b1 * self.before[0] ** b2 * self.before[1] ** b3
        factor = np.where(accepted, after_acceptance, SAFETY * bounded**self.elementary)
        factor = np.clip(factor, MIN_FACTOR, MAX_FACTOR)
        factor = np.where(self.after_rejection | ~accepted, np.minimum(factor, 1.0), factor)
        self.before = np.where(accepted, np.stack([bounded, self.before[0]]), self.before)
        self.after_rejection = ~accepted
        return np.where(finite, factor, NON_FINITE_FACTOR)

    def keep(self, these: np.ndarray) -> None:
        """Forget all samples but these."""
        self.before = self.before[:, these]
        self.after_rejection = self.after_rejection[these]
