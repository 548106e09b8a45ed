"""Densities, samples and paths of a fitted flow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
from scipy.special import logsumexp
from sklearn.base import ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, validate_params
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skode.density.anomalies import AnomalyMixin
from skode.density.chunks import CHUNK, in_chunks
from skode.density.discrete import Dequantiser
from skode.density.export import ExportsDensity
from skode.density.flow import Flow
from skode.density.gaussianisation import Gaussianisation
from skode.density.gaussians import Gaussians
from skode.density.spaces import check_range, to_data, to_flow
from skode.density.stacking import Partners
from skode.density.tables import Categories
from skode.distributed.work import shared_out
from skode.io.sources import in_memory
from skode.training import (
    array_api,
    by_blocks,
    by_partition,
    check_argument,
    check_data,
    check_unit_times,
    check_weights,
    memory_for,
    of_one_model,
    resolve_device,
    scored_by_partition,
    to_pandas,
    warn_of_overflow,
)


class FittedDensity(AnomalyMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, ExportsDensity):
    """Base of the estimator: its answers after a fit."""

    module_: Flow
    scaler_: Gaussianisation
    stacking_weights_: np.ndarray
    _scalers: list[Gaussianisation]
    _dequantiser: Dequantiser | None
    _categories: Categories | None

    def _checked(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        self.module_.to(resolve_device(self.device))
        X = X if self._categories is None else self._categories.numbers(X)
        return check_data(self, X, dtype=[np.float64, np.float32], reset=False)

    def _rows_at_once(self) -> int:
        """Number of samples that are computed together."""
        return CHUNK

    def _points(self, X: np.ndarray) -> np.ndarray:
        """Samples as points of continuous variables, in the middle of the cells of discrete values."""
        return X if self._dequantiser is None else self._dequantiser.middle(X).astype(X.dtype)

    def _samples(self, points: np.ndarray) -> np.ndarray:
        """Samples from points of continuous variables."""
        return points if self._dequantiser is None else self._dequantiser.samples(points)

    def _in_flow(self, X: np.ndarray) -> np.ndarray:
        return to_flow(self.scaler_, X, self.module_.log_scale.dtype)

    def _evaluated(self, function: Callable[[Tensor], Tensor], points: np.ndarray, *, axis: int = 0) -> np.ndarray:
        """The values of a function of the flow at points where the flow lives."""
        (values,) = shared_out(
            lambda some: (in_chunks(function, some, self.module_.log_scale, axis=axis),), points, axis=axis
        )
        return values

    def _flow_log_prob(self, X: np.ndarray, t: float = 1.0) -> np.ndarray:
        """Log-densities of the flow alone."""
        in_flow = self._in_flow(X)
        log_prob = self._evaluated(lambda x: self.module_.log_prob(x, self._solver(), t=t)[0], in_flow)
        return log_prob + self.scaler_.log_det(X)

    def _log_prob(self, X: np.ndarray, t: float) -> np.ndarray:
        """Log-densities of the flow and all that stands beside it."""
        logs = [self._flow_log_prob(X, t)]
        for scaler, density in zip(self._scalers, self._densities_beside, strict=True):
            points = check_range(scaler.transform(X), self.module_.log_scale.dtype)
            logs.append(self._evaluated(partial(density.log_prob, t=t), points) + scaler.log_det(X))
        return logsumexp(np.stack(logs, axis=1) + np.log(self.stacking_weights_), axis=1) if logs[1:] else logs[0]

    @property
    def _densities_beside(self) -> list[Gaussians]:
        return cast(list[Gaussians], list(self.module_.beside))

    def _log_density(self, X: np.ndarray, t: float = 1.0) -> np.ndarray:
        """Log-densities of samples, with respect to counting on discrete variables."""
        if self._dequantiser is None:
            return self._log_prob(X, t)
        return self._dequantiser.log_density(X, partial(self._log_prob, t=t))

    def _set_alone(self) -> None:
        """Have the density be the flow's."""
        self.module_.beside, self._scalers, self.stacking_weights_ = nn.ModuleList(), [], np.ones(1)

    def _set_beside(self, beside: Partners, weights: np.ndarray) -> None:
        """Have the density be a stack of the weights given, the flow's first."""
        like = self.module_.log_scale
        self.module_.beside = nn.ModuleList(beside.densities).to(like.device, like.dtype)
        self._scalers, self.stacking_weights_ = beside.scalers, weights

    @by_partition
    @array_api
    @by_blocks
    def log_prob(self, X: Any, t: float = 1.0) -> np.ndarray:
        """Log-densities at a time between the base density's and the data's.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Points of data space.
        t : float, default=1.0
            The time: at 1 the density is that of the data, at 0 the base, a normal density in data space (bent as
            ``marginals`` says). Mixtures beside the flow are at a time ``t`` those of ``(1 - t) z_0 + t x``, with
            ``z_0`` normal as the base and ``x`` of the mixture.

        Returns
        -------
        ndarray of shape (n_samples,)
            Log-densities in nats, in the units of X.

        Raises
        ------
        ValueError
            Where ``t`` is not as described, or X too large to standardise.

        Warns
        -----
        UserWarning
            Where a log-density is below the least number of X's dtype, and comes out as minus infinity.
        """
        X = self._checked(X)
        if not isinstance(t, Real) or not 0.0 <= t <= 1.0:
            raise ValueError(f"t must be a time from 0, the base density's, to 1, the data's; got {t!r}.")
        with np.errstate(over="ignore"):
            log_prob = self._log_density(X, float(t)).astype(X.dtype, copy=False)
        warn_of_overflow(log_prob, "log-densities", "minus infinity: they lie too far from the data")
        return log_prob

    @by_partition
    @array_api
    def score_samples(self, X: Any) -> np.ndarray:
        """Log-density of each sample, by the exact divergence however the flow was trained.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            Log-densities in nats, in the units of X. On discrete variables they count with respect to values and not
            to volume: where all are discrete, these are log-probabilities.
        """
        return self.log_prob(X)

    @scored_by_partition("score_samples")
    @array_api
    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-likelihood of samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.
        y : None
            Ignored; here for scikit-learn's conventions.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the mean, none negative; 1 where None.

        Returns
        -------
        float
            Mean log-density per sample in nats, as ``GaussianMixture.score``.
        """
        log_density = self.score_samples(X)
        if sample_weight is None:
            return float(log_density.mean(dtype=np.float64))
        weights = check_weights(in_memory(sample_weight), log_density)
        # The density of a sample without weight may be minus infinity, times which 0 would be NaN.
        some = weights > 0.0
        return float(np.average(log_density[some], weights=weights[some]))

    @validate_params(
        {"n_samples": [Interval(Integral, 1, None, closed="left")], "random_state": ["random_state"]},
        prefer_skip_nested_validation=True,
    )
    @of_one_model
    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Draw samples from the fitted density.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples.
        random_state : int, RandomState instance or None, default=None
            Source of the draws.

        Returns
        -------
        ndarray or DataFrame of shape (n_samples, n_features)
            Samples, in the units of X; a frame of its dtypes where X was one with categories.
        """
        check_is_fitted(self)
        with memory_for("n_samples", n_samples):
            samples = self._samples(self._drawn(n_samples, check_random_state(random_state)))
            return samples if self._categories is None else self._categories.frame(samples)

    def _drawn(self, n_samples: int, rng: np.random.RandomState) -> np.ndarray:
        """Draws of the continuous variables."""
        base = rng.standard_normal((n_samples, self.module_.n_features))
        if len(self.stacking_weights_) == 1:
            return self._from_base(base)
        chosen = rng.choice(len(self.stacking_weights_), n_samples, p=self.stacking_weights_)
        points = np.empty_like(base)
        for k in np.unique(chosen):
            rows = chosen == k
            points[rows] = self._from_base(base[rows]) if k == 0 else self._drawn_beside(k - 1, rows.sum(), rng)
        return points

    def _drawn_beside(self, k: int, n_samples: int, rng: np.random.RandomState) -> np.ndarray:
        """Draws from one of the densities beside the flow."""
        draws = self._densities_beside[k].sample(n_samples, rng)
        return to_data(self._scalers[k], draws, np.dtype(np.float64))

    @by_partition
    @array_api
    @by_blocks
    def transform(self, X: Any) -> np.ndarray:
        """Carry samples back to the base, where data that follow the flow's density are standard normal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples, n_variables)
            The points of the base that the flow carries to the samples, or to the middle of the cells that discrete
            values have: as many as columns, but one for columns that together are a variable.
        """
        X = self._points(self._checked(X))
        base = self._evaluated(lambda x: self.module_.pull(x, self._solver()), self._in_flow(X))
        return base.astype(X.dtype, copy=False)

    @by_partition
    @array_api
    def inverse_transform(self, X: Any) -> np.ndarray:
        """Carry points of the base to data space: the inverse of ``transform``, up to the solver's tolerance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Points of the base, standard normal for new samples.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Points of data space.

        Raises
        ------
        ValueError
            Where X has another number of columns than the data.
        """
        check_is_fitted(self)
        with check_argument("X"):
            base = check_array(to_pandas(X), dtype=[np.float64, np.float32])
        if base.shape[1] != self.module_.n_features:
            raise ValueError(f"X has {base.shape[1]} features, but the base has {self.module_.n_features}.")
        return self._samples(self._from_base(base))

    def _from_base(self, base: np.ndarray) -> np.ndarray:
        self.module_.to(resolve_device(self.device))
        points = check_range(base, self.module_.log_scale.dtype)
        points = self._evaluated(lambda z: self.module_.push(z, self._solver()), points)
        return to_data(self.scaler_, points, base.dtype)

    @by_partition
    @array_api
    @by_blocks
    def trajectory(self, X: Any, t: Any) -> np.ndarray:
        """The paths on which the flow carries samples from the base to data space.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, where the paths end at time 1 (those of ``sample``, for example).
        t : array-like of shape (n_times,)
            Times between 0, the base's, and 1, the data's; strictly increasing.

        Returns
        -------
        ndarray of shape (n_samples, n_times, n_features)
            The points, in data space.

        Raises
        ------
        ValueError
            Where ``t`` is not as described.
        """
        X = self._points(self._checked(X))
        times = check_unit_times(t)
        falling = times[::-1].tolist()
        paths = self._evaluated(
            lambda x: self.module_.paths(x, self._solver(), falling).flip(0), self._in_flow(X), axis=1
        )
        n_times, n, d = paths.shape
        points = self._samples(to_data(self.scaler_, paths.transpose(1, 0, 2).reshape(-1, d), X.dtype))
        return points.reshape(n, n_times, self.n_features_in_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "module_")

    @property
    def _n_features_out(self) -> int:
        return self.module_.n_features
