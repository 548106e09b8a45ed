r"""Levenberg-Marquardt steps of unknowns and segments' starts, of many fits at once.

Each fit (a *group*) is a set of cells that share parameters, or a single series where none are shared. It has damping
and step acceptance of its own, and all take their steps in one batched solve. The merit of a step is

.. math:: \phi = -\log L + \sum_j y_j^T (e_j - s_{j+1}) + \frac12 \sum_j w |e_j - s_{j+1}|^2,

an augmented Lagrangian. The weights of what the segments' ends miss grow with each good step, from that of an
observation on, and the multipliers follow, so that nothing is missed in the end (J. Nocedal, S. J. Wright, "Numerical
Optimization", 2nd ed., sections 10.3 and 17.3). Damping is scaled by the diagonal of the Gauss-Newton matrix, so that
units play no part (D. W. Marquardt, "An algorithm for least-squares estimation of nonlinear parameters", J. SIAM 11,
1963).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from skode.equations.control import ERRORS_OF_MERIT, MOST_DAMPING, UNDAMPED, Control
from skode.equations.elimination import Linearised, Reduced
from skode.equations.fits import Fits, Limits
from skode.equations.groups import Groups, Normal, step_of
from skode.equations.inputs import Inputs
from skode.equations.layout import Cells, Layout
from skode.equations.noise import Gaussian
from skode.equations.prior import Prior, inverse
from skode.equations.sensitivities import MAX_STEPS
from skode.equations.shooting import Model, Shots, cells_without_next, shoot

#: Logarithms change by no more than this in a step.
LONGEST_LOG_STEP = 1.5
#: After so many steps a fit is given up whose loss is one nat an observation above that of one of its family, if the
#: defects of that have this weight.
PATIENCE, CONSISTENT = 8, 1e3
#: After so many steps a caller may end a descent that is hopeless.
EARLY = 20
#: Trial solves may take this many times the steps of the first one, and some in any case.
MORE_STEPS, LEAST_STEPS = 4, 60
#: Where there is a prior, multipliers, in units of the slope of an observation's loss one standard deviation off, are
#: no larger than this: with hundreds of unknowns larger ones would pull ends away without limit (R. Andreani, E. G.
#: Birgin, J. M. Martinez, M. L. Schuverdt, "On augmented Lagrangian methods with general lower-level constraints", SIAM
#: J. Optim. 18, 2007).
MOST_MULTIPLIER = 1e3
#: Attributes of a descent that it goes on from, beside the fits; all others follow from these.
PROGRESS = (
    *("n_done", "active", "reached", "totals", "squares", "determined", "control", "multipliers", "loss"),
    *("start", "u", "nodes", "free", "shots"),
)
#: Steps of the EM algorithm for the scale of the noise, where it takes any, after each step of the unknowns.
SCALE_UPDATES = 20


@dataclass(frozen=True)
class Task:
    """A least-squares problem: model, observations and noise.

    Attributes
    ----------
    model : Model
        The equations.
    layout : Layout
        The observations.
    inputs : Inputs or None
        The series' inputs.
    noise : Gaussian
        The distribution of the observations.
    least_scale : ndarray of shape (n_outputs,)
        The least standard deviation of the noise: what the solver's own errors are.
    prior : Prior or None
        Prior of the unknowns that all series share; None for none.
    """

    model: Model
    layout: Layout
    inputs: Inputs | None
    noise: Gaussian
    least_scale: np.ndarray
    prior: Prior | None = None

    def shoot(self, cells: Cells, u: np.ndarray, nodes: np.ndarray, max_steps: int = MAX_STEPS) -> Shots:
        """Solve the segments of some cells."""
        with np.errstate(all="ignore"):
            return shoot(self.model, self.layout, self.inputs, cells, u, nodes, max_steps)


def least_squares(
    task: Task, cells: Cells, shots: Shots, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses of the rows, their residuals and these' slopes by the outputs; ``scale`` is of each row."""
    rows, weights = cells.rows, task.layout.weights[cells.rows]
    y = task.layout.y[rows]
    with np.errstate(all="ignore"):
        noise = task.noise.of(rows)
        loss = np.where(weights > 0.0, weights * noise.loss(y, shots.mean, scale), 0.0).sum(axis=1)
        residuals, slopes = noise.residuals(y, shots.mean, scale)
        root = np.sqrt(weights)
        return loss, np.where(weights > 0.0, root * residuals, 0.0), np.where(weights > 0.0, root * slopes, 0.0)


