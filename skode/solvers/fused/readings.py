"""Outputs of a fused solve, read off its steps, and their cotangents given back to these."""

from __future__ import annotations

import numpy as np

from skode.solvers.forward.output_times import OutputTimes, Reading
from skode.solvers.fused.memory import StepMemory
from skode.solvers.tableaus import ButcherTableau


def weights_at(tableau: ButcherTableau, theta: np.ndarray, h: float, dtype: np.dtype) -> np.ndarray:
    """Weights ``[1, h b_i(theta)]`` of a step's first state and of its stages at places inside it, row by row."""
    weights = np.ones((len(theta), tableau.n_stages + 1), dtype)
    weights[:, 1:] = h * tableau.interpolation_weights(theta)
    return weights


class Outputs:
    """Outputs at given times, of all samples or of one each.

    Parameters
    ----------
    tableau : ButcherTableau
        The method.
    readout : OutputTimes
        Says which step answers which of them.
    y0 : ndarray of shape (n, d)
        The initial state.

    Attributes
    ----------
    values : ndarray of shape (m, n, d), or (m, d) of single samples
        The outputs.
    """

    def __init__(self, tableau: ButcherTableau, readout: OutputTimes, y0: np.ndarray) -> None:
        self.tableau, self.readout, self.y0 = tableau, readout, y0
        shape = y0.shape if readout.rows is None else y0.shape[1:]
        self.values = np.empty((readout.n_outputs, *shape), y0.dtype)

    def at_start(self, t: float) -> Reading | None:
        """Take the outputs at the initial time."""
        reading = self.readout.at_start(t)
        if reading is not None:
            self._take(reading, self.y0)
        return reading

    def in_step(self, step: StepMemory, t: float, t_next: float, y_next: np.ndarray) -> list[Reading]:
        """Take those of a step that ends in a flattened state ``y_next``."""
        if not self.readout.any_until(t_next):
            return []
        readings = self.readout.in_step(t, t_next)
        n, d = self.y0.shape
        for reading in readings:
            if reading.at_end:
                self._take(reading, y_next.reshape(d, n).T)
                continue
            weights = weights_at(self.tableau, reading.theta, t_next - t, y_next.dtype)
            if reading.rows is None:
                inside = (weights @ step.rows).reshape(len(weights), d, n).swapaxes(1, 2)
            else:
                own = step.rows.reshape(len(step.rows), d, n)[:, :, reading.rows]
                inside = (own * weights.T[:, None]).sum(0).T
            self.values[reading.positions] = inside
        return readings

    def _take(self, reading: Reading, state: np.ndarray) -> None:
        self.values[reading.positions] = state if reading.rows is None else state[reading.rows]


class Cotangents:
    """The outputs' cotangents, as steps are pulled back.

    Parameters
    ----------
    tableau : ButcherTableau
        The method.
    given : ndarray of the outputs' shape
        The cotangents.
    """

    def __init__(self, tableau: ButcherTableau, given: np.ndarray) -> None:
        self.tableau, self.given = tableau, given

    def add(self, reading: Reading, cotangent: np.ndarray) -> None:
        """Add those of outputs that are a state to the state's cotangent, of shape (d, n)."""
        given = self.given[reading.positions]
        if reading.rows is None:
            cotangent += (given[0] if len(given) == 1 else given.sum(0)).T
        else:
            np.add.at(cotangent.T, reading.rows, given)

    def inside(self, readings: list[Reading], h: float, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray | None:
        """Cotangents of a step's first state and of its stages, from outputs inside it; rows as those of the step.

        Of ``y(theta_j) = y + h sum_i b_i(theta_j) k_i`` these are ``sum_j ybar_j`` and ``h sum_j b_i(theta_j) ybar_j``.
        """
        total = None
        for reading in readings:
            if reading.at_end:
                continue
            weights, given = weights_at(self.tableau, reading.theta, h, dtype), self.given[reading.positions]
            if reading.rows is None:
                part = np.tensordot(weights, given.swapaxes(1, 2), (0, 0))
            else:
                order = np.argsort(reading.rows, kind="stable")
                rows = reading.rows[order]
                first = np.flatnonzero(np.diff(rows, prepend=-1))
                entries = weights[order].T[:, None] * given[order].T
                part = np.zeros((weights.shape[1], *shape), dtype)
                part[:, :, rows[first]] = np.add.reduceat(entries, first, axis=2)
            total = part if total is None else total + part
        return None if total is None else total.reshape(len(total), -1)
