"""Discrete columns as continuous variables: each value is a cell of a standard normal variable, as likely as the value.

With ``F`` the distribution of a discrete variable ``c`` and a uniform ``u``, ``z = Phi^-1(F(c-) + u P(c))`` is
standard normal (the distributional transform: Rueschendorf, Journal of Statistical Planning and Inference 139, 2009),
and ``c`` is known from ``z``. A density ``p(z, rest)`` then gives the probability of a value as the integral over its
cell, ``p(c, rest) = P(c) E_u[p(z(u), rest) / phi(z(u))]``, exactly and not as a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, ndtr, ndtri
from scipy.stats import norm, qmc

from skode.density.columns import LARGEST_ATOM, LEAST_ATOM

#: Points of cells at which densities are averaged, for one variable, and at most: twice as many for each further one.
#: Of three categories' columns probabilities then add up to within a percent or so, of four to within some percent.
FEWEST_POINTS, MOST_POINTS = 64, 256

#: Middle part of a category's cell in which samples lie, so that densities of neighbours, which have nothing in common,
#: do not run into each other; and the share of the points, and the wider part that they lie in, which see what spills
#: over.
MIDDLE, POINTS_IN_MIDDLE, WIDER_MIDDLE = 0.2, 0.85, 0.3

#: Pseudo-count of each value, and of those that were not seen.
PRIOR = 0.5

#: Numbers are discrete if there are no more than this number of different ones, each for so many samples on average; or
#: if one of some more is common, and the others are for so many samples on average.
FEW_VALUES, SAMPLES_PER_VALUE, SOME_VALUES, SAMPLES_PER_OTHER = 20, 20, 50, 5


@dataclass(frozen=True)
class DiscreteVariable:
    """A column of few values, or several of which one is 1 and the others 0.

    Attributes
    ----------
    columns : ndarray of int of shape (k,)
        Positions of the columns.
    values : ndarray of shape (m, k)
        The values, in rising order where there is one column.
    edges : ndarray of shape (m + 2,)
        Limits of their cells in probability, from 0 to 1. The last cell is that of values not seen.
    middle : float
        The part of a cell, in its middle, that samples lie in.
    """

    columns: np.ndarray
    values: np.ndarray
    edges: np.ndarray
    middle: float

    @classmethod
    def fit(cls, X: np.ndarray, weights: np.ndarray, columns: np.ndarray, *, ordered: bool) -> DiscreteVariable:
        """From samples with weights that count them."""
        own = X[:, columns]
        values = np.unique(own)[:, None] if len(columns) == 1 else np.eye(len(columns))
        middle = 1.0 if ordered else MIDDLE
        unfinished = cls(columns, values, np.empty(0), middle)
        counts = np.bincount(unfinished.codes(X), weights=weights, minlength=len(values) + 1) + PRIOR
        return cls(columns, values, np.concatenate([[0.0], np.cumsum(counts) / counts.sum()]), middle)

    def codes(self, X: np.ndarray) -> np.ndarray:
        """Numbers of samples' values, ``m`` where not seen."""
        own, m = X[:, self.columns], len(self.values)
        if len(self.columns) == 1:
            found = np.minimum(np.searchsorted(self.values[:, 0], own[:, 0]), m - 1)
        else:
            found = own.argmax(1)
        return np.where((self.values[found] == own).all(1), found, m)

    def places(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in a cell, most of them in its middle, for uniform numbers ``v``; and the slopes by which they count.

        The mean over ``v`` of a function of the places times the slopes is the function's mean over the cell.
        """
        if self.middle == 1.0:
            return v, np.ones_like(v)
        at, edge = 0.5 * (1.0 - POINTS_IN_MIDDLE), 0.5 * (1.0 - WIDER_MIDDLE)
        places = np.interp(v, [0.0, at, 1.0 - at, 1.0], [0.0, edge, 1.0 - edge, 1.0])
        slopes = np.where(np.abs(v - 0.5) < 0.5 - at, WIDER_MIDDLE / POINTS_IN_MIDDLE, edge / at)
        return places, slopes


@dataclass(frozen=True)
class Cells:
    """The cells that samples lie in.

    Attributes
    ----------
    continuous : ndarray of shape (n, n_variables)
        The samples' continuous variables, in the columns that these have among all.
    low, probability : ndarray of shape (n, n_discrete)
        Lower limits of the cells in probability, and their probabilities.
    """

    continuous: np.ndarray
    low: np.ndarray
    probability: np.ndarray


@dataclass(frozen=True)
class Dequantiser:
    """The map between samples with discrete columns and points of continuous variables only.

    Attributes
    ----------
    variables : list of int or DiscreteVariable
        The variables in the order of the points' columns; of continuous ones the position of the column.
    n_columns : int
        Number of columns of the samples.
    """

    variables: list[int | DiscreteVariable]
    n_columns: int

    @classmethod
    def fit(
        cls, X: np.ndarray, weights: np.ndarray, groups: Sequence[np.ndarray], unordered: Sequence[int]
    ) -> Dequantiser:
        """From samples, the columns of each discrete variable, and the columns whose values have no order."""
        of_first = {int(group[0]): group for group in groups}
        further = {int(column) for group in groups for column in group[1:]}
        variables: list[int | DiscreteVariable] = [
            DiscreteVariable.fit(X, weights, of_first[j], ordered=len(of_first[j]) == 1 and j not in unordered)
            if j in of_first
            else j
            for j in range(X.shape[1])
            if j not in further
        ]
        return cls(variables, X.shape[1])

    @property
    def discrete(self) -> list[tuple[int, DiscreteVariable]]:
        """The discrete variables, with the points' column of each."""
        return [(j, v) for j, v in enumerate(self.variables) if isinstance(v, DiscreteVariable)]

    @property
    def first(self) -> list[int]:
        """The first column of each variable."""
        return [v if isinstance(v, int) else int(v.columns[0]) for v in self.variables]

    def drawn(self, X: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        """Points drawn from the cells of samples, from their middle parts."""
        u = rng.uniform(size=(len(X), len(self.discrete)))
        middles = np.array([variable.middle for _, variable in self.discrete])
        return self._points(self._cells(X), 0.5 + middles * (u - 0.5))[0]

    def middle(self, X: np.ndarray) -> np.ndarray:
        """The points in the middle of samples' cells, in probability."""
        return self._points(self._cells(X), np.full(len(self.discrete), 0.5))[0]

    def _cells(self, X: np.ndarray) -> Cells:
        X = X.astype(np.float64)
        codes = [(variable, variable.codes(X)) for _, variable in self.discrete]
        low = np.column_stack([variable.edges[code] for variable, code in codes])
        return Cells(X[:, self.first], low, np.column_stack([np.diff(v.edges)[code] for v, code in codes]))

    def _points(self, cells: Cells, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points at places from 0 to 1 in cells, and ``log P(c) - log phi(z)`` added up over the discrete variables."""
        z = ndtri(cells.low + u * cells.probability)
        points = cells.continuous.copy()
        points[:, [j for j, _ in self.discrete]] = z
        return points, (np.log(cells.probability) - norm.logpdf(z)).sum(1)

    def samples(self, points: np.ndarray) -> np.ndarray:
        """The samples in whose cells points lie; none of values that were not seen."""
        X = np.empty((len(points), self.n_columns), dtype=points.dtype)
        for j, variable in enumerate(self.variables):
            if isinstance(variable, DiscreteVariable):
                codes = np.searchsorted(variable.edges, ndtr(points[:, j].astype(np.float64)), side="right") - 1
                X[:, variable.columns] = variable.values[np.minimum(codes, len(variable.values) - 1)]
            else:
                X[:, variable] = points[:, j]
        return X

    def log_density(self, X: np.ndarray, of_points: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Log-densities of samples, with respect to counting on discrete variables.

        Parameters
        ----------
        X : ndarray of shape (n, n_columns)
            The samples.
        of_points : callable
            Gives the log-densities of points.
        """
        cells = self._cells(X)
        places, log_slopes = self.places()
        logs = []
        for at, log_slope in zip(places, log_slopes, strict=True):
            points, log_ratio = self._points(cells, at)
            logs.append(of_points(points) + log_ratio + log_slope)
        return logsumexp(logs, axis=0) - np.log(len(places))

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Places in cells that densities are averaged over, and logarithms of the slopes by which they count.

        Returns
        -------
        places : ndarray of shape (n_points, n_discrete)
        log_slopes : ndarray of shape (n_points,)
        """
        n_points = min(FEWEST_POINTS * 2 ** (len(self.discrete) - 1), MOST_POINTS)
        uniform = qmc.Sobol(len(self.discrete), rng=0).random(n_points)
        found = [variable.places(v) for (_, variable), v in zip(self.discrete, uniform.T, strict=True)]
        places, slopes = (np.column_stack(parts) for parts in zip(*found, strict=True))
        return places, np.log(slopes).sum(1)


def discrete_groups(X: np.ndarray, named: Sequence[int], *, find: bool) -> list[np.ndarray]:
    """The columns of discrete variables.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Samples.
    named : sequence of int
        Columns that are discrete in any case.
    find : bool
        Whether to look for others: groups of adjacent columns of which one is 1 and the others 0, and columns of few
        numbers.

    Returns
    -------
    list of ndarray of int
        The columns of each variable.
    """
    groups = [np.array([j]) for j in named]
    if not find:
        return groups
    taken = set(named)
    for group in _one_hot(X):
        if not taken.intersection(group.tolist()):
            groups.append(group)
            taken.update(group.tolist())
    return groups + [np.array([j]) for j in range(X.shape[1]) if j not in taken and _has_few_values(X[:, j])]


def _one_hot(X: np.ndarray) -> list[np.ndarray]:
    binary = ((X == 0) | (X == 1)).all(0) & (np.ptp(X, axis=0) > 0)
    groups, first = [], 0
    while first < X.shape[1]:
        total, last = np.zeros(len(X)), first
        while last < X.shape[1] and binary[last] and (total + X[:, last] <= 1).all():
            total = total + X[:, last]
            last += 1
            if (total == 1).all():
                groups.append(np.arange(first, last))
                break
        else:
            last = first + 1
        first = last
    return groups


def _has_few_values(column: np.ndarray) -> bool:
    values, counts = np.unique(column, return_counts=True)
    if len(values) < 2 or len(values) > SOME_VALUES:
        return False
    few = len(values) <= FEW_VALUES and len(column) >= SAMPLES_PER_VALUE * len(values)
    n, most = len(column), counts.max()
    others_repeat = n - most >= SAMPLES_PER_OTHER * (len(values) - 1)
    return bool(few or (most >= LEAST_ATOM and most > LARGEST_ATOM * n and others_repeat))
