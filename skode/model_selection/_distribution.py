"""Scores of predictive distributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from numbers import Real
from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints

from skode.frames import read_targets
from skode.training import as_numpy, check_weights

_PARAMETER_CONSTRAINTS: dict = {
    "scoring": [StrOptions({"neg_crps", "neg_pinball_loss", "coverage", "neg_width"})],
    "level": [Interval(Real, 0, 1, closed="neither")],
    "known": [StrOptions({"all", "before"})],
}


@dataclass(frozen=True)
class DistributionScorer:
    r"""Scorer of predictive distributions or of their intervals.

    Goes where scikit-learn takes ``scoring=``. With :math:`l, u` the ends of the interval of probability ``level``,
    :math:`\alpha` = 1 - ``level`` and an observation y, the scores are means over the values that were observed.

    Parameters
    ----------
    scoring : {"neg_crps", "neg_pinball_loss", "coverage", "neg_width"}, default="neg_crps"
        The score. "neg_crps": the continuous ranked probability score
        :math:`\int (F(x) - 1\{x \ge y\})^2 dx` of the distribution function F [1]_. "neg_pinball_loss": the mean of
        the pinball losses of both ends, which are quantiles of probabilities :math:`\alpha / 2` and
        :math:`1 - \alpha / 2`; it is :math:`\alpha / 4` times the interval score [1]_. "coverage": the share of
        values within :math:`[l, u]`, which should be ``level``; it is no score to maximise. "neg_width": :math:`u - l`.
        Those with "neg" have their sign changed, as higher scores are better.
    level : float, default=0.9
        Probability of the intervals; not read by "neg_crps".
    known : {"all", "before"}, default="all"
        Which observations of its series each row is answered from, as in ``LatentODERegressor.predict``; "before"
        scores rows that the model is conditioned on as if each were the next to come.

    Raises
    ------
    ValueError
        If a parameter has a wrong type or lies outside its range; when called, if y holds nothing but NaN.
    TypeError
        When called, if the estimator has no predictive distribution, or with ``known="before"`` no method for it.

    See Also
    --------
    ContinuationScorer : Takes this as its ``scoring``, to score series that are continued.

    Notes
    -----
    The estimator's methods ``crps`` and ``predict_interval`` are called, which :class:`~skode.LatentODERegressor` has;
    :class:`~skode.ODENetRegressor`, fitted with a ``likelihood``, has the latter. For one that has them not, the
    distribution is normal, of the mean and the standard deviation of ``predict(X, return_std=True)``, as
    :class:`~skode.ODERegressor` and scikit-learn's ``GaussianProcessRegressor`` return them; then [1]_, with
    :math:`z = (y - \mu) / \sigma`,

    .. math::

        \mathrm{CRPS} = \sigma \left( z (2 \Phi(z) - 1) + 2 \varphi(z) - 1 / \sqrt{\pi} \right)

    References
    ----------
    .. [1] T. Gneiting, A. E. Raftery, "Strictly proper scoring rules, prediction, and estimation", Journal of the
       American Statistical Association 102, 359-378, 2007.

    Examples
    --------
    >>> from sklearn.model_selection import cross_validate
    >>> from skode import LatentODERegressor
    >>> from skode.datasets import make_spirals
    >>> from skode.model_selection import DistributionScorer, ForecastSplit
    >>> X, y = make_spirals(n_series=12, n_observations=10, random_state=0)
    >>> model = LatentODERegressor(series="series", time="time", max_iter=5, random_state=0)
    >>> scoring = {name: DistributionScorer(name) for name in ("neg_crps", "coverage")}
    >>> cv = ForecastSplit(2, series="series", time="time")
    >>> cross_validate(model, X, y, cv=cv, scoring=scoring)["test_coverage"].shape
    (2,)

    """

    scoring: str = "neg_crps"
    level: float = 0.9
    known: str = "all"

    def __post_init__(self) -> None:
        validate_parameter_constraints(_PARAMETER_CONSTRAINTS, vars(self), type(self).__name__)

    def __call__(self, estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score of a fitted estimator on some rows.

        Parameters
        ----------
        estimator : estimator or Pipeline
            With a predictive distribution.
        X : DataFrame or array-like of shape (n_rows, n_columns)
            The rows.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Observed values; NaN where nothing was observed.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights of the rows, none negative.

        Returns
        -------
        float
            The score, a mean over all values that were observed.
        """
        if isinstance(estimator, Pipeline):
            X = estimator[:-1].transform(X) if len(estimator) > 1 else X
            estimator = estimator[-1]
        who = type(estimator).__name__
        true = read_targets(as_numpy(y, "y", who), len(X))
        seen = ~np.isnan(true)
        by_value = self._by_value(estimator, X, y, true)
        weights = np.broadcast_to(check_weights(sample_weight, true)[:, None], true.shape)[seen]
        if not weights.any():
            raise ValueError("sample_weight: no row that was observed has a weight.")
        return float(np.average(by_value[seen], weights=weights))

    def _by_value(self, estimator: Any, X: Any, y: Any, true: np.ndarray) -> np.ndarray:
        """Scores of single values, of shape (n_rows, n_outputs)."""
        if self.scoring == "neg_crps":
            if hasattr(estimator, "crps"):
                return -np.reshape(estimator.crps(X, y, **self._known_by(estimator, estimator.crps)), true.shape)
            mean, std = self._moments(estimator, X, true.shape)
            return -normal_crps(true, mean, std)
        tail = 0.5 * (1.0 - self.level)
        if hasattr(estimator, "predict_interval"):
            known = self._known_by(estimator, estimator.predict_interval)
            ends = np.reshape(estimator.predict_interval(X, self.level, **known), (*true.shape, 2))
            lower, upper = ends[..., 0], ends[..., 1]
        else:
            mean, std = self._moments(estimator, X, true.shape)
            lower, upper = mean + norm.ppf(tail) * std, mean - norm.ppf(tail) * std
        if self.scoring == "coverage":
            return ((lower <= true) & (true <= upper)).astype(float)
        if self.scoring == "neg_width":
            return lower - upper
        sides = [(true - lower, tail), (true - upper, 1.0 - tail)]
        return -np.mean([np.maximum(p * over, (p - 1.0) * over) for over, p in sides], axis=0)

    def _known_by(self, estimator: Any, method: Callable[..., Any]) -> dict[str, str]:
        """The argument of a method that says which observations are known; TypeError if it needs one that it lacks."""
        if self.known == "all":
            return {}
        if "known" not in signature(method).parameters:
            raise TypeError(f'{type(estimator).__name__} has no method that takes known="{self.known}".')
        return {"known": self.known}

    def _moments(self, estimator: Any, X: Any, shape: tuple[int, ...]) -> list[np.ndarray]:
        """Means and standard deviations, of shape (n_rows, n_outputs)."""
        self._known_by(estimator, estimator.predict)
        if isinstance(estimator, TransformedTargetRegressor):  # it takes return_std, and fails on what comes back
            raise TypeError(
                "TransformedTargetRegressor has means only, no distribution: cross-validate the regressor inside it on "
                "transformed targets (estimators of skode scale targets themselves)."
            )
        return [np.reshape(part, shape) for part in estimator.predict(X, return_std=True)]


def normal_crps(y: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Continuous ranked probability scores of normal distributions; without any spread the absolute error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (y - mean) / std
        score = std * (z * (2.0 * norm.cdf(z) - 1.0) + 2.0 * norm.pdf(z) - 1.0 / np.sqrt(np.pi))
    return np.where(std > 0.0, score, np.abs(y - mean))
