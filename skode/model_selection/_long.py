"""The rows of a long frame as splitters see them: the series of each row, and its place in that series."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_array, check_consistent_length

from skode.frames import Column, take_apart
from skode.training import to_pandas


@dataclass(frozen=True)
class SeriesTimes:
    """The series and the time of each row, in the order given.

    Attributes
    ----------
    codes : ndarray of int, of shape (n,)
        The series, numbered in the order of their ids.
    time : ndarray of shape (n,), float64
        Times; dates and time differences in seconds.
    time_kind : str
        Kind of the time column's values; see :class:`~skode.frames.LongRows`.
    """

    codes: np.ndarray
    time: np.ndarray
    time_kind: str

    def per_series(self, values: np.ndarray, statistic: Literal["min", "max", "any"]) -> np.ndarray:
        """A statistic of the values in the row's series, for each row."""
        return pd.Series(values).groupby(self.codes).transform(statistic).to_numpy()

    def rank(self) -> np.ndarray:
        """Number of distinct times of the series before that of the row; rows at the same time have the same rank."""
        return pd.Series(self.time).groupby(self.codes).rank(method="dense").to_numpy(np.int64) - 1

    def after_prefix(self, prefix: float) -> np.ndarray:
        """Mask of the rows after the first part of their series.

        That part is a fraction of the series' distinct times, rounded down but at least one time, and leaving at least
        one. A series with all rows at one time has none after it.
        """
        rank = self.rank()
        last_rank = self.per_series(rank, "max")
        return (rank >= np.minimum(part_of(prefix, last_rank + 1), last_rank)) & (last_rank > 0)


def read_series_times(X: Any, series: Column | None, time: Column) -> SeriesTimes:
    """Read two columns of X, or levels of its index.

    Other columns are not checked: a later estimator may encode them.
    """
    X = to_pandas(X)
    if not isinstance(X, pd.DataFrame):
        X = pd.DataFrame(check_array(X, dtype=None, ensure_all_finite=False))
    rows = take_apart(X, series=series, time=time, with_covariates=False)
    try:
        codes, _ = pd.factorize(rows.series, sort=True)  # so that the folds do not depend on the order of rows
    except TypeError:  # ids without an order
        codes, _ = pd.factorize(rows.series)
    return SeriesTimes(codes, rows.time, rows.time_kind)


def part_of(fraction: float, numbers: np.ndarray) -> np.ndarray:
    """A fraction of each number, rounded down but at least 1."""
    # Without the last factor, 0.29 of 100 would be 28.
    return np.maximum(np.floor(fraction * numbers * (1 + 4 * np.finfo(np.float64).eps)), 1)


class LongFrameSplit(BaseCrossValidator):
    """Base of the splitters: from masks over the rows of a long frame to scikit-learn's indices."""

    n_splits: int
    series: Column | None
    time: Column

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions of the training rows and of the test rows, fold by fold.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            The long frame (of pandas, polars or pyarrow): one row is one observation of one series at one time, in
            any order.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs), default=None
            Not read. A row counts whether or not its y is NaN.
        groups : object, default=None
            Not read: the series are a column of X or a level of its index.

        Yields
        ------
        train, test : ndarray of int
            Positions, sorted. They have none in common and both hold some.

        Raises
        ------
        ValueError
            If a column can't be read, or a fold would test nothing.
        """
        check_consistent_length(X, y)
        if groups is not None:
            name = type(self).__name__
            warnings.warn(
                f"{name} does not read groups; its series are the column series={self.series!r}.", stacklevel=2
            )
        for train, test in self._masks(read_series_times(X, self.series, self.time)):
            yield np.flatnonzero(train), np.flatnonzero(test)

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Number of folds; all parameters are ignored."""
        return self.n_splits

    def _masks(self, rows: SeriesTimes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Train and test rows, fold by fold."""
        raise NotImplementedError
