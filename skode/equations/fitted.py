"""Estimates, intervals, predictions and simulations of fitted equations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.api.types import is_scalar
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from skode.equations.columns import with_zeros
from skode.equations.dynamics import Driver, System
from skode.equations.fitting import Optimum, Search, along_profile
from skode.equations.inference import Information
from skode.equations.inputs import Inputs, joined
from skode.equations.levenberg_marquardt import Task
from skode.equations.noise import NOISES, Binomial, Gaussian
from skode.equations.observations import Observations
from skode.equations.predictive import Answers, answers
from skode.equations.reading import Reading
from skode.equations.sensitivities import AUTO, SolverSettings
from skode.equations.series_regressor import SeriesRegressor
from skode.equations.shooting import Model
from skode.equations.simulation import read_inputs, read_start, read_times, read_values, simulated
from skode.frames import LongRows, column_label, read_rows
from skode.training import array_api, as_python, by_partition, of_one_model, warn_caller

#: Half width of a profile, in standard errors; where these are infinite, in units of the scaled unknown.
WIDTH_OF_PROFILE = 3.0


class FittedEquations(SeriesRegressor):
    """Base of the estimator: inference, predictions and simulations after a fit."""

    doses: dict[str, Any] | None
    noise: str
    trials: int | str
    interpolation: str
    covariance: str
    method: str
    rtol: float
    atol: float
    step_size: float | None

    params_: dict[str, Any]
    method_: str

    _task_: Task
    _reading: Reading
    _best: Optimum
    _information: Information
    _known: tuple[np.ndarray, ...]

    @property
    def _model(self) -> Model:
        return self._reading.model

    def _settings(self, method: str) -> SolverSettings:
        return SolverSettings(method, self.rtol, self.atol, self.step_size)

    def _settings_after_fit(self) -> SolverSettings:
        """Those of the fit, but that equations may get stiff later, or for other parameters."""
        explicit = self.method == "auto" and self.method_ == AUTO[0]
        return self._settings("auto" if explicit else self.method_)

    def _keep(self, task: Task, reading: Reading, optima: list[Optimum]) -> None:
        """Set the fitted attributes from the best of several fits."""
        best = self._best = optima[0]
        self._task_, self._reading = task, reading
        self._information = best.information(task, sandwich=self.covariance == "sandwich")
        model, scaled = reading.model, task.noise.scaled
        values = model.scales.values(best.u)
        self.params_, self.states_ = self._parameters(values), list(model.system.states)
        initial = model.initial_states(best.u, task.inputs, task.layout.t0)
        self.initial_states_ = pd.DataFrame(initial, index=self._series_index(), columns=self.states_)
        weights = task.layout.weights
        n_own = len(model.scales.names) - model.n_shared
        self._n_values = float(weights.sum())
        self._n_unknowns = model.n_shared + n_own * task.layout.n_series
        self._correction = max(self._n_values / max(self._n_values - self._n_unknowns, 1e-9), 1.0) if scaled else 1.0
        n = weights.shape[1]
        self.noise_scale_ = best.scale[:n] * np.sqrt(self._correction) if scaled else np.full(n, np.nan)
        self.noise_proportion_ = np.zeros(n)
        if task.noise.n_scales > 1:
            self.noise_proportion_ = best.scale[n:] * np.sqrt(self._correction)
        n_fitted = self._n_unknowns + (n * task.noise.n_estimated if scaled else 0)
        self.loglik_ = -best.loss
        self.aic_ = 2.0 * n_fitted - 2.0 * self.loglik_
        self.bic_ = n_fitted * np.log(self._n_values) - 2.0 * self.loglik_
        self.converged_, self.n_iter_ = best.converged, best.n_iter
        self.stop_reason_ = self._reason_to_stop(best)
        rows = []
        for optimum in optima:
            shared = model.scales.values(optimum.u)[0, : model.n_shared]
            estimates = dict(zip(model.scales.names, map(float, shared), strict=False))
            rows.append({"loglik": -optimum.loss, "converged": optimum.converged, **estimates})
        self.restarts_ = pd.DataFrame(rows)

    def _parameters(self, values: np.ndarray) -> dict[str, Any]:
        """Parameters by name, those of each series as a Series."""
        model, found = self._model, {}
        for i, name in enumerate(model.system.names):
            own = pd.Series(values[:, i], index=self._series_index(), name=name)
            found[name] = float(values[0, i]) if i < model.n_shared else own
        found.update(model.system.constants)
        return {parameter.name: found[parameter.name] for parameter in self._reading.parameters}

    def _note_residuals(self, data: Observations, task: Task) -> None:
        layout, mean = task.layout, self._best.shots.mean
        left = np.where(layout.weights > 0.0, (layout.y - mean) * task.noise.size(mean), np.nan)
        index = data.rows.positions[data.seen]
        self.residuals_ = pd.DataFrame(left, index=index, columns=self._outputs).sort_index()

    def _filled(self, X: Any) -> Any:
        """X with 0 where there is neither a dose nor a trial."""
        column = self._trials_column()
        return with_zeros(X, [*(self.doses or {}), *([] if column is None else [column])])

    def _trials_column(self) -> str | None:
        return self.trials if self.noise == "binomial" and isinstance(self.trials, str) else None

    def _noise_at(self, covariates: np.ndarray, n_outputs: int) -> Gaussian:
        """Distribution of observations in rows with these covariates."""
        if self.noise != "binomial":
            return NOISES[self.noise]
        trials = self._columns.trials_of(covariates, self.trials)
        return Binomial(np.repeat(trials[:, None], n_outputs, axis=1))

    # Inference

    @property
    @of_one_model
    def covariance_(self) -> pd.DataFrame:
        """Covariance of the estimates of shared parameters; where there is one series, of all unknowns."""
        check_is_fitted(self)
        model = self._model
        n = len(model.scales.names) if len(self._ids) == 1 else model.n_shared
        slopes = model.scales.slopes(self._best.u)[0, :n]
        covariance = self._correction * self._information.covariance[0, :n, :n] * np.outer(slopes, slopes)
        unknown = self._information.unknown[0, :n]
        covariance[unknown[:, None] | unknown] = np.inf
        return pd.DataFrame(covariance, index=model.scales.names[:n], columns=model.scales.names[:n])

    @of_one_model
    def summary(self, level: float = 0.95) -> pd.DataFrame:
        """Estimates with their standard errors, intervals, starts and bounds.

        Parameters
        ----------
        level : float, default=0.95
            Level of the intervals.

        Returns
        -------
        DataFrame
            A row for each unknown, those of single series by ``(name, series)``. Columns are ``estimate``,
            ``std_error`` (infinite where the data do not identify it, NaN where it is fixed or on a bound), ``low`` and
            ``high``, the interval's ends, and ``start``, ``lower_bound``, ``upper_bound``.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self)
        model, best = self._model, self._best
        scales = model.scales
        errors = self._scaled_errors()
        values, slopes = scales.values(best.u), scales.slopes(best.u)
        low, high = self._interval(best.u, errors, level)
        rows: dict[Any, tuple[float, ...]] = {}
        several = len(self._ids) > 1
        for i, parameter in enumerate(scales.parameters):
            shared = i < model.n_shared
            for j, series in enumerate(self._ids[:1] if shared else self._ids):
                key = (parameter.name, "" if shared else series) if several else parameter.name
                start = parameter.start
                if not shared and i >= model.n_parameters and model.initial.sources and not self._told(i):
                    start = np.nan
                rows[key] = (
                    values[j, i],
                    slopes[j, i] * errors[j, i],
                    low[j, i],
                    high[j, i],
                    start,
                    parameter.low,
                    parameter.high,
                )
        for name, value in model.system.constants.items():
            rows[(name, "") if several else name] = (value, *[np.nan] * 3, value, np.nan, np.nan)
        columns = ["estimate", "std_error", "low", "high", "start", "lower_bound", "upper_bound"]
        frame = pd.DataFrame(list(rows.values()), columns=columns)
        label = column_label(self.series, "series")
        keys = list(rows)
        frame.index = pd.MultiIndex.from_tuples(keys, names=["unknown", label]) if several else pd.Index(keys)
        return frame

    @of_one_model
    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        """Confidence intervals, of estimates on logarithmic scales by their logarithms.

        Parameters
        ----------
        level : float, default=0.95
            Their level.

        Returns
        -------
        DataFrame
            Columns ``low`` and ``high``, rows as in :meth:`summary`. By Student's t where the noise has an estimated
            scale.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        return self.summary(level)[["low", "high"]]

    def _told(self, i: int) -> bool:
        return self._reading.free_states[i - self._model.n_parameters] in self._reading.told

    def _scaled_errors(self) -> np.ndarray:
        """Standard errors of the scaled unknowns; NaN on a bound."""
        errors = self._information.errors() * np.sqrt(self._correction)
        return np.where(self._best.held(self._task_), np.nan, errors)

    def _interval(self, u: np.ndarray, errors: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(level, Real) or not 0.0 < level < 1.0:
            raise ValueError(f"level must be a number between 0 and 1, got {level!r}.")
        scaled, dof = self._task_.noise.scaled, self._n_values - self._n_unknowns
        quantile = student.ppf(0.5 + level / 2.0, max(dof, 1e-9)) if scaled else norm.ppf(0.5 + level / 2.0)
        model = self._model
        with np.errstate(over="ignore", invalid="ignore"):
            ends = [model.scales.values(u + sign * quantile * errors) for sign in (-1.0, 1.0)]
        bounds = np.array([[p.low, p.high] for p in model.scales.parameters]).reshape(-1, 2)
        return np.maximum(ends[0], bounds[:, 0]), np.minimum(ends[1], bounds[:, 1])

    @of_one_model
    def profile(self, name: str, n_points: int = 15) -> pd.DataFrame:
        """Profile likelihood: the largest log-likelihood at each of several values of an unknown.

        An interval for it is where twice the log-likelihood lies within a quantile of the chi-squared distribution
        with one degree of freedom (3.84 for 95 %) of its maximum; it holds where the log-likelihood is not quadratic,
        and an interval by the standard error does not. All values are fitted in one batch (D. J. Venzon, S. H.
        Moolgavkar, "A method for computing profile-likelihood-based confidence intervals", Applied Statistics 37,
        1988).

        Parameters
        ----------
        name : str
            A parameter that all series share; where there is one series any unknown, as :meth:`summary` names it.
        n_points : int, default=15
            Number of values, within three standard errors of the estimate and the bounds.

        Returns
        -------
        DataFrame of shape (n_points, ...)
            Columns are the unknown itself, ``loglik``, and the estimates of the other shared parameters given it.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where there is no such unknown.

        Warns
        -----
        ConvergenceWarning
            If ``max_time`` or Ctrl-C ended it before all have converged.
        """
        check_is_fitted(self)
        model, best = self._model, self._best
        names = model.scales.names if len(self._ids) == 1 else model.scales.names[: model.n_shared]
        if name not in names:
            raise ValueError(f"name={name!r} is none of the unknowns that can be profiled, {names}.")
        if not isinstance(n_points, Integral) or n_points < 2:
            raise ValueError(f"n_points must be an integer, 2 or more, got {n_points!r}.")
        column = names.index(name)
        error, u = self._scaled_errors()[0, column], best.u[0, column]
        reach = WIDTH_OF_PROFILE * (error if np.isfinite(error) else 1.0)
        scaled = np.linspace(
            max(u - reach, model.scales.low[column]), min(u + reach, model.scales.high[column]), n_points
        )
        settings = Search(self.max_iter, self.tol, deadline=self._deadline(), n_restarts=0)
        with np.errstate(all="ignore"):
            optima = along_profile(self._task_, best, column, scaled, settings)
        if optima[0].interrupted or optima[0].out_of_time:
            ended = "interrupted" if optima[0].interrupted else f"ended by max_time={self.max_time}"
            warn_caller(
                f"The profile was {ended}; where it had not converged the log-likelihood may be higher.",
                ConvergenceWarning,
            )
        rows = []
        for optimum in optima:
            values = model.scales.values(optimum.u)[0]
            estimates = {other: values[i] for i, other in enumerate(names) if other != name}
            rows.append({name: values[column], "loglik": -optimum.loss, **estimates})
        return pd.DataFrame(rows)

    # Predictions

    @by_partition
    @array_api
    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict at any times of the series of ``fit``; before their starts the equations are solved backward.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``. Inputs and doses go on from those of ``fit``; at a time at which both hold doses, those of X
            replace the others. The answer at the time of a dose of ``fit`` that X does not hold is from after it. A
            series that was not in ``fit`` can be predicted where
            neither parameters nor initial states are its own; it starts at its first row.
        return_std : bool, default=False
            Whether to return standard deviations as well: noise, and uncertainty of parameters and initial states
            by the delta method.

        Returns
        -------
        mean : ndarray of shape (n_rows,) or (n_rows, n_outputs)
            Outputs of the solution, in the shape of the y of ``fit``; with ``noise="lognormal"`` medians, with
            "binomial" expected numbers of successes.
        std : ndarray of the same shape
            Standard deviations; only with ``return_std``.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X does not have the columns, or times not the kind, that they had in ``fit``, or a series is not
            known.
        SolverError
            If a solution can't be followed as far as the times of X.
        """
        rows = self._read(X)
        found, of_fit = self._answers(rows, with_slopes=return_std)
        noise = self._noise_at(rows.covariates, found.mean.shape[1])
        size = noise.size(found.mean)
        if not return_std:
            return self._in_shape_of_y(size * found.mean)
        assert found.slopes is not None
        covariance = self._correction * self._information.covariance[of_fit]
        variance = np.einsum("roi,rij,roj->ro", found.slopes, covariance, found.slopes)
        scale = np.where(np.isnan(self.noise_scale_), 1.0, self.noise_scale_)
        if noise.n_scales > 1:
            scale = np.concatenate([scale, self.noise_proportion_])
        std = np.sqrt(np.maximum(size**2 * variance, 0.0) + noise.spread(found.mean, scale) ** 2)
        return self._in_shape_of_y(size * found.mean), self._in_shape_of_y(std)

    @of_one_model
    def simulate(
        self,
        y0: Any,
        times: Any,
        params: Mapping[str, float] | None = None,
        inputs: Any = None,
        *,
        series: Any = None,
    ) -> np.ndarray:
        """Solve the equations from any initial states.

        Parameters
        ----------
        y0 : array-like of shape (n_states,) or (n, n_states)
            Initial states, at the first of the times.
        times : array-like of shape (n_times,)
            Times as the equations have them (numbers; dates count in ``time_unit`` from the first of ``fit``), in
            order.
        params : dict of str to float, default=None
            Parameters in place of the estimates. Those of ``per_series`` have no estimate for all: they are given here,
            or taken from ``series``, where the right-hand side needs them.
        inputs : DataFrame or array-like of shape (n_times, n_columns), default=None
            The columns of inputs and doses at these times, by name or in their order in X. Without any dose it may be
            left out where there are no inputs.
        series : object, default=None
            The series of ``fit`` whose own parameters, of ``per_series``, are taken.

        Returns
        -------
        ndarray of shape (n_times, n_states) or (n, n_times, n_states)
            The states, at the time of a dose those before it; NaN from where a solution can't be followed.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where arguments are not as described.
        """
        check_is_fitted(self)
        start, t = read_start(y0, self._model.system.states), read_times(times)
        driven = read_inputs(inputs, t, self._columns, linear=self.interpolation == "linear")
        with self._chosen(params, series) as (values, changed):
            return simulated(changed, self._settings_after_fit(), values, driven, start, t)

    @of_one_model
    def vector_field(
        self,
        Y: Any,
        params: Mapping[str, float] | None = None,
        t: float = 0.0,
        inputs: Any = None,
        *,
        series: Any = None,
    ) -> np.ndarray:
        """Derivatives of the states by time: the right-hand side at the estimates.

        Parameters
        ----------
        Y : array-like of shape (n, n_states)
            States, in the order of ``states_``.
        params : dict of str to float, default=None
            As in :meth:`simulate`.
        t : float, default=0.0
            Time, as in :meth:`simulate`.
        inputs : array-like of shape (1, n_inputs), default=None
            The input columns at that time, where there are any.
        series : object, default=None
            As in :meth:`simulate`.

        Returns
        -------
        ndarray of shape (n, n_states)
            Derivatives, in units of the states per unit of time.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where arguments are not as described.
        """
        check_is_fitted(self)
        states = np.array(Y, dtype=np.float64)  # a copy, as torch wants memory that can be written
        if states.ndim != 2 or states.shape[1] != len(self.states_):
            raise ValueError(f"Y must be of shape (n, {len(self.states_)}), for {self.states_}; got {states.shape}.")
        driven = read_inputs(inputs, np.array([t]), self._columns, linear=True)
        driver = Driver(driven, torch.zeros(len(states), dtype=torch.int64))
        with torch.no_grad(), self._chosen(params, series) as (values, changed):
            of_all = torch.tensor([values], dtype=torch.float64).repeat(len(states), 1)
            field = changed.vector_field(of_all, driver)
            return field(torch.tensor(float(t), dtype=torch.float64), torch.from_numpy(states)).numpy()

    @contextmanager
    def _chosen(self, params: Any, series: Any) -> Iterator[tuple[list[float], System]]:
        """Values of the estimated parameters but for those given, and the system that has no others.

        Parameters that single series have are left out where they are not told. Where the right-hand side asks for one
        of them, all are named.
        """
        model, values, names = self._model, [], []
        system, several = model.system, len(self._ids) > 1
        given = read_values(params, [*system.names, *system.constants])
        if series is not None and not is_scalar(series):
            raise TypeError(f"series={series!r} must be the id of one series of fit, whose parameters are taken.")
        place = 0 if series is None else int(self._ids.get_indexer(pd.Index([series]))[0])
        if place < 0:
            raise ValueError(f"series={series!r} was not in fit; its series are {as_python(self._ids[0])!r}, ...")
        estimates = model.scales.values(self._best.u)[place]
        for i, name in enumerate(system.names):
            if name in given or i < model.n_shared or series is not None or not several:
                names.append(name)
                values.append(given.get(name, float(estimates[i])))
        constants = {name: given.get(name, value) for name, value in system.constants.items()}
        try:
            yield values, replace(system, names=tuple(names), constants=constants)
        except (KeyError, ValueError) as error:
            cause = error if isinstance(error, KeyError) else error.__cause__
            missing = [name for name in system.names if name not in names]
            if not isinstance(cause, KeyError) or cause.args[0] not in missing:
                raise
            raise ValueError(
                f"The right-hand side needs {missing}, which each series has its own: give them in params, or a series "
                "by series=."
            ) from error

    def _read(self, X: Any) -> LongRows:
        check_is_fitted(self)
        return read_rows(self, self._filled(X), series=self.series, time=self.time, reset=False)

    def _mean(self, rows: LongRows) -> np.ndarray:
        found, _ = self._answers(rows)
        return self._noise_at(rows.covariates, len(self._outputs)).size(found.mean) * found.mean

    def _states_at(self, rows: LongRows) -> np.ndarray:
        return self._answers(rows)[0].states

    def _answers(self, rows: LongRows, *, with_slopes: bool = False) -> tuple[Answers, np.ndarray]:
        """Answers at rows, and the series of ``fit`` whose covariance goes with each."""
        t = self._clock.read(rows, self.time)
        codes, ids = pd.factorize(rows.series)
        places = self._ids.get_indexer(pd.Index(ids))
        model, layout = self._model, self._task_.layout
        if (places < 0).any() and model.n_shared < len(model.scales.names):
            wrong = as_python(np.asarray(ids)[places < 0][0])
            raise ValueError(
                f"Series {wrong!r} was not in fit, and its initial state or parameters are its own "
                f"({model.scales.names[model.n_shared :]}), which only its observations could tell: fit it too, or "
                "simulate it."
            )
        known = np.maximum(places, 0)
        first = np.full(len(ids), np.inf)
        np.minimum.at(first, codes, t)
        t0 = np.where(places < 0, first, layout.t0[known])
        settings = self._settings_after_fit()
        now = Model(model.system, model.scales, model.n_shared, model.initial, settings)
        inputs, before = self._inputs_of(codes, t, rows.covariates, places)
        if (self._columns.amounts_of(rows.covariates)[t < t0[codes]] != 0.0).any():
            raise ValueError("X holds a dose before the start of its series; it can't be told what follows it.")
        found = answers(now, inputs, self._best.u[known], t0, (codes, t, before), with_slopes=with_slopes)
        return found, known[codes]

    def _inputs_of(
        self, codes: np.ndarray, t: np.ndarray, covariates: np.ndarray, places: np.ndarray
    ) -> tuple[Inputs | None, np.ndarray]:
        """Inputs and doses of queried series, as known from ``fit`` and as in the query; and events before its rows."""
        columns = self._columns
        if not columns.inputs and not columns.doses:
            return None, np.zeros(len(t), dtype=np.int64)
        position = np.full(len(self._ids), -1)
        position[places[places >= 0]] = np.flatnonzero(places >= 0)
        known = position[self._known[0]] >= 0
        known_codes, *of_fit = (part[known] for part in self._known)
        queried = codes, t, columns.inputs_of(covariates), columns.amounts_of(covariates)
        linear = self.interpolation == "linear"
        return joined(columns.inputs, (position[known_codes], *of_fit), queried, linear=linear)
