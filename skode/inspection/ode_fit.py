"""Solutions of fitted equations beside the observations."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.utils.validation import check_is_fitted

from skode.frames import output_names, read_targets
from skode.inspection._axes import require_matplotlib
from skode.inspection._estimators import refusal
from skode.inspection._series_grid import EquationsGrid, grid_over
from skode.inspection._series_panels import SeriesForecast, SeriesPanels, chosen_outputs, chosen_series, marked_rows
from skode.training import as_numpy, check_level, to_pandas


class ODEFitDisplay(SeriesPanels):
    """Observations of series, the fitted solution, and a band for observations.

    Made by :meth:`from_estimator`. Each series has a panel, and each output a row of them.

    Parameters
    ----------
    forecasts : sequence of SeriesForecast
        The curves, bands and observations to draw.
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
        In each panel the solution (Line2D), the band (its polygon), the observations and those held out
        (PathCollection); None where nothing is drawn.
    legend_ : matplotlib Legend or None
        The legend: below the panels of a figure of its own, else in the first of the given axes.
    figure_ : matplotlib Figure
        The figure that holds them.

    See Also
    --------
    ProfileDisplay : Profile likelihoods of the parameters.
    VectorFieldDisplay : The fitted equations in the plane of two states.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from skode import ODERegressor
    >>> from skode.inspection import ODEFitDisplay
    >>> def decay(t, y, p):
    ...     return -(p["rate"] * y[..., 0])[..., None]
    >>> X = pd.DataFrame({"flask": ["a", "b"] * 10, "hour": np.repeat(np.arange(10.0), 2)})
    >>> rng = np.random.default_rng(0)
    >>> y = 5 * np.exp(-0.4 * X["hour"]) + 0.1 * rng.standard_normal(20)
    >>> model = ODERegressor(decay, {"rate": (1.0, 0, None)}, series="flask", time="hour").fit(X, y)
    >>> display = ODEFitDisplay.from_estimator(model, X, y)
    >>> display.axes_.shape  # one output, two series
    (1, 2)
    """

    curve_label = "fit"

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        series: Any = None,
        times: Any = None,
        level: float = 0.95,
        outputs: Any = None,
        held_out: Any = None,
        axes: Any = None,
        line_kw: dict[str, Any] | None = None,
        band_kw: dict[str, Any] | None = None,
        points_kw: dict[str, Any] | None = None,
        held_out_kw: dict[str, Any] | None = None,
    ) -> ODEFitDisplay:
        """Solve the equations of series on a grid of times, and draw that beside their rows.

        The band is ``mean +- z std`` of ``predict(return_std=True)``, with ``z`` the normal quantile for ``level``. It
        is the band of an observation: ``std`` holds the noise, and the uncertainty of parameters and initial states.
        With ``noise="lognormal"`` it is the interval of the lognormal distribution of that median and standard
        deviation; for counts it is cut off at 0.

        Inputs on the grid follow the rows of X as in the model: as ``interpolation`` says from row to row of the
        series, and constant before the first and after the last. Doses are given at the times of their rows.

        Parameters
        ----------
        estimator : ODERegressor or another one with ``predict`` and ``vector_field``
            A fitted estimator.
        X : DataFrame or array-like of shape (n_rows, n_columns)
            Rows of the series to draw, as in ``fit``.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Observed values; NaN where nothing was observed.
        series : object or array-like of them, default=None
            The ids of the series to draw; None: the first three in X.
        times : array-like of shape (n_times,), default=None
            The grid, in times of the kind that X holds; None: 200 times from a series' first row in X to its last.
        level : float, default=0.95
            The probability that the band is to hold.
        outputs : str, int or array-like of them, default=None
            Outputs to draw, by name or position; None: all.
        held_out : array-like, default=None
            The rows of X that the estimator was not fitted to, as a mask or as positions (as splitters give them);
            they have another marker.
        axes : matplotlib Axes or array-like of them, default=None
            One for each output and series, the first output's first; None: those of a new figure.
        line_kw, band_kw, points_kw, held_out_kw : dict, default=None
            As in :meth:`plot`.

        Returns
        -------
        ODEFitDisplay
            The picture.

        Raises
        ------
        TypeError
            Where the estimator has not these methods.
        NotFittedError
            Where it has not been fitted.
        ValueError
            Where a parameter is not as described, X has no row of a series, a series can't be predicted, or there are
            more or fewer axes than panels.
        SolverError
            Where a solution can't be followed over the grid.
        ImportError
            Where matplotlib is missing.
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        if not hasattr(estimator, "vector_field") or not hasattr(estimator, "predict"):
            raise refusal("estimator must have predict and vector_field, as an ODERegressor has", estimator)
        check_is_fitted(estimator)
        check_level(level)
        who = type(estimator).__name__
        X, y, times, held_out = (
            as_numpy(value, name, who) for value, name in ((X, "X"), (y, "y"), (times, "times"), (held_out, "held_out"))
        )
        X, y = to_pandas(X), to_pandas(y, "y")
        grid = EquationsGrid(estimator, X)
        rows = grid.rows
        values, names = read_targets(y, len(rows), maybe_nothing=True), output_names(y)
        columns = chosen_outputs(outputs, names)
        aside = marked_rows(held_out, len(rows))
        codes, ids = pd.factorize(rows.series)
        longest = float(pd.Series(rows.time).groupby(codes).agg(np.ptp).max())
        predict = functools.partial(estimator.predict, return_std=True)
        forecasts = []
        for code in chosen_series(to_pandas(series, "series"), pd.Index(ids)):
            own = codes == code
            seconds = grid_over(rows.time[own], longest or 1.0, 0.0) if times is None else grid.seconds(times)
            mean, std = grid.answers(predict, own, seconds)
            if mean.shape[1] != len(names):
                raise ValueError(f"y has {len(names)} outputs, but had {mean.shape[1]} in fit.")
            mean, std = mean[:, columns], std[:, columns]
            forecasts.append(
                SeriesForecast(
                    ids[code],
                    grid.written(seconds),
                    mean,
                    *_band(getattr(estimator, "noise", "gaussian"), mean, std, level),
                    grid.written(rows.time[own]),
                    values[own][:, columns],
                    aside[own],
                )
            )
        display = cls(
            forecasts,
            level=level,
            output_names=[str(names[k]) for k in columns],
            series_name=grid.series_name,
            time_name=grid.time_name,
        )
        return display.plot(axes, line_kw=line_kw, band_kw=band_kw, points_kw=points_kw, held_out_kw=held_out_kw)


def _band(noise: str, mean: np.ndarray, std: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Lower and upper ends of the band of an observation.

    A lognormal variable of median m and standard deviation s has, with v the variance of its logarithm,
    :math:`s^2 = m^2 e^v (e^v - 1)`, which is solved for v.
    """
    z = norm.ppf(0.5 * (1.0 + level))
    if noise == "lognormal":
        v = np.log(0.5 * (1.0 + np.sqrt(1.0 + 4.0 * (std / mean) ** 2)))
        return mean * np.exp(-z * np.sqrt(v)), mean * np.exp(z * np.sqrt(v))
    lower = mean - z * std
    return (np.maximum(lower, 0.0) if noise in ("poisson", "binomial") else lower), mean + z * std
