"""A grid over one or two columns of data, as queries to an estimator of all columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from skode.frames import column_position
from skode.training import as_numpy, as_python, to_pandas


@dataclass(frozen=True)
class ColumnGrid:
    """The points at which densities are drawn.

    Attributes
    ----------
    coordinates : list of ndarray of shape (resolution,) or (resolution, resolution)
        The values of one column, or of two as ``numpy.meshgrid`` gives them.
    points : ndarray or DataFrame of shape (n_points, n_features)
        The points of the grid with all columns of X, in the form of X.
    shown : ndarray of shape (n_samples, 1) or (n_samples, 2)
        The columns of X that the grid is over.
    columns : ndarray of shape (1,) or (2,)
        Their positions.
    labels : list of str
        Their names; "x0", "x1", ... where X has none.
    held : str or None
        Values that the other columns are held at, in words; None where there are no others.
    """

    coordinates: list[np.ndarray]
    points: Any
    shown: np.ndarray
    columns: np.ndarray
    labels: list[str]
    held: str | None

    @classmethod
    def over(
        cls,
        estimator: Any,
        X: Any,
        *,
        columns: str | int | Sequence[str | int] | None,
        fixed: Mapping[str | int, float] | None,
        resolution: int,
        eps: float | None,
        share: float,
    ) -> ColumnGrid:
        """The grid over some columns of X, and ``eps`` beyond: where None, a ``share`` of each column's range."""
        check_is_fitted(estimator)
        if not isinstance(resolution, Integral) or resolution < 2:
            raise ValueError(f"grid_resolution must be a whole number, 2 or more; got {resolution!r}.")
        if eps is not None and not (isinstance(eps, Real) and 0 <= eps < np.inf):
            raise ValueError(f"eps must be 0 or more, or None; got {eps!r}.")
        X = to_pandas(as_numpy(X, "X", type(estimator).__name__))
        values = check_array(X, dtype=np.float64, input_name="X")
        n_features = getattr(estimator, "n_features_in_", values.shape[1])
        if values.shape[1] != n_features:
            raise ValueError(
                f"X has {values.shape[1]} columns, but {type(estimator).__name__} was fitted to {n_features}."
            )
        named = isinstance(X, pd.DataFrame)
        frame = X if named else pd.DataFrame(values)
        chosen = _chosen(frame, columns)
        shown = values[:, chosen]
        low, high = shown.min(axis=0), shown.max(axis=0)
        margin = share * (high - low) if eps is None else eps
        low, high = low - margin, high + margin
        if (high <= low).any():
            column = as_python(frame.columns[chosen[np.argmax(high <= low)]])
            raise ValueError(f"Column {column!r} of X has one value only: eps must be above 0; got {eps!r}.")
        coordinates = list(np.meshgrid(*np.linspace(low, high, int(resolution)).T))
        points = np.tile(np.median(values, axis=0), (coordinates[0].size, 1))
        held = _held(frame, fixed, chosen)
        for position, value in held.items():
            points[:, position] = value
        points[:, chosen] = np.column_stack([c.ravel() for c in coordinates])
        return cls(
            coordinates,
            pd.DataFrame(points, columns=frame.columns) if named else points,
            shown,
            chosen,
            [str(frame.columns[k]) if named else f"x{k}" for k in chosen],
            _held_at(len(held), frame.shape[1] - len(chosen)),
        )

    def described(self) -> dict[str, Any]:
        """The attributes that displays keep."""
        of_two = len(self.columns) == 2
        return {
            "xx0": self.coordinates[0],
            "xx1": self.coordinates[1] if of_two else None,
            "xlabel": self.labels[0],
            "ylabel": self.labels[1] if of_two else None,
            "held": self.held,
        }


def _chosen(frame: pd.DataFrame, columns: Any) -> np.ndarray:
    """Positions of the columns to draw."""
    if columns is None:
        if frame.shape[1] > 2:
            raise ValueError(
                f"X has {frame.shape[1]} columns, of which one or two can be drawn: choose them by columns=; "
                "the others are held at fixed=, or their medians."
            )
        return np.arange(frame.shape[1])
    named: list[Any] = [columns] if isinstance(columns, (str, Integral)) else list(columns)
    if len(named) not in (1, 2):
        raise ValueError(f"columns={columns!r} must name one column or two.")
    positions = np.array([column_position(frame, column, "columns") for column in named])
    if len(set(positions)) < len(positions):
        raise ValueError(f"columns={columns!r} names one column twice.")
    return positions


def _held(frame: pd.DataFrame, fixed: Mapping[str | int, float] | None, chosen: np.ndarray) -> dict[int, float]:
    """Values that columns are held at, by their positions."""
    held: dict[int, float] = {}
    for column, value in (fixed or {}).items():
        position = column_position(frame, column, "fixed")
        if position in chosen:
            raise ValueError(f"fixed={fixed!r} holds column {column!r}, which is one of those drawn.")
        if not isinstance(value, Real) or not np.isfinite(float(value)):
            raise ValueError(f"fixed={fixed!r} must have a finite number for each column; got {value!r}.")
        held[position] = float(value)
    return held


def _held_at(n_fixed: int, n_others: int) -> str | None:
    """Values that columns not drawn are held at, in words."""
    if not n_others:
        return None
    if not n_fixed:
        return "their medians"
    return "fixed values" if n_fixed == n_others else "fixed values or medians"
