"""Which outputs a step answers, and where in it they lie.

Output times never move steps. Each accepted step ``(t, t + h]`` is searched for the outputs that lie in it, as
:class:`Reading` objects: entries at its very end are the state itself, the others come off the interpolant.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from skode.solvers.cached import cached


@dataclass(frozen=True)
class Reading:
    """Outputs that one step answers.

    Attributes
    ----------
    positions : ndarray of int, of shape (m,)
        Where in the flat list of outputs they go.
    theta : ndarray of shape (m,)
        Where in the step they lie, 0 at its start and 1 at its end.
    rows : ndarray of int, of shape (m,), or None
        The sample that each belongs to, as a row of the step's states; None where an output is the state of the
        whole batch.
    """

    positions: np.ndarray
    theta: np.ndarray
    rows: np.ndarray | None

    def until(self, stop: np.ndarray) -> Reading | None:
        """Those outputs that lie no further in the step than ``stop``: one number, or one for each sample."""
        kept = self.theta <= (stop[0] if self.rows is None else stop[self.rows])
        if kept.all():
            return self
        if not kept.any():
            return None
        return Reading(self.positions[kept], self.theta[kept], None if self.rows is None else self.rows[kept])

    @cached
    def at_end(self) -> bool:
        """Whether all of them lie at the end of the step."""
        return bool((self.theta == 1.0).all())


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
        self.ahead = self.sorted.data  # bisect reads memory in half of searchsorted's time
        self.rows = rows
        self.direction = direction
        self.n_outputs = len(times)
        self._next = 0

    def at_start(self, t: float) -> Reading | None:
        """Outputs at the initial time."""
        return self._take(t, np.zeros)

    def in_step(self, t: float, t_next: float, rows: None = None) -> list[Reading]:
        """Outputs after ``t`` up to and including ``t_next``, those inside the step before those at its end."""
        first, end = self._next, bisect_left(self.ahead, self.direction * t_next, self._next)
        readings = []
        if end > first:
            inside = self.direction * self.sorted[first:end]
            readings.append(self._reading(first, end, (inside - t) / (t_next - t)))
            self._next = end
        at_end = self._take(t_next, np.ones)
        return [*readings, at_end] if at_end is not None else readings

    def any_until(self, t: float) -> bool:
        """Whether there are outputs up to a time that no step has answered yet."""
        return self._next < self.n_outputs and self.ahead[self._next] <= self.direction * t

    def _take(self, t: float, theta: Callable[[int], np.ndarray]) -> Reading | None:
        first = self._next
        self._next = end = bisect_right(self.ahead, self.direction * t, first)
        return self._reading(first, end, theta(end - first)) if end > first else None

    def _reading(self, first: int, end: int, theta: np.ndarray) -> Reading:
        positions = self.order[first:end]
        return Reading(positions, theta, None if self.rows is None else self.rows[positions])


class Positions:
    """Numbers outputs whose times are not known in advance: after those that are.

    Parameters
    ----------
    n : int
        How many are known in advance.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.times: list[np.ndarray] = []
        self.rows: list[np.ndarray] = []

    def take(self, m: int) -> np.ndarray:
        """The next m positions."""
        self.n += m
        return np.arange(self.n - m, self.n)

    def note(self, positions: np.ndarray, times: np.ndarray, rows: np.ndarray | None) -> None:
        """Remember the times and the samples of the outputs just numbered."""
        self.times.append(np.asarray(times, dtype=np.float64))
        if rows is not None:
            self.rows.append(rows)


