"""Users' data and fields: scikit-learn's checks, with errors that also say where and what to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import _check_sample_weight, validate_data

from skode.training.dataframes import as_python, missing_as_nan, to_pandas

#: One of these in a message says what it is about.
ARGUMENTS = frozenset({"X", "y", "sample_weight"})


def check_data(estimator: BaseEstimator, X: Any, *args: Any, **settings: Any) -> Any:
    """``sklearn.utils.validation.validate_data``, which here takes any frame and says which columns hold no numbers.

    Raises
    ------
    ValueError, TypeError
        As there, where need be with the name of the argument in front; and where columns of a frame hold text or dates,
        or have one name, with their names.
    """
    X = to_pandas(X)
    args = tuple(_labels(to_pandas(y, "y")) for y in args)
    check_column_names(X)
    try:
        with np.errstate(invalid="ignore"):  # scikit-learn adds all numbers up to see whether they are finite
            return validate_data(estimator, X, *args, **settings)
    except (ValueError, TypeError) as error:
        about = "y" if args and is_table(X) else "X"
        of_type = (
            isinstance(error, TypeError | np.exceptions.DTypePromotionError)
            or "could not convert" in str(error)
            or "Input contains" in str(error)
        )
        if not of_type:
            raise named(error, about)  # noqa: B904
        if wrong := not_numbers(X):
            raise ValueError(
                f"X has columns that hold no numbers: {wrong}. {type(estimator).__name__} takes numbers only: one-hot "
                "encode categories (pd.get_dummies, or a OneHotEncoder in a ColumnTransformer), turn dates into "
                "differences from one of them, or drop these columns."
            ) from error
        if (known := missing_as_nan(X)) is not X:
            check_array(known, dtype=np.float64, estimator=estimator, input_name="X")
        for y in args:
            if settings.get("y_numeric"):
                check_numeric_targets(y, type(estimator).__name__)
            else:
                check_missing_labels(y)
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
def check_argument(argument: str) -> Iterator[None]:
    """Have errors about an argument name it; that its numbers overflow when added up is no warning's matter."""
    try:
        with np.errstate(invalid="ignore"):
            yield
    except (ValueError, TypeError) as error:
        raise named(error, argument)  # noqa: B904


@contextmanager
def in_rows(start: int, stop: int) -> Iterator[None]:
    """Have errors about values that are missing or infinite say in which rows, of a table in blocks, these are."""
    try:
        yield
    except ValueError as error:
        if not re.search("contains|missing labels", str(error)):
            raise
        raise ValueError(f"In rows {start} to {stop - 1}, counted from 0: {error}") from error


def check_level(level: Any) -> None:
    """Refuse what is no probability of an interval, by ValueError."""
    if not isinstance(level, Real) or not 0.0 < float(level) < 1.0:
        raise ValueError(f"level must be a probability between 0 and 1; got {level!r}.")


@contextmanager
def check_squares(argument: str) -> Iterator[None]:
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


def check_column_names(X: Any) -> None:
    """Refuse a DataFrame of which two columns have one name, which no message could tell apart."""
    names = getattr(X, "columns", None)
    if isinstance(names, pd.Index) and not names.is_unique:
        raise ValueError(
            f"X has several columns of one name: {list(names[names.duplicated()].unique())}. Rename or drop them."
        )


def check_weights(sample_weight: Any, X: Any) -> np.ndarray:
    """Weights of the samples as float64, 1 where there are none given.

    Raises
    ------
    ValueError, TypeError
        Where they are not numbers, one for each sample, of which none is negative, NaN or infinite, and not all 0.
    """
    sample_weight = to_pandas(sample_weight, "sample_weight")
    with check_argument("sample_weight"):
        return _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)


def _labels(y: Any) -> Any:
    """A list of text as objects, since NumPy makes the text "nan" of what is missing there; all else as it is."""
    is_text = isinstance(y, list | tuple) and any(isinstance(label, str) for label in y)
    return np.array(y, dtype=object) if is_text and pd.isna(pd.Series(y, dtype=object)).any() else y


def check_labels(y: Any) -> Any:
    """Labels as they are; ValueError where some are missing."""
    y = _labels(y)
    check_missing_labels(y)
    return y


def check_missing_labels(y: Any) -> None:
    """Refuse labels of which some are None, NaN or NA, which can't be compared with the others."""
    missing = np.asarray(pd.isna(np.asarray(y)))
    if missing.any():
        n_missing = np.count_nonzero(missing)
        raise ValueError(f"y has missing labels (None or NaN), {n_missing} of {missing.size}: drop those samples.")


def check_numeric_targets(y: Any, who: str) -> np.ndarray:
    """Targets as float64.

    Raises
    ------
    ValueError
        Where they are text or dates, or some are missing or infinite; it names the estimator, ``who``.
    """
    values = np.asarray(missing_as_nan(y))
    kind = values.dtype if values.dtype.kind in "mM" else pd.api.types.infer_dtype(values.ravel())
    if values.dtype.kind in "mM" or kind in {"datetime", "date", "timedelta"}:
        raise ValueError(
            f"y holds {kind}, but {who} predicts numbers: subtract a date and divide by a unit of time, as in "
            '(y - y.min()) / pd.Timedelta("1D").'
        )
    try:
        numbers = values.astype(np.float64)
    except (ValueError, TypeError) as error:
        value = first_not_a_number(values)
        holds = "text" if isinstance(value, str) else type(value).__name__
        raise ValueError(
            f"y holds {holds} (such as {value!r}), but {who} predicts numbers: turn text that holds numbers "
            "into numbers by pd.to_numeric, or predict classes by ODENetClassifier."
        ) from error
    assert_all_finite(numbers, input_name="y")
    return numbers


def first_not_a_number(values: np.ndarray) -> Any:
    """The first value that can't be read as a number, as Python writes it; None where all can."""
    for value in values.flat:
        try:
            float(value)
        except (TypeError, ValueError):
            return as_python(value)
    return None


def not_numbers(X: Any) -> dict[Any, str]:
    """The columns of a DataFrame that can't be read as numbers, and what they hold; empty for anything else."""
    wrong = {}
    for name, column in X.items() if isinstance(X, pd.DataFrame) else ():
        try:
            if pd.api.types.is_datetime64_any_dtype(column.dtype):
                raise TypeError
            column.dropna().astype(np.float64)
        except (TypeError, ValueError):
            wrong[name] = str(column.dtype)
    return wrong
