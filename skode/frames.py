"""Long frames to numbers: one row is one observation of one series at one time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from skode.io.sources import in_memory
from skode.training import (
    as_python,
    check_argument,
    check_column_names,
    distinct,
    first_not_a_number,
    missing_as_nan,
    to_pandas,
)

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
        Times; dates and time differences in seconds, periods by their start.
    time_kind : {"number", "date", "date with a time zone", "difference"}
        Type of the time column.
    covariates : ndarray of shape (n, n_covariates), float64
        All other columns, in their order; of the index nothing.
    positions : ndarray of int, of shape (n,)
        Where each row stands in the frame, for messages.
    time_zone : tzinfo or None
        Time zone of the dates; None where they have none.
    """

    series: np.ndarray
    time: np.ndarray
    time_kind: str
    covariates: np.ndarray
    positions: np.ndarray
    time_zone: Any = None

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: np.ndarray) -> LongRows:
        """Some of the rows, by position."""
        return replace(
            self,
            series=self.series[rows],
            time=self.time[rows],
            covariates=self.covariates[rows],
            positions=self.positions[rows],
        )


def read_rows(estimator: BaseEstimator, X: Any, *, series: Column | None, time: Column, reset: bool) -> LongRows:
    """Check X and take it apart.

    Parameters
    ----------
    estimator : BaseEstimator
        Where the number and the names of columns are remembered (``reset``) or compared. Levels of the index count as
        the columns that ``X.reset_index()`` would make of them, so that either form of a frame goes with the other.
    X : DataFrame or array-like of shape (n, n_columns)
        The long frame.
    series, time : str, int or None
        Columns by name or position, or levels of the index by name; a column goes before a level of the same name,
        and positions count columns only.
    reset : bool
        Whether X defines the columns or must have those of ``fit``.

    Returns
    -------
    LongRows
        Its parts.

    Raises
    ------
    ValueError
        Naming the column that is missing, holds missing or infinite values, or can't be read as times or covariates.
    """
    X = to_pandas(in_memory(X))
    if isinstance(X, pd.DataFrame):
        check_column_names(X)
        validate_data(estimator, _header(estimator, X, (series, time), reset), skip_check_array=True, reset=reset)
        frame = X
    else:
        mixed = series is not None
        kind = None if mixed else np.float64
        with check_argument("X"):
            X = validate_data(estimator, X, dtype=kind, ensure_all_finite=not mixed, reset=reset)
        frame = pd.DataFrame(X).infer_objects()
    return take_apart(frame, series=series, time=time)


def distinct_rows(
    rows: LongRows, values: np.ndarray, weights: np.ndarray
) -> tuple[LongRows, np.ndarray, np.ndarray | None]:
    """Rows that differ, with the weights of equal ones added; those without weight are left out.

    They come sorted by series and time, so that a row given twice and one of weight two are the same from here on.

    Parameters
    ----------
    rows : LongRows
        The rows.
    values : ndarray of shape (n, n_outputs)
        Observed values of the rows.
    weights : ndarray of shape (n,)
        Their weights, none negative.

    Returns
    -------
    rows, values, weights
        The same of fewer rows, each at the position of the first that is equal; weights are None where they all are 1.
    """
    codes, _ = series_codes(rows.series)
    order = np.lexsort((rows.time, codes))
    order = order[weights[order] > 0.0]
    rows, values, weights, codes = rows.take(order), values[order], weights[order], codes[order]
    if ((np.diff(codes) == 0) & (np.diff(rows.time) == 0)).any():
        contents = np.column_stack([codes, rows.time, rows.covariates])
        chosen, weights = distinct(contents, values, weights)
        in_order = np.argsort(chosen)
        chosen, weights = chosen[in_order], weights[in_order]
        rows, values = rows.take(chosen), values[chosen]
    return rows, values, None if (weights == 1.0).all() else weights


def take_apart(frame: pd.DataFrame, *, series: Column | None, time: Column, with_covariates: bool = True) -> LongRows:
    """The parts of a frame of which no estimator has to remember the columns; otherwise as :func:`read_rows`.

    Without covariates, other columns are not checked.
    """
    if len(frame) == 0:
        raise ValueError("Found array with 0 sample(s) (X has no rows) while a minimum of 1 is required.")
    when = _Key.of(frame, time, "time")
    who = None if series is None else _Key.of(frame, series, "series")
    if who is not None and who.place == when.place:
        raise ValueError(
            f"series={series!r} and time={time!r} name the same column; pass the other one as time=... "
            f"The columns of X are {list(frame.columns)}."
        )
    _refuse_forgotten_level(frame, time, when)
    ids = np.full(len(frame), ONLY_SERIES) if who is None else _read_ids(who.column, who.label)
    times, kind = read_times(when.column, when.label)
    keys = {when.place, who.place if who is not None else None}
    rest = [position for position in range(frame.shape[1]) if position not in keys] if with_covariates else []
    covariates = np.empty((len(frame), len(rest)))
    for k, position in enumerate(rest):
        covariates[:, k] = _read_covariate(frame.iloc[:, position], f"covariate {as_python(frame.columns[position])!r}")
    return LongRows(ids, times, kind, covariates, np.arange(len(frame)), _time_zone(when.column))


