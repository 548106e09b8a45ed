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
from skode.solvers.devices import is_asynchronous, total_memory
from skode.solvers.forward.step_size import CONTROLLERS
from skode.solvers.tolerances import NORMS, Norm, NormOfModuli, Tolerances, TolerancesOfModuli, all_finite
from skode.solvers.transforms import carries_derivatives, is_mapped, numbers

STATE_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)

#: Bytes that the discrete adjoint may keep where the user gives no number, and the device is no GPU.
DEFAULT_MEMORY_BUDGET = 2**28


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


def check_memory_budget(name: str, value: Any, device: torch.device) -> int:
    """Bytes that the discrete adjoint may keep; None: :data:`DEFAULT_MEMORY_BUDGET`, or a quarter of a GPU's memory."""
    if value is None:
        return (total_memory(device) or 4 * DEFAULT_MEMORY_BUDGET) // 4
    return check_count(name, value, least=0)


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


def tolerances_of(rtol: float | Tensor, atol: float | Tensor, norm: Any) -> Tolerances:
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
        if array.dtype != np.float64 and not np.can_cast(array.dtype, np.float64, casting="same_kind"):
            raise TypeError  # complex numbers would lose a part
        return array.astype(np.float64), tensor
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold real numbers, got {t!r}.") from error


def check_monotone(name: str, times: np.ndarray) -> None:
    """Refuse times that are not finite or not strictly monotone, naming the first that offends."""
    if not all_finite(times):
        raise ValueError(f"{name} contains NaN or infinity.")
    if len(times) < 2:
        return
    steps = np.diff(times)
    if not ((steps > 0).all() or (steps < 0).all()):
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
