"""Users' data and fields: scikit-learn's checks, with errors that also say where and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from skode.solvers import SolverError
from skode.training.dataframes import to_pandas


def checked_data(estimator: BaseEstimator, X: Any, *args: Any, **settings: Any) -> Any:
    """``sklearn.utils.validation.validate_data``, which here names the columns of a frame that hold no numbers.

    Raises
    ------
    ValueError, TypeError
        As there; and where columns of a DataFrame hold text or dates, with their names.
    """
    X = to_pandas(X)
    args = tuple(to_pandas(y, "y") for y in args)
    try:
        return validate_data(estimator, X, *args, **settings)
    except (ValueError, TypeError) as error:
        of_type = "could not convert" in str(error) or isinstance(error, np.exceptions.DTypePromotionError)
        if not of_type:
            raise
        if wrong := not_numbers(X):
            raise ValueError(
                f"X has columns that hold no numbers: {wrong}. {type(estimator).__name__} takes numbers only: one-hot "
                "encode categories (pd.get_dummies, or a OneHotEncoder in a ColumnTransformer), turn dates into "
                "differences from one of them, or drop these columns."
            ) from error
        for y in args:
            numeric_targets(y, type(estimator).__name__)
        raise


def numeric_targets(y: Any, who: str) -> np.ndarray:
    """Targets as float64.

    Raises
    ------
    ValueError
        Where they are text or dates; it names the estimator, ``who``.
    """
    values = np.asarray(y)
    if values.dtype.kind in "mM":
        raise ValueError(
            f"y holds {values.dtype}, but {who} predicts numbers: subtract a date and divide by a unit of time, as in "
            '(y - y.min()) / pd.Timedelta("1D").'
        )
    try:
        return values.astype(np.float64)
    except ValueError as error:
        raise ValueError(
            f"y holds text (such as {str(values.flat[0])!r}), but {who} predicts numbers: turn text that holds numbers "
            "into numbers by pd.to_numeric, or predict classes by ODENetClassifier."
        ) from error


def not_numbers(X: Any) -> dict[Any, str]:
    """The columns of a DataFrame that can't be read as numbers, and what they hold; empty for anything else."""
    wrong = {}
    for name, column in X.items() if isinstance(X, pd.DataFrame) else ():
        try:
            if pd.api.types.is_datetime64_any_dtype(column.dtype):
                raise TypeError
            column.astype(np.float64)
        except (TypeError, ValueError):
            wrong[name] = str(column.dtype)
    return wrong


@contextmanager
def field_is_theirs(field: Any, shape: str) -> Iterator[None]:
    """Add to an error from inside a user's field how it is called."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        if not isinstance(error, SolverError):
            # In place of the solver's own note, which speaks of func and of what the field is wrapped in.
            error.__notes__ = [
                f"field={type(field).__name__}(...) is called as field(t, z) with a time t and states z of shape "
                f"{shape}, and must return dz/dt of that shape and z's dtype, without changing z in place."
            ]
        raise
