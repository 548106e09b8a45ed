"""From data and equations to the best of several fits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from skode.equations.control import LAST_WEIGHT
from skode.equations.fits import Fits, Limits
from skode.equations.inference import Estimate, Information, information
from skode.equations.layout import Cells, Layout
from skode.equations.levenberg_marquardt import Descent, Task, by_cell, least_squares
from skode.equations.matching import Smoothed, matched_parameters, smoothed_states
from skode.equations.reading import Reading
from skode.equations.shooting import Shots
from skode.equations.starts import drawn_starts, filled, observed_states, repaired, simulated_nodes
from skode.equations.windows import GAIN, STEPS, grown, window
from skode.solvers import METHODS

#: First weights of the defects: where segments start from the data, where parameters match these, and where segments
#: follow a simulation without any.
WEIGHT_OF_DATA, WEIGHT_OF_MATCHED, WEIGHT_OF_SIMULATED = 1.0, 1.0, 1e3
#: Further starts from which parameters are matched, and those of a fit that was poor.
MATCHED_STARTS, MORE_STARTS = 7, 8
#: Steps of further starts where their number was chosen here: good fits take ten or so.
FEW_STEPS = 30
#: Residuals whose Durbin-Watson statistic is below this follow each other. It is near 2 where they are independent,
#: with a standard deviation of 2 over the root of their number.
LEAST_DURBIN_WATSON, LEAST_PAIRS = 1.0, 10


@dataclass(frozen=True)
class Search(Limits):
    """How long and from how many starts to search.

    Attributes
    ----------
    n_restarts : int or None
        As the estimator's parameter; None for "auto".
    """

    n_restarts: int | None = None


@dataclass(frozen=True)
class Optimum:
    """Where a fit ended.

    Attributes
    ----------
    u : ndarray of shape (n_series, n_unknowns)
        Scaled unknowns of each series.
    nodes : ndarray of shape (n_series, n_nodes, n_states)
        States at the starts of the segments.
    shots : Shots
        The segments' solutions.
    scale : ndarray of shape (n_outputs,)
        Standard deviations of the noise.
    loss : float
        Negative log-likelihood.
    family : int
        The number of the start of the unknowns.
    converged, interrupted, out_of_time : bool
        Whether all series' fits have converged, and whether Ctrl-C or the deadline ended the search.
    n_iter : int
        The largest number of steps tried.
    precision : ndarray of shape (n_shared,) or None
        Precisions of the prior.
    """

    u: np.ndarray
    nodes: np.ndarray
    shots: Shots
    scale: np.ndarray
    loss: float
    family: int
    converged: bool
    interrupted: bool
    out_of_time: bool
    n_iter: int
    precision: np.ndarray | None = None

    def held(self, task: Task) -> np.ndarray:
        """Which unknowns lie on a bound, of the shape of ``u``."""
        scales = task.model.scales
        return (self.u <= scales.low) | (self.u >= scales.high)

    def information(self, task: Task, *, sandwich: bool) -> Information:
        """Covariance and identifiability of the unknowns at this optimum."""
        at = Estimate(self.shots, self.scale, ~self.held(task), self.precision)
        return information(task, at, sandwich=sandwich)


def observed_outputs(task: Task) -> dict[int, int]:
    """For each state that is observed itself the position of the output."""
    observe = task.model.system.observe
    return {state: output for output, state in enumerate(observe)} if isinstance(observe, tuple) else {}


def started_from(task: Task) -> Layout:
    """The observations with values that solutions may start from."""
    return replace(task.layout, y=task.noise.interior(task.layout.y))


def starting_unknowns(task: Task, reading: Reading) -> np.ndarray:
    """Scaled unknowns of each series at the user's starts, of shape (n_series, n_unknowns).

    An initial state without a start has the first value observed of it, or else the largest magnitude of what was
    observed of any.
    """
    layout, scales = started_from(task), task.model.scales
    u = np.tile(scales.start, (layout.n_series, 1))
    first = observed_states(layout, observed_outputs(task), layout.t0[:, None], task.model.system.n_states)[:, 0]
    seen = layout.weights > 0.0
    size = float(np.abs(layout.y[seen]).max(initial=0.0)) or 1.0
    for k, state in enumerate(reading.free_states):
        if state not in reading.told:
            column = task.model.n_parameters + k
            u[:, column] = np.where(np.isfinite(first[:, state]), first[:, state], size)
    return u


def search(task: Task, reading: Reading, settings: Search, rng: np.random.RandomState) -> list[Optimum]:
    """Fits from all starts, the best first; those that can't be solved where they start are left out.

    Where all states are observed, the first start has parameters that match smoothed observations. Where it ends well,
    the user's is not tried.

    Raises
    ------
    KeyboardInterrupt
        Where Ctrl-C comes before the first solutions.
    """
    model, m = task.model, task.model.n_parameters
    n_states = model.system.n_states
    user, smoothed = starting_unknowns(task, reading), None
    if m and not (task.layout.course.doses >= 0).any():  # curves through a dose would be smooth where states jump
        smoothed = smoothed_states(task.layout, observed_outputs(task), n_states)
    starts, n_more = [user], MORE_STARTS if settings.n_restarts is None else settings.n_restarts
    for parameters in drawn_starts(model.scales, m, max(n_more, MATCHED_STARTS if smoothed else 0), rng):
        start = user.copy()
        start[:, :m] = parameters
        starts.append(start)
    further = starts[: 1 + n_more]
    matched = None
    if smoothed is not None:
        matched = matched_parameters(task, smoothed, np.stack(starts[: 1 + MATCHED_STARTS])[..., :m])
    optima: list[Optimum] = []
    if m and _turns_suddenly(task):
        optima = _by_windows(task, user, settings)
    if any(_ended_well(task, each) for each in optima):
        further = further[1:]
    elif matched is None:
        optima, further = optima + _of_starts(task, reading, further[:1], settings), further[1:]
    else:
        optima = _of_starts(task, reading, [np.hstack([matched, user[:, m:]])], settings, smoothed)
    interrupted = any(optimum.interrupted or optimum.out_of_time for optimum in optima)
    if not interrupted and (settings.n_restarts or not optima or not any(_ended_well(task, each) for each in optima)):
        if settings.n_restarts is None:
            settings = replace(settings, max_iter=min(settings.max_iter, FEW_STEPS))
        optima += _of_starts(task, reading, further, settings)
    return sorted(_one_of_each(optima), key=lambda optimum: optimum.loss)


def _turns_suddenly(task: Task) -> bool:
    """Whether solutions may turn where states that were not observed decide when: those of stiff equations."""
    method, layout = METHODS.get(task.model.settings.method), task.layout
    hidden = len(observed_outputs(task)) < task.model.system.n_states
    return method is not None and method.implicit and hidden and not (layout.course.doses >= 0).any()


def _by_windows(task: Task, user: np.ndarray, settings: Search) -> list[Optimum]:
    """Where a fit from growing windows ends; nothing where these don't lead to all observations."""
    last = [user]

    def descended(part: Task, u: np.ndarray, limits: Search) -> Optimum:
        nodes = part.model.initial_states(u, part.inputs, part.layout.t0)[:, None]
        kind = np.zeros(1, dtype=int), np.array([WEIGHT_OF_SIMULATED])
        return ended(part, _descended(part, (u[None], nodes[None]), kind, limits))[0]

    def fitted(part: Task, u: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        limits = replace(settings, max_iter=min(settings.max_iter, STEPS), tol=max(settings.tol, GAIN))
        optimum = descended(part, u, limits)
        if optimum.interrupted or optimum.out_of_time:
            raise _EndedError(optimum.interrupted)
        if not np.isfinite(optimum.loss):
            return None
        last.append(optimum.u)
        return optimum.u, deviations(part, optimum)

    interrupted = False
    try:
        u = grown(task, user, fitted)
    except _EndedError as error:  # the best so far is kept
        u, settings, interrupted = last[-1], replace(settings, deadline=-np.inf), error.interrupted
    if u is None:
        return []
    found = descended(window(task, int(np.diff(task.layout.row_pointer).max())), u, settings)
    if not np.isfinite(found.loss):
        return []
    layout, series = task.layout, np.arange(task.layout.n_series)
    times = layout.node_times()
    with np.errstate(all="ignore"):
        states = task.model.states(found.u, task.inputs, series, layout.t0, times).numpy().copy()
    nodes = filled(states, task.model.initial_states(found.u, task.inputs, layout.t0))
    shots = task.shoot(Cells.of(layout, series), found.u, nodes)
    return [replace(found, nodes=nodes, shots=shots, interrupted=found.interrupted or interrupted)]


class _EndedError(Exception):
    """Time or Ctrl-C has ended a window."""

    def __init__(self, interrupted: bool) -> None:
        super().__init__()
        self.interrupted = interrupted


def _of_starts(
    task: Task,
    reading: Reading,
    starts: list[np.ndarray],
    settings: Search,
    smoothed: Smoothed | None = None,
) -> list[Optimum]:
    """Where fits from several starts of the unknowns end."""
    model, layout = task.model, task.layout
    observed = observed_outputs(task)
    free = [k for k, state in enumerate(reading.free_states) if state not in reading.told]
    from_data = observed_states(started_from(task), observed, layout.node_times(), model.system.n_states)
    if smoothed is not None:
        from_data[smoothed.series] = smoothed.at(layout.node_times()[smoothed.series])
    all_seen = len(observed) == model.system.n_states
    u, nodes, family, weight = [], [], [], []
    for i, start in enumerate(starts):
        start = start.copy()
        initial = model.initial_states(start, task.inputs, layout.t0)
        simulated = None if all_seen else simulated_nodes(model, layout, task.inputs, start)
        if simulated is not None:
            u.append(start)
            family.append(i)
            weight.append(WEIGHT_OF_SIMULATED)
            nodes.append(filled(simulated.copy(), initial))
        if observed:
            mixed = from_data if simulated is None else np.where(np.isnan(from_data), simulated, from_data)
            mixed = repaired(model, layout, task.inputs, start, filled(mixed.copy(), initial))
            for k in free:
                start[:, model.n_parameters + k] = mixed[:, 0, reading.free_states[k]]
            u.append(start)
            family.append(i)
            weight.append(WEIGHT_OF_DATA if smoothed is None else WEIGHT_OF_MATCHED)
            nodes.append(mixed)
    if not u:
        return []
    fits = _descended(task, (np.stack(u), np.stack(nodes)), (np.array(family), np.array(weight)), settings)
    optima = ended(task, fits)
    if not model.n_shared and layout.n_series > 1 and len(optima) > 1:
        optima = [_best_of_each(task, fits, optima, settings), *optima]
    optima = [optimum for optimum in optima if np.isfinite(optimum.loss)]
    if fits.interrupted and not optima:  # nothing is worth keeping
        raise KeyboardInterrupt
    return optima


def _ended_well(task: Task, optimum: Optimum) -> bool:
    """Whether the residuals of a fit are independent, as far as can be told: at a local optimum they are a signal."""
    return not (durbin_watson(task, optimum) < LEAST_DURBIN_WATSON).any()


def deviations(task: Task, optimum: Optimum) -> np.ndarray:
    """Scales of the outputs' noise, of shape (n_outputs,); where it grows with the solution, in the mean square."""
    if task.noise.n_scales == 1:
        return optimum.scale
    weights, spread = task.layout.weights, task.noise.spread(optimum.shots.mean, optimum.scale)
    squares = np.where(weights > 0.0, weights * spread**2, 0.0).sum(axis=0)
    return np.sqrt(squares / np.maximum(weights.sum(axis=0), 1e-300))


def durbin_watson(task: Task, optimum: Optimum) -> np.ndarray:
    """Of each output how far residuals of neighbours differ, 2 where they are independent; NaN where there are few.

    The statistic of J. Durbin and G. S. Watson, "Testing for serial correlation in least squares regression",
    Biometrika 37, 1950, is 0 where the differences or all residuals are not finite.
    """
    layout = task.layout
    cells = Cells.of(layout, np.arange(layout.n_series))
    scale = np.broadcast_to(optimum.scale, (len(layout.y), len(optimum.scale)))
    residuals = task.noise.residuals(layout.y, optimum.shots.mean, scale)[0]
    found = np.full(residuals.shape[1], np.nan)
    for output, seen in enumerate((layout.weights > 0.0).T):
        own = residuals[seen, output]
        pairs = np.diff(cells.row_cell[seen]) == 0
        if pairs.sum() >= LEAST_PAIRS:
            with np.errstate(all="ignore"):
                found[output] = np.nan_to_num(np.mean(np.diff(own)[pairs] ** 2) / np.mean(own**2))
    return found


def _best_of_each(task: Task, fits: Fits, optima: list[Optimum], settings: Search) -> Optimum:
    """The best fit of each series by itself, where series have nothing in common but the noise."""
    best = min(optima, key=lambda optimum: optimum.loss)
    scale = best.scale if np.isfinite(best.loss) else optima[0].scale
    losses = [_losses(task, optimum.shots, np.arange(task.layout.n_series), scale) for optimum in optima]
    chosen = np.argmin(np.where(np.isnan(losses), np.inf, losses), axis=0)
    series = np.arange(task.layout.n_series)
    u = np.stack([optimum.u for optimum in optima])[chosen, series]
    nodes = np.stack([optimum.nodes for optimum in optima])[chosen, series]
    again = _descended(task, (u[None], nodes[None]), (np.zeros(1, dtype=int), np.array([LAST_WEIGHT])), settings)
    found = ended(task, again)[0]
    return replace(
        found,
        family=-1,
        n_iter=int(fits.n_iter.max(initial=0)),
        interrupted=found.interrupted or fits.interrupted,
        out_of_time=found.out_of_time or fits.out_of_time,
    )


def _one_of_each(optima: list[Optimum]) -> list[Optimum]:
    """The better fit of each family."""
    best: dict[int, Optimum] = {}
    for optimum in optima:
        if optimum.family not in best or optimum.loss < best[optimum.family].loss:
            best[optimum.family] = optimum
    return list(best.values())


def _descended(
    task: Task,
    starts: tuple[np.ndarray, np.ndarray],
    kind: tuple[np.ndarray, np.ndarray],
    settings: Search,
    free: np.ndarray | None = None,
    scale: np.ndarray | None = None,
) -> Fits:
    """Fits from starts, of the unknowns and of the segments' states, of shapes (n_starts, n_series, ...).

    ``kind`` are the starts' families and first weights of defects; ``free`` are the unknowns of one start that are
    searched for, None for all; ``scale`` is that of the noise at first, None for that of the first residuals.
    """
    n_starts, n_series, _ = starts[0].shape
    n_cells = n_starts * n_series
    u, nodes = (x.reshape(n_cells, *x.shape[2:]) for x in starts)
    fits = Fits(
        start=np.repeat(np.arange(n_starts), n_series),
        family=kind[0],
        weight=kind[1],
        u=u.copy(),
        nodes=nodes.copy(),
        free=np.ones(u.shape, dtype=bool) if free is None else np.tile(free, (n_starts, 1)),
        scale=np.full((n_starts, len(task.least_scale)), np.nan) if scale is None else np.tile(scale, (n_starts, 1)),
        n_iter=np.zeros(n_cells, dtype=np.int64),
        converged=np.zeros(n_cells, dtype=bool),
        penalty=np.zeros(n_cells),
    )
    series = np.tile(np.arange(n_series), n_starts)
    Descent(task, fits, series, settings).run()
    return fits


def _losses(task: Task, shots: Shots, series: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The losses of cells, with noise of each row's or one scale."""
    cells = Cells.of(task.layout, series)
    return by_cell(cells, least_squares(task, cells, shots, scale)[0])


def ended(task: Task, fits: Fits) -> list[Optimum]:
    """Where the fits have ended, start by start."""
    n_starts = len(fits.scale)
    series = np.tile(np.arange(task.layout.n_series), n_starts)
    cells = Cells.of(task.layout, series)
    shots = fits.shots or task.shoot(cells, fits.u, fits.nodes, fits.max_steps)
    with np.errstate(all="ignore"):
        losses = _losses(task, shots, series, fits.scale[fits.start][cells.row_cell]) + fits.penalty
    optima = []
    for k in range(n_starts):
        own = fits.start == k
        optima.append(
            Optimum(
                u=fits.u[own],
                nodes=fits.nodes[own],
                shots=shots.take(cells, own),
                scale=fits.scale[k],
                loss=float(losses[own].sum()),
                family=int(fits.family[k]),
                converged=bool(fits.converged[own].all()),
                interrupted=fits.interrupted,
                out_of_time=fits.out_of_time,
                n_iter=int(fits.n_iter[own].max(initial=0)),
                precision=None if fits.precision is None else fits.precision[k],
            )
        )
    return optima


def along_profile(task: Task, best: Optimum, column: int, values: np.ndarray, settings: Search) -> list[Optimum]:
    """Fits with one scaled unknown held at each of several values, in their order, all from the best fit."""
    u = np.repeat(best.u[None], len(values), axis=0)
    u[:, :, column] = values[:, None]
    nodes = np.repeat(best.nodes[None], len(values), axis=0)
    free = np.ones(best.u.shape, dtype=bool)
    free[:, column] = False
    settings = replace(settings, report=None)
    kind = np.arange(len(values)), np.full(len(values), WEIGHT_OF_SIMULATED)
    fits = _descended(task, (u, nodes), kind, settings, free, best.scale)
    return ended(task, fits)
