"""Users' data and fields: scikit-learn's checks, with errors that also say where and what to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import _check_sample_weight, validate_data

from skode.solvers import SolverError

#: One of these in a message says what it is about.
ARGUMENTS = frozenset({"X", "y", "sample_weight"})


def checked_data(estimator: BaseEstimator, X: Any, *args: Any, **settings: Any) -> Any:
    """``sklearn.utils.validation.validate_data``, which here names the columns of a frame that hold no numbers.

    Raises
    ------
    ValueError, TypeError
        As there, where need be with the name of the argument in front; and where columns of a DataFrame hold text or
        dates, or have one name, with their names.
    """
    refuse_equal_names(X)
    try:
        with np.errstate(invalid="ignore"):  # scikit-learn adds all numbers up to see whether they are finite
            return validate_data(estimator, X, *args, **settings)
    except (ValueError, TypeError) as error:
        about = "y" if args and is_table(X) else "X"
        of_type = "could not convert" in str(error) or isinstance(error, np.exceptions.DTypePromotionError)
        if not of_type:
            raise named(error, about)  # noqa: B904
        if wrong := not_numbers(X):
            raise ValueError(
                f"X has columns that hold no numbers: {wrong}. {type(estimator).__name__} takes numbers only: one-hot "
                "encode categories (pd.get_dummies, or a OneHotEncoder in a ColumnTransformer), turn dates into "
                "differences from one of them, or drop these columns."
            ) from error
        for y in args:
            numeric_targets(y, type(estimator).__name__)
        raise named(error, about)  # noqa: B904


def named(error: Exception, argument: str) -> Exception:
    """The same error, with the name of the argument that it is about in front where it has none.

    Some of scikit-learn's errors, and all of NumPy's, don't say what they are about.
    """
    if {argument, *ARGUMENTS}.intersection(re.findall(r"\w+", str(error))):
        return error
    new = (TypeError if isinstance(error, TypeError) else ValueError)(f"{argument}: {error}")
    new.__cause__ = error
    return new


@contextmanager
def naming(argument: str) -> Iterator[None]:
    """Have errors about an argument name it; that its numbers overflow when added up is no warning's matter."""
    try:
        with np.errstate(invalid="ignore"):
            yield
    except (ValueError, TypeError) as error:
        raise named(error, argument)  # noqa: B904


@contextmanager
def squaring(argument: str) -> Iterator[None]:
    """Refuse an argument whose squares overflow on the way to a score, which would be NaN."""
    try:
        with np.errstate(over="raise"):
            yield
    except FloatingPointError as error:
        raise ValueError(f"{argument} holds values too large to square in its dtype; rescale it.") from error


def is_table(X: Any) -> bool:
    """Whether scikit-learn can read a table of finite numbers."""
    try:
        check_array(X, dtype=np.float64)
    except (ValueError, TypeError):
        return False
    return True


def refuse_equal_names(X: Any) -> None:
    """Refuse a DataFrame of which two columns have one name, which no message could tell apart."""
    names = getattr(X, "columns", None)
    if isinstance(names, pd.Index) and not names.is_unique:
        raise ValueError(
            f"X has several columns of one name: {list(names[names.duplicated()].unique())}. Rename or drop them."
        )


def checked_weights(sample_weight: Any, X: np.ndarray) -> np.ndarray:
    """Weights of the samples as float64, 1 where there are none given.

    Raises
    ------
    ValueError, TypeError
        Where they are not numbers, one for each sample, of which none is negative, NaN or infinite, and not all 0.
    """
    with naming("sample_weight"):
        return _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)


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
