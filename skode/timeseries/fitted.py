"""Predictions, densities, draws and latent states of a fitted latent ODE."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, RegressorMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skode.frames import Column, LongRows, column_label, read_rows, times_of_kind
from skode.solvers.transforms import DUAL_LEVEL
from skode.timeseries.absurd_times import check_absurd_times
from skode.timeseries.doses import without_missing
from skode.timeseries.exported import ExportsLatentODE
from skode.timeseries.known_ode import KnownODE
from skode.timeseries.latent_ode import LatentModel
from skode.timeseries.likelihoods import Gaussian
from skode.timeseries.panel import Panel
from skode.timeseries.posterior import Posterior, infer
from skode.timeseries.predictive import Prediction, Predictive
from skode.timeseries.query import Query
from skode.timeseries.tensors import PanelTensors
from skode.timeseries.units import Units
from skode.training import (
    array_api,
    by_partition,
    check_weights,
    memory_for,
    observed_r2,
    of_one_model,
    to_numpy,
    to_pandas,
    warn_of_overflow,
)


class FittedLatentODE(RegressorMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, ExportsLatentODE):
    """Base of the latent ODE's estimator: all that needs a fitted model and no training."""

    series: Column | None
    time: Column
    likelihood: str

    module_: LatentModel
    context_: Panel
    posterior_: Posterior
    time_scale_: float
    time_kind_: str
    n_features_in_: int

    _units: Units
    _refined: bool

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @array_api
    def condition(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Take in more observations, of known or of new series, without training.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Observed values; NaN where nothing was observed, as in rows that only tell covariates to come.
        sample_weight : array-like of shape (n_rows,), default=None
            How often each row counts, as in ``fit``.

        Returns
        -------
        LatentODERegressor
            A new fitted estimator that shares this one's weights; this one stays as it is.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X or y are not as in ``fit``; the message names the column.
        """
        rows = self._read(X)
        values = self._targets(y, rows, maybe_nothing=True)
        rows, values, weights = self._units.distinct(rows, values, check_weights(sample_weight, values))
        check_absurd_times(rows, typical_span=self._units.span)
        new = self._units.panel(rows, values, weights)
        conditioned = copy.copy(self)
        joined = conditioned.context_ = self.context_.joined(new)
        joined.refuse_early_doses()
        changed = joined.ids.get_indexer(new.ids)
        posterior = self.posterior_.take(self.context_.ids.get_indexer(joined.ids))
        part = self._inferred(joined.take(changed), posterior.n_draws)
        places = torch.from_numpy(changed)
        posterior.mean[places], posterior.factor[places] = part.mean, part.factor
        posterior.log_weights[:, places] = part.log_weights
        conditioned.posterior_ = posterior
        return conditioned

    @property
    @of_one_model
    def noise_std_(self) -> np.ndarray:
        """Standard deviation of the observation noise, in the units of y."""
        white, coloured, _ = self._noise()
        return np.hypot(white, coloured) * self._units.y_scale

    @property
    @of_one_model
    def noise_share_(self) -> np.ndarray:
        """Share of the noise's variance that has a memory."""
        white, coloured, _ = self._noise()
        return coloured**2 / (white**2 + coloured**2)

    @property
    @of_one_model
    def noise_memory_(self) -> np.ndarray:
        """Time in which the correlation of the noise with a memory falls by a factor of e; NaN where there is none."""
        _, coloured, memory = self._noise()
        return np.where(coloured > 0.0, memory * self.time_scale_, np.nan)

    def _noise(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standard deviations of white and coloured noise, and memory, in the model's units."""
        check_is_fitted(self)
        likelihood = self.module_.likelihood
        if not isinstance(likelihood, Gaussian):
            raise AttributeError(f"likelihood={self.likelihood!r} has no noise of its own; predict(return_std=True).")
        parts = torch.exp(likelihood.log_noise.detach()), likelihood.coloured, likelihood.memory
        white, coloured, memory = (to_numpy(part).astype(np.float64) for part in parts)
        return white, coloured, memory

    @property
    def params_(self) -> dict[str, float]:
        """Values of the parameters that all series share, with ``dynamics``."""
        return self._known_model("params_").shared_values()

    @property
    def priors_(self) -> pd.DataFrame:
        """Distributions that initial states and parameters of series are drawn from, with ``dynamics``."""
        module = self._known_model("priors_")
        names = [name.removeprefix("initial ") for name in module.population.own.names]
        columns = {"median": 0.0, "low": -1.96, "high": 1.96}
        return pd.DataFrame({name: module.population.quantiles(z) for name, z in columns.items()}, index=names)

    def _known_model(self, attribute: str) -> KnownODE:
        check_is_fitted(self)
        if not isinstance(self.module_, KnownODE):
            raise AttributeError(f"{attribute} needs a model fitted with dynamics.")
        return self.module_

    @by_partition
    @array_api
    def predict(self, X: Any, return_std: bool = False, known: str = "all") -> Any:
        """Predict at any times of any series.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        return_std : bool, default=False
            Whether to return standard deviations as well: observation noise and uncertainty of the latent state.
        known : {"all", "before"}, default="all"
            Which observations of its series each row is answered from: all that the model is conditioned on, those
            after the row included, or only those at earlier times, as for back-tests. With "before", a series' first
            row is answered from the prior. The posterior of each row is then found anew, in a time that grows with
            the square of the rows of a series; weights of the network and the noise stay those of all rows in ``fit``.

        Returns
        -------
        mean : ndarray of shape (n_rows,) or (n_rows, n_outputs)
            Predictions, in the order and shape of the y of ``fit``.
        std : ndarray of the same shape
            Standard deviations; only with ``return_std``.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X does not have the columns, or times not the kind, that they had in ``fit``.
        SolverError
            If no draw of a latent state can be solved as far as the times of X.
        """
        rows = self._read(X)
        units, (query, posterior) = self._units, self._query_and_posterior(rows, known)
        mean, std = self._predictive().moments(query, posterior, with_std=return_std)
        mean = units.in_shape_of_y(units.original(mean))
        return mean if std is None else (mean, units.in_shape_of_y(std * units.y_scale))

    @by_partition
    @array_api
    def score_samples(self, X: Any, y: Any = None, known: str = "all") -> np.ndarray:
        """Log predictive density of each row, given what the model is conditioned on.

        Of each row by itself: outputs of one row are judged together, rows of one series are not. Rows that the
        model was fitted to or conditioned on are known to it, and score high for that.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs), default=None
            Values; NaN where nothing was observed. None: nothing was observed at all, and all answers are NaN.
        known : {"all", "before"}, default="all"
            As in ``predict``.

        Returns
        -------
        ndarray of shape (n_rows,)
            Nats, in the units of y; for binary and count outputs the logarithm of a probability. NaN for rows in
            which nothing was observed.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X or y are not as in ``fit``.
        SolverError
            If no draw of a latent state can be solved as far as the times of X.
        """
        rows = self._read(X)
        if y is None:
            return np.full(len(rows), np.nan)
        values = self._targets(y, rows, maybe_nothing=True)
        scaled, (query, posterior) = self._units.standardised(values), self._query_and_posterior(rows, known)
        density = self._predictive().log_density(query, posterior, scaled)
        observed = ~np.isnan(values)
        density -= (observed * np.log(self._units.y_scale)).sum(1)
        some = observed.any(1)
        warn_of_overflow(density[some], "log-densities", "minus infinity: y lies too far from what is predicted")
        return np.where(some, density, np.nan)

    @array_api
    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:
        """Draw observations at given rows; rows of one series belong to one path in each draw.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        n_samples : int, default=1
            Number of draws.
        random_state : int, RandomState instance or None, default=0
            Source of the draws.

        Returns
        -------
        ndarray of shape (n_rows, n_samples) or (n_rows, n_outputs, n_samples)
            Observations, noise included (as ``GaussianProcessRegressor.sample_y`` has them).

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X does not have the columns, or times not the kind, that they had in ``fit``.
        """
        _check_count("n_samples", n_samples)
        with memory_for("n_samples", n_samples):
            query, rng = self._query(self._read(X)), check_random_state(random_state)
            draws = self._predictive().samples(query, self._posterior_of(query), n_samples, rng)
            return self._units.in_shape_of_y(np.moveaxis(self._units.original(draws), 0, -1))

    @array_api
    def sample(
        self, n_series: int = 1, times: Any = None, *, covariates: Any = None, random_state: Any = None
    ) -> pd.DataFrame:
        """Draw new series from the prior.

        Parameters
        ----------
        n_series : int, default=1
            How many.
        times : array-like of shape (n_times,), default=None
            Times of the observations of each, of the kind that X holds; every series starts at the first of them.
            None: 50 times over the span of a typical training series, from its start on (with a time zone, in UTC).
        covariates : array-like that broadcasts to (n_series, n_times, n_covariates), default=None
            Their covariates; None: the means of those in ``fit``.
        random_state : int, RandomState instance or None, default=None
            Source of the draws.

        Returns
        -------
        DataFrame of shape (n_series * n_times, n_columns)
            A long frame: series (0, 1, ...), time, covariates and observations, noise included.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where a number or the times are not as described, or covariates are given to a model without any.
        """
        self._fitted_module()
        _check_count("n_series", n_series)
        times = to_pandas(times, "times")
        if times is not None and (np.ndim(times) != 1 or len(times) == 0):
            raise ValueError(f"times must have one dimension and hold one time at least; got {times!r}.")
        if times is None:
            offsets = np.linspace(0.0, self._units.span, 50)
            start = float(np.median(self.context_.origins)) + self._units.lead * self.time_scale_
            column = times_of_kind(start + offsets, self.time_kind_)
        else:
            column = pd.Series(times)
        seconds = self._units.read_array_of_times(column)
        with memory_for("n_series", n_series):
            return self._new_series(n_series, column, seconds, covariates, random_state)

    def _new_series(
        self, n_series: int, column: pd.Series, seconds: np.ndarray, covariates: Any, random_state: Any
    ) -> pd.DataFrame:
        """See :meth:`sample`; the times as a column, and as they were read."""
        units, rng = self._units, check_random_state(random_state)
        order = np.argsort(seconds, kind="stable")
        given = units.read_covariates(covariates, n_series, len(seconds))
        panel = units.new_panel(n_series, seconds[order], given[:, order])
        y = self._predictive().samples_of_prior(panel, self.context_, rng)
        keys = {
            column_label(self.series, "series"): panel.codes,
            column_label(self.time, "time"): column.iloc[np.tile(order, n_series)].to_numpy(),
        }
        return units.frame(keys, panel, self._covariate_names(), y)

    @by_partition
    @array_api
    def transform(self, X: Any) -> np.ndarray:
        """Latent initial state of each row's series: the posterior's mean, or its mode where it was refined.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``; a series that the model is not conditioned on has the prior's mean, 0.

        Returns
        -------
        ndarray of shape (n_rows, latent_size)
            The same in all rows of a series; ``latent_states`` has a row per series.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X does not have the columns, or times not the kind, that they had in ``fit``.
        """
        rows = self._read(X)
        self._units.check_time_kind(rows, self.time)
        codes, ids = pd.factorize(rows.series)
        posterior = self.posterior_.take(self.context_.ids.get_indexer(pd.Index(ids)))
        if isinstance(self.module_, KnownODE):
            query = self._query(rows)
            known = query.known.joined(query.panel)
            return self._own_values(posterior, known.take(known.ids.get_indexer(pd.Index(ids))))[0][codes]
        return to_numpy(posterior.mean)[codes]

    @of_one_model
    def latent_states(self, return_std: bool = False) -> Any:
        """Latent initial states of all series that the model is conditioned on, for clustering or classification.

        Parameters
        ----------
        return_std : bool, default=False
            Whether to return the posterior's standard deviations as well.

        Returns
        -------
        values : DataFrame of shape (n_series, latent_size)
            Posterior means (with ``posterior="laplace"`` modes), indexed by series. With ``dynamics`` states at each
            series' first row and its parameters, in columns of their names.
        std : DataFrame of the same shape
            Standard deviations, to first order; only with ``return_std``.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        module, posterior = self._fitted_module(), self.posterior_
        values, std = to_numpy(posterior.mean), to_numpy(posterior.factor.square().sum(-1).sqrt())
        if isinstance(module, KnownODE):
            values, std = self._own_values(posterior, self.context_)
        columns = list(self.get_feature_names_out())
        index = self.context_.ids.rename(column_label(self.series, "series"))
        frame = pd.DataFrame(values, index=index, columns=columns)
        return (frame, pd.DataFrame(std, index=index, columns=columns)) if return_std else frame

    @of_one_model
    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns of :meth:`transform`.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Not used.

        Returns
        -------
        ndarray of str
            With ``dynamics`` the names of states and of the parameters of each series; else made of the class's name.
        """
        names = super().get_feature_names_out(input_features)
        if isinstance(self.module_, KnownODE):
            return np.asarray(self.module_.equations.columns, dtype=object)
        return names

    def _own_values(self, posterior: Posterior, panel: Panel) -> tuple[np.ndarray, np.ndarray]:
        """Initial states and parameters of series with equations, and their standard deviations (delta method)."""
        module = self.module_
        assert isinstance(module, KnownODE)
        series = self._units.tensors(panel, next(module.parameters()))
        z0, factor = posterior.mean[None].to(module.y_scale), posterior.factor.to(module.y_scale)
        # Along each column of the factor of the covariance.
        with DUAL_LEVEL:
            slopes = [
                torch.func.jvp(lambda z: module.own(z, series), (z0,), (f[None],))[1][0] for f in factor.unbind(2)
            ]
        std = torch.stack(slopes).square().sum(0).sqrt()
        return to_numpy(module.own(z0, series)[0]), to_numpy(std)

    @by_partition
    @array_api
    def latent_trajectory(self, X: Any) -> np.ndarray:
        """Mean latent states at given rows.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.

        Returns
        -------
        ndarray of shape (n_rows, latent_size)
            States.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X does not have the columns, or times not the kind, that they had in ``fit``.
        SolverError
            If no draw of a latent state can be solved as far as the times of X.
        """
        query = self._query(self._read(X))
        predictive, posterior = self._predictive(), self._posterior_of(query)
        states = predictive.gather(lambda prediction: prediction.mean(prediction.states)[None], query, posterior)[0]
        return self.module_.own_states(states) if isinstance(self.module_, KnownODE) else states

    @by_partition
    @array_api
    def predict_intensity(self, X: Any) -> np.ndarray:
        """Rate at which observations come, with ``observation_times="poisson"``.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.

        Returns
        -------
        ndarray of shape (n_rows,)
            Observations per unit of time (of dates and time differences: per second).

        Raises
        ------
        NotFittedError
            Before ``fit``.
        AttributeError
            Where ``observation_times`` was not "poisson".
        ValueError
            Where X does not have the columns, or times not the kind, that they had in ``fit``.
        SolverError
            If no draw of a latent state can be solved as far as the times of X.
        """
        if not self._fitted_module().process:
            raise AttributeError('predict_intensity needs a model fitted with observation_times="poisson".')

        def rate(prediction: Prediction) -> Tensor:
            assert prediction.log_rate is not None
            return prediction.mean(torch.exp(prediction.log_rate))[None]

        query = self._query(self._read(X))
        return self._predictive().gather(rate, query, self._posterior_of(query))[0] / self.time_scale_

    @array_api
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Coefficient of determination over the values that were observed.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            True values; NaN where nothing was observed.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights of the rows, none negative.

        Returns
        -------
        float
            :math:`R^2`, averaged over the outputs of which at least two values were observed; without any NaN, with a
            warning.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X or y are not as in ``fit``.
        SolverError
            If no draw of a latent state can be solved as far as the times of X.
        """
        rows = self._read(X)
        true = self._targets(y, rows, maybe_nothing=True)
        query = self._query(rows)
        predicted = self._units.original(self._predictive().moments(query, self._posterior_of(query))[0])
        weights = check_weights(sample_weight, true)
        return observed_r2(true, predicted, weights)

    def _fitted_module(self) -> LatentModel:
        check_is_fitted(self)
        return self.module_

    def _read(self, X: Any) -> LongRows:
        """The rows of X, which must have the columns of ``fit``."""
        check_is_fitted(self)
        X = without_missing(X, self._units.doses)
        return read_rows(self, X, series=self.series, time=self.time, reset=False)

    def _targets(self, y: Any, rows: LongRows, *, maybe_nothing: bool = False) -> np.ndarray:
        """Observed values beside rows; ValueError where they are not of the kind that the model was fitted to."""
        values = self._units.read_targets(y, rows, self.time, maybe_nothing=maybe_nothing)
        self.module_.likelihood.check(values)
        return values

    def _query(self, rows: LongRows) -> Query:
        self._units.check_time_kind(rows, self.time)
        return Query.of(rows, self.context_, self._units)

    def _query_and_posterior(self, rows: LongRows, known: str) -> tuple[Query, Posterior]:
        """Rows as a query, and the posteriors of its series given all observations or earlier ones."""
        if known not in ("all", "before"):
            raise ValueError(f'known must be "all" or "before"; got {known!r}.')
        if known == "all":
            query = self._query(rows)
            return query, self._posterior_of(query)
        self._units.check_time_kind(rows, self.time)
        query = Query.before(rows, self.context_, self._units)
        return query, self._inferred(query.known, self.posterior_.n_draws).take(query.positions)

    def _posterior_of(self, query: Query) -> Posterior:
        return self.posterior_.take(query.positions)

    def _predictive(self) -> Predictive:
        like = next(self.module_.parameters())
        return Predictive(self.module_, lambda panel, known: self._units.tensors(panel, like, known), self._solver())

    def _input_names(self) -> list[str]:
        """Names of the covariates in equations; by position, as ``ODERegressor`` has them, where X has none."""
        if hasattr(self, "feature_names_in_"):
            return [str(name) for name in self._covariate_names()]
        n = self.n_features_in_
        keys = {int(column) % n for column in (self.series, self.time) if column is not None}
        return [f"x{i}" for i in range(n) if i not in keys]

    def _covariate_names(self) -> list[Any]:
        if not hasattr(self, "feature_names_in_"):
            return [f"x{i}" for i in range(self._units.n_columns)]
        names = list(self.feature_names_in_)
        keys = [c if isinstance(c, str) else names[c] for c in (self.series, self.time) if c is not None]
        return [name for name in names if name not in keys]

    def _tensors_for(self, module: LatentModel) -> Callable[[Panel], PanelTensors]:
        """A function that makes tensors of the observed rows of panels, of the dtype and on the device of a module."""
        return partial(self._units.observed_tensors, like=next(module.parameters()))

    def _inferred(self, panel: Panel, n_draws: int, module: LatentModel | None = None) -> Posterior:
        """The posteriors of a panel's series, in float64 whatever the model was trained in."""
        module = in_double(module or self.module_)
        return infer(module, panel, self._tensors_for(module), self._solver(), n_draws, refined=self._refined)


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be an integer, 1 or more; got {value!r}.")


def in_double(module: LatentModel) -> LatentModel:
    """A module in float64: itself, or a copy."""
    return module if next(module.parameters()).dtype == torch.float64 else copy.deepcopy(module).double()
