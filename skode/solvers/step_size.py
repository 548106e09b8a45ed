"""How large a step may be: the error test, the first step and the next one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SAFETY = 0.9
MIN_FACTOR = 0.2
MAX_FACTOR = 10.0
NON_FINITE_FACTOR = 0.1

Norm = Callable[[Tensor], Tensor]


def rms_norm(x: Tensor) -> Tensor:
    """Root mean square of all elements, the norm of Hairer, Norsett and Wanner I (eq. II.4.11)."""
    return torch.linalg.vector_norm(x) / math.sqrt(max(x.numel(), 1))


@dataclass(frozen=True)
class Tolerances:
    """The error that a step may make: ``norm(error / (atol + rtol |y|)) <= 1``."""

    rtol: float
    atol: float
    norm: Norm = rms_norm

    def error_ratio(self, error: Tensor, y: Tensor, y_next: Tensor) -> float:
        """How many times the allowed error a step made; not finite where the step left the field's domain."""
        return self.norm(error / self._scale(torch.maximum(y.abs(), y_next.abs()))).item()

    def scaled_size(self, x: Tensor, y: Tensor) -> float:
        """The norm of ``x`` measured in allowed errors at the state ``y``, over the components that are allowed any."""
        scale = self.atol + self.rtol * y.abs()
        return self.norm(torch.where(scale > 0.0, x / scale, 0.0)).item()

    def _scale(self, magnitude: Tensor) -> Tensor:
        scale = magnitude.mul_(self.rtol).add_(self.atol)
        # With a purely relative test, a component that is and stays zero makes no error: 0 / tiny, not 0 / 0.
        return scale if self.atol > 0.0 else scale.clamp_min_(torch.finfo(scale.dtype).tiny)


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
    size_y = tolerances.scaled_size(y, y)
    size_f = tolerances.scaled_size(f, y)
    guess = 0.01 * size_y / size_f if size_y >= 1e-5 and 1e-5 <= size_f < math.inf else 1e-6
    guess = min(guess, abs(span))
    moved = evaluate(t + direction * guess, y + (direction * guess) * f)
    size_second = tolerances.scaled_size(moved - f, y) / guess
    if not math.isfinite(size_f + size_second):
        return direction * guess
    steepest = max(size_f, size_second)
    second = max(1e-6, guess * 1e-3) if steepest <= 1e-15 else (0.01 / steepest) ** (1 / (order + 1))
    return direction * min(100 * guess, second, abs(span))


def step_factor(ratio: float, error_order: int, *, after_rejection: bool) -> float:
    """By what factor to change the step size, given the error ratio of the last attempt.

    The elementary controller ``0.9 ratio^(-1/(q+1))`` for an error estimate of order q, bounded to [0.2, 10], and
    not growing right after a rejection (Hairer, Norsett, Wanner I, eq. II.4.13).
    """
    if not math.isfinite(ratio):
        return NON_FINITE_FACTOR
    if ratio == 0.0:
        return 1.0 if after_rejection else MAX_FACTOR
    factor = min(MAX_FACTOR, max(MIN_FACTOR, SAFETY * ratio ** (-1 / (error_order + 1))))
    return min(1.0, factor) if after_rejection or ratio > 1.0 else factor
