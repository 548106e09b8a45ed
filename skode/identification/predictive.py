"""Solutions of a fitted field at any times, each from the start of the segment before."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from skode.equations.dynamics import Driver
from skode.equations.inputs import Inputs
from skode.equations.legs import solve_course
from skode.equations.shooting import Model, course_from_start
from skode.identification.system import FieldSystem
from skode.solvers import SolverError

#: Numbers in the sensitivities of rows that are solved at once, at most.
MOST_NUMBERS = 2**23
#: Relative tolerance of answers.
ANSWERS = 1e-9


def answering(model: Model) -> Model:
    """The equations as answers solve them: so closely that an answer does not depend on which others there are."""
    rtol = min(model.settings.rtol, ANSWERS)
    return replace(model, settings=replace(model.settings, rtol=rtol, atol=0.1 * rtol))


@dataclass(frozen=True)
class Paths:
    """Where solutions of several series start: at the starts of their segments.

    Errors of a solution that is unstable grow from its start on. Segments start from what was observed about them.

    Attributes
    ----------
    u : ndarray of shape (n_parameters,)
        Scaled parameters, shared by all series.
    nodes : ndarray of shape (n_series, n_nodes, n_states)
        States at the starts of the segments.
    times : ndarray of shape (n_series, n_nodes)
        When they start; NaN where there is none.
    slopes : ndarray of shape (n_series, n_nodes, n_states, n_unknowns) or None
        Derivatives of the states by all unknowns of a series; None where weights are too many.
    """

    u: np.ndarray
    nodes: np.ndarray
    times: np.ndarray
    slopes: np.ndarray | None

    def take(self, series: np.ndarray) -> Paths:
        """Those of some series."""
        slopes = None if self.slopes is None else self.slopes[series]
        return Paths(self.u, self.nodes[series], self.times[series], slopes)

    def joined(self, new: Paths, places: np.ndarray, n_series: int) -> Paths:
        """With others at places among ``n_series``, which these begin."""
        assert self.slopes is not None
        assert new.slopes is not None
        n_nodes = max(self.nodes.shape[1], new.nodes.shape[1])
        arrays = []
        for old, other in ((self.nodes, new.nodes), (self.times, new.times), (self.slopes, new.slopes)):
            array = np.full((n_series, n_nodes, *old.shape[2:]), np.nan)
            array[: len(old), : old.shape[1]] = old
            array[places] = np.nan
            array[places, : other.shape[1]] = other
            arrays.append(array)
        return Paths(self.u, *arrays)


def states_at(
    model: Model,
    inputs: Inputs | None,
    paths: Paths,
    rows: tuple[np.ndarray, np.ndarray],
    *,
    with_slopes: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """States at times of several series, and where wanted their derivatives by the series' unknowns.

    Parameters
    ----------
    model : Model
        The equations.
    inputs : Inputs or None
        The series' inputs.
    paths : Paths
        Where solutions start.
    rows : tuple of ndarray of shape (n_rows,)
        The series of each row, and its time; before the start of a series the equations are solved backward.
    with_slopes : bool
        Whether derivatives are wanted.

    Returns
    -------
    states : ndarray of shape (n_rows, n_states)
    slopes : ndarray of shape (n_rows, n_states, n_unknowns) or None

    Raises
    ------
    SolverError
        Where a solution can't be followed as far as a row.
    """
    codes, t = rows
    system = model.system
    assert isinstance(system, FieldSystem)
    n = system.n_states
    node = np.maximum((paths.times[codes] <= t[:, None]).sum(axis=1) - 1, 0)
    states = np.empty((len(t), n))
    at_starts = paths.slopes if with_slopes else None
    slopes = None if at_starts is None else np.empty((len(t), n, at_starts.shape[3]))
    # A start's rows before and after it are solved for apart.
    key = (codes * paths.times.shape[1] + node) * 2 + (t < paths.times[codes, node])
    starts, places = np.unique(key, return_inverse=True)
    size = (1 + n + len(paths.u)) * n * 12 if with_slopes else 100 * n
    block = max(MOST_NUMBERS // size, 1)
    for first in range(0, len(starts), block):
        own = np.flatnonzero((places >= first) & (places < first + block))
        found = _solved(model, inputs, paths, (codes[own], node[own], t[own], places[own] - first), with_slopes)
        states[own] = found[:, 0]
        if slopes is not None and at_starts is not None:
            by_state, by_parameters = found[:, 1 : 1 + n].swapaxes(1, 2), found[:, 1 + n :].swapaxes(1, 2)
            slopes[own] = by_state @ at_starts[codes[own], node[own]]
            slopes[own, :, : len(paths.u)] += by_parameters
    if not np.isfinite(states).all():
        wrong = np.flatnonzero(~np.isfinite(states).all(axis=1))[0]
        raise SolverError(
            "The fitted field can't be followed as far as the times of X",
            time=float(t[wrong] * system.units.unit),
            advice="A field is known where observations were; ask for times nearer to them, or fit another field.",
        )
    return states, slopes


def _solved(
    model: Model,
    inputs: Inputs | None,
    paths: Paths,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    with_slopes: bool,
) -> np.ndarray:
    """States at rows, with sensitivities where wanted, of shape (n_rows, 1 or 1 + k, n_states)."""
    codes, node, t, places = rows
    n_samples = int(places.max()) + 1
    first = np.unique(places, return_index=True)[1]
    order = np.lexsort((t, places))
    lengths = np.bincount(places)
    slots = np.empty(len(t), dtype=np.int64)
    slots[order] = np.arange(len(t)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    times = np.full((n_samples, lengths.max()), np.nan)
    times[places, slots] = t
    t0 = paths.times[codes[first], node[first]]
    y0 = torch.from_numpy(paths.nodes[codes[first], node[first]])
    driver = Driver(inputs, torch.from_numpy(codes[first]))
    values, slopes = model.scales.values(_padded(model, paths.u)), model.scales.slopes(_padded(model, paths.u))
    m = len(paths.u)
    shared = torch.from_numpy(values[:m]).expand(n_samples, -1)
    shared_slopes = torch.from_numpy(slopes[:m]).expand(n_samples, -1) if with_slopes else None
    course = course_from_start(inputs, codes[first], t0, times)
    found, _ = solve_course(model.system, model.settings, (shared, shared_slopes), driver, y0, course)
    return found.numpy()[places, slots]


def _padded(model: Model, u: np.ndarray) -> np.ndarray:
    return np.concatenate([u, np.zeros(len(model.scales.names) - len(u))])
