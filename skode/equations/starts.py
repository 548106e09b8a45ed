"""Where fits start: parameters drawn about the user's starts, and states of segments from the data or by simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.stats import qmc

from skode.equations.dynamics import Driver
from skode.equations.inputs import Inputs
from skode.equations.layout import Layout
from skode.equations.parameters import Scales
from skode.equations.shooting import Model

#: Starts of logarithms without two bounds are drawn from this far on either side of the user's.
SPREAD_OF_LOGS = np.log(10.0)
#: Relative tolerance of simulations that segments start from.
LOOSE = 1e-3


def drawn_starts(scales: Scales, n_parameters: int, n_draws: int, rng: np.random.RandomState) -> np.ndarray:
    """Starts of the scaled parameters, of shape (n_draws, n_parameters): a Halton sequence, shifted at random.

    Within two bounds they fill the interval; otherwise they lie within a factor of 10 of the user's start where the
    scale is logarithmic, or within twice its absolute value (1 where that is 0), as far as bounds allow.
    """
    if not n_draws or not n_parameters:
        return np.empty((0, n_parameters))
    start, log = scales.start[:n_parameters], scales.log[:n_parameters]
    low, high = scales.low[:n_parameters].copy(), scales.high[:n_parameters].copy()
    given = np.array([[p.low, p.high] for p in scales.parameters[:n_parameters]])
    reach = np.where(log, SPREAD_OF_LOGS, np.where(start == 0.0, 1.0, 2.0 * np.abs(start)))
    within = np.isfinite(given).all(axis=1) & ~log
    low = np.where(within, low, np.maximum(low, start - reach))
    high = np.where(within, high, np.minimum(high, start + reach))
    points = qmc.Halton(n_parameters, scramble=False).random(n_draws)
    points = (points + rng.uniform(size=n_parameters)) % 1.0
    return low + points * (high - low)


def observed_states(layout: Layout, observed: dict[int, int], times: np.ndarray, n_states: int) -> np.ndarray:
    """States at times of each series, linear between what was observed of them; NaN of those that never were.

    Parameters
    ----------
    layout : Layout
        The observations.
    observed : dict of int to int
        For each state that is observed itself the position of the output.
    times : ndarray of shape (n_series, n_times)
        Times, NaN where there are none.
    n_states : int
        Number of states.

    Returns
    -------
    ndarray of shape (n_series, n_times, n_states)
    """
    states = np.full((*times.shape, n_states), np.nan)
    for i in range(layout.n_series):
        rows = slice(layout.row_pointer[i], layout.row_pointer[i + 1])
        for state, output in observed.items():
            seen = layout.weights[rows, output] > 0.0
            if seen.any():
                states[i, :, state] = np.interp(times[i], layout.time[rows][seen], layout.y[rows, output][seen])
    return states


def simulated_nodes(model: Model, layout: Layout, inputs: Inputs | None, u: np.ndarray) -> np.ndarray:
    """States at the starts of all segments by single shooting, of shape (n_series, n_nodes, n_states)."""
    return simulated_at(model, layout, inputs, u, layout.node_times())


def simulated_at(model: Model, layout: Layout, inputs: Inputs | None, u: np.ndarray, times: np.ndarray) -> np.ndarray:
    """States at times of each series (n_series, n_times), NaN for none, by single shooting at a loose tolerance."""
    series = np.arange(layout.n_series)
    settings = model.settings
    looser = max(LOOSE / max(settings.rtol, 1e-15), 1.0)
    model = replace(model, settings=replace(settings, rtol=looser * settings.rtol, atol=looser * settings.atol))
    with np.errstate(all="ignore"):
        return model.states(u, inputs, series, layout.t0, times).numpy().copy()


def filled(nodes: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Nodes without a finite state have that of the node before, the first the initial state."""
    nodes[:, 0] = np.where(np.isfinite(nodes[:, 0]), nodes[:, 0], start)
    for j in range(1, nodes.shape[1]):
        nodes[:, j] = np.where(np.isfinite(nodes[:, j]), nodes[:, j], nodes[:, j - 1])
    return nodes


@torch.no_grad()
def repaired(model: Model, layout: Layout, inputs: Inputs | None, u: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Nodes at which the right-hand side is not finite have the state of the next one in time at which it is.

    Noise leads observed states to where the equations have no value, as to negative ones under a root.
    """
    times = layout.node_times()
    n_series, n_nodes = times.shape
    values = torch.from_numpy(np.repeat(model.scales.values(u)[:, : model.n_parameters], n_nodes, axis=0))
    series, t = torch.arange(n_series).repeat_interleave(n_nodes), torch.from_numpy(times.ravel())
    field = model.system.vector_field(values, Driver(inputs, series))
    with np.errstate(all="ignore"):
        rates = field(torch.nan_to_num(t), torch.from_numpy(nodes.reshape(n_series * n_nodes, -1)))
    sound = torch.isfinite(rates).all(dim=1).numpy().reshape(n_series, n_nodes) & np.isfinite(times)
    for i in np.flatnonzero((~sound & np.isfinite(times)).any(axis=1) & sound.any(axis=1)):
        places = np.flatnonzero(sound[i])
        nearest = np.abs(times[i][:, None] - times[i][places]).argmin(axis=1)
        nodes[i] = np.where(sound[i][:, None] | np.isnan(times[i])[:, None], nodes[i], nodes[i][places[nearest]])
    return nodes
