"""Arguments about steps, as users pass them, and the step control that they describe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from skode.solvers.arguments.checks import (
    check_controller,
    check_count,
    check_positive,
    check_stop_times,
    check_tolerance,
    tolerances_of,
)
from skode.solvers.forward.step_control import StepControl
from skode.solvers.tableaus import Method

DEFAULT_MAX_STEPS = 10_000


@dataclass(frozen=True)
class StepArguments:
    """Arguments about steps, as users pass them.

    Attributes
    ----------
    rtol, atol, norm, controller, first_step, min_step, max_step, max_steps, step_size, step_t, jump_t
        As :func:`skode.solvers.solve_ivp` takes them.
    grid : ndarray or None
        Step boundaries of fixed-step methods where there is no ``step_size``.
    perturb : bool
        Whether the field is never evaluated at the very ends of steps.
    per_sample : bool
        Whether every sample has steps of its own.
    """

    rtol: Any
    atol: Any
    norm: Any = "rms"
    controller: Any = "I"
    first_step: Any = None
    min_step: Any = None
    max_step: Any = None
    max_steps: Any = DEFAULT_MAX_STEPS
    step_size: Any = None
    grid: np.ndarray | None = None
    step_t: Any = None
    jump_t: Any = None
    perturb: bool = False
    per_sample: bool = False

    def control(self, method: Method, t0: float, t1: float, like: Tensor | None = None) -> StepControl:
        """Checked step control of a method between two times.

        A fixed-step method gets equal steps of at most ``step_size``, or the grid. For a state like the one given,
        elements may have tolerances of their own.
        """
        rtol, atol = check_tolerance("rtol", self.rtol, like), check_tolerance("atol", self.atol, like)
        none = (rtol == 0.0) & (atol == 0.0)
        if method.adaptive and (none if isinstance(none, bool) else bool(none.any())):
            raise ValueError("rtol and atol must not both be 0.")
        step_size = check_positive("step_size", self.step_size)
        max_steps = check_count("max_steps", self.max_steps, least=1)
        shortest, longest = check_positive("min_step", self.min_step), check_positive("max_step", self.max_step)
        if shortest is not None and longest is not None and shortest > longest:
            raise ValueError(f"min_step={self.min_step} must not exceed max_step={self.max_step}.")
        jumps = check_stop_times("jump_t", self.jump_t, t0, t1)
        inside = {*jumps, *check_stop_times("step_t", self.step_t, t0, t1)} - {t0, t1}
        if method.adaptive and step_size is not None:
            raise ValueError(f"step_size is for fixed-step methods; method={method.name!r} chooses its own steps.")
        if not method.adaptive:
            self._refuse_idle(method, inside)
        return StepControl(
            tolerances=tolerances_of(rtol, atol, self.norm),
            exponents=check_controller(self.controller),
            first_step=check_positive("first_step", self.first_step),
            min_step=shortest,
            max_step=longest,
            max_steps=max_steps,
            grid=None if method.adaptive else self._grid(method, t0, t1, step_size, max_steps),
            step_size=step_size,
            stop_times=tuple(sorted(inside, reverse=t1 < t0)),
            jumps=frozenset(jumps),
            nudged=bool(self.perturb),
            per_sample=self.per_sample and method.adaptive,  # with a grid all samples take the same steps
        )

    def _refuse_idle(self, method: Method, stop_times: set[float]) -> None:
        """Refuse arguments that play no part with steps of a fixed size."""
        if not self.first_step is self.min_step is self.max_step is None:
            raise ValueError(
                f"first_step, min_step and max_step are for adaptive methods; method={method.name!r} takes step_size."
            )
        if stop_times:
            raise ValueError(
                f"step_t and jump_t are for adaptive methods; give method={method.name!r} a grid of steps."
            )

    def _grid(self, method: Method, t0: float, t1: float, step_size: float | None, max_steps: int) -> np.ndarray | None:
        """The grid of a fixed-step method."""
        if step_size is not None:
            return _equal_steps(t0, t1, step_size, max_steps)
        if self.grid is None and t0 != t1:
            raise ValueError(f"method={method.name!r} takes steps of a fixed size: pass step_size.")
        return self.grid


def _equal_steps(t0: float, t1: float, step_size: float, max_steps: int) -> np.ndarray | None:
    """A grid of equal steps of at most a size; None where the end of the span is left to an event."""
    if math.isinf(t1):
        return None
    # Rounding must not add a step where the span is a multiple of the step size.
    n_steps = max(math.ceil(abs(t1 - t0) / step_size - 1e-9), 1)
    # linspace would allocate a grid of any length: the solve refuses one longer than max_steps.
    return np.linspace(t0, t1, min(n_steps, max_steps + 1) + 1)
