"""Checks of what users pass, with errors that name the parameter and the value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.adjoints import ADJOINTS
from skode.solvers.devices import is_asynchronous
from skode.solvers.forward.step_control import StepControl
from skode.solvers.forward.step_size import CONTROLLERS
from skode.solvers.tableaus import Method
from skode.solvers.tolerances import NORMS, Norm, NormOfModuli, Tolerances, TolerancesOfModuli, all_finite
from skode.solvers.transforms import carries_derivatives, is_mapped, numbers

DEFAULT_MAX_STEPS = 10_000
STATE_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def check_state(y0: Any) -> Tensor:
    """``y0`` as a finite tensor of floating-point or complex numbers."""
    if not isinstance(y0, Tensor):
        raise TypeError(f"y0 must be a torch tensor, got {type(y0).__name__}: pass torch.as_tensor(y0).")
    if y0.dtype not in STATE_DTYPES:
        if y0.is_complex():
            raise TypeError(f"y0 must be complex64 or complex128, got {y0.dtype}: pass y0.to(torch.complex64).")
        raise TypeError(
            f"y0 must be float32 or float64, got {y0.dtype}: pass y0.float() or y0.double(); complex64 and complex128 "
            "are solved too."
        )
    # Elsewhere the solve sees to it where it waits for the device anyway.
    if not is_asynchronous(y0.device) and not all_finite(y0.detach().abs() if y0.is_complex() else y0.detach()):
        raise ValueError("y0 contains NaN or infinity.")
    return y0


def check_tolerance(name: str, value: Any, like: Tensor | None = None) -> float | Tensor:
    """A tolerance as a float that is not negative; for a state like this one, also as a tensor of one per element."""
    if like is not None and np.ndim(value):
        return _tolerance_of_elements(name, value, like)
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}.")
    return float(value)


def _tolerance_of_elements(name: str, value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(f"{name} must not require grad: a solve has no gradient of its tolerances.")
    tolerance = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    try:
        tolerance = tolerance.expand(like.shape)
    except RuntimeError as error:
        raise ValueError(
            f"{name} must be a number, or of a shape that broadcasts to that of y0, {tuple(like.shape)}; got shape "
            f"{tuple(tolerance.shape)}."
        ) from error
    if not bool((torch.isfinite(tolerance) & (tolerance >= 0.0)).all()):
        raise ValueError(f"{name} must hold finite numbers >= 0, got {value!r}.")
    return tolerance


def check_positive(name: str, value: Any) -> float | None:
    """None, or a float above 0."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 < float(value) < math.inf:
        raise ValueError(f"{name} must be a finite number > 0 or None, got {value!r}.")
    return float(value)


def check_count(name: str, value: Any, *, least: int) -> int:
    """An int of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}.")
    return int(value)


def check_memory_budget(name: str, value: Any) -> int | None:
    """None, or an int that is not negative."""
    return None if value is None else check_count(name, value, least=0)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """One of some names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r} is not known; choose one of {sorted(choices)}.")
    return value


def check_adjoint(adjoint: Any) -> str:
    """The name of an adjoint."""
    return check_choice("adjoint", adjoint, list(ADJOINTS))


def check_norm(name: str, norm: Any) -> Norm:
    """A norm by its name, or a callable."""
    if callable(norm):
        return norm
    return NORMS[check_choice(name, norm, list(NORMS))]


def tolerances_of(rtol: float, atol: float, norm: Any) -> Tolerances:
    """The error test; of moduli where the norm says that it is one of them."""
    if isinstance(norm, NormOfModuli):
        return TolerancesOfModuli(rtol, atol, check_norm("norm", norm.norm))
    return Tolerances(rtol, atol, check_norm("norm", norm))


def check_controller(controller: Any) -> tuple[float, float, float]:
    """The exponents of a step-size controller, given by its name or as three numbers."""
    if isinstance(controller, str):
        return CONTROLLERS[check_choice("controller", controller, list(CONTROLLERS))]
    try:
        b1, b2, b3 = (float(b) for b in controller)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"controller must be one of {sorted(CONTROLLERS)} or three exponents, got {controller!r}."
        ) from error
    if not all(map(math.isfinite, (b1, b2, b3))) or b1 + b2 + b3 <= 0.0:
        raise ValueError(f"controller's exponents must be finite and their sum positive, got {controller!r}.")
    return b1, b2, b3


