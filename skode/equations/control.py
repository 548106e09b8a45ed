"""Damping of steps, and weights of the defects that they are to close."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-1, 1e-10, 1e10
#: The least and the largest error of the merit, in nats, that the solver's tolerance may account for.
ERRORS_OF_MERIT = 1e-3, 5e-2
#: Weights of the defects, in units of an observation's: the least, the last, and how they grow and fall.
LEAST_WEIGHT, LAST_WEIGHT, GROWTH_OF_WEIGHT, FALL_OF_WEIGHT = 1.0, 1e6, 30.0, 10.0
#: Below this damping a step tells how much is left to gain.
UNDAMPED = 0.1
#: After so many rejected steps in a row a fit is taken to have converged if all that was left to gain is within the
#: largest error of the merit.
STALLED = 6


@dataclass
class Control:
    """Damping and step acceptance of each group, and how near it is to its end.

    ``left`` is what the last undamped step has promised to gain, ``rejected`` how many steps were rejected in a row.
    """

    damping: np.ndarray
    growth: np.ndarray
    weight: np.ndarray
    least_weight: np.ndarray
    left: np.ndarray
    rejected: np.ndarray
    last_weight: np.ndarray

    @classmethod
    def start(cls, weight: np.ndarray, last_weight: float) -> Control:
        """At the start, with the first weights of the groups and the last one."""
        n = len(weight)
        least = np.minimum(weight, LEAST_WEIGHT)
        damping, growth, left, last = (np.full(n, value) for value in (FIRST_DAMPING, 2.0, np.inf, last_weight))
        return cls(damping, growth, weight, least, left, np.zeros(n, dtype=int), last)

    def take(self, kept: np.ndarray) -> Control:
        """Those of some of the groups."""
        return Control(*[getattr(self, field.name)[kept] for field in fields(self)])

    def stalled(self, predicted: np.ndarray, accepted: np.ndarray) -> np.ndarray:
        """Which groups gain by no step, however short, and had no more to gain than solvers' errors may account for."""
        self.left = np.where(self.damping <= UNDAMPED, predicted, self.left)
        self.rejected = np.where(accepted, 0, self.rejected + 1)
        return (self.rejected >= STALLED) & (self.left <= ERRORS_OF_MERIT[1])

    def judge(self, ratio: np.ndarray, accepted: np.ndarray, curved: np.ndarray) -> None:
        """Adapt to the ratios of actual to predicted gains.

        Weights grow after steps that went as predicted. They fall where a step would gain but for defects that its
        linearisation does not see (``curved``): heavy ones bind the steps closely to a curved manifold.

        H. B. Nielsen, "Damping parameter in Marquardt's method", IMM-REP-1999-05; good steps let damping fall faster,
        to the end that convergence is quadratic.
        """
        with np.errstate(all="ignore"):
            factor = np.clip(1.0 - (2.0 * ratio - 1.0) ** 3, 1.0 / 3.0, 2.0)
        factor = np.where(ratio > 0.75, 0.1, np.nan_to_num(factor, nan=2.0))
        curved = curved & (self.weight > self.least_weight)
        raised = np.where(curved, self.damping, self.damping * self.growth)
        self.damping = np.maximum(np.where(accepted, self.damping * factor, raised), LEAST_DAMPING)
        self.growth = np.where(accepted, 2.0, np.where(curved, self.growth, 2.0 * self.growth))
        grown = np.minimum(self.weight * GROWTH_OF_WEIGHT, self.last_weight)
        fallen = np.maximum(self.weight / FALL_OF_WEIGHT, self.least_weight)
        self.weight = np.where(accepted & (ratio > 0.75), grown, np.where(curved, fallen, self.weight))
