"""Columns of X that are neither times nor ids of series: inputs, doses and numbers of trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

from skode.frames import Column
from skode.training import to_pandas

#: Of each column of doses the position of the state and the name of a factor or None; or a function.
Impulses = tuple[tuple[int, str | None] | Callable[..., Any], ...]


@dataclass(frozen=True)
class Columns:
    """Names of the covariates, and the part that each plays.

    Attributes
    ----------
    names : tuple of str
        All covariates, in their order.
    doses : tuple of str
        Those that hold amounts.
    trials : str or None
        The one that holds numbers of trials.
    """

    names: tuple[str, ...]
    doses: tuple[str, ...] = ()
    trials: str | None = None

    @classmethod
    def of(cls, labels: Sequence[Any], keys: Sequence[Column], doses: Any, trials: Any) -> Columns:
        """The parts of the columns of X.

        Parameters
        ----------
        labels : sequence
            Labels of the columns, levels of the index that count as columns included.
        keys : sequence of str or int
            Times and series, by name or position.
        doses, trials
            As the estimator's parameters.

        Raises
        ------
        ValueError
            Where ``doses`` or ``trials`` name no such column; the message says which there are.
        """
        taken = {key if isinstance(key, str) else int(key) % len(labels) for key in keys}
        names = tuple(str(label) for i, label in enumerate(labels) if label not in taken and i not in taken)
        dosed, counted = tuple(doses or {}), trials if isinstance(trials, str) else None
        check_named(names, doses, trials)
        return cls(names, dosed, counted)

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs."""
        return [name for name in self.names if name not in self.doses and name != self.trials]

    def _some(self, covariates: np.ndarray, names: Sequence[str]) -> np.ndarray:
        return covariates[:, [self.names.index(name) for name in names]]

    def inputs_of(self, covariates: np.ndarray) -> np.ndarray:
        """The inputs among covariates of shape (n_rows, n_covariates)."""
        return self._some(covariates, self.inputs)

    def amounts_of(self, covariates: np.ndarray) -> np.ndarray:
        """The doses' amounts among them."""
        return self._some(covariates, self.doses)

    def trials_of(self, covariates: np.ndarray, given: Any) -> np.ndarray:
        """Numbers of trials, of shape (n_rows,): from their column, or the one given."""
        if self.trials is None:
            return np.full(len(covariates), float(given))
        trials = self._some(covariates, [self.trials])[:, 0]
        if ((trials < 0.0) | (trials != np.round(trials))).any():
            wrong = trials[(trials < 0.0) | (trials != np.round(trials))][0]
            raise ValueError(f"The column {self.trials!r} (trials) holds {wrong:g}; it must hold numbers of trials.")
        return trials


def check_named(names: Sequence[Any], doses: Any, trials: Any) -> None:
    """Refuse names of columns that are not among those given."""
    counted = [trials] if isinstance(trials, str) else []
    for argument, given in (("doses", [*(doses or {})]), ("trials", counted)):
        if wrong := [name for name in given if not isinstance(name, str)]:
            raise ValueError(f"{argument} must name columns by str ('x1' the second of an array), got {wrong[0]!r}.")
        if unknown := [name for name in given if name not in names]:
            raise ValueError(
                f"{argument} names {unknown[0]!r}, which is no column of X beside time and series; these are "
                f"{list(names)}."
            )
    if both := [name for name in counted if name in (doses or {})]:
        raise ValueError(f"doses and trials both name {both[0]!r}.")


def with_zeros(X: Any, names: Sequence[str]) -> Any:
    """X with 0 for what is missing in columns of some names; ``"x1"``, ... are columns of an array by position."""
    if not names:
        return X
    X = to_pandas(X)
    if isinstance(X, pd.DataFrame):
        if not X.columns.is_unique:
            return X
        there = [name for name in names if name in X.columns and not isinstance(X[name].dtype, pd.CategoricalDtype)]
        there = [name for name in there if X[name].dtype.kind in "biufO" and X[name].isna().any()]
        return X.assign(**{name: X[name].where(X[name].notna(), 0) for name in there})
    try:
        X = np.array(X)
    except ValueError:  # rows of different lengths, which others refuse
        return X
    if X.ndim == 2 and X.dtype.kind in "fO":
        places = [i for i in range(X.shape[1]) if f"x{i}" in names]
        X[:, places] = np.where(pd.isna(X[:, places]), 0.0, X[:, places])
    return X


def read_impulses(doses: Any, states: Sequence[str], parameters: Sequence[str]) -> Impulses:
    """The states that doses are added to, from the estimator's parameter ``doses``.

    Raises
    ------
    ValueError
        Where it names a state or parameter that there is not.
    """
    impulses: list[Any] = []
    for column, given in (doses or {}).items():
        if callable(given):
            impulses.append(given)
            continue
        parts = tuple(given) if isinstance(given, tuple | list) else (given, None)
        if len(parts) != 2:
            raise ValueError(
                f"doses[{column!r}] must be the name of a state, (state, parameter) or a function, got {given!r}."
            )
        state, factor = parts
        if state not in states:
            raise ValueError(f"doses[{column!r}] names {state!r}, which is not a state; they are {list(states)}.")
        if factor is not None and factor not in parameters:
            raise ValueError(
                f"doses[{column!r}] names {factor!r}, which is not in params; they are {list(parameters)}."
            )
        impulses.append((list(states).index(state), factor))
    return tuple(impulses)


def check_trials(trials: Any) -> None:
    """Refuse a number of trials that is not a positive integer."""
    if isinstance(trials, str):
        return
    whole = isinstance(trials, Integral) or (isinstance(trials, Real) and float(trials).is_integer())
    if isinstance(trials, bool) or not whole or trials < 1:
        raise ValueError(f"trials must be a positive integer or the name of a column of X, got {trials!r}.")


def doses_before(codes: np.ndarray, t: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """How many rows with a dose stand before each row at its time, in rows sorted by series, then time."""
    given = (amounts != 0.0).any(axis=1)
    opens = np.ones(len(t), dtype=bool)
    opens[1:] = (np.diff(codes) != 0) | (np.diff(t) != 0)
    total = np.cumsum(given) - given
    return total - total[np.flatnonzero(opens)][np.cumsum(opens) - 1]
