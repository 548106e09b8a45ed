"""The march that runs ahead of the host: several attempts between two looks at the clock."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from skode.solvers.device.attempts import FURTHEST, Attempted, Attempts, Moment
from skode.solvers.device.control import Controls
from skode.solvers.device.each import march_each_ahead
from skode.solvers.device.replay import KINDS, Replay, ReplayedTape, field_inputs, replay_key, take_replay
from skode.solvers.devices import is_asynchronous
from skode.solvers.errors import NonFiniteDerivativeError
from skode.solvers.march import MOST_LEAVES, Move, first_sample, refuse_non_finite, too_many, too_small
from skode.solvers.step_size import NORMS, all_finite
from skode.solvers.stepping.explicit import ExplicitStepper, TakenStep
from skode.solvers.tableaus import ButcherTableau
from skode.solvers.vector_field import AutogradField, PullbackField, has_own_pullback, is_hooked


def marches_ahead(problem: Any, y0: Tensor) -> bool:
    """Whether a solve is one for :func:`march_ahead`: by an explicit method that chooses its steps.

    Steps that must end at given times, or stop short of discontinuities, are the host's.
    """
    tableau, control = problem.tableau, problem.control
    return (
        is_asynchronous(y0.device)
        and isinstance(tableau, ButcherTableau)
        and tableau.adaptive
        and not tableau.implicit
        and not control.landings
        and not control.nudged
        and y0.numel() > 0
        and (problem.t0 != problem.t1 or problem.spans is not None)
        and math.isfinite(problem.t1)
    )


def recordable(func: Any, y0: Tensor) -> Any:
    """A field that says by ``replay_key`` what its recordings depend on, not yet evaluated; None for others."""
    if not is_asynchronous(y0.device):
        return None
    if has_own_pullback(func):
        return PullbackField(func) if getattr(func, "recordable", False) else None
    if isinstance(func, nn.Module) and forwards_as_recorded(func):
        return AutogradField(func, tuple(func.parameters()))
    return None


def forwards_as_recorded(module: nn.Module) -> bool:
    """Whether what a module says of its recordings is said of the ``forward`` that it has."""
    kind = next((c for c in type(module).__mro__ if "replay_key" in vars(c)), None)
    forward = next(c for c in type(module).__mro__ if "forward" in vars(c))
    return kind is not None and kind is forward and "forward" not in vars(module) and not is_hooked(module)


def with_replay(problem: Any, field: Any, y0: Tensor, *, pullable: bool) -> Any:
    """The problem with the recordings that its solve is to use; None where there are none for it."""
    if problem.dense or problem.control.per_sample or problem.control.tolerances.norm not in NORMS.values() or not marches_ahead(problem, y0):
        return None
    key = replay_key(field, y0, problem, pullable=pullable)
    replay = None if key is None else take_replay(key, field, y0, problem, pullable=pullable)
    return None if replay is None else replace(problem, field=field, replay=replay, replay_key=key)


class AheadStepper(ExplicitStepper):
    """What the forward solve asks of a stepper, where attempts have memory of their own."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.memory.release()

    def start(self, f0: Tensor | None) -> None:
        """The march knows the first derivative."""

    def release(self) -> None:
        """Attempts let go of their memory themselves."""

    def stop_keeping(self) -> None:
        self.keep = False


def march_ahead(problem: Any, stepper: AheadStepper, y0: Tensor) -> Iterator[Move]:
    """Accepted steps from the problem's ``t0`` to its ``t1``, in order; see :func:`skode.solvers.march.march`."""
    if problem.control.per_sample:
        return march_each_ahead(problem, stepper, y0)
    kind = _March if problem.replay is None else _Replaying
    return kind(problem, stepper, y0).moves()


