r"""Covariance of the estimates, and the combinations of unknowns that the data do not identify.

At the optimum the Gauss-Newton matrix ``H = J^T J`` of the residuals in units of the noise estimates the information
(G. A. F. Seber, C. J. Wild, "Nonlinear Regression", Wiley, 1989, section 2.1). It has the shape of an arrow: unknowns
of different series meet only those that all share. With own blocks ``H_i``, borders ``B_i`` and the shared block
``H_0``,

.. math::
    C_0 = (H_0 - \sum_i B_i^T H_i^{-1} B_i)^{-1}, \quad C_{i0} = -H_i^{-1} B_i C_0, \quad
    C_{ii} = H_i^{-1} + H_i^{-1} B_i C_0 B_i^T H_i^{-1}.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from skode.equations.layout import Cells
from skode.equations.levenberg_marquardt import Task, least_squares
from skode.equations.shooting import Shots, condense

#: Eigenvalues of the scaled information below this are of directions that the data say nothing of.
UNIDENTIFIED = 1e-10
#: Squared share of an unknown in such a direction from which on it is a part of it.
LEAST_SHARE = 1e-3


@dataclass(frozen=True)
class Information:
    """The information of the data about the unknowns of each series, and its inverse.

    Attributes
    ----------
    covariance : ndarray of shape (n_series, n_unknowns, n_unknowns)
        Of the scaled unknowns of each series, those shared by all first; 0 for those that are not free.
    unknown : ndarray of bool, of shape (n_series, n_unknowns)
        Which are part of a combination that the data say nothing of.
    directions : list of ndarray of shape (n_unknowns,)
        These combinations, in units in which each unknown has the same information.
    series : list of int
        The series of each; -1 where shared unknowns are part of them. Of those the combination is that of the series
        whose own unknowns move most.
    log_det : float
        Logarithm of the determinant of the information matrix of all unknowns.
    """

    covariance: np.ndarray
    unknown: np.ndarray
    directions: list[np.ndarray]
    series: list[int]
    log_det: float = 0.0

    def errors(self) -> np.ndarray:
        """Standard errors of the scaled unknowns, of shape (n_series, n_unknowns); infinite where unknown."""
        variance = np.maximum(np.diagonal(self.covariance, axis1=1, axis2=2), 0.0)
        return np.where(self.unknown, np.inf, np.sqrt(variance))


@dataclass(frozen=True)
class Estimate:
    """An optimum, as its information needs it.

    Attributes
    ----------
    shots : Shots
        The solutions there, of all series.
    scale : ndarray of shape (n_outputs,)
        Standard deviations of the noise.
    free : ndarray of bool, of shape (n_series, n_unknowns)
        Which unknowns are not held by a bound.
    precision : ndarray of shape (n_shared,) or None
        Precisions of the prior of the shared unknowns; None where there is none.
    """

    shots: Shots
    scale: np.ndarray
    free: np.ndarray
    precision: np.ndarray | None = None


def information(task: Task, at: Estimate, *, sandwich: bool) -> Information:
    """The information at an optimum.

    Parameters
    ----------
    task : Task
        Problem that was solved.
    at : Estimate
        The optimum.
    sandwich : bool
        Whether the covariance is that of Huber and White, which holds where the noise is not as it was taken to be:
        ``C (sum of g g^T) C`` with the gradients g of single observations.
    """
    cells, jacobian, residuals = _linearised(task, at)
    H = _products(cells, jacobian)
    found = _inverse(H, task.model.n_shared, ~at.free, at.precision)
    if not sandwich:
        return found
    gradients = jacobian * residuals[..., None]
    return _sandwich(found, _products(cells, gradients), H, (task.model.n_shared, ~at.free))


def _linearised(task: Task, at: Estimate, closed: float = 0.0) -> tuple[Cells, np.ndarray, np.ndarray]:
    """All cells, the derivatives of their residuals by the unknowns (n_rows, n_outputs, q), and the residuals.

    Along the linearised solution without defects; a share ``closed`` of these is taken into the residuals.
    """
    shots, scale = at.shots, at.scale
    cells = Cells.of(task.layout, np.arange(task.layout.n_series))
    condensed = condense(task.layout, cells, shots, np.full(len(cells.series), closed))
    _, residuals, slopes = least_squares(task, cells, shots, np.broadcast_to(scale, (len(shots.mean), len(scale))))
    if closed:
        residuals = residuals + slopes * condensed.mean_offsets
    if task.noise.efficiency != 1.0:  # expected, rather than at the residuals that there are
        slopes = np.sqrt(task.layout.weights[cells.rows] * task.noise.efficiency) / scale
    return cells, slopes[..., None] * condensed.mean_slopes * at.free[cells.row_cell][:, None], residuals


def quadratic_form(task: Task, at: Estimate) -> tuple[np.ndarray, np.ndarray]:
    """Information of the unknowns that all series share, and the gradient of the loss; each series' own follow them.

    The prior is in neither.
    """
    cells, jacobian, residuals = _linearised(task, at, closed=1.0)
    s, q = task.model.n_shared, jacobian.shape[2]
    H = _products(cells, np.concatenate([jacobian, residuals[..., None]], axis=2))
    own = _pseudo_inverse(H[:, s:q, s:q], ~at.free[:, s:])[0]
    kept = np.r_[0:s, q]
    reduced = (H[:, kept[:, None], kept] - H[:, kept, s:q] @ own @ H[:, s:q, kept]).sum(axis=0)
    return reduced[:s, :s], reduced[:s, s]


def _products(cells: Cells, rows: np.ndarray) -> np.ndarray:
    """Sums of the outer products of rows (n_rows, n_outputs, q) over each cell."""
    bounds = np.searchsorted(cells.row_cell, np.arange(len(cells.series) + 1))
    parts = [rows[a:b].reshape((b - a) * rows.shape[1], rows.shape[2]) for a, b in itertools.pairwise(bounds)]
    return np.stack([part.T @ part for part in parts])


def _inverse(H: np.ndarray, s: int, held: np.ndarray, precision: np.ndarray | None = None) -> Information:
    """The inverse of a matrix of the shape of an arrow, series by series; 0 for unknowns that are held."""
    n_series, q, _ = H.shape
    unknown, directions, series = np.zeros((n_series, q), dtype=bool), [], []
    covariance = np.zeros_like(H)
    own, missed = _pseudo_inverse(H[:, s:, s:], held[:, s:])
    log_det = float(np.linalg.slogdet(H[:, s:, s:] + _diagonal(held[:, s:]))[1].sum())
    for i, direction in missed:
        directions.append(np.concatenate([np.zeros(s), direction]))
        series.append(i)
    if s:
        X = own @ H[:, s:, :s]
        prior = np.zeros((s, s)) if precision is None else np.diag(precision)
        reduced = (H[:, :s, :s] - H[:, :s, s:] @ X).sum(axis=0) + prior
        total = np.diagonal(H[:, :s, :s].sum(axis=0) + prior)
        log_det += float(np.linalg.slogdet(reduced + _diagonal(held[:1, :s])[0])[1])
        (shared,), missed = _pseudo_inverse(reduced[None], held[:1, :s], total[None])
        for _, direction in missed:
            whole = _with_own(direction, X, total, H)
            unknown[:, :s] |= direction**2 > LEAST_SHARE
            unknown[:, s:] |= whole[:, s:] ** 2 > LEAST_SHARE
            directions.append(whole[np.argmin(np.abs(whole[:, :s]).sum(axis=1))])
            series.append(-1)
        covariance[:, :s, :s] = shared
        covariance[:, s:, :s] = -X @ shared
        covariance[:, :s, s:] = covariance[:, s:, :s].swapaxes(1, 2)
        own = own + X @ shared @ X.swapaxes(1, 2)
    covariance[:, s:, s:] = own
    for i, direction in zip(series, directions, strict=True):
        if i >= 0:
            unknown[i] |= direction**2 > LEAST_SHARE
    return Information(covariance, unknown, directions, series, log_det)


def _with_own(direction: np.ndarray, X: np.ndarray, total: np.ndarray, H: np.ndarray) -> np.ndarray:
    """A combination of shared unknowns with those of each series that move along with it, ``-X d``, at unit length.

    ``direction`` is in units in which the shared unknowns have the same information, ``total``; so are the unit vectors
    that are returned, of shape (n_series, n_unknowns).
    """
    shared = np.where(total > 0.0, direction / np.sqrt(np.where(total > 0.0, total, 1.0)), direction)
    own = -(X @ shared) * np.sqrt(np.diagonal(H, axis1=1, axis2=2)[:, len(direction) :])
    whole = np.concatenate([np.broadcast_to(direction, (len(H), len(direction))), own], axis=1)
    return whole / np.linalg.norm(whole, axis=1, keepdims=True)


def _pseudo_inverse(
    matrices: np.ndarray, held: np.ndarray, diagonal: np.ndarray | None = None
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Inverses of symmetric matrices but for directions in which they vanish; and these, with their matrices' numbers.

    They are scaled to a unit diagonal, or by another one, first. Unknowns that are held are no such direction.
    """
    if not matrices.shape[1]:
        return matrices, []
    diagonal = np.diagonal(matrices, axis1=1, axis2=2) if diagonal is None else diagonal
    scale = np.where(diagonal > 0.0, 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0)), 0.0)
    scaled = scale[:, :, None] * matrices * scale[:, None, :]
    values, vectors = np.linalg.eigh(np.where(held[:, :, None] | held[:, None, :], 0.0, scaled) + _diagonal(held))
    scale = np.where(held, 0.0, scale)
    vanish = values < UNIDENTIFIED
    inverse = np.where(vanish, 0.0, 1.0 / np.where(vanish, 1.0, values))
    scaled = scale[:, :, None] * vectors
    missed = [(int(i), vectors[i, :, j]) for i, j in zip(*np.nonzero(vanish), strict=True)]
    return (scaled * inverse[:, None, :]) @ scaled.swapaxes(1, 2), missed


