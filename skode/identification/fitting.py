"""From smoothed states to the field with the largest posterior density."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from skode.equations.dynamics import Driver
from skode.equations.fits import Fits, Limits
from skode.equations.fitting import LEAST_DURBIN_WATSON, Optimum, deviations, durbin_watson, ended
from skode.equations.inference import Information
from skode.equations.layout import Cells
from skode.equations.levenberg_marquardt import Descent, Task
from skode.equations.prior import MOST_PRECISION
from skode.equations.shooting import Shots
from skode.identification.fields import PolynomialField
from skode.identification.gradients import matched_weights, shot_by_gradients
from skode.identification.matching import Matched, match
from skode.identification.problem import Problem
from skode.identification.selection import better_terms
from skode.identification.states import SmoothedStates
from skode.identification.system import FieldSystem
from skode.solvers import SolverError
from skode.training.parts import Parts

#: First and last weight of the defects, in units of an observation's. Multipliers close what is left: heavier ones
#: would bind the steps closely to a curved manifold, and end at local optima of chaotic systems that are seen sparsely.
FIRST_WEIGHT, LAST_WEIGHT = 1.0, 300.0
#: Precisions of weights at the start of shooting lie between these: weights that matching has taken for superfluous may
#: come back.
PRECISIONS_AT_START = 1e-3, 1e2
#: The noise of derivatives is no less than this share of the smoothed ones' standard errors.
SHARE_OF_ERRORS = 0.7
#: A term of a polynomial that is not this many standard errors off 0, which the data determine by less than half, is
#: dropped and the rest fitted again, so often.
LEAST_STANDARD_ERRORS, MOST_PRUNINGS = 1.0, 3
#: A network is given up whose evidence, early on, is so many nats for each observed value below that of its rival.
FAR_BEHIND = 0.25
#: Other selections of terms that are tried, at most, one after another.
MOST_SELECTIONS = 3
#: Residuals of a fit that are this many times the noise that smoothing has left are not noise alone.
MORE_THAN_NOISE = 2.0
#: Shares of the matched weights that are tried where a field explodes on the way to the next observation.
SMALLER = (1.0, 0.5, 0.2, 0.05, 0.0)


@dataclass(frozen=True)
class FieldSearch(Limits):
    """How long and from how many starts to search.

    Attributes
    ----------
    n_starts : int
        Number of starts of matching.
    rival : float
        Logarithm of the evidence of a field of another kind; a fit that is far behind is given up.
    """

    n_starts: int = 1
    rival: float = -math.inf

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self.deadline


@dataclass(frozen=True)
class FieldOptimum:
    """A fitted field.

    Attributes
    ----------
    optimum : Optimum
        The optimum.
    information : Information or None
        Covariance of the unknowns there; None where weights are too many for it.
    """

    optimum: Optimum
    information: Information | None


@dataclass(frozen=True)
class Start:
    """Where shooting starts.

    Attributes
    ----------
    u : ndarray of shape (n_parameters,)
        Scaled parameters.
    nodes : ndarray of shape (n_series, n_nodes, n_states)
        States at the starts of segments.
    precision : ndarray of shape (n_parameters,)
        Precisions of the prior.
    free : ndarray of bool, of shape (n_parameters,)
        Which parameters are searched for.
    """

    u: np.ndarray
    nodes: np.ndarray
    precision: np.ndarray
    free: np.ndarray


def matched(task: Task, smooth: SmoothedStates, settings: FieldSearch, rng: np.random.RandomState) -> Matched:
    """The parameters of the largest evidence in gradient matching; ``smooth`` in standardised units."""
    system, scales, prior = task.model.system, task.model.scales, task.prior
    assert isinstance(system, FieldSystem)
    assert prior is not None
    m = task.model.n_parameters
    z, time = torch.from_numpy(smooth.states), torch.from_numpy(smooth.time)
    inputs = Driver(task.inputs, torch.from_numpy(smooth.series)).at(time[:, None])
    kept = slice(system.n_states - system.n_outputs, None)

    def function(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        whole = np.concatenate([u, np.zeros(len(scales.names) - m)])
        with torch.no_grad():
            values = torch.from_numpy(scales.values(whole)[:m])
            found, _, slopes = system.jacobians(time, z, values, inputs)
        return found[:, kept].numpy(), slopes.numpy() * scales.slopes(whole)[:m]

    weights = 1.0 / (smooth.variance + smooth.variance.mean(axis=0) + 1e-30)
    weights *= smooth.freedom / weights.sum(axis=0)
    floor = SHARE_OF_ERRORS * np.sqrt((weights * smooth.variance).sum(axis=0) / weights.sum(axis=0))
    best: Matched | None = None
    for _ in range(1 if system.field.linear else settings.n_starts):
        if best is not None and settings.is_over:
            break
        start = scales.start[:m].copy()
        start[: system.field.n_weights] = system.field.start(rng)
        found = match(function, smooth.derivatives, weights, floor, start, prior)
        if best is None or found.evidence > best.evidence:
            best = found
    assert best is not None
    return best


def shot(task: Task, start: Start, settings: FieldSearch) -> Optimum:
    """The optimum that multiple shooting reaches."""
    n_series = task.layout.n_series
    u = np.concatenate([np.tile(start.u, (n_series, 1)), start.nodes[:, 0]], axis=1)
    free = np.ones(u.shape, dtype=bool)
    free[:, : len(start.u)] = start.free
    fits = Fits(
        start=np.zeros(n_series, dtype=np.int64),
        family=np.zeros(1, dtype=np.int64),
        weight=np.array([FIRST_WEIGHT]),
        u=np.clip(u, task.model.scales.low, task.model.scales.high),
        nodes=start.nodes.copy(),
        free=free,
        scale=np.full((1, len(task.least_scale)), np.nan),
        n_iter=np.zeros(n_series, dtype=np.int64),
        converged=np.zeros(n_series, dtype=bool),
        penalty=np.zeros(n_series),
        precision=None if task.prior is None else task.prior.held(start.precision, ~start.free)[None],
        last_weight=LAST_WEIGHT,
        lighter=False,
    )
    Descent(task, fits, np.arange(n_series), settings).run()
    optimum = ended(task, fits)[0]
    if not np.isfinite(optimum.loss):
        raise SolverError(
            "The field can't be solved as far as the observations",
            time=float(task.layout.t0[0]),
            advice="Choose another field.",
        )
    return optimum


def fitted(problem: Problem, settings: FieldSearch, rng: np.random.RandomState) -> FieldOptimum:
    """Match, shoot, and drop the terms of a polynomial that the data have no need of."""
    if problem.has_many_weights:
        return FieldOptimum(_by_gradients(problem, settings, rng), None)
    task, prior = problem.task, problem.task.prior
    assert prior is not None
    groups = prior.groups
    first = settings.checkpoint.step(
        lambda: matched(task, problem.smooth, settings, rng),
        changes=Parts([rng]),
    )
    precision = np.where(groups >= 0, np.clip(first.precision, *PRECISIONS_AT_START), 0.0)
    u = _solvable(task, first.u, problem.smooth.nodes)
    if not problem.system.field.linear and math.isfinite(settings.rival):
        settings = replace(settings, hopeless=lambda fits: _is_far_behind(problem, fits, settings.rival))
    best = _pruned(problem, Start(u, problem.smooth.nodes, precision, np.ones(len(groups), dtype=bool)), settings)
    for _ in range(MOST_SELECTIONS if isinstance(problem.system.field, PolynomialField) else 0):
        start = _other_terms(problem, best)
        if start is None:
            break
        try:
            other = _pruned(problem, start, settings)
        except SolverError:
            break
        if not evidence(problem, other) > evidence(problem, best):
            interrupted, out_of_time = other.optimum.interrupted, other.optimum.out_of_time
            optimum = replace(best.optimum, interrupted=interrupted, out_of_time=out_of_time)
            return replace(best, optimum=optimum)
        best = other
    return best


def _by_gradients(problem: Problem, settings: FieldSearch, rng: np.random.RandomState) -> Optimum:
    """Match and shoot by gradients of the adjoint."""
    task, smooth = problem.task, problem.smooth
    u, precision = settings.checkpoint.step(
        lambda: matched_weights(task, smooth, settings, rng),
        changes=Parts([rng]),
    )
    start = u, smooth.nodes, precision
    found = settings.checkpoint.step(lambda: shot_by_gradients(task, start, settings, smooth.noise))
    layout, nodes, mean = task.layout, found.nodes, found.mean
    n_series, n_nodes, n = nodes.shape
    loss = task.noise.loss(layout.y, mean, np.broadcast_to(found.scale, mean.shape))
    return Optimum(
        u=np.hstack([np.tile(found.u, (n_series, 1)), nodes[:, 0]]),
        nodes=nodes,
        shots=Shots(
            mean=mean,
            mean_slopes=np.empty((*mean.shape, 0)),
            defects=np.zeros_like(nodes),
            end_slopes=np.empty((n_series, n_nodes, n, 0)),
            start_slopes=np.empty((n_series, n, 0)),
            n_steps=np.zeros(n_series, dtype=np.int64),
        ),
        scale=found.scale,
        loss=float(np.where(layout.weights > 0.0, layout.weights * loss, 0.0).sum()),
        family=0,
        converged=found.converged,
        interrupted=found.interrupted,
        out_of_time=found.out_of_time,
        n_iter=found.n_iter,
    )


def _pruned(problem: Problem, start: Start, settings: FieldSearch) -> FieldOptimum:
    """The optimum from a start, without the terms of a polynomial that the data have no need of."""
    task, m = problem.task, len(start.u)
    assert task.prior is not None
    for _ in range(1 + (MOST_PRUNINGS if problem.system.field.linear else 0)):
        optimum = shot(task, start, settings)
        information = optimum.information(task, sandwich=False)
        errors, u = np.sqrt(np.diagonal(information.covariance[0, :m, :m])), optimum.u[0, :m]
        kept = (task.prior.groups < 0) | (start.free & (np.abs(u) > LEAST_STANDARD_ERRORS * errors))
        if optimum.interrupted or optimum.out_of_time or (kept == start.free).all():
            break
        assert optimum.precision is not None
        start = Start(np.where(kept, u, 0.0), optimum.nodes, optimum.precision, kept)
    return FieldOptimum(optimum, information)


def _is_far_behind(problem: Problem, fits: Fits, rival: float) -> bool:
    """Whether the evidence of fits on their way is far below that of a field of another kind."""
    optimum = ended(problem.task, fits)[0]
    found = FieldOptimum(optimum, optimum.information(problem.task, sandwich=False))
    return rival - evidence(problem, found) > FAR_BEHIND * problem.task.layout.weights.sum()


def _other_terms(problem: Problem, found: FieldOptimum) -> Start | None:
    """Where shooting starts with other terms of a polynomial that promise a larger evidence; None: there are none."""
    task, optimum, field = problem.task, found.optimum, problem.system.field
    assert task.prior is not None
    assert optimum.precision is not None
    assert isinstance(field, PolynomialField)
    if optimum.interrupted or optimum.out_of_time:
        return None
    own, m = task.prior.groups >= 0, task.model.n_parameters
    precision = np.where(own & (optimum.precision >= MOST_PRECISION), np.inf, optimum.precision)
    degrees = np.zeros(m, dtype=np.int64)
    degrees[: field.n_weights] = np.repeat(field.powers.sum(axis=1), field.n_outputs)
    terms = better_terms(task, optimum, precision, degrees)
    if terms is None:
        return None
    u, precision = terms
    kept = np.isfinite(precision)
    return Start(u, optimum.nodes, np.where(kept, precision, MOST_PRECISION), kept)


def _solvable(task: Task, u: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Parameters with which all segments can be solved: as matched, or with smaller weights, at last a field of 0."""
    cells = Cells.of(task.layout, np.arange(task.layout.n_series))
    system = task.model.system
    assert isinstance(system, FieldSystem)
    field = np.arange(len(u)) < system.field.n_weights
    for share in SMALLER:
        tried = np.where(field, share * u, u)
        whole = np.concatenate([np.tile(tried, (len(nodes), 1)), nodes[:, 0]], axis=1)
        if np.isfinite(task.shoot(cells, whole, nodes.copy()).mean).all():
            return tried
    raise SolverError(
        "The equations can't be solved from the smoothed states as far as the next ones",
        time=float(task.layout.t0[0]),
        advice="Choose another field or other starts of the parameters in params.",
    )