def column_position(frame: pd.DataFrame, column: Column, parameter: str) -> int:
    """A column's position, from its name or its position.

    Parameters
    ----------
    frame : DataFrame
        The long frame.
    column : str or int
        Name or position; negative ones count from the end.
    parameter : str
        The parameter that names the column, for the message.

    Returns
    -------
    int
        The position, from 0.

    Raises
    ------
    ValueError
        If there is no such column, or there are several.
    """
    if isinstance(column, str):
        positions = np.flatnonzero(frame.columns == column)
        if len(positions) == 1:
            return int(positions[0])
        if len(positions) > 1:
            raise ValueError(f"{parameter}={column!r} names {len(positions)} columns of X.")
        levels = [name for name in frame.index.names if name is not None]
        if not levels and not any(isinstance(name, str) for name in frame.columns):
            raise ValueError(
                f"{parameter}={column!r} names a column, but X has no column names. Pass a DataFrame; after a "
                'transformer in a pipeline, call its set_output(transform="pandas"); or pass '
                f"{parameter} as a position."
            )
        raise ValueError(
            f"{parameter}={column!r} is not a column of X; its columns are {list(frame.columns)}"
            f"{f', the levels of its index {levels}' if levels else ''}."
        )
    if not -frame.shape[1] <= column < frame.shape[1]:
        raise ValueError(f"{parameter}={column!r} is not a column of X, which has {frame.shape[1]} columns.")
    return int(column) % frame.shape[1]


@dataclass(frozen=True)
class _Key:
    """A column of a frame, or a level of its index, and where it was found."""

    column: pd.Series
    place: Column
    label: str

    @classmethod
    def of(cls, frame: pd.DataFrame, column: Column, parameter: str) -> _Key:
        if _is_level(frame, column):
            level = pd.Series(frame.index.get_level_values(column))
            return cls(level, column, f"{parameter} index level {column!r}")
        position = column_position(frame, column, parameter)
        label = f"{parameter} column {as_python(frame.columns[position])!r}"
        if isinstance(column, int):
            label += f" ({parameter}={column})"
        return cls(frame.iloc[:, position], position, label)


def _is_level(frame: pd.DataFrame, column: Any) -> bool:
    return isinstance(column, str) and column in frame.index.names and not (frame.columns == column).any()


def _refuse_forgotten_level(frame: pd.DataFrame, time: Column, when: _Key) -> None:
    """Refuse a column of numbers that is the times by position while a level of the index holds dates."""
    if isinstance(time, str) or _is_dated(when.column):
        return
    names: list[Any] = list(frame.index.names)
    for name in names:
        if name is not None and _is_dated(frame.index.get_level_values(name)):
            raise ValueError(
                f"The {when.label} is taken for the times, but the index of X has a level {name!r} of dates. Pass "
                f"time={name!r}, or drop the level by reset_index({name!r}, drop=True)."
            )


def _is_dated(values: pd.Series | pd.Index) -> bool:
    return isinstance(values.dtype, pd.PeriodDtype | pd.DatetimeTZDtype) or values.dtype.kind in "mM"


def _header(
    estimator: BaseEstimator, frame: pd.DataFrame, keys: tuple[Column | None, ...], reset: bool
) -> pd.DataFrame:
    """The frame, or one without rows that has levels of the index as columns: first, or at their places in ``fit``."""
    levels: list[Any] = [name for name in frame.index.names if name in keys and _is_level(frame, name)]
    if not levels:
        return frame
    columns = list(frame.columns)
    known = [] if reset else list(getattr(estimator, "feature_names_in_", []))
    places = {name: known.index(name) if name in known else i for i, name in enumerate(levels)}
    for name in sorted(levels, key=places.__getitem__):
        columns.insert(places[name], name)
    return pd.DataFrame(columns=columns)


