r"""The linear algebra of multiple shooting with defects that are penalised rather than forced to vanish.

Linearised, the loss and the penalty ``sum_j w_j |e_j - s_{j+1}|^2 / 2`` are a quadratic form of the unknowns ``u`` and
of the segments' starts, in which a start meets the next one only. Starts are eliminated one after another (a block
Cholesky factorisation, as in a Kalman smoother), which is stable however unstable the equations are; condensing, the
limit of infinite weights, follows a linearised trajectory through all segments, and explodes where parameters are far
off. See U. M. Ascher, R. M. M. Mattheij, R. D. Russell, "Numerical Solution of Boundary Value Problems for Ordinary
Differential Equations", SIAM 1995, chapter 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skode.equations.layout import Cells, Layout
from skode.equations.shooting import Shots


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

    def _forms(self) -> np.ndarray:
        """Quadratic forms of (start, parameters, 1) of each segment, of shape (n_cells, n_nodes, k + 1, k + 1)."""
        cells = self.cells
        n_cells, n_nodes, _, k = self.shots.end_slopes.shape
        forms = np.zeros((n_cells * n_nodes, k + 1, k + 1))
        rows = np.concatenate([self.slopes, self.residuals[..., None]], axis=2)
        holder = cells.row_cell * n_nodes + self.layout.node[cells.rows]
        first = np.flatnonzero(np.concatenate([[True], np.diff(holder) != 0]))
        forms[holder[first]] = np.add.reduceat(rows.swapaxes(1, 2) @ rows, first, axis=0)
        ends = self._ends()
        return forms.reshape(n_cells, n_nodes, k + 1, k + 1) + ends.swapaxes(2, 3) @ (self.weights[..., None] * ends)

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
        forms, ends, weights = self._forms(), self._ends(), self.weights
        known = np.r_[0:m, q]  # parameters, and 1, among (unknowns, 1)
        lift = np.zeros((n_cells, k + 1, q + 1))  # (start, parameters, 1) of the first segment
        lift[:, :n, :q] = self.shots.start_slopes
        lift[:, n + np.arange(m + 1), known] = 1.0
        total = lift.swapaxes(1, 2) @ forms[:, 0] @ lift
        # All forms that do not involve a start are added at once.
        total[:, known[:, None], known] += forms[:, 1:, n:, n:].sum(axis=1)
        eye = np.eye(n)
        pivot = weights[:, 0, :, None] * eye
        border = -weights[:, 0, :, None] * (ends[:, 0] @ lift)
        diagonal = damping[:, :, None] * eye
        back = []
        for j in range(1, n_nodes):
            pivot = pivot + forms[:, j, :n, :n] + diagonal
            border[:, :, known] += forms[:, j, :n, n:]
            after = -ends[:, j, :, :n].swapaxes(1, 2) * weights[:, j, None, :]
            solved = np.linalg.solve(pivot, np.concatenate([border, after], axis=2))
            back.append(solved)
            total -= border.swapaxes(1, 2) @ solved[..., : q + 1]
            passed = after.swapaxes(1, 2) @ solved
            pivot = weights[:, j, :, None] * eye - passed[..., q + 1 :]
            border = -passed[..., : q + 1]
            border[:, :, known] -= weights[:, j, :, None] * ends[:, j, :, n:]
        return Reduced(total[:, :q, :q], total[:, :q, q], self.shots.start_slopes, back)


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
