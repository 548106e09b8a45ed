"""How a call of ``solve_ivp`` is carried out: from its arguments to a problem, and from the solve to a solution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from skode.solvers.arguments.checks import check_times
from skode.solvers.arguments.complex_state import RealEvent, RealField, complex_solution, real_norm, real_part_wise
from skode.solvers.arguments.formulation import Formulation, formulate, moving_times, reached, status_of
from skode.solvers.arguments.requested_times import RequestedTimes
from skode.solvers.arguments.step_arguments import StepArguments
from skode.solvers.dense_output import DenseOutput
from skode.solvers.engine import solve
from skode.solvers.fields.samples import Compiled
from skode.solvers.fields.wide_time import with_wide_time
from skode.solvers.forward.event_gradients import occurrences
from skode.solvers.forward.events import Event
from skode.solvers.forward.problem import Gradients, Problem, RequestedOutputs, TimeSpan
from skode.solvers.forward.run import Path
from skode.solvers.forward.times_on_device import OutsideError, OwnTimes, times_stay_on_device
from skode.solvers.solution import Solution
from skode.solvers.tableaus import Method
from skode.solvers.time_gradients import Sides, moved_outputs, moved_start
from skode.solvers.transforms import carries_derivatives


@dataclass(frozen=True)
class IvpCall:
    """A call of :func:`skode.solvers.solve_ivp`, with its single arguments checked.

    Attributes
    ----------
    func, t_span, y0, t_eval, compile
        As in :func:`skode.solvers.solve_ivp`.
    tableau : ButcherTableau or AdamsMethod
        The method.
    steps : StepArguments
        The arguments about steps.
    gradients : Gradients
        How the solve is differentiated.
    outputs : RequestedOutputs
        Whether there is dense output, and what becomes of a solve that can't go on.
    events : list of Event
        The events.
    """

    func: Callable[..., Any]
    t_span: Any
    y0: Tensor
    t_eval: Any
    tableau: Method
    steps: StepArguments
    gradients: Gradients
    outputs: RequestedOutputs
    events: list[Event]
    compile: bool = False

    def solve(self) -> Solution:
        """The solution."""
        if self.y0.is_complex():
            return self._of_complex_state()
        return self._on_device() or self._on_host(RequestedTimes(self.t_span, self.t_eval, self.y0))

    def _of_complex_state(self) -> Solution:
        """A complex state, as one of real and imaginary parts."""
        y0 = self.y0
        real = replace(
            self,
            func=RealField(self.func),
            y0=real_part_wise(y0),
            steps=replace(self.steps, norm=real_norm(self.steps.norm, y0)),
            events=[replace(event, func=RealEvent(event.func)) for event in self.events],
        )
        return complex_solution(real._on_host(RequestedTimes(self.t_span, self.t_eval, y0)))

    def _on_device(self) -> Solution | None:
        """A solve whose times stay on the device, for which the host does not wait; None for others."""
        steps, gradients, y0 = self.steps, self.gradients, self.y0
        elsewhere = {
            "events": bool(self.events),
            "dense": self.outputs.dense,
            "per_sample": steps.per_sample,
            "stops": steps.step_t is not None or steps.jump_t is not None,
            "failure": self.outputs.on_failure != "raise",
            "adjoint": gradients.adjoint != "discrete" and torch.is_grad_enabled(),
            "compile": self.compile,
        }
        if not times_stay_on_device(self.t_span, self.t_eval, y0, self.tableau, elsewhere):
            return None
        func, times = OwnTimes.of(self.func, self.t_span, self.t_eval, y0)
        control, outputs = steps.control(self.tableau, 0.0, 1.0), RequestedOutputs(on_device=times)
        try:
            states, _, run = solve(Problem(func, y0, TimeSpan(0.0, 1.0), self.tableau, control, outputs, gradients))
        except OutsideError:
            return None  # the host says what is wrong with the times
        return Solution(t=self.t_eval.double().clone(), y=times.shaped(states), sol=None, statistics=run.statistics)

    def _on_host(self, given: RequestedTimes) -> Solution:
        """The solution at times that the host knows."""
        per_sample, y0, adjoint = self.steps.per_sample, self.y0, self.gradients.adjoint
        self._check_combination(given)
        func = with_wide_time(self.func, given.span[..., 0], given.span[..., 1], y0)
        formulation = formulate(func, given, y0, self.events, self.outputs, per_sample=per_sample)
        control = self.steps.control(self.tableau, formulation.span.t0, formulation.span.t1)
        sides = Sides(control.stops.jumps, control.stops.nudged, given.span)
        start_t = given.span_t[..., 0] if carries_derivatives(given.span_t) else None
        jump_t = check_times("jump_t", self.steps.jump_t)[1] if control.stops.jumps else None
        problem = Problem(
            Compiled(formulation.func) if self.compile else formulation.func,
            y0 if start_t is None else moved_start(func, y0, start_t, adjoint, sides),
            formulation.span,
            self.tableau,
            control,
            formulation.outputs,
            self.gradients if jump_t is None else replace(self.gradients, jump_t=jump_t),
            formulation.finder,
        )
        outputs, path, run = solve(problem)
        outputs = self._moved(outputs, moving_times(given, formulation, path), path, func, sides)
        n_samples = len(y0) if y0.ndim else 1
        t, y = reached(given, formulation, path, outputs, n_samples)
        t_events, y_events = self._events(formulation, func, outputs, path, sides)
        return Solution(
            t=t,
            y=y,
            sol=DenseOutput(path, formulation.span.t0, path.t_end) if self.outputs.dense else None,
            statistics=run.statistics,
            t_events=t_events,
            y_events=y_events,
            status=status_of(formulation, path, run.failures, n_samples, per_sample=per_sample),
            failures=run.failures if path.failure is None else {-1: path.failure},
        )

    def _check_combination(self, given: RequestedTimes) -> None:
        """Refuse arguments that do not go together."""
        per_sample = self.steps.per_sample
        if self.outputs.dense and (given.own_time or per_sample):
            raise ValueError("dense_output=True needs one t_span for the whole batch and step_control='shared'.")
        if given.own_time and given.eval_t is None and not per_sample:
            raise ValueError("t_eval is needed where t_span is per sample; pass one of shape (batch, n_times).")
        if given.own_time and not per_sample and not self.steps.step_t is self.steps.jump_t is None:
            raise ValueError(
                "step_t and jump_t with a t_span of each sample need step_control='per_sample': with shared steps no "
                "step ends at one time for all."
            )

    def _moved(self, outputs: Tensor, t: Tensor | None, path: Path, func: Callable[..., Any], sides: Sides) -> Tensor:
        """The outputs, of which those that are known in advance move with their times."""
        if t is None:
            return outputs
        n = len(t)
        rows = None if path.rows is None else path.rows[:n]
        moved = moved_outputs(func, outputs[:n], t, self.gradients.adjoint, rows, self.y0, sides)
        return moved if n == len(outputs) else torch.cat([moved, outputs[n:]])

    def _events(
        self, formulation: Formulation, func: Callable[..., Any], outputs: Tensor, path: Path, sides: Sides
    ) -> tuple[list[Tensor] | None, list[Tensor] | None]:
        """Times and states of events; None where none are looked for."""
        finder, exact = formulation.finder, self.gradients.adjoint == "backprop"
        if finder is None:
            return None, None
        return occurrences(finder, func, outputs, formulation.real_times(path), self.y0, exact=exact, sides=sides)
