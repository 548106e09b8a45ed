"""The march where every sample of a batch takes its own steps.

In each round all samples that are not done attempt a step, each of its own size; those whose error is small enough
move on. Samples that reach the end leave the batch. A sample's steps depend on that sample alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.errors import SolverError, newton_failed
from skode.solvers.fields.times import column
from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.giving_up import DomainExitsEach, is_too_short, not_finite, overflowed, too_many
from skode.solvers.forward.run import Run
from skode.solvers.forward.step_size import ControllerEach, first_step_sizes
from skode.solvers.statistics import Statistics
from skode.solvers.stepping.stepper import AdaptiveStepper
from skode.solvers.tableaus import runge_kutta
from skode.solvers.tolerances import EachSample


def per_sample_steps(run: Run, stepper: AdaptiveStepper, y0: Tensor) -> Iterator[AcceptedStep]:
    """Accepted steps of the samples, round by round.

    Raises
    ------
    SolverError
        One of its children, naming the sample, where one can't go on.
    """
    if run.tableau.implicit and not y0.numel():
        return
    active = ActiveSamples(run, stepper, y0)
    try:
        active.leave()
        while len(active.samples):
            active.choose_steps()
            if not len(active.samples):
                break
            with explained_by_samples(len(active.samples), len(y0)):
                yield from active.attempt()
            active.leave()
    finally:
        active.release()


@contextmanager
def explained_by_samples(n_here: int, n: int) -> Iterator[None]:
    """Say of an error about shapes that it may come from the samples that are not there."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as error:
        about_shapes = any(word in str(error) for word in ("size", "shape", "dimension"))
        if isinstance(error, SolverError) or n_here == n or not about_shapes:
            raise
        reason = str(error).rstrip(".")
        raise ValueError(
            f"func(t, y) or an event failed on {n_here} of the {n} samples of the batch: {reason}. With "
            "step_control='per_sample' they are given the samples that are still on their way. A function with data of "
            "each sample says by a method take(rows) what it is on some of them (see skode.solvers.TakesSamples); or "
            "pass step_control='shared'."
        ) from error


