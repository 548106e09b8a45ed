"""How the steps of a solve are chosen: the settings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from skode.solvers.forward.callbacks import Callbacks
from skode.solvers.tolerances import Tolerances


@dataclass(frozen=True)
class StepSizes:
    """Bounds of the steps of adaptive methods.

    Attributes
    ----------
    first_step : float or None
        Size of the first step; found by the solver where None.
    min_step : float or None
        The size below which steps are taken whatever their error.
    max_step : float or None
        The largest size allowed.
    """

    first_step: float | None = None
    min_step: float | None = None
    max_step: float | None = None


@dataclass(frozen=True)
class Stops:
    """Times that steps must end at.

    Attributes
    ----------
    times : tuple of float
        Those inside the span, in the order of integration.
    jumps : frozenset of float
        Those of them, and of the ends of the span, where the field is discontinuous.
    nudged : bool
        Whether evaluations at the ends of every step are moved into it by one unit in the last place.
    """

    times: tuple[float, ...] = ()
    jumps: frozenset[float] = frozenset()
    nudged: bool = False


@dataclass(frozen=True)
class Grid:
    """The steps of a fixed-step method.

    Attributes
    ----------
    times : ndarray or None
        Step boundaries, first and last at the ends of the time span; None where that has no end.
    step_size : float or None
        The step size that the grid was made from, if it was.
    """

    times: np.ndarray | None
    step_size: float | None = None

    def equal_steps(self, t0: float, t1: float, max_steps: int) -> Iterator[float]:
        """Step boundaries towards a time that the grid is not made to end at, as many as there may be."""
        assert self.step_size is not None
        h = math.copysign(self.step_size, t1 - t0)
        return (t0 + n * h for n in range(max_steps + 1))


@dataclass(frozen=True)
class StepControl:
    """How the steps of a solve are chosen.

    Attributes
    ----------
    tolerances : Tolerances
        The error test of adaptive methods.
    exponents : tuple of three floats
        The controller's, see :class:`skode.solvers.forward.step_size.Controller`.
    sizes : StepSizes
        Bounds of the steps of adaptive methods.
    max_steps : int
        Attempted steps (per sample where steps are) after which the solve is given up.
    grid : Grid or None
        The steps of a fixed-step method.
    stops : Stops
        Times that steps must end at.
    per_sample : bool
        Whether every sample has its own steps.
    callbacks : Callbacks or None
        Functions called at every step.
    """

    tolerances: Tolerances
    exponents: tuple[float, float, float] = (1.0, 0.0, 0.0)
    sizes: StepSizes = StepSizes()
    max_steps: int = 10_000
    grid: Grid | None = None
    stops: Stops = Stops()
    per_sample: bool = False
    callbacks: Callbacks | None = None
