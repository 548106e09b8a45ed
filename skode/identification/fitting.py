"""From smoothed states to the field with the largest posterior density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from skode.equations.dynamics import Driver
from skode.equations.fitting import Optimum, ended
from skode.equations.inputs import Inputs
from skode.equations.levenberg_marquardt import Descent, Fits, Task
from skode.identification.matching import Matched, match
from skode.identification.states import SmoothedStates
from skode.identification.system import FieldSystem

#: First and last weight of the defects, in units of an observation's. Multipliers close what is left: heavier ones
#: would bind the steps closely to a manifold that is curved by hundreds of weights.
FIRST_WEIGHT, LAST_WEIGHT = 1.0, 300.0
#: Precisions of weights at the start of shooting lie between these: weights that matching has taken for superfluous may
#: come back.
PRECISIONS_AT_START = 1e-3, 1e2
#: The noise of derivatives is no less than this share of the smoothed ones' standard errors.
SHARE_OF_ERRORS = 0.7


@dataclass(frozen=True)
class FieldSearch:
    """How long and from how many starts to search.

    Attributes
    ----------
    n_starts
        Number of starts of matching.
    max_iter, tol
        As the estimator's parameters.
    report : callable or None
        Called after each iteration.
    """

    n_starts: int
    max_iter: int
    tol: float
    report: Callable[[int, int, float], None] | None = None


@dataclass(frozen=True)
class FieldOptimum:
    """A fitted field.

    Attributes
    ----------
    optimum : Optimum
        The optimum.
    evidence : float
        Logarithm of the evidence.
    """

    optimum: Optimum
    evidence: float


def matched(task: Task, smooth: SmoothedStates, n_starts: int, rng: np.random.RandomState) -> Matched:
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
    for _ in range(1 if system.field.linear else n_starts):
        start = scales.start[:m].copy()
        start[: system.field.n_weights] = system.field.start(rng)
        found = match(function, smooth.derivatives, weights, floor, start, prior)
        if best is None or found.evidence > best.evidence:
            best = found
    assert best is not None
    return best


def shot(task: Task, start: Matched, smooth: SmoothedStates, settings: FieldSearch) -> FieldOptimum:
    """The optimum that multiple shooting reaches from matched parameters and smoothed states."""
    layout, m, prior = task.layout, task.model.n_parameters, task.prior
    assert prior is not None
    n_series = layout.n_series
    u = np.concatenate([np.tile(start.u, (n_series, 1)), smooth.nodes[:, 0]], axis=1)
    low, high = task.model.scales.low, task.model.scales.high
    precision = np.where(prior.groups >= 0, np.clip(start.precision, *PRECISIONS_AT_START), 0.0)
    fits = Fits(
        start=np.zeros(n_series, dtype=np.int64),
        family=np.zeros(1, dtype=np.int64),
        weight=np.array([FIRST_WEIGHT]),
        u=np.clip(u, low, high),
        nodes=smooth.nodes.copy(),
        free=np.ones(u.shape, dtype=bool),
        scale=np.full((1, layout.y.shape[1]), np.nan),
        n_iter=np.zeros(n_series, dtype=np.int64),
        converged=np.zeros(n_series, dtype=bool),
        penalty=np.zeros(n_series),
        precision=precision[None],
        last_weight=LAST_WEIGHT,
    )
    Descent(task, fits, np.arange(n_series), settings.tol, settings.report).run(settings.max_iter)
    optimum = ended(task, fits)[0]
    return FieldOptimum(optimum, evidence(task, optimum))


def evidence(task: Task, optimum: Optimum) -> float:
    """Laplace's approximation of the logarithm of the evidence, with a flat density of the initial states."""
    prior, precision, m = task.prior, optimum.precision, task.model.n_parameters
    assert prior is not None
    assert precision is not None
    log_det = optimum.information(task, sandwich=False).log_det
    n_unknowns = m + optimum.u.shape[0] * (optimum.u.shape[1] - m)
    density = prior.log_density(optimum.u[0, :m], precision)
    return float(-optimum.loss + density - 0.5 * log_det + 0.5 * n_unknowns * np.log(2.0 * np.pi))


def with_inputs_in_units(inputs: Inputs | None, unit: float) -> Inputs | None:
    """The same inputs over standardised times."""
    return None if inputs is None else Inputs(inputs.names, inputs.times / unit, inputs.values, inputs.linear)
