r"""Solutions with jumps on their way: leg by leg, each from one event to the next.

Between two events the field is smooth. With the derivatives ``S`` of a leg's states by those at its start and ``P`` by
the parameters, those by the unknowns of the whole way follow by the chain rule,

.. math:: \frac{dy}{du} = S \frac{dy_\text{start}}{du} + P, \qquad
          \frac{dy_\text{start}}{du} = \frac{dy_\text{end}}{du} + \frac{d}{du} \Delta(a, p),

where the next leg starts from the end of the last one plus what the dose of amount ``a`` adds to the states (E.
Rozenvasser, "General sensitivity equations of discontinuous systems", Automation and Remote Control 28, 1967, with
times of events that are given). Legs of all samples that have the same number are one batch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from skode.equations.dynamics import Driver, System, along
from skode.equations.events import Course
from skode.equations.sensitivities import AUTO, SolverSettings, solve_sensitivities, solve_states


@torch.no_grad()
def solve_course(
    system: System,
    settings: SolverSettings,
    parameters: tuple[Tensor, Tensor | None],
    driver: Driver,
    y0: Tensor,
    course: Course,
) -> tuple[Tensor, Tensor]:
    """States at the output times of a course, with their sensitivities where wanted.

    Parameters
    ----------
    system : System
        The equations.
    settings : SolverSettings
        How they are solved.
    parameters : tuple of Tensor of shape (n, n_parameters)
        Each sample's parameters, and their derivatives by the scaled ones; None for no sensitivities.
    driver : Driver
        The samples' inputs.
    y0 : Tensor of shape (n, n_states)
        Initial states.
    course : Course
        When they are solved and read, and the events on their way.

    Returns
    -------
    states : Tensor of shape (n, n_times, 1 + k, n_states)
        States, and their derivatives by the initial states and the scaled parameters, k of them, or none; NaN from
        where a sample can't be solved.
    n_steps : Tensor of int, of shape (n,)
        The number of steps that each sample tried; 0 without sensitivities.
    """
    if not course.stops.shape[1] and (course.spans[:, 0] != course.spans[:, 1]).all():
        driver = driver.within(torch.from_numpy(course.spans))
        return _solved(system, settings, parameters, driver, y0, (course.spans, course.times))
    way = _Way(system, parameters, driver, y0)
    n_stops = (~np.isnan(course.stops)).sum(axis=1)
    n_times = course.times.shape[1]
    states = torch.full((len(y0), n_times, *way.state.shape[1:]), torch.nan, dtype=y0.dtype)
    n_steps = torch.zeros(len(y0), dtype=torch.int64)
    begin = course.spans[:, 0].copy()
    for leg in range(course.stops.shape[1] + 1):
        goes_on = n_stops > leg
        end = np.where(n_stops == leg, course.spans[:, 1], begin)
        if goes_on.any():
            end = np.where(goes_on, course.stops[:, leg], end)
        read = (course.passed == leg) & ~np.isnan(course.times) & (n_stops >= leg)[:, None]
        rest = np.flatnonzero(end == begin)
        at = torch.from_numpy(read[rest])
        states[rest] = torch.where(at[:, :, None, None], way.state[rest][:, None], states[rest])
        rows = np.flatnonzero(end != begin)
        if len(rows):
            columns = np.argsort(~read[rows], axis=1, kind="stable")[:, : read[rows].sum(axis=1).max(initial=0)]
            inside = np.take_along_axis(read[rows], columns, axis=1)
            times = np.where(inside, np.take_along_axis(course.times[rows], columns, axis=1), np.nan)
            times = np.concatenate([times, end[rows, None]], axis=1)
            found, tried = way.solved(settings, rows, np.stack([begin[rows], end[rows]], axis=1), times)
            sample, slot = np.nonzero(inside)
            states[rows[sample], columns[sample, slot]] = found[sample, slot]
            way.state[rows] = found[:, -1]
            n_steps[rows] += tried
        dosed = np.flatnonzero(goes_on & (course.doses[:, leg] >= 0)) if goes_on.any() else rows[:0]
        if len(dosed):
            way.add(dosed, course.doses[dosed, leg], end[dosed])
        begin = end
    return states, n_steps


def _solved(
    system: System,
    settings: SolverSettings,
    parameters: tuple[Tensor, Tensor | None],
    driver: Driver,
    y0: Tensor,
    when: tuple[np.ndarray, np.ndarray],
) -> tuple[Tensor, Tensor]:
    """One leg, between the spans and at the times given."""
    values, slopes = parameters
    if settings.method == "auto":
        return _by_either(system, settings, parameters, driver, y0, when)
    spans, times = (torch.from_numpy(np.ascontiguousarray(x)) for x in when)
    if slopes is None:
        states = solve_states(system, settings, values, driver, y0, spans, times)
        return states[:, :, None], torch.zeros(len(y0), dtype=torch.int64)
    return solve_sensitivities(system, settings, (values, slopes), driver, y0, spans, times)


def _by_either(
    system: System,
    settings: SolverSettings,
    parameters: tuple[Tensor, Tensor | None],
    driver: Driver,
    y0: Tensor,
    when: tuple[np.ndarray, np.ndarray],
) -> tuple[Tensor, Tensor]:
    """One leg by the explicit method, and by the implicit one for the samples for which that fails."""
    explicit, implicit = (replace(settings, method=method) for method in AUTO)
    found, n_steps = _solved(system, explicit, parameters, driver, y0, when)
    missing = ~torch.isfinite(found).flatten(2).all(dim=2).numpy() & ~np.isnan(when[1])
    rows = np.flatnonzero(missing.any(axis=1))
    if len(rows):
        own = parameters[0][rows], None if parameters[1] is None else parameters[1][rows]
        again, tried = _solved(
            system, implicit, own, driver.take(torch.from_numpy(rows)), y0[rows], (when[0][rows], when[1][rows])
        )
        found[rows], n_steps = again, n_steps.index_add(0, torch.from_numpy(rows), tried)
    return found, n_steps


class _Way:
    """Samples on their way: where they are, with the derivatives of that by the unknowns."""

    def __init__(self, system: System, parameters: tuple[Tensor, Tensor | None], driver: Driver, y0: Tensor) -> None:
        self.system, self.parameters, self.driver = system, parameters, driver
        n = y0.shape[1]
        values, slopes = parameters
        self.state = y0[:, None].clone()
        if slopes is not None:
            derivatives = torch.eye(n + values.shape[1], n, dtype=y0.dtype)
            self.state = torch.cat([self.state, derivatives.expand(len(y0), -1, -1)], dim=1)

    def solved(
        self, settings: SolverSettings, rows: np.ndarray, spans: np.ndarray, times: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """States of some samples at times of the present leg, and the number of steps."""
        values, slopes = self.parameters
        own = values[rows], None if slopes is None else slopes[rows]
        driver = self.driver.take(torch.from_numpy(rows)).within(torch.from_numpy(spans))
        start, n = self.state[rows], self.state.shape[2]
        found, tried = _solved(self.system, settings, own, driver, start[:, 0].contiguous(), (spans, times))
        if slopes is None:
            return found, tried
        chained = torch.einsum("ntjs,nij->ntis", found[:, :, 1 : 1 + n], start[:, 1:])
        chained[:, :, n:] += found[:, :, 1 + n :]
        return torch.cat([found[:, :, :1], chained], dim=2), tried

    def add(self, rows: np.ndarray, doses: np.ndarray, t: np.ndarray) -> None:
        """Give doses to some of the samples."""
        values, slopes = self.parameters
        driver = self.driver.take(torch.from_numpy(rows))
        assert driver.inputs is not None
        assert driver.inputs.events is not None
        amounts = torch.from_numpy(driver.inputs.events.amounts[doses])
        inputs, n = driver.at(torch.from_numpy(t)[:, None]), self.state.shape[2]
        values = values[rows]

        def jump(known: Tensor) -> Tensor:
            given = amounts[:, None].expand(-1, known.shape[1], -1)
            return self.system.jump(given, self.system.p(known.unbind(-1), inputs))

        if slopes is None or not values.shape[1]:
            self.state[rows, 0] += jump(values[:, None])[:, 0]
            return
        m = values.shape[1]
        value, derivative = along(jump, values[:, None].repeat(1, m, 1), torch.diag_embed(slopes[rows]))
        self.state[rows, 0] += value[:, 0]
        self.state[rows, 1 + n :] += derivative
