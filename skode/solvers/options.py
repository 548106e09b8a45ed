"""Checks of what users pass, with errors that name the parameter and the value."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.adjoints import ADJOINTS
from skode.solvers.march import StepControl
from skode.solvers.step_size import Tolerances
from skode.solvers.tableaus import ButcherTableau

DEFAULT_MAX_STEPS = 10_000
DEFAULT_MEMORY_BUDGET = 2**28


def check_state(y0: Any) -> Tensor:
    """``y0`` as a finite floating-point tensor."""
    if not isinstance(y0, Tensor):
        raise TypeError(f"y0 must be a torch tensor, got {type(y0).__name__}.")
    if y0.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"y0 must be float32 or float64, got {y0.dtype}.")
    if not bool(torch.isfinite(y0.detach()).all()):
        raise ValueError("y0 contains NaN or infinity.")
    return y0


def check_tolerance(name: str, value: Any) -> float:
    """A tolerance as a float that is not negative."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}.")
    return float(value)


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


def check_adjoint(adjoint: Any) -> str:
    """The name of an adjoint."""
    if not isinstance(adjoint, str) or adjoint not in ADJOINTS:
        raise ValueError(f"adjoint={adjoint!r} is not known; choose one of {sorted(ADJOINTS)}.")
    return adjoint


def check_times(name: str, t: Any) -> tuple[np.ndarray, Tensor | None]:
    """Times as float64 numbers, and the tensor they came from if it requires grad."""
    if isinstance(t, list | tuple) and any(isinstance(time, Tensor) and time.requires_grad for time in t):
        t = torch.stack([torch.as_tensor(time, dtype=torch.float64) for time in t])
    tensor = t if isinstance(t, Tensor) and t.requires_grad else None
    values = t.detach().cpu().numpy() if isinstance(t, Tensor) else t
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


def step_control(
    tableau: ButcherTableau,
    t0: float,
    t1: float,
    *,
    rtol: Any,
    atol: Any,
    first_step: Any = None,
    max_step: Any = None,
    max_steps: Any = DEFAULT_MAX_STEPS,
    step_size: Any = None,
    grid: np.ndarray | None = None,
) -> StepControl:
    """Checked step control; a fixed-step method gets equal steps of at most ``step_size``, or the given grid."""
    rtol, atol = check_tolerance("rtol", rtol), check_tolerance("atol", atol)
    if tableau.adaptive and rtol == atol == 0.0:
        raise ValueError("rtol and atol must not both be 0.")
    step_size = check_positive("step_size", step_size)
    max_steps = check_count("max_steps", max_steps, least=1)
    if tableau.adaptive:
        if step_size is not None:
            raise ValueError(f"step_size is for fixed-step methods; method={tableau.name!r} chooses its own steps.")
        grid = None
    elif step_size is not None:
        # Rounding must not add a step where the span is a multiple of the step size.
        n_steps = max(math.ceil(abs(t1 - t0) / step_size - 1e-9), 1)
        # linspace would allocate a grid of any length: march refuses one longer than max_steps.
        grid = np.linspace(t0, t1, min(n_steps, max_steps + 1) + 1)
    elif grid is None and t0 != t1:
        raise ValueError(f"method={tableau.name!r} takes steps of a fixed size: pass step_size.")
    return StepControl(
        tolerances=Tolerances(rtol, atol),
        first_step=check_positive("first_step", first_step),
        max_step=check_positive("max_step", max_step),
        max_steps=max_steps,
        grid=grid,
    )
