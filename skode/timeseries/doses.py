"""Doses of series with known dynamics: columns of X whose amounts are added to states at the times of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from skode.equations.columns import Columns, check_named, doses_before, with_zeros
from skode.equations.observations import distinct_records
from skode.frames import LongRows, distinct_rows
from skode.training import as_python, to_pandas

#: Series and times of rows.
Keys = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Doses:
    """Doses in the rows of a long frame.

    Attributes
    ----------
    amounts : ndarray of shape (n_rows, n_columns)
        Amounts in the units of the user; 0: no dose.
    rank : ndarray of int, of shape (n_rows,)
        How many of the doses at a row's time come before it.
    """

    amounts: np.ndarray
    rank: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray, time: np.ndarray, amounts: np.ndarray) -> Doses:
        """Those of a record whose rows are sorted by series, then time, then as they stood."""
        return cls(amounts, doses_before(codes, time, amounts))

    @property
    def given(self) -> np.ndarray:
        """In which rows there is a dose."""
        return (self.amounts != 0.0).any(axis=1)

    def take(self, rows: np.ndarray) -> Doses:
        """Those of some rows."""
        return Doses(self.amounts[rows], self.rank[rows])

    def and_those_of(self, others: Doses | None) -> Doses:
        """Those of these rows and of others."""
        assert others is not None
        return Doses(np.concatenate([self.amounts, others.amounts]), np.concatenate([self.rank, others.rank]))

    def after(self, keys: Keys, earlier: Doses, earlier_keys: Keys) -> Doses:
        """The same of a record that was told after another one.

        Its rows come behind the doses that the other one holds at their times, unless it holds some there itself.
        """
        own = n_at(keys, _some(keys, self.given)) > 0
        return Doses(self.amounts, np.where(own, self.rank, n_at(keys, _some(earlier_keys, earlier.given))))

    def replaced(self, keys: Keys, later: Doses, later_keys: Keys) -> Doses:
        """The same without doses at times at which a record that was told later holds some."""
        told = n_at(keys, _some(later_keys, later.given)) > 0
        return Doses(np.where(told[:, None], 0.0, self.amounts), self.rank)


def _some(keys: Keys, rows: np.ndarray) -> Keys:
    return keys[0][rows], keys[1][rows]


def n_at(keys: Keys, others: Keys) -> np.ndarray:
    """How many of other rows have the series and time of each row."""
    n = len(keys[0])
    both = np.stack([np.concatenate([own, other]) for own, other in zip(keys, others, strict=True)])
    _, place = np.unique(both, axis=1, return_inverse=True)
    place = place.reshape(-1)
    return np.bincount(place[n:], minlength=place.max(initial=0) + 1)[place[:n]]


def refuse_early(series: np.ndarray, early: np.ndarray) -> None:
    """Refuse doses before the start of their series, from the series of all rows and a mask of those doses."""
    if early.any():
        raise ValueError(
            f"X holds a dose of series {as_python(series[early][0])!r} before the start of that series, where its "
            "initial states hold all that was given until then. Leave it out; or let the series start earlier, in fit, "
            "or in condition where it is new."
        )


def checked(X: Any, doses: Any) -> Any:
    """X of a first fit, with 0 where an amount is missing; ValueError where ``doses`` names no column of it."""
    if doses is None:
        return X
    if not isinstance(doses, Mapping):
        raise ValueError(f"doses must be a dict of columns' names to states, got {type(doses).__name__}.")
    X = to_pandas(X)
    if isinstance(X, pd.DataFrame):  # before what is missing in such a column is taken for a covariate's
        check_named([*X.columns, *(name for name in X.index.names if name is not None)], doses, None)
    return without_missing(X, doses)


def dose_columns(names: list[str], doses: Any) -> Columns | None:
    """The parts of the covariates; None where they all are inputs."""
    if not doses:
        return None
    check_named(names, doses, None)
    return Columns(tuple(names), tuple(doses))


def distinct(
    rows: LongRows, values: np.ndarray, weights: np.ndarray, columns: Columns | None
) -> tuple[LongRows, np.ndarray, np.ndarray | None]:
    """Rows that differ, with the weights of equal ones added; see :func:`skode.frames.distinct_rows`."""
    if columns is None:
        return distinct_rows(rows, values, weights)
    return distinct_records(rows, values, weights, columns)


def without_missing(X: Any, doses: Any) -> Any:
    """X with 0 where an amount is missing; see :class:`skode.KnownDynamics`."""
    return with_zeros(X, [*doses]) if doses else X