def _read_ids(column: pd.Series, label: str) -> np.ndarray:
    """Ids as the user wrote them."""
    if column.isna().any():
        raise ValueError(f"The {label} has missing values in {_missing(column)}. Drop these rows, or fill in an id.")
    ids = column.to_numpy(dtype=object) if isinstance(column.dtype, pd.CategoricalDtype) else column.to_numpy()
    ids = ids.astype(np.float64) if ids.dtype.kind == "f" else ids  # pandas looks up no other precision everywhere
    try:
        pd.factorize(ids)
    except TypeError as error:
        raise ValueError(
            f"The {label} holds {type(ids[0]).__name__}, which can't be told apart as ids: make them text or numbers."
        ) from error
    return ids


def _read_covariate(column: pd.Series, label: str) -> np.ndarray:
    """A covariate as float64."""
    if column.dtype == object:
        column = column.infer_objects()
    if column.isna().any():
        raise ValueError(
            f"The {label} has missing values (NaN). Impute them (sklearn.impute), or make it an output in y, where NaN "
            "means that it was not observed."
        )
    if not _is_numeric(column):
        advice = "Encode or drop it"
        if _is_text(column):
            advice = (
                "One-hot encode it, by pd.get_dummies or a OneHotEncoder in a ColumnTransformer, or turn text that "
                "holds numbers into numbers by pd.to_numeric"
            )
        raise ValueError(f"The {label} holds {_kind_of(column)}; covariates must be numbers. {advice}.")
    values = column.to_numpy(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"The {label} contains infinity; replace or drop it.")
    return values


def _missing(column: pd.Series) -> str:
    return f"{int(column.isna().sum())} of {len(column)} rows"


def _is_numeric(column: pd.Series) -> bool:
    """Whether a column holds real numbers or booleans, in whatever dtype."""
    values = _distinct(column)
    if pd.api.types.is_object_dtype(values.dtype):
        return pd.api.types.infer_dtype(values) in {"mixed-integer-float", "decimal", "integer", "floating", "boolean"}
    return pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_complex_dtype(values.dtype)


def _is_text(column: pd.Series) -> bool:
    return pd.api.types.infer_dtype(_distinct(column)) in {"string", "mixed", "mixed-integer"}


def _kind_of(column: pd.Series) -> str:
    """A column's dtype; of categories and objects also what they are."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return f"categories of {column.dtype.categories.dtype}"
    is_object = pd.api.types.is_object_dtype(column.dtype)
    return f"object ({pd.api.types.infer_dtype(column)})" if is_object else str(column.dtype)


def _distinct(column: pd.Series) -> pd.Series | pd.Index:
    """The categories of a categorical column, else the column."""
    return column.dtype.categories if isinstance(column.dtype, pd.CategoricalDtype) else column


def read_times(column: pd.Series, label: str) -> tuple[np.ndarray, str]:
    """Times as float64, and their kind."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if column.dtype == object:
        column = column.infer_objects()
    if column.isna().any():
        raise ValueError(
            f"The {label} has missing values (NaN) in {_missing(column)}. Drop these rows: an observation without a "
            "time can't be used."
        )
    if column.dtype == object:
        kind = pd.api.types.infer_dtype(column)
        if kind == "date":
            column = pd.to_datetime(column)
        elif kind == "decimal":
            column = column.astype(np.float64)
    if isinstance(column.dtype, pd.PeriodDtype):
        column = column.dt.to_timestamp()
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        # In the column's own unit, for nanoseconds reach to the year 2262 only.
        origin = pd.Timestamp(0, tz=getattr(column.dtype, "tz", None)).as_unit(column.dt.unit)
        kind = "date" if origin.tz is None else "date with a time zone"
        column = column - origin
    else:
        kind = "difference"
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        return column.dt.total_seconds().to_numpy(np.float64), kind
    is_number = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
    if not is_number or pd.api.types.is_complex_dtype(column.dtype):
        raise ValueError(
            f"The {label} holds {_kind_of(column)}; it must hold numbers, dates, periods or time differences "
            "(pd.to_datetime turns strings into dates, and with utc=True dates of several time zones into one). If it "
            "holds ids, pass series=... and time=..."
        )
    times = column.to_numpy(np.float64)
    if not np.isfinite(times).all():
        raise ValueError(f"The {label} contains infinity; drop these rows.")
    with np.errstate(over="ignore"):
        if not np.isfinite(np.ptp(times)):
            raise ValueError(
                f"The {label} spans more than float64 can hold; rescale it, or drop the first or last rows."
            )
    return times, "number"


def _time_zone(column: pd.Series) -> Any:
    """Time zone of a column of dates; None where there is none."""
    return getattr(pd.Series(_distinct(column)).infer_objects().dtype, "tz", None)


