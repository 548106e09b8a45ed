"""Steps that run ahead of the host: several attempts between two times that it waits for their outcome."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from skode.solvers.device.attempts import FURTHEST, Attempted, Attempts, Moment
from skode.solvers.device.control import Controls
from skode.solvers.device.field_memory import field_inputs
from skode.solvers.device.kinds import KINDS
from skode.solvers.device.per_sample_ahead import per_sample_steps_ahead
from skode.solvers.device.replay import Replay, ReplayedTape
from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.giving_up import (
    LEAST_ULPS,
    DomainExits,
    check_finite,
    first_sample,
    overflowed,
    too_many,
)
from skode.solvers.forward.run import Run
from skode.solvers.forward.times_on_device import OutsideError
from skode.solvers.stepping.explicit import ExplicitStepper
from skode.solvers.stepping.step import TakenStep
from skode.solvers.tableaus import runge_kutta
from skode.solvers.tolerances import all_finite


class AheadStepper(ExplicitStepper):
    """Stepper interface of the forward solve, for attempts with memory of their own."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.memory.release()

    def start(self, f0: Tensor | None) -> None:
        """Nothing to do: attempts are given the first derivative."""

    def release(self) -> None:
        """Nothing to do: attempts let go of their memory themselves."""

    def stop_keeping(self) -> None:
        self.keep = False


def steps_ahead(run: Run, stepper: AheadStepper, y0: Tensor) -> Iterator[AcceptedStep]:
    """Accepted steps from the problem's ``t0`` to its ``t1``; see :mod:`skode.solvers.forward.shared_steps`."""
    if run.control.per_sample:
        return per_sample_steps_ahead(run, stepper, y0)
    kind = StepsAhead if run.recordings.replay is None else ReplayedStepsAhead
    return kind(run, stepper, y0).steps()


class StepsAhead:
    """The host's side of a solve on the device.

    Parameters
    ----------
    run : Run
        The solve.
    stepper : AheadStepper
        Counts the work, and says whether evaluations are kept.
    y0 : Tensor
        The initial state.
    """

    def __init__(self, run: Run, stepper: AheadStepper, y0: Tensor) -> None:
        self.run, self.stepper, self.y0 = run, stepper, y0
        self.tableau = runge_kutta(run.tableau)
        self.statistics = stepper.statistics
        self.n_ahead = 2
        self.own_times = run.outputs.on_device  # until the host knows that none of them lies outside its span

    def start(self) -> None:
        """Put the initial state and the size of the first step on the device."""
        run, control, y0 = self.run, self.run.control, self.y0

        def number(x: float) -> Tensor:
            return torch.full((), x, dtype=torch.float64, device=y0.device)

        tableau, direction = self.tableau, math.copysign(1.0, run.span.t1 - run.span.t0)
        controls = Controls.of(control, tableau.error_order, direction)
        t0, t1, one = number(run.span.t0), number(run.span.t1), number(1.0)
        self.attempts = Attempts(tableau, run.field, y0, control.tolerances, controls, t1, pullable=self.stepper.keep)
        if control.sizes.first_step is not None:
            size = number(control.sizes.first_step)
        else:
            size = self.attempts.first_size(t0, y0, run.f0, number(abs(run.span.t1 - run.span.t0)))
        first = run.f0.reshape(-1) if tableau.fsal else None
        self.moment = Moment(y0, first, (t0, size, one, one, number(0.0)))

    def attempt(self, n: int) -> tuple[list[tuple[Attempted, Any]], list[float]]:
        """Try n steps, and wait for their outcome.

        Returns
        -------
        attempts : list of (Attempted, Tape)
            Each with its evaluations.
        numbers : list of float
            Their logs, and the sums of the elements of the last and of the first state.
        """
        waiting = []
        for _ in range(n):
            attempted, self.moment = self.attempts.attempt(self.moment, self.attempts.new_tape())
            waiting.append((attempted, attempted.tape))
        sums = [y.sum(dtype=torch.float64).view(1) for y in (self.moment.y, self.y0)]
        return waiting, self._wait_for(torch.cat([*(attempted.log for attempted, _ in waiting), *sums]))

    def _wait_for(self, logs: Tensor) -> list[float]:
        """The one time that the host waits for the device."""
        own_times, self.own_times = self.own_times, None
        if own_times is None:
            return logs.tolist()
        *numbers, outside = torch.cat([logs, own_times.outside]).tolist()
        if outside:
            raise OutsideError
        return numbers

    def n_next(self, n_steps: float) -> int:
        """How many attempts to make next, where so many steps of the present size lead to the end."""
        return math.ceil(min(max(n_steps, 1), FURTHEST))

    def finish(self) -> None:
        """Remember how many attempts the solve took."""
        if self.run.recordings.key is not None:
            KINDS.note(self.run.recordings.key, self.n_ahead, getattr(self.run.field, "graph_nbytes", 0))

    def steps(self) -> Iterator[AcceptedStep]:
        """All accepted steps, in order."""
        run, control, statistics = self.run, self.run.control, self.statistics
        t, t1, tried, ratio, opens = run.span.t0, run.span.t1, 0, 0.0, True
        exits, longest = DomainExits(t), control.sizes.max_step or math.inf
        statistics.nfev += control.sizes.first_step is None
        n_evaluations = self.tableau.n_stages - self.tableau.fsal
        try:
            self.start()
            n_ahead = self.n_ahead
            while t != t1:
                n_ahead = min(n_ahead, control.max_steps - tried + 1)
                waiting, numbers = self.attempt(n_ahead)
                if not tried and not math.isfinite(numbers[3] + numbers[-1]):
                    self._refuse_start()
                for k, (attempted, tape) in enumerate(waiting):
                    _, t_next, _, ratio_now, good, h_next = numbers[6 * k : 6 * k + 6]
                    h = t_next - t
                    if t == t1:
                        tape.release()
                        continue
                    exits.check(t, h, ratio, too_short=t_next != t1 and abs(h) <= LEAST_ULPS * math.ulp(t))
                    if tried == control.max_steps:
                        raise too_many(control, t, t1, h, self.y0)
                    tried, ratio = tried + 1, ratio_now
                    statistics.nfev += n_evaluations
                    if good:
                        statistics.n_accepted += 1
                        yield self._accepted(attempted, tape, t, t_next, opens)
                        t, opens = t_next, False
                        if not self.stepper.keep:
                            tape.release()
                    else:
                        statistics.n_rejected += 1
                        if not math.isfinite(ratio):
                            exits.note(t_next)
                        tape.release()
                n_ahead = self.n_next(abs(t1 - t) / max(min(h_next, longest), 1e-300))
                del waiting, attempted, tape
            if not math.isfinite(numbers[-2]) and not all_finite(y := self.moment.y):
                raise overflowed(t, y.dtype, first_sample(y))
            self.n_ahead = tried
        finally:
            self.finish()

    def _accepted(self, attempted: Attempted, tape: Any, t: float, t_next: float, opens: bool) -> AcceptedStep:
        h, y = t_next - t, attempted.rows[0].view(self.y0.shape)
        lasting = isinstance(tape, ReplayedTape)
        stages, tableau = attempted.rows[1:], self.tableau
        taken = TakenStep(t, h, y, attempted.y_next, stages, tableau, tape, lasting=lasting)
        return AcceptedStep(taken, t, t_next, opens)

    def _refuse_start(self) -> None:
        """Raise where the initial state, or the field there, is not finite."""
        run, y0 = self.run, self.y0
        if not all_finite(y0):
            raise ValueError("y0 contains NaN or infinity.")
        f0 = run.field(run.span.t0, y0) if run.f0 is None else run.f0
        check_finite(f0, run.span.t0, 0.0)


