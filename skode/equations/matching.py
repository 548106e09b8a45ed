r"""Starts without a solve: the right-hand side integrated along smoothed observations.

Where all states are observed, smoothed observations ``s`` take the solution's place on both sides of

.. math:: y(t) = y(t_0) + \int_{t_0}^t f(\tau, y(\tau), p) \, d\tau,

which leaves a regression for ``p``, linear where ``f`` is. Nothing is solved, so that nothing explodes, and there are
few local optima; integrals, unlike derivatives, hardly notice the noise that smoothing has left (I. Dattner, C. A. J.
Klaassen, "Optimal rate of direct estimators in systems of ordinary differential equations linear in functions of the
parameters", Electronic Journal of Statistics 9, 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from skode.equations.dynamics import Driver, along
from skode.equations.layout import Layout
from skode.equations.levenberg_marquardt import LONGEST_LOG_STEP, Task

#: Series that are matched, at most, and times of each; of longer ones neighbours are averaged.
MOST_SERIES, MOST_TIMES = 20, 200
#: Fewer times than that are not smoothed.
LEAST_TIMES = 6
#: Price of a degree of freedom of a spline; above 1, for cross-validation alone follows the noise now and then
#: (Y.-J. Kim, C. Gu, "Smoothing spline Gaussian regression", J. R. Stat. Soc. B 66, 2004).
PRICE = 1.4
STEPS, LEAST_GAIN = 40, 1e-4
#: Share of the smoothed states' variance that parameters must explain to be a start: integrals of stiff equations are
#: mostly those of what smoothing has left.
LEAST_EXPLAINED = 0.5


def smoothing_spline(t: np.ndarray, y: np.ndarray) -> CubicSpline:
    """Natural cubic smoothing splines by generalised cross-validation.

    P. J. Green, B. W. Silverman, "Nonparametric Regression and Generalized Linear Models", Chapman & Hall, 1994,
    sections 2.3 and 3.2: values at the knots are ``(I + lambda Q R^{-1} Q^T)^{-1} y``, whose eigenvectors serve all
    ``lambda`` and all columns.

    Parameters
    ----------
    t : ndarray of shape (n,)
        Times, increasing, at least three.
    y : ndarray of shape (n, k)
        Observations.
    """
    n = len(t)
    h = np.diff(t) / (t[-1] - t[0])
    Q, R, inner = np.zeros((n, n - 2)), np.zeros((n - 2, n - 2)), np.arange(n - 2)
    Q[inner, inner], Q[inner + 2, inner] = 1.0 / h[:-1], 1.0 / h[1:]
    Q[inner + 1, inner] = -1.0 / h[:-1] - 1.0 / h[1:]
    R[inner, inner] = (h[:-1] + h[1:]) / 3.0
    R[inner[1:], inner[:-1]] = R[inner[:-1], inner[1:]] = h[1:-1] / 6.0
    roughness, vectors = np.linalg.eigh(Q @ np.linalg.solve(R, Q.T))
    roughness[:2] = 0.0  # of straight lines
    parts = vectors.T @ y
    weights = np.geomspace(0.1 / roughness[-1], 10.0 / max(roughness[2], 1e-12 * roughness[-1]), 60)
    kept = 1.0 / (1.0 + weights[:, None] * roughness)
    left = n - PRICE * kept.sum(axis=1)
    score = ((1.0 - kept) ** 2 @ parts**2) / np.where(left > 0.0, left, np.nan)[:, None] ** 2
    best = np.nanargmin(score, axis=0)
    return CubicSpline(t, vectors @ (kept[best].T * parts), bc_type="natural")


@dataclass(frozen=True)
class Smoothed:
    """Smoothed states of some series.

    Attributes
    ----------
    series : ndarray of int, of shape (n_series,)
        Which they are.
    splines : list of list of tuple
        For each the splines of its states, and in which column of a spline a state is.
    knots : list of ndarray
        The times from which they are.
    """

    series: np.ndarray
    splines: list[list[tuple[CubicSpline, int]]]
    knots: list[np.ndarray]

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.splines[0])

    def at(self, times: np.ndarray) -> np.ndarray:
        """States at times of each series, (n_series, n_times), constant beyond the knots; (..., n_states)."""
        states = np.empty((*times.shape, self.n_states))
        for i, (splines, knots) in enumerate(zip(self.splines, self.knots, strict=True)):
            for state, (spline, column) in enumerate(splines):
                states[i, :, state] = spline(np.clip(times[i], knots[0], knots[-1]))[:, column]
        return states


def smoothed_states(layout: Layout, observed: dict[int, int], n_states: int) -> Smoothed | None:
    """Smoothed states of the first series that have enough observations; None where a state is not observed."""
    if len(observed) < n_states:
        return None
    series, splines, knots = [], [], []
    for i in range(layout.n_series):
        rows = slice(layout.row_pointer[i], layout.row_pointer[i + 1])
        averaged = []
        for state in range(n_states):
            seen = layout.weights[rows, observed[state]] > 0.0
            averaged.append(_averaged(layout.time[rows][seen], layout.y[rows, observed[state]][seen]))
        if min(len(t) for t, _ in averaged) < LEAST_TIMES:
            continue
        if all(np.array_equal(t, averaged[0][0]) for t, _ in averaged):
            together = smoothing_spline(averaged[0][0], np.stack([y for _, y in averaged], axis=1))
            own = [(together, state) for state in range(n_states)]
        else:
            own = [(smoothing_spline(t, y[:, None]), 0) for t, y in averaged]
        series.append(i)
        splines.append(own)
        knots.append(np.unique(np.concatenate([t for t, _ in averaged])))
        if len(series) == MOST_SERIES:
            break
    return Smoothed(np.array(series), splines, knots) if series else None


def _averaged(t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of times and observations over equal times, and over neighbours where there are too many."""
    distinct, place = np.unique(t, return_inverse=True)
    if len(distinct) > MOST_TIMES:
        place = place * MOST_TIMES // len(distinct)
    counts = np.bincount(place)
    return np.bincount(place, t) / counts, np.bincount(place, y) / counts


