"""Outputs of a solve, collected from its steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.devices import is_asynchronous
from skode.solvers.errors import SolverError
from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.output_times import EveryStep, OutputTimes, OwnOutputTimes, Positions, Reading, Readout
from skode.solvers.forward.per_sample_steps import explained_by_samples
from skode.solvers.forward.run import Path, Run
from skode.solvers.indexing import index
from skode.solvers.tableaus import ButcherTableau

#: From so many outputs of each sample in a step, samples are read off one by one.
MANY_OUTPUTS = 32


def readout_of(run: Run, n_samples: int, positions: Positions) -> Readout:
    """A fresh account of the outputs still to be read off."""
    requested, span = run.outputs, run.span
    if requested.times is None:
        initial = None if span.by_sample is None else span.by_sample[:, 0]
        return EveryStep(positions, n_samples if run.rowwise else None, initial)
    if run.control.per_sample:
        return OwnOutputTimes(requested.times, requested.rows, span.of_samples(n_samples))
    return OutputTimes(requested.times, requested.rows, span.direction)


class Collector:
    """Reads outputs and events off the steps of a solve, as they are taken."""

    def __init__(self, run: Run, y0: Tensor) -> None:
        self.run = run
        self.y0 = y0
        n_samples = len(y0) if y0.ndim else 1
        self.positions = Positions(0)
        self.readout: Any = readout_of(run, n_samples, self.positions)
        self.positions.n += self.readout.n_outputs
        self.n_known = self.positions.n
        self.outputs = Outputs()
        start = self.readout.at_start(run.span.t0)
        self.start = [] if start is None else [start]
        self.path = Path(y0, np.empty(0), None, y0, run.span.t0, self.start, self.readout)

    def in_step(self, step: AcceptedStep) -> list[Reading]:
        """The outputs that a step answers, those at events included."""
        readings: list[Reading] = self.readout.in_step(step.t, step.t_next, step.rows)
        events = self.run.events
        if events is None:
            return readings
        stopped = events.stopped.copy()
        n = len(self.y0) if self.y0.ndim else 1
        with explained_by_samples(n if step.rows is None else len(step.rows), n):
            at_events, stop = events.in_step(step, self.positions)
        samples = np.arange(len(stop)) if step.rows is None or not events.rowwise else step.rows
        stop = np.where(stopped[samples], -1.0, stop)
        kept = [reading.until(stop) for reading in readings]
        return [reading for reading in kept if reading is not None] + at_events

    @property
    def ended(self) -> bool:
        """Whether terminal events have ended the solve for all samples."""
        return self.run.events is not None and bool(self.run.events.stopped.all())

    def finish(self, failure: SolverError | None) -> Path:
        """The path with its outputs, NaN where they were not reached."""
        run, path = self.run, self.path
        path.failure, path.n_known = failure, self.n_known
        path.outputs = self.outputs.assemble(self.y0, rowwise=run.rowwise, n_outputs=self.positions.n)
        known_times = np.empty(0) if run.outputs.times is None else run.outputs.times
        known_rows = run.outputs.rows
        if run.rowwise and known_rows is None:
            n = len(self.y0)
            known_rows, known_times = np.tile(np.arange(n), len(known_times)), np.repeat(known_times, n)
        path.times = np.concatenate([known_times, *self.positions.times])
        path.rows = None if known_rows is None else np.concatenate([known_rows, *self.positions.rows])
        return path


class Outputs:
    """Collects states at output times, in the order of the request."""

    def __init__(self) -> None:
        self.pieces: list[Tensor] = []
        self.positions: list[np.ndarray] = []

    def take(self, reading: Reading, state: Tensor, *, copy: bool = False) -> None:
        """Outputs that are the state itself."""
        rows = reading.rows
        if rows is not None:
            piece = state.index_select(0, index(rows, state))
        else:
            state = state.clone() if copy else state
            piece = state.expand(len(reading.positions), *state.shape)
        self.pieces.append(piece)
        self.positions.append(reading.positions)

    def put(self, reading: Reading, states: Tensor) -> None:
        """Outputs that are known otherwise."""
        self.pieces.append(states)
        self.positions.append(reading.positions)

    def interpolate(self, reading: Reading, step: AcceptedStep, weights: Tensor) -> None:
        """Outputs inside a step: ``y + h sum_i b_i(theta) k_i``, of all samples or of one each."""
        y, stages, h = step.taken.y, step.taken.stages, step.taken.h
        assert stages is not None
        if reading.rows is None:
            flat = y.reshape(-1)
            if isinstance(h, float):
                inside = torch.addmm(flat, weights, stages, alpha=h)
            else:
                inside = flat + h * (weights @ stages)
            self.pieces.append(inside.view(len(weights), *y.shape))
        else:
            self.pieces.append(inside_samples(y, stages, h, weights, reading.rows))
        self.positions.append(reading.positions)

    def assemble(self, y0: Tensor, *, rowwise: bool, n_outputs: int) -> Tensor:
        """All outputs, stacked: each a state, or the state of one sample; NaN for those never reached."""
        shape = y0.shape[int(rowwise) :]
        if not self.pieces and not y0.numel():  # with the graph of the initial state
            return y0.reshape(n_outputs, *shape) if rowwise else y0.expand(n_outputs, *y0.shape).clone()
        if not self.pieces:
            return y0.new_full((n_outputs, *shape), torch.nan)
        stacked = torch.cat(self.pieces)
        positions = np.concatenate(self.positions)
        given = np.arange(len(positions))
        if len(positions) == n_outputs and np.array_equal(positions, given):
            return stacked
        place = np.full(n_outputs, len(positions))
        place[positions] = given
        if len(positions) < n_outputs:
            stacked = torch.cat([stacked, stacked.new_full((1, *shape), torch.nan)])
        return stacked.index_select(0, index(place, stacked))


def inside_samples(y: Tensor, stages: Tensor, h: Any, weights: Tensor, rows: np.ndarray) -> Tensor:
    """Outputs of one sample each, of shape (len(rows), ...)."""
    own = stages.view(len(stages), len(y), -1)
    per_sample = isinstance(h, torch.Tensor) and h.ndim > 0
    many = len(rows) >= MANY_OUTPUTS * len(y) and not is_asynchronous(y.device)
    if many and (np.diff(rows) >= 0).all():  # a product of matrices for each sample
        inside = y.new_empty(len(rows), own.shape[2])
        counts = np.bincount(rows, minlength=len(y)).tolist()
        parts = zip(inside.split(counts), weights.split(counts), strict=True)
        steps = h.flatten().tolist() if per_sample else [h] * len(y)
        for start, k, step, (part, some) in zip(y.reshape(len(y), -1), own.unbind(1), steps, parts, strict=True):
            torch.addmm(start, some, k, alpha=step, out=part)
        return inside.view(len(rows), *y.shape[1:])
    samples = index(rows, y)
    inside = (own.index_select(1, samples) * weights.t()[..., None]).sum(0).view(len(rows), *y.shape[1:])
    return y.index_select(0, samples) + (h.index_select(0, samples) if per_sample else h) * inside


def weights_tensor(tableau: ButcherTableau, theta: np.ndarray, like: Tensor) -> Tensor:
    """Interpolation weights, computed in float64, in the state's dtype."""
    return torch.from_numpy(tableau.interpolation_weights(theta)).to(like)


def differentiable_weights(tableau: ButcherTableau, theta: Tensor) -> Tensor:
    """Interpolation weights as a differentiable function of the position in the step."""
    coefficients = torch.tensor(tableau.interpolant, dtype=theta.dtype, device=theta.device)
    powers = torch.arange(1, coefficients.shape[1] + 1, device=theta.device)
    return theta[:, None] ** powers @ coefficients.T
