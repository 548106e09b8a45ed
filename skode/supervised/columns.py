"""Tables with categories and missing values, as numbers: codes first, then columns that a network can take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.preprocessing import OrdinalEncoder

from skode.training import categorical_positions, to_pandas

#: Most categories of a feature, as scikit-learn's HistGradientBoosting has them.
MOST_CATEGORIES = 255


class CategoricalFeatures:
    """Which features are categories, and the codes of these.

    Parameters
    ----------
    positions : ndarray of int
        Positions of the categorical features.
    encoder : OrdinalEncoder or None
        From categories to codes 0, 1, ...; unknown and missing ones become NaN. None where there are no such features.
    """

    def __init__(self, positions: np.ndarray, encoder: OrdinalEncoder | None) -> None:
        self.positions, self.encoder = positions, encoder

    @classmethod
    def found(cls, X: Any, categorical_features: Any) -> CategoricalFeatures:
        """Categories of ``X`` as the parameter says.

        Raises
        ------
        ValueError
            Where ``categorical_features`` does not fit to ``X``, or a feature has too many categories.
        """
        positions = categorical_positions(X, categorical_features)
        if not len(positions):
            return cls(positions, None)
        encoder = OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan, dtype=np.float64
        )
        frame = as_frame(X)
        encoder.fit(_columns(frame, positions))
        for position, categories in zip(positions.tolist(), encoder.categories_, strict=True):
            n = int(np.count_nonzero(~pd.isna(categories)))
            if n > MOST_CATEGORIES:
                raise ValueError(
                    f"Categorical feature {frame.columns[position]!r} is expected to have a cardinality <= "
                    f"{MOST_CATEGORIES} but actually has a cardinality of {n}: merge rare categories, or turn them "
                    "into numbers by a TargetEncoder."
                )
        return cls(positions, encoder)

    def encoded(self, X: Any) -> Any:
        """``X`` with codes in place of categories, as a frame; ``X`` itself where there are none."""
        if self.encoder is None:
            return X
        frame = as_frame(X).copy()
        if len(self.positions) and self.positions[-1] < frame.shape[1]:
            codes = self.encoder.transform(_columns(frame, self.positions))
            for position, column in zip(self.positions, codes.T, strict=True):
                frame.isetitem(position, column)
        return frame


@dataclass(frozen=True)
class Columns:
    """From a table of numbers, codes and NaN to the columns that a network takes.

    Numbers stay in their places. A code is replaced by one column for each category, 1 for its own and 0 for others,
    and each feature with missing values gets a column that says where they are: NaN of numbers becomes their mean when
    it is scaled, and what the network makes of such a column, its embedding, is then learned as the missing value.

    Attributes
    ----------
    numbers : ndarray of int
        Positions of the features that are numbers.
    codes : dict of int to ndarray
        By the position of a categorical feature, the codes that were trained on.
    missing : ndarray of int
        Positions of features of which values were missing.
    empty : ndarray of int
        Positions among ``numbers`` of those of which all were.
    """

    numbers: np.ndarray
    codes: dict[int, np.ndarray]
    missing: np.ndarray
    empty: np.ndarray

    @classmethod
    def of(cls, parts: Iterable[Any], n_features: int, positions: np.ndarray) -> Columns:
        """Columns for a table to train on, in one part or in several, with codes at some positions."""
        numbers = np.setdiff1d(np.arange(n_features), positions)
        codes: dict[int, np.ndarray] = {int(position): np.empty(0) for position in positions}
        missing, empty = np.zeros(n_features, dtype=bool), np.ones(n_features, dtype=bool)
        for X in parts:
            if not isinstance(X, np.ndarray):  # sparse features are numbers, none of which is missing
                return cls(numbers, {}, positions[:0], positions[:0])
            unknown = np.isnan(X)
            missing |= unknown.any(axis=0)
            empty &= unknown.all(axis=0)
            for position, known in codes.items():
                codes[position] = np.union1d(known.astype(X.dtype), X[~unknown[:, position], position])
        return cls(numbers, codes, np.flatnonzero(missing), np.flatnonzero(empty[numbers]))

    def expanded(self, X: Any) -> Any:
        """The columns; ``X`` itself where these are its own."""
        if not self.codes and not len(self.missing):
            return X
        numbers = X[:, self.numbers]
        numbers[:, self.empty] = 0.0
        own = {position: X[:, [position]] == known for position, known in self.codes.items()}
        missing = [
            ~own[place].any(axis=1) if place in own else np.isnan(X[:, place]) for place in self.missing.tolist()
        ]
        return np.column_stack([numbers, *own.values(), *missing]).astype(X.dtype)


def as_frame(X: Any) -> pd.DataFrame:
    """A table as a frame; names of columns are their positions where there are none."""
    X = to_pandas(X)
    return X if isinstance(X, pd.DataFrame) else pd.DataFrame(np.asarray(X))


def _columns(frame: pd.DataFrame, positions: np.ndarray) -> np.ndarray:
    """Some columns as objects, with NaN where a value is missing."""
    some = frame.iloc[:, positions].astype(object)
    return some.where(some.notna(), np.nan).to_numpy()
