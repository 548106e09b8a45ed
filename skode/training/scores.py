"""Scores of panels, where not every output was observed in every row."""

from __future__ import annotations

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import r2_score

from skode.training.caller import warn_caller
from skode.training.checks import check_squares


def observed_r2(true: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Coefficient of determination over the observed values, averaged over the outputs.

    Parameters
    ----------
    true : ndarray of shape (n_rows, n_outputs)
        True values; NaN where nothing was observed.
    predicted : ndarray of shape (n_rows, n_outputs)
        Predictions of them.
    weights : ndarray of shape (n_rows,)
        Weights of the rows, none negative.

    Returns
    -------
    float
        Mean of :math:`R^2` over the outputs of which at least two values were observed; without any NaN, with a
        warning at the line of the user.

    Raises
    ------
    ValueError
        Where the squares of the true values are beyond the numbers of their dtype.
    """
    scores = []
    for column, guess in zip(true.T, predicted.T, strict=True):
        seen = ~np.isnan(column) & (weights > 0.0)
        if seen.sum() >= 2:
            with check_squares("y"):
                scores.append(r2_score(column[seen], guess[seen], sample_weight=weights[seen]))
    if not scores:
        warn_caller(
            "score is NaN: R^2 needs two rows at least with a target, and with weight, of some output.",
            UndefinedMetricWarning,
        )
        return np.nan
    return float(np.mean(scores))
