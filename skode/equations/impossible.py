"""Why a fit can't start: observations that are impossible given the solution there."""

from __future__ import annotations

import numpy as np

from skode.equations.layout import Cells
from skode.equations.levenberg_marquardt import Task, least_squares
from skode.equations.starts import filled, simulated_nodes

#: Where the means of the distributions lie that are not of the whole line.
DOMAINS = {"lognormal": "positive", "poisson": "positive", "binomial": "between 0 and 1"}


def refuse_impossible(task: Task, u: np.ndarray, noise: str) -> None:
    """Refuse a start from which the solution is found, but no distribution about it.

    Parameters
    ----------
    task : Task
        Problem to solve.
    u : ndarray of shape (n_series, n_unknowns)
        Scaled unknowns at the start.
    noise : str
        Name of the distribution.

    Raises
    ------
    ValueError
        With a time at which the output is not as the distribution has it.
    """
    if noise not in DOMAINS:
        return
    layout = task.layout
    cells = Cells.of(layout, np.arange(layout.n_series))
    initial = task.model.initial_states(u, task.inputs, layout.t0)
    shots = task.shoot(cells, u.copy(), filled(simulated_nodes(task.model, layout, task.inputs, u), initial))
    loss = least_squares(task, cells, shots, np.ones_like(shots.mean))[0]
    wrong = np.flatnonzero(~np.isfinite(loss) & np.isfinite(shots.mean).all(axis=1))
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"From the start in params and initial, the output at t={layout.time[cells.rows[row]]:g} is "
            f"{shots.mean[row].tolist()}; with noise={noise!r} it must be {DOMAINS[noise]} where y was observed. "
            "Choose another start, or leave out what was observed there."
        )