def read_span(name: str, span: Any, time_kind: str, time: Column) -> float:
    """A length of time as a number in the unit of the times that were read, which is seconds for dates.

    Parameters
    ----------
    name : str
        The parameter, for messages.
    span : float, str, timedelta or timedelta64
        A number for times that are numbers; for others a time difference, or text that ``pd.Timedelta`` reads.
    time_kind : str
        Kind of the times; see :class:`LongRows`.
    time : str or int
        Their column, for messages.

    Raises
    ------
    ValueError
        If the span is of another kind than the times, can't be read, has no unit, or is not positive.
    """
    is_number = not isinstance(span, timedelta | np.timedelta64 | str)
    advice = "a number in the same unit" if time_kind == "number" else "one such as pd.Timedelta(days=7)"
    if is_number != (time_kind == "number"):
        raise ValueError(
            f"{name}={span!r} does not suit the time column time={time!r}, which holds a {time_kind}: give {advice}."
        )
    try:
        number = float(span) if is_number else pd.Timedelta(span).total_seconds()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={span!r} is no length of time ({error}): give {advice}.") from error
    if isinstance(span, str) and _is_number(span):  # pandas would take nanoseconds
        raise ValueError(f"{name}={span!r} has no unit: give {advice}.")
    if not 0.0 < number < np.inf:
        raise ValueError(f"{name}={span!r} must be positive.")
    return number


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_targets(y: Any, n_rows: int, *, maybe_nothing: bool = False) -> np.ndarray:
    """Observed values as (n, n_outputs) floats, NaN where nothing was observed.

    Raises
    ------
    ValueError
        Where y has the wrong length, holds infinity, or (unless ``maybe_nothing``) nothing at all was observed.
    """
    y = to_pandas(y, "y")
    if dates := [str(dtype) for dtype in _dtypes(y) if dtype.kind in "mM"]:
        raise ValueError(f"y holds {dates[0]}; it must hold numbers: divide differences of dates by a unit of time.")
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None.")
    given = missing_as_nan(y)
    try:
        with check_argument("y"):
            y = check_array(
                given, ensure_2d=False, allow_nd=True, dtype=np.float64, ensure_all_finite="allow-nan", input_name="y"
            )
    except (ValueError, TypeError) as error:
        if issparse(given) or (value := first_not_a_number(np.asarray(given))) is None:
            raise
        holds = "text" if isinstance(value, str) else type(value).__name__
        raise ValueError(
            f"y holds {holds} ({value!r}); it must hold numbers. Of two classes make 0 and 1, for "
            'likelihood="bernoulli"; text that holds numbers becomes numbers by pd.to_numeric.'
        ) from error
    if len(y) != n_rows:
        raise ValueError(f"Found input variables with inconsistent numbers of samples: X has {n_rows}, y has {len(y)}.")
    if y.ndim > 2:
        raise ValueError(f"y must be of shape (n_rows,) or (n_rows, n_outputs), got {y.shape}.")
    if np.isnan(y).all() and not maybe_nothing:
        raise ValueError("Input y contains NaN only: nothing was observed.")
    return y.reshape(n_rows, -1)


def _dtypes(y: Any) -> list[Any]:
    """The dtypes of the outputs, where there are any; of what has none, nothing."""
    dtypes = y.dtypes.tolist() if isinstance(y, pd.DataFrame) else [getattr(y, "dtype", None)]
    return [dtype for dtype in dtypes if hasattr(dtype, "kind")]


def times_of_kind(times: np.ndarray, kind: str, time_zone: Any = "UTC") -> pd.Series:
    """Times as a column of the kind that :func:`read_times` read them from; those with a time zone in a given one."""
    if kind == "number":
        return pd.Series(times)
    # In microseconds, for nanoseconds reach to the year 2262 only.
    differences = pd.Series(np.round(times * 1e6).astype("timedelta64[us]"))
    if kind == "difference":
        return differences
    return pd.Timestamp(0, tz=time_zone if kind == "date with a time zone" else None).as_unit("us") + differences


def output_names(y: Any) -> list[Any]:
    """Names of the outputs, as columns of a frame that is made of them."""
    if isinstance(y, pd.DataFrame):
        return list(y.columns)
    shape = np.asarray(y).shape
    if len(shape) == 1:
        return [getattr(y, "name", None) or "y"]
    return [f"y{i}" for i in range(shape[1])]


def column_label(column: Column | None, otherwise: str) -> str:
    """A column's name in a frame that is made for the user."""
    return column if isinstance(column, str) else otherwise


def series_codes(series: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's series as a position among the distinct ids, and these, sorted if they have an order."""
    try:
        return pd.factorize(series, sort=True)  # so that the order of rows does not matter
    except TypeError:
        return pd.factorize(series)
