r"""Gradient matching: weights whose field has the derivatives of the smoothed states.

It needs no solution of the equations and starts the search near an optimum (J. M. Varah, "A spline least squares method
for numerical parameter estimation in differential equations", SIAM J. Sci. Stat. Comput. 3, 1982). Derivatives count by
their variances; the precisions of the weights' prior and the noise that is left have the largest evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skode.equations.prior import Prior, inverse

#: Steps at most, and the gain below which they end, as a share of the number of observations.
MAX_STEPS, LEAST_GAIN = 100, 1e-5
#: Precision of the prior at first.
FIRST_PRECISION = 1.0


@dataclass(frozen=True)
class Matched:
    """Weights that match.

    Attributes
    ----------
    u : ndarray of shape (n_parameters,)
        Scaled parameters.
    precision : ndarray of shape (n_parameters,)
        Precisions of their prior.
    evidence : float
        Logarithm of the evidence.
    """

    u: np.ndarray
    precision: np.ndarray
    evidence: float


def match(
    function: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    derivatives: np.ndarray,
    weights: np.ndarray,
    floor: np.ndarray,
    start: np.ndarray,
    prior: Prior,
) -> Matched:
    """Find the weights by Levenberg-Marquardt steps, with MacKay's updates of all precisions.

    Parameters
    ----------
    function : callable
        Takes the scaled parameters; returns values (n, n_outputs) and their derivatives (n, n_outputs, n_parameters).
    derivatives : ndarray of shape (n, n_outputs)
        Values to match.
    weights : ndarray of shape (n, n_outputs)
        Weights of their squared errors; their sum is the number of independent ones.
    floor : ndarray of shape (n_outputs,)
        The least standard deviation of an error of weight 1. Errors of smoothed derivatives are smooth themselves: a
        field could follow them all, and the noise that is left would be estimated to be none.
    start : ndarray of shape (n_parameters,)
        First parameters.
    prior : Prior
        Prior of the parameters.
    """
    root, counts = np.sqrt(weights), weights.sum(axis=0)
    precision = np.where(prior.groups >= 0, FIRST_PRECISION, 0.0)
    u, damping = start.copy(), 1e-3
    value, slopes = function(u)
    residuals = root * (value - derivatives)
    least = floor + 1e-6 * (root * derivatives).std(axis=0) + 1e-12
    # Errors as small as can be at first: what looks like noise at the start is mostly the field's.
    sizes = least
    for _ in range(MAX_STEPS):
        J = (root / sizes)[..., None] * slopes
        J = J.reshape(-1, len(u))
        H = J.T @ J + np.diag(precision)
        gradient = J.T @ (residuals / sizes).ravel() + precision * (u - prior.mean)
        merit = 0.5 * ((residuals / sizes) ** 2).sum() + prior.value(u, precision)
        for _ in range(12):
            scale = np.sqrt(np.maximum(np.diagonal(H), 1e-300))
            damped = H / np.outer(scale, scale) + damping * np.eye(len(u))
            step = -np.linalg.solve(damped, gradient / scale) / scale
            trial = u + step
            new_value, new_slopes = function(trial)
            new = root * (new_value - derivatives)
            gain = merit - 0.5 * ((new / sizes) ** 2).sum() - prior.value(trial, precision)
            if gain >= 0.0:
                break
            damping = max(4.0 * damping, 1e-8)
        else:
            break
        u, residuals, slopes, damping = trial, new, new_slopes, 0.2 * damping
        variance = np.diagonal(inverse(H))
        before = precision
        precision = prior.adapted(u, precision, variance)
        moved = np.abs(np.log(np.maximum(precision, 1e-300) / np.maximum(before, 1e-300))).max(initial=0.0)
        if gain < LEAST_GAIN * counts.sum() and moved < 0.1:
            break
    return Matched(u, precision, _evidence(H, residuals / sizes, (counts, sizes), prior, u, precision))


def _evidence(
    H: np.ndarray,
    residuals: np.ndarray,
    noise: tuple[np.ndarray, np.ndarray],
    prior: Prior,
    u: np.ndarray,
    precision: np.ndarray,
) -> float:
    """Logarithm of the evidence by Laplace's approximation."""
    counts, sizes = noise
    log_det = np.linalg.slogdet(H)[1]
    fit = -0.5 * (residuals**2).sum() - (counts * np.log(sizes)).sum()
    return float(fit + prior.log_density(u, precision) - 0.5 * log_det + 0.5 * len(u) * np.log(2.0 * np.pi))
