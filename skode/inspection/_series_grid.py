"""Rows to ask an estimator of series at: series of a frame, at other times than its own."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
import pandas as pd

from skode.frames import Column, LongRows, column_position, read_rows, read_times
from skode.training import to_pandas

#: Times on the grid of a series, and how much of its span the grid goes on beyond its last row.
N_TIMES, BEYOND = 200, 0.25

#: Times on the grid in each cycle, where there are cycles, and times at most.
N_TIMES_PER_CYCLE, MOST_TIMES = 8, 5000


class Grid:
    """The rows of a long frame, to be taken over to other times.

    Parameters
    ----------
    X : DataFrame or array-like of shape (n_rows, n_columns)
        The long frame.
    rows : LongRows
        The same, read.
    series, time : str, int or None
        Its columns, or levels of its index.
    """

    def __init__(self, X: Any, rows: LongRows, *, series: Column | None, time: Column) -> None:
        self.frame = X if isinstance(X, pd.DataFrame) else pd.DataFrame(X).infer_objects()
        self.rows = rows
        self.time = _place(self.frame, time, "time")
        self.series = None if series is None else _place(self.frame, series, "series")
        self.covariates = [k for k in range(self.frame.shape[1]) if k not in (self.time, self.series)]
        if isinstance(self.time, str):
            column = pd.Series(self.frame.index.get_level_values(self.time))
        else:
            column = self.frame.iloc[:, self.time]
        self._zone = getattr(column.infer_objects().dtype, "tz", None)

    @property
    def time_name(self) -> str:
        """Name of the times."""
        return self._name(self.time, "time")

    @property
    def series_name(self) -> str | None:
        """Name of the series; None where there is only one."""
        return None if self.series is None else self._name(self.series, "series")

    def _name(self, place: Column, otherwise: str) -> str:
        name = place if isinstance(place, str) else self.frame.columns[place]
        return name if isinstance(name, str) else otherwise

    def seconds(self, times: Any) -> np.ndarray:
        """Times of the frame's kind as numbers, in order; ValueError where they are of another."""
        times = to_pandas(times, "times")
        if np.ndim(times) != 1 or len(times) == 0:
            raise ValueError(f"times must have one dimension and hold one time at least; got {times!r}.")
        seconds, kind = read_times(pd.Series(times).reset_index(drop=True), "times")
        if kind != self.rows.time_kind:
            raise ValueError(f"times holds a {kind}, but the time column of X a {self.rows.time_kind}.")
        return np.sort(seconds)

    def written(self, seconds: np.ndarray) -> Any:
        """Numbers as times of the frame's kind: as they are, or dates in its time zone, or time differences."""
        if self.rows.time_kind == "number":
            return seconds
        differences = pd.TimedeltaIndex(np.round(seconds * 1e6).astype("timedelta64[us]"))
        if self.rows.time_kind == "difference":
            return differences
        return pd.Timestamp(0, tz=self._zone).as_unit("us") + differences

    def at(self, own: np.ndarray, seconds: np.ndarray, *, stepwise: Container[int] | None = None) -> pd.DataFrame:
        """The rows of a series, which a mask names, at other times.

        Its covariates follow these rows as the model has it: linearly from one to the next, those at the positions of
        ``stepwise`` as in the last row before; and constant before the first row and after the last.
        """
        places = np.flatnonzero(own)
        places = places[np.argsort(self.rows.time[places], kind="stable")]
        times, columns = self.rows.time[places], self.rows.covariates[places]
        query = self.frame.iloc[np.repeat(places[0], len(seconds))].copy()
        before = np.maximum(np.searchsorted(times, seconds, side="right") - 1, 0)
        for k, position in enumerate(self.covariates):
            steps = stepwise is not None and position in stepwise
            query.isetitem(position, columns[before, k] if steps else np.interp(seconds, times, columns[:, k]))
        if isinstance(self.time, str):
            levels = query.index.to_frame(index=False)
            levels[self.time] = self.written(seconds)
            query.index = pd.MultiIndex.from_frame(levels)
        else:
            query.isetitem(self.time, self.written(seconds))
        return query

    def answers(self, answer: Callable[[Any], Any], own: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, ...]:
        """Answers of a method of the estimator for a series at these times, of shape (n_times, n), one or several."""
        return _by_time(answer(self.at(own, seconds)), len(seconds))


