"""Samples on time axes of their own: ``t_i = t0_i + s (t1_i - t0_i)``, all integrated over ``0 <= s <= 1``.

The state then follows ``dy/ds = (t1_i - t0_i) f(t_i, y)``, so that one solve serves samples that start and end at
different times, and none is carried beyond its own end.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from skode.solvers.fields.protocols import FusedForm, OffersPullback, Session, Tape
from skode.solvers.fields.pullback import has_own_pullback
from skode.solvers.fields.times import time_dtype_of


def on_unit_interval(
    func: Callable[[Tensor, Tensor], Tensor], span: Tensor, times: Tensor, y0: Tensor
) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    r"""A problem over per-sample spans as one over the unit interval.

    Parameters
    ----------
    func : callable
        The vector field; it receives times of shape (batch, 1, ..., 1).
    span : Tensor of shape (batch, 2), float64
        Each sample's initial and final time.
    times : Tensor of shape (batch, n_times), float64
        Output times.
    y0 : Tensor of shape (batch, \*state)
        The initial states.

    Returns
    -------
    func : callable
        The vector field over the unit interval.
    times : Tensor of shape (batch, n_times)
        Output times in it; what stands for padding is of no account. A sample whose span has no length is answered at
        its start.
    """
    start, length = span[:, :1], span[:, 1:] - span[:, :1]
    # Rounding puts no output outside the unit interval, nor off its end if it lies there: that is x / x.
    unit = (times - start) / torch.where(length == 0.0, 1.0, length)
    column = (len(y0), *[1] * (y0.ndim - 1))
    dtype = time_dtype_of(func, y0)
    start, length = (x.reshape(column).to(y0.device, dtype) for x in (start, length))
    if has_own_pullback(func):
        return UnitIntervalField(func, start, length), unit  # type: ignore[arg-type]

    def scaled(s: Tensor, y: Tensor) -> Tensor:
        return (length * func(start + s * length, y)).to(y.dtype)

    return scaled, unit


class UnitIntervalField:
    """A field with its own pullback, over the unit interval of each sample's span.

    Parameters
    ----------
    func : OffersPullback
        The field over time itself.
    start, length : Tensor of shape (batch, 1, ..., 1)
        Each sample's initial time and signed span.
    owner : Any, default=None
        Whose parameters they are, where ``func`` does not say.
    """

    def __init__(self, func: OffersPullback, start: Tensor, length: Tensor, owner: Any = None) -> None:
        self.func = func
        self.start = start
        self.length = length
        self.parameters = (func if owner is None else owner).parameters
        self.recordable = getattr(func, "recordable", False)

    def bind(self) -> UnitIntervalField:
        """The same over what the field itself binds to, with tapes where that has them."""
        func: Any = self.func
        bound = func.bind() if hasattr(func, "bind") else func
        kind = TapedUnitIntervalField if hasattr(bound, "tape") else UnitIntervalField
        return kind(bound, self.start, self.length, owner=bound if hasattr(bound, "parameters") else self)

    def fused(self, like: Tensor) -> FusedForm | None:
        """Form of the field for the fused path; None where it has none."""
        inner = getattr(self.func, "fused", None)
        form = None if inner is None else inner(like)
        if form is not None:
            start, length = (x.reshape(-1).to(like.dtype).numpy() for x in (self.start, self.length))
            form.over_own_times(start, length)
        return form

    def replay_key(self) -> Hashable | None:
        """Key of recordings, besides :meth:`inputs`."""
        inner = getattr(self.func, "replay_key", None)
        key = None if inner is None else inner()
        return None if key is None else ("own time", key)

    def over(self, parameters: Sequence[Tensor]) -> UnitIntervalField:
        """The same over the same field of other parameters."""
        func: Any = self.func
        return type(self)(func.over(parameters), self.start, self.length)

    def inputs(self) -> list[Tensor]:
        """Tensors that differ from solve to solve."""
        return [self.start, self.length]

    def with_inputs(self, start: Tensor, length: Tensor) -> UnitIntervalField:
        """The same over other spans."""
        return type(self)(self.func, start, length)

    def refresh(self) -> None:
        """Compute anew what the field has computed from its parameters."""
        if hasattr(self.func, "refresh"):
            self.func.refresh()

    def __call__(self, s: float | Tensor, y: Tensor) -> Tensor:
        return self.func(self.start + s * self.length, y) * self.length

    def linearize(self, s: float | Tensor, y: Tensor) -> tuple[Tensor, Any]:
        value, residuals = self.func.linearize(self.start + s * self.length, y)
        return value * self.length, residuals

    def pullback(self, residuals: Any, cotangent: Tensor) -> tuple[Tensor, Any]:
        return self.func.pullback(residuals, cotangent * self.length)

    def parameter_gradients(self, tape: Sequence[tuple[Any, Any]]) -> Sequence[Tensor]:
        return self.func.parameter_gradients(tape)


class TapedUnitIntervalField(UnitIntervalField):
    """The same over a field with tapes and sessions of its own; see :class:`skode.solvers.fields.protocols.Tape`."""

    func: Any

    def tape(self, like: Tensor, n_slots: int) -> UnitIntervalTape:
        """A tape of the field's."""
        return UnitIntervalTape(self, self.func.tape(like, n_slots))

    def session(self) -> UnitIntervalSession:
        """A reverse sweep over such tapes."""
        return UnitIntervalSession(self.length, self.func.session())


class UnitIntervalTape:
    """Evaluations on a field's own tape, each sample's at its own time and scaled by the length of its span.

    Parameters
    ----------
    field : TapedUnitIntervalField
        Whose evaluations they are.
    tape : Tape
        The tape of the field over time itself.
    """

    def __init__(self, field: TapedUnitIntervalField, tape: Tape) -> None:
        self.start, self.length, self.tape = field.start, field.length, tape
        # Times of their own would be made for nothing, evaluation by evaluation, where the field says so.
        self.time_dependent = getattr(field.func, "time_dependent", True)
        self.n_slots, self.reused = tape.n_slots, tape.reused
        self.place, self.state, self.nbytes, self.release = tape.place, tape.state, tape.nbytes, tape.release

    def evaluate(self, slot: int, s: Any, out: Tensor) -> None:
        self.tape.evaluate(slot, self.start + s * self.length if self.time_dependent else s, out)
        out.mul_(self.length)


class UnitIntervalSession:
    """A reverse sweep over such tapes, which scales each cotangent by the lengths of the spans before it is pulled.

    Parameters
    ----------
    length : Tensor of shape (batch, 1, ..., 1)
        Each sample's signed span.
    session : Session
        The sweep over the tapes of the field over time itself.
    """

    def __init__(self, length: Tensor, session: Session) -> None:
        self.length, self.session = length, session
        self.discard, self.parameter_gradients = session.discard, session.parameter_gradients

    def place(self, tape: UnitIntervalTape, slot: int) -> Tensor:
        return self.session.place(tape.tape, slot)

    def pull(self, tape: UnitIntervalTape, slot: int, cotangent: Tensor | None, out: Tensor) -> None:
        placed = self.session.place(tape.tape, slot).view(out.shape)
        torch.mul(placed if cotangent is None else cotangent, self.length, out=placed)
        self.session.pull(tape.tape, slot, None, out)

    def flush(self, tape: UnitIntervalTape) -> None:
        self.session.flush(tape.tape)