def by_cell(cells: Cells, values: np.ndarray) -> np.ndarray:
    """Sums of rows' values over each cell."""
    bounds = np.searchsorted(cells.row_cell, np.arange(len(cells.series)))
    return np.add.reduceat(values, bounds, axis=0)


def squares_by_cell(task: Task, cells: Cells, shots: Shots, scale: np.ndarray) -> np.ndarray:
    """Sums of the weights and of the weighted terms of the squared noise scales, of shape (n_cells, 2, n_scales)."""
    rows = cells.rows
    noise, weights = task.noise.of(rows), np.tile(task.layout.weights[rows], task.noise.n_scales)
    with np.errstate(all="ignore"):
        squares = noise.squares(task.layout.y[rows], shots.mean, scale)
        shares = np.where(weights > 0.0, weights * noise.shares(shots.mean, scale), 0.0)
        return by_cell(cells, np.stack([shares, np.where(shares > 0.0, shares * squares, 0.0)], axis=1))


class Descent:
    """The iteration.

    Parameters
    ----------
    task : Task
        Problem to solve.
    fits : Fits
        Where it starts, and where results are kept; a start that can't be solved stays where it is.
    series : ndarray of int, of shape (n_cells,)
        The series of each cell.
    limits : Limits
        When it ends, and where it goes on.
    """

    def __init__(
        self,
        task: Task,
        fits: Fits,
        series: np.ndarray,
        limits: Limits,
    ) -> None:
        self.task, self.fits, self.series, self.limits = task, fits, series, limits
        self.n_done = 0
        self.n_shared = task.model.n_shared
        scales = task.model.scales
        self.low, self.high = scales.low, scales.high
        self.longest = np.where(scales.log, LONGEST_LOG_STEP, np.inf)
        self.active = np.arange(len(series))
        self.reached = np.full((int(fits.family.max()) + 1) * task.layout.n_series, np.inf)
        self.totals = np.zeros((len(fits.scale), task.layout.y.shape[1]))
        totals = by_cell(Cells.of(task.layout, np.arange(task.layout.n_series)), task.layout.weights)
        np.add.at(self.totals, fits.start, totals[series])
        self.squares = np.zeros((len(series), 2, fits.scale.shape[1]))
        #: How many unknowns the data determine, which the variance of the noise is free of; 0 without a prior.
        self.determined = np.zeros(len(fits.scale))

    def run(self) -> None:
        """Iterate until all fits have converged or the number of iterations is reached; time or Ctrl-C end it."""
        self.limits.checkpoint.step(self._run, changes=self.fits, under_way=self)

    def _run(self) -> None:
        try:
            if not self.n_done:
                self._begin()
            with self.limits.checkpoint.careful():
                while self.n_done < self.limits.max_iter and len(self.active):
                    if time.monotonic() >= self.limits.deadline:
                        self.fits.out_of_time = True
                        break
                    self._iterate()
                    self.n_done += 1
                    if self.limits.report is not None:
                        self.limits.report(self.n_done, len(self.loss), float(np.min(self.loss, initial=np.inf)))
                    if self.n_done == EARLY and self._is_hopeless():
                        break
                    self.limits.checkpoint.look()
            self._note_shots(np.ones(len(self.active), dtype=bool))
        except KeyboardInterrupt:
            self.limits.checkpoint.close()
            self.fits.interrupted, self.fits.shots = True, None

    def _is_hopeless(self) -> bool:
        if self.limits.hopeless is None:
            return False
        self._note_shots(np.ones(len(self.active), dtype=bool))
        return self.limits.hopeless(self.fits)

    def state(self) -> dict[str, Any]:
        """All that a descent goes on from after a step."""
        return {"fits": self.fits.state()} | {name: getattr(self, name) for name in PROGRESS}

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Go on with the descent whose state this is."""
        for name in PROGRESS:
            setattr(self, name, state[name])
        self.fits.go_on_from(state["fits"])
        self.all_cells = Cells.of(self.task.layout, self.series)
        self._note_cells()

    def _begin(self) -> None:
        fits, task = self.fits, self.task
        self.cells = Cells.of(task.layout, self.series)
        self.groups = Groups(fits.start, self.n_shared)
        self.start = fits.start
        self.u, self.nodes, self.free = fits.u.copy(), fits.nodes.copy(), fits.free
        self.shots = task.shoot(self.cells, self.u, self.nodes)
        fits.shots, self.all_cells = self.shots.copy(), self.cells
        cells = np.unique(self.groups.of_cell, return_index=True)[1]
        self.control = Control.start(fits.weight[self.start[cells]], fits.last_weight)
        self.multipliers = np.zeros(self.nodes.shape)
        if np.isnan(fits.scale).any():
            fits.scale[:] = self._first_scale()
        # A trial step that takes so many has led to where the equations explode, or are much stiffer than at the start.
        most = np.full(len(fits.scale), 0)
        np.maximum.at(most, self.start, self.shots.n_steps)
        fits.max_steps = min(MAX_STEPS, max(LEAST_STEPS, MORE_STEPS * int(most.min())))
        self._note_squares()
        self.loss = self._loss(self.shots)
        dead = ~np.isfinite(self.loss)
        if dead.any():
            self._keep(~dead)

    def _first_scale(self) -> np.ndarray:
        """Standard deviations of the first residuals; for heavy tails from their medians."""
        task, cells = self.task, self.cells
        weights = np.tile(task.layout.weights[cells.rows], task.noise.n_scales)
        with np.errstate(all="ignore"):
            squares = task.noise.of(cells.rows).first_squares(task.layout.y[cells.rows], self.shots.mean)
        scale = np.empty_like(self.fits.scale)
        for k in range(len(scale)):
            rows = (self.start == k)[cells.row_cell]
            for o in range(scale.shape[1]):
                seen = squares[rows, o][weights[rows, o] > 0.0]
                scale[k, o] = np.sqrt(np.mean(seen)) if len(seen) and np.isfinite(seen).all() else 1.0
        return self._at_least(scale)

    def _at_least(self, scale: np.ndarray) -> np.ndarray:
        return np.maximum(scale, self.task.least_scale) if self.task.noise.scaled else np.ones_like(scale)

    def _row_scale(self) -> np.ndarray:
        return self.fits.scale[self.start][self.cells.row_cell]

    def _note_squares(self) -> None:
        self.squares[self.active] = squares_by_cell(self.task, self.cells, self.shots, self._row_scale())

    def _update_scale(self) -> None:
        """Standard deviations of the noise that are likeliest given the solutions."""
        if not self.task.noise.scaled:
            return
        for _ in range(SCALE_UPDATES if self.task.noise.iterated else 1):
            self._note_squares()
            total = np.zeros((len(self.fits.scale), *self.squares.shape[1:]))
            np.add.at(total, self.fits.start, self.squares)
            with np.errstate(all="ignore"):
                left = total[:, 0] * (1.0 - self.determined / self.totals.sum(axis=1))[:, None]
                scale = np.sqrt(total[:, 1] / np.maximum(left, 1e-300))
            self.fits.scale = np.where(np.isfinite(scale), self._at_least(scale), self.fits.scale)

    def _loss(self, shots: Shots) -> np.ndarray:
        """The loss of each group without the defects' penalty."""
        return self.groups.sum(by_cell(self.cells, least_squares(self.task, self.cells, shots, self._row_scale())[0]))

    def _weights(self, slopes: np.ndarray) -> np.ndarray:
        """Information of an observation about each state, of shape (n_cells, n_states), by sizes relative to noise."""
        relative = self._by_start(by_cell(self.cells, (slopes * self.shots.mean) ** 2).sum(axis=1))
        n_values = self._by_start(by_cell(self.cells, (slopes > 0.0).astype(float)).sum(axis=1))
        squares = self._by_start(np.stack([(self.nodes**2).sum(axis=1), np.ones_like(self.nodes[:, 0])], axis=1))
        size = squares[:, 0] / np.maximum(squares[:, 1], 1.0) / self.nodes.shape[1]
        largest = size.max(axis=1, keepdims=True)
        size = np.maximum(size, np.where(largest > 0.0, 1e-16 * largest, 1.0))
        return (relative / np.maximum(n_values, 1.0))[self.start, None] / size[self.start]

    def _errors_of_merit(self, slopes: np.ndarray) -> np.ndarray:
        """Bound on the error of the groups' losses from relative errors of the solutions as large as the tolerance."""
        by_errors = self.groups.sum(by_cell(self.cells, np.abs(slopes * self.shots.mean).sum(axis=1)))
        return np.clip(self.task.model.settings.rtol * by_errors, *ERRORS_OF_MERIT)

    def _by_start(self, values: np.ndarray) -> np.ndarray:
        total = np.zeros((len(self.fits.scale), *values.shape[1:]))
        np.add.at(total, self.start, values)
        return total

    def _iterate(self) -> None:
        task, cells, groups, control = self.task, self.cells, self.groups, self.control
        losses, residuals, slopes = least_squares(task, cells, self.shots, self._row_scale())
        self.loss = groups.sum(by_cell(cells, losses))
        unit = self._weights(slopes)
        weights = np.repeat((control.weight[groups.of_cell, None] * unit)[:, None], self.nodes.shape[1], axis=1)
        weights[cells_without_next(task.layout, cells)] = 0.0
        shift = np.where(weights > 0.0, self.multipliers / np.where(weights > 0.0, weights, 1.0), 0.0)
        by_known = slopes[..., None] * self.shots.mean_slopes
        system = Linearised(task.layout, cells, self.shots, residuals, by_known, self.shots.defects + shift, weights)
        reduced = self._reduced(system, unit)
        step, moves = self._step(reduced)
        gains = system.gain(system.moved(step, moves))
        prior, new_prior = self._prior(self.u), self._prior(self.u + step)
        predicted = groups.sum(by_cell(cells, gains[0]) + gains[1]) + prior - new_prior
        new_u, new_nodes = self.u + step, self.nodes + moves
        shots = task.shoot(cells, new_u, new_nodes, self.fits.max_steps)
        before, after = (
            groups.sum(0.5 * (weights * (each.defects + shift) ** 2).sum(axis=(1, 2))) for each in (self.shots, shots)
        )
        merit = self._loss(shots) + after
        with np.errstate(all="ignore"):
            gain = self.loss + before + prior - merit - new_prior
            ratio = np.where(np.isfinite(merit), gain / np.maximum(predicted, 1e-300), -np.inf)
        undamped = control.damping <= UNDAMPED
        # Where solves are less exact than that, a step is lost among their errors.
        errors = self._errors_of_merit(slopes)
        lost = (ratio <= 1e-4) & (np.abs(gain) <= errors) & (predicted <= errors)
        settled = ((predicted <= self.limits.tol) | lost) & undamped
        # Within rounding of the merit a step that promises nothing is as good as none.
        accepted = (ratio > 1e-4) | (settled & (gain >= -self.limits.tol))
        settled |= control.stalled(predicted, accepted)
        chosen = accepted[groups.of_cell]
        self.u = np.where(chosen[:, None], new_u, self.u)
        self.nodes = np.where(chosen[:, None, None], new_nodes, self.nodes)
        self.shots = self.shots.replaced(cells, shots, chosen)
        left = (np.abs(self.multipliers) + weights * np.abs(self.shots.defects)) * np.abs(self.shots.defects)
        settled &= groups.sum(left.sum(axis=(1, 2))) <= np.where(lost, 10.0 * errors, self.limits.tol)
        good = (accepted & (ratio > 0.5))[groups.of_cell, None, None]
        largest = (np.inf if task.prior is None else MOST_MULTIPLIER) * np.sqrt(unit)[:, None]
        multipliers = np.clip(weights * (self.shots.defects + shift), -largest, largest)
        self.multipliers = np.where(good, multipliers, self.multipliers)
        curved = self.fits.lighter & ~accepted & (self._loss(shots) < self.loss) & (after > before)
        control.judge(ratio, accepted, curved)
        self._update_precision(reduced, accepted)
        self._update_scale()
        self.fits.n_iter[self.active] += 1
        self.fits.u[self.active], self.fits.nodes[self.active] = self.u, self.nodes
        self.fits.converged[self.active] = settled[groups.of_cell]
        self.fits.penalty[self.active] = left.sum(axis=(1, 2))
        reached = np.where(accepted, merit + new_prior, self.loss + before + prior)
        done = settled | (control.damping > MOST_DAMPING) | self._outrun(settled, reached)
        if done.any():
            self._keep(~done)

    def _outrun(self, settled: np.ndarray, merit: np.ndarray) -> np.ndarray:
        """Which groups are worse than one of their family that has converged, or far behind one that goes on."""
        first = np.unique(self.groups.of_cell, return_index=True)[1]
        family = self.fits.family[self.start[first]]
        keys = family * self.task.layout.n_series + (0 if self.n_shared else self.cells.series[first])
        np.minimum.at(self.reached, keys[settled], merit[settled])
        outrun = merit > self.reached[keys]
        if (self.fits.n_iter[self.active].max() < PATIENCE) or len(np.unique(keys)) == len(keys):
            return outrun
        n_values = self.groups.sum(by_cell(self.cells, self.task.layout.weights[self.cells.rows].sum(axis=1)))
        ahead = np.full(len(self.reached), np.inf)
        consistent = self.control.weight >= CONSISTENT
        np.minimum.at(ahead, keys[consistent], self.loss[consistent])
        return outrun | (self.loss > ahead[keys] + n_values)

    def _prior(self, u: np.ndarray) -> np.ndarray:
        """Minus the logarithm of the prior of each group."""
        prior, precision = self.task.prior, self.fits.precision
        if prior is None or precision is None:
            return np.zeros(self.groups.n)
        cells = np.unique(self.groups.of_cell, return_index=True)[1]
        return prior.value(u[cells, : self.n_shared], precision[self.start[cells]])

    def _reduced(self, system: Linearised, unit: np.ndarray) -> Reduced:
        """The form of the unknowns, prior included, which is shared out among a group's cells."""
        reduced = system.reduced(self.control.damping[self.groups.of_cell][:, None] * unit)
        prior, precision, s = self.task.prior, self.fits.precision, self.n_shared
        if prior is not None and precision is not None:
            share = precision[self.start] / self.groups.sum(np.ones(len(self.u)))[self.groups.of_cell][:, None]
            places = np.arange(s)
            reduced.matrix[:, places, places] += share
            reduced.gradient[:, :s] += share * (self.u[:, :s] - prior.mean)
        return reduced

    def _update_precision(self, reduced: Reduced, accepted: np.ndarray) -> None:
        """Precisions of the prior that have a larger evidence, of fits that have taken a step."""
        prior, precision, s = self.task.prior, self.fits.precision, self.n_shared
        if prior is None or precision is None:
            return
        H = reduced.matrix
        own = np.linalg.solve(H[:, s:, s:], H[:, s:, :s])
        total = self.groups.sum(H[:, :s, :s] - H[:, :s, s:] @ own)
        cells = np.unique(self.groups.of_cell, return_index=True)[1]
        sizes = self.groups.sum(np.ones(len(self.u)))
        for group, cell in enumerate(cells):
            if not accepted[group]:
                continue
            start = self.start[cell]
            variance = np.diagonal(inverse(total[group]))
            self.determined[start] = prior.determined(precision[start], variance).sum()
            self.determined[start] += sizes[group] * (H.shape[1] - s)
            precision[start] = prior.adapted(self.u[cell, :s], precision[start], variance)

    def _step(self, reduced: Reduced) -> tuple[np.ndarray, np.ndarray]:
        """The damped steps, of the unknowns within their bounds and of the segments' starts."""
        groups, s = self.groups, self.n_shared
        damping = self.control.damping[groups.of_cell][:, None]
        matrix, gradient = reduced.matrix, reduced.gradient
        diagonal, joint = np.diagonal(matrix, axis1=1, axis2=2).copy(), gradient.copy()
        if s:
            diagonal[:, :s] = groups.sum(diagonal[:, :s])[groups.of_cell]
            joint[:, :s] = groups.sum(gradient[:, :s])[groups.of_cell]
        if self.task.prior is not None:  # all of one scale: those that the data hardly tell are not to wander
            own = self.task.prior.groups >= 0
            mean = diagonal[:, :s][:, own].mean(axis=1, keepdims=True)
            diagonal[:, :s] = np.where(own, np.maximum(diagonal[:, :s], mean), diagonal[:, :s])
        damping = damping * np.where(diagonal > 0.0, diagonal, 1.0)
        if s:  # the sum over the group's cells is to be the damping
            sizes = groups.sum(np.ones(len(damping)))[groups.of_cell]
            damping[:, :s] /= sizes[:, None]
        normal = Normal(matrix, gradient, damping)
        low, high = np.maximum(self.low, self.u - self.longest), np.minimum(self.high, self.u + self.longest)
        at_bound = ((self.u <= self.low) & (joint > 0.0)) | ((self.u >= self.high) & (joint < 0.0))
        fixed, given = ~self.free | at_bound, np.zeros(self.u.shape)
        for _ in range(self.u.shape[1] + 1):
            step = step_of(normal, groups, s, fixed, given)
            outside = ~fixed & ((self.u + step < low) | (self.u + step > high))
            if not outside.any():
                break
            given = np.where(outside, np.clip(self.u + step, low, high) - self.u, given)
            fixed = fixed | outside
        step = np.clip(self.u + step, low, high) - self.u
        return step, reduced.nodes(step)

    def _note_shots(self, leaving: np.ndarray) -> None:
        """Keep the solutions of cells that the iteration leaves."""
        if leaving.any():
            chosen = np.zeros(len(self.series), dtype=bool)
            chosen[self.active[leaving]] = True
            assert self.fits.shots is not None
            self.fits.shots.put(self.all_cells, chosen, self.shots.take(self.cells, leaving))

    def _keep(self, groups: np.ndarray) -> None:
        """Go on with some of the groups."""
        kept = groups[self.groups.of_cell]
        self._note_shots(~kept)
        self.control = self.control.take(groups)
        self.loss = self.loss[groups]
        self.shots = self.shots.take(self.cells, kept)
        self.active = self.active[kept]
        self.start, self.u, self.nodes, self.free = self.start[kept], self.u[kept], self.nodes[kept], self.free[kept]
        self.multipliers = self.multipliers[kept]
        self._note_cells()

    def _note_cells(self) -> None:
        """Find the cells of the fits that go on, and their groups."""
        if len(self.active):
            self.cells = Cells.of(self.task.layout, self.series[self.active])
            self.groups = Groups(self.start, self.n_shared)
