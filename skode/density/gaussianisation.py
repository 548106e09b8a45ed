"""The map from data space to the space of the flow: each column made normal, then all of them uncorrelated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from skode.density.moments import Moments

#: Quantiles of a column that its marginal is fitted to, at most.
N_QUANTILES = 1000

#: Bounds of the logarithm of the tail parameter, from heavy to nearly normal, and of the skewness parameter.
LOG_DELTA, GAMMA = (-0.7, 2.3), (-8.0, 8.0)

#: Samples per dimension from which a correlation matrix is not shrunk: drawing it to the identity would widen the
#: directions in which columns nearly agree, which a flow then has to make narrow again.
TRUSTED = 10

#: Least variance of a direction, in units of the columns'.
LEAST_VARIANCE = 1e-8

#: Excess kurtosis above which a column's tails count as heavy.
HEAVY = 2.0


@dataclass(frozen=True)
class Johnson:
    """Johnson's S_U distribution of each column: ``z = gamma + delta asinh((x - xi) / lam)`` is standard normal.

    It has skewness and tails as heavy as the data have (N. L. Johnson, Biometrika 36, 1949), and is smooth with
    support everywhere, so that the map is a diffeomorphism of the line.

    Attributes
    ----------
    columns : ndarray of int of shape (k,)
        The columns that are transformed; the others stay the same.
    gamma, delta, xi, lam : ndarray of shape (k,)
        Its parameters: skewness, tails (small is heavy), location and scale.
    """

    columns: np.ndarray
    gamma: np.ndarray
    delta: np.ndarray
    xi: np.ndarray
    lam: np.ndarray

    @classmethod
    def fit(cls, X: np.ndarray, weights: np.ndarray, columns: np.ndarray) -> Johnson:
        """By maximum likelihood of the columns' quantiles."""
        parameters = np.array([_fit_column(X[:, j], weights) for j in columns]).reshape(-1, 4)
        return cls(columns, *parameters.T)

    @classmethod
    def chosen(cls, X: np.ndarray, weights: np.ndarray, marginals: str) -> Johnson:
        """Of the columns that ``marginals`` says; see :meth:`Gaussianisation.fit`."""
        chosen = {"johnson": lambda: np.arange(X.shape[1]), "normal": lambda: np.arange(0)}
        return cls.fit(X, weights, chosen[marginals]() if marginals in chosen else heavy_tailed(X, weights))

    def transform(self, X: np.ndarray) -> np.ndarray:
        """The columns made normal."""
        Y = X.copy()
        Y[:, self.columns] = self.gamma + self.delta * np.arcsinh((X[:, self.columns] - self.xi) / self.lam)
        return Y

    def inverse_transform(self, Y: np.ndarray) -> np.ndarray:
        """From the space of the flow to data space."""
        X = Y.copy()
        X[:, self.columns] = self.xi + self.lam * np.sinh((Y[:, self.columns] - self.gamma) / self.delta)
        return X

    def log_det(self, X: np.ndarray) -> np.ndarray:
        """Logarithm of the product of the slopes at samples."""
        # hypot does not overflow where the square would.
        slopes = np.log(np.hypot(1.0, (X[:, self.columns] - self.xi) / self.lam))
        return np.log(self.delta / self.lam).sum() - slopes.sum(1)


