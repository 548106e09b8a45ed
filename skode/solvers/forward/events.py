"""Events: zeros of functions of time and state, found in each step on its interpolant.

SciPy's semantics: an event is a sign change of ``g(t, y(t))``, in either direction or in one; a terminal one ends the
solve. A zero at the start is an event there, unless ``g`` goes the way that ``direction`` leaves out; a zero at the end
of a step is one event, where SciPy finds it again at the start of the next. A function that returns one number is an
event of the whole state; one that returns a number per sample is an event of each sample by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skode.solvers.fields.samples import take_samples
from skode.solvers.fields.times import column
from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.event_roots import roots
from skode.solvers.forward.output_times import Positions, Reading
from skode.solvers.indexing import index
from skode.solvers.transforms import is_mapped, numbers

EventFunction = Callable[[Tensor, Tensor], Tensor]


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


def check_event_value(value: Any) -> None:
    """Refuse what an event function returned unless its changes of sign can be found."""
    if not isinstance(value, Tensor):
        raise TypeError(f"An event must return a tensor, got {type(value).__name__}.")
    if not value.is_floating_point():
        raise TypeError(
            f"An event must return floating-point numbers, whose sign changes on the way, got {value.dtype}: "
            "return the difference (y - 1.0) rather than the comparison (y > 1.0)."
        )


class _Watched(NamedTuple):
    """A step in which events are looked for: event functions, numbers of the samples, its start and end for each."""

    accepted: AcceptedStep
    functions: Sequence[EventFunction]
    samples: np.ndarray
    t: np.ndarray
    t_next: np.ndarray


class EventFinder:
    """Finds events step by step.

    Parameters
    ----------
    events : list of Event
        The events to look for.
    t0 : float
        The initial time.
    y0 : Tensor
        The initial state.
    per_sample : bool
        Whether every sample takes its own steps.
    time_dtype : dtype, default=None
        The dtype of the times that event functions receive; None: that of the state.

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
        check_event_value(value)
        if is_mapped(value):
            raise TypeError(
                "Events can't be found inside torch.func.vmap, as each state that is mapped over has its own: pass a "
                "batch of states as one y0, and let the event function return one number per sample."
            )
        return numbers(value).astype(np.float64)

    def in_step(self, step: AcceptedStep, positions: Positions) -> tuple[list[Reading], np.ndarray]:
        """Events inside a step.

        Returns
        -------
        readings : list of Reading
            The states at the events, as outputs of the step.
        stop : ndarray
            Where in the step each of its samples met a terminal event; inf for those that did not.
        """
        samples = step.rows if self.rowwise and step.rows is not None else np.arange(self.values.shape[1])
        t, t_next = (np.broadcast_to(np.asarray(time), samples.shape) for time in (step.t, step.t_next))
        functions = self.functions
        if len(samples) < self.values.shape[1]:
            functions = [take_samples(func, index(samples, step.taken.y)) for func in functions]
        watched = _Watched(step, functions, samples, t, t_next)
        stop = np.full(len(samples), np.inf)
        crossings: list[tuple[int, np.ndarray, np.ndarray]] = []
        with torch.no_grad():
            for k, event in enumerate(self.events):
                old, new, crossed = self._crossed(k, watched)
                if crossed.any():
                    theta = self._root(k, watched, old, new, crossed)
                    self.counts[k, samples[crossed]] += 1
                    if event.terminal:
                        ends = crossed & (self.counts[k, samples] == event.terminal)
                        stop = np.where(ends, np.minimum(stop, theta), stop)
                    crossings.append((k, np.flatnonzero(crossed), theta))
        self.begun[samples] = True
        readings = [self._noted(k, watched, local, theta, stop, positions) for k, local, theta in crossings]
        self.stopped[samples] |= np.isfinite(stop)
        return [reading for reading in readings if len(reading.positions)], stop

    def _crossed(self, k: int, watched: _Watched) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The values of an event function at the ends of a step, and where they have the signs of an event."""
        event, samples, taken = self.events[k], watched.samples, watched.accepted.taken
        time = self._time(watched.t_next, taken.y)
        new = self._value(watched.functions[k], time, taken.y_next.detach()).reshape(-1)
        old = self.values[k, samples]
        from_below = (old < 0.0) | ((old == 0.0) & ~self.begun[samples])
        from_above = (old > 0.0) | ((old == 0.0) & ~self.begun[samples])
        crossed = np.zeros(len(samples), dtype=bool)
        if event.direction >= 0.0:
            crossed |= from_below & (new >= 0.0)
        if event.direction <= 0.0:
            crossed |= from_above & (new <= 0.0)
        self.values[k, samples] = new
        return old, new, crossed & ~self.stopped[samples]

    def _root(self, k: int, watched: _Watched, old: np.ndarray, new: np.ndarray, crossed: np.ndarray) -> np.ndarray:
        """Where in a step an event function is zero."""
        func, step, length = watched.functions[k], watched.accepted, watched.t_next - watched.t

        def value(theta: np.ndarray) -> np.ndarray:
            time = self._time(watched.t + theta * length, step.taken.y)
            return self._value(func, time, self._state(step, theta)).reshape(-1)

        return roots(value, old, new, crossed)

    def _noted(
        self,
        k: int,
        watched: _Watched,
        local: np.ndarray,
        theta: np.ndarray,
        stop: np.ndarray,
        positions: Positions,
    ) -> Reading:
        """Take note of the occurrences of an event that come no later than a terminal one."""
        local = local[theta[local] <= stop[local]]
        own, theta = watched.samples[local], theta[local]
        new_positions = positions.take(len(local))
        times = watched.t[local] + theta * (watched.t_next - watched.t)[local]
        numbers = own if self.rowwise else np.full(len(local), -1)
        self.found[k] += zip(numbers.tolist(), times.tolist(), new_positions.tolist(), strict=True)
        positions.note(new_positions, times, own if self.rowwise else None)
        last = theta == stop[local]
        self.terminal_times[own[last]] = times[last]
        self.stop_positions = np.append(self.stop_positions, new_positions[last])
        return Reading(new_positions, theta, local if self.rowwise else None)

    def _time(self, t: np.ndarray, y: Tensor) -> Tensor:
        """Times as an event function receives them: one for the state, or a column of one per sample."""
        if not self.rowwise:
            return torch.as_tensor(float(t[0]), dtype=self.time_dtype or y.dtype, device=y.device)
        return column(t, y, self.time_dtype)

    def _state(self, step: AcceptedStep, theta: np.ndarray) -> Tensor:
        """The states of all samples of a step, each at its own place in it."""
        taken, h = step.taken, step.taken.h
        y = taken.y.detach()
        weights = torch.from_numpy(taken.tableau.interpolation_weights(theta)).to(y)
        assert taken.stages is not None
        stages = taken.stages.detach()
        if not self.rowwise:
            return y + (weights[0] @ stages).view(y.shape) * float(h)
        own = stages.view(len(stages), len(y), -1)
        inside = torch.einsum("ns,snf->nf", weights, own).view(y.shape)
        return y + (h.detach() if isinstance(h, Tensor) else h) * inside
