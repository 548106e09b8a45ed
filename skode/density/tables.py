"""Tables with categories: these as numbers and back, and which columns of a table are discrete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from skode.training import to_pandas


@dataclass(frozen=True)
class Categories:
    """The columns of a frame that hold categories.

    Attributes
    ----------
    template : DataFrame
        The frame without rows: names and dtypes.
    values : dict of Index
        The categories of each such column.
    """

    template: pd.DataFrame
    values: dict[Any, pd.Index]

    @classmethod
    def find(cls, X: Any) -> Categories | None:
        """Those of a table; None where there are none, or it is not a frame."""
        X = to_pandas(X)
        if not isinstance(X, pd.DataFrame) or not X.columns.is_unique:
            return None
        values = {name: _categories(X[name]) for name in X.columns if _holds_categories(X[name])}
        return cls(X.iloc[:0].copy(), values) if values else None

    @property
    def columns(self) -> list[int]:
        """Positions of the columns."""
        return np.flatnonzero(self.template.columns.isin(list(self.values))).tolist()

    def numbers(self, X: Any) -> Any:
        """The frame with the number of each category in its place; one not seen has the number after the last."""
        X = to_pandas(X)
        if not isinstance(X, pd.DataFrame):
            return X
        X = X.copy()
        for name, categories in self.values.items():
            if name in X.columns:
                codes = categories.get_indexer(X[name].astype(object)).astype(np.float64)
                codes[codes < 0] = len(categories)
                X[name] = np.where(X[name].isna(), np.nan, codes)
        return X

    def frame(self, X: np.ndarray) -> pd.DataFrame:
        """Rows of numbers as a frame with the categories, and the dtypes of the data."""
        columns = {}
        for j, name in enumerate(self.template.columns):
            dtype = self.template[name].dtype
            if name in self.values:
                columns[name] = pd.Series(self.values[name].take(X[:, j].astype(np.int64)), dtype=dtype)
            else:
                whole = pd.api.types.is_integer_dtype(dtype)
                columns[name] = pd.Series(np.round(X[:, j]) if whole else X[:, j]).astype(dtype)
        return pd.DataFrame(columns)


def _holds_categories(column: pd.Series) -> bool:
    of = pd.api.types
    dtype = column.dtype
    text = (of.is_object_dtype(dtype) or of.is_string_dtype(dtype)) and of.infer_dtype(column, skipna=True) == "string"
    return isinstance(dtype, pd.CategoricalDtype) or of.is_bool_dtype(dtype) or text


def _categories(column: pd.Series) -> pd.Index:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.categories
    return pd.Index(column.dropna().unique()).sort_values()
