"""Base of the regressors on series whose states follow equations."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin

from skode.equations.columns import Columns
from skode.equations.fitting import Optimum
from skode.equations.reading import Clock
from skode.frames import Column, LongRows, column_label, read_targets
from skode.io.sources import in_memory
from skode.persistence.estimators import SavableEstimator
from skode.training import INTERRUPTED, Checkpoint, array_api, by_partition, check_weights, observed_r2


class SeriesRegressor(SavableEstimator, RegressorMixin, BaseEstimator):
    """Base of ``ODERegressor`` and ``NeuralODERegressor``: what their answers have in common.

    A subclass has the series of ``fit`` in ``_ids``, reads rows by ``_read``, and answers for them by ``_mean`` and
    ``_states_at``.
    """

    series: Column | None
    time: Column
    max_iter: int
    tol: float
    max_time: float | None
    checkpoint: Any
    checkpoint_interval: float

    states_: list[str]

    #: The journal of a fit under way.
    _checkpoint = Checkpoint()

    _clock: Clock
    _columns: Columns
    _ids: pd.Index
    _outputs: list[Any]
    _one_output: bool

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.array_api_support = True
        return tags

    def _deadline(self) -> float:
        """When a search that begins now has to end."""
        return math.inf if self.max_time is None else time.monotonic() + self.max_time - self._checkpoint.seconds_before

    def _reason_to_stop(self, best: Optimum) -> str:
        """Why the search ended, for ``stop_reason_``."""
        if best.interrupted:
            return INTERRUPTED
        if best.out_of_time:
            return f"max_time={self.max_time} was reached"
        if best.converged:
            return f"no step promises to gain more than tol={self.tol}"
        return "max_iter was reached" if best.n_iter >= self.max_iter else "no step gains anything"

    def _read(self, X: Any) -> LongRows:
        """Rows of X, as in ``fit``."""
        raise NotImplementedError

    def _mean(self, rows: LongRows) -> np.ndarray:
        """Predictions at rows, of shape (n_rows, n_outputs)."""
        raise NotImplementedError

    def _states_at(self, rows: LongRows) -> np.ndarray:
        """States at rows, of shape (n_rows, n_states)."""
        raise NotImplementedError

    @by_partition
    @array_api
    def predict_states(self, X: Any) -> pd.DataFrame:
        """Predict the states, observed or not.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``predict``.

        Returns
        -------
        DataFrame of shape (n_rows, n_states)
            States, in columns by name.

        Raises
        ------
        NotFittedError, ValueError, SolverError
            As ``predict``.
        """
        return pd.DataFrame(self._states_at(self._read(X)), columns=self.states_)

    @array_api
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Coefficient of determination over the values that were observed.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``predict``.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            True values; NaN where nothing was observed.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights of the rows, none negative.

        Returns
        -------
        float
            :math:`R^2`, averaged over the outputs of which at least two values were observed; without any NaN, with a
            warning.

        Raises
        ------
        NotFittedError, ValueError, SolverError
            As ``predict``.
        """
        rows = self._read(X)
        true = read_targets(in_memory(y), len(rows), maybe_nothing=True)
        self._check_outputs(true)
        weights = check_weights(sample_weight, true)
        return observed_r2(true, self._mean(rows), weights)

    def _check_outputs(self, values: np.ndarray) -> None:
        """Refuse another number of outputs than in ``fit``."""
        if values.shape[1] != len(self._outputs):
            raise ValueError(f"y has {values.shape[1]} outputs, but had {len(self._outputs)} in fit.")

    def _series_index(self) -> pd.Index:
        return self._ids.rename(column_label(self.series, "series"))

    def _covariate_columns(self, doses: Any = None, trials: str | None = None) -> Columns:
        """The parts of X that are neither times nor ids of series."""
        names = getattr(self, "feature_names_in_", None)
        labels = [f"x{i}" for i in range(self.n_features_in_)] if names is None else list(names)
        keys = [self.time] if self.series is None else [self.time, self.series]
        return Columns.of(labels, keys, doses, trials)

    def _in_shape_of_y(self, values: np.ndarray) -> np.ndarray:
        return values[:, 0] if self._one_output else values
