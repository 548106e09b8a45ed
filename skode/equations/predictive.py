"""Solutions of fitted equations at any times, with their derivatives by the unknowns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from skode.equations.dynamics import Driver
from skode.equations.inputs import Inputs
from skode.equations.shooting import Model, course_from_start, observed_along
from skode.solvers import SolverError


@dataclass(frozen=True)
class Answers:
    """Answers at rows.

    Attributes
    ----------
    states : ndarray of shape (n_rows, n_states)
        The states.
    mean : ndarray of shape (n_rows, n_outputs)
        The outputs.
    slopes : ndarray of shape (n_rows, n_outputs, n_unknowns) or None
        Derivatives of the outputs by the scaled unknowns.
    """

    states: np.ndarray
    mean: np.ndarray
    slopes: np.ndarray | None


def answers(
    model: Model,
    inputs: Inputs | None,
    u: np.ndarray,
    t0: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    with_slopes: bool = False,
) -> Answers:
    """Outputs at times of several series.

    Parameters
    ----------
    model : Model
        The equations.
    inputs : Inputs or None
        The series' inputs.
    u : ndarray of shape (n_series, n_unknowns)
        Scaled unknowns of each series.
    t0 : ndarray of shape (n_series,)
        When each starts.
    rows : tuple of ndarray of shape (n_rows,)
        The series of each row, its time, and the number of events before it; before the start the equations are
        solved backward.
    with_slopes : bool
        Whether derivatives are wanted.

    Raises
    ------
    SolverError
        Where a solution can't be followed as far as a row.
    """
    codes, t, before = rows
    system, m = model.system, model.n_parameters
    n_known = 1 + (system.n_states + m if with_slopes else 0)
    states = np.empty((len(t), n_known, system.n_states))
    for side in (t >= t0[codes], t < t0[codes]):
        if side.any():
            states[side] = _one_way(model, inputs, u, t0, (codes[side], t[side], before[side]), with_slopes=with_slopes)
    if not np.isfinite(states[:, 0]).all():
        wrong = np.flatnonzero(~np.isfinite(states[:, 0]).all(axis=1))[0]
        raise SolverError(
            "The equations can't be solved as far as the times of X",
            time=float(t[wrong]),
            advice="Loosen rtol and atol, or set method='kvaerno5' for stiff equations.",
        )
    values, slopes = model.scales.values(u), model.scales.slopes(u)
    driver = Driver(inputs, torch.from_numpy(codes))
    when = torch.from_numpy(np.ascontiguousarray(t))[:, None]
    own = torch.from_numpy(values[codes, :m]), torch.from_numpy(slopes[codes, :m])
    if not with_slopes:
        with torch.no_grad():
            p = system.p(own[0].unbind(1), _flat(driver.at(when)))
            mean = system.outputs(when[:, 0], torch.from_numpy(states[:, 0]), p).numpy()
        return Answers(states[:, 0], mean, None)
    if isinstance(system.observe, tuple):
        mean, by_known = states[:, 0, list(system.observe)], states[:, 1:, list(system.observe)].swapaxes(1, 2)
    else:
        outputs = observed_along(system, when, torch.from_numpy(states), own, driver)
        mean, by_known = (output.numpy() for output in outputs)
    at_start = driver_at_start(inputs, t0)
    start_slopes = model.initial.with_slopes(system, values, slopes, at_start)[1]
    by_unknowns = by_known[..., : system.n_states] @ start_slopes[codes]
    by_unknowns[..., :m] += by_known[..., system.n_states :]
    return Answers(states[:, 0], mean, by_unknowns)


def driver_at_start(inputs: Inputs | None, t0: np.ndarray) -> dict[str, torch.Tensor]:
    """Inputs of all series at their starts, of shape (n_series, 1)."""
    return Driver(inputs, torch.arange(len(t0))).at(torch.from_numpy(t0)[:, None])


def _flat(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value[:, 0] for name, value in inputs.items()}


def _one_way(
    model: Model,
    inputs: Inputs | None,
    u: np.ndarray,
    t0: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    with_slopes: bool,
) -> np.ndarray:
    """States at rows on one side of the starts, with sensitivities where wanted: (n_rows, 1 or 1 + k, n_states)."""
    codes, t, before = rows
    series, places = np.unique(codes, return_inverse=True)
    order = np.lexsort((t, places))
    lengths = np.bincount(places)
    slots = np.empty(len(t), dtype=np.int64)
    slots[order] = np.arange(len(t)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    times = np.full((len(series), lengths.max()), np.nan)
    passed = np.zeros(times.shape, dtype=np.int64)
    times[places, slots], passed[places, slots] = t, before
    course = course_from_start(inputs, series, t0[series], times, passed)
    return model.along(u[series], inputs, series, course, with_slopes=with_slopes).numpy()[places, slots]
