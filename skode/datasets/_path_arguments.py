"""Checks of the arguments of a generator's noise-free paths: series ids and times."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_consistent_length


def series_and_times(
    known: pd.Index, series: ArrayLike, times: ArrayLike
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Positions of series ids in an index, and their times as an array.

    Raises
    ------
    ValueError
        If a series id is unknown or the lengths differ.

    """
    times = np.atleast_1d(np.asarray(times, dtype=np.float64))
    series = np.asarray(series)
    series = np.full(times.shape, series) if series.ndim == 0 else series
    check_consistent_length(series, times)
    positions = known.get_indexer(pd.Index(series))
    if np.any(positions < 0):
        raise ValueError(f"series: no series has the id {series[positions < 0][0]!r}.")
    return positions, times
