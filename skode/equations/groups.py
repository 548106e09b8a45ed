"""Fits as groups of cells that share unknowns, and the steps of all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class Groups:
    """Which cells belong to one fit."""

    def __init__(self, start: np.ndarray, n_shared: int) -> None:
        numbers = start if n_shared else np.arange(len(start))
        self.of_cell = np.unique(numbers, return_inverse=True)[1]
        self.n = int(self.of_cell.max()) + 1
        self.alone = self.n == len(self.of_cell)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sums of cells' values over each group."""
        if self.alone:
            return values
        total = np.zeros((self.n, *values.shape[1:]))
        np.add.at(total, self.of_cell, values)
        return total


@dataclass
class Normal:
    """Normal equations of some cells, and the scaling of their damping."""

    matrix: np.ndarray
    gradient: np.ndarray
    damping: np.ndarray


def step_of(normal: Normal, groups: Groups, n_shared: int, fixed: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The damped Gauss-Newton step of all cells; unknowns that are fixed move as given.

    Own unknowns of each series are eliminated first (the matrix has the shape of an arrow), then the shared ones are
    solved for.
    """
    H = normal.matrix + normal.damping[:, :, None] * np.eye(normal.matrix.shape[1])
    gradient = normal.gradient + (normal.matrix @ given[..., None])[..., 0]
    free = ~fixed
    gradient = np.where(free, gradient, 0.0)
    H = np.where(free[:, :, None] & free[:, None, :], H, 0.0)
    places = np.arange(H.shape[1])
    H[:, places, places] += fixed
    s = n_shared
    if not s:
        return given - np.linalg.solve(H, gradient[..., None])[..., 0] * free
    own = np.linalg.solve(H[:, s:, s:], np.concatenate([H[:, s:, :s], gradient[:, s:, None]], axis=2))
    arrow = H[:, :s, s:] @ own
    reduced = groups.sum(np.concatenate([H[:, :s, :s], gradient[:, :s, None]], axis=2) - arrow)
    shared = -np.linalg.solve(reduced[..., :s], reduced[..., s:])[..., 0][groups.of_cell]
    rest = -(own[..., s] + (own[..., :s] @ shared[..., None])[..., 0])
    return given + np.concatenate([shared, rest], axis=1) * free
