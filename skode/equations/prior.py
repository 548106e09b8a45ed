r"""Normal priors of the unknowns that all series share, whose precisions have the largest evidence.

With the precision ``a`` of a group of unknowns and the covariance ``C`` of all of them given the data, the data
determine ``gamma = sum (1 - a C_ii)`` of the group's directions, the prior the rest, and the evidence is stationary
where

.. math:: a = \gamma / \sum_i (u_i - m_i)^2

(D. J. C. MacKay, "Bayesian interpolation", Neural Computation 4, 1992; with Levenberg-Marquardt steps: F. D. Foresee,
M. T. Hagan, "Gauss-Newton approximation to Bayesian learning", ICNN 1997).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Precisions stay within these; with the largest an unknown stays at its mean.
LEAST_PRECISION, MOST_PRECISION = 1e-8, 1e10


@dataclass(frozen=True)
class Prior:
    """Independent normal priors.

    Attributes
    ----------
    mean : ndarray of shape (n_shared,)
        Their means.
    groups : ndarray of int, of shape (n_shared,)
        Unknowns of one group have one precision, which is estimated; that of those in group -1 stays.
    """

    mean: np.ndarray
    groups: np.ndarray

    def value(self, u: np.ndarray, precision: np.ndarray) -> np.ndarray:
        """Minus the logarithms of the densities but for constants, for u of shape (..., n_shared)."""
        return 0.5 * (precision * (u - self.mean) ** 2).sum(axis=-1)

    def determined(self, precision: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """How far the data determine each unknown, between 0 and 1, given their variances."""
        return np.clip(1.0 - precision * variance, 0.0, 1.0)

    def held(self, precision: np.ndarray, fixed: np.ndarray) -> np.ndarray:
        """Precisions with which unknowns that are fixed, at their means, stay there."""
        return np.where(self.groups < 0, 0.0, np.where(fixed, MOST_PRECISION, precision))

    def adapted(self, u: np.ndarray, precision: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Precisions of larger evidence, of one set of unknowns."""
        own = self.groups >= 0
        if not own.any():
            return precision
        groups = self.groups[own]
        determined: np.ndarray = np.bincount(groups, self.determined(precision, variance)[own])
        squares: np.ndarray = np.bincount(groups, ((u - self.mean)[own]) ** 2)
        found = np.clip(determined / np.maximum(squares, 1e-300), LEAST_PRECISION, MOST_PRECISION)
        new = precision.copy()
        new[own] = found[groups]
        return new

    def log_density(self, u: np.ndarray, precision: np.ndarray) -> float:
        """Logarithm of the density of u, of those with a precision."""
        known = precision > 0.0
        return float(0.5 * np.log(precision[known] / (2.0 * np.pi)).sum() - self.value(u, precision))


def inverse(H: np.ndarray) -> np.ndarray:
    """The inverse of a symmetric positive matrix, of any scale; that of its positive part where it is singular."""
    scale = np.sqrt(np.maximum(np.diagonal(H), 1e-300))
    scaled: np.ndarray = H / np.outer(scale, scale)
    try:
        scaled = np.linalg.inv(scaled + 1e-13 * np.eye(len(H)))
    except np.linalg.LinAlgError:
        scaled = np.linalg.pinv(scaled, hermitian=True)
    return scaled / np.outer(scale, scale)