def check_times(name: str, t: Any) -> tuple[np.ndarray, Tensor | None]:
    """Times as float64 numbers, and the tensor they came from if it carries derivatives."""
    if isinstance(t, list | tuple) and any(isinstance(time, Tensor) and carries_derivatives(time) for time in t):
        t = torch.stack([torch.as_tensor(time, dtype=torch.float64) for time in t])
    tensor = t if isinstance(t, Tensor) and carries_derivatives(t) else None
    if tensor is not None and is_mapped(tensor):
        raise TypeError(f"{name} must be the same for all that torch.func.vmap maps over: pass it with in_dims=None.")
    values = numbers(t) if isinstance(t, Tensor) else t
    try:
        array = np.asarray(values)
        if not np.can_cast(array.dtype, np.float64, casting="same_kind"):  # complex numbers would lose a part
            raise TypeError
        return array.astype(np.float64), tensor
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold real numbers, got {t!r}.") from error


def check_monotone(name: str, times: np.ndarray) -> None:
    """Refuse times that are not finite or not strictly monotone, naming the first that offends."""
    if not np.isfinite(times).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    steps = np.diff(times)
    if len(steps) and not ((steps > 0).all() or (steps < 0).all()):
        wrong = np.flatnonzero(np.sign(steps) != np.sign(times[-1] - times[0]))
        i = int(wrong[0]) if len(wrong) else 0
        raise ValueError(
            f"{name} must be strictly increasing or strictly decreasing, but {name}[{i}]={times[i]} is followed by "
            f"{times[i + 1]}."
        )


def check_stop_times(name: str, times: Any, t0: float, t1: float) -> list[float]:
    """Times inside the span, its ends included; those outside play no part."""
    if times is None:
        return []
    values = np.unique(check_times(name, times)[0].ravel())
    if not np.isfinite(values).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return values[(values >= min(t0, t1)) & (values <= max(t0, t1))].tolist()


def step_control(
    method: Method,
    t0: float,
    t1: float,
    *,
    rtol: Any,
    atol: Any,
    norm: Any = "rms",
    controller: Any = "I",
    first_step: Any = None,
    min_step: Any = None,
    max_step: Any = None,
    max_steps: Any = DEFAULT_MAX_STEPS,
    step_size: Any = None,
    grid: np.ndarray | None = None,
    step_t: Any = None,
    jump_t: Any = None,
    perturb: bool = False,
    per_sample: bool = False,
    like: Tensor | None = None,
) -> StepControl:
    """Checked step control; a fixed-step method gets equal steps of at most ``step_size``, or the given grid.

    For a state like the one given, elements may have tolerances of their own.
    """
    rtol, atol = check_tolerance("rtol", rtol, like), check_tolerance("atol", atol, like)
    none = (rtol == 0.0) & (atol == 0.0)
    if method.adaptive and (none if isinstance(none, bool) else bool(none.any())):
        raise ValueError("rtol and atol must not both be 0.")
    step_size = check_positive("step_size", step_size)
    max_steps = check_count("max_steps", max_steps, least=1)
    shortest, longest = check_positive("min_step", min_step), check_positive("max_step", max_step)
    if shortest is not None and longest is not None and shortest > longest:
        raise ValueError(f"min_step={min_step} must not exceed max_step={max_step}.")
    jumps = check_stop_times("jump_t", jump_t, t0, t1)
    inside = {*jumps, *check_stop_times("step_t", step_t, t0, t1)} - {t0, t1}
    stop_times = sorted(inside, reverse=t1 < t0)
    if method.adaptive:
        if step_size is not None:
            raise ValueError(f"step_size is for fixed-step methods; method={method.name!r} chooses its own steps.")
        grid = None
    else:
        if not first_step is shortest is longest is None:
            raise ValueError(
                f"first_step, min_step and max_step are for adaptive methods; method={method.name!r} takes step_size."
            )
        if stop_times:
            raise ValueError(
                f"step_t and jump_t are for adaptive methods; give method={method.name!r} a grid of steps."
            )
        if step_size is not None:
            grid = _equal_steps(t0, t1, step_size, max_steps)
        elif grid is None and t0 != t1:
            raise ValueError(f"method={method.name!r} takes steps of a fixed size: pass step_size.")
    return StepControl(
        tolerances=tolerances_of(rtol, atol, norm),
        exponents=check_controller(controller),
        first_step=check_positive("first_step", first_step),
        min_step=shortest,
        max_step=longest,
        max_steps=max_steps,
        grid=grid,
        step_size=step_size,
        stop_times=tuple(stop_times),
        jumps=frozenset(jumps),
        nudged=bool(perturb),
        per_sample=per_sample and method.adaptive,  # with a grid all samples take the same steps
    )


def _equal_steps(t0: float, t1: float, step_size: float, max_steps: int) -> np.ndarray | None:
    """A grid of equal steps of at most a size; None where the end of the span is left to an event."""
    if math.isinf(t1):
        return None
    # Rounding must not add a step where the span is a multiple of the step size.
    n_steps = max(math.ceil(abs(t1 - t0) / step_size - 1e-9), 1)
    # linspace would allocate a grid of any length: march refuses one longer than max_steps.
    return np.linspace(t0, t1, min(n_steps, max_steps + 1) + 1)
