"""Starts by growing windows: parameters that fit the first observations of all series, then more and more of them.

Where solutions turn suddenly, as those of relaxation oscillations do, a start whose turns come at other times than the
observed ones has derivatives that lead astray, however many segments there are: states that are not observed can't be
taken from the data, and segments that start beside a turn take the wrong one. Before the first turn there is none of
that, and what has been learnt from a window tells when the next turn comes. Windows are solved as they are, in one
segment from the initial states. (Growing the horizon is continuation in it: J. Timmer, H. Rust, W. Horbelt, H. U. Voss,
"Parametric, nonparametric and parametric modelling of a chaotic circuit time series", Physics Letters A 274, 2000, fit
chaotic series so.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from skode.equations.layout import Layout
from skode.equations.levenberg_marquardt import Task

#: Observations of the first window, and how many times more each window has than the one before.
FIRST_WINDOW, GROWTH_OF_WINDOWS = 8, 1.5
#: A window whose noise, in units of the size of what is observed in it, is this many times that of the one before has
#: lost the observations: one half as much longer is fitted first.
LOST = 2.0
#: Windows lost in all, after which there are no more: they would go on a row at a time.
MOST_LOST = 6
#: Steps in a window and the gain that they end at, in nats: the next window will tell more.
STEPS, GAIN = 8, 1e-2


def window(task: Task, size: int) -> Task:
    """The problem on the first rows of each series, in one segment: ``size`` of the longest, of others as many shares.

    Parameters
    ----------
    task : Task
        Problem to solve, without doses.
    size : int
        Number of rows.
    """
    layout = task.layout
    lengths = np.diff(layout.row_pointer)
    place = np.arange(len(layout.time)) - np.repeat(layout.row_pointer[:-1], lengths)
    rows = np.flatnonzero(place < np.ceil(size / lengths.max() * lengths)[layout.row_series])
    y = np.where(layout.weights[rows] > 0.0, layout.y[rows], np.nan)
    events = None if task.inputs is None else task.inputs.events
    part = Layout.of(
        layout.row_series[rows], layout.time[rows], y, layout.weights[rows].max(axis=1), layout.t0, 1, events
    )
    return replace(task, layout=part, noise=task.noise.of(rows))


def sizes(layout: Layout) -> np.ndarray:
    """Root mean squares of the outputs as they were observed, of shape (n_outputs,)."""
    squares = np.where(layout.weights > 0.0, layout.weights * layout.y**2, 0.0).sum(axis=0)
    return np.maximum(np.sqrt(squares / np.maximum(layout.weights.sum(axis=0), 1e-300)), 1e-300)


def grown(
    task: Task, u: np.ndarray, fitted: Callable[[Task, np.ndarray], tuple[np.ndarray, np.ndarray] | None]
) -> np.ndarray | None:
    """Unknowns that follow the observations from window to window; None where they can't be fitted.

    Parameters
    ----------
    task : Task
        Problem to solve, without doses.
    u : ndarray of shape (n_series, n_unknowns)
        Scaled unknowns to start from.
    fitted : callable
        From the problem on a window and unknowns to those that fit it, and the noise of each output; None where the
        fit fails, or is to end.
    """
    n_rows, known, n_lost = int(np.diff(task.layout.row_pointer).max()), 0, 0
    noise: np.ndarray = np.array(np.inf)
    size = min(FIRST_WINDOW, n_rows)
    while True:
        part = window(task, size)
        found = fitted(part, u)
        own = np.inf if found is None else found[1] / sizes(part.layout)
        lost = found is None or bool((own > LOST * noise).any())
        n_lost += lost
        if n_lost > MOST_LOST or (found is None and size <= known + 1):
            return None
        if lost and size > known + 1:
            size = (known + size) // 2
            continue
        assert found is not None
        u, noise = found[0], np.where(lost, noise, own)
        if size >= n_rows:
            return u
        known, size = size, min(max(int(GROWTH_OF_WINDOWS * size), size + 1), n_rows)
