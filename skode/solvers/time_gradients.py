r"""Derivatives with respect to times: a solution moves along its field when the ends of the solve move.

The state at an output time follows ``dy(t)/dt = f(t, y(t))``. The initial time moves it as if the initial state were
moved against the field, ``dy(t)/dt0 = -(dy(t)/dy0) f(t0, y0)`` (Hairer, Norsett, Wanner, Solving Ordinary Differential
Equations I, section I.14), and a time tau at which the field jumps from ``f-`` to ``f+`` moves it by
``(dy(t)/dy(tau)) (f- - f+)`` (S. Galan, W. F. Feehery, P. I. Barton, "Parametric sensitivity functions for hybrid
discrete/continuous systems", Applied Numerical Mathematics 31, 1999). None of this depends on how the solve was done,
nor on what lies between. So a solve takes all times as constants: initial states are moved before it, states at jumps
on the way, and outputs after it.

How a state is moved depends on whether derivatives of higher order are wanted. With ``adjoint="backprop"`` it is a step
of size zero of Kutta's method of order 4 (Hairer, Norsett, Wanner I, section II.1), recorded by autograd, which has the
solution's first four derivatives. With the other adjoints it costs one evaluation in the backward pass, and has the
first derivative only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.fields.autograd import evaluated
from skode.solvers.fields.protocols import Field
from skode.solvers.fields.times import column, time_dtype_of, time_tensor
from skode.solvers.first_order import first_order
from skode.solvers.nearest_time import nearest_time
from skode.solvers.transforms import check_adjoint_of_transform, is_transformed, numbers, transform_of

# The field at times of shape (m,), or of none, and as many states.
Rates = Callable[[Tensor, Tensor], Tensor]

#: Up to which order the derivatives of a step of size zero are the solution's.
ZERO_STEP_ORDER = 4


class Sides:
    """On which side of a discontinuity the field moves a state that lies at it: on that of the step the state is of.

    At the start that is just after, elsewhere just before; so a time that is a jump and an output at once, or the start
    at once, moves the solution by what the steps have seen of the field.

    Parameters
    ----------
    jumps : collection of float
        The times at which the field jumps.
    nudged : bool
        Whether every time may be one.
    span : ndarray of shape (2,) or (n_samples, 2)
        The time span, or that of each sample.
    """

    def __init__(self, jumps: Collection[float], nudged: bool, span: np.ndarray) -> None:
        self.jumps, self.nudged, self.span = jumps, nudged, span

    def rates(self, rates: Rates, t: Tensor, rows: np.ndarray | None, dtype: torch.dtype) -> Rates:
        """The field at these times, of these samples, on its right side; times are seen in a dtype."""
        if not (self.jumps or self.nudged):
            return rates
        times = numbers(t)
        exact, aside = self._aside(times, rows, dtype)
        return _shifted(rates, torch.where(aside == exact, 0.0, aside.double() - torch.from_numpy(np.asarray(times))))

    def func(self, func: Any, t: Tensor, y: Tensor) -> Any:
        """The same for a function of times of its own dtype and shape."""
        if not (self.jumps or self.nudged):
            return func
        exact, aside = self._aside(numbers(t).ravel(), None, time_dtype_of(func, y))
        by = (aside - exact).view(t.shape).to(y.device)
        return lambda time, state: func(time + by, state)

    def _aside(self, times: np.ndarray, rows: np.ndarray | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The times in a dtype, and those nearest to them where they are jumps."""
        span = self.span if rows is None or self.span.ndim == 1 else self.span[rows]
        start, direction = span[..., 0], np.where(span[..., 1] < span[..., 0], -1.0, 1.0)
        there = torch.from_numpy(np.asarray(self.nudged | np.isin(times, sorted(self.jumps))))
        exact, nearest = nearest_time(times, np.where(times == start, direction, -direction), dtype)
        return exact, torch.where(there, nearest, exact)


def moved_start(func: Any, y0: Tensor, t0: Tensor, adjoint: str, sides: Sides | None = None) -> Tensor:
    r"""The initial state, as what it becomes at a fixed time near ``t0`` when ``t0`` moves.

    Parameters
    ----------
    func : callable
        The vector field.
    y0 : Tensor of shape (\*state)
        The state at ``t0``.
    t0 : Tensor of shape () or (batch,), float64
        The initial time, or that of each sample.
    adjoint : str
        How the solve is differentiated.
    sides : Sides or None
        On which side of jumps.
    """
    rates = _rates_at(func)
    if sides is not None:
        rates = sides.rates(rates, t0, None, time_dtype_of(func, y0))
    return _moved(y0, t0, rates, adjoint, away=True)