class ReplayedStepsAhead(StepsAhead):
    """The host's side of a solve whose attempts are replayed from recordings."""

    def start(self) -> None:
        run = self.run
        self.replay: Replay = run.recordings.replay
        self.moment, self.n_ahead, self.opening = self.replay.moment, self.replay.n_expected, True
        self.out_of_memory = False
        first_step, inputs = run.control.sizes.first_step, field_inputs(run.field)
        self.replay.start(self.y0, inputs, run.span.t0, first_step, run.span.t1)

    def attempt(self, n: int) -> tuple[list[tuple[Attempted, Any]], list[float]]:
        if self.out_of_memory:
            return super().attempt(n)
        try:
            lease = self.replay.ahead(n, opens_solve=self.opening)
        except torch.OutOfMemoryError:
            self._go_on_without()
            return super().attempt(n)
        results, n_slots = lease.bundle.results, lease.bundle.slots_per_attempt
        if self.opening and self.stepper.keep:
            self.run.recordings.opening.append(lease)
        self.opening = False
        tapes = [ReplayedTape(lease, k, n_slots) for k in range(n)]
        return list(zip(results.attempted, tapes, strict=True)), self._wait_for(results.logs)

    def _go_on_without(self) -> None:
        """Make attempts one by one, from where the recordings have come to: there is no memory for another one."""
        KINDS.refuse(self.run.recordings.key)
        self.out_of_memory = True
        y, first, clock = (self.replay.moment.y, self.replay.moment.first, self.replay.moment.clock)
        self.run.f0 = self.run.field(self.run.span.t0, self.y0)
        super().start()
        if not self.opening:
            t, size, last, before, rejected = (x.clone() for x in clock)
            first = None if first is None else first.clone()
            self.moment = Moment(y.clone(), first, (t, size, last, before, rejected))

    def n_next(self, n_steps: float) -> int:
        # A few sizes only, for each of which there are recordings.
        return 2 ** math.floor(math.log2(super().n_next(n_steps)))

    def finish(self) -> None:
        self.replay.n_expected = min(max(self.n_ahead, 1), FURTHEST)
        KINDS.give(self.run.recordings.key, self.replay)