def _diagonal(held: np.ndarray) -> np.ndarray:
    return held[:, :, None] * np.eye(held.shape[1])


def _sandwich(found: Information, meat: np.ndarray, H: np.ndarray, held: tuple[int, np.ndarray]) -> Information:
    """The covariance with the gradients' covariance inside; that of the unknowns of one series.

    ``held`` is the number of shared unknowns, and which unknowns are held.
    """
    (n_series, q, _), s = H.shape, held[0]
    # The influence of series j on the shared unknowns, and through these on those of series i.
    own = _pseudo_inverse(H[:, s:, s:], held[1][:, s:])[0]
    X = own @ H[:, s:, :s]
    project = np.concatenate([np.broadcast_to(np.eye(s), (n_series, s, s)), -X.swapaxes(1, 2)], axis=2)
    shared = found.covariance[0, :s, :s]
    by_shared = shared @ project  # (n_series, s, q)
    on_shared = (by_shared @ meat @ by_shared.swapaxes(1, 2)).sum(axis=0)
    lift = np.concatenate([np.broadcast_to(np.eye(s), (n_series, s, s)), -X], axis=1)  # (n_series, q, s)
    alone = np.concatenate([np.zeros((n_series, q - s, s)), own], axis=2)  # (n_series, q - s, q)
    alone = np.concatenate([np.zeros((n_series, s, q)), alone], axis=1)
    covariance = lift @ on_shared @ lift.swapaxes(1, 2)
    cross = lift @ by_shared @ meat @ alone.swapaxes(1, 2)
    covariance = covariance + cross + cross.swapaxes(1, 2) + alone @ meat @ alone.swapaxes(1, 2)
    return Information(covariance, found.unknown, found.directions, found.series, found.log_det)


def combinations(found: Information, names: list[str]) -> list[str]:
    """The unknowns that are part of each combination that the data say nothing of, as text."""
    texts = []
    for direction in found.directions:
        parts = [name for name, share in zip(names, direction**2, strict=True) if share > LEAST_SHARE]
        text = " with ".join(parts)
        if text not in texts:
            texts.append(text)
    return texts
