"""How long the work on all series of a panel takes, by some of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from skode.timeseries.panel import Panel

#: Share of the rows that the work is tried on, and the number of them that all are if there are no more.
SHARE_TRIED, FEW_ROWS = 0.1, 300


def some_rows(panel: Panel) -> Panel:
    """A part of a panel: some whole series, or where there are few series, the beginnings of all."""
    n_rows, n = len(panel.time), panel.n_series
    share = max(SHARE_TRIED, FEW_ROWS / max(n_rows, 1))
    if share >= 1.0:
        return panel
    if n * share >= 1.0:
        return panel.take(np.unique(np.linspace(0, n - 1, int(np.ceil(n * share))).astype(int)))
    lengths, places = panel.slots()
    return panel.without(places >= np.ceil(share * lengths)[panel.codes])


def seconds_for(panel: Panel, work: Callable[[Panel], Any]) -> float:
    """Estimate the seconds of some work on a panel, whose time is in proportion to the rows observed.

    Parameters
    ----------
    panel : Panel
        All series.
    work : callable
        Does the work on a panel.

    Returns
    -------
    float
        Seconds.
    """
    part = some_rows(panel).observed()
    began = time.perf_counter()
    work(part)
    seconds = time.perf_counter() - began
    return seconds * len(panel.observed().time) / max(len(part.time), 1)
