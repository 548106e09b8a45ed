"""How large a step may be: the error test, the first step and the next one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from skode.solvers.transforms import is_transformed, untransformed

SAFETY = 0.9
MIN_FACTOR = 0.2
MAX_FACTOR = 10.0
NON_FINITE_FACTOR = 0.1

Norm = Callable[[Tensor], Tensor]

# Exponents (b1, b2, b3) of the digital filters of Soderlind, "Digital filters in adaptive time-stepping", ACM TOMS 29,
# 2003, table I: the elementary controller, PI.4.2 and H312PID.
CONTROLLERS = {"I": (1.0, 0.0, 0.0), "PI": (3 / 5, -1 / 5, 0.0), "PID": (1 / 18, 1 / 9, 1 / 18)}


def all_finite(x: Tensor) -> bool:
    """Whether no element is NaN or infinite."""
    # A sum costs a tenth of torch.isfinite; it is not finite if an element isn't, and else only where it overflows.
    try:
        return math.isfinite(x.sum().item()) or bool(torch.isfinite(x).all())
    except RuntimeError:  # states that vmap maps over have no one number
        if not is_transformed(x):
            raise
        return all_finite(untransformed(x))


def rms_norm(x: Tensor) -> Tensor:
    """Root mean square of all elements, the norm of Hairer, Norsett and Wanner I (eq. II.4.11)."""
    flat = x.reshape(-1)
    return torch.sqrt(torch.dot(flat, flat) / max(x.numel(), 1))


def max_norm(x: Tensor) -> Tensor:
    """The largest absolute value: no element may exceed its tolerance."""
    return x.abs().amax() if x.numel() else x.new_zeros(())


def mixed_norm(x: Tensor) -> Tensor:
    """Root mean square within each sample (each row of a state with two dimensions or more), the largest over them."""
    if x.ndim < 2 or not x.numel():
        return rms_norm(x)
    return torch.linalg.vector_norm(x.flatten(1), dim=1).amax() / math.sqrt(x[0].numel())


NORMS: dict[str, Norm] = {"rms": rms_norm, "max": max_norm, "mixed": mixed_norm}


@dataclass(frozen=True)
class Tolerances:
    """The error that a step may make: ``norm(error / (atol + rtol |y|)) <= 1``.

    Attributes
    ----------
    rtol, atol : float, or Tensor of the state's shape and dtype
        Relative and absolute tolerance, of all elements or of each.
    norm : callable
        What makes one number of the elements' errors.
    """

    rtol: float | Tensor
    atol: float | Tensor
    norm: Norm = rms_norm
    # Whether an element that is zero is allowed no error at all.
    purely_relative: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "purely_relative", _least(self.atol) == 0.0)

    @property
    def of_elements(self) -> bool:
        """Whether elements of the state have tolerances of their own."""
        return isinstance(self.rtol, Tensor) or isinstance(self.atol, Tensor)

    def tightest(self) -> Tolerances:
        """The smallest of the elements' tolerances, for all."""
        return Tolerances(_least(self.rtol), _least(self.atol), self.norm)

    def error_ratio(self, error: Tensor, y: Tensor, y_next: Tensor) -> float:
        """How many times the allowed error a step made; not finite where the step left the field's domain."""
        return self.size(self.in_allowed_errors(error, y, y_next))

    def size(self, x: Tensor) -> float:
        """The norm of a state as a number."""
        if self.norm is rms_norm:  # the same in fewer operations
            flat = x.reshape(-1)
            return math.sqrt(torch.dot(flat, flat).item() / max(flat.numel(), 1))
        size = self.norm(x)
        if isinstance(size, Tensor) and size.numel() != 1:
            raise ValueError(f"norm must return one number, got shape {tuple(size.shape)}.")
        return float(size)

    def in_allowed_errors(self, error: Tensor, y: Tensor, y_next: Tensor) -> Tensor:
        """The error of a step, element by element, in units of the allowed one."""
        scale = torch.maximum(y.abs(), y_next.abs()).mul_(self.rtol).add_(self.atol)
        if self.purely_relative:
            # With a purely relative test, a component that is and stays zero makes no error: 0 / tiny, not 0 / 0.
            scale.clamp_min_(torch.finfo(scale.dtype).tiny)
        return torch.div(error, scale, out=scale)

    def mapped(self) -> MappedTolerances:
        """The same test of states that ``vmap`` maps over."""
        return MappedTolerances(self.rtol, self.atol, self.norm)

    def allowed(self, y: Tensor) -> Tensor:
        """The error allowed at a state, element by element."""
        return y.abs().mul_(self.rtol).add_(self.atol)

    def over(self, x: Tensor, allowed: Tensor) -> Tensor:
        """``x`` in units of the allowed error; 0 for components that are allowed none."""
        return torch.where(allowed > 0.0, x / allowed, 0.0) if self.purely_relative else x / allowed


def _least(tolerance: float | Tensor) -> float:
    return float(tolerance.min()) if isinstance(tolerance, Tensor) else tolerance


@dataclass(frozen=True)
class NormOfModuli:
    """A norm for states whose neighbouring elements are real and imaginary parts: it is that of the moduli.

    Attributes
    ----------
    norm : str or callable
        As :func:`skode.solvers.solve_ivp` takes it; it meets each modulus twice, in place of either part.
    """

    norm: str | Norm


class TolerancesOfModuli(Tolerances):
    """The same test for such states: the error's modulus may be ``atol + rtol |y|``, with the modulus of ``y``."""

    def in_allowed_errors(self, error: Tensor, y: Tensor, y_next: Tensor) -> Tensor:
        return super().in_allowed_errors(moduli(error), moduli(y), moduli(y_next))

    def allowed(self, y: Tensor) -> Tensor:
        return super().allowed(moduli(y))

    def over(self, x: Tensor, allowed: Tensor) -> Tensor:
        return super().over(moduli(x), allowed)


def moduli(x: Tensor) -> Tensor:
    """The modulus of each pair of neighbours, real and imaginary part, in the place of both."""
    return torch.linalg.vector_norm(x.reshape(-1, 2), dim=1).repeat_interleave(2).view(x.shape)


class MappedTolerances(Tolerances):
    """The same for states that ``vmap`` maps over: each of them is held to the tolerance."""

    def size(self, x: Tensor) -> float:
        return float(untransformed(torch.as_tensor(self.norm(x))).max())

    def in_allowed_errors(self, error: Tensor, y: Tensor, y_next: Tensor) -> Tensor:
        scale = torch.maximum(y.abs(), y_next.abs()) * self.rtol + self.atol
        return error / (scale.clamp_min(torch.finfo(scale.dtype).tiny) if self.purely_relative else scale)


class EachSample:
    """An error ratio for each sample (the first dimension of the state)."""

    def __init__(self, tolerances: Tolerances) -> None:
        self.norm = tolerances.norm
        self.tolerances = tolerances

    def size(self, x: Tensor) -> np.ndarray:
        if not x[0].numel():
            return np.zeros(len(x))
        if self.norm in (rms_norm, mixed_norm):
            sizes = torch.linalg.vector_norm(x.flatten(1), dim=1) / math.sqrt(x[0].numel())
        elif self.norm is max_norm:
            sizes = x.flatten(1).abs().amax(dim=1)
        else:
            sizes = torch.stack([torch.as_tensor(self.norm(row)) for row in x])
        return sizes.double().cpu().numpy()


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
    moved = evaluate(t + direction * guess, torch.add(y, f, alpha=direction * guess))
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