@dataclass(frozen=True)
class _Regression:
    """Integrals along smoothed states as functions of the parameters.

    Attributes
    ----------
    task : Task
        The equations.
    series : ndarray of int, of shape (n_series,)
        The series.
    times : ndarray of shape (n_series, 2 * n_knots - 1)
        Knots, padded with the last one, and the middles between them.
    states : ndarray of shape (n_series, 2 * n_knots - 1, n_states)
        Smoothed states there.
    inside : ndarray of bool, of shape (n_series, n_knots)
        Which knots are none of the padding.
    """

    task: Task
    series: np.ndarray
    times: np.ndarray
    states: np.ndarray
    inside: np.ndarray

    @classmethod
    def of(cls, task: Task, smoothed: Smoothed) -> _Regression:
        length = max(map(len, smoothed.knots))
        knots = np.stack([np.pad(own, (0, length - len(own)), mode="edge") for own in smoothed.knots])
        times = np.empty((len(knots), 2 * length - 1))
        times[:, ::2], times[:, 1::2] = knots, 0.5 * (knots[:, 1:] + knots[:, :-1])
        inside = np.arange(length) < np.array([len(own) for own in smoothed.knots])[:, None]
        return cls(task, smoothed.series, times, smoothed.at(times), inside)

    @torch.no_grad()
    def __call__(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residuals, of shape (n_starts, n_series, n_knots * n_states), and their derivatives by the parameters.

        Residuals are smoothed states minus integrals, up to a constant that the initial state is free to be.

        Parameters
        ----------
        u : ndarray of shape (n_starts, n_series, n_parameters)
            Scaled parameters.
        """
        model = self.task.model
        system, n, m = model.system, model.system.n_states, model.n_parameters
        n_starts, (n_series, n_points) = len(u), self.times.shape
        shape = n_starts, n_series, n_points
        full = np.zeros((n_starts, n_series, len(model.scales.names)))
        full[..., :m] = u
        values = np.repeat(model.scales.values(full)[..., None, :m], n_points, axis=2)
        slopes = np.repeat(model.scales.slopes(full)[..., None, :m], n_points, axis=2)
        states = np.broadcast_to(self.states, (*shape, n))
        primal = np.concatenate([states, values], axis=-1).reshape(-1, 1, n + m).repeat(m, axis=1)
        tangent = np.zeros_like(primal)
        places = np.arange(m)
        tangent[:, places, n + places] = slopes.reshape(-1, m)
        t = torch.from_numpy(np.broadcast_to(self.times, shape).reshape(-1, 1).copy())
        owners = np.broadcast_to(self.series[:, None], shape).reshape(-1)
        inputs = Driver(self.task.inputs, torch.from_numpy(owners.copy())).at(t)

        def derivative(known: torch.Tensor) -> torch.Tensor:
            p = system.p(known[..., n:].unbind(-1), inputs)
            return system.derivative(t.expand(known.shape[:-1]), known[..., :n], p)

        value, by_parameters = along(derivative, torch.from_numpy(primal), torch.from_numpy(tangent))
        rates = torch.cat([value[:, :1], by_parameters], dim=1).numpy().reshape(*shape, 1 + m, n)
        rates = np.where(np.isfinite(rates), rates, 0.0)
        h = np.diff(self.times[:, ::2], axis=1)[..., None, None]
        steps = h / 6.0 * (rates[:, :, :-2:2] + 4.0 * rates[:, :, 1::2] + rates[:, :, 2::2])  # Simpson's rule
        integrals = np.concatenate([np.zeros_like(steps[:, :, :1]), np.cumsum(steps, axis=2)], axis=2)
        known = self.states[:, ::2]
        integrals[..., 0, :] -= known
        weights = self.inside[..., None, None]
        centred = integrals - (integrals * weights).sum(axis=2, keepdims=True) / weights.sum(axis=1)[:, None]
        scaled = weights * centred / self._spread()
        flat = scaled.swapaxes(3, 4).reshape(n_starts, n_series, -1, 1 + m)
        return flat[..., 0], flat[..., 1:]

    def _spread(self) -> np.ndarray:
        spread = self.states[:, ::2][self.inside].std(axis=0)
        return np.where(spread > 0.0, spread, 1.0)


def matched_parameters(task: Task, smoothed: Smoothed, starts: np.ndarray) -> np.ndarray | None:
    """Scaled parameters that match best, from several starts; of shape (n_series, n_parameters). None: none match well.

    Own parameters of series that are not among the smoothed ones are the medians of those that are.

    Parameters
    ----------
    task : Task
        The equations.
    smoothed : Smoothed
        Smoothed states.
    starts : ndarray of shape (n_starts, n_series, n_parameters)
        Starts of all series.
    """
    regression, s, m = _Regression.of(task, smoothed), task.model.n_shared, task.model.n_parameters
    low, high = task.model.scales.low[:m], task.model.scales.high[:m]
    longest = np.where(task.model.scales.log[:m], LONGEST_LOG_STEP, np.inf)
    u = starts[:, smoothed.series]
    damping = np.full(len(u), 1e-2)
    residuals, jacobian = regression(u)
    loss = 0.5 * (residuals**2).sum(axis=(1, 2))
    for _ in range(STEPS):
        step = _step(residuals, jacobian, damping, s)
        new = np.clip(u + np.clip(step, -longest, longest), low, high)
        new_residuals, new_jacobian = regression(new)
        new_loss = 0.5 * (new_residuals**2).sum(axis=(1, 2))
        better = new_loss < loss
        gain = np.where(better, loss - new_loss, 0.0)
        done = not (gain > LEAST_GAIN * loss).any() and (better | (damping > 1e3)).all()
        u = np.where(better[:, None, None], new, u)
        residuals = np.where(better[:, None, None], new_residuals, residuals)
        jacobian = np.where(better[:, None, None, None], new_jacobian, jacobian)
        loss = np.where(better, new_loss, loss)
        damping = np.where(better, np.maximum(0.2 * damping, 1e-8), 4.0 * damping)
        if done:
            break
    if loss.min() > 0.5 * (1.0 - LEAST_EXPLAINED) * regression.inside.sum() * smoothed.n_states:
        return None
    best = u[np.argmin(loss)]
    matched = np.broadcast_to(np.median(best, axis=0), starts.shape[1:]).copy()
    matched[smoothed.series] = best
    return matched


def _step(residuals: np.ndarray, jacobian: np.ndarray, damping: np.ndarray, s: int) -> np.ndarray:
    """Damped Gauss-Newton steps of shape (n_starts, n_series, n_parameters); the first s parameters are shared."""
    H = jacobian.swapaxes(2, 3) @ jacobian
    g = (jacobian.swapaxes(2, 3) @ residuals[..., None])[..., 0]
    m = H.shape[-1]
    diagonal = np.diagonal(H, axis1=2, axis2=3).copy()
    diagonal[..., :s] = diagonal[..., :s].sum(axis=1, keepdims=True) / len(H[0])
    H = H + (damping[:, None, None] * np.where(diagonal > 0.0, diagonal, 1.0))[..., None] * np.eye(m)
    own = np.linalg.solve(H[..., s:, s:], np.concatenate([H[..., s:, :s], g[..., s:, None]], axis=-1))
    arrow = np.concatenate([H[..., :s, :s], g[..., :s, None]], axis=-1) - H[..., :s, s:] @ own
    total = arrow.sum(axis=1)
    shared = -np.linalg.solve(total[..., :s], total[..., s:])[:, None, :, 0]
    rest = -(own[..., s] + (own[..., :s] @ shared[..., None])[..., 0])
    return np.concatenate([np.broadcast_to(shared, (*g.shape[:2], s)), rest], axis=-1)
