"""Long frames to numbers: one row is one observation of one series at one time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

#: The id of the only series where no column names one.
ONLY_SERIES = 0

Column = str | int


@dataclass(frozen=True)
class LongRows:
    """The rows of a long frame, in the order given.

    Attributes
    ----------
    series : ndarray of shape (n,)
        Ids, as the user wrote them.
    time : ndarray of shape (n,), float64
        Times; dates and time differences in seconds.
    time_kind : {"number", "date", "date with a time zone", "difference"}
        What the time column held.
    covariates : ndarray of shape (n, n_covariates), float64
        All other columns.
    """

    series: np.ndarray
    time: np.ndarray
    time_kind: str
    covariates: np.ndarray

    def __len__(self) -> int:
        return len(self.time)


def read_rows(estimator: BaseEstimator, X: Any, *, series: Column | None, time: Column, reset: bool) -> LongRows:
    """Check X and take it apart.

    Parameters
    ----------
    estimator : BaseEstimator
        Where the number and the names of columns are remembered (``reset``) or compared.
    X : DataFrame or array-like of shape (n, n_columns)
        The long frame.
    series, time : str, int or None
        Columns by name or position.
    reset : bool
        Whether X defines the columns or must have those of ``fit``.

    Returns
    -------
    LongRows
        Its parts.

    Raises
    ------
    ValueError
        Naming the column that is missing, holds missing or infinite values, or can't be read as times.
    """
    if isinstance(X, pd.DataFrame):
        validate_data(estimator, X, skip_check_array=True, reset=reset)
        if len(X) == 0:
            raise ValueError("Found array with 0 sample(s) (X has no rows) while a minimum of 1 is required.")
        frame = X
    else:
        mixed = series is not None
        X = validate_data(estimator, X, dtype=None if mixed else np.float64, ensure_all_finite=not mixed, reset=reset)
        frame = pd.DataFrame(X).infer_objects()
    time_position = _position(frame, time, "time")
    positions = [time_position]
    if series is None:
        ids = np.full(len(frame), ONLY_SERIES)
    else:
        series_position = _position(frame, series, "series")
        if series_position == time_position:
            raise ValueError(f"series={series!r} and time={time!r} name the same column.")
        positions.append(series_position)
        column = frame.iloc[:, series_position]
        if column.isna().any():
            raise ValueError(f"The series column {_label(frame, series_position)} has missing values.")
        ids = column.to_numpy(dtype=object) if column.dtype == "category" else column.to_numpy()
    times, kind = _read_times(frame.iloc[:, time_position], _label(frame, time_position))
    rest = frame.iloc[:, [i for i in range(frame.shape[1]) if i not in positions]]
    covariates = _read_covariates(rest) if rest.shape[1] else np.empty((len(frame), 0))
    return LongRows(ids, times, kind, covariates)


def _read_covariates(columns: pd.DataFrame) -> np.ndarray:
    """Covariates as float64; the error names the first column that is not finite numbers."""
    try:
        return check_array(columns, dtype=np.float64, input_name="X (covariates)")
    except (TypeError, ValueError):
        for position in range(columns.shape[1]):
            name = f"X, covariate {_label(columns, position)}"
            try:
                check_array(columns.iloc[:, [position]], dtype=np.float64, input_name=name)
            except (TypeError, ValueError) as error:
                raise ValueError(f"Covariate {_label(columns, position)}: {error}") from error
        raise


def _position(frame: pd.DataFrame, column: Column, parameter: str) -> int:
    """A column's position, from its name or its position."""
    if isinstance(column, str):
        if column not in frame.columns:
            raise ValueError(f"{parameter}={column!r} is not a column of X; its columns are {list(frame.columns)}.")
        return int(np.flatnonzero(frame.columns == column)[0])
    if not -frame.shape[1] <= column < frame.shape[1]:
        raise ValueError(f"{parameter}={column!r} is not a column of X, which has {frame.shape[1]} columns.")
    return int(column) % frame.shape[1]


def _label(frame: pd.DataFrame, position: int) -> str:
    return repr(frame.columns[position])


def _read_times(column: pd.Series, label: str) -> tuple[np.ndarray, str]:
    """Times as float64, and their kind."""
    if column.dtype == object:
        column = column.infer_objects()
    if column.isna().any():
        raise ValueError(f"The time column {label} has missing values (NaN).")
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        origin = pd.Timestamp(0, tz=getattr(column.dtype, "tz", None))
        kind = "date" if origin.tz is None else "date with a time zone"
        column = column - origin
    else:
        kind = "difference"
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        return column.dt.total_seconds().to_numpy(np.float64), kind
    is_number = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
    if not is_number or pd.api.types.is_complex_dtype(column.dtype):
        raise ValueError(
            f"The time column {label} holds {column.dtype}; it must hold numbers, dates or time differences "
            "(pd.to_datetime turns strings into dates, Series.dt.to_timestamp periods)."
        )
    times = column.to_numpy(np.float64)
    if not np.isfinite(times).all():
        raise ValueError(f"The time column {label} contains infinity.")
    return times, "number"


def read_targets(y: Any, n_rows: int) -> np.ndarray:
    """Observed values as (n, n_outputs) floats, NaN where nothing was observed.

    Raises
    ------
    ValueError
        Where y has the wrong length, holds infinity, or nothing at all was observed.
    """
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None.")
    y = check_array(y, ensure_2d=False, dtype=np.float64, ensure_all_finite="allow-nan", input_name="y")
    if len(y) != n_rows:
        raise ValueError(f"Found input variables with inconsistent numbers of samples: X has {n_rows}, y has {len(y)}.")
    if y.ndim > 2:
        raise ValueError(f"y must have one or two dimensions, got shape {y.shape}.")
    if np.isnan(y).all():
        raise ValueError("Input y contains NaN only: nothing was observed.")
    return y.reshape(n_rows, -1)
