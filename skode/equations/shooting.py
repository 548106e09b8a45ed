r"""Multiple shooting: all segments of all series in one solve, and the linear system that they condense to.

Unknown are the parameters and initial states of a series, ``u``, and the states ``s_j`` in which its segments start.
Segment j ends in the state ``e_j(s_j, u)``, which is to be the next one's start. Linearised, and with the share
``alpha`` of what the segments' ends miss,

.. math:: \delta_{j+1} = E_j \delta_j + F_j \delta u + \alpha (e_j - s_{j+1}), \qquad \delta_0 = G \delta u,

all steps of the starts follow from that of ``u``: ``delta_j = A_j du + b_j``. This leaves a least-squares problem
in ``u`` as small as that of single shooting (condensing: H. G. Bock, "Recent advances in parameter identification
techniques for O.D.E.", in Numerical Treatment of Inverse Problems in Differential and Integral Equations, Birkhauser,
1983).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.equations.dynamics import Driver, System, along
from skode.equations.events import Course
from skode.equations.initial import InitialStates
from skode.equations.inputs import Inputs
from skode.equations.layout import Cells, Layout
from skode.equations.legs import solve_course
from skode.equations.parameters import Scales
from skode.equations.sensitivities import SolverSettings
from skode.solvers import METHODS

#: Where series have this many segments, the first step of each is this share of the longest: about right for most of
#: them, and where it is too long the rejected step says by how much.
MANY_SEGMENTS, FIRST_STEP = 10, 0.5


@dataclass(frozen=True)
class Model:
    """Equations with their unknowns, scaled.

    Attributes
    ----------
    system : System
        The equations.
    scales : Scales
        The unknowns of one series: parameters shared by all, its own, and its free initial states.
    n_shared : int
        How many of them are shared by all series.
    initial : InitialStates
        The initial states as a function of the unknowns.
    settings : SolverSettings
        How the equations are solved.
    """

    system: System
    scales: Scales
    n_shared: int
    initial: InitialStates
    settings: SolverSettings

    @property
    def n_parameters(self) -> int:
        """Number of estimated parameters, shared and own."""
        return len(self.system.names)

    def states(self, u: np.ndarray, inputs: Inputs | None, series: np.ndarray, t0: np.ndarray, times: Any) -> Tensor:
        """States of some series at times of each, (n, n_times) and padded with NaN, by single shooting from ``t0``."""
        return self.along(u, inputs, series, course_from_start(inputs, series, t0, times))[:, :, 0]

    def along(
        self, u: np.ndarray, inputs: Inputs | None, series: np.ndarray, course: Course, *, with_slopes: bool = False
    ) -> Tensor:
        """States of some series along a course, (n, n_times, 1, n_states); 1 + k of them with their sensitivities."""
        values, m = self.scales.values(u), self.n_parameters
        driver, t0 = Driver(inputs, torch.from_numpy(series)), course.spans[:, :1]
        y0 = self.initial(self.system, torch.from_numpy(values), driver.at(torch.from_numpy(t0)))
        slopes = torch.from_numpy(self.scales.slopes(u)[:, :m]) if with_slopes else None
        parameters = torch.from_numpy(values[:, :m]), slopes
        return solve_course(self.system, self.settings, parameters, driver, y0, course)[0]

    def initial_states(self, u: np.ndarray, inputs: Inputs | None, t0: np.ndarray) -> np.ndarray:
        """Initial states of all series, of shape (n_series, n_states)."""
        at_start = Driver(inputs, torch.arange(len(t0))).at(torch.from_numpy(t0)[:, None])
        values = self.scales.values(u)
        return self.initial.with_slopes(self.system, values, self.scales.slopes(u), at_start)[0]


def course_from_start(
    inputs: Inputs | None, series: np.ndarray, t0: np.ndarray, times: np.ndarray, before: np.ndarray | None = None
) -> Course:
    """The course from the start of each series to the furthest of its times, on whichever side of it they lie.

    Parameters
    ----------
    inputs : Inputs or None
        The inputs of all series.
    series : ndarray of int, of shape (n,)
        The series of each sample.
    t0 : ndarray of shape (n,)
        When each starts, before what happens then.
    times, before : ndarray of shape (n, n_times)
        Output times, padded with NaN, and the number of events before each; None: behind those at its time.
    """
    least, most = np.nanmin(times, axis=1), np.nanmax(times, axis=1)
    spans = np.stack([t0, np.where(most > t0, most, least)], axis=1)
    if inputs is None or inputs.events is None:
        return Course.smooth(spans, times)
    if before is None:
        before = inputs.events.until(np.broadcast_to(series[:, None], times.shape), times)
    at_start = inputs.events.until(series, t0, inclusive=False)
    return inputs.events.course(series, spans, times, np.column_stack([at_start, before]))


@dataclass(frozen=True)
class Shots:
    """The solutions of some cells' segments, with derivatives; k is n_states + n_parameters.

    Attributes
    ----------
    mean : ndarray of shape (n_rows, n_outputs)
        Outputs at the rows.
    mean_slopes : ndarray of shape (n_rows, n_outputs, k)
        Their derivatives by the state at the start of the row's segment and the scaled parameters.
    defects : ndarray of shape (n_cells, n_nodes, n_states)
        Ends of the segments minus the starts of the next ones.
    end_slopes : ndarray of shape (n_cells, n_nodes, n_states, k)
        Derivatives of the segments' ends.
    start_slopes : ndarray of shape (n_cells, n_states, n_unknowns)
        Derivatives of the initial states by the scaled unknowns.
    n_steps : ndarray of int, of shape (n_cells,)
        The largest number of steps that a segment of the cell tried.
    """

    mean: np.ndarray
    mean_slopes: np.ndarray
    defects: np.ndarray
    end_slopes: np.ndarray
    start_slopes: np.ndarray
    n_steps: np.ndarray

    def _of_rows(self) -> list[bool]:
        return [field.name.startswith("mean") for field in fields(self)]

    def take(self, cells: Cells, kept: np.ndarray) -> Shots:
        """Those of the cells marked."""
        rows = kept[cells.row_cell]
        values = [getattr(self, field.name)[rows if of_rows else kept] for field, of_rows in self._pairs()]
        return Shots(*values)

    def replaced(self, cells: Cells, new: Shots, chosen: np.ndarray) -> Shots:
        """The same with new ones for the cells marked."""
        rows, values = chosen[cells.row_cell], []
        for field, of_rows in self._pairs():
            old, mask = getattr(self, field.name), rows if of_rows else chosen
            values.append(np.where(mask.reshape(-1, *[1] * (old.ndim - 1)), getattr(new, field.name), old))
        return Shots(*values)

    def copy(self) -> Shots:
        """The same in arrays of its own."""
        return Shots(*[getattr(self, field.name).copy() for field in fields(self)])

    def put(self, cells: Cells, chosen: np.ndarray, new: Shots) -> None:
        """Write solutions of the cells marked, in their order, in place."""
        rows = chosen[cells.row_cell]
        for field, of_rows in self._pairs():
            getattr(self, field.name)[rows if of_rows else chosen] = getattr(new, field.name)

    def _pairs(self) -> Any:
        return zip(fields(self), self._of_rows(), strict=True)


def shoot(
    model: Model,
    layout: Layout,
    inputs: Inputs | None,
    cells: Cells,
    u: np.ndarray,
    nodes: np.ndarray,
    max_steps: int,
) -> Shots:
    """Solve the segments of some cells.

    Parameters
    ----------
    model : Model
        The equations.
    layout : Layout
        The observations and the segments.
    inputs : Inputs or None
        The series' inputs.
    cells : Cells
        The cells.
    u : ndarray of shape (n_cells, n_unknowns)
        Scaled unknowns.
    nodes : ndarray of shape (n_cells, n_nodes, n_states)
        States at the starts of the segments; the first ones are set to the initial states.
    max_steps : int
        Steps after which a segment is given up.
    """
    system, m, n = model.system, model.n_parameters, model.system.n_states
    values, slopes = model.scales.values(u), model.scales.slopes(u)
    start, start_slopes = model.initial.with_slopes(system, values, slopes, _at_start(layout, inputs, cells))
    nodes[:, 0] = start
    owner = cells.segment_cell
    own = torch.from_numpy(values[owner, :m]), torch.from_numpy(slopes[owner, :m])
    driver = Driver(inputs, torch.from_numpy(cells.series[owner]))
    n_cells, n_nodes, k = len(u), nodes.shape[1], n + m
    ends, end_slopes = np.zeros((n_cells, n_nodes, n)), np.zeros((n_cells, n_nodes, n, k))
    states, n_steps = np.empty((len(cells.rows), 1 + k, n)), np.zeros(n_cells, dtype=np.int64)
    states[:, 0] = nodes[cells.row_cell, 0]
    states[:, 1:] = np.eye(k, n)
    if len(owner):
        from_states = nodes[owner, cells.segment_node]
        lost = ~np.isfinite(from_states).all(axis=1)  # a step has led beyond all numbers
        y0 = torch.from_numpy(np.where(lost[:, None], 0.0, from_states))
        settings = replace(model.settings, max_steps=max_steps, first_step=_first_step(model.settings, layout))
        found, tried = solve_course(system, settings, own, driver, y0, layout.course.take(cells.segments))
        solved = found.numpy()
        solved[lost] = np.nan
        np.maximum.at(n_steps, owner, tried.numpy())
        at_end = solved[np.arange(len(owner)), layout.last[cells.segments]]
        ends[owner, cells.segment_node] = at_end[:, 0]
        end_slopes[owner, cells.segment_node] = at_end[:, 1:].swapaxes(1, 2)
        inside = cells.row_segment >= 0
        states[inside] = solved[cells.row_segment[inside], layout.slot[cells.rows[inside]]]
    defects = np.zeros_like(ends)
    defects[:, :-1] = ends[:, :-1] - nodes[:, 1:]
    defects[cells_without_next(layout, cells)] = 0.0
    mean, mean_slopes = _observed(model, layout, inputs, cells, states, values, slopes)
    return Shots(mean, mean_slopes, defects, end_slopes, start_slopes, n_steps)


def _first_step(settings: SolverSettings, layout: Layout) -> float | None:
    """First step of the solver where segments are short, None where it finds one itself."""
    method = METHODS.get(settings.method)
    if method is None or not method.adaptive or method.implicit or layout.n_nodes < MANY_SEGMENTS:
        return None
    return FIRST_STEP * float(np.diff(layout.spans, axis=1).max())


def cells_without_next(layout: Layout, cells: Cells) -> np.ndarray:
    """Which segments have none after them, of shape (n_cells, n_nodes)."""
    counts = np.diff(layout.segment_pointer)[cells.series]
    return np.arange(layout.n_nodes) >= counts[:, None] - 1


def _at_start(layout: Layout, inputs: Inputs | None, cells: Cells) -> dict[str, Tensor]:
    """Inputs at the cells' starts, of shape (n_cells, 1)."""
    return Driver(inputs, torch.from_numpy(cells.series)).at(torch.from_numpy(layout.t0[cells.series])[:, None])


