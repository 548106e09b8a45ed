"""Attempts of steps that are judged where they are computed: times, step sizes and verdicts are tensors.

The formulas of an explicit step and of its pullback are those of :mod:`skode.solvers.stepping.explicit`, over the same
coefficients. There the step size is a number, which a matrix-vector product takes for nothing; here it is a tensor on
the device, so that the whole tableau is multiplied with it at once, and the state is one more row of the matrix.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from skode.solvers.device.control import Controls, in_allowed_errors
from skode.solvers.fields.protocols import Field, Session, Tape
from skode.solvers.stepping.coefficients import tableau_tensors
from skode.solvers.tableaus import ButcherTableau
from skode.solvers.tolerances import Tolerances, rms_norm

#: Largest number of attempts between two times that the host waits for their outcome.
FURTHEST = 16


class Moment(NamedTuple):
    """The present state of a solve, on the device.

    Attributes
    ----------
    y : Tensor
        The state.
    first : Tensor of shape (n,) or None
        The field's value there, flat, where the method takes it over from the step before.
    clock : tuple of five float64 Tensor
        The time, the size of the next step, the ratios of the last two accepted steps, and whether the last attempt
        was rejected.
    """

    y: Tensor
    first: Tensor | None
    clock: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(slots=True)
class Attempted:
    """An attempt, good or not.

    Attributes
    ----------
    rows : Tensor of shape (s + 1, n)
        The state at its start, and below it the stages' derivatives, flat.
    y_next : Tensor
        The state at its end.
    tape : Tape
        Its evaluations, from slot ``first_slot`` on.
    step : Tensor
        Its signed size, in the state's dtype.
    log : Tensor of shape (6,), float64
        Start and end, the size wanted, the ratio of its error to the allowed one, whether it was accepted, and the
        size of the next step.
    """

    rows: Tensor
    y_next: Tensor
    tape: Tape
    first_slot: int
    step: Tensor
    log: Tensor


class Coefficients:
    """A tableau for states that are the first row of one matrix with their stages below them.

    Attributes
    ----------
    fixed, scaled : Tensor of shape (s + 2, s + 1)
        Row i < s of ``fixed + h * scaled`` combines the rows to stage i's state, row s to the state at the step's
        end, and row s + 1 to the error.
    c : Tensor of shape (s,), float64
        The stages' times.
    uses : Tensor of shape (s, s + 1)
        How later stages, and in the last column the result, use each stage.
    """

    def __init__(self, tableau: ButcherTableau, dtype: torch.dtype, device: torch.device) -> None:
        s, tensors = tableau.n_stages, tableau_tensors(tableau, dtype, device)
        assert tensors.e is not None
        self.scaled = torch.zeros((s + 2, s + 1), dtype=dtype, device=device)
        self.scaled[:, 1:] = torch.cat([tensors.full, tensors.b[None], tensors.e[None]])
        self.fixed = torch.zeros_like(self.scaled)
        self.fixed[: s + 1, 0] = 1.0
        self.c = torch.tensor(tableau.c, dtype=torch.float64, device=device)
        # Row i: the weights with which later stages, in columns i < j < s, and the result, in column s, use stage i.
        self.uses = self.scaled[: s + 1, 1:].t().contiguous()


@functools.cache
def coefficients(tableau: ButcherTableau, dtype: torch.dtype, device: torch.device) -> Coefficients:
    """The coefficients of a method, made once for each dtype and device."""
    with torch.inference_mode(False):
        return Coefficients(tableau, dtype, device)


class Attempts:
    """Tries steps of an explicit method over a field, and moves on where they are good, without asking the host.

    Parameters
    ----------
    tableau : ButcherTableau
        The method.
    field : Field
        The vector field.
    like : Tensor
        A state, for its shape, dtype and device.
    tolerances : Tolerances
        The error test.
    controls : Controls
        The step-size control.
    t1 : Tensor, float64
        The end of the time span.
    pullable : bool
        Whether the evaluations are to be pulled back.
    """

    def __init__(
        self,
        tableau: ButcherTableau,
        field: Field,
        like: Tensor,
        tolerances: Tolerances,
        controls: Controls,
        t1: Tensor,
        *,
        pullable: bool,
    ) -> None:
        self.tableau, self.field, self.tolerances, self.controls = tableau, field, tolerances, controls
        self.like, self.shape, self.t1, self.pullable = like, like.shape, t1, pullable
        self.coefficients = coefficients(tableau, like.dtype, like.device)
        self.own = range(int(tableau.fsal), tableau.n_stages)

    def new_tape(self) -> Tape:
        """A tape for the evaluations of an attempt."""
        return self.field.tape(self.like, len(self.own), pullable=self.pullable)

    def attempt(self, moment: Moment, tape: Tape, first_slot: int = 0) -> tuple[Attempted, Moment]:
        """Try a step, with its evaluations on a tape; returns it, and the state of the solve after it."""
        tableau, s = self.tableau, self.tableau.n_stages
        t, size, *history = moment.clock
        step, wanted, t_next = self.controls.choose(t, size, self.t1)
        h = step.to(self.like.dtype)
        table = torch.addcmul(self.coefficients.fixed, self.coefficients.scaled, h).unbind()
        times = torch.addcmul(t, self.coefficients.c, step).unbind()
        rows = torch.empty((s + 1, self.like.numel()), dtype=self.like.dtype, device=self.like.device)
        rows[0].copy_(moment.y.reshape(-1))
        if moment.first is not None:
            rows[1].copy_(moment.first)
        values = rows.unbind()
        for slot, i in enumerate(self.own, start=first_slot):
            _combine(rows, i, table[i], tape.place(slot))
            tape.evaluate(slot, times[i], values[i + 1].view(self.shape))
        if tableau.fsal:
            y_next = tape.state(slot)
        else:
            y_next = torch.empty_like(rows[0])
            _combine(rows, s, table[s], y_next)
            y_next = y_next.view(self.shape)
        ratio = self._ratio(torch.mv(rows[1:].t(), table[s + 1][1:]).view(self.shape), moment.y, y_next)
        good, new_t, new_size, last, before, rejected = self.controls.judge(ratio, t, t_next, self.t1, wanted, *history)
        log = torch.stack([t, t_next, wanted, ratio, good, new_size])
        mask = good.bool()
        first = None if moment.first is None else torch.where(mask, values[-1], moment.first)
        moved = Moment(torch.where(mask, y_next, moment.y), first, (new_t, new_size, last, before, rejected))
        return Attempted(rows, y_next, tape, first_slot, h, log), moved

    def pull(
        self, attempted: Attempted, session: Session, lam: Tensor, carried: Tensor | None, given: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Cotangents of the state at a step's start, and of the derivative that it took over.

        The formula is that of :meth:`skode.solvers.stepping.ExplicitStepper.pull`, with a step size on the device.
        """
        tableau, s, tape, taken_over = self.tableau, self.tableau.n_stages, attempted.tape, self.own.start
        table = (self.coefficients.uses * attempted.step).unbind()
        rows = torch.empty_like(attempted.rows)
        *pulled, last = rows.unbind()
        last.copy_(lam.reshape(-1))
        handed_on = None
        for i in reversed(range(s)):
            at_end = i == s - 1 and tableau.fsal
            if at_end and carried is None and given is None:  # nothing has used it
                pulled[i].zero_()
                continue
            slot = attempted.first_slot + i - taken_over
            kbar = torch.empty_like(last) if i < taken_over else session.place(tape, slot)
            torch.mv(rows[i + 1 :].t(), table[i][i + 1 :], out=kbar)
            if given is not None:
                kbar.add_(given[i])
            if at_end and carried is not None:
                kbar.add_(carried)
            if i < taken_over:
                handed_on = kbar
                continue
            session.pull(tape, slot, None, pulled[i].view(self.shape))
        session.flush(tape)
        return rows[taken_over:].sum(0).view(self.shape), handed_on

    def _ratio(self, error: Tensor, y: Tensor, y_next: Tensor) -> Tensor:
        """How many times the allowed error it is."""
        rtol, atol = float(self.tolerances.rtol), float(self.tolerances.atol)
        off = in_allowed_errors(error, y, y_next, rtol, atol)
        if self.tolerances.norm is rms_norm:
            return torch.linalg.vector_norm(off).double() / math.sqrt(max(off.numel(), 1))
        return self._size(off)

    def _size(self, x: Tensor) -> Tensor:
        """The norm of a state, as a number on the device."""
        size = torch.as_tensor(self.tolerances.norm(x), device=x.device)
        if size.numel() != 1:
            raise ValueError(f"norm must return one number, got shape {tuple(size.shape)}.")
        return size.double().reshape(())

    def first_size(self, t0: Tensor, y: Tensor, f: Tensor, span: Tensor) -> Tensor:
        """A first step's size whose error is probably acceptable; see :mod:`skode.solvers.forward.step_size`."""
        tolerances, direction = self.tolerances, self.controls.direction
        allowed = tolerances.allowed(y)

        def size(x: Tensor) -> Tensor:
            return self._size(tolerances.over(x, allowed))

        size_y, size_f = size(y), size(f)
        usable = (size_y >= 1e-5) & (size_f >= 1e-5) & torch.isfinite(size_f)
        guess = torch.minimum(torch.where(usable, 0.01 * size_y / size_f, 1e-6), span)
        moved = self.field(t0 + direction * guess, y + (direction * guess).to(y.dtype) * f)
        steepest = torch.maximum(size_f, size_second := size(moved - f) / guess)
        power = 1.0 / (self.tableau.error_order + 1)
        second = torch.where(steepest <= 1e-15, (1e-3 * guess).clamp_min(1e-6), (0.01 / steepest) ** power)
        chosen = torch.minimum(torch.minimum(100.0 * guess, second), span)
        return torch.where(torch.isfinite(size_f + size_second), chosen, guess)


def _combine(rows: Tensor, i: int, weights: Tensor, out: Tensor) -> None:
    """The state of stage i: the start and the stages before it, each with its weight."""
    torch.mv(rows[: i + 1].t(), weights[: i + 1], out=out)