def moved_outputs(
    func: Any,
    outputs: Tensor,
    t: Tensor,
    adjoint: str,
    rows: np.ndarray | None,
    y0: Tensor,
    sides: Sides | None = None,
) -> Tensor:
    r"""Outputs as functions of their times.

    Parameters
    ----------
    func : callable
        The vector field. Where outputs are those of single samples it must treat samples independently.
    outputs : Tensor of shape (m, \*state), or (m, \*state[1:]) for single samples
        The states at these times; NaN where one was not reached, which does not move.
    t : Tensor of shape (m,), float64
        The times.
    adjoint : str
        How the solve is differentiated.
    rows : ndarray of shape (m,) or None
        The sample of each output.
    y0 : Tensor of shape (\*state)
        The initial state.
    sides : Sides or None
        On which side of jumps.
    """
    if not len(outputs):
        return outputs
    rates = _rates_of_outputs(func) if rows is None else _rates_of_samples(func, rows, y0.detach())
    if sides is not None:
        rates = sides.rates(rates, t, rows, time_dtype_of(func, y0))
    reached = torch.isfinite(outputs.detach()).reshape(len(outputs), -1).all(1)
    if is_transformed(outputs) or bool(reached.all()):
        return _moved(outputs, t, rates, adjoint)
    # An evaluation at NaN would reach the times and parameters as 0 * NaN.
    standing = y0.detach() if rows is None else y0.detach()[_index(rows, y0)]
    there = reached.view(-1, *[1] * (outputs.ndim - 1))
    moved = _moved(torch.where(there, outputs, standing), t, rates, adjoint)
    return torch.where(there, moved, outputs)


class Jumps:
    """Times inside the span that require grad, at which the field jumps.

    Parameters
    ----------
    times : Tensor
        The times that the user gave, of any shape.
    inside : collection of float
        Those of them that the solve meets.
    direction : float, or ndarray of shape (n_samples,)
        1 or -1, the direction of integration, of each sample where these have spans of their own.

    Attributes
    ----------
    times : Tensor of shape (n_jumps,), float64
        Those inside, with their graph.
    place : dict
        Where in it each stands.
    """

    def __init__(self, times: Tensor, inside: Collection[float], direction: float | np.ndarray) -> None:
        flat = times.reshape(-1).double().cpu()
        first: dict[float, int] = {}
        for place, time in enumerate(numbers(flat).tolist()):
            if time in inside:
                first.setdefault(time, place)
        self.times = flat[list(first.values())]
        self.place = {time: i for i, time in enumerate(first)}
        self.direction = direction

    def at(self, t: Any) -> list[tuple[float, np.ndarray | None]]:
        """The jumps among the ends of a step, and which of the samples that took it end there; None for all."""
        if not isinstance(t, np.ndarray):
            return [(t, None)] if t in self.place else []
        return [(time, np.flatnonzero(t == time)) for time in self.place if (t == time).any()]

    def pull(
        self, gradient: Tensor, field: Field, t: float, y: Tensor, cotangent: Tensor, samples: np.ndarray | None
    ) -> None:
        """Add to the gradient of all jumps what the cotangent of the state just after one of them gives it."""
        before, after = self._sides(t, y, samples, time_dtype_of(field, y))
        gradient[self.place[t]] += float((cotangent * (field(before, y) - field(after, y))).sum())

    def move(self, func: Any, t: float, y: Tensor, samples: np.ndarray | None) -> Tensor:
        """The state at a jump, as what it becomes at a fixed time when the jump moves, under autograd."""
        time = self.times[self.place[t]]
        time = time if samples is None else time.expand(len(y))
        for side, away in zip(self._sides(t, y, samples, time_dtype_of(func, y)), (False, True), strict=True):
            shift = torch.as_tensor(side, dtype=time.dtype, device="cpu").reshape(time.shape) - time.detach()
            y = _moved_exactly(y, time, _shifted(_rates_at(func), shift), away=away)
        return y

    def _sides(self, t: float, y: Tensor, samples: np.ndarray | None, dtype: torch.dtype) -> tuple[Any, Any]:
        """The times before and after a jump that are nearest to it."""
        direction: Any = self.direction
        if samples is None:
            before, after = (nearest_time(t, side * direction, dtype)[1] for side in (-1.0, 1.0))
            return float(before), float(after)
        own = direction[samples] if isinstance(direction, np.ndarray) else np.full(len(y), direction)
        ahead = column(own, y, dtype)
        return nearest_time(t, -ahead, dtype)[1], nearest_time(t, ahead, dtype)[1]