class EquationsGrid(Grid):
    """The rows of a long frame at other times, as an estimator of equations takes them.

    Inputs go from row to row as its ``interpolation`` says. Columns of its ``doses`` hold amounts of their
    rows' times: these rows are answered as well, and others hold none.

    Parameters
    ----------
    estimator : estimator
        It has ``series`` and ``time``; ``interpolation``, ``doses`` (by name) and ``trials`` are read where they are,
        the first two from its ``dynamics`` where it has those.
    X : DataFrame or array-like of shape (n_rows, n_columns)
        The long frame.
    """

    def __init__(self, estimator: Any, X: Any) -> None:
        equations = getattr(estimator, "dynamics", None) or estimator
        named = isinstance(X, pd.DataFrame)
        frame = X if named else pd.DataFrame(X).infer_objects()
        labels = [str(column) if named else f"x{i}" for i, column in enumerate(frame.columns)]
        doses = [i for i, label in enumerate(labels) if label in (getattr(equations, "doses", None) or ())]
        if doses:  # a missing amount is none
            frame = frame.copy()
            for position in doses:
                frame.isetitem(position, frame.iloc[:, position].fillna(0.0).to_numpy())
        given = frame if named else frame.to_numpy()
        rows = read_rows(estimator, given, series=estimator.series, time=estimator.time, reset=False)
        super().__init__(frame, rows, series=estimator.series, time=estimator.time)
        self.named, self.doses = named, doses
        if getattr(equations, "interpolation", "linear") == "linear":
            self.stepwise = {i for i, label in enumerate(labels) if label == getattr(estimator, "trials", None)}
        else:
            self.stepwise = set(self.covariates)

    def answers(self, answer: Callable[[Any], Any], own: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, ...]:
        query = self.at(own, seconds, stepwise=self.stepwise)
        for position in self.doses:
            query.isetitem(position, 0.0)
        if self.doses:
            given = self.frame.iloc[:, self.doses].to_numpy(np.float64) != 0.0
            query = pd.concat([query, self.frame[own & given.any(axis=1)]])
        return _by_time(answer(query if self.named else query.to_numpy()), len(seconds))


def _by_time(found: Any, n: int) -> tuple[np.ndarray, ...]:
    """The first n of answers, one or several, each of shape (n, n_values)."""
    found = found if isinstance(found, tuple) else (found,)
    return tuple(np.asarray(part, dtype=np.float64)[:n].reshape(n, -1) for part in found)


def _place(frame: pd.DataFrame, column: Column, parameter: str) -> Column:
    """The position of a column, or the name of a level of the index; a column goes before a level."""
    if isinstance(column, str) and column not in frame.columns and column in frame.index.names:
        return column
    return column_position(frame, column, parameter)


def grid_over(
    times: np.ndarray, typical: float, beyond: float = BEYOND, *, highest_frequency: float = 0.0
) -> np.ndarray:
    """A grid over the times of a series' rows, and a share beyond; over a typical span where it has but one.

    It has more times where cycles of a frequency need them to be drawn.
    """
    first, last = times.min(), times.max()
    span = (1.0 + beyond) * (last - first) if last > first else typical
    n_times = int(min(max(N_TIMES, N_TIMES_PER_CYCLE * highest_frequency * span), MOST_TIMES))
    return np.linspace(first, first + span, n_times)


def unit_of(grids: Sequence[Any]) -> tuple[str, pd.Timedelta | None]:
    """Unit that time differences are drawn in, and its part of the label; empty for other times."""
    if not isinstance(grids[0], pd.TimedeltaIndex):
        return "", None
    longest = max(grid.max() - grid.min() for grid in grids)
    for unit in ("days", "hours", "minutes"):
        one = pd.Timedelta(1, unit)
        if longest >= 2 * one:
            return f" ({unit})", one
    return " (seconds)", pd.Timedelta(1, "seconds")


def drawn_times(times: Any, per_unit: pd.Timedelta | None) -> np.ndarray:
    """Times as matplotlib draws them: numbers, or dates (with a time zone: as objects that know it)."""
    return np.asarray(times if per_unit is None else times / per_unit)