class EveryStep:
    """Outputs at the initial time and at the end of each accepted step, of the whole state or of each sample.

    Parameters
    ----------
    positions : Positions
        Numbers them.
    n_samples : int or None
        The size of the batch, where each output is the state of one sample.
    initial : ndarray of shape (n_samples,) or None
        The samples' initial times, where they have their own.

    Attributes
    ----------
    found : list of ndarray
        The outputs' positions, in order.
    """

    n_outputs = 0

    def __init__(self, positions: Positions, n_samples: int | None = None, initial: np.ndarray | None = None) -> None:
        self.positions = positions
        self.initial = initial
        self.n_samples = n_samples
        self.found: list[np.ndarray] = []

    def at_start(self, t: float) -> Reading:
        everyone = None if self.n_samples is None else np.arange(self.n_samples)
        return self._take(0.0, t if self.initial is None else self.initial, everyone)

    def in_step(self, t: Any, t_next: Any, rows: np.ndarray | None = None) -> list[Reading]:
        if rows is None and self.n_samples is not None:
            rows = np.arange(self.n_samples)
        return [self._take(1.0, t_next, rows)]

    def _take(self, theta: float, t: Any, rows: np.ndarray | None) -> Reading:
        m = 1 if rows is None else len(rows)
        positions, times = self.positions.take(m), np.broadcast_to(np.asarray(t, dtype=np.float64), (m,))
        self.positions.note(positions, times, rows)
        self.found.append(positions)
        return Reading(positions, np.full(m, theta), None if rows is None else np.arange(m))


class OwnOutputTimes:
    """Outputs at given times where every sample takes its own steps.

    Parameters
    ----------
    times : ndarray of shape (m,)
        Output times, none NaN, each inside the time span.
    rows : ndarray of int, of shape (m,), or None
        The sample of each; None where all samples are requested at all times, output ``j * n_samples + i`` being
        sample i at time j.
    spans : ndarray of shape (n_samples, 2)
        Each sample's time span.
    """

    def __init__(self, times: np.ndarray, rows: np.ndarray | None, spans: np.ndarray) -> None:
        n_samples = len(spans)
        if rows is None:
            rows, times = np.tile(np.arange(n_samples), len(times)), np.repeat(times, n_samples)
        self.direction = np.where(spans[:, 1] < spans[:, 0], -1.0, 1.0)
        pairs = _pairs(rows, self.direction[rows] * times)
        in_order = (pairs[1:] >= pairs[:-1]).all()
        #: The outputs' positions, sample by sample, in the order in which its steps will reach them.
        self.order = np.arange(len(pairs)) if in_order else np.lexsort((pairs.imag, rows))
        #: Sample and time of each. Complex numbers have the lexical order that these are in.
        self.keys = pairs[self.order]
        self.n_outputs = len(times)
        everyone, initial = np.arange(n_samples), self.direction * spans[:, 0]
        self.first = np.searchsorted(self.keys, _pairs(everyone, initial))
        #: Behind the outputs that each sample's steps have answered.
        self.answered = np.searchsorted(self.keys, _pairs(everyone, initial), side="right")

    def at_start(self, t: float) -> Reading | None:
        """Outputs at the initial time."""
        places, rows = _ranges(self.first, self.answered)
        return Reading(self.order[places], np.zeros(len(rows)), rows) if len(rows) else None

    def in_step(self, t: np.ndarray, t_next: np.ndarray, rows: np.ndarray) -> list[Reading]:
        """Outputs in the steps that the samples ``rows`` took, those inside them before those at their ends."""
        start, end = self.direction[rows] * t, self.direction[rows] * t_next
        behind = np.searchsorted(self.keys, _pairs(rows, end), side="right")
        places, local = _ranges(self.answered[rows], behind)
        self.answered[rows] = behind
        times, positions = self.keys.imag[places], self.order[places]
        at_end = times == end[local]
        readings = []
        for found in (~at_end, at_end):
            if found.any():
                own = local[found]
                theta = np.ones(len(own)) if found is at_end else (times[found] - start[own]) / (end - start)[own]
                readings.append(Reading(positions[found], theta, own))
        return readings


def _pairs(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Samples and times as complex numbers."""
    pairs = np.empty(len(rows), dtype=np.complex128)
    pairs.real, pairs.imag = rows, times
    return pairs


def _ranges(first: np.ndarray, behind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All whole numbers from each of ``first`` until before that of ``behind``, and which range each is of."""
    counts = behind - first
    ranges = np.repeat(np.arange(len(first)), counts)
    return np.arange(len(ranges)) + np.repeat(first - np.cumsum(counts) + counts, counts), ranges


Readout = OutputTimes | EveryStep | OwnOutputTimes
