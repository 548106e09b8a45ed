"""Panels of series: observations, a curve and a band; a column for each series, a row for each output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Self

import numpy as np
import pandas as pd

from skode.inspection._axes import require_matplotlib, several_axes
from skode.inspection._series_grid import drawn_times, unit_of
from skode.training import as_python

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


class SeriesPanels:
    """Base of the displays that draw curves and bands beside the observations of series; see these."""

    #: The curves' name in the legend.
    curve_label = "mean"

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

    def plot(
        self,
        axes: Any = None,
        *,
        line_kw: dict[str, Any] | None = None,
        band_kw: dict[str, Any] | None = None,
        points_kw: dict[str, Any] | None = None,
        held_out_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the curves, their bands and the observations.

        Dates stay dates; time differences are drawn in days, hours, minutes or seconds, as the label says.

        Parameters
        ----------
        axes : matplotlib Axes or array-like of them, default=None
            One for each output and series, the first output's first; None: those of a new figure.
        line_kw, band_kw, points_kw, held_out_kw : dict, default=None
            Keyword arguments for the curves, the bands, the observations and those held out, beside the defaults; see
            :meth:`matplotlib.axes.Axes.plot`, ``fill_between`` and ``scatter``.

        Returns
        -------
        display
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
        line_kw = {"label": self.curve_label, **(line_kw or {})}
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


def chosen_series(series: Any, ids: pd.Index) -> np.ndarray:
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


def chosen_outputs(outputs: Any, names: list[Any]) -> list[int]:
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


def marked_rows(held_out: Any, n_rows: int) -> np.ndarray:
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
