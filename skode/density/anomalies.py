"""Anomalies: samples whose density is below a threshold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skode.training import array_api, array_api_fit, by_partition, of_one_model

#: Share of the density's own draws that ``contamination="auto"`` takes for anomalies, and the number of draws.
AUTO_SHARE, N_DRAWS = 0.01, 2000


class AnomalyMixin:
    """Answers of an outlier detector, by the ``score_samples`` of a density.

    Attributes
    ----------
    contamination : float or "auto"
        Share of the training samples below the threshold; "auto": the threshold is that of the density's own draws.
    """

    contamination: Any
    fit: Callable[..., Any]
    score_samples: Callable[[Any], np.ndarray]
    _log_density: Callable[[np.ndarray], np.ndarray]
    _samples: Callable[[np.ndarray], np.ndarray]
    _drawn: Callable[[int, np.random.RandomState], np.ndarray]
    #: The threshold, empty until it is needed: answers leave an estimator's attributes as they are.
    _offset: list[float]

    def _set_offset(self, X: np.ndarray, weights: np.ndarray) -> None:
        """Set the threshold by the training samples, unless it is the density's own."""
        self._offset = []
        if self.contamination != "auto":
            self._offset.append(_quantile(self._log_density(X), weights, float(self.contamination)))

    @property
    @of_one_model
    def offset_(self) -> float:
        """The log-density below which a sample counts as an anomaly."""
        check_is_fitted(self)
        if not self._offset:
            draws = self._samples(self._drawn(N_DRAWS, np.random.RandomState(0)))
            self._offset.append(_quantile(self._log_density(draws), np.ones(N_DRAWS), AUTO_SHARE))
        return self._offset[0]

    @by_partition
    @array_api
    def decision_function(self, X: Any) -> np.ndarray:
        """How far log-densities are above the threshold, as ``IsolationForest.decision_function``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            ``score_samples(X) - offset_``, negative for anomalies.
        """
        return self.score_samples(X) - self.offset_

    @by_partition
    @array_api
    def predict(self, X: Any) -> np.ndarray:
        """Tell anomalies from other samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of int of shape (n_samples,)
            -1 for anomalies, 1 for others.
        """
        return np.where(self.decision_function(X) < 0.0, -1, 1)

    @array_api_fit
    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Fit to samples, and tell the anomalies among them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.
        y : None
            Ignored; here for scikit-learn's conventions.
        sample_weight : array-like of shape (n_samples,), default=None
            As in ``fit``.

        Returns
        -------
        ndarray of int of shape (n_samples,)
            -1 for anomalies, 1 for others.
        """
        return self.fit(X, sample_weight=sample_weight).predict(X)


def _quantile(scores: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The quantile of weighted scores; where all weights are the same, between two scores as NumPy has it."""
    scores = scores.astype(np.float64)
    if np.ptp(weights) == 0.0:
        return float(np.quantile(scores, share))
    return float(np.quantile(scores, share, weights=weights, method="inverted_cdf"))
