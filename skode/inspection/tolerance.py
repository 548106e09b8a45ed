"""What a looser or tighter tolerance costs and gives, without fitting again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import pandas as pd


def tolerance_curve(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    tolerances: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
    scoring: Callable[[Any, Any, Any], float] | None = None,
) -> pd.DataFrame:
    """Score, depth and time of a fitted ODE-Net against the tolerance that it predicts at.

    Parameters
    ----------
    estimator : ODENetClassifier or ODENetRegressor
        A fitted estimator; it is left as it is.
    X, y : array-like
        Samples and their targets.
    tolerances : sequence of float
        Values of ``rtol`` and ``atol``.
    scoring : callable, default=None
        ``scoring(estimator, X, y)``, as scikit-learn's scorers; the estimator's own ``score`` where None.

    Returns
    -------
    DataFrame
        A row per tolerance: ``tolerance``, ``score``, ``nfe``, the mean number of evaluations of the vector field per
        sample, and ``seconds``, the time that prediction took.

    Raises
    ------
    NotFittedError
        Where the estimator has not been fitted.
    SolverError
        Where it can't be solved at one of the tolerances.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skode import ODENetClassifier
    >>> from skode.inspection import tolerance_curve
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = ODENetClassifier(max_iter=20, random_state=0).fit(X, y)
    >>> tolerance_curve(clf, X, y, tolerances=[1e-1, 1e-6])["nfe"].is_monotonic_increasing
    True
    """
    rows = []
    for tolerance in tolerances:
        tuned = copy.copy(estimator).set_params(rtol=tolerance, atol=tolerance)
        started = perf_counter()
        _, nfe = tuned.predict(X, return_nfe=True)
        seconds = perf_counter() - started
        score = tuned.score(X, y) if scoring is None else scoring(tuned, X, y)
        rows.append({"tolerance": tolerance, "score": score, "nfe": float(nfe.mean()), "seconds": seconds})
    return pd.DataFrame(rows)
