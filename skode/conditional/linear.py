"""The linear model that training starts from."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import RidgeCV

#: Strengths of the ridge's penalty, of which cross-validation chooses.
STRENGTHS = np.logspace(-2.0, 4.0, 13)

#: Least standard deviation of errors, in units of the targets'.
LEAST_ERROR = 1e-2


def linear_model(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A ridge regression of standardised targets on standardised features.

    Parameters
    ----------
    x : ndarray of shape (n, n_context)
        Features.
    y : ndarray of shape (n, n_outputs)
        Targets.
    weights : ndarray of shape (n,)
        Weights.

    Returns
    -------
    coefficients : ndarray of shape (n_outputs, n_context)
        The coefficients.
    intercepts : ndarray of shape (n_outputs,)
        The intercepts.
    errors : ndarray of shape (n_outputs,)
        Standard deviations of the errors.
    """
    x = x.astype(np.float64)
    ridge = RidgeCV(STRENGTHS, alpha_per_target=y.shape[1] > 1).fit(x, y, sample_weight=weights)
    coefficients = ridge.coef_.reshape(y.shape[1], -1)
    intercepts = np.broadcast_to(ridge.intercept_, y.shape[1]).astype(np.float64)
    off = y - x @ coefficients.T - intercepts
    return coefficients, intercepts, np.maximum(np.sqrt(np.average(off**2, axis=0, weights=weights)), LEAST_ERROR)
