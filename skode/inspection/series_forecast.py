"""Forecasts of series by a latent ODE, beside the observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.utils.validation import check_is_fitted

from skode.frames import read_rows
from skode.inspection._axes import require_matplotlib, several_axes
from skode.inspection._estimators import refusal
from skode.inspection._series_grid import Grid, drawn_times, grid_over, unit_of
from skode.timeseries import LatentODERegressor
from skode.timeseries.latent_ode import HORIZON
from skode.training import as_numpy, as_python, to_pandas

#: How many series are drawn where none are named.
N_SERIES = 3

#: Points are drawn above the lines.
POINTS = {"s": 25, "zorder": 3}


@dataclass(frozen=True)
class SeriesForecast:
    """The curves and points of one series; times are numbers, dates or time differences, as the user's are.

    Attributes
    ----------
    series : object
        Its id.
    times : array-like of shape (n_times,)
        The grid.
    mean : ndarray of shape (n_times, n_outputs)
        Predicted means.
    lower, upper : ndarray of shape (n_times, n_outputs) or None
        The band of an observation; None: no band is drawn.
    observed_times : array-like of shape (n_rows,)
        Times of the rows.
    observed : ndarray of shape (n_rows, n_outputs)
        Observed values; NaN where nothing was observed.
    held_out : ndarray of bool, of shape (n_rows,)
        Mask of the rows that the model was not given.
    known : bool
        Whether the model is conditioned on observations of this series; else it is answered from the prior.
    """

    series: Any
    times: Any
    mean: np.ndarray
    lower: np.ndarray | None
    upper: np.ndarray | None
    observed_times: Any
    observed: np.ndarray
    held_out: np.ndarray
    known: bool = True


class SeriesForecastDisplay:
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

    def __init__(
        self,
        forecasts: Sequence[SeriesForecast],
        *,
        level: float,
        output_names: Sequence[str],
        series_name: str | None = None,
        time_name: str = "time",
    ) -> None:
        self.forecasts = forecasts
        self.level = level
        self.output_names = output_names
        self.series_name = series_name
        self.time_name = time_name

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

        The band is ``mean +- z std`` of ``predict(return_std=True)``, with ``z`` the normal quantile for ``level``. It
        is the band of an observation, not of its mean: ``std`` holds the noise of observations and the uncertainty of
        the latent state. Counts (``likelihood="poisson"``) have the same band, cut off at 0, which is rough where they
        are small. Values of 0 and 1 (``likelihood="bernoulli"``) have none: their standard deviation is
        :math:`\sqrt{p (1 - p)}` whatever the uncertainty, and says no more than the mean ``p``.

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
            its span beyond the last.
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
        if not isinstance(level, Real) or not 0.0 < level < 1.0:
            raise ValueError(f"level must be a probability between 0 and 1; got {level!r}.")
        who = type(estimator).__name__
        X, y, times, held_out = (
            as_numpy(value, name, who) for value, name in ((X, "X"), (y, "y"), (times, "times"), (held_out, "held_out"))
        )
        X = to_pandas(X)
        rows = read_rows(estimator, X, series=estimator.series, time=estimator.time, reset=False)
        values = estimator._targets(y, rows, maybe_nothing=True)
        grid = Grid(X, rows, series=estimator.series, time=estimator.time)
        columns = _chosen_outputs(outputs, estimator._units.output_names)
        aside = _marked(held_out, len(rows))
        codes, ids = pd.factorize(rows.series)
        chosen = _chosen_series(to_pandas(series, "series"), pd.Index(ids))
        if condition:
            new = (estimator.context_.ids.get_indexer(pd.Index(rows.series)) < 0) & ~aside
            if new.any():
                estimator = estimator.condition(grid.frame[new], values[new])
        known = estimator.context_.ids.get_indexer(pd.Index(ids)) >= 0
        forecasts = []
        for code in chosen:
            own = codes == code
            seconds = (
                grid_over(rows.time[own], HORIZON * estimator.time_scale_) if times is None else grid.seconds(times)
            )
            mean, std = estimator.predict(grid.at(own, seconds), return_std=True)
            mean, std = (part.reshape(len(seconds), -1)[:, columns] for part in (mean, std))
            forecasts.append(
                SeriesForecast(
                    ids[code],
                    grid.written(seconds),
                    mean,
                    *_band(estimator.likelihood, mean, std, level),
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

    def plot(
        self,
        axes: Any = None,
        *,
        line_kw: dict[str, Any] | None = None,
        band_kw: dict[str, Any] | None = None,
        points_kw: dict[str, Any] | None = None,
        held_out_kw: dict[str, Any] | None = None,
    ) -> SeriesForecastDisplay:
        """Draw the forecasts.

        Dates stay dates; time differences are drawn in days, hours, minutes or seconds, as the label says.

        Parameters
        ----------
        axes : matplotlib Axes or array-like of them, default=None
            One for each output and series, the first output's first; None: those of a new figure.
        line_kw, band_kw, points_kw, held_out_kw : dict, default=None
            Keyword arguments for the mean, the band, the observations and those held out, beside the defaults; see
            :meth:`matplotlib.axes.Axes.plot`, ``fill_between`` and ``scatter``.

        Returns
        -------
        SeriesForecastDisplay
            This one.

        Raises
        ------
        ValueError
            Where there are more or fewer axes than panels.
        ImportError
            Where matplotlib is missing.
        """
        caller = f"{type(self).__name__}.plot"
        shape = (len(self.output_names), len(self.forecasts))
        require_matplotlib(caller)
        own_figure = axes is None
        if own_figure:
            import matplotlib.pyplot as plt

            size = (4.0 * shape[1], 3.0 * shape[0])
            axes = plt.subplots(*shape, sharex="col", squeeze=False, figsize=size, layout="constrained")[1]
        self.axes_: Any = several_axes(axes, shape[0] * shape[1], caller).reshape(shape)
        self.figure_ = self.axes_[0, 0].figure
        self.lines_, self.bands_, self.points_, self.held_out_points_ = (np.full(shape, None) for _ in range(4))
        unit, per_unit = unit_of([forecast.times for forecast in self.forecasts])
        band_kw = {"alpha": 0.25, "linewidth": 0, "label": f"{100 * self.level:g} % band", **(band_kw or {})}
        line_kw = {"label": "mean", **(line_kw or {})}
        points_kw = {**POINTS, "color": "black", "marker": ".", "label": "observed", **(points_kw or {})}
        held_out_kw = {**POINTS, "color": "tab:red", "marker": "x", "label": "held out", **(held_out_kw or {})}
        for (i, j), ax in np.ndenumerate(self.axes_):
            forecast = self.forecasts[j]
            times, observed_times = (drawn_times(part, per_unit) for part in (forecast.times, forecast.observed_times))
            (line,) = ax.plot(times, forecast.mean[:, i], **line_kw)
            self.lines_[i, j] = line
            if forecast.lower is not None and forecast.upper is not None:
                band = {"color": line.get_color()} | band_kw
                self.bands_[i, j] = ax.fill_between(times, forecast.lower[:, i], forecast.upper[:, i], **band)
            for artists, kind, settings in (
                (self.points_, ~forecast.held_out, points_kw),
                (self.held_out_points_, forecast.held_out, held_out_kw),
            ):
                there = kind & ~np.isnan(forecast.observed[:, i])
                if there.any():
                    artists[i, j] = ax.scatter(observed_times[there], forecast.observed[there, i], **settings)
            if isinstance(forecast.times, pd.DatetimeIndex):
                _write_dates(ax, forecast.times.tz)
            ax.set(xlabel=self.time_name + unit, ylabel=self.output_names[i])
            if own_figure and i < shape[0] - 1:
                ax.set_xlabel("")
            if i == 0:
                ax.set_title(self._title(forecast))
        self.legend_ = self._legend(own_figure)
        return self

    def _title(self, forecast: SeriesForecast) -> str:
        if self.series_name is None:
            return ""
        # Text speaks for itself, "site 03"; a number does not.
        name = forecast.series if isinstance(forecast.series, str) else f"{self.series_name} {forecast.series}"
        return name + ("" if forecast.known else ", never seen: prior")

    def _legend(self, own_figure: bool) -> Any:
        """A legend of all panels, as the first may lack some of their artists."""
        found: dict[str, Any] = {}
        for ax in self.axes_.flat:
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                found.setdefault(label, handle)
        if not found:
            return None
        entries = {"handles": list(found.values()), "labels": list(found), "fontsize": "small"}
        if own_figure:
            # One row, as wide as a single panel.
            row = {"loc": "outside lower center", "ncols": len(found), "handlelength": 1.5, "columnspacing": 1.0}
            return self.figure_.legend(**row, **entries)
        return self.axes_[0, 0].legend(**entries)


def _write_dates(ax: Any, zone: Any) -> None:
    """Write dates shortly below an axis, in their time zone."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(tz=zone)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=zone))


