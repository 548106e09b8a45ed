r"""Fields of many weights: gradients by the solver's adjoint in place of sensitivities beside the states.

Sensitivities cost a solution for each weight, and Gauss-Newton steps a matrix of all pairs. Beyond some thousand
weights one backward solve, which gives the gradient by all of them, is cheaper. The objective of multiple shooting,

.. math:: -\log L + \frac{a}{2} |w|^2 + \sum_j \lambda_j^T d_j + \frac{W}{2} \sum_j |d_j|^2,

is minimised by L-BFGS (J. Nocedal, "Updating quasi-Newton matrices with limited storage", Math. Comp. 35, 1980) in
rounds, between which the weight ``W`` of the defects ``d`` grows, the multipliers follow and the scale of the noise is
set anew. The evidence needs the matrix as well: the prior's precision ``a`` is the one whose field, matched to the
derivatives of smoothed states, is nearest to those of stretches that were held out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from skode.equations.dynamics import Driver
from skode.equations.fits import Limits
from skode.equations.levenberg_marquardt import SCALE_UPDATES, Task
from skode.equations.noise import Student
from skode.identification.states import SmoothedStates
from skode.identification.system import FieldSystem
from skode.solvers import SolverError

#: Precisions of the prior that are tried, and the number of stretches of a series, one of which is held out.
PRECISIONS, N_STRETCHES = (1e-2, 1e-1, 1.0, 1e1, 1e2), 5
#: Steps of matching, and weights of the defects in the rounds of shooting, in units of an observation's.
MATCHING_STEPS, WEIGHTS = 300, (1.0, 10.0, 100.0, 300.0, 300.0, 300.0)
#: The objective where the equations can't be solved.
UNSOLVED = 1e30


class SharedField:
    """The field of a batch of samples that share their weights, whose gradients are wanted.

    Parameters
    ----------
    system : FieldSystem
        The equations.
    weights : Tensor of shape (n_parameters,)
        Weights and parameters.
    driver : Driver
        The samples' inputs.
    """

    def __init__(self, system: FieldSystem, weights: Tensor, driver: Driver) -> None:
        self.system, self.weights, self.driver = system, weights, driver

    def take(self, rows: Tensor) -> SharedField:
        """The field on some samples."""
        return SharedField(self.system, self.weights, self.driver.take(rows))

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        t = t.reshape(-1, 1).expand(len(z), 1)
        return self.system.value(t[:, 0], z, self.weights, self.driver.at(t))


@dataclass(frozen=True)
class GradientOptimum:
    """Where the descent ended.

    Attributes
    ----------
    u : ndarray of shape (n_parameters,)
        Scaled parameters.
    nodes : ndarray of shape (n_series, n_nodes, n_states)
        States at the starts of segments.
    mean : ndarray of shape (n_rows, n_outputs)
        Outputs at the rows.
    scale : ndarray of shape (n_outputs,)
        Standard deviations of the noise.
    precision : float
        Precision of the prior.
    converged, interrupted, out_of_time : bool
        Whether it converged, and what ended it otherwise.
    n_iter : int
        Steps taken.
    """

    u: np.ndarray
    nodes: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    precision: float
    converged: bool = False
    interrupted: bool = False
    out_of_time: bool = False
    n_iter: int = 0


class _Over(Exception):  # noqa: N818
    """The deadline has passed, or Ctrl-C."""


class _Minimiser:
    """L-BFGS steps that end at a deadline, with the best point so far."""

    def __init__(self, objective: Callable[[np.ndarray], tuple[float, np.ndarray]], limits: Limits) -> None:
        self.objective, self.limits = objective, limits
        self.best, self.value, self.n_iter = np.empty(0), np.inf, 0

    def _noted(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        if time.monotonic() >= self.limits.deadline and np.isfinite(self.value):
            raise _Over
        value, gradient = self.objective(x)
        if value < self.value:
            self.best, self.value = x.copy(), value
        return value, gradient

    def run(self, x: np.ndarray, max_iter: int, tol: float) -> bool:
        """Descend from a point; whether a step gained less than ``tol``."""
        self.best, self.value = x.copy(), np.inf
        options = {"maxiter": max_iter, "ftol": 0.0, "gtol": 0.0, "maxcor": 20}
        last = [np.inf]

        def gained(result: np.ndarray) -> None:
            self.n_iter += 1
            enough, last[0] = last[0] - self.value < tol, self.value
            if enough:
                raise StopIteration

        found = minimize(self._noted, x, jac=True, method="L-BFGS-B", callback=gained, options=options)
        return bool(found.nit < max_iter)


def matched_weights(
    task: Task, smooth: SmoothedStates, limits: Limits, rng: np.random.RandomState
) -> tuple[np.ndarray, float]:
    """Scaled parameters that match derivatives, and the precision of their prior by stretches held out."""
    system, scales, m = _system(task), task.model.scales, task.model.n_parameters
    z, t = torch.from_numpy(smooth.states), torch.from_numpy(smooth.time)
    inputs = Driver(task.inputs, torch.from_numpy(smooth.series)).at(t[:, None])
    kept = slice(system.n_states - system.n_outputs, None)
    target = torch.from_numpy(smooth.derivatives)
    weights = 1.0 / (smooth.variance + smooth.variance.mean(axis=0) + 1e-4 * (smooth.derivatives**2).mean(axis=0))
    start = scales.start[:m].copy()
    start[: system.field.n_weights] = system.field.start(rng)

    def errors(values: Tensor, counted: Tensor) -> Tensor:
        return 0.5 * (counted * (system.value(t, z, values, inputs)[:, kept] - target) ** 2).sum()

    def fitted(counted: Tensor, precision: float) -> np.ndarray:
        def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
            u = torch.from_numpy(x.copy()).requires_grad_()
            with torch.enable_grad():
                merit = errors(_values(task, u), counted) + _prior(task, u, precision)
                (gradient,) = torch.autograd.grad(merit, u)
            return float(merit.detach()), gradient.numpy()

        minimiser = _Minimiser(objective, limits)
        minimiser.run(start, MATCHING_STEPS, 1e-4)
        return minimiser.best

    held = torch.from_numpy(_held_out(smooth))[:, None]
    every = torch.from_numpy(weights)
    if not held.any() or held.all():
        return fitted(every, 1.0), 1.0
    losses = []
    for precision in PRECISIONS:
        u = torch.from_numpy(fitted(every * ~held, precision))
        with torch.no_grad():
            losses.append(float(errors(_values(task, u), every * held)))
    precision = PRECISIONS[int(np.argmin(losses))]
    return fitted(every, precision), precision


def _held_out(smooth: SmoothedStates) -> np.ndarray:
    """Which times lie in the stretch of their series that is held out: another one in each series."""
    held = np.zeros(len(smooth.time), dtype=bool)
    for series in np.unique(smooth.series):
        rows = np.flatnonzero(smooth.series == series)
        held[np.array_split(rows, N_STRETCHES)[(2 + int(series)) % N_STRETCHES]] = True
    return held


def shot_by_gradients(
    task: Task, start: tuple[np.ndarray, np.ndarray, float], limits: Limits, noise: np.ndarray
) -> GradientOptimum:
    """Multiple shooting from parameters, nodes and the precision of the prior; ``noise`` is its scale at first.

    Raises
    ------
    ValueError
        Where inputs jump on the way.
    SolverError
        Where the equations can't be solved from the start.
    """
    layout, m, n = task.layout, task.model.n_parameters, task.model.system.n_states
    if layout.course.stops.shape[1]:
        raise ValueError("Fields of so many weights can't have inputs that jump: set interpolation='linear'.")
    u, nodes, precision = start
    series = np.repeat(np.arange(layout.n_series), np.diff(layout.segment_pointer))
    places = np.arange(len(series)) - layout.segment_pointer[series]
    problem = _Shooting(task, series, precision)
    scale = np.maximum(noise, task.least_scale)
    x = np.concatenate([u, nodes[series, places].ravel()])
    multipliers = np.zeros((len(series), n))
    best, converged, interrupted, out_of_time = x, False, False, False
    minimiser = _Minimiser(problem.objective, limits)
    try:
        for weight in WEIGHTS:
            problem.state = scale, multipliers, weight / float(np.mean(scale**2))
            settled = minimiser.run(best, limits.max_iter, limits.tol)
            if minimiser.value >= UNSOLVED:
                raise SolverError(
                    "The equations can't be solved from the smoothed states as far as the next ones",
                    time=float(layout.t0[0]),
                    advice="Choose another field or other starts of the parameters in params.",
                )
            best = minimiser.best
            mean, defects = problem.at(best)
            multipliers = multipliers + problem.state[2] * defects
            scale = _scale(task, mean, scale)
            converged = settled and bool(np.abs(defects).max(initial=0.0) <= 0.1 * scale.max())
            if limits.report is not None:
                limits.report(minimiser.n_iter, 1, minimiser.value)
    except KeyboardInterrupt:
        best, converged, interrupted = minimiser.best, False, True
    except _Over:
        best, converged, out_of_time = minimiser.best, False, True
    mean, _ = problem.at(best)
    found = nodes.copy()
    found[series, places] = best[m:].reshape(-1, n)
    scale = _scale(task, mean, scale)
    optimum = GradientOptimum(best[:m], found, mean, scale, precision, converged)
    return replace(optimum, interrupted=interrupted, out_of_time=out_of_time, n_iter=minimiser.n_iter)


class _Shooting:
    """The objective of multiple shooting; ``state`` are the noise's scale, the multipliers and the defects' weight."""

    state: tuple[np.ndarray, np.ndarray, float]

    def __init__(self, task: Task, series: np.ndarray, precision: float) -> None:
        layout = task.layout
        self.task, self.precision, self.series = task, precision, series
        self.spans, self.times = torch.from_numpy(layout.spans.copy()), torch.from_numpy(layout.times.copy())
        self.driver = Driver(task.inputs, torch.from_numpy(series))
        self.inside = torch.from_numpy(layout.slot >= 0)
        segment = layout.segment_pointer[layout.row_series] + layout.node
        self.segment = torch.from_numpy(np.minimum(segment, len(series) - 1))
        self.has_next = torch.from_numpy(np.append(series[1:] == series[:-1], False))

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs at the rows, and the segments' defects, without a gradient."""
        with torch.no_grad():
            mean, defects = self.solved(torch.from_numpy(x))
        return mean.numpy(), defects.numpy()

    def solved(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs at the rows, and the segments' defects."""
        task, layout, m = self.task, self.task.layout, self.task.model.n_parameters
        nodes = x[m:].reshape(-1, task.model.system.n_states)
        field = SharedField(_system(task), _values(task, x[:m]), self.driver)
        y = task.model.settings.solve(field, self.spans, nodes, self.times).y
        slots = torch.from_numpy(np.maximum(layout.slot, 0))
        at_rows = torch.where(self.inside[:, None], y[self.segment, slots], nodes[self.segment])
        ends = y[torch.arange(len(nodes)), torch.from_numpy(layout.last)]
        defects = torch.where(self.has_next[:, None], ends - nodes.roll(-1, 0), torch.zeros_like(ends))
        return at_rows[:, : layout.y.shape[1]], defects

    def objective(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient."""
        scale, multipliers, weight = self.state
        known, layout = torch.from_numpy(x.copy()).requires_grad_(), self.task.layout
        with torch.enable_grad():
            mean, defects = self.solved(known)
            residuals = (mean - torch.from_numpy(layout.y)) / torch.from_numpy(scale)
            if isinstance(self.task.noise, Student):
                losses = 2.5 * torch.log1p(residuals**2 / 4.0)
            else:
                losses = 0.5 * residuals**2
            seen = torch.from_numpy(layout.weights)
            merit = torch.where(seen > 0.0, seen * losses, torch.zeros_like(losses)).sum()
            merit = merit + (torch.from_numpy(multipliers) * defects).sum() + 0.5 * weight * (defects**2).sum()
            merit = merit + _prior(self.task, known[: self.task.model.n_parameters], self.precision)
            if not torch.isfinite(merit):
                return UNSOLVED, np.zeros_like(x)
            (gradient,) = torch.autograd.grad(merit, known)
        return float(merit.detach()), np.nan_to_num(gradient.numpy())


def _system(task: Task) -> FieldSystem:
    system = task.model.system
    assert isinstance(system, FieldSystem)
    return system


def _values(task: Task, u: Tensor) -> Tensor:
    """Parameters from scaled ones."""
    log = torch.from_numpy(task.model.scales.log[: len(u)])
    return torch.where(log, torch.exp(torch.where(log, u, torch.zeros_like(u))), u)


def _prior(task: Task, u: Tensor, precision: float) -> Tensor:
    """Minus the logarithm of the prior density of the weights, but for a constant."""
    return 0.5 * precision * (u[: _system(task).field.n_weights] ** 2).sum()


def _scale(task: Task, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The likeliest scale of the noise."""
    weights, y = task.layout.weights, task.layout.y
    for _ in range(SCALE_UPDATES if task.noise.iterated else 1):
        squares = task.noise.squares(y, mean, np.broadcast_to(scale, mean.shape))
        total = np.where(weights > 0.0, weights * squares, 0.0).sum(axis=0)
        scale = np.maximum(np.sqrt(total / weights.sum(axis=0)), task.least_scale)
    return scale
