"""Which outputs a step answers, and where in it they lie.

Output times never move steps. Each accepted step ``(t, t + h]`` is asked for the outputs that lie in it, as
:class:`Reading` objects: entries at its very end are the state itself, the others come off the interpolant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Reading:
    """Outputs that one step answers.

    Attributes
    ----------
    positions : ndarray of int, of shape (m,)
        Where in the flat list of outputs they go.
    theta : ndarray of shape (m,)
        Where in the step they lie, 0 at its start and 1 at its end.
    rows : ndarray of int, of shape (m,), or None
        The sample that each belongs to; None where an output is the state of the whole batch.
    """

    positions: np.ndarray
    theta: np.ndarray
    rows: np.ndarray | None

    @property
    def at_end(self) -> bool:
        """Whether all of them lie at the end of the step."""
        return bool((self.theta == 1.0).all())

    @property
    def at_start(self) -> bool:
        """Whether all of them lie at the start of the step."""
        return bool((self.theta == 0.0).all())


class OutputTimes:
    """Outputs at given times: for the whole batch, or each for one sample.

    Parameters
    ----------
    times : ndarray of shape (m,)
        Output times, none NaN, each inside the time span.
    rows : ndarray of int, of shape (m,), or None
        The sample of each output.
    direction : float
        1 or -1, the direction of time.

    Attributes
    ----------
    n_outputs : int
        The number of outputs.
    """

    def __init__(self, times: np.ndarray, rows: np.ndarray | None, direction: float) -> None:
        self.order = np.argsort(direction * times, kind="stable")
        self.sorted = direction * times[self.order]
        self.rows = rows
        self.direction = direction
        self.n_outputs = len(times)
        self._next = 0

    def at_start(self, t: float) -> Reading | None:
        """Outputs at the initial time."""
        return self._take(t, np.zeros)

    def in_step(self, t: float, t_next: float) -> list[Reading]:
        """Outputs after ``t`` up to and including ``t_next``, those inside the step before those at its end."""
        first, end = self._next, int(np.searchsorted(self.sorted, self.direction * t_next, side="left"))
        readings = []
        if end > first:
            inside = self.direction * self.sorted[first:end]
            readings.append(self._reading(first, end, (inside - t) / (t_next - t)))
            self._next = end
        at_end = self._take(t_next, np.ones)
        return [*readings, at_end] if at_end is not None else readings

    def _take(self, t: float, theta: Callable[[int], np.ndarray]) -> Reading | None:
        first = self._next
        end = int(np.searchsorted(self.sorted, self.direction * t, side="right"))
        self._next = max(first, end)
        return self._reading(first, end, theta(end - first)) if end > first else None

    def _reading(self, first: int, end: int, theta: np.ndarray) -> Reading:
        positions = self.order[first:end]
        return Reading(positions, theta, None if self.rows is None else self.rows[positions])


class EveryStep:
    """Outputs at the initial time and at the end of each accepted step."""

    def __init__(self) -> None:
        self.n_outputs = 0

    def at_start(self, t: float) -> Reading:
        return self._take(0.0)

    def in_step(self, t: float, t_next: float) -> list[Reading]:
        return [self._take(1.0)]

    def _take(self, theta: float) -> Reading:
        self.n_outputs += 1
        return Reading(np.array([self.n_outputs - 1]), np.array([theta]), None)


Readout = OutputTimes | EveryStep