def _observed(
    model: Model,
    layout: Layout,
    inputs: Inputs | None,
    cells: Cells,
    states: np.ndarray,
    values: np.ndarray,
    slopes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs at the rows, of states with their sensitivities, and the outputs' derivatives."""
    system, m = model.system, model.n_parameters
    if isinstance(system.observe, tuple):
        chosen = list(system.observe)
        return states[:, 0, chosen], states[:, 1:, chosen].swapaxes(1, 2)
    cell = cells.row_cell
    outputs, derivatives = observed_along(
        system,
        torch.from_numpy(layout.time[cells.rows])[:, None],
        torch.from_numpy(states),
        (torch.from_numpy(values[cell, :m]), torch.from_numpy(slopes[cell, :m])),
        Driver(inputs, torch.from_numpy(cells.series[cell])),
    )
    return outputs.numpy(), derivatives.numpy()


@torch.no_grad()
def observed_along(
    system: System, t: Tensor, states: Tensor, parameters: tuple[Tensor, Tensor], driver: Driver
) -> tuple[Tensor, Tensor]:
    """Outputs (n, n_outputs) of states with sensitivities (n, 1 + k, n_states), with derivatives (n, n_outputs, k)."""
    values, slopes = parameters
    n, k = states.shape[2], states.shape[1] - 1
    primal = torch.cat([states[:, :1], values[:, None]], dim=2).repeat(1, k, 1)
    directions = torch.zeros(len(states), k, values.shape[1], dtype=states.dtype)
    directions[:, n:] = torch.diag_embed(slopes)
    tangent = torch.cat([states[:, 1:], directions], dim=2)
    covariates = driver.at(t)

    def outputs(known: Tensor) -> Tensor:
        return system.outputs(t, known[..., :n], system.p(known[..., n:].unbind(-1), covariates))

    value, derivative = along(outputs, primal, tangent)
    return value[:, 0], derivative.transpose(1, 2)


@dataclass(frozen=True)
class Condensed:
    """The steps of the segments' starts as functions of that of the unknowns: ``delta_j = A_j du + b_j``.

    Attributes
    ----------
    by_unknowns : ndarray of shape (n_cells, n_nodes, n_states, n_unknowns)
        ``A_j``.
    offsets : ndarray of shape (n_cells, n_nodes, n_states)
        ``b_j``.
    mean_slopes : ndarray of shape (n_rows, n_outputs, n_unknowns)
        Derivatives of the outputs by the scaled unknowns, along the linearised continuity.
    mean_offsets : ndarray of shape (n_rows, n_outputs)
        Changes of the outputs that close the defects.
    """

    by_unknowns: np.ndarray
    offsets: np.ndarray
    mean_slopes: np.ndarray
    mean_offsets: np.ndarray


def condense(layout: Layout, cells: Cells, shots: Shots, share: np.ndarray) -> Condensed:
    """Eliminate the segments' starts; ``share`` of each cell's defects is closed."""
    n_cells, n_nodes, n, k = shots.end_slopes.shape
    m, q = k - n, shots.start_slopes.shape[2]
    A, b = np.zeros((n_cells, n_nodes, n, q)), np.zeros((n_cells, n_nodes, n))
    A[:, 0] = shots.start_slopes
    by_state, by_parameters = shots.end_slopes[..., :n], shots.end_slopes[..., n:]
    closed = share[:, None, None] * shots.defects
    for j in range(n_nodes - 1):
        A[:, j + 1] = by_state[:, j] @ A[:, j]
        A[:, j + 1, :, :m] += by_parameters[:, j]
        b[:, j + 1] = (by_state[:, j] @ b[:, j, :, None])[..., 0] + closed[:, j]
    where = cells.row_cell, layout.node[cells.rows]
    slopes = shots.mean_slopes[..., :n] @ A[where]
    slopes[..., :m] += shots.mean_slopes[..., n:]
    offsets = (shots.mean_slopes[..., :n] @ b[where][..., None])[..., 0]
    return Condensed(A, b, slopes, offsets)
