"""Forecasts of series by a latent ODE, beside the observations."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
from sklearn.utils.validation import check_is_fitted

from skode.frames import read_rows
from skode.inspection._axes import require_matplotlib
from skode.inspection._estimators import refusal
from skode.inspection._series_grid import EquationsGrid, Grid, grid_over
from skode.inspection._series_panels import (
    SeriesForecast,
    SeriesPanels,
    chosen_outputs,
    chosen_series,
    marked_rows,
)
from skode.timeseries import LatentODERegressor
from skode.training import as_numpy, check_level, to_pandas


class SeriesForecastDisplay(SeriesPanels):
    """Observations of series, the predicted mean, and a band for observations.

    Made by :meth:`from_estimator`. Each series has a panel, and each output a row of them.

    Parameters
    ----------
    forecasts : sequence of SeriesForecast
        The forecasts to draw.
    level : float
        The probability that the bands were made for.
    output_names : sequence of str
        Names of the outputs.
    series_name : str, default=None
        Name of the series in titles, before ids that are no text; None: there is only one, which needs no title.
    time_name : str, default="time"
        Name of the times.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, of shape (n_outputs, n_series)
        The panels.
    lines_, bands_, points_, held_out_points_ : ndarray of the same shape
        In each panel the mean (Line2D), the band (its polygon), the observations and those held out (PathCollection);
        None where nothing is drawn.
    legend_ : matplotlib Legend or None
        The legend: below the panels of a figure of its own, else in the first of the given axes.
    figure_ : matplotlib Figure
        The figure that holds them.

    Examples
    --------
    >>> from skode import LatentODERegressor
    >>> from skode.datasets import make_spirals
    >>> from skode.inspection import SeriesForecastDisplay
    >>> X, y = make_spirals(n_series=20, n_observations=15, random_state=0)
    >>> model = LatentODERegressor(series="series", time="time", max_iter=5, random_state=0).fit(X, y)
    >>> display = SeriesForecastDisplay.from_estimator(model, X, y, series=[0, 1])
    >>> display.axes_.shape  # two outputs, two series
    (2, 2)
    """

    @classmethod
    def from_estimator(
        cls,
        estimator: LatentODERegressor,
        X: Any,
        y: Any,
        *,
        series: Any = None,
        times: Any = None,
        level: float = 0.9,
        outputs: Any = None,
        held_out: Any = None,
        condition: bool = False,
        axes: Any = None,
        line_kw: dict[str, Any] | None = None,
        band_kw: dict[str, Any] | None = None,
        points_kw: dict[str, Any] | None = None,
        held_out_kw: dict[str, Any] | None = None,
    ) -> SeriesForecastDisplay:
        r"""Predict series on a grid of times, and draw that beside their rows.

        The band is that of ``predict_interval(level=level)``: of an observation, not of its mean, with the noise of
        observations and the uncertainty of the latent state. Values of 0 and 1 (``likelihood="bernoulli"``) have none:
        their distribution is their mean ``p`` whatever the uncertainty.

        Covariates on the grid follow the rows of X as in the model: linearly from row to row of the series, and
        constant before the first and after the last.

        Parameters
        ----------
        estimator : LatentODERegressor
            A fitted estimator; it is left as it is.
        X : DataFrame or array-like of shape (n_rows, n_columns)
            Rows of the series to draw, as in ``fit``.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Observed values; NaN where nothing was observed.
        series : object or array-like of them, default=None
            The ids of the series to draw; None: the first three in X.
        times : array-like of shape (n_times,), default=None
            The grid, in times of the kind that X holds; None: 200 times from a series' first row in X to a quarter of
            its span beyond the last; more where cycles (``periods``) are fast.
        level : float, default=0.9
            The probability that the band is to hold.
        outputs : str, int or array-like of them, default=None
            Outputs to draw, by name or position; None: all.
        held_out : array-like, default=None
            The rows of X that the estimator was not fitted to, as a mask or as positions (as splitters give them);
            they have another marker.
        condition : bool, default=False
            Whether the estimator takes in the rows of X, but those held out, of series that it does not know. Else
            these are answered from the prior, and their titles say so.
        axes : matplotlib Axes or array-like of them, default=None
            One for each output and series, the first output's first; None: those of a new figure.
        line_kw, band_kw, points_kw, held_out_kw : dict, default=None
            As in :meth:`plot`.

        Returns
        -------
        SeriesForecastDisplay
            The picture.

        Raises
        ------
        TypeError
            Where the estimator is no LatentODERegressor.
        NotFittedError
            Where it has not been fitted.
        ValueError
            Where a parameter is not as described, X has no row of a series, or there are more or fewer axes than
            panels.
        ImportError
            Where matplotlib is missing.
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        if not isinstance(estimator, LatentODERegressor):
            raise refusal("estimator must be a LatentODERegressor", estimator)
        check_is_fitted(estimator)
        check_level(level)
        who = type(estimator).__name__
        X, y, times, held_out = (
            as_numpy(value, name, who) for value, name in ((X, "X"), (y, "y"), (times, "times"), (held_out, "held_out"))
        )
        X = to_pandas(X)
        grid = _grid_of(estimator, X)
        rows = grid.rows
        values = estimator._targets(y, rows, maybe_nothing=True)
        columns = chosen_outputs(outputs, estimator._units.output_names)
        aside = marked_rows(held_out, len(rows))
        codes, ids = pd.factorize(rows.series)
        chosen = chosen_series(to_pandas(series, "series"), pd.Index(ids))
        if condition:
            new = (estimator.context_.ids.get_indexer(pd.Index(rows.series)) < 0) & ~aside
            if new.any():
                estimator = estimator.condition(grid.frame[new], values[new])
        known = estimator.context_.ids.get_indexer(pd.Index(ids)) >= 0
        forecasts = []
        for code in chosen:
            own = codes == code
            if times is None:
                highest = estimator._units.highest_frequency
                seconds = grid_over(rows.time[own], estimator._units.span, highest_frequency=highest)
            else:
                seconds = grid.seconds(times)
            mean = grid.answers(estimator.predict, own, seconds)[0][:, columns]
            lower, upper = None, None
            if estimator.likelihood != "bernoulli":
                ends = grid.answers(partial(estimator.predict_interval, level=level), own, seconds)[0]
                ends = ends.reshape(len(seconds), -1, 2)[:, columns]
                lower, upper = ends[..., 0], ends[..., 1]
            forecasts.append(
                SeriesForecast(
                    ids[code],
                    grid.written(seconds),
                    mean,
                    lower,
                    upper,
                    grid.written(rows.time[own]),
                    values[own][:, columns],
                    aside[own],
                    bool(known[code]),
                )
            )
        display = cls(
            forecasts,
            level=level,
            output_names=[str(estimator._units.output_names[k]) for k in columns],
            series_name=grid.series_name,
            time_name=grid.time_name,
        )
        return display.plot(axes, line_kw=line_kw, band_kw=band_kw, points_kw=points_kw, held_out_kw=held_out_kw)


def _grid_of(estimator: LatentODERegressor, X: Any) -> Grid:
    """The rows of X, to be taken over to other times, with doses where its dynamics have some."""
    if estimator.dynamics is not None:
        return EquationsGrid(estimator, X)
    rows = read_rows(estimator, X, series=estimator.series, time=estimator.time, reset=False)
    return Grid(X, rows, series=estimator.series, time=estimator.time)
