"""Checks for columns that have no density, or look as if they had none."""

from __future__ import annotations

import numpy as np

from skode.training import fitted_scaler, warn_caller

#: Share of the variance below which a direction has none: rounding of single precision, squared, is 1e-14.
NO_VARIANCE = 1e-12

#: A column looks discrete if one value makes up more than this share of it, and at least this number of samples.
LARGEST_ATOM, LEAST_ATOM = 0.2, 20


def check_columns(X: np.ndarray, weights: np.ndarray, names: np.ndarray) -> None:
    """Raise an error for columns of one value, and warn of those that look discrete or are linearly dependent.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Samples that differ.
    weights : ndarray of shape (n_samples,)
        The number of times that each counts.
    names : ndarray of shape (n_features,)
        Names of the columns.

    Raises
    ------
    ValueError
        Where a column has one value only, up to rounding, or values too large to standardise.

    Warns
    -----
    UserWarning
        Where a column looks discrete, or columns are linearly dependent.
    """
    # Where a column's spread drowns in rounding, the scaler leaves it unscaled and its density would be wrong.
    scaler = fitted_scaler(X, weights)
    unscaled = ~np.isclose(scaler.scale_, np.sqrt(scaler.var_), rtol=1e-3, atol=0.0)
    constant = np.flatnonzero(unscaled | (np.ptp(X, axis=0) == 0.0))
    if len(constant):
        raise ValueError(
            "X has columns with one value only (up to rounding), which have no density: "
            f"{names[constant].tolist()}. Drop or rescale them."
        )
    shares = np.array([largest_atom(column, weights) for column in X.T]) / weights.sum()
    discrete = np.flatnonzero((shares > LARGEST_ATOM) & (shares * max(weights.sum(), len(X)) >= LEAST_ATOM))
    if len(discrete):
        warn_caller(
            f"One value makes up more than {LARGEST_ATOM:.0%} of columns {names[discrete].tolist()}: they look "
            "discrete, and the density there is unbounded, so that likelihoods mean little. Name them in "
            "categorical_features if all of their values are discrete; else drop them.",
            UserWarning,
        )

    dependent, n_too_many = dependent_columns(X, weights)
    if n_too_many:
        warn_caller(
            f"Columns {names[dependent].tolist()} are linearly dependent: they lie in {n_too_many} dimension(s) fewer, "
            f"where the density is unbounded, so that likelihoods mean little. Drop {n_too_many} of them.",
            UserWarning,
        )


def dependent_columns(X: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, int]:
    """Linearly dependent columns, and the number of them in excess.

    These are the directions without variance, the null space of the correlation matrix. As many samples as columns, or
    fewer, always have some, which says nothing.
    """
    if len(X) <= X.shape[1] + 1:
        return np.empty(0, dtype=np.int64), 0
    z = X.astype(np.float64)
    z = z - np.average(z, axis=0, weights=weights)
    z = z / np.sqrt(np.average(z**2, axis=0, weights=weights))
    variances, directions = np.linalg.eigh((z * weights[:, None]).T @ z / weights.sum())
    null = directions[:, variances <= NO_VARIANCE * X.shape[1]]
    return np.flatnonzero(np.linalg.norm(null, axis=1) > 1e-3), null.shape[1]


def largest_atom(column: np.ndarray, weights: np.ndarray) -> float:
    """The weight of the value that has most."""
    _, groups = np.unique(column, return_inverse=True)
    return float(np.bincount(groups, weights=weights).max())
