"""When a solve can't go on, and how it says so."""

from __future__ import annotations

import math

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

# As many steps may leave the field's domain while time goes on by less than a thousandth; then that is its end.
MOST_LEAVES = 50
MAX_STEPS_NAMES = "max_steps (odeint: options['max_num_steps'])"


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