def heavy_tailed(X: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The columns whose excess kurtosis is above :data:`HEAVY` (a Laplace distribution's is 3, a normal one's 0)."""
    off = X - np.average(X, axis=0, weights=weights)
    off /= np.abs(off).max(axis=0)  # so that fourth powers don't overflow
    second, fourth = (np.average(off**power, axis=0, weights=weights) for power in (2, 4))
    return np.flatnonzero(fourth / second**2 - 3.0 > HEAVY)


def _fit_column(x: np.ndarray, weights: np.ndarray) -> list[float]:
    order = np.argsort(x, kind="stable")
    cumulated = np.cumsum(weights[order])
    at = (np.arange(min(len(x), N_QUANTILES)) + 0.5) / min(len(x), N_QUANTILES)
    quantiles = x[order][np.searchsorted(cumulated, at * cumulated[-1])]
    middle, scale = np.median(quantiles), np.subtract(*np.quantile(quantiles, [0.84, 0.16])) / 2.0
    scale = scale if scale > 0 else np.std(quantiles)
    scale = scale if scale > 0 else 1.0
    q = (quantiles - middle) / scale

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        gamma, log_delta, xi, log_lam = parameters
        delta, lam = np.exp(log_delta), np.exp(log_lam)
        u = (q - xi) / lam
        root = np.hypot(1.0, u)
        a = np.arcsinh(u)
        z = gamma + delta * a
        value = np.mean(0.5 * z * z + np.log(root)) - log_delta + log_lam
        by_u = z * delta / root + u / root**2
        gradient = [np.mean(z), np.mean(z * a) * delta - 1.0, -np.mean(by_u) / lam, -np.mean(by_u * u) + 1.0]
        return value, np.array(gradient)

    start = np.array([0.0, 1.0, 0.0, 1.0])
    bounds = [GAMMA, LOG_DELTA, (-20.0, 20.0), (-5.0, 5.0)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-9}).x
    gamma, log_delta, xi, log_lam = found
    return [gamma, np.exp(log_delta), middle + scale * xi, scale * np.exp(log_lam)]


@dataclass(frozen=True)
class Gaussianisation:
    """``z = A (s(x) - m)``: marginals made normal by ``s`` and correlations taken away by ``A``.

    Attributes
    ----------
    marginals : Johnson
        ``s``, the identity on columns that are not transformed.
    mean : ndarray of shape (d,)
        ``m``.
    whitening : ndarray of shape (d, d)
        ``A``, symmetric in the scaled columns, so that these stay as near to themselves as can be.
    colouring : ndarray of shape (d, d)
        Its inverse.
    """

    marginals: Johnson
    mean: np.ndarray
    whitening: np.ndarray
    colouring: np.ndarray

    @classmethod
    def fit(cls, X: np.ndarray, weights: np.ndarray, *, marginals: str, whiten: bool = True) -> Gaussianisation:
        """Fit to samples of shape (n, d) with weights that count them.

        ``marginals`` is "johnson", "normal", or "auto" for Johnson's where tails are heavy. Without ``whiten`` columns
        are only standardised.
        """
        X = X.astype(np.float64)
        johnson = Johnson.chosen(X, weights, marginals)
        Y = johnson.transform(X)
        mean = np.average(Y, axis=0, weights=weights)
        spread = np.sqrt(np.average((Y - mean) ** 2, axis=0, weights=weights))
        if not whiten:
            return cls(johnson, mean, np.diag(1.0 / spread), np.diag(spread))
        correlation = shrunk_correlation((Y - mean) / spread, weights, least=TRUSTED * X.shape[1])
        return cls._whitened(johnson, mean, spread, correlation)

    @classmethod
    def of_moments(cls, johnson: Johnson, moments: Moments) -> Gaussianisation:
        """By mean and covariance of many samples, whose marginals have been made normal."""
        spread = np.sqrt(np.diag(moments.covariance))
        return cls._whitened(johnson, moments.mean, spread, moments.covariance / np.outer(spread, spread))

    @classmethod
    def _whitened(
        cls, johnson: Johnson, mean: np.ndarray, spread: np.ndarray, correlation: np.ndarray
    ) -> Gaussianisation:
        values, vectors = np.linalg.eigh(correlation)
        values = np.maximum(values, LEAST_VARIANCE)  # where columns are multiples of each other
        root = vectors * np.sqrt(values) @ vectors.T
        inverse = vectors / np.sqrt(values) @ vectors.T
        return cls(johnson, mean, inverse / spread, spread[:, None] * root)

    def transform(self, X: np.ndarray) -> np.ndarray:
        """From data space to the space of the flow."""
        Y = self.marginals.transform(np.asarray(X, dtype=np.float64))
        return (Y - self.mean) @ self.whitening.T

    def inverse_transform(self, Z: np.ndarray) -> np.ndarray:
        """From the space of the flow to data space."""
        return self.marginals.inverse_transform(np.asarray(Z, dtype=np.float64) @ self.colouring.T + self.mean)

    def log_det(self, X: np.ndarray) -> np.ndarray:
        """Logarithm of the map's volume change at samples: to be added to log-densities of ``z``."""
        return np.linalg.slogdet(self.whitening)[1] + self.marginals.log_det(np.asarray(X, dtype=np.float64))


def shrunk_correlation(Y: np.ndarray, weights: np.ndarray, *, least: float) -> np.ndarray:
    """The correlation matrix of standardised columns; of fewer than ``least`` samples, drawn to the identity.

    By the formula of Ledoit and Wolf (Journal of Multivariate Analysis 88, 2004), with weights that count samples.
    """
    n, d = max(weights.sum(), len(Y)), Y.shape[1]
    weights = weights / weights.sum()
    C = (Y * weights[:, None]).T @ Y
    if n >= least:
        return C
    distance = np.sum((C - np.eye(d)) ** 2)
    uncertainty = (weights @ np.sum(Y * Y, axis=1) ** 2 - np.sum(C * C)) / n
    share = min(uncertainty / distance, 1.0) if distance > 0 else 1.0
    return (1.0 - share) * C + share * np.eye(d)
