"""One explicit Runge-Kutta step: forward in place, and pulled back."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from skode.solvers.cached import cached
from skode.solvers.fields.protocols import Field, Session, Tape
from skode.solvers.fields.times import time_dtype_of
from skode.solvers.statistics import Statistics
from skode.solvers.stepping.buffers import ReverseBuffers, StageBuffers
from skode.solvers.stepping.coefficients import tableau_tensors
from skode.solvers.stepping.step import NO_EDGES, Edges, PulledStep, StepSize, TakenStep, stage_time
from skode.solvers.tableaus import ButcherTableau
from skode.solvers.tolerances import Tolerances


class ExplicitStepper:
    """Takes steps of one method over one field, with all stages in one preallocated buffer.

    Parameters
    ----------
    tableau : ButcherTableau
        The method.
    field : Field
        The vector field.
    like : Tensor
        A state, for its shape, dtype and device.
    statistics : Statistics
        Where evaluations are counted.
    tolerances : Tolerances
        The error test, where a step's own equations are solved to it.
    keep : bool
        Whether each step gets a tape of its own, to be kept.

    Attributes
    ----------
    n_carried : int
        How many derivatives a step takes over from those before it: 1 if the first stage is the last step's last.
    keeps_first : bool
        Whether a step is pulled back more cheaply if its first stage is remembered.
    needs_stages : bool
        Whether a step can be pulled back only with its stages' derivatives.

    Notes
    -----
    The buffer holds the stages as rows, flattened, so that every combination of stages is one matrix-vector product.
    """

    needs_stages = False

    def __init__(
        self,
        tableau: ButcherTableau,
        field: Field,
        like: Tensor,
        statistics: Statistics,
        tolerances: Tolerances,
        *,
        keep: bool = False,
    ) -> None:
        self.tolerances = tolerances
        self.tableau = tableau
        self.field = field
        self.like = like
        self.time_dtype = time_dtype_of(field, like)
        self.shape = like.shape
        self.statistics = statistics
        self.keep = keep
        self.coefficients = tableau_tensors(tableau, like.dtype, like.device)
        self.n_carried = int(tableau.fsal)
        self.keeps_first = bool(self.n_carried)
        self.own = range(self.n_carried, tableau.n_stages)
        self.memory = StageBuffers.like(tableau.n_stages + 1, like)
        self.stages, self.values, self.earlier = self.memory.stages, self.memory.values, self.memory.earlier
        # The tape of the step in hand; where steps share memory, also the one that holds the present state.
        self.tape: Tape | None = None
        self.spare: Tape | None = None
        self.first_is_current = False

    def release(self) -> None:
        """Let others have the memory: the stepper, and the stages of the steps it took, are not used any longer."""
        if not self.keep:
            for tape in (self.spare, self.tape):
                if tape is not None:
                    tape.release()
        self.tape = self.spare = None
        self.memory.release()
        if "reverse" in vars(self):
            self.reverse.release()

    def stop_keeping(self) -> None:
        """Use the same memory for all steps from here on."""
        self.keep = False
        self.tape = self.spare = None

    def start(self, f0: Tensor) -> None:
        """Begin a solve, or go on after a discontinuity, with the derivative ``f0`` at the present state."""
        if self.n_carried or not self.keep:
            self.values[0].copy_(f0)
            self.first_is_current = True

    def attempt(self, t: Any, h: StepSize, y: Tensor, edges: Edges = NO_EDGES) -> TakenStep:
        """Try a step of size ``h`` from ``(t, y)``. A second try from the same state uses its first stage again."""
        if self.tape is None:
            # Where nothing is pulled back, one slot serves all stages.
            self.tape = self.field.tape(self.like, len(self.own) if self.keep else 1, pullable=self.keep)
        return TakenStep(t, h, y, self._fill(t, h, y, self.tape, edges), self.stages, self.tableau, self.tape, edges)

    def error(self, step: TakenStep) -> Tensor:
        """The estimated local error of the step just tried."""
        e, h = self.coefficients.e, step.h
        assert e is not None
        if isinstance(h, Tensor):
            return torch.mv(self.earlier[-1], e).view(self.shape).mul_(h)
        flat, error = self.memory.error
        torch.addmv(flat, self.earlier[-1], e, beta=0, alpha=h, out=flat)
        return error

    def accept(self) -> None:
        """Move on from the step just tried."""
        self.first_is_current = False
        if self.n_carried:
            self.values[0].copy_(self.values[-1])
        if self.keep:
            self.tape = None
        else:
            self.tape, self.spare = self.spare, self.tape

    def accept_some(self, moved: Tensor) -> None:
        """Move on with some samples, given as a column of booleans; the others try again."""
        self.first_is_current = False
        if self.n_carried:
            self.values[0].copy_(torch.where(moved, self.values[-1], self.values[0]))

    def part(self, step: TakenStep, these: Tensor) -> TakenStep:
        return step.part(these)

    def restart(self, t: Any, h: Any, y: Tensor, edges: Edges) -> None:
        """Evaluate the first stage anew, after a discontinuity of the field."""
        if self.n_carried:
            self.statistics.nfev += 1
            self.values[0].copy_(self.field(stage_time(t, h, 0.0, edges, self.time_dtype), y))

    def restart_some(self, t: Any, h: Tensor, y: Tensor, edges: Edges) -> None:
        """The same for the samples marked in the first of ``edges``."""
        if self.n_carried:
            self.statistics.nfev += 1
            value = self.field(stage_time(t, h, 0.0, edges, self.time_dtype), y)
            self.values[0].copy_(torch.where(torch.as_tensor(edges[0]), value, self.values[0]))

    def take(self, these: Tensor) -> Self:
        """The same over some samples only."""
        like = self.like[these]
        field = self.field.take(these)
        other = type(self)(self.tableau, field, like, self.statistics, self.tolerances, keep=self.keep)
        other.stages[0] = self.values[0][these].reshape(-1)
        return other

    def _fill(self, t: Any, h: StepSize, y: Tensor, tape: Tape, edges: Edges, *, last_is_used: bool = True) -> Tensor:
        """Evaluate the step's own stages on a tape; returns the state at its end."""
        tableau, a, c, values, earlier = self.tableau, self.coefficients.a, self.tableau.c, self.values, self.earlier
        flat, exact = y.reshape(-1), edges is NO_EDGES
        last = tableau.n_stages - (not last_is_used)
        for slot, i in enumerate(self.own):
            if i == 0 and self.first_is_current:
                continue
            slot = min(slot, tape.n_slots - 1)
            state = tape.place(slot)
            if i == 0:
                state.copy_(flat)
                self.first_is_current = True
            elif not isinstance(h, Tensor):  # as in _advance
                torch.addmv(flat, earlier[i], a[i], alpha=h, out=state)
            else:
                self._advance(flat, i, a[i], h, state)
            if i < last:
                self.statistics.nfev += 1
                time = t + c[i] * h if exact else stage_time(t, h, c[i], edges, self.time_dtype)
                tape.evaluate(slot, time, values[i])
        if self.n_carried:
            return tape.state(slot)
        y_next = torch.empty_like(flat)
        self._advance(flat, tableau.n_stages, self.coefficients.b, h, y_next)
        return y_next.view(self.shape)

    def _advance(self, flat: Tensor, i: int, weights: Tensor, h: StepSize, out: Tensor) -> None:
        """``y + h sum_(j<i) weights_j k_j`` into ``out``."""
        if isinstance(h, Tensor):
            moved = torch.mv(self.earlier[i], weights, out=out).view(self.shape)
            torch.addcmul(flat.view(self.shape), moved, h, out=moved)
        else:
            torch.addmv(flat, self.earlier[i], weights, alpha=h, out=out)

    def pull(
        self,
        step: TakenStep,
        session: Session,
        cotangent: Tensor,
        carried: Tensor | None,
        given: Tensor | None,
    ) -> PulledStep:
        """The vector-Jacobian product of one step.

        With ``lam`` the cotangent of ``y1`` and ``g_i`` what outputs inside the step and later steps ask of its
        stages, the stages' cotangents are found last to first (Hager, Numerische Mathematik 87, 2000; Sanz-Serna,
        SIAM Review 58, 2016)::

            kbar_i = h (b_i lam + sum_{j>i} a_ji ybar_j) + g_i,    ybar_i = kbar_i^T df/dy(t_i, Y_i)

        and the cotangent of ``y`` is ``lam + sum_i ybar_i``. A first stage taken over from the step before is pulled
        back there: its ``kbar`` is handed on.

        Parameters
        ----------
        step : TakenStep
            The step; its tape holds its evaluations.
        session : Session
            Where vector-Jacobian products are taken.
        cotangent : Tensor
            ``lam``, of the state's shape.
        carried : Tensor of shape (r, n) or None
            Cotangents of the derivatives that later steps took over from this one.
        given : Tensor of shape (s, n) or None
            Those that outputs inside the step give its stages.
        """
        uses, h, s = self.coefficients.uses, step.h, self.tableau.n_stages
        tape, n_carried = step.tape, self.n_carried
        assert tape is not None
        last_carried = carried[0] if carried is not None and n_carried else None
        reverse = self.reverse
        pulled, rows = reverse.pulled, reverse.rows
        rows[s].copy_(cotangent)
        handed_on = None
        for i in range(s - 1, -1, -1):
            # A last stage that nothing has used.
            if i == s - 1 and n_carried and last_carried is None and given is None:
                rows[i].zero_()
                continue
            slot, from_outputs = i - n_carried, None if given is None else given[i]
            kbar = session.place(tape, slot) if slot >= 0 else torch.empty_like(pulled[i])
            if isinstance(h, Tensor):
                torch.mv(reverse.later[i], uses[i], out=kbar)
                kbar.view(self.shape).mul_(h)
                if from_outputs is not None:
                    kbar += from_outputs
            elif from_outputs is not None:
                torch.addmv(from_outputs, reverse.later[i], uses[i], alpha=h, out=kbar)
            else:
                torch.addmv(kbar, reverse.later[i], uses[i], beta=0, alpha=h, out=kbar)
            if i == s - 1 and last_carried is not None:
                kbar += last_carried
            if slot < 0:
                handed_on = kbar[None]
                continue
            session.pull(tape, slot, None, rows[i])
        session.flush(tape)
        return PulledStep(pulled[n_carried:].sum(0).view(self.shape), handed_on)

    @cached
    def reverse(self) -> ReverseBuffers:
        """Memory for :meth:`pull`."""
        return ReverseBuffers.like(self.tableau.n_stages + 1, self.like)

    def remake(self, step: TakenStep, first: Tensor | None, *, last_is_used: bool) -> Tensor:
        """Evaluate a step's stages again, on a new tape that can be pulled back; returns the state at its end."""
        self.first_is_current = False
        if self.n_carried:
            if first is None:
                first = self.field(stage_time(step.t, step.h, 0.0, step.edges, self.time_dtype), step.y).reshape(-1)
            self.stages[0] = first
        step.tape = self.field.tape(step.y, len(self.own), pullable=True)
        return self._fill(step.t, step.h, step.y, step.tape, step.edges, last_is_used=last_is_used)
