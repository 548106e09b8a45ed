r"""The linear algebra of multiple shooting with defects that are penalised rather than forced to vanish.

Linearised, the loss and the penalty ``sum_j w_j |e_j - s_{j+1}|^2 / 2`` are a quadratic form of the unknowns ``u`` and
of the segments' starts, in which a start meets the next one only. Starts are eliminated one after another (a block
Cholesky factorisation, as in a Kalman smoother), which is stable however unstable the equations are; condensing, the
limit of infinite weights, follows a linearised trajectory through all segments, and explodes where parameters are far
off. See U. M. Ascher, R. M. M. Mattheij, R. D. Russell, "Numerical Solution of Boundary Value Problems for Ordinary
Differential Equations", SIAM 1995, chapter 7.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from skode.equations.layout import Cells, Layout
from skode.equations.shooting import Shots

#: Added to the diagonal of blocks that are singular, in units of their largest element.
SINGULAR = 1e-10


@dataclass(frozen=True)
class Linearised:
    """Residuals and defects as linear functions of steps.

    Attributes
    ----------
    layout, cells, shots
        The observations, the cells and their solutions.
    residuals : ndarray of shape (n_rows, n_outputs)
        Residuals.
    slopes : ndarray of shape (n_rows, n_outputs, k)
        Their derivatives by the state at the start of the row's segment and by the scaled parameters.
    defects : ndarray of shape (n_cells, n_nodes, n_states)
        Defects, shifted by the multipliers over the weights.
    weights : ndarray of shape (n_cells, n_nodes, n_states)
        Weights of their squares, 0 where a segment has no next one.
    """

    layout: Layout
    cells: Cells
    shots: Shots
    residuals: np.ndarray
    slopes: np.ndarray
    defects: np.ndarray
    weights: np.ndarray

    def moved(self, step: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Changes of residuals and defects for a step of the unknowns and of the starts of segments."""
        cells, n = self.cells, nodes.shape[2]
        m = self.slopes.shape[2] - n
        known = np.concatenate([nodes[cells.row_cell, self.layout.node[cells.rows]], step[cells.row_cell, :m]], axis=1)
        residuals = (self.slopes @ known[..., None])[..., 0]
        by_state, by_parameters = self.shots.end_slopes[..., :n], self.shots.end_slopes[..., n:]
        defects = (by_state @ nodes[..., None])[..., 0] + (by_parameters @ step[:, None, :m, None])[..., 0]
        defects[:, :-1] -= nodes[:, 1:]
        return residuals, defects

    def gain(self, moved: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Decrease of the loss (by row) and of the penalty (by cell) that the quadratic model predicts of it."""
        residuals, defects = moved
        loss = -((self.residuals + 0.5 * residuals) * residuals).sum(axis=1)
        penalty = -(self.weights * (self.defects + 0.5 * defects) * defects).sum(axis=(1, 2))
        return loss, penalty

    def _forms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The quadratic form of each segment's start and of (parameters, 1), in three parts.

        Only starts differ from segment to segment: the part of (parameters, 1) by itself, the largest one where
        parameters are many, is needed in the sum over a cell's segments.

        Returns
        -------
        starts : ndarray of shape (n_cells, n_nodes, n_states, n_states)
        mixed : ndarray of shape (n_cells, n_nodes, n_states, n_parameters + 1)
        known : ndarray of shape (n_cells, n_parameters + 1, n_parameters + 1)
        """
        cells = self.cells
        n_cells, n_nodes, n, k = self.shots.end_slopes.shape
        rows = np.concatenate([self.slopes, self.residuals[..., None]], axis=2)
        holder = cells.row_cell * n_nodes + self.layout.node[cells.rows]
        first = np.flatnonzero(np.concatenate([[True], np.diff(holder) != 0]))
        of_starts = np.zeros((n_cells * n_nodes, n, k + 1))
        of_starts[holder[first]] = np.add.reduceat(rows[..., :n].swapaxes(1, 2) @ rows, first, axis=0)
        of_starts = of_starts.reshape(n_cells, n_nodes, n, k + 1)
        ends = self._ends()
        weighted = self.weights[..., None] * ends
        of_starts += ends[..., :n].swapaxes(2, 3) @ weighted
        flat, flat_weighted = (x[..., n:].reshape(n_cells, n_nodes * n, -1) for x in (ends, weighted))
        known = flat.swapaxes(1, 2) @ flat_weighted
        bounds = np.searchsorted(cells.row_cell, np.arange(n_cells + 1))
        for total, (start, stop) in zip(known, itertools.pairwise(bounds), strict=True):
            own = rows[start:stop, :, n:].reshape(-1, k + 1 - n)
            total += own.T @ own
        return of_starts[..., :n], of_starts[..., n:], known

    def _ends(self) -> np.ndarray:
        return np.concatenate([self.shots.end_slopes, self.defects[..., None]], axis=3)

    def reduced(self, damping: np.ndarray) -> Reduced:
        """The form of the unknowns that is left when all starts are eliminated.

        Parameters
        ----------
        damping : ndarray of shape (n_cells, n_states)
            Damping, added to the diagonal of each start's block.
        """
        n_cells, n_nodes, n, k = self.shots.end_slopes.shape
        m, q = k - n, self.shots.start_slopes.shape[2]
        starts, mixed, by_known = self._forms()
        ends, weights = self._ends(), self.weights
        known = np.r_[0:m, q]  # parameters, and 1, among (unknowns, 1)
        first = np.zeros((n_cells, n, q + 1))  # the start of the first segment, of (unknowns, 1)
        first[..., :q] = self.shots.start_slopes
        crossed = np.zeros((n_cells, q + 1, q + 1))
        crossed[..., known] = first.swapaxes(1, 2) @ mixed[:, 0]
        total = first.swapaxes(1, 2) @ starts[:, 0] @ first + crossed + crossed.swapaxes(1, 2)
        total[:, known[:, None], known] += by_known
        eye = np.eye(n)
        pivot = weights[:, 0, :, None] * eye
        border = -weights[:, 0, :, None] * (ends[:, 0, :, :n] @ first)
        border[:, :, known] -= weights[:, 0, :, None] * ends[:, 0, :, n:]
        diagonal = damping[:, :, None] * eye
        back = []
        for j in range(1, n_nodes):
            pivot = pivot + starts[:, j] + diagonal
            border[:, :, known] += mixed[:, j]
            after = -ends[:, j, :, :n].swapaxes(1, 2) * weights[:, j, None, :]
            solved = _solved(pivot, np.concatenate([border, after], axis=2))
            back.append(solved)
            total -= border.swapaxes(1, 2) @ solved[..., : q + 1]
            passed = after.swapaxes(1, 2) @ solved
            pivot = weights[:, j, :, None] * eye - passed[..., q + 1 :]
            border = -passed[..., : q + 1]
            border[:, :, known] -= weights[:, j, :, None] * ends[:, j, :, n:]
        return Reduced(total[:, :q, :q], total[:, :q, q], self.shots.start_slopes, back)


def _solved(pivot: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve with the blocks of starts; those of starts that nothing determines, any longer, are damped further.

    Where a start is forgotten within its segment, as in stiff equations, and not observed, its block may be singular
    within rounding. A step that this damping leads astray is refused as any other.
    """
    try:
        return np.linalg.solve(pivot, right)
    except np.linalg.LinAlgError:
        size = np.abs(pivot).max(axis=(1, 2), keepdims=True)
        return np.linalg.solve(pivot + np.where(size > 0.0, SINGULAR * size, 1.0) * np.eye(pivot.shape[1]), right)


@dataclass(frozen=True)
class Reduced:
    """A quadratic form of the unknowns alone.

    Attributes
    ----------
    matrix : ndarray of shape (n_cells, n_unknowns, n_unknowns)
        Its matrix.
    gradient : ndarray of shape (n_cells, n_unknowns)
        Its gradient at 0.
    start_slopes : ndarray of shape (n_cells, n_states, n_unknowns)
        Derivatives of the initial states.
    back : list of ndarray of shape (n_cells, n_states, n_unknowns + 1 + n_states)
        Of each start but the first, minus its derivatives by the unknowns, its offset, and its derivatives by the next.
    """

    matrix: np.ndarray
    gradient: np.ndarray
    start_slopes: np.ndarray
    back: list[np.ndarray]

    def nodes(self, step: np.ndarray) -> np.ndarray:
        """Steps of all starts, of shape (n_cells, n_nodes, n_states), that go with one of the unknowns."""
        first = (self.start_slopes @ step[..., None])[..., 0]
        moves = [np.zeros_like(first)]
        for solved in reversed(self.back):
            known = np.concatenate([step, np.ones((len(step), 1)), moves[-1]], axis=1)
            moves.append(-(solved @ known[..., None])[..., 0])
        return np.stack([first, *reversed(moves[1:])], axis=1)
