"""Scores of held-out series that are continued from their first part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_consistent_length
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints

from skode.frames import read_targets
from skode.model_selection._long import read_series_times
from skode.training import as_numpy

_ERRORS: dict[str, Callable[..., float]] = {
    "neg_root_mean_squared_error": root_mean_squared_error,
    "neg_mean_absolute_error": mean_absolute_error,
}

_PARAMETER_CONSTRAINTS: dict = {
    "prefix": [Interval(Real, 0, 1, closed="neither")],
    "scoring": [StrOptions({"log_density", *_ERRORS}), callable, None],
}


@dataclass(frozen=True)
class ContinuationScorer:
    """Scorer that conditions a fitted model on the first part of each series and scores it on the rest.

    Goes where scikit-learn takes ``scoring=``, with a splitter that holds out whole series, such as ``GroupKFold``:
    how well a model that was trained once continues series that its weights have not seen.

    Parameters
    ----------
    prefix : float, default=0.5
        Fraction of a series' distinct times that is known, rounded down but at least one time, and leaving at least
        one to score; as in :class:`PrefixSplit`.
    scoring : str, callable or None, default=None
        The score: None, the ``score`` of the estimator, which is R² for regressors;
        "neg_root_mean_squared_error" or "neg_mean_absolute_error", averaged over the outputs; "log_density", the mean
        of the estimator's ``score_samples(X, y)``; or a scorer, called with the conditioned estimator and the rows to
        score.

    Raises
    ------
    ValueError
        If a parameter has a wrong type or lies outside its range; when called, if no series has rows after its
        prefix at which anything was observed.
    TypeError
        When called, if the estimator can't be conditioned.

    See Also
    --------
    PrefixSplit : Trains on the prefixes too.

    Notes
    -----
    The estimator needs ``condition(X, y)``, which returns a conditioned one, and the parameters ``series`` and
    ``time``, as :class:`~skode.timeseries.LatentODERegressor` has; of a pipeline that ends in one, the steps before it
    transform X. Higher scores are better.

    Values of y that are NaN are left out, but their rows count as times of the series. Series with all rows at one
    time are not scored.

    Examples
    --------
    >>> from sklearn.model_selection import GroupKFold, cross_val_score
    >>> from skode import LatentODERegressor
    >>> from skode.datasets import make_spirals
    >>> from skode.model_selection import ContinuationScorer
    >>> X, y = make_spirals(n_series=12, n_observations=10, random_state=0)
    >>> model = LatentODERegressor(series="series", time="time", max_iter=5, random_state=0)
    >>> scoring = ContinuationScorer(prefix=0.4, scoring="neg_mean_absolute_error")
    >>> cross_val_score(model, X, y, groups=X["series"], cv=GroupKFold(2), scoring=scoring).shape
    (2,)

    """

    prefix: float = 0.5
    scoring: str | Callable[..., float] | None = None

    def __post_init__(self) -> None:
        validate_parameter_constraints(_PARAMETER_CONSTRAINTS, vars(self), type(self).__name__)

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        """Score of a fitted estimator on series whose first part it is given.

        Parameters
        ----------
        estimator : LatentODERegressor or Pipeline
            Fitted to other series.
        X : DataFrame or array-like of shape (n_rows, n_columns)
            The long frame of the series to continue, in any order.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Observed values; NaN where nothing was observed.

        Returns
        -------
        float
            The score; higher is better.
        """
        if isinstance(estimator, Pipeline):
            X = estimator[:-1].transform(X) if len(estimator) > 1 else X
            estimator = estimator[-1]
        missing = [name for name in ("condition", "series", "time") if not hasattr(estimator, name)]
        if missing:
            raise TypeError(
                f"ContinuationScorer needs an estimator that can be conditioned, such as LatentODERegressor; "
                f"{type(estimator).__name__} has no {', '.join(missing)}."
            )
        who = type(estimator).__name__
        X, y = as_numpy(X, "X", who), as_numpy(y, "y", who)
        check_consistent_length(X, y)
        later = read_series_times(X, estimator.series, estimator.time).after_prefix(self.prefix)
        if not later.any():
            raise ValueError("Nothing to score: each series has all its rows at one time.")
        observed = ~np.isnan(read_targets(y, len(later))).all(axis=1)
        if not (later & observed).any():
            raise ValueError(f"Nothing to score: y holds NaN only after the first prefix={self.prefix} of each series.")
        if (~later & observed).any():
            estimator = estimator.condition(*_taken(X, y, ~later))
        return self._score(estimator, *_taken(X, y, later & observed))

    def _score(self, conditioned: Any, X: Any, y: Any) -> float:
        """Score of rows at which something was observed."""
        if self.scoring is None:
            return float(conditioned.score(X, y))
        if callable(self.scoring):
            return self.scoring(conditioned, X, y)
        if self.scoring == "log_density":
            return float(np.mean(conditioned.score_samples(X, y)))
        predicted = conditioned.predict(X)
        true = read_targets(y, len(predicted))
        seen = ~np.isnan(true)
        errors = [
            _ERRORS[self.scoring](output[known], guess[known])
            for output, guess, known in zip(true.T, np.reshape(predicted, true.shape).T, seen.T, strict=True)
            if known.any()
        ]
        return -float(np.mean(errors))


def _taken(X: Any, y: Any, rows: np.ndarray) -> tuple[Any, Any]:
    """Some rows of X and of y, in their own types."""
    positions = np.flatnonzero(rows)
    return _safe_indexing(X, positions), _safe_indexing(y, positions)
