"""Observation times and noise-free paths, shared by the generators of ODE series."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp

from skode.datasets._path_arguments import series_and_times

# The dense output between steps is less accurate than the steps: these give paths to a relative 1e-10.
_RTOL = 1e-12
_ATOL = 1e-12


@dataclass(frozen=True, eq=False)
class ODETruth:
    """The truth behind a generator's noisy observations.

    Attributes
    ----------
    initial : DataFrame of shape (n_series, n_states)
        State at time 0, indexed by series id; its columns name the states.
    parameters : DataFrame of shape (n_series, n_parameters)
        Parameters of the vector field that each series has for itself, indexed by series id.
    window : float
        Length of the observed window.
    vector_field : callable
        The ODE's right-hand side, ``vector_field(time, state, **parameters)``.

    """

    initial: pd.DataFrame
    parameters: pd.DataFrame
    window: float
    vector_field: Callable[..., tuple[float, ...]]

    def path(self, series: ArrayLike, times: ArrayLike) -> NDArray[np.float64]:
        """Noise-free states, one per row, to a relative accuracy of 1e-10.

        Parameters
        ----------
        series : int or array-like of shape (n_rows,)
            Series ids; a single id stands for all rows.
        times : float or array-like of shape (n_rows,)
            Times from 0 on; they may lie beyond ``window``.

        Returns
        -------
        states : ndarray of shape (n_rows, n_states)
            In the order of ``initial``'s columns.

        Raises
        ------
        ValueError
            If a series id is unknown, a time is negative or not finite, or the lengths differ.

        """
        position, times = series_and_times(self.initial.index, series, times)
        possible = np.isfinite(times) & (times >= 0)
        if not possible.all():
            raise ValueError(f"times: {times[~possible][0]} is not a finite time from 0 on.")

        states = np.empty((len(times), self.initial.shape[1]))
        for i in np.unique(position):
            rows = position == i
            states[rows] = self._solution(i, times[rows].max())(times[rows]).T
        return states

    def _solution(self, position: int, end: float) -> Callable[[NDArray], NDArray]:
        """The path of one series as a function of time, up to ``end`` or further."""
        own = {str(name): value for name, value in self.parameters.iloc[position].items()}
        # Not to `end` where that is in the window: the path must not depend on which times are requested.
        return solve_ivp(
            partial(self.vector_field, **own),
            (0, max(end, self.window)),
            self.initial.iloc[position],
            method="DOP853",
            dense_output=True,
            rtol=_RTOL,
            atol=_ATOL,
        ).sol


def observation_times(
    shape: tuple[int, int], window: float, *, irregular: bool, rng: np.random.RandomState
) -> NDArray[np.float64]:
    """Sorted times in ``[0, window]`` of shape (n_series, n_observations): uniform draws, or one grid for all."""
    if irregular:
        return np.sort(rng.uniform(0, window, shape), axis=1)
    return np.tile(np.linspace(0, window, shape[1]), (shape[0], 1))