class _March:
    """The host's side of a solve on the device."""

    def __init__(self, problem: Any, stepper: AheadStepper, y0: Tensor) -> None:
        self.problem, self.stepper, self.y0 = problem, stepper, y0
        self.statistics = stepper.statistics
        self.n_ahead = 2

    def begin(self) -> None:
        """Find the first step's size."""
        problem, control, y0 = self.problem, self.problem.control, self.y0

        def number(x: float) -> Tensor:
            return torch.full((), x, dtype=torch.float64, device=y0.device)

        tableau, direction = problem.tableau, math.copysign(1.0, problem.t1 - problem.t0)
        controls = Controls.of(control, tableau.error_order, direction)
        t0, t1, one = number(problem.t0), number(problem.t1), number(1.0)
        self.attempts = Attempts(
            tableau, problem.field, y0, control.tolerances, controls, t1, pullable=self.stepper.keep
        )
        if control.first_step is not None:
            size = number(control.first_step)
        else:
            size = self.attempts.first_size(t0, y0, problem.f0, number(abs(problem.t1 - problem.t0)))
        first = problem.f0.reshape(-1) if tableau.carries_last else None
        self.moment = Moment(y0, first, (t0, size, one, one, number(0.0)))

    def ahead(self, n: int) -> tuple[list[tuple[Attempted, Any]], list[float]]:
        """Try some steps, and look at what came of them.

        Returns
        -------
        attempts : list of (Attempted, Tape)
            Each with its evaluations, as the reverse sweep is to find them.
        numbers : list of float
            Their logs, and the sum of the state's elements.
        """
        waiting = []
        for _ in range(n):
            attempted, self.moment = self.attempts.attempt(self.moment, self.attempts.new_tape())
            waiting.append((attempted, attempted.tape))
        logs = [attempted.log for attempted, _ in waiting]
        return waiting, torch.cat([*logs, self.moment.y.sum(dtype=torch.float64).view(1)]).tolist()

    def end(self) -> None:
        """The march is over."""

    def moves(self) -> Iterator[Move]:
        problem, control, statistics = self.problem, self.problem.control, self.statistics
        t, t1, tried, ratio, opens = problem.t0, problem.t1, 0, 0.0, True
        left_at, leaving_from, leaves = math.inf, t, 0  # as in skode.solvers.march
        statistics.nfev += control.first_step is None
        n_evaluations = problem.tableau.n_stages - problem.tableau.carries_last
        try:
            self.begin()
            n_ahead = self.n_ahead
            while t != t1:
                n_ahead = min(n_ahead, control.max_steps - tried + 1)
                waiting, numbers = self.ahead(n_ahead)
                if not tried and not math.isfinite(numbers[3]):
                    self._refuse_start()
                for k, (attempted, tape) in enumerate(waiting):
                    _, t_next, _, ratio_now, good, h_next = numbers[6 * k : 6 * k + 6]
                    h = t_next - t
                    if t == t1:
                        tape.release()
                        continue
                    if leaves > MOST_LEAVES:
                        if abs(t - leaving_from) <= 1e-3 * abs(t - problem.t0):
                            raise too_small(t, h, math.nan)
                        leaving_from, leaves = t, 0
                    if t_next != t1 and abs(h) <= 10 * math.ulp(t):
                        close = abs(left_at - t) <= 1e-3 * (abs(t - problem.t0) + abs(h))
                        raise too_small(t, h, math.nan if close else ratio)
                    if tried == control.max_steps:
                        raise too_many(control, t, t1, h, self.y0)
                    tried, ratio = tried + 1, ratio_now
                    statistics.nfev += n_evaluations
                    if good:
                        statistics.n_accepted += 1
                        yield self._move(attempted, tape, t, t_next, opens)
                        t, opens = t_next, False
                        if not self.stepper.keep:
                            tape.release()
                    else:
                        statistics.n_rejected += 1
                        if not math.isfinite(ratio):
                            left_at, leaves = t_next, leaves + 1
                        tape.release()
                # As many more as it takes with steps of the present size.
                n_ahead = min(max(math.ceil(abs(t1 - t) / max(h_next, 1e-300)), 1), FURTHEST)
                del waiting, attempted, tape
            if not math.isfinite(numbers[-1]):
                self._refuse_overflow(self.moment.y, t)
            self.n_ahead = tried
        finally:
            self.end()

    def _move(self, attempted: Attempted, tape: Any, t: float, t_next: float, opens: bool) -> Move:
        h, y = t_next - t, attempted.rows[0].view(self.y0.shape)
        lasting = self.problem.replay is not None
        stages, tableau = attempted.rows[1:], self.problem.tableau
        taken = TakenStep(t, h, y, attempted.y_next, stages, tableau, tape, lasting=lasting)
        return Move(t, t_next, h, taken, opens)

    def _refuse_start(self) -> None:
        """Say so where the solve starts from, or with, what is not finite."""
        if not all_finite(self.y0):
            raise ValueError("y0 contains NaN or infinity.")
        refuse_non_finite(self.problem.f0, self.problem.t0, 0.0)

    def _refuse_overflow(self, y: Tensor, t: float) -> None:
        if not all_finite(y):
            raise NonFiniteDerivativeError(
                f"The solution overflowed {y.dtype}",
                time=t,
                step_size=0.0,
                sample=first_sample(y),
                advice="It grows without bound: shorten the time span, scale the state, or use float64.",
            )


class _Replaying(_March):
    """The same by recordings."""

    def begin(self) -> None:
        problem = self.problem
        self.replay: Replay = problem.replay
        self.moment, self.n_ahead, self.opening = self.replay.moment, self.replay.n_expected, True
        first_step, inputs = problem.control.first_step, field_inputs(problem.field)
        self.replay.start(self.y0, inputs, problem.t0, first_step, problem.t1)

    def ahead(self, n: int) -> tuple[list[tuple[Attempted, Any]], list[float]]:
        lease = self.replay.ahead(n, opening=self.opening)
        made, n_each = lease.bundle.forward.result, lease.bundle.n_each
        if self.opening and self.stepper.keep:
            self.problem.opening.append(lease)
        self.opening = False
        tapes = [ReplayedTape(lease, k, n_each) for k in range(n)]
        return list(zip(made.attempted, tapes, strict=True)), made.logs.tolist()

    def end(self) -> None:
        self.replay.n_expected = min(max(self.n_ahead, 1), FURTHEST)
        KINDS.give(self.problem.replay_key, self.replay)
