"""Times at which a solution or its vector field jumps: doses, and inputs that are constant between rows.

A solver whose step goes across such a time has lost its order there, and its error test may not see what it missed. The
equations are therefore solved leg by leg, from one event to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Course:
    """From when to when samples of a batch are solved, where they are read, and the events on their way.

    Attributes
    ----------
    spans : ndarray of shape (n, 2)
        From when to when each sample is solved.
    times : ndarray of shape (n, n_times)
        Output times, padded with NaN.
    passed : ndarray of int, of shape (n, n_times)
        Number of the sample's events that come before each output.
    stops : ndarray of shape (n, n_stops)
        Times of the events on the way, in the order in which they are met; padded with NaN.
    doses : ndarray of int, of shape (n, n_stops)
        Which of the doses is given there; -1 for none.
    """

    spans: np.ndarray
    times: np.ndarray
    passed: np.ndarray
    stops: np.ndarray
    doses: np.ndarray

    @classmethod
    def smooth(cls, spans: np.ndarray, times: np.ndarray) -> Course:
        """One without events."""
        none = np.empty((len(times), 0))
        return cls(spans, times, np.zeros(times.shape, dtype=np.int64), none, none.astype(np.int64))

    def take(self, rows: np.ndarray) -> Course:
        """That of some of the samples."""
        return Course(self.spans[rows], self.times[rows], self.passed[rows], self.stops[rows], self.doses[rows])


@dataclass(frozen=True)
class Events:
    """The events of several series.

    At one time there are either doses, in their order, or a jump of the inputs alone. An output belongs behind
    those of its time that come before its row in the frame.

    Attributes
    ----------
    pointer : ndarray of int, of shape (n_series + 1,)
        Where each series' events begin.
    time : ndarray of shape (n_events,)
        Their times, sorted within each series.
    dose : ndarray of int, of shape (n_events,)
        Which of the doses is given; -1 for none.
    amounts : ndarray of shape (n_doses, n_columns)
        Amounts of the doses.
    """

    pointer: np.ndarray
    time: np.ndarray
    dose: np.ndarray
    amounts: np.ndarray

    @classmethod
    def of(cls, n_series: int, doses: tuple[np.ndarray, np.ndarray, np.ndarray], jumps: np.ndarray) -> Events:
        """Events from doses and jumps.

        Parameters
        ----------
        n_series : int
            Number of series.
        doses : tuple of ndarray of shapes (n_doses,), (n_doses,) and (n_doses, n_columns)
            The series, time and amounts of each dose, in order.
        jumps : ndarray of shape (n_series, n_jumps)
            Times at which inputs jump, NaN elsewhere.
        """
        codes, times, amounts = doses
        series, columns = np.nonzero(~np.isnan(jumps))
        at = jumps[series, columns]
        dosed = {*zip(codes.tolist(), times.tolist(), strict=True)}
        alone = np.array([pair not in dosed for pair in zip(series.tolist(), at.tolist(), strict=True)], dtype=bool)
        all_codes = np.concatenate([codes, series[alone]])
        all_times = np.concatenate([times, at[alone]])
        dose = np.concatenate([np.arange(len(codes)), np.full(int(alone.sum()), -1)])
        order = np.lexsort((all_times, all_codes))
        pointer = np.searchsorted(all_codes[order], np.arange(n_series + 1))
        return cls(pointer, all_times[order], dose[order], amounts)

    def until(self, series: np.ndarray, t: np.ndarray, *, inclusive: bool = True) -> np.ndarray:
        """How many events of the series given lie before the times given, or at them; all of one shape."""
        n, n_events = t.size, len(self.time)
        of_event = np.repeat(np.arange(len(self.pointer) - 1), np.diff(self.pointer))
        is_query = np.concatenate([np.zeros(n_events, dtype=bool), np.ones(n, dtype=bool)])
        times, codes = np.concatenate([self.time, t.ravel()]), np.concatenate([of_event, series.ravel()])
        order = np.lexsort((is_query if inclusive else ~is_query, times, codes))
        counts = np.empty(n + n_events, dtype=np.int64)
        counts[order] = np.cumsum(~is_query[order])
        return (counts[n_events:] - self.pointer[series.ravel()]).reshape(t.shape)

    def course(self, series: np.ndarray, spans: np.ndarray, times: np.ndarray, before: np.ndarray) -> Course:
        """The course of samples that start behind some of their series' events.

        Parameters
        ----------
        series : ndarray of int, of shape (n,)
            The series of each sample.
        spans : ndarray of shape (n, 2)
            From when to when it is solved.
        times : ndarray of shape (n, n_times)
            Output times, padded with NaN.
        before : ndarray of int, of shape (n, 1 + n_times)
            The number of its series' events that come before the start, and before each output.
        """
        forward = spans[:, 1] >= spans[:, 0]
        first = before[:, :1]
        passed = np.where(np.isnan(times), 0, np.where(forward[:, None], before[:, 1:] - first, first - before[:, 1:]))
        n_stops = passed.max(axis=1, initial=0)
        steps = np.arange(n_stops.max(initial=0))
        numbers = self.pointer[series][:, None] + np.where(forward[:, None], first + steps, first - 1 - steps)
        there = steps < n_stops[:, None]
        numbers = np.where(there, numbers, 0)
        padded_time, padded_dose = (self.time, self.dose) if len(self.time) else (np.zeros(1), np.zeros(1, np.int64))
        stops = np.where(there, padded_time[numbers], np.nan)
        return Course(spans, times, passed, stops, np.where(there, padded_dose[numbers], -1))
