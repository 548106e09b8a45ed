"""Solutions with jumps on their way: leg by leg, each from one event of its series to the next.

A step of the solver across an event would have lost its order there. Legs of all series that have the same number are
one batch; a series that has no event left stays where it is. Gradients go from leg to leg through the states at the
events, and each solve has its own.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from skode.distributed.share import anywhere
from skode.solvers.solution import Solve
from skode.timeseries.events import EventTensors


class JumpingField(Protocol):
    """Dynamics of samples whose states jump by doses."""

    def within(self, begin: Tensor, end: Tensor) -> JumpingField:
        """The dynamics from one time to another, between which inputs do not jump; times of shape (n,)."""

    def jump(self, t: Tensor, amounts: Tensor, x: Tensor) -> Tensor:
        """Changes of states (n, size) by doses of amounts (n, n_columns) at times (n,)."""

    def __call__(self, t: Tensor, x: Tensor, /) -> Tensor: ...


def solved_in_legs(
    field: JumpingField, x0: Tensor, times: Tensor, reach: Tensor, events: EventTensors, solver: Solve
) -> Tensor:
    """States of series at their own times, as :func:`skode.timeseries.latent_ode.solved` has them, across events.

    Parameters
    ----------
    field : JumpingField
        The dynamics, of all copies of all series one after another.
    x0 : Tensor of shape (n_copies, n_series, size)
        States at the starts, before what happens then.
    times : Tensor of shape (n_series, n_times), float64
        Times; NaN: none.
    reach : Tensor of shape (n_series, 2), float64
        How far each series is solved, backward and forward.
    events : EventTensors
        The events; ``before`` has the shape of ``times``.
    solver : callable
        The solver.

    Returns
    -------
    Tensor of shape (n_copies, n_series, n_times, size)
    """
    answer = x0.new_full((*x0.shape[:2], times.shape[1], x0.shape[2]), torch.nan)
    for forward in (True, False):
        here = times >= 0.0 if forward else times < 0.0
        if anywhere(bool(here.any()), solver):
            states = _Side(field, events, times, here, reach, forward=forward).solved(x0, solver)
            answer = torch.where(here[..., None], states, answer)
    return answer


class _Side:
    """One side of the starts: its stops, and the times that are read on each leg."""

    def __init__(
        self,
        field: JumpingField,
        events: EventTensors,
        times: Tensor,
        here: Tensor,
        reach: Tensor,
        *,
        forward: bool,
    ) -> None:
        self.field, self.times, self.here = field, times, here
        self.end = reach[:, 1 if forward else 0]
        n_before = (events.time < 0.0).sum(dim=1, keepdim=True)  # events at the start come after it
        steps = torch.arange(events.time.shape[1], device=times.device)
        places = n_before + steps if forward else n_before - 1 - steps
        there = (places >= 0) & (places < len(steps))
        places = places.clamp(0, max(len(steps) - 1, 0))
        at = events.time.gather(1, places)
        used = there & (at <= self.end[:, None] if forward else at >= self.end[:, None])
        self.n_stops = used.sum(dim=1)
        self.stops = torch.where(used, at, self.end[:, None])
        amounts = events.amounts.gather(1, places[..., None].expand(-1, -1, events.amounts.shape[2]))
        self.amounts = torch.where(used[..., None] & forward, amounts, 0.0)  # none comes before a start
        passed = events.before - n_before if forward else n_before - events.before
        self.passed = torch.minimum(passed.clamp_min(0), self.n_stops[:, None])

    def solved(self, x0: Tensor, solver: Solve) -> Tensor:
        """States at the times of this side, of shape (n_copies, n_series, n_times, size)."""
        n_copies, n, size = x0.shape
        n_legs = int(self.n_stops.max()) + 1 if n else 1
        x = start = x0.flatten(0, 1)
        begin = torch.zeros_like(self.end)
        places, n_read, found = torch.zeros_like(self.passed), 0, []
        leg = 0
        while anywhere(leg < n_legs, solver):
            end = self.stops[:, leg] if leg < self.stops.shape[1] else self.end
            own = self.here & (self.passed == leg)
            slot = torch.cumsum(own, dim=1) - 1
            n_slots = int(own.sum(dim=1).amax()) if n else 0
            t_eval = self.times.new_full((n, n_slots + 1), torch.nan)
            t_eval = t_eval.scatter(1, torch.where(own, slot, n_slots), self.times)
            t_eval[:, -1] = end
            # What could not be solved so far is solved from elsewhere, and not used.
            sound = torch.isfinite(x).all(dim=1)
            states = self._leg(torch.where(sound[:, None], x, start.detach()), begin, end, t_eval, solver)
            states = torch.where(sound[:, None, None], states, torch.nan)
            found.append(states)
            places = torch.where(own, n_read + slot, places)
            n_read += n_slots + 1
            x = states[:, -1]
            if leg < self.stops.shape[1]:
                x = self._after_doses(x, end, self.amounts[:, leg], n_copies)
            begin = end
            leg += 1
        places = places.repeat(n_copies, 1)[..., None].expand(-1, -1, size)
        return torch.cat(found, dim=1).gather(1, places).unflatten(0, (n_copies, n))

    def _leg(self, x: Tensor, begin: Tensor, end: Tensor, t_eval: Tensor, solver: Solve) -> Tensor:
        """States at the times of a leg, of which the last is its end."""
        if not anywhere(bool((begin != end).any()), solver):
            return x[:, None].expand(-1, t_eval.shape[1], -1)
        n_copies = len(x) // max(len(end), 1)
        begin, end, t_eval = (values.repeat(n_copies, *[1] * (values.ndim - 1)) for values in (begin, end, t_eval))
        field = self.field.within(begin, end)
        return solver(field, torch.stack([begin, end], dim=1), x, t_eval=t_eval).y

    def _after_doses(self, x: Tensor, t: Tensor, amounts: Tensor, n_copies: int) -> Tensor:
        """States behind the doses at the end of a leg."""
        if not amounts.shape[1]:
            return x
        jump = self.field.jump(t.repeat(n_copies), amounts.repeat(n_copies, 1).to(x), x)
        given = (amounts != 0.0).any(dim=1).repeat(n_copies)
        return torch.where(given[:, None], x + jump.to(x), x)
