r"""Detection of stiffness: how many steps an explicit method would take for stability alone.

A Runge-Kutta step of size ``h`` damps a mode of the eigenvalue ``lambda`` only where ``h |lambda|`` lies within the
method's stability region, which for dopri5 reaches 3.3 along the negative real axis; so a solution along which the
fastest decay has the rate ``rho(t) = max(-Re lambda)`` takes no less than

.. math:: \frac{1}{3.3} \int \rho(t) \, dt

steps however smooth it is (E. Hairer, G. Wanner, "Solving Ordinary Differential Equations II", Springer, 1996, section
IV.2, with the same number in the stiffness test of their DOPRI5). Eigenvalues are those of the Jacobian on the way,
by forward-mode AD.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from skode.equations.dynamics import Driver, along
from skode.equations.layout import Layout
from skode.equations.levenberg_marquardt import Task
from skode.equations.sensitivities import MAX_STEPS
from skode.equations.starts import filled, observed_states, simulated_at

#: Where dopri5's stability region ends on the negative real axis.
STABILITY = 3.3
#: Steps of a segment for stability alone from which on equations are stiff: beyond these, parameters that are faster by
#: a factor of 2 could not be solved at all. An implicit step with sensitivities takes the time of 10 to 20 explicit
#: ones, so that it is about here, too, that it takes less time.
STIFF = MAX_STEPS // 2
#: As many steps by states that were not simulated are reason enough to simulate them.
SUSPICIOUS = STIFF // 10
#: Times of a series at which the Jacobian is looked at.
MOST_TIMES = 60


def is_stiff(task: Task, u: np.ndarray, observed: dict[int, int], layout: Layout, *, thorough: bool = False) -> bool:
    """Whether an implicit method is to solve the segments.

    Parameters
    ----------
    task : Task
        Problem to solve.
    u : ndarray of shape (n_series, n_unknowns)
        Scaled unknowns.
    observed : dict of int to int
        For each state that is observed itself the position of the output.
    layout : Layout
        The observations with values that solutions may start from.
    thorough : bool
        Whether to simulate states that were not observed in any case; otherwise only where these as they were at the
        start say that equations may be stiff.
    """
    times = _some_times(layout)
    initial = task.model.initial_states(u, task.inputs, layout.t0)
    states = observed_states(layout, observed, times, task.model.system.n_states)
    missing = np.isnan(states)
    if missing.any():
        at_start = np.where(missing, initial[:, None], states)
        if not thorough and _most_steps(task, u, times, at_start) < SUSPICIOUS:
            return False
        model = replace(task.model, settings=replace(task.model.settings, method="auto", max_steps=STIFF))
        states = np.where(missing, simulated_at(model, layout, task.inputs, u, times), states)
    return _most_steps(task, u, times, filled(states, initial)) >= STIFF


def _some_times(layout: Layout) -> np.ndarray:
    """Starts and times of observations, of shape (n_series, n_times); the last one again in empty slots."""
    rows = []
    for i in range(layout.n_series):
        own = np.unique(layout.time[layout.row_pointer[i] : layout.row_pointer[i + 1]])
        own = np.concatenate([[layout.t0[i]], own[own > layout.t0[i]]])
        rows.append(own[np.unique(np.linspace(0, len(own) - 1, MOST_TIMES).round().astype(int))])
    width = max(map(len, rows))
    return np.stack([np.pad(own, (0, width - len(own)), mode="edge") for own in rows])


@torch.no_grad()
def decay_rates(task: Task, u: np.ndarray, times: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Rates of the fastest decay of small differences at times of each series, of shape (n_series, n_times).

    Parameters
    ----------
    task : Task
        Problem to solve.
    u : ndarray of shape (n_series, n_unknowns)
        Scaled unknowns.
    times : ndarray of shape (n_series, n_times)
        Times.
    states : ndarray of shape (n_series, n_times, n_states)
        States there.
    """
    (n_series, n_times), system = times.shape, task.model.system
    n = system.n_states
    t = torch.from_numpy(np.ascontiguousarray(times)).reshape(-1, 1)
    series = torch.arange(n_series).repeat_interleave(n_times)
    values = torch.from_numpy(task.model.scales.values(u)[:, : task.model.n_parameters])[series]
    p = system.p([value[:, None] for value in values.unbind(-1)], Driver(task.inputs, series).at(t))
    y = torch.from_numpy(states).reshape(-1, 1, n).repeat(1, n, 1)
    directions = torch.eye(n, dtype=y.dtype).expand(len(y), n, n)
    jacobians = along(lambda y: system.derivative(t, y, p), y, directions)[1].transpose(1, 2).numpy()
    finite = np.isfinite(jacobians).all(axis=(1, 2))
    eigenvalues = np.linalg.eigvals(np.where(finite[:, None, None], jacobians, 0.0))
    return np.maximum(-eigenvalues.real, 0.0).max(axis=1).reshape(times.shape)


def _most_steps(task: Task, u: np.ndarray, times: np.ndarray, states: np.ndarray) -> float:
    """Least number of steps for stability of the segment that takes most."""
    layout, rates = task.layout, decay_rates(task, u, times, states)
    passed = np.cumsum(0.5 * (rates[:, 1:] + rates[:, :-1]) * np.diff(times, axis=1), axis=1) / STABILITY
    passed = np.concatenate([np.zeros((len(times), 1)), passed], axis=1)
    series = np.repeat(np.arange(layout.n_series), np.diff(layout.segment_pointer))
    at = [np.interp(span, times[i], passed[i]) for i, span in zip(series, layout.spans, strict=True)]
    return float(np.diff(np.reshape(at, (-1, 2)), axis=1).max(initial=0.0))
