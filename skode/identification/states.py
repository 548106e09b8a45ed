"""States and their derivatives from smoothed observations, of all series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skode.equations.layout import Layout
from skode.identification.smoothing import smoothed, smoothed_by_size


@dataclass(frozen=True)
class SmoothedStates:
    """The states of all series at the times of observations and at the starts of segments, one after another.

    Attributes
    ----------
    series : ndarray of int, of shape (n,)
        The series of each.
    time : ndarray of shape (n,)
        Their times.
    states : ndarray of shape (n, n_states)
        Smoothed observed quantities and, where the equations are of second order, their derivatives.
    derivatives, variance : ndarray of shape (n, n_outputs)
        Derivatives of the highest order, and their variances.
    freedom : ndarray of shape (n_outputs,)
        How many independent derivatives there are, in the sum over series.
    noise : ndarray of shape (n_outputs,)
        Standard deviations of the observations.
    nodes : ndarray of shape (n_series, n_nodes, n_states)
        States at the starts of segments; those of the last one again where there is none.
    by_size : bool
        Whether noise that grows with the size of what is observed was found likelier.
    """

    series: np.ndarray
    time: np.ndarray
    states: np.ndarray
    derivatives: np.ndarray
    variance: np.ndarray
    freedom: np.ndarray
    noise: np.ndarray
    nodes: np.ndarray
    by_size: bool = False

    @classmethod
    def of(cls, layout: Layout, order: int, *, by_size: bool) -> SmoothedStates:
        """Smooth the observations of a layout, each output of each series by itself.

        With ``by_size`` noise may grow with the size of what is observed.
        """
        times, counts, y, slots = _gathered(layout)
        n_series, n_times = times.shape
        n_outputs = layout.y.shape[1]
        curves = [smoothed_by_size(times, own) if by_size else smoothed(times, own) for own in y]
        mean = np.stack([curve.mean for curve in curves], axis=-1)  # (series, times, derivatives, outputs)
        variance = np.stack([curve.variance for curve in curves], axis=-1)
        states = np.concatenate([mean[:, :, k] for k in range(order)], axis=2)
        inside = np.arange(n_times) < counts[:, None]
        n_seen = np.isfinite(y).sum(axis=2).T  # (series, outputs)
        freedom = np.minimum(np.stack([curve.freedom for curve in curves], axis=1), n_seen)
        noise = np.stack([curve.noise for curve in curves], axis=1)
        return cls(
            series=np.repeat(np.arange(n_series), counts),
            time=times[inside],
            states=states[inside],
            derivatives=mean[:, :, order][inside],
            variance=variance[:, :, order][inside],
            freedom=np.maximum(freedom.sum(axis=0), 1.0),
            noise=np.sqrt((n_seen * noise**2).sum(axis=0) / np.maximum(n_seen.sum(axis=0), 1)),
            nodes=np.take_along_axis(states, slots[:, :, None], axis=1).reshape(n_series, -1, order * n_outputs),
            by_size=any(curve.by_size for curve in curves),
        )


def _gathered(layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times of observations and of segments' starts, and what was observed at them.

    Returns
    -------
    times : ndarray of shape (n_series, n_times)
        Times, padded by each series' last one.
    counts : ndarray of int, of shape (n_series,)
        How many of them are a series' own.
    y : ndarray of shape (n_outputs, n_series, n_times)
        Observed values; NaN where there is none.
    slots : ndarray of int, of shape (n_series, n_nodes)
        Positions of the segments' starts among the times.
    """
    nodes = layout.node_times()
    all_times = []
    for i in range(layout.n_series):
        rows = slice(layout.row_pointer[i], layout.row_pointer[i + 1])
        all_times.append(np.unique(np.concatenate([layout.time[rows], nodes[i][np.isfinite(nodes[i])]])))
    counts = np.array([len(own) for own in all_times])
    times = np.stack([np.append(own, np.full(counts.max() - len(own), own[-1])) for own in all_times])
    y = np.full((layout.y.shape[1], *times.shape), np.nan)
    slots = np.zeros(nodes.shape, dtype=np.int64)
    for i, own in enumerate(all_times):
        rows = slice(layout.row_pointer[i], layout.row_pointer[i + 1])
        places = np.searchsorted(own, layout.time[rows])
        seen = np.where(layout.weights[rows] > 0.0, layout.y[rows], np.nan)
        y[:, i, places] = seen.T
        slots[i] = np.searchsorted(own, np.where(np.isfinite(nodes[i]), nodes[i], np.nanmax(nodes[i])))
    return times, counts, y, slots
