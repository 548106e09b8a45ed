"""How one of torchdiffeq's calls is carried out: by the kind of its state, and by where it ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.arguments.callbacks import callbacks_of, carry_over
from skode.solvers.arguments.checks import (
    check_memory_budget,
    check_monotone,
    check_state,
    check_times,
    check_tolerance,
)
from skode.solvers.arguments.complex_state import RealEvent, RealField, as_complex, real_options, real_part_wise
from skode.solvers.arguments.odeint_options import (
    AdjointArguments,
    control_of,
    interpolating,
    known_method,
    scipy_solver_of,
    supported,
)
from skode.solvers.arguments.tuple_state import (
    event_of_parts,
    norm_of_parts,
    pack,
    tolerance_of_parts,
    unpack,
    unpacking,
)
from skode.solvers.engine import solve
from skode.solvers.fields.samples import Compiled
from skode.solvers.fields.times import time_dtype_of
from skode.solvers.fields.wide_time import with_wide_time
from skode.solvers.forward.event_gradients import occurrences
from skode.solvers.forward.events import EventFinder
from skode.solvers.forward.first_change import FirstChangeFinder
from skode.solvers.forward.problem import AS_FORWARD, Gradients, Problem, RequestedOutputs, TimeSpan
from skode.solvers.forward.run import Path
from skode.solvers.forward.step_control import StepControl
from skode.solvers.scipy_solver import odeint_scipy
from skode.solvers.tableaus import Method
from skode.solvers.time_gradients import Sides, moved_outputs, moved_start
from skode.solvers.tolerances import Tolerances


@dataclass(frozen=True)
class OdeintCall:
    """One of torchdiffeq's calls.

    Attributes
    ----------
    func, y0, t, rtol, atol, method, adjoint, event_fn
        As in :func:`skode.solvers.odeint`.
    options : dict
        Its options, with names that are known.
    backward : AdjointArguments
        The arguments of :func:`skode.solvers.odeint_adjoint` that begin with ``adjoint_``.
    """

    func: Any
    y0: Any
    t: Any
    rtol: Any
    atol: Any
    method: Any
    adjoint: str
    options: dict[str, Any]
    event_fn: Callable[[Tensor, Any], Tensor] | None
    backward: AdjointArguments = field(default_factory=AdjointArguments)

    def solve(self) -> Any:
        """The states at all times, or the time of the event and the states at the start and there."""
        if isinstance(self.y0, tuple):
            return self._of_tuple()
        y0 = check_state(self.y0)
        if y0.is_complex():
            return self._of_complex_state(y0)
        times, t = check_times("t", self.t)
        moving = None if t is None else t.double().cpu()
        if self.event_fn is not None:
            return self._until_event(y0, times, moving)
        if times.ndim != 1 or len(times) == 0:
            raise ValueError(f"t must be one-dimensional and not empty, got shape {times.shape}.")
        check_monotone("t", times)
        if self.method == "scipy_solver":
            return self._by_scipy(y0, times, moving)
        solve = _Solve.of(self, y0, times)
        outputs, _ = solve.run(times, moving)
        return (
            outputs
            if moving is None
            else moved_outputs(solve.func, outputs, moving, self.adjoint, None, y0, solve.sides)
        )

    def _of_tuple(self) -> Any:
        """A state that is a tuple, as one flat tensor."""
        flat, parts = pack(self.y0)
        options = dict(self.options)
        if self.method != "scipy_solver" or "norm" in options:
            options["norm"] = norm_of_parts(options.get("norm", "mixed"), parts)
        y = replace(
            self,
            func=unpacking(self.func, parts),
            y0=flat,
            rtol=tolerance_of_parts("rtol", self.rtol, flat, parts),
            atol=tolerance_of_parts("atol", self.atol, flat, parts),
            options=options,
            event_fn=None if self.event_fn is None else event_of_parts(self.event_fn, parts),
            backward=self.backward.of_parts(parts),
        ).solve()
        return unpack(y, parts) if self.event_fn is None else (y[0], unpack(y[1], parts))

    def _of_complex_state(self, y0: Tensor) -> Any:
        """A complex state, as one of real and imaginary parts."""

        def of_parts(tolerance: Any) -> Any:
            return torch.as_tensor(tolerance).unsqueeze(-1) if np.ndim(tolerance) else tolerance

        real, scipy = RealField(self.func), self.method == "scipy_solver"
        carry_over(self.func, real, as_complex)
        y = replace(
            self,
            func=real,
            y0=real_part_wise(y0),
            rtol=of_parts(self.rtol),
            atol=of_parts(self.atol),
            options=self.options if scipy else real_options(self.options, self.func, y0),
            event_fn=None if self.event_fn is None else RealEvent(self.event_fn, "event_fn"),
        ).solve()
        return as_complex(y) if self.event_fn is None else (y[0], as_complex(y[1]))

    def _by_scipy(self, y0: Tensor, times: np.ndarray, moving: Tensor | None) -> Tensor:
        """The states at all times, solved by SciPy."""
        for suffix in ("", "_adjoint"):  # to warn of them
            callbacks_of(self.func, (), self.method, suffix=suffix)
        tolerances = Tolerances(check_tolerance("rtol", self.rtol, y0), check_tolerance("atol", self.atol, y0))
        forward = scipy_solver_of(self.options, tolerances)
        outputs = odeint_scipy(
            self.func,
            y0 if moving is None else moved_start(self.func, y0, moving[0], "continuous"),
            times,
            solver=forward,
            backward=self.backward.scipy_solver(forward),
            parameters=self.backward.tensors(),
        )
        return outputs if moving is None else moved_outputs(self.func, outputs, moving, "continuous", None, y0)

    def _until_event(self, y0: Tensor, times: np.ndarray, moving: Tensor | None) -> tuple[Tensor, Tensor]:
        """The time of the first sign change in an element of ``event_fn``, and the states at the start and there."""
        assert self.event_fn is not None
        if times.shape != (2,):
            raise ValueError(f"With event_fn, t must be (t0, t1), where t1 only gives the direction; got {self.t!r}.")
        check_monotone("t", times)
        if self.method == "scipy_solver":
            raise ValueError("event_fn needs one of skode.solvers.METHODS: method='scipy_solver' looks for no events.")
        t0, forever = float(times[0]), math.copysign(math.inf, times[1] - times[0])
        solve = _Solve.of(self, y0, np.array([t0, forever]))
        finder = FirstChangeFinder(self.event_fn, t0, y0.detach(), time_dtype_of(solve.func, y0))
        outputs, path = solve.run(np.array([t0]), moving, finder)
        exact, real_times = self.adjoint == "backprop", torch.from_numpy(path.times)
        (event_t,), (event_y,) = occurrences(
            finder, solve.func, outputs, real_times, y0, exact=exact, sides=solve.sides
        )
        return event_t[0], torch.stack([y0, event_y[0]])


@dataclass(frozen=True)
class _Solve:
    """A call with a real state, as the engine takes it.

    Attributes
    ----------
    call : OdeintCall
        The call.
    func : callable
        Its field, over float64 times where these need it.
    y0 : Tensor
        The initial state.
    span : tuple of two float
        The time span; its end is infinite where an event is looked for.
    tableau, control
        The method, and its step control.
    sides : Sides
        On which side of discontinuities the field moves states.
    """

    call: OdeintCall
    func: Any
    y0: Tensor
    span: tuple[float, float]
    tableau: Method
    control: StepControl
    sides: Sides

    @classmethod
    def of(cls, call: OdeintCall, y0: Tensor, times: np.ndarray) -> _Solve:
        """Check the method and its options, over output times or between the initial time and infinity."""
        options, (t0, t1) = call.options, (float(times[0]), float(times[-1]))
        tableau = interpolating(known_method(call.method), options)
        if math.isinf(t1) and not tableau.adaptive and options.get("step_size") is None:
            raise ValueError(
                f"event_fn with method={call.method!r} needs options['step_size']: no end of time is given to divide."
            )
        control = control_of(tableau, call.func, y0, times, options, rtol=call.rtol, atol=call.atol)
        func = with_wide_time(call.func, t0, t1, y0)
        return cls(
            call, func, y0, (t0, t1), tableau, control, Sides(control.stops.jumps, control.stops.nudged, times[[0, -1]])
        )

    def run(self, times: np.ndarray, moving: Tensor | None, events: EventFinder | None = None) -> tuple[Tensor, Path]:
        """Solve; returns the outputs and the solve as recorded."""
        call, control, tableau, options, y0 = self.call, self.control, self.tableau, self.call.options, self.y0
        way = AS_FORWARD
        if call.adjoint == "continuous":
            way = call.backward.solve(call.func, tableau, control, options)
        budget = check_memory_budget("options['memory_budget']", options.get("memory_budget"), y0.device)
        jump_t = check_times("options['jump_t']", options["jump_t"])[1] if control.stops.jumps else None
        problem = Problem(
            Compiled(self.func) if options.get("compile", False) else self.func,
            y0 if moving is None else moved_start(self.func, y0, moving[0], call.adjoint, self.sides),
            TimeSpan(*self.span),
            tableau,
            replace(control, callbacks=callbacks_of(call.func, supported(tableau), tableau.name)),
            RequestedOutputs(np.array(times)),
            Gradients(call.adjoint, budget, way, jump_t, call.backward.tensors()),
            events,
        )
        outputs, path, _ = solve(problem)
        return outputs, path
