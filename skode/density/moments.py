"""Mean and covariance of weighted samples that come in parts."""

from __future__ import annotations

import numpy as np


class Moments:
    """Weight, mean and scatter of samples so far, to which others are added by the formula for two sets of samples.

    T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979: with ``d`` the difference of the means, ``S = S_1 + S_2 + w_1 w_2 / (w_1 + w_2) d d^T``.

    Parameters
    ----------
    n_columns : int
        Number of columns.

    Attributes
    ----------
    weight : float
        Sum of the weights.
    scatter : ndarray of shape (n_columns, n_columns)
        Weighted sum of the products of differences from the mean.
    """

    def __init__(self, n_columns: int) -> None:
        self.weight, self.scatter = 0.0, np.zeros((n_columns, n_columns))
        # A place among the samples, and how far the mean is from it: means that are large would round differences away.
        self._origin, self._mean = np.zeros(n_columns), np.zeros(n_columns)

    @property
    def mean(self) -> np.ndarray:
        """Weighted mean."""
        return self._origin + self._mean

    def add(self, X: np.ndarray, weights: np.ndarray) -> None:
        """Account for samples of shape (n, n_columns) with weights of shape (n,)."""
        weight = float(weights.sum())
        if weight == 0.0:
            return
        if self.weight == 0.0:
            self._origin = X[0].astype(np.float64)
        X = X - self._origin
        mean = np.average(X, axis=0, weights=weights)
        off, apart = X - mean, mean - self._mean
        total = self.weight + weight
        self.scatter += (off * weights[:, None]).T @ off + self.weight * weight / total * np.outer(apart, apart)
        self._mean = self._mean + weight / total * apart
        self.weight = total

    @property
    def covariance(self) -> np.ndarray:
        """The covariance, of samples that are all there are."""
        return self.scatter / self.weight
