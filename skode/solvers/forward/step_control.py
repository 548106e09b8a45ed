"""How the steps of a solve are chosen: the settings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from skode.solvers.tolerances import Tolerances


@dataclass(frozen=True)
class StepControl:
    """How the steps of a solve are chosen.

    Attributes
    ----------
    tolerances : Tolerances
        The error test of adaptive methods.
    exponents : tuple of three floats
        The controller's, see :class:`skode.solvers.forward.step_size.Controller`.
    first_step, min_step, max_step : float or None
        Size of the first step, the size below which steps are taken whatever their error, and the largest allowed;
        found by the solver, no step and unbounded where None.
    max_steps : int
        Attempted steps (per sample where steps are) after which the solve is given up.
    grid : ndarray or None
        Step boundaries of a fixed-step method, first and last at the ends of the time span; None where that has no end.
    step_size : float or None
        What the grid was made from, where it was.
    stop_times : ndarray
        Times inside the span that steps must end at, in the order of integration.
    jumps : frozenset of float
        Those of them, and of the ends of the span, where the field is discontinuous.
    nudged : bool
        Whether evaluations at the ends of every step are moved into it by one unit in the last place.
    per_sample : bool
        Whether every sample has its own steps.
    """

    tolerances: Tolerances
    exponents: tuple[float, float, float] = (1.0, 0.0, 0.0)
    first_step: float | None = None
    min_step: float | None = None
    max_step: float | None = None
    max_steps: int = 10_000
    grid: np.ndarray | None = None
    step_size: float | None = None
    stop_times: tuple[float, ...] = ()
    jumps: frozenset[float] = frozenset()
    nudged: bool = False
    per_sample: bool = False


def equal_steps(control: StepControl, t0: float, t1: float) -> Iterator[float]:
    """The grid of a fixed-step method towards a time that it is not made to end at, as long as it may be."""
    assert control.step_size is not None
    h = math.copysign(control.step_size, t1 - t0)
    return (t0 + n * h for n in range(control.max_steps + 1))
