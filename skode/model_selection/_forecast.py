"""Forecasts of known series."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import Interval, validate_parameter_constraints

from skode.frames import Column, read_span
from skode.model_selection._long import LongFrameSplit, SeriesTimes, part_of

Duration = float | timedelta | np.timedelta64

_PARAMETER_CONSTRAINTS: dict = {
    "n_splits": [Interval(Integral, 1, None, closed="left")],
    "series": [str, Integral, None],
    "time": [str, Integral],
    "horizon": [timedelta, np.timedelta64, Interval(Real, 0, None, closed="neither"), None],
    "test_fraction": [Interval(Real, 0, 1, closed="neither")],
    "gap": [timedelta, np.timedelta64, Interval(Real, 0, None, closed="neither"), None],
}


class ForecastSplit(LongFrameSplit):
    """Cross-validator that tests on the later rows of each series and trains on its earlier ones.

    Each series has separate cut-offs, counted back from its last row, so that series that end years apart all are
    forecast as far ahead. Fold k trains on the rows of all series up to their cut-off k and tests on those from there
    to cut-off k + 1, the last fold on those to the end: a rolling origin [1]_. Rows of a series at the same time stay
    together.

    A series is tested only in folds in which it has an earlier row to train on. The rows of the fold that it begins
    in are training rows of every fold, so that a series too short for any test trains always.

    Parameters
    ----------
    n_splits : int, default=3
        Number of folds, at least 1.
    series : str, int or None, default=None
        The column of X that holds series ids, by name or position, or a level of its index by name; None: all
        rows are one series.
    time : str or int, default=0
        The column of X that holds times, by name or position, or a level of its index by name: numbers, dates
        (with or without time zone), periods or time differences.
    horizon : float, timedelta or None, default=None
        Length of each fold's forecasts, in the unit of ``time``; for dates and time differences a timedelta, such as
        ``pd.Timedelta(days=7)``. The cut-offs of a series lie 1, 2, ... horizons before its last row, and a row at a
        cut-off is a training row. None: cut-offs by ``test_fraction``.
    test_fraction : float, default=0.2
        Fraction of each series' distinct times that each fold tests, rounded down but at least one time; ignored
        with ``horizon``. All folds together test ``n_splits`` times as many, which must leave some to train on.
    gap : float, timedelta or None, default=None
        Training rows of a series less than this before its first test row of the fold are left out, in the unit
        of ``horizon``: targets not yet known when a forecast is made.

    Raises
    ------
    ValueError
        If a parameter has a wrong type or lies outside its range, or the folds leave nothing to train on; from
        ``split`` if ``horizon`` or ``gap`` do not suit the time column, or no series is long enough for a fold.

    See Also
    --------
    PrefixSplit : Tests on series of which only a first part is known.
    sklearn.model_selection.TimeSeriesSplit : The same for one series of rows in order.

    Notes
    -----
    ``test_fraction`` counts times and not the length of the span, so that a silence in a series empties no fold and
    a burst of observations fills none. To forecast equally far in time, give ``horizon``; then series with nothing
    observed in a fold's horizon are not tested in that fold.

    Cut-offs by series may lie at different dates: a fold may train on rows of one series later than test rows of
    another.

    References
    ----------
    .. [1] L. J. Tashman, "Out-of-sample tests of forecasting accuracy: an analysis and review", International Journal
       of Forecasting 16(4), 437-450, 2000.

    Examples
    --------
    >>> import pandas as pd
    >>> from skode.model_selection import ForecastSplit
    >>> X = pd.DataFrame({"id": ["a"] * 5 + ["b"] * 3, "day": [0, 1, 2, 3, 4, 7, 8, 9]})
    >>> for train, test in ForecastSplit(2, series="id", time="day", horizon=1).split(X):
    ...     print(train, test)
    [0 1 2 5] [3 6]
    [0 1 2 3 5 6] [4 7]

    """

    def __init__(
        self,
        n_splits: int = 3,
        *,
        series: Column | None = None,
        time: Column = 0,
        horizon: Duration | None = None,
        test_fraction: float = 0.2,
        gap: Duration | None = None,
    ) -> None:
        self.n_splits = n_splits
        self.series = series
        self.time = time
        self.horizon = horizon
        self.test_fraction = test_fraction
        self.gap = gap
        validate_parameter_constraints(_PARAMETER_CONSTRAINTS, vars(self), type(self).__name__)
        if horizon is None and n_splits * test_fraction >= 1:
            raise ValueError(
                f"n_splits={n_splits} folds that each test test_fraction={test_fraction} of a series leave nothing to "
                f"train on: test_fraction must be below 1 / n_splits = {1 / n_splits:.3g}."
            )

    def _masks(self, rows: SeriesTimes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        tested_in = self._fold_that_tests(rows)
        gap = 0.0 if self.gap is None else read_span("gap", self.gap, rows.time_kind, self.time)
        for fold in range(self.n_splits):
            test = tested_in == fold
            first_test = rows.per_series(np.where(test, rows.time, np.inf), "min")
            train = (tested_in < fold) & (first_test - rows.time >= gap - _rounding(rows.time))
            test &= rows.per_series(train, "any")
            if not test.any():
                raise ValueError(
                    f"Fold {fold} of n_splits={self.n_splits} has nothing to test: no series has rows in it and "
                    "earlier ones to train on. Give fewer splits, or a shorter horizon or gap."
                )
            yield train, test

    def _fold_that_tests(self, rows: SeriesTimes) -> np.ndarray:
        """The fold in which each row is a test row; negative: in none, and it trains in all."""
        if self.horizon is None:
            rank = rows.rank()
            last_rank = rows.per_series(rank, "max")
            folds_back = (last_rank - rank) // part_of(self.test_fraction, last_rank + 1)
        else:
            horizon = read_span("horizon", self.horizon, rows.time_kind, self.time)
            before_last = rows.per_series(rows.time, "max") - rows.time
            folds_back = (before_last + _rounding(rows.time)) // horizon
        fold = self.n_splits - 1 - folds_back
        begins = fold == rows.per_series(fold, "min")
        return np.where(begins, -1, fold)


def _rounding(time: np.ndarray) -> float:
    """Bound of the rounding error of a difference of two times: 0.7 - 0.6 is less than 0.1."""
    return 4 * np.spacing(np.abs(time).max())