def evidence(problem: Problem, found: FieldOptimum) -> float:
    """Laplace's approximation of the logarithm of the evidence, with a flat density of the initial states.

    In the user's units, so that it does not depend on how states were standardised. Minus infinity where the
    information is singular, as along a solution that explodes: the approximation has no bound there. NaN where there is
    no information.
    """
    if found.information is None:
        return float("nan")
    task, optimum, units = problem.task, found.optimum, problem.system.units
    prior, precision, (n_series, q), m = task.prior, optimum.precision, optimum.u.shape, task.model.n_parameters
    assert prior is not None
    assert precision is not None
    n_unknowns = m + n_series * (q - m)
    density = prior.log_density(optimum.u[0, :m], precision)
    standard = -optimum.loss + density - 0.5 * found.information.log_det + 0.5 * n_unknowns * np.log(2.0 * np.pi)
    observed = (task.layout.weights.sum(axis=0) * np.log(units.scale[: task.layout.y.shape[1]])).sum()
    log_evidence = float(standard - observed + n_series * np.log(units.scale).sum())
    return log_evidence if math.isfinite(log_evidence) else -math.inf


def left_over(problem: Problem, optimum: Optimum) -> list[tuple[int, float]]:
    """Outputs that the field does not follow, and how many times the smoothing's noise their residuals are.

    Those are larger than what smoothing has left and than a field is exact to, and follow each other.
    """
    task, n = problem.task, len(problem.smooth.noise)
    least = np.maximum(problem.smooth.noise, task.least_scale[:n])
    ratio = deviations(task, optimum) / np.maximum(least, 1e-300)
    signal = durbin_watson(problem.task, optimum) < LEAST_DURBIN_WATSON
    return [(int(output), float(ratio[output])) for output in np.flatnonzero(signal & (ratio > MORE_THAN_NOISE))]


def conditioned(problem: Problem, u: np.ndarray, scale: np.ndarray, settings: FieldSearch) -> Optimum:
    """The states of other series, with parameters ``u`` as they are and noise that is no less than ``scale``."""
    start = Start(u, problem.smooth.nodes, np.zeros(len(u)), np.zeros(len(u), dtype=bool))
    return shot(replace(problem.task, prior=None, least_scale=scale), start, settings)
