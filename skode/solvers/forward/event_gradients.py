"""Times and states of events, as functions of what the solution depends on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skode.solvers.fields.autograd import evaluated
from skode.solvers.fields.times import time_tensor
from skode.solvers.first_order import once_differentiable
from skode.solvers.forward.events import Event, EventFinder
from skode.solvers.time_gradients import ZERO_STEP_ORDER, Sides, zero_step
from skode.solvers.transforms import in_dual_level, is_transformed


def differentiable(
    event: Event, func: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor, *, exact: bool
) -> tuple[Tensor, Tensor]:
    """Time and state of events as functions of what the solution depends on.

    The solution ``y`` is given at fixed times ``t``. By the implicit function theorem on ``g(t, y(t)) = 0`` the time
    moves by ``-dg / (dg/dt + dg/dy . f)`` for a change ``dg`` at fixed time, and the state by ``f`` times that
    (R. T. Q. Chen, B. Amos, M. Nickel, "Learning neural event functions", ICLR 2021). That is a Newton iteration for
    the time from its own solution. Each further one has one more derivative right, if the state moves along the
    solution: by a Runge-Kutta step, of no length, whose derivatives are right up to its order.

    Parameters
    ----------
    event : Event
        The event.
    func : callable
        The vector field.
    t : Tensor, 0-dimensional or a column
        The times, in the state's dtype.
    y : Tensor
        The states there, with their graph.
    exact : bool
        Whether derivatives up to the fourth are right; else that of first order is, and others are refused.

    Returns
    -------
    t, y : Tensor
        The same values, differentiable as those of the event.
    """
    rates = functools.partial(evaluated, func)
    slope = _slope(event, rates, t.detach(), y.detach())

    def moved(shift: Tensor) -> Tensor:
        return zero_step(rates, y, t, shift)

    shift, state = torch.zeros_like(t), y
    for i in range(ZERO_STEP_ORDER if exact else 1):
        state = moved(shift) if i else y
        g = event.func(t + shift, state)
        shift = shift - ((g - g.detach()) / slope).view(t.shape)
    if exact:
        return t + shift, moved(shift)
    with torch.no_grad():
        rate = rates(t, y.detach())
    shift = once_differentiable(shift)
    return t + shift, y + rate * shift.to(y)


def _slope(event: Event, func: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor) -> Tensor:
    """``dg/dt + dg/dy . f`` as a number, or one for each sample; 1 where it is 0."""
    with torch.no_grad():
        rate = func(t, y)
    slopes: Any
    if is_transformed(rate) or is_transformed(y):
        value, pull = torch.func.vjp(event.func, t, y)[:2]
        slopes = pull(torch.ones_like(value))
    else:
        with torch.enable_grad():
            time, state = t.requires_grad_(), y.requires_grad_()
            value = event.func(time, state)
            slopes = torch.autograd.grad(value.sum(), (time, state), allow_unused=True)
    along = torch.zeros_like(value) if slopes[0] is None else slopes[0].reshape(value.shape)
    if slopes[1] is not None:
        product = slopes[1] * rate
        along = along + (product.flatten(1).sum(1) if value.ndim else product.sum())
    return torch.where(along == 0.0, 1.0, along).detach()  # where g only touches zero its time has no derivative


def occurrences(
    finder: EventFinder,
    func: Callable[[Tensor, Tensor], Tensor],
    outputs: Tensor,
    times: Tensor,
    y0: Tensor,
    *,
    exact: bool,
    sides: Sides,
) -> tuple[list[Tensor], list[Tensor]]:
    """Times and states of all events that were found, differentiable where the outputs are.

    Parameters
    ----------
    finder : EventFinder
        After the solve.
    func : callable
        The vector field.
    outputs : Tensor of shape (m, ...)
        All outputs of the solve.
    times : Tensor of shape (m,), float64
        When they are.
    y0 : Tensor
        The initial state.
    exact : bool
        Whether autograd has recorded the solve, so that derivatives of higher order are known.
    sides : Sides
        On which side of jumps the field moves the states of events.
    """
    solved = _Solved(func, outputs, times, y0, exact, sides)
    of = solved.of_samples if finder.rowwise else solved.of_state
    pairs = [of(event, found) for event, found in zip(finder.events, finder.found, strict=True)]
    return [t for t, _ in pairs], [y for _, y in pairs]


@dataclass(frozen=True)
class _Solved:
    """A solve whose events were found: the arguments of :func:`occurrences`."""

    func: Any
    outputs: Tensor
    times: Tensor
    y0: Tensor
    exact: bool
    sides: Sides

    def of_state(self, event: Event, found: list[tuple[int, float, int]]) -> tuple[Tensor, Tensor]:
        """The occurrences of an event of the whole state."""
        if not found:
            return self.times.new_empty(0), self.y0.new_empty((0, *self.y0.shape))
        t, y = zip(*(self._at(event, self.times[p], self.outputs[p]) for _, _, p in found), strict=True)
        return torch.stack(t), torch.stack(y)

    def of_samples(self, event: Event, found: list[tuple[int, float, int]]) -> tuple[Tensor, Tensor]:
        """The occurrences of an event of samples, padded to the most that one of them has."""
        y0, times, outputs, n = self.y0, self.times, self.outputs, len(self.y0)
        by_sample: list[list[int]] = [[] for _ in range(n)]
        for sample, _, position in found:
            by_sample[sample].append(position)
        columns = []
        for j in range(max(map(len, by_sample), default=0)):
            here = torch.tensor([len(own) > j for own in by_sample])
            places = torch.tensor([own[j] if len(own) > j else 0 for own in by_sample])
            shape = (n, *[1] * (y0.ndim - 1))
            there = here.to(y0.device).view(shape)
            y = torch.where(there, outputs[places.to(y0.device)], y0.detach())
            t = torch.where(here, times[places], 0.0)
            t, y = self._at(event, t.view(shape).to(y0.device), y)
            columns.append((torch.where(here, t.view(n).cpu(), torch.nan), torch.where(there, y, torch.nan)))
        if not columns:
            return times.new_empty((n, 0)), y0.new_empty((n, 0, *y0.shape[1:]))
        return torch.stack([t for t, _ in columns], dim=1), torch.stack([y for _, y in columns], dim=1)

    def _at(self, event: Event, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """An event as it is, or differentiable; its time stays in float64."""
        if not (torch.is_grad_enabled() or in_dual_level()):
            return t, y
        func = self.func
        time, state = differentiable(event, self.sides.func(func, t, y), time_tensor(t, y, func), y, exact=self.exact)
        return t.detach() + (time - time.detach()).to(t), state
