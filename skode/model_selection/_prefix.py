"""Series of which only a first part is known."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.model_selection import KFold
from sklearn.utils._param_validation import Interval, validate_parameter_constraints

from skode.frames import Column
from skode.model_selection._long import LongFrameSplit, SeriesTimes

_PARAMETER_CONSTRAINTS: dict = {
    "n_splits": [Interval(Integral, 2, None, closed="left")],
    "series": [str, Integral],
    "time": [str, Integral],
    "prefix": [Interval(Real, 0, 1, closed="neither")],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
}


class PrefixSplit(LongFrameSplit):
    """K-fold cross-validator over series, which gives the first part of the test series to training.

    The series are split into folds. Each fold trains on all rows of the other series and on the first rows of its
    own, its prefixes, and tests on the later rows of its own: how well a model continues a series of which it saw the
    start, having seen other series whole. Each series is in one fold. Rows of a series at the same time stay together.

    A series that has all its rows at one time has no later ones: it is in no fold and trains always.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2 and at most the number of series.
    series : str or int
        The column of X that holds series ids, by name or position, or a level of its index by name.
    time : str or int, default=0
        The column of X that holds times, by name or position, or a level of its index by name: numbers, dates
        (with or without time zone), periods or time differences.
    prefix : float, default=0.5
        Fraction of a series' distinct times that is known, rounded down but at least one time, and leaving at least
        one to test.
    shuffle : bool, default=False
        Whether to shuffle the series before they are split into folds. If False, the folds are blocks of series in
        the order of their ids.
    random_state : int, RandomState instance or None, default=None
        Determines the order with ``shuffle``. Pass an int for the same folds at each call.

    Raises
    ------
    ValueError
        If a parameter has a wrong type or lies outside its range; from ``split`` if there are fewer series than
        folds.

    See Also
    --------
    ForecastSplit : Tests on the later rows of all series.
    ContinuationScorer : The same question to a model trained without the prefixes.
    sklearn.model_selection.GroupKFold : Tests on series of which nothing is known.

    Notes
    -----
    The prefixes are rows that ``fit`` sees. :class:`~skode.timeseries.LatentODERegressor` conditions its predictions
    on them, which is what they are for, but its weights are trained on them too. To keep them from the weights, use
    scikit-learn's ``GroupKFold`` and score by :class:`ContinuationScorer`.

    Examples
    --------
    >>> import pandas as pd
    >>> from skode.model_selection import PrefixSplit
    >>> X = pd.DataFrame({"id": ["a"] * 4 + ["b"] * 2, "day": [0, 1, 2, 3, 7, 8]})
    >>> for train, test in PrefixSplit(2, series="id", time="day").split(X):
    ...     print(train, test)
    [0 1 4 5] [2 3]
    [0 1 2 3 4] [5]

    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        series: Column,
        time: Column = 0,
        prefix: float = 0.5,
        shuffle: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_splits = n_splits
        self.series = series
        self.time = time
        self.prefix = prefix
        self.shuffle = shuffle
        self.random_state = random_state
        validate_parameter_constraints(_PARAMETER_CONSTRAINTS, vars(self), type(self).__name__)
        self._folds()  # refuses a random_state without shuffle

    def _folds(self) -> KFold:
        return KFold(self.n_splits, shuffle=self.shuffle, random_state=self.random_state)

    def _masks(self, rows: SeriesTimes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        later = rows.after_prefix(self.prefix)
        continues = np.unique(rows.codes[later])
        if len(continues) < self.n_splits:
            raise ValueError(
                f"n_splits={self.n_splits} folds need as many series with rows at two or more times; in the column "
                f"series={self.series!r} there are {len(continues)}."
            )
        for _, held_out in self._folds().split(continues):
            test = later & np.isin(rows.codes, continues[held_out])
            yield ~test, test