def _chosen_series(series: Any, ids: pd.Index) -> np.ndarray:
    """Positions of the series to draw among those of X."""
    if series is None:
        return np.arange(min(len(ids), N_SERIES))
    wanted = [series] if np.ndim(series) == 0 else pd.Series(series).tolist()
    positions = ids.get_indexer(pd.Index(wanted))
    if not len(wanted) or (positions < 0).any():
        missing = [one for one, position in zip(wanted, positions, strict=True) if position < 0]
        what = f"X has no row of {as_python(missing[0])!r}" if missing else "it names none"
        raise ValueError(f"series={series!r} must name series of X, but {what}.")
    return positions


def _chosen_outputs(outputs: Any, names: list[Any]) -> list[int]:
    """Positions of the outputs to draw."""
    if outputs is None:
        return list(range(len(names)))
    wanted = [outputs] if np.ndim(outputs) == 0 else list(outputs)
    positions = []
    for one in wanted:
        if one in names:
            positions.append(names.index(one))
        elif isinstance(one, Integral) and -len(names) <= int(one) < len(names):
            positions.append(int(one) % len(names))
        else:
            raise ValueError(f"outputs={outputs!r} holds {one!r}, but the outputs are {names}, or their positions.")
    if not positions:
        raise ValueError(f"outputs={outputs!r} must name one output at least, of {names}.")
    return positions


def _marked(held_out: Any, n_rows: int) -> np.ndarray:
    """Rows as a mask, from a mask or positions."""
    aside = np.zeros(n_rows, dtype=bool)
    if held_out is None:
        return aside
    given = np.asarray(held_out)
    is_mask = given.dtype == bool and given.shape == (n_rows,)
    are_positions = given.ndim == 1 and given.dtype.kind in "iu" and ((given >= 0) & (given < n_rows)).all()
    if not is_mask and not are_positions:
        raise ValueError(f"held_out must be a mask of the {n_rows} rows of X, or positions of rows; got {held_out!r}.")
    aside[given] = True
    return aside


def _band(
    likelihood: str, mean: np.ndarray, std: np.ndarray, level: float
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Lower and upper ends of the band of an observation; None where outputs are 0 or 1."""
    if likelihood == "bernoulli":
        return None, None
    reach = norm.ppf(0.5 * (1.0 + level)) * std
    lower = mean - reach
    return (np.maximum(lower, 0.0) if likelihood == "poisson" else lower), mean + reach
