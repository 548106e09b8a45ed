"""Events: zeros of functions of time and state, found in each step on its interpolant.

SciPy's semantics: an event is a sign change of ``g(t, y(t))``, in either direction or in one; a terminal one ends the
solve. A zero at the start is an event there, unless ``g`` goes the way that ``direction`` leaves out; a zero at the end
of a step is one event, where SciPy finds it again at the start of the next. A function that returns one number is an
event of the whole state; one that returns a number per sample is an event of each sample by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.fields.autograd import evaluated
from skode.solvers.fields.samples import take_samples
from skode.solvers.fields.times import column, time_tensor
from skode.solvers.first_order import once_differentiable
from skode.solvers.forward.move import Move
from skode.solvers.forward.output_times import Positions, Reading
from skode.solvers.indexing import index
from skode.solvers.time_gradients import ZERO_STEP_ORDER, Sides, zero_step
from skode.solvers.transforms import in_dual_level, is_mapped, is_transformed, numbers

EventFunction = Callable[[Tensor, Tensor], Tensor]
MAX_BISECTIONS = 100


@dataclass(frozen=True)
class Event:
    """An event function with SciPy's attributes.

    Attributes
    ----------
    func : callable
        ``g(t, y)``.
    direction : float
        Positive: only from negative to positive; negative: only the other way; 0: both.
    terminal : int
        Ends the solve (of that sample) at its this-many-th occurrence; 0 for never.
    """

    func: EventFunction
    direction: float
    terminal: int


def as_events(events: Any) -> list[Event]:
    """Checked events from what the user passed: a callable, or a sequence of them, with SciPy's attributes."""
    if events is None:
        return []
    functions = [events] if callable(events) else list(events)
    checked = []
    for func in functions:
        if not callable(func):
            raise TypeError(f"events must be callables event(t, y), got {func!r}.")
        terminal, direction = getattr(func, "terminal", False), getattr(func, "direction", 0.0)
        if isinstance(terminal, float) or int(terminal) < 0:
            raise ValueError(f"An event's terminal attribute must be a bool or an integer >= 0, got {terminal!r}.")
        checked.append(Event(func, float(direction), int(terminal)))
    return checked


def refuse_other_than_numbers(value: Any) -> None:
    """Refuse what an event function returned unless its changes of sign can be found."""
    if not isinstance(value, Tensor):
        raise TypeError(f"An event must return a tensor, got {type(value).__name__}.")
    if not value.is_floating_point():
        raise TypeError(
            f"An event must return floating-point numbers, whose sign changes on the way, got {value.dtype}: "
            "return the difference (y - 1.0) rather than the comparison (y > 1.0)."
        )


