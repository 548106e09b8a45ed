"""Answers of a fitted conditional density."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import qmc
from sklearn.base import RegressorMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, validate_params
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import Tensor

from skode.conditional.flow import ConditionalDensity
from skode.density.gaussianisation import Gaussianisation
from skode.distributed.work import shared_out
from skode.supervised.columns import CategoricalFeatures, Columns
from skode.supervised.inputs import check_two_dimensional, squashed
from skode.training import (
    NeuralODEEstimator,
    array_api,
    check_argument,
    check_data,
    check_level,
    check_numeric_targets,
    check_squares,
    check_weights,
    memory_for,
    resolve_device,
    to_numpy,
    to_pandas,
    to_tensor,
)

#: Points that are solved for together.
CHUNK = 8192

#: Quantiles of the base between which probability is divided evenly, and spacing and end of the points in its tails.
N_QUANTILES, TAIL_SPACING, TAIL_END = 64, 0.2, 5.0

#: Points of Sobol's sequence, for several targets.
N_DRAWS = 256


def points_on_the_line() -> tuple[np.ndarray, np.ndarray]:
    """Points that stand for a standard normal variable, and their weights, the probability that is nearest to each.

    They are dense where probability is, for the map from the base is steep between two modes; in the tails they are
    further out than quantiles, for heavy ones.
    """
    middle = ndtri((np.arange(N_QUANTILES) + 0.5) / N_QUANTILES)
    tail = np.arange(middle[-1] + TAIL_SPACING, TAIL_END, TAIL_SPACING)
    points = np.concatenate([-tail[::-1], middle, tail])
    ends = np.concatenate([[-np.inf], (points[1:] + points[:-1]) / 2.0, [np.inf]])
    return points, np.diff(ndtr(ends))


class FittedConditionalDensity(RegressorMixin, NeuralODEEstimator):
    """Base of the estimator: its answers after a fit."""

    module_: ConditionalDensity
    scaler_: StandardScaler
    target_scaler_: Gaussianisation
    n_outputs_: int
    _categories: CategoricalFeatures
    _columns: Columns
    _one_dimensional: bool

    def _checked(self, X: Any) -> Tensor:
        """Features as the fitted network takes them."""
        check_is_fitted(self, "module_")
        check_two_dimensional(X, type(self).__name__)
        X = check_data(self, self._categories.encoded(to_pandas(X)), **INPUT_CHECKS, reset=False)
        device = resolve_device(self.device)
        self.module_.to(device)  # it may have been fitted on another
        return to_tensor(squashed(self.scaler_, self._columns.expanded(X)), self._dtype, device)

    @property
    def _dtype(self) -> torch.dtype:
        return self.module_.field.layers[0].weight.dtype  # type: ignore[return-value]

    def _targets(self, y: Any, n: int) -> np.ndarray:
        """Targets as numbers of shape (n, n_outputs)."""
        with check_argument("y"):
            y = check_array(to_pandas(y, "y"), ensure_2d=False, dtype=None, input_name="y")
        y = check_numeric_targets(y, type(self).__name__)
        y = y.reshape(len(y), -1)
        check_consistent_length(y, np.empty(n))
        if y.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {y.shape[1]} outputs, but the fit had {self.n_outputs_}.")
        return y

    def _in_shape_of_y(self, values: np.ndarray) -> np.ndarray:
        """Values of shape (n, n_outputs, ...) without the axis of outputs where y has none."""
        return values[:, 0] if self._one_dimensional else values

    def _pushed(self, x: Tensor, base: Callable[[int, int], np.ndarray], k: int) -> np.ndarray:
        """Targets in the units of y, of shape (n, n_outputs, k).

        Parameters
        ----------
        x : Tensor of shape (n, n_context)
            Features.
        base : callable
            ``base(first, last)``, points of the base for some of the rows, of shape (last - first, k, n_outputs).
        k : int
            Number of points for each row.
        """
        solver, d, n_rows = self._solver(), self.n_outputs_, max(CHUNK // k, 1)
        positions = torch.arange(len(x), device=x.device)

        def pushed(rows: Tensor) -> tuple[np.ndarray]:
            parts = [np.empty((0, k, d))]
            for first in range(0, len(rows), n_rows):
                some = rows[first : first + n_rows]
                low, high = int(some[0]), int(some[-1]) + 1
                points = to_tensor(base(low, high).reshape(-1, d), x.dtype, x.device)
                with torch.no_grad():
                    z = to_numpy(self.module_.push(x[some].repeat_interleave(k, dim=0), points, solver))
                parts.append(self.target_scaler_.inverse_transform(z).reshape(-1, k, d))
            return (np.concatenate(parts),)

        (values,) = shared_out(pushed, positions)
        return np.moveaxis(values, 1, 2)

    def _spread_out(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Points that stand for the distribution of the targets, of shape (n, n_outputs, k), and their weights."""
        if self.n_outputs_ == 1:
            points, weights = points_on_the_line()
            points = points[:, None]
        else:
            uniform = qmc.Sobol(self.n_outputs_, seed=np.random.default_rng(0)).random(N_DRAWS)
            points, weights = ndtri(np.clip(uniform, 1e-9, 1.0 - 1e-9)), np.full(N_DRAWS, 1.0 / N_DRAWS)
        return self._pushed(x, lambda low, high: np.repeat(points[None], high - low, axis=0), len(points)), weights

    @array_api
    def predict(self, X: Any, *, return_std: bool = False) -> Any:
        """Means of the targets given the features.

        A row takes 88 solves (256 with several targets); where a median will do, ``predict_quantile`` of one target
        takes a single one.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        return_std : bool, default=False
            Whether to return the standard deviations as well.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Means, in the units of y.
        std : ndarray of the shape of ``y``
            Only with ``return_std``.
        """
        x = self._checked(X)
        values, weights = self._spread_out(x)
        mean = values @ weights
        if not return_std:
            return self._in_shape_of_y(mean)
        std = np.sqrt((values - mean[..., None]) ** 2 @ weights)
        return self._in_shape_of_y(mean), self._in_shape_of_y(std)

    @array_api
    def predict_quantile(self, X: Any, quantiles: Any = (0.05, 0.5, 0.95)) -> np.ndarray:
        """Quantiles of each target given the features.

        Of one target they are exact, up to the tolerance of the solver: a flow on the line keeps the order of points,
        so that a quantile is where that of the normal density is carried to. Of several they are those of 256 points,
        which beyond 0.02 and 0.98 lie too near to the middle: take quantiles of many draws of ``sample_y`` there.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        quantiles : float or array-like of shape (n_quantiles,), default=(0.05, 0.5, 0.95)
            Probabilities, above 0 and below 1.

        Returns
        -------
        ndarray of shape (n_samples, n_quantiles) or (n_samples, n_outputs, n_quantiles)
            Quantiles, in the units of y; without the last axis for a single number.
        """
        levels = np.asarray(quantiles)
        within = levels.ndim <= 1 and levels.dtype.kind == "f" and ((levels > 0.0) & (levels < 1.0)).all()
        if not (within and levels.size):
            raise ValueError(f"quantiles must be one or more probabilities above 0 and below 1, got {quantiles!r}.")
        x, flat = self._checked(X), np.atleast_1d(levels).astype(np.float64)
        if self.n_outputs_ == 1:
            points = ndtri(flat)[None, :, None]
            values = self._pushed(x, lambda low, high: np.repeat(points, high - low, axis=0), len(flat))
        else:
            draws, _ = self._spread_out(x)
            values = np.moveaxis(np.quantile(draws, flat, axis=-1), 0, -1)
        values = values if levels.ndim else values[..., 0]
        return self._in_shape_of_y(values)

    @array_api
    def predict_interval(self, X: Any, level: float = 0.9) -> np.ndarray:
        """Intervals between quantiles, which leave ``(1 - level) / 2`` on each side; see ``predict_quantile``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        level : float, default=0.9
            Probability of the intervals, between 0 and 1.

        Returns
        -------
        ndarray of shape (n_samples, 2) or (n_samples, n_outputs, 2)
            Lower and upper ends, in the units of y.
        """
        check_level(level)
        return self.predict_quantile(X, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])

    @validate_params({"n_samples": [Interval(Integral, 1, None, closed="left")]}, prefer_skip_nested_validation=True)
    @array_api
    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:
        """Draw targets given the features.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            Features.
        n_samples : int, default=1
            Number of draws for each row.
        random_state : int, RandomState instance or None, default=0
            Source of the draws.

        Returns
        -------
        ndarray of shape (n_rows, n_samples) or (n_rows, n_outputs, n_samples)
            Draws, in the units of y (in the shape of ``GaussianProcessRegressor.sample_y``).
        """
        x, rng = self._checked(X), check_random_state(random_state)
        with memory_for("n_samples", n_samples):
            base = rng.standard_normal((len(x), n_samples, self.n_outputs_))
            return self._in_shape_of_y(self._pushed(x, lambda low, high: base[low:high], n_samples))

    @array_api
    def log_density(self, X: Any, y: Any) -> np.ndarray:
        """Log-densities of targets given the features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        ndarray of shape (n_samples,)
            Natural logarithms of joint densities of the targets, in the units of y.
        """
        x = self._checked(X)
        targets = self._targets(y, len(x))
        z = to_tensor(self.target_scaler_.transform(targets), x.dtype, x.device)
        solver = self._solver()

        def log_prob(rows: Tensor) -> tuple[np.ndarray]:
            with torch.no_grad():
                parts = [to_numpy(self.module_.log_prob(x[some], z[some], solver)[0]) for some in rows.split(CHUNK)]
            return (np.concatenate(parts),)

        (found,) = shared_out(log_prob, torch.arange(len(x), device=x.device))
        return found + self.target_scaler_.log_det(targets)

    @array_api
    def crps(self, X: Any, y: Any) -> np.ndarray:
        r"""Continuous ranked probability score of targets: lower is better.

        It compares the distribution F of each target with the value that came,
        :math:`\int (F(x) - 1\{x \ge y\})^2 dx`, in the units of y (T. Gneiting, A. E. Raftery, "Strictly proper scoring
        rules, prediction, and estimation", Journal of the American Statistical Association 102, 2007).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        ndarray of the shape of y
            Scores.
        """
        x = self._checked(X)
        targets = self._targets(y, len(x))
        values, weights = self._spread_out(x)
        off = np.abs(values - targets[..., None]) @ weights
        return self._in_shape_of_y(off - 0.5 * mean_difference(values, weights))

    @array_api
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Coefficient of determination of the means.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, none negative; 1 where None.

        Returns
        -------
        float
            :math:`R^2`, averaged over the targets.
        """
        weights = None if sample_weight is None else check_weights(sample_weight, X)
        with check_argument("y"), check_squares("y"):
            y = check_numeric_targets(to_pandas(y, "y"), type(self).__name__)
            return float(super().score(X, y, sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.multi_output = True
        return tags


#: How features are checked.
INPUT_CHECKS: dict[str, Any] = {"dtype": [np.float64, np.float32], "ensure_all_finite": "allow-nan"}


def mean_difference(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean absolute difference of two independent draws, of distributions given by points in the last axis."""
    order = np.argsort(values, axis=-1)
    ordered, w = np.take_along_axis(values, order, axis=-1), weights[order]
    below = np.cumsum(w, axis=-1) - w
    # sum_ij w_i w_j |v_i - v_j| = 2 sum_i w_i v_i (weight below i - weight above i)
    return 2.0 * (w * ordered * (2.0 * below + w - 1.0)).sum(axis=-1)
