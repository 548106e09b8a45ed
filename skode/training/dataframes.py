"""The one place where frames of any library, and of any dtypes, become pandas' with NumPy's dtypes."""

from __future__ import annotations

from typing import Any

import narwhals.stable.v2 as nw  # which scikit-learn requires, and reads frames by
import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.utils.validation import _check_categorical_features

from skode.io.partitions import is_dask


def to_pandas(data: Any, name: str = "X") -> Any:
    """A frame or a column as pandas has it, with NumPy's dtypes; all else as it is.

    Frames are those of pandas, of polars, of pyarrow and of whatever else narwhals knows. Dates, dates with a time
    zone, time differences, text and categories become pandas' own; decimals become an object column, where they stay
    exact. Data that have these dtypes already are not copied.

    Parameters
    ----------
    data : object
        A frame, a column or anything else.
    name : str, default="X"
        Name of the argument, for the message.

    Returns
    -------
    object
        A DataFrame for a frame, a Series for a column; ``data`` itself for anything else.

    Raises
    ------
    TypeError
        Where the frame is a lazy one, which has no rows yet.
    """
    if data is None or isinstance(data, np.ndarray | list):
        return data
    if isinstance(data, pd.DataFrame):
        return _pandas_frame(data)
    if isinstance(data, pd.Series):
        return _pandas_column(data)
    if (pyarrow := nw.dependencies.get_pyarrow()) is not None:
        if isinstance(data, pyarrow.RecordBatch):
            data = pyarrow.Table.from_batches([data])
        if isinstance(data, pyarrow.Table):
            return data.to_pandas(date_as_object=False, ignore_metadata=True)
        if isinstance(data, pyarrow.Array | pyarrow.ChunkedArray):
            return data.to_pandas(date_as_object=False)
    if nw.dependencies.is_into_dataframe(data):
        frame = nw.from_native(data, eager_only=True)
        if frame.implementation.is_pandas_like():
            return _pandas_frame(frame.to_pandas())
        columns = dict(enumerate(_column(column) for column in frame.iter_columns()))
        return pd.DataFrame(columns, index=pd.RangeIndex(len(frame))).set_axis(frame.columns, axis=1)
    if nw.dependencies.is_into_series(data):
        column = nw.from_native(data, series_only=True)
        return _pandas_column(column.to_pandas()) if column.implementation.is_pandas_like() else _column(column)
    if isinstance(nw.from_native(data, pass_through=True), nw.LazyFrame):
        computed = "compute" if is_dask(data) else "collect"
        raise TypeError(f"{name} is a lazy frame, which has no rows yet: pass {name}.{computed}().")
    return data


def missing_as_nan(values: Any) -> Any:
    """Objects with NaN in place of None, NA and NaT, which NumPy can't convert to numbers; all else as it is."""
    if values is None or issparse(values):
        return values
    objects = np.asarray(values)
    if objects.dtype != object or not (missing := np.asarray(pd.isna(objects))).any():
        return values
    return np.where(missing, np.nan, objects)


def categorical_positions(X: Any, categorical_features: Any) -> np.ndarray:
    """Positions of the categorical features of a table, as ``HistGradientBoostingClassifier`` finds them.

    Parameters
    ----------
    X : DataFrame or array-like of shape (n_samples, n_features)
        The table; a frame is one of pandas.
    categorical_features : "from_dtype", array-like of bool, int or str, or None
        Columns of a frame whose dtype is one of categories; a mask, positions or names; or none.

    Raises
    ------
    ValueError
        Where ``categorical_features`` does not fit to ``X``.
    """
    if not hasattr(X, "shape") and categorical_features is not None and not isinstance(categorical_features, str):
        X = np.asarray(X, dtype=object)
    mask = _check_categorical_features(X, categorical_features)
    return np.empty(0, dtype=int) if mask is None else np.flatnonzero(mask)


def as_python(value: Any) -> Any:
    """A scalar as a message shows it: text and numbers as Python writes them, and not as NumPy does."""
    if not isinstance(value, np.generic):
        return value
    return str(value) if value.dtype.kind in "mM" else value.item()


def _column(column: nw.Series) -> pd.Series:
    """A column of a library that is neither pandas nor pyarrow."""
    dtype = column.dtype
    of_numpy = (
        dtype.is_float()
        or (dtype.is_integer() and not isinstance(dtype, nw.Int128 | nw.UInt128))
        or isinstance(dtype, nw.Boolean | nw.Date | nw.Datetime | nw.Duration)
    )
    if not of_numpy:
        of_pandas: Any = "category" if isinstance(dtype, nw.Categorical | nw.Enum) else object
        if isinstance(dtype, nw.String):
            of_pandas = None  # text as pandas infers it, which has been of more than one dtype
        return pd.Series(column.to_list(), name=column.name, dtype=of_pandas)
    values: pd.Series[Any] = pd.Series(column.to_numpy(), name=column.name)
    zone = getattr(dtype, "time_zone", None)
    return values if zone is None else values.dt.tz_localize("UTC").dt.tz_convert(zone)


def _pandas_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame, its columns and the levels of its index without dtypes of pyarrow's."""
    arrow = [position for position, dtype in enumerate(frame.dtypes) if _is_arrow(dtype)]
    index = _pandas_index(frame.index)
    if not arrow and index is frame.index:
        return frame
    frame = frame.set_axis(index)
    for position in arrow:
        frame.isetitem(position, _pandas_column(frame.iloc[:, position]).array)
    return frame


def _pandas_index(index: pd.Index) -> pd.Index:
    """The index, its levels without dtypes of pyarrow's."""
    if isinstance(index, pd.MultiIndex):
        arrow = [number for number, level in enumerate(index.levels) if _is_arrow(level.dtype)]
        levels: list[Any] = [_pandas_index(index.levels[number]) for number in arrow]
        return index.set_levels(levels, level=arrow) if arrow else index
    return pd.Index(_pandas_column(index.to_series())) if _is_arrow(index.dtype) else index


def _pandas_column(column: pd.Series) -> pd.Series:
    """The column without dtypes of pyarrow's."""
    if not _is_arrow(column.dtype):
        return column
    if isinstance(column.dtype, pd.CategoricalDtype):
        categories: Any = _pandas_index(column.dtype.categories)
        return column.cat.rename_categories(categories)
    # The protocol by which pyarrow reads columns of others. Its own dtypes do not hold what pandas has no NumPy dtype
    # for, such as the views of text.
    values = column.array.__arrow_array__().to_pandas(date_as_object=False)
    return values.set_axis(column.index).rename(column.name)


def _is_arrow(dtype: Any) -> bool:
    return isinstance(dtype, pd.ArrowDtype) or (
        isinstance(dtype, pd.CategoricalDtype) and isinstance(dtype.categories.dtype, pd.ArrowDtype)
    )