class ActiveSamples:
    """The samples that are still on their way: arrays with one entry for each, and their common stepper."""

    def __init__(self, run: Run, stepper: AdaptiveStepper, y0: Tensor) -> None:
        control = run.control
        self.run, self.control, self.y = run, control, y0
        self.stepper = self.given_stepper = stepper
        self.field = run.field
        self.statistics: Statistics = stepper.statistics
        n = len(y0)
        spans = run.span.of_samples(n)
        self.t, self.t1 = spans[:, 0].copy(), spans[:, 1].copy()
        self.t_next = self.t
        self.direction = np.where(self.t1 < self.t, -1.0, 1.0)
        self.stop_times = np.sort(control.stops.times)
        self.jumps = np.array(sorted(control.stops.jumps))
        self.time_dtype = stepper.time_dtype
        self.measure = EachSample(control.tolerances)
        self.tableau = runge_kutta(run.tableau)
        self.controller = ControllerEach(control.exponents, self.tableau.error_order, n)
        self.samples = np.arange(n)
        self.h = self.wanted = self.ratio = np.zeros(n)
        self.exits = DomainExitsEach(self.t)
        self.attempts = np.zeros(n, dtype=np.int64)
        self.statistics.by_sample = np.zeros((3, n), dtype=np.int64)
        # Samples whose next step has a first stage evaluated anew, after a discontinuity.
        self.opening = np.zeros(n, dtype=bool)
        self._start(y0)

    def _start(self, y0: Tensor) -> None:
        run, statistics, by_sample = self.run, self.statistics, self.statistics.by_sample
        assert by_sample is not None
        by_sample[0] += 1
        finite = torch.isfinite(run.f0).flatten(1).all(dim=1).cpu().numpy()
        self._drop_failed(~finite, lambda i: not_finite(float(self.t[i]), int(self.samples[i])))
        if not len(self.samples):
            return
        if self.control.sizes.first_step:
            self.h = self.direction * self.control.sizes.first_step
            return
        statistics.nfev += 1
        by_sample[0, self.samples] += 1
        self.h = first_step_sizes(
            lambda t, moved: self.field(self._times(t), moved),
            self._column,
            self.t,
            self.y.detach(),
            run.f0[self._index(self.samples)],
            span=self.t1 - self.t,
            order=self.tableau.error_order,
            measure=self.measure,
        )

    def choose_steps(self) -> None:
        """Where each sample's next step ends; samples that can't go on fail."""
        shortest, longest = self.control.sizes.min_step or 0.0, self.control.sizes.max_step or math.inf
        self.wanted = self.direction * np.clip(np.abs(self.h), shortest, longest)
        stop_time = self._next_stop_time()
        close = 1.01 * np.abs(self.wanted) >= np.abs(stop_time - self.t)
        self.t_next = np.where(close, stop_time, self.t + self.wanted)
        self.h = self.t_next - self.t
        self.check_steps()

    def check_steps(self) -> None:
        """See that the steps that have been chosen lead on; samples that can't go on fail."""
        control = self.control
        too_short = (self.t_next != self.t1) & is_too_short(self.t, self.h)
        failed, error = self.exits.check(self.t, self.h, self.ratio, too_short)
        self._drop_failed(failed, lambda i: error(i, int(self.samples[i])))
        self._drop_failed(
            self.attempts == control.max_steps,
            lambda i: too_many(
                control, float(self.t[i]), float(self.t1[i]), float(self.h[i]), self.y, int(self.samples[i])
            ),
        )

    def _next_stop_time(self) -> np.ndarray:
        """The next time that each sample's steps must end at."""
        if not len(self.stop_times):
            return self.t1
        above = np.append(self.stop_times, np.inf)[np.searchsorted(self.stop_times, self.t, side="right")]
        below = np.append(-np.inf, self.stop_times)[np.searchsorted(self.stop_times, self.t, side="left")]
        return np.where(self.direction > 0.0, np.minimum(above, self.t1), np.maximum(below, self.t1))

    def attempt(self) -> Iterator[AcceptedStep]:
        """One round: all attempt a step; yields that of the samples for which it was good enough."""
        control, statistics, stepper = self.control, self.statistics, self.stepper
        self.attempts += 1
        before = statistics.nfev
        h = self._column(self.h)
        taken = stepper.attempt(self._times(self.t), h, self.y, self._edges())
        y_next = taken.y_next.detach()
        error = stepper.error(taken).detach()
        self.ratio = self.measure.size(control.tolerances.in_allowed_errors(error, self.y.detach(), y_next))
        as_short_as_may_be = np.abs(self.wanted) <= (control.sizes.min_step or 0.0)
        good = (self.ratio <= 1.0) | (as_short_as_may_be & np.isfinite(self.ratio))
        factor = self.controller.factor(np.where(good, np.minimum(self.ratio, 1.0), self.ratio))
        if taken.unsolved is not None:
            good &= ~taken.unsolved
        self.count(good, statistics.nfev - before)
        if good.all():
            yield AcceptedStep(taken, self.t, self.t_next, self._opens(good), self.samples)
            self.y = taken.y_next
            stepper.accept()
        elif good.any():
            these = self._index(np.flatnonzero(good))
            part = stepper.part(taken, these)
            yield AcceptedStep(part, self.t[good], self.t_next[good], self._opens(good), self.samples[good])
            self.y = self.y.index_copy(0, these, part.y_next)
            stepper.accept_some(self._column(good).bool())
        self._restart_at_jumps(good)
        cut = good & (np.abs(self.h) < np.abs(self.wanted))
        grown = np.where(cut, np.minimum(np.abs(self.wanted), np.abs(self.wanted) * factor), 0.0)
        self.t, tried = np.where(good, self.t_next, self.t), self.h
        self.h = self.direction * np.maximum(np.abs(tried) * factor, grown)
        if taken.unsolved is not None:
            self._drop_failed(
                as_short_as_may_be & taken.unsolved,
                lambda i: newton_failed(float(self.t[i]), float(tried[i]), int(self.samples[i])),
            )

    def count(self, good: np.ndarray, evaluations: int) -> None:
        """Account for a round, in which some have taken a good step."""
        self.exits.note(self.t_next, ~good & ~np.isfinite(self.ratio))
        self.statistics.count_round(self.samples, good, evaluations)

    def _opens(self, good: np.ndarray) -> np.ndarray | bool:
        """Which of the steps just taken have a first stage of their own."""
        moving = self.samples[good]
        opens = self.opening[moving]
        self.opening[moving] = False
        return opens if opens.any() else False

    def leave(self) -> None:
        """Let go of the samples that have arrived."""
        arrived = self.t == self.t1
        if self.run.events is not None:
            arrived |= self.run.events.stopped[self.samples]
        if arrived.any():
            self._let_go(arrived, torch.isfinite(self.y.detach()).flatten(1).all(dim=1).cpu().numpy())

    def _let_go(self, arrived: np.ndarray, finite: np.ndarray) -> None:
        failed = arrived & ~finite
        self._drop_failed(failed, lambda i: overflowed(float(self.t[i]), self.y.dtype, int(self.samples[i])))
        self._keep(~arrived[~failed])

    def _drop_failed(self, failed: np.ndarray, error: Callable[[int], SolverError]) -> None:
        if not failed.any():
            return
        if self.run.outputs.on_failure == "raise":
            raise error(int(np.flatnonzero(failed)[0]))
        for i in np.flatnonzero(failed):
            self.run.failures[int(self.samples[i])] = error(int(i))
        self._keep(~failed)

    def _keep(self, these: np.ndarray) -> None:
        if these.all():
            return
        self._forget(these)
        if len(self.samples):
            rows = self._index(np.flatnonzero(these))
            self.y, self.field = self.y[rows], self.field.take(rows)
            smaller = self.stepper.take(rows)
            self.release()
            self.stepper = smaller

    def release(self) -> None:
        """Let others have the memory of the present stepper, unless it is the one that was given."""
        if self.stepper is not self.given_stepper:
            self.stepper.release()

    def _forget(self, these: np.ndarray) -> None:
        """All numbers of samples that are not among these."""
        for name in (
            "samples",
            "t",
            "t1",
            "t_next",
            "direction",
            "h",
            "wanted",
            "ratio",
            "attempts",
        ):
            setattr(self, name, getattr(self, name)[these])
        self.controller.keep(these)
        self.exits.keep(these)

    def _edges(self) -> tuple[Any, Any]:
        if self.control.stops.nudged:
            return (True, True)
        if not len(self.jumps):
            return (False, False)
        return tuple(self._column(np.isin(t, self.jumps)).bool() for t in (self.t, self.t_next))  # type: ignore

    def _restart_at_jumps(self, good: np.ndarray) -> None:
        """Evaluate the first stages of samples that have landed on a discontinuity anew."""
        landed = good & np.isin(self.t_next, self.jumps)
        if landed.any():
            self.opening[self.samples[landed]] = True
            before = self.statistics.nfev
            edge = (self._column(landed).bool(), False)
            self.stepper.restart_some(self._times(self.t_next), self._column(self.h), self.y, edge)
            assert self.statistics.by_sample is not None
            self.statistics.by_sample[0, self.samples] += self.statistics.nfev - before

    def _column(self, values: np.ndarray) -> Tensor:
        """Numbers, one per sample, in the state's dtype and of a shape that broadcasts against it."""
        return column(values, self.y)

    def _times(self, values: np.ndarray) -> Tensor:
        """The same for times."""
        return column(values, self.y, self.time_dtype)

    def _index(self, positions: np.ndarray) -> Tensor:
        return torch.from_numpy(positions).to(self.y.device)