class EventFinder:
    """Finds events step by step.

    Parameters
    ----------
    events : list of Event
        What to look for.
    t0 : float
        The initial time.
    y0 : Tensor
        The initial state.
    per_sample : bool
        Whether every sample takes its own steps.
    time_dtype : dtype, default=None
        Of which events' times are; the state's where None.

    Attributes
    ----------
    rowwise : bool
        Whether events belong to samples rather than to the whole state.
    found : list of list of tuple
        For each event: (sample or -1, time, position of its state among the outputs).
    stopped : ndarray of bool
        Which samples have met a terminal event; one entry for the whole state where not ``rowwise``.
    terminal_times : ndarray
        When they did; infinity where they did not.
    stop_positions : ndarray of int
        The positions of those events' states among the outputs.
    """

    def __init__(
        self,
        events: Sequence[Event],
        t0: float,
        y0: Tensor,
        *,
        per_sample: bool,
        time_dtype: torch.dtype | None = None,
    ) -> None:
        self.events = list(events)
        self.time_dtype = time_dtype
        self.found: list[list[tuple[int, float, int]]] = [[] for _ in self.events]
        with torch.no_grad():
            values = [
                self._value(event.func, torch.as_tensor(t0, dtype=time_dtype or y0.dtype, device=y0.device), y0)
                for event in events
            ]
        shapes = {value.shape for value in values}
        n_samples = y0.shape[0] if y0.ndim else 1
        if shapes == {(n_samples,)} and y0.ndim:
            self.rowwise = True
        elif shapes == {()} and not per_sample:
            self.rowwise = False
        else:
            each = f"one number per sample, of shape ({n_samples},)"
            wanted = each if per_sample else f"a 0-dimensional tensor, or {each}; all events alike"
            raise ValueError(f"events must return {wanted}; got shapes {sorted(map(tuple, shapes))}.")
        self.values = np.stack([value.reshape(-1) for value in values])
        self.begun = np.zeros(self.values.shape[1], dtype=bool)
        self.stopped = np.zeros(self.values.shape[1], dtype=bool)
        self.counts = np.zeros(self.values.shape, dtype=np.int64)
        self.terminal_times = np.full(self.values.shape[1], np.inf)
        self.stop_positions = np.empty(0, dtype=np.int64)
        self.functions = [event.func for event in self.events]

    def on_unit_interval(self, spans: Tensor) -> None:
        """Look for the events of a problem that is solved over the unit interval of each sample's span."""

        def mapped(func: EventFunction) -> EventFunction:
            def in_unit_time(s: Tensor, y: Tensor) -> Tensor:
                start, length = spans[:, 0], spans[:, 1] - spans[:, 0]
                column = (len(y), *[1] * (y.ndim - 1))
                start, length = (x.to(s.device, s.dtype).view(column) for x in (start, length))
                return func(start + s.view(column) * length, y)

            return in_unit_time

        self.functions = [mapped(event.func) for event in self.events]

    @staticmethod
    def _value(func: EventFunction, t: Tensor, y: Tensor) -> np.ndarray:
        value = func(t, y)
        refuse_other_than_numbers(value)
        if is_mapped(value):
            raise TypeError(
                "Events can't be found inside torch.func.vmap, as each state that is mapped over has its own: pass a "
                "batch of states as one y0, and let the event function return one number per sample."
            )
        return numbers(value).astype(np.float64)

    def in_step(self, move: Move, positions: Positions) -> tuple[list[Reading], np.ndarray]:
        """Events inside a step.

        Returns
        -------
        readings : list of Reading
            The states at the events, as outputs of the step.
        stop : ndarray
            Where in the step each of its samples met a terminal event; inf for those that did not.
        """
        taken = move.taken
        samples = move.rows if self.rowwise and move.rows is not None else np.arange(self.values.shape[1])
        t, t_next = (np.broadcast_to(np.asarray(time), samples.shape) for time in (move.t, move.t_next))
        stop = np.full(len(samples), np.inf)
        occurrences: list[tuple[int, np.ndarray, np.ndarray]] = []
        with torch.no_grad():
            everyone = len(samples) == self.values.shape[1]
            rows = None if everyone else index(samples, taken.y)
            for k, event in enumerate(self.events):
                func = self.functions[k] if rows is None else take_samples(self.functions[k], rows)
                new = self._value(func, self._time(t_next, taken.y), taken.y_next.detach()).reshape(-1)
                old = self.values[k, samples]
                from_below = (old < 0.0) | ((old == 0.0) & ~self.begun[samples])
                from_above = (old > 0.0) | ((old == 0.0) & ~self.begun[samples])
                crossed = np.zeros(len(samples), dtype=bool)
                if event.direction >= 0.0:
                    crossed |= from_below & (new >= 0.0)
                if event.direction <= 0.0:
                    crossed |= from_above & (new <= 0.0)
                crossed &= ~self.stopped[samples]
                self.values[k, samples] = new
                if crossed.any():
                    theta = self._root(func, move, t, t_next, old, new, crossed)
                    self.counts[k, samples[crossed]] += 1
                    if event.terminal:
                        ends = crossed & (self.counts[k, samples] == event.terminal)
                        stop = np.where(ends, np.minimum(stop, theta), stop)
                    occurrences.append((k, np.flatnonzero(crossed), theta))
        self.begun[samples] = True
        readings = []
        for k, local, theta in occurrences:
            local = local[theta[local] <= stop[local]]
            new_positions = positions.take(len(local))
            times = t[local] + theta[local] * (t_next - t)[local]
            numbers = samples[local] if self.rowwise else np.full(len(local), -1)
            self.found[k] += zip(numbers.tolist(), times.tolist(), new_positions.tolist(), strict=True)
            positions.note(new_positions, times, samples[local] if self.rowwise else None)
            readings.append(Reading(new_positions, theta[local], local if self.rowwise else None))
            last = theta[local] == stop[local]
            self.terminal_times[samples[local[last]]] = times[last]
            self.stop_positions = np.append(self.stop_positions, new_positions[last])
        self.stopped[samples] |= np.isfinite(stop)
        return [reading for reading in readings if len(reading.positions)], stop

    def _time(self, t: np.ndarray, y: Tensor) -> Tensor:
        """Times as an event function receives them: one for the state, or a column of one per sample."""
        if not self.rowwise:
            return torch.as_tensor(float(t[0]), dtype=self.time_dtype or y.dtype, device=y.device)
        return column(t, y, self.time_dtype)

    def _root(
        self,
        func: EventFunction,
        move: Move,
        t: np.ndarray,
        t_next: np.ndarray,
        g0: np.ndarray,
        g1: np.ndarray,
        crossed: Any,
    ) -> np.ndarray:
        """Where in the step each crossing lies: false position with Illinois' weights, every third time bisection."""
        low, high = np.zeros(len(g0)), np.ones(len(g0))
        g_low, g_high = g0.copy(), g1.copy()
        high[g0 == 0.0] = 0.0
        side = np.zeros(len(g0))
        for i in range(MAX_BISECTIONS):
            open_ = crossed & (high - low > 4 * np.finfo(float).eps) & (g_high != 0.0)
            if not open_.any():
                break
            with np.errstate(all="ignore"):
                secant = high - g_high * (high - low) / (g_high - g_low)
            middle = 0.5 * (low + high)
            usable = np.isfinite(secant) & (secant > low) & (secant < high) & (i % 3 != 2)
            theta = np.where(open_, np.where(usable, secant, middle), 1.0)
            time = self._time(t + theta * (t_next - t), move.taken.y)
            g = self._value(func, time, self._state(move, theta)).reshape(-1)
            before = np.sign(g) == np.sign(g_low)
            rises, falls = open_ & before, open_ & ~before
            g_high = np.where(rises & (side == 1.0), 0.5 * g_high, g_high)
            g_low = np.where(falls & (side == -1.0), 0.5 * g_low, g_low)
            low, g_low = np.where(rises, theta, low), np.where(rises, g, g_low)
            high, g_high = np.where(falls, theta, high), np.where(falls, g, g_high)
            side = np.where(rises, 1.0, np.where(falls, -1.0, side))
        return high

    def _state(self, move: Move, theta: np.ndarray) -> Tensor:
        """The states of all samples of a step, each at its own place in it."""
        taken, h = move.taken, move.h
        y = taken.y.detach()
        weights = torch.from_numpy(taken.tableau.interpolation_weights(theta)).to(y)
        stages = taken.stages.detach()
        if not self.rowwise:
            return y + (weights[0] @ stages).view(y.shape) * float(h)
        own = stages.view(len(stages), len(y), -1)
        inside = torch.einsum("ns,snf->nf", weights, own).view(y.shape)
        return y + (h.detach() if isinstance(h, Tensor) else h) * inside


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
    t_events, y_events = [], []
    for event, found in zip(finder.events, finder.found, strict=True):
        if finder.rowwise:
            t, y = _of_samples(event, found, func, outputs, times, y0, exact, sides)
        else:
            pairs = [_at(event, func, times[p], outputs[p], exact, sides) for _, _, p in found]
            t = torch.stack([pair[0] for pair in pairs]) if pairs else times.new_empty(0)
            y = torch.stack([pair[1] for pair in pairs]) if pairs else y0.new_empty((0, *y0.shape))
        t_events.append(t)
        y_events.append(y)
    return t_events, y_events


def _at(event: Event, func: Any, t: Tensor, y: Tensor, exact: bool, sides: Sides) -> tuple[Tensor, Tensor]:
    """An event as it is, or differentiable; its time stays in float64."""
    if not (torch.is_grad_enabled() or in_dual_level()):
        return t, y
    time, state = differentiable(event, sides.func(func, t, y), time_tensor(t, y, func), y, exact=exact)
    return t.detach() + (time - time.detach()).to(t), state


def _of_samples(
    event: Event,
    found: list[tuple[int, float, int]],
    func: Any,
    outputs: Tensor,
    times: Tensor,
    y0: Tensor,
    exact: bool,
    sides: Sides,
) -> tuple[Tensor, Tensor]:
    """Events of samples, padded to the most that one of them has."""
    n = len(y0)
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
        t, y = _at(event, func, t.view(shape).to(y0.device), y, exact, sides)
        columns.append((torch.where(here, t.view(n).cpu(), torch.nan), torch.where(there, y, torch.nan)))
    if not columns:
        return times.new_empty((n, 0)), y0.new_empty((n, 0, *y0.shape[1:]))
    return torch.stack([t for t, _ in columns], dim=1), torch.stack([y for _, y in columns], dim=1)
