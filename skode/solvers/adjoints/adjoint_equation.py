"""The adjoint equation solved backward, where all samples share their steps; see :mod:`..adjoints.continuous`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from skode.solvers.adjoints.augmented import AugmentedField
from skode.solvers.dense_output import DenseOutput
from skode.solvers.errors import SolverError
from skode.solvers.forward.callbacks import Callbacks
from skode.solvers.forward.problem import Problem, RequestedOutputs, TimeSpan
from skode.solvers.forward.run import Run
from skode.solvers.forward.step_control import StepControl
from skode.solvers.indexing import index
from skode.solvers.integrate import integrate
from skode.solvers.stepping.step import stage_time
from skode.solvers.tableaus import ButcherTableau, Method
from skode.solvers.tolerances import Tolerances, rms_norm


@dataclass(frozen=True)
class CotangentsOfOutputs:
    """The outputs of a solve that were reached, and their cotangents.

    Attributes
    ----------
    times : ndarray of shape (m,)
        The times of the outputs.
    rows : ndarray of shape (m,) or None
        The samples that they belong to.
    states, cotangents : Tensor of shape (m, ...)
        The outputs, and the derivatives of the loss with respect to them.
    """

    times: np.ndarray
    rows: np.ndarray | None
    states: Tensor
    cotangents: Tensor

    @classmethod
    def of(cls, times: np.ndarray, rows: np.ndarray | None, states: Tensor, cotangents: Tensor) -> CotangentsOfOutputs:
        """The reached ones among all outputs; the others are NaN and depend on nothing."""
        reached = torch.isfinite(states).reshape(len(states), -1).all(1).cpu().numpy()
        if reached.all():
            return cls(times, rows, states, cotangents)
        these = index(np.flatnonzero(reached), states)
        return cls(times[reached], None if rows is None else rows[reached], states[these], cotangents[these])


def adaptive_implicit(tableau: Method) -> bool:
    """Whether the method is one for stiff problems that chooses its steps."""
    return isinstance(tableau, ButcherTableau) and tableau.implicit and tableau.adaptive


def adjoint_norm(run: Run) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """The norm of the adjoint equation's error test: of its state ``(0, y, a, *gradients)`` as a tuple.

    By default the largest of the norm of the forward solve over ``y`` and ``a`` and the root mean squares of the
    parameters' gradients, which a seminorm leaves out (Kidger et al. 2021).
    """
    backward, control = run.gradients.backward, run.control
    if backward.norm is not None:
        return backward.norm
    # Where steps are per sample, that is the norm of one sample, where states are complex that of moduli.
    plain = not control.per_sample and type(control.tolerances) is Tolerances
    of_state = control.tolerances.norm if plain else rms_norm

    def largest(state: tuple[Tensor, ...]) -> Tensor:
        _, y, adjoint, *gradients = state  # of the time there is no error
        means = [] if backward.seminorm else gradients
        if of_state is rms_norm:
            means = [y, adjoint, *means]
        # All root mean squares at once: there may be many parameters, and the test is made in every step.
        per_root = torch.tensor([max(x.numel(), 1) ** -0.5 for x in means], dtype=y.dtype, device=y.device)
        sizes = torch.stack(torch._foreach_norm(means)).mul_(per_root) if means else y.new_empty(0)
        if of_state is not rms_norm:
            own = [torch.as_tensor(of_state(x), dtype=y.dtype, device=y.device).reshape(1) for x in (y, adjoint)]
            sizes = torch.cat([sizes, *own])
        return sizes.max()

    largest.takes_flat_gradients = True  # type: ignore[attr-defined]
    return largest


class AdjointSolve:
    """The backward solve: one segment between each two neighbouring output times.

    Parameters
    ----------
    run : Run
        The problem that was solved forward.
    given : CotangentsOfOutputs
        The outputs with their cotangents.
    grad_jumps : Tensor or None
        Where the gradient of the problem's jumps is added up.
    y_end : Tensor
        The last state that was reached.
    t_end : float
        The time of ``y_end``.
    norm : callable
        The norm of the error test, see :func:`adjoint_norm`.
    states : DenseOutput or None
        The forward solve, where it was kept.
    """

    def __init__(
        self,
        run: Run,
        given: CotangentsOfOutputs,
        grad_jumps: Tensor | None,
        y_end: Tensor,
        t_end: float,
        norm: Callable[[tuple[Tensor, ...]], Tensor],
        states: DenseOutput | None = None,
    ) -> None:
        self.tableau = run.gradients.backward.tableau or run.tableau
        self.norm = norm
        self.run = run
        self.given = given
        self.grad_jumps = grad_jumps
        self.y_end = y_end
        self.t_end = t_end
        self.states = states
        self.shape, self.n = y_end.shape, y_end.numel()
        self.field = AugmentedField(
            run.field,
            y_end,
            run.statistics,
            t_end,
            implicit=isinstance(self.tableau, ButcherTableau) and self.tableau.implicit,
            states=None if states is None else states.nearest,
        )

    def solve(self) -> tuple[Tensor, list[Tensor]]:
        """Solve from the last output time to the initial one; returns gradients of ``y0`` and of the parameters."""
        run, given, n, t = self.run, self.given, self.n, self.t_end
        augmented = self.y_end.new_zeros(self.field.size)
        augmented[:n] = self.y_end.reshape(-1)
        jumps = [] if run.jumps is None else [time for time in run.jumps.place if self._was_reached(time)]
        for time in np.unique([*given.times, *jumps, run.span.t0])[:: -1 if run.span.t1 >= run.span.t0 else 1].tolist():
            # Before the last output the adjoint is zero and, where states are known, there is nothing to solve.
            if time != t and (given.rows is not None or bool(augmented[n : 2 * n].any())):
                augmented = self._segment(t, time, augmented)
                t = time
            if time in jumps and t == time:
                assert run.jumps is not None
                assert self.grad_jumps is not None
                y, a = (x.view(self.shape) for x in augmented[: 2 * n].split(n))
                y = y if self.states is None else self.states.nearest(time).view(self.shape)
                run.jumps.pull(self.grad_jumps, run.field, time, y, a, None)
            self._jump(time, augmented)
            if given.rows is None:
                # The state is known here: start again from it rather than from the backward solve's drifted one.
                known = np.flatnonzero(given.times == time)
                if len(known):
                    augmented[:n] = given.states[int(known[0])].reshape(-1)
                    t = time
        return self.gradients(augmented)

    def gradients(self, augmented: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Gradients of ``y0`` and of the parameters, off the equation's state at the initial time."""
        n = self.n
        return augmented[n : 2 * n].view(self.shape).clone(), self.field.parameter_gradients(augmented)

    def _was_reached(self, time: float) -> bool:
        t0 = self.run.span.t0
        return abs(time - t0) <= abs(self.t_end - t0)

    def _jump(self, time: float, augmented: Tensor) -> None:
        """Add the cotangents of the outputs at this time to the adjoint."""
        given = self.given
        positions = np.flatnonzero(given.times == time)
        if not len(positions):
            return
        a = augmented[self.n : 2 * self.n].view(self.shape)
        if given.rows is None:
            a += given.cotangents[index(positions, a)].sum(0)
        else:
            a.index_add_(0, index(given.rows[positions], a), given.cotangents[index(positions, a)])

    def _segment(self, t: float, t_next: float, augmented: Tensor) -> Tensor:
        """Solve the equation from one time to another; returns the state there."""
        control, field = self._control(t, t_next, augmented), self.field
        inside = control.stops.nudged or t in control.stops.jumps
        start = stage_time(t, math.copysign(1.0, t_next - t), 0.0, (inside, False), field.time_dtype)
        problem = Problem(
            field,
            augmented,
            TimeSpan(t, t_next),
            self.tableau,
            replace(control, callbacks=self._callbacks()),
            RequestedOutputs(np.array([t_next])),
            self.run.gradients,
        )
        segment = Run(problem, field, field(start, augmented))
        try:
            return integrate(segment, augmented, record=False).y_end
        except SolverError as error:
            error.add_note(
                "This is from the adjoint equation, solved backward for the gradient: what dies out forward grows "
                "there. Use adjoint='discrete', which solves nothing backward; of the implicit methods with "
                "step_control='shared' the states of the forward solve are kept, and read off it."
            )
            raise

    def _control(self, t: float, t_next: float, augmented: Tensor) -> StepControl:
        backward = self.run.gradients.backward
        if backward.control is not None:
            control = backward.control(self.field, augmented, t, t_next)
        else:
            control = self._forward_control(t, t_next)
        return replace(control, tolerances=self._tolerances(), max_steps=self._max_steps(control))

    def _tolerances(self) -> Tolerances:
        # Element by element also where states are complex: not all of these are pairs of parts.
        tolerances = self.run.gradients.backward.tolerances or self.run.control.tolerances.tightest()
        return Tolerances(tolerances.rtol, tolerances.atol, self._norm_of_flat)

    def _norm_of_flat(self, x: Tensor) -> Tensor:
        shaped = not getattr(self.norm, "takes_flat_gradients", False)
        return self.norm((x.new_zeros(()), *self.field.parts(x, shaped=shaped)))

    def _max_steps(self, control: StepControl) -> int:
        """How many steps a segment may take: those of a method for stiff problems may shrink backward without end."""
        statistics = self.run.statistics
        if not adaptive_implicit(self.tableau) or self.states is not None:
            return control.max_steps
        return min(control.max_steps, 100 + 10 * (statistics.n_accepted + statistics.n_rejected))

    def _forward_control(self, t: float, t_next: float) -> StepControl:
        """The step control of the forward solve, between two times."""
        run, control = self.run, self.run.control
        low, high, t0 = min(t, t_next), max(t, t_next), run.span.t0
        grid, times = control.grid, None
        if grid is not None:
            times = grid.times
            if times is None:
                nodes = grid.equal_steps(t0, run.span.t1, control.max_steps)
                times = np.array(list(itertools.takewhile(lambda node: abs(node - t0) < abs(t - t0), nodes)))
            inner = np.sort(times[(times > low) & (times < high)])
            times = np.concatenate([[t], inner[:: 1 if t_next > t else -1], [t_next]])
            grid = replace(grid, times=times)
        stops = control.stops
        inside = tuple(sorted((x for x in stops.times if low < x < high), reverse=t_next < t))
        return replace(
            control,
            per_sample=False,
            stops=replace(stops, times=inside, jumps=stops.jumps & {*inside, t, t_next}),
            grid=grid,
            sizes=replace(control.sizes, first_step=None),
        )

    def _callbacks(self) -> Callbacks | None:
        """The callbacks of the adjoint equation, which get its state as a tuple."""
        callbacks = self.run.gradients.backward.callbacks
        return None if callbacks is None else callbacks.of(lambda x: (x.new_zeros(()), *self.field.parts(x)))