def _shifted(rates: Rates, by: Tensor) -> Rates:
    """The field a little earlier or later."""
    return lambda t, y: rates(t + by, y)


def _rates_at(func: Any) -> Rates:
    """The field at one time, or at one of each sample."""

    def rates(t: Tensor, y: Tensor) -> Tensor:
        return evaluated(func, time_tensor(t.view(len(t), *[1] * (y.ndim - 1)) if t.ndim else t, y, func), y)

    return rates


def _rates_of_outputs(func: Any) -> Rates:
    def rates(t: Tensor, y: Tensor) -> Tensor:
        each = zip(t, y, strict=True)
        return torch.stack([evaluated(func, time_tensor(time, state, func), state) for time, state in each])

    return rates


def _rates_of_samples(func: Any, rows: np.ndarray, y0: Tensor) -> Rates:
    """The field at outputs of single samples, evaluated on a batch with one output of each sample at a time.

    Where a sample has no further output its last one, or its initial state, stands for it.
    """
    n = len(y0)
    own = [np.flatnonzero(rows == i) for i in range(n)]
    rounds = [
        np.array([positions[min(k, len(positions) - 1)] if len(positions) else len(rows) for positions in own])
        for k in range(max(map(len, own), default=0))
    ]
    counted = np.array([len(positions) for positions in own])
    given = np.concatenate([places[counted > k] for k, places in enumerate(rounds)])

    def rates(t: Tensor, y: Tensor) -> Tensor:
        # One more entry, for samples without outputs: their initial states, at a time that is known.
        found = []
        for k, places in enumerate(rounds):
            none = places == len(rows)
            chosen = np.where(none, 0, places)
            time = t[torch.from_numpy(chosen)].view(n, *[1] * (y0.ndim - 1))
            states = torch.where(column(none, y0).bool(), y0, y[_index(chosen, y)])
            value = evaluated(func, time_tensor(time, states, func), states)
            found.append(value[_index(np.flatnonzero(counted > k), y)])
        return torch.cat(found)[_index(np.argsort(given), y)]

    return rates


def _moved(y: Tensor, t: Tensor, rates: Rates, adjoint: str, *, away: bool = False) -> Tensor:
    if adjoint == "backprop":
        return _moved_exactly(y, t, rates, away=away)
    if transform := transform_of(None, 0.0, y, t):
        check_adjoint_of_transform(transform, adjoint)
    return _Moved.apply(y, t, rates, away)


def _moved_exactly(y: Tensor, t: Tensor, rates: Rates, *, away: bool = False) -> Tensor:
    fixed = t.detach()
    return zero_step(rates, y, t, fixed - t) if away else zero_step(rates, y, fixed, t - fixed)


def zero_step(rates: Rates, y: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """A step of size zero, of the classical Runge-Kutta method: the solution near ``t`` as a function of all of these.

    Its derivatives are those of the solution up to the method's order, as the error of a step of size h is of one
    order more.
    """
    size = h.to(y).view((*h.shape, *[1] * (y.ndim - h.ndim)))
    k1 = rates(t, y)
    k2 = rates(t + 0.5 * h, y + 0.5 * size * k1)
    k3 = rates(t + 0.5 * h, y + 0.5 * size * k2)
    k4 = rates(t + h, y + size * k3)
    return y + size / 6 * (k1 + 2 * (k2 + k3) + k4)


class _Moved(torch.autograd.Function):
    """States as they are, which move along the field with their times, or against it."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, t: Tensor, rates: Rates, away: bool) -> Tensor:
        ctx.rates, ctx.away = rates, away
        ctx.save_for_backward(y, t)
        return y.clone()

    @staticmethod
    @first_order
    def backward(ctx: Any, cotangent: Tensor):
        y, t = ctx.saved_tensors
        along = (cotangent * ctx.rates(t, y.detach())).reshape(*t.shape, -1).sum(-1).to(t)
        return cotangent, -along if ctx.away else along, None, None


def _index(positions: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(positions)).to(like.device)
