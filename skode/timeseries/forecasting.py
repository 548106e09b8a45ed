"""Forecasts of a fitted latent ODE as frames, intervals of its predictive distributions, and their scores."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import torch

from skode.frames import LongRows, column_label, read_span, take_apart, times_of_kind
from skode.timeseries.fitted import FittedLatentODE
from skode.timeseries.future import joined, last_times, steps_ahead, usual_steps, with_covariates
from skode.timeseries.mixtures import crps, quantile
from skode.timeseries.posterior import Posterior
from skode.timeseries.query import Query
from skode.training import array_api, by_partition, check_level, to_pandas


class ForecastingLatentODE(FittedLatentODE):
    """Base of the latent ODE's estimator: forecasts, intervals and their scores."""

    @by_partition
    @array_api
    def predict_interval(self, X: Any, level: float = 0.9, known: str = "all") -> np.ndarray:
        """Interval that holds an observation with a given probability, from quantiles of the predictive distribution.

        The distribution is the mixture over draws of the latent state, noise of observations included; its quantiles
        leave ``(1 - level) / 2`` on each side. Those of counts and of binary outputs are whole numbers, between which
        the probability is ``level`` or more.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        level : float, default=0.9
            The probability, between 0 and 1.
        known : {"all", "before"}, default="all"
            As in ``predict``.

        Returns
        -------
        ndarray of shape (n_rows, 2) or (n_rows, n_outputs, 2)
            Lower and upper ends, in the units of y.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X does not have the columns, or times not the kind, that they had in ``fit``, or ``level`` or
            ``known`` are not as described.
        SolverError
            If no draw of a latent state can be solved as far as the times of X.
        """
        check_level(level)
        return self._units.in_shape_of_y(self._interval(*self._query_and_posterior(self._read(X), known), level))

    @by_partition
    @array_api
    def crps(self, X: Any, y: Any, known: str = "all") -> np.ndarray:
        r"""Continuous ranked probability score of observations: lower is better.

        It compares the predictive distribution F with what came, :math:`\int (F(x) - 1\{x \ge y\})^2 dx`, in the units
        of y [1]_; of a prediction without any spread it is the absolute error. Of mixtures of normal distributions it
        is computed in closed form [2]_.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Observed values; NaN where nothing was observed.
        known : {"all", "before"}, default="all"
            As in ``predict``.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, n_outputs)
            Scores of single values; NaN where nothing was observed.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X or y are not as in ``fit``, or ``known`` is not as described.
        SolverError
            If no draw of a latent state can be solved as far as the times of X.

        References
        ----------
        .. [1] T. Gneiting, A. E. Raftery, "Strictly proper scoring rules, prediction, and estimation", JASA 102, 2007.
        .. [2] E. P. Grimit, T. Gneiting, V. J. Berrocal, N. A. Johnson, "The continuous ranked probability score for
           circular variables and its application to mesoscale forecast ensemble verification", Quarterly Journal of
           the Royal Meteorological Society 132, 2006.
        """
        rows = self._read(X)
        values = torch.from_numpy(self._units.standardised(self._targets(y, rows, maybe_nothing=True)))
        query, posterior = self._query_and_posterior(rows, known)
        likelihood = self.module_.likelihood
        score = self._predictive().gather(
            lambda p: crps(likelihood, p, values[torch.from_numpy(p.rows)].to(p.eta))[None], query, posterior
        )[0]
        return self._units.in_shape_of_y(score * self._units.y_scale)

    @array_api
    def forecast(
        self,
        horizon: Any = None,
        *,
        n_steps: int | None = None,
        times: Any = None,
        series: Any = None,
        covariates: Any = None,
        level: float = 0.9,
    ) -> pd.DataFrame:
        """Forecast series that the model is conditioned on, as a long frame.

        Exactly one of ``horizon``, ``n_steps`` and ``times`` says for when.

        Parameters
        ----------
        horizon : float, str, timedelta or None, default=None
            How far beyond the last observation of each series to forecast: a number in the unit of the time column,
            or for dates and time differences one such as "7D" or ``pd.Timedelta(days=7)``. Times are the series'
            usual steps, the median gaps between its observations, as many as lie within the horizon; where not one
            does, the horizon's end alone.
        n_steps : int or None, default=None
            The same by the number of the series' usual steps.
        times : array-like of shape (n_times,), DataFrame or None, default=None
            Times for all series, of the kind that X held in ``fit``; or a frame with the columns of ids and times.
            Where this has all columns of X, its covariates are taken as well.
        series : object or array-like of them, default=None
            Ids of the series; None: all that the model is conditioned on, in the order of ``latent_states()``. Not
            with a frame of times.
        covariates : DataFrame, array-like, callable or None, default=None
            Covariates to come: rows with the columns of X; or a function of an array of ids and a series of times,
            which returns covariates as a frame or as an array of shape (n, n_covariates).
            Covariates change linearly between rows that are known and stay as they are after the last of them; None:
            only rows that the model is conditioned on are known.
        level : float, default=0.9
            The probability with which a future observation lies within the interval.

        Returns
        -------
        DataFrame of shape (n_rows, n_keys + 4 * n_outputs)
            The columns of ids (unless all rows are one series) and of times (of dates in the time zone that they had in
            ``fit``), and for each output, by its name, ``{output}_mean``, ``{output}_std``, ``{output}_lower`` and
            ``{output}_upper``: as of ``predict`` and ``predict_interval``. Sorted by series, then time; those of a
            frame of times are in its order.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where an argument is not as described, or no series has two observations between which a usual step lies.
        SolverError
            If no draw of a latent state can be solved so far.

        Notes
        -----
        With a time zone, steps of a whole number of days are days of its calendar.

        Examples
        --------
        >>> from skode import LatentODERegressor
        >>> from skode.datasets import make_spirals
        >>> X, y = make_spirals(n_series=20, n_observations=15, random_state=0)
        >>> model = LatentODERegressor(series="series", time="time", max_iter=5, random_state=0).fit(X, y)
        >>> model.forecast(n_steps=3, series=[0, 4]).columns.tolist()
        ['series', 'time', 'x_mean', 'x_std', 'x_lower', 'x_upper', 'y_mean', 'y_std', 'y_lower', 'y_upper']
        """
        check_level(level)
        self._fitted_module()
        if sum(one is not None for one in (horizon, n_steps, times)) != 1:
            raise ValueError("forecast needs exactly one of horizon, n_steps and times.")
        rows, others = self._rows_to_come(horizon, n_steps, times, series, covariates)
        query, posterior = self._query_and_posterior(joined(rows, others), "all")
        n, units = len(rows), self._units
        mean, std = self._predictive().moments(query, posterior, with_std=True)
        assert std is not None
        ends = self._interval(query, posterior, level)[:n]
        columns = {
            "mean": units.original(mean),
            "std": std * units.y_scale,
            "lower": ends[..., 0],
            "upper": ends[..., 1],
        }
        frame: dict[Any, Any] = {} if self.series is None else {column_label(self.series, "series"): rows.series}
        frame[column_label(self.time, "time")] = times_of_kind(rows.time, units.time_kind, units.time_zone)
        for k, output in enumerate(units.output_names):
            frame |= {f"{output}_{what}": values[:n, k] for what, values in columns.items()}
        return pd.DataFrame(frame)

    def _interval(self, query: Query, posterior: Posterior, level: float) -> np.ndarray:
        """Ends of intervals in the units of y, of shape (n_rows, n_outputs, 2)."""
        likelihood, tail = self.module_.likelihood, 0.5 * (1.0 - level)
        ends = self._predictive().gather(
            lambda p: torch.stack([quantile(likelihood, p, tail), quantile(likelihood, p, 1.0 - tail)]),
            query,
            posterior,
        )
        return np.stack([self._units.original(end) for end in ends], axis=-1)

    def _rows_to_come(
        self, horizon: Any, n_steps: Any, times: Any, series: Any, covariates: Any
    ) -> tuple[LongRows, LongRows | None]:
        """The rows of a forecast, and others from which covariates are known."""
        known, units = self.context_, self._units
        others: LongRows | Callable[..., Any] | None = covariates
        if covariates is not None:
            if not units.n_columns:
                raise ValueError("covariates were given, but the model was fitted without any; leave covariates=None.")
            if not callable(covariates):
                others = self._read(covariates)
                units.check_time_kind(others, self.time)
        times = to_pandas(times, "times")
        if isinstance(times, pd.DataFrame):
            if series is not None:
                raise ValueError("series were given beside a frame of times, which names them; leave series=None.")
            if covariates is None and self._has_all_columns(times):
                rows = self._read(self._in_order(times))
                units.check_time_kind(rows, self.time)
                return rows, None
            rows = take_apart(times, series=self.series, time=self.time, with_covariates=False)
            units.check_time_kind(rows, self.time)
            ids, seconds = pd.Index(rows.series), rows.time
        else:
            ids, seconds = self._times_to_come(horizon, n_steps, times, self._positions_of(series))
        if isinstance(others, LongRows) and not pd.Index(others.series).isin(ids).any():
            raise ValueError(
                f"covariates are of series {pd.unique(others.series).tolist()[:3]}, none of which is forecast; those "
                f"that are: {ids.unique().tolist()[:3]}. Ids count with their type."
            )
        rows = with_covariates(ids, seconds, known, units, others)
        return rows, others if isinstance(others, LongRows) else None

    def _times_to_come(self, horizon: Any, n_steps: Any, times: Any, chosen: np.ndarray) -> tuple[pd.Index, np.ndarray]:
        """Ids and times of a forecast of series at some positions."""
        known, units = self.context_, self._units
        if times is not None:
            if np.ndim(times) != 1 or len(times) == 0:
                raise ValueError(
                    f"times must be a frame, or have one dimension and hold one time at least; got {times!r}."
                )
            seconds = np.sort(units.read_array_of_times(pd.Series(times)))
            return known.ids[np.repeat(chosen, len(seconds))], np.tile(seconds, len(chosen))
        last, step = last_times(known)[chosen], usual_steps(known)[chosen]
        if n_steps is not None:
            if not isinstance(n_steps, Integral) or n_steps < 1:
                raise ValueError(f"n_steps must be an integer, 1 or more; got {n_steps!r}.")
            count = np.full(len(chosen), int(n_steps))
        else:
            span = read_span("horizon", horizon, self.time_kind_, self.time)
            count = np.floor(span / step + 1e-6).astype(int)
            step, count = np.where(count > 0, step, span), np.maximum(count, 1)
        seconds, codes = steps_ahead(last, step, count, units)
        return known.ids[chosen[codes]], seconds

    def _has_all_columns(self, frame: pd.DataFrame) -> bool:
        """Whether a frame has all columns that X had in ``fit``."""
        names = getattr(self, "feature_names_in_", None)
        if names is None:
            return frame.shape[1] == self.n_features_in_
        return set(names) <= {*frame.columns, *frame.index.names}

    def _in_order(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The columns of X, as ``fit`` had them, of a frame that has all of them in any order."""
        names = list(getattr(self, "feature_names_in_", frame.columns))
        return frame[names] if set(names) <= set(frame.columns) else frame

    def _positions_of(self, series: Any) -> np.ndarray:
        """Positions of series by their ids; ValueError for those that the model is not conditioned on."""
        known = self.context_.ids
        if series is None:
            return np.arange(len(known))
        series = to_pandas(series, "series")
        ids = pd.Index([series] if np.ndim(series) == 0 else series)
        positions = known.get_indexer(ids)
        if (positions < 0).any():
            raise ValueError(
                f"The model is not conditioned on series {ids[positions < 0].tolist()[:3]}: give their observations by "
                "condition, or a frame of times."
            )
        return positions
