"""The step-size control of a solve whose times and step sizes are tensors on the device.

The arithmetic is that of :mod:`skode.solvers.forward.shared_steps` and of
:class:`skode.solvers.forward.step_size.Controller`, in
float64, as two elementwise functions. On a GPU each is one kernel, compiled by NVRTC (torch's jiterator); elsewhere
they are torch operations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from skode.solvers.forward.step_control import StepControl
from skode.solvers.forward.step_size import MAX_FACTOR, MIN_FACTOR, NON_FINITE_FACTOR, SAFETY

#: Ratios below this are taken for it, so that powers of them stay finite.
LEAST_RATIO = 1e-10

# torch finds a kernel's arguments by a search that a sign of "greater than" would mislead.
_CHOOSE = """
template <typename T> void choose(
    T t, T size, T t1, T direction, T shortest, T longest, T& step, T& wanted, T& t_next) {
    wanted = longest < size ? longest : (size < shortest ? shortest : size);
    t_next = fabs(t1 - t) <= T(1.01) * wanted ? t1 : t + direction * wanted;
    step = t_next - t;
}
"""

_JUDGE = """
template <typename T> void judge(
    T ratio, T t, T t_next, T t1, T wanted, T last, T before, T rejected,
    T shortest, T b1, T b2, T b3, T elementary,
    T& good, T& new_t, T& new_size, T& new_last, T& new_before, T& new_rejected) {
    bool finite = isfinite(ratio);
    bool accepted = ratio <= T(1) || (finite && wanted <= shortest);
    T bounded = finite ? (ratio < T(1e-10) ? T(1e-10) : ratio) : T(1);
    T factor = T(0.1);
    new_last = last;
    new_before = before;
    if (finite && !accepted) {
        factor = T(0.9) * pow(bounded, elementary);
        factor = factor < T(0.2) ? T(0.2) : (T(1) < factor ? T(1) : factor);
    }
    if (accepted) {
        bounded = T(1) < bounded ? T(1) : bounded;
        factor = T(0.9) * pow(bounded, b1) * pow(last, b2) * pow(before, b3);
        factor = factor < T(0.2) ? T(0.2) : (T(10) < factor ? T(10) : factor);
        if (rejected != T(0) && T(1) < factor) factor = T(1);
        new_last = bounded;
        new_before = last;
    }
    new_size = fabs(t_next - t) * factor;
    if (accepted && t_next == t1) {
        T grown = T(1) < factor ? wanted : wanted * factor;
        new_size = new_size < grown ? grown : new_size;
    }
    good = accepted ? T(1) : T(0);
    new_t = accepted ? t_next : t;
    new_rejected = accepted ? T(0) : T(1);
}
"""

_SCALE = """
template <typename T> T in_allowed_errors(T error, T y, T y_next, T rtol, T atol, T least) {
    T size = fabs(y) < fabs(y_next) || isnan(y_next) ? fabs(y_next) : fabs(y);
    T scale = rtol * size + atol;
    return error / (scale < least ? least : scale);
}
"""


@dataclass(frozen=True)
class Controls:
    """The step-size control of a solve, as functions of tensors.

    Attributes
    ----------
    direction : float
        1 or -1, the direction of time.
    shortest, longest : float
        Bounds of the steps' sizes.
    exponents : tuple of three floats
        Of the last three accepted steps' ratios.
    elementary : float
        Exponent of the ratio of a rejected one.
    """

    direction: float
    shortest: float
    longest: float
    exponents: tuple[float, float, float]
    elementary: float

    @classmethod
    def of(cls, control: StepControl, error_order: int, direction: float) -> Controls:
        k = error_order + 1
        b1, b2, b3 = (-b / k for b in control.exponents)
        longest = float("inf") if control.max_step is None else control.max_step
        return cls(direction, control.min_step or 0.0, longest, (b1, b2, b3), -1 / k)

    def choose(self, t: Tensor, size: Tensor, t1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The signed step to try, the size that was wanted, and where the step ends.

        A step that nearly reaches the end is stretched to it rather than leaving a sliver behind.
        """
        if (fused := _fused(t)) is not None:
            numbers = {"direction": self.direction, "shortest": self.shortest, "longest": self.longest}
            return fused.choose(t, size, t1, **numbers)
        wanted = size.clamp(self.shortest, self.longest)
        t_next = torch.where(1.01 * wanted >= (t1 - t).abs(), t1, t + self.direction * wanted)
        return t_next - t, wanted, t_next

    def judge(
        self,
        ratio: Tensor,
        t: Tensor,
        t_next: Tensor,
        t1: Tensor,
        wanted: Tensor,
        last: Tensor,
        before: Tensor,
        rejected: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Whether an attempt is good, and time, size, last two ratios and "was rejected" for the next one."""
        b1, b2, b3 = self.exponents
        if (fused := _fused(t)) is not None:
            numbers = {"shortest": self.shortest, "b1": b1, "b2": b2, "b3": b3, "elementary": self.elementary}
            return fused.judge(ratio, t, t_next, t1, wanted, last, before, rejected, **numbers)
        finite = torch.isfinite(ratio)
        accepted = (ratio <= 1.0) | ((wanted <= self.shortest) & finite)
        bounded = torch.where(finite, ratio.clamp_min(LEAST_RATIO), 1.0)
        bounded = torch.where(accepted, bounded.clamp_max(1.0), bounded)
        smaller = (SAFETY * bounded**self.elementary).clamp(MIN_FACTOR, 1.0)
        grown = (SAFETY * bounded**b1 * last**b2 * before**b3).clamp(MIN_FACTOR, MAX_FACTOR)
        grown = torch.where(rejected > 0.0, grown.clamp_max(1.0), grown)
        factor = torch.where(finite, torch.where(accepted, grown, smaller), NON_FINITE_FACTOR)
        size = (t_next - t).abs() * factor
        # A step cut short by the end says little against the size wanted before.
        size = torch.where(accepted & (t_next == t1), torch.maximum(size, wanted * factor.clamp_max(1.0)), size)
        return (
            accepted.to(t),
            torch.where(accepted, t_next, t),
            size,
            torch.where(accepted, bounded, last),
            torch.where(accepted, last, before),
            1.0 - accepted.to(t),
        )


def in_allowed_errors(error: Tensor, y: Tensor, y_next: Tensor, rtol: float, atol: float) -> Tensor:
    """The error of a step in units of the allowed one, as :class:`skode.solvers.tolerances.Tolerances` has it."""
    least = torch.finfo(y.dtype).tiny if atol == 0.0 else 0.0
    if (fused := _fused(y)) is not None:
        return fused.in_allowed_errors(error, y, y_next, rtol=rtol, atol=atol, least=least)
    scale = torch.maximum(y.abs(), y_next.abs()).mul_(rtol).add_(atol)
    return error / (scale.clamp_min_(least) if least else scale)


@dataclass(frozen=True)
class _Fused:
    """The functions of this module as one kernel each."""

    choose: Callable[..., tuple[Tensor, Tensor, Tensor]]
    judge: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]]
    in_allowed_errors: Callable[..., Tensor]


def _fused(like: Tensor) -> _Fused | None:
    return _kernels() if like.is_cuda else None


@functools.cache
def _kernels() -> _Fused | None:
    """The kernels; None where this build of torch has none for its GPUs."""
    if torch.version.hip is not None or not hasattr(torch.cuda, "jiterator"):
        return None
    create, create_multi = torch.cuda.jiterator._create_jit_fn, torch.cuda.jiterator._create_multi_output_jit_fn
    numbers = {"direction": 1.0, "shortest": 0.0, "longest": 0.0}
    try:
        choose = create_multi(_CHOOSE, 3, **numbers)
        powers = {"shortest": 0.0, "b1": 0.0, "b2": 0.0, "b3": 0.0, "elementary": 0.0}
        judge = create_multi(_JUDGE, 6, **powers)
        scale = create(_SCALE, rtol=0.0, atol=0.0, least=0.0)
        one = torch.ones((), dtype=torch.float64, device="cuda")
        choose(one, one, one), judge(*[one] * 8), scale(one, one, one)
    except (RuntimeError, TypeError, ValueError):
        return None
    return _Fused(choose, judge, scale)
