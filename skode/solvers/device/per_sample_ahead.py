"""Steps ahead of the host where every sample of a batch takes its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skode.solvers.device.attempts import FURTHEST
from skode.solvers.device.control import Controls, in_allowed_errors
from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.per_sample_steps import ActiveSamples
from skode.solvers.forward.run import Run
from skode.solvers.stepping.step import TakenStep
from skode.solvers.stepping.stepper import AdaptiveStepper
from skode.solvers.tolerances import all_finite, max_norm, mixed_norm, rms_norm

#: Bytes of the stages that may be held between two times that the host waits for the outcome.
MOST_HELD = 2**30


class Samples(NamedTuple):
    """The present state of all samples, on the device.

    Attributes
    ----------
    y, first : Tensor
        States, and the field's values there where the method takes them over.
    clock : tuple of six float64 Tensor of shape (n,)
        Times, sizes of the next steps, ratios of the last two accepted ones, whether the last attempt was rejected,
        and the ends of the time spans.
    """

    y: Tensor
    first: Tensor | None
    clock: tuple[Tensor, ...]


class Round(NamedTuple):
    """One attempt of all samples.

    Attributes
    ----------
    t, h : Tensor
        Columns of their starts and sizes, in the states' dtype.
    y, y_next : Tensor
        States before and after it: unchanged where it was no good.
    stages : Tensor of shape (s, n_samples, ...)
        The stages' derivatives.
    log : Tensor of shape (7, n_samples), float64
        Starts, ends, sizes wanted, ratios, whether they were good, sizes of the next steps, and whether states are
        finite.
    """

    t: Tensor
    h: Tensor
    y: Tensor
    y_next: Tensor
    stages: Tensor
    log: Tensor


def per_sample_steps_ahead(run: Run, stepper: AdaptiveStepper, y0: Tensor) -> Iterator[AcceptedStep]:
    """Accepted steps of the samples, round by round; see :mod:`skode.solvers.forward.per_sample_steps`."""
    if not all_finite(y0):
        raise ValueError("y0 contains NaN or infinity.")
    active = ActiveSamplesAhead(run, stepper, y0)
    active.leave()
    yield from active.rounds()


class ActiveSamplesAhead(ActiveSamples):
    """The host's account of samples whose steps the device tries and judges."""

    def __init__(self, run: Run, stepper: AdaptiveStepper, y0: Tensor) -> None:
        # The samples' places in the batch that is on the device.
        self.places, self.on_device = np.arange(len(y0)), len(y0)
        self.finite = np.ones(len(y0), dtype=bool)
        self.begun = False
        super().__init__(run, stepper, y0)
        tableau = self.tableau
        self.device_field = run.field
        self.controls = Controls.of(run.control, tableau.error_order, 1.0)
        self.state = Samples(y0, run.f0 if tableau.fsal else None, ())
        device = y0.device
        self.a = [torch.tensor(row, dtype=y0.dtype, device=device) for row in (*tableau.a, tableau.b, tableau.e)]

    def rounds(self) -> Iterator[AcceptedStep]:
        """The accepted steps of all rounds, of which several are made before the host waits for them."""
        n_ahead = 2
        while len(self.samples):
            if not self.begun:
                self._begin()
            elif len(self.samples) <= self.on_device // 2:
                self._shrink()
            waiting = []
            for _ in range(n_ahead):
                made = self._attempt()
                waiting.append(made)
            logs = torch.stack([made.log for made in waiting]).cpu().numpy()
            for made, log in zip(waiting, logs, strict=True):
                if not len(self.samples):
                    break
                self.t_next, self.wanted = log[1:3, self.places]
                self.h = self.t_next - self.t
                self.check_steps()
                if not len(self.samples):
                    break
                yield from self._judged(made, log[:, self.places])
                self.leave()
            n_ahead = self._further()

    def _begin(self) -> None:
        """Put the numbers of all samples on the device."""
        n, self.begun = self.on_device, True
        t1, sizes = np.zeros(n), np.zeros(n)
        start = self.run.span.of_samples(n)[:, 0]
        t1[:], t1[self.samples], sizes[self.samples] = start, self.t1, np.abs(self.h)
        t, size, end = (torch.from_numpy(x).to(self.state.y.device) for x in (start.copy(), sizes, t1))
        one = torch.ones_like(t)
        self.state = self.state._replace(clock=(t, size, one, one, torch.zeros_like(t), end))

    def _shrink(self) -> None:
        """Go on with the samples that are still on their way."""
        rows = torch.from_numpy(self.places).to(self.state.y.device)
        y, first, clock = self.state
        self.device_field = self.device_field.take(rows)
        self.state = Samples(y[rows], None if first is None else first[rows], tuple(x[rows] for x in clock))
        self.places, self.on_device = np.arange(len(self.places)), len(self.places)

    def _attempt(self) -> Round:
        """All samples try a step."""
        (y, first, clock), tableau, field = self.state, self.tableau, self.device_field
        t, size, *history, t1 = clock
        direction = torch.where(t1 < t, -1.0, 1.0)
        step, wanted, t_next = self.controls.choose(direction * t, size, direction * t1)
        step, t_next = direction * step, direction * t_next
        shape = (len(y), *[1] * (y.ndim - 1))
        h, column = step.to(y.dtype).view(shape), t.to(y.dtype).view(shape)
        s, a = tableau.n_stages, self.a
        stages = y.new_empty((s, *y.shape))
        flat = stages.view(s, -1)

        def combined(i: int, weights: Tensor) -> Tensor:
            return torch.addcmul(y, torch.mv(flat[:i].t(), weights).view(y.shape), h)

        state = y
        for i in range(s):
            if i == 0 and first is not None:
                stages[0] = first
                continue
            state = combined(i, a[i]) if i else y
            stages[i] = field((t + tableau.c[i] * step).to(y.dtype).view(shape), state)
        y_next = state if tableau.fsal else combined(s, a[s])
        error = torch.mv(flat.t(), a[s + 1]).view(y.shape) * h
        ratio = self._sizes(in_allowed_errors(error, y, y_next, *self._tolerances()))
        good, new_t, new_size, last, before, rejected = self.controls.judge(ratio, t, t_next, t1, wanted, *history)
        mask = good.bool().view(shape)
        moved = torch.where(mask, y_next, y)
        finite = torch.isfinite(moved).flatten(1).all(1).to(t)
        log = torch.stack([t, t_next, wanted, ratio, good, new_size, finite])
        new_first = None if first is None else torch.where(mask, stages[-1], first)
        self.state = Samples(moved, new_first, (new_t, new_size, last, before, rejected, t1))
        return Round(column, h, y, moved, stages, log)

    def _tolerances(self) -> tuple[Any, Any]:
        return self.control.tolerances.rtol, self.control.tolerances.atol

    def _sizes(self, x: Tensor) -> Tensor:
        """The norm of each sample."""
        norm, flat = self.control.tolerances.norm, x.flatten(1)
        if norm in (rms_norm, mixed_norm):
            return torch.linalg.vector_norm(flat, dim=1).double() / math.sqrt(flat.shape[1])
        if norm is max_norm:
            return flat.abs().amax(dim=1).double()
        return torch.stack([torch.as_tensor(norm(row)) for row in x]).double()

    def _judged(self, made: Round, log: np.ndarray) -> Iterator[AcceptedStep]:
        """Account for a round; yields the steps of the samples for which it was good enough."""
        _, _, _, self.ratio, good, sizes, finite = log
        good = good.astype(bool)
        self.attempts += 1
        tableau = self.tableau
        evaluations = tableau.n_stages - tableau.fsal
        self.statistics.nfev += evaluations
        self.count(good, evaluations)
        if good.any():
            places = self.places[good]
            everyone = len(places) == len(made.y)
            these: Any = slice(None) if everyone else torch.from_numpy(places).to(made.y.device)
            h, stages = made.h[these], made.stages[:, these].flatten(1)
            taken = TakenStep(made.t[these], h, made.y[these], made.y_next[these], stages, tableau, None)
            yield AcceptedStep(taken, self.t[good], self.t_next[good], rows=self.samples[good])
        self.t = np.where(good, self.t_next, self.t)
        self.h = self.direction * sizes
        self.finite = finite.astype(bool)

    def leave(self) -> None:
        arrived = self.t == self.t1
        if self.run.events is not None:
            arrived |= self.run.events.stopped[self.samples]
        if arrived.any():
            self._let_go(arrived, self.finite)

    def _further(self) -> int:
        """How many rounds it takes with steps of the present sizes."""
        if not len(self.samples):
            return 0
        left = np.abs(self.t1 - self.t) / np.maximum(np.abs(self.h), 1e-300)
        held = self.tableau.n_stages * self.state.y.numel() * self.state.y.element_size()
        left = np.maximum(left, np.abs(self.t1 - self.t) / (self.control.sizes.max_step or math.inf))
        most = max(1, min(FURTHEST, MOST_HELD // held))
        return math.ceil(min(max(np.nan_to_num(left.max(), nan=most), 1), most))

    def _keep(self, these: np.ndarray) -> None:
        if not these.all():
            self._forget(these)
            if not self.begun:
                rows = self._index(np.flatnonzero(these))
                self.y, self.field = self.y[rows], self.field.take(rows)

    def _forget(self, these: np.ndarray) -> None:
        super()._forget(these)
        self.places, self.finite = self.places[these], self.finite[these]
