"""The adjoint equation solved backward, where every sample has taken steps of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from skode.solvers.adjoints.adjoint_equation import AdjointSolve, CotangentsOfOutputs
from skode.solvers.adjoints.augmented import Stretch
from skode.solvers.fields.times import time_dtype_of
from skode.solvers.forward.run import Run
from skode.solvers.forward.step_control import StepControl, StepSizes, Stops
from skode.solvers.indexing import index


class PerSampleAdjointSolve(AdjointSolve):
    """The backward solve of each sample, from its own last output back to its own initial time.

    A sample's stops are its outputs and the times at which the field jumps. All samples go from one stop to their next
    in the same segment, which is solved over the unit interval; those that have arrived stay where they are.
    """

    def __init__(
        self,
        run: Run,
        given: CotangentsOfOutputs,
        grad_jumps: Tensor | None,
        y0: Tensor,
        norm: Callable[[tuple[Tensor, ...]], Tensor],
    ) -> None:
        y0 = y0.detach()
        super().__init__(run, given, grad_jumps, y0, run.span.t0, norm)
        spans = run.span.of_samples(len(y0))
        assert given.rows is not None
        self.t0 = spans[:, 0]
        self.stops = [self._stops_of(given.times[given.rows == i], *spans[i]) for i in range(len(y0))]

    def _stops_of(self, times: np.ndarray, t0: float, t1: float) -> np.ndarray:
        """Where a sample stops on its way back."""
        direction = 1.0 if t1 >= t0 else -1.0
        ahead = direction * np.concatenate([times, self.run.control.stops.times, [t0]])
        last = (direction * times).max(initial=direction * t0)
        return direction * np.unique(ahead[(ahead >= direction * t0) & (ahead <= last)])[::-1]

    def solve(self) -> tuple[Tensor, list[Tensor]]:
        n, run, y0 = self.n, self.run, self.y_end
        augmented = y0.new_zeros(self.field.size)
        augmented[:n] = y0.reshape(-1)
        stops, width = self.stops, max(map(len, self.stops), default=1)
        at = np.array([own[0] for own in stops])
        self._arrive(augmented, at, np.ones(len(y0), dtype=bool))
        for k in range(1, width):
            there = np.array([own[min(k, len(own) - 1)] for own in stops])
            moving = there != at
            inside = bool(run.control.stops.jumps) or run.control.stops.nudged
            self.field.stretch = Stretch.between(at, there, y0, time_dtype_of(run.field, y0), inside=inside)
            augmented = self._segment(0.0, 1.0, augmented)
            at = there
            self._arrive(augmented, at, moving)
        return self.gradients(augmented)

    def _arrive(self, augmented: Tensor, at: np.ndarray, moved: np.ndarray) -> None:
        """Account for the jumps and outputs where the samples that have moved are now."""
        y, a = (x.view(self.shape) for x in augmented[: 2 * self.n].split(self.n))
        given, jumps = self.given, self.run.jumps
        assert given.rows is not None
        if jumps is not None:
            assert self.grad_jumps is not None
            # A jump at a sample's own start is none on its way.
            for t, samples in jumps.at(np.where(moved & (at != self.t0), at, np.nan)):
                assert samples is not None
                these = index(samples, y)
                jumps.pull(self.grad_jumps, self.run.field.take(these), t, y[these], a[these], samples)
        positions = np.flatnonzero(moved[given.rows] & (given.times == at[given.rows]))
        if len(positions):
            chosen, rows = index(positions, a), index(given.rows[positions], a)
            a.index_add_(0, rows, given.cotangents[chosen])
            y[rows] = given.states[chosen]

    def _forward_control(self, t: float, t_next: float) -> StepControl:
        control, lengths = self.run.control, self.field.stretch
        assert lengths is not None
        longest = float(lengths.length.abs().max())
        sizes = control.sizes
        shortest = sizes.min_step and sizes.min_step / longest
        largest = sizes.max_step and sizes.max_step / longest
        return replace(control, per_sample=False, stops=Stops(), sizes=StepSizes(None, shortest, largest))
