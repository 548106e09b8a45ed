"""Samples on time axes of their own: ``t_i = t0_i + s (t1_i - t0_i)``, all integrated over ``0 <= s <= 1``.

The state then follows ``dy/ds = (t1_i - t0_i) f(t_i, y)``, so that one solve serves samples that start and end at
different times, and none is carried beyond its own end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from skode.solvers.vector_field import OffersPullback, has_own_pullback


def on_unit_time(
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
    y0 : Tensor of shape (batch, \\*state)
        The initial states.

    Returns
    -------
    func : callable
        The vector field over the unit interval.
    times : Tensor of shape (batch, n_times)
        Output times in it. A sample whose span has no length is answered at its start.
    """
    start, length = span[:, :1], span[:, 1:] - span[:, :1]
    padding = torch.isnan(times.detach())
    times = torch.where(padding, start, times)  # NaN would reach the span's gradient through 0 * NaN
    empty = length.detach() == 0.0
    unit = torch.where(empty, times * 0.0, (times - start) / torch.where(empty, torch.ones_like(length), length))
    # Rounding must not put an output outside the unit interval, nor off its end if it lies there.
    at_end = times.detach() == span.detach()[:, 1:]
    unit = torch.where(at_end & ~empty, unit - unit.detach() + 1.0, unit)
    unit = torch.where(padding, torch.nan, unit)
    column = (len(y0), *[1] * (y0.ndim - 1))
    start, length = start.reshape(column).to(y0), length.reshape(column).to(y0)
    if has_own_pullback(func) and not span.requires_grad and not times.requires_grad:
        return OwnTimeField(func, start, length), unit  # type: ignore[arg-type]

    def scaled(s: Tensor, y: Tensor) -> Tensor:
        return length * func(start + s * length, y)

    return scaled, unit


def carrying_spans(
    func: Callable[[Tensor, Tensor], Tensor], span: Tensor, times: Tensor, y0: Tensor
) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    r"""The same where every sample takes its own steps: each carries its span along in its state.

    So gradients reach the spans through the initial state, and any part of the batch can be evaluated by itself.

    Returns
    -------
    func : callable
        The vector field over the unit interval, for states of shape (n, size + 2).
    times : Tensor of shape (batch, n_times)
        Output times in it.
    y0 : Tensor of shape (batch, size + 2)
        The initial states, flat, with start and length of the spans behind them.
    unpack : callable
        From such states, those of the problem and the columns of start and length.
    """
    _, unit = on_unit_time(func, span, times, y0)
    shape = y0.shape[1:]
    spans = torch.stack([span[:, 0], span[:, 1] - span[:, 0]], dim=1).to(y0)
    carried = torch.cat([y0.flatten(1), spans], dim=1)

    def unpack(states: Tensor) -> tuple[Tensor, Tensor]:
        spans = states[..., -2:].reshape(*states.shape[:-1], *[1] * (len(shape) - 1), 2) if shape else states[..., -2:]
        return states[..., :-2].reshape(*states.shape[:-1], *shape), spans

    def scaled(s: Tensor, state: Tensor) -> Tensor:
        y, spans = unpack(state)
        start, length = spans.unbind(-1)
        column = (len(y), *[1] * len(shape))
        start, length = start.reshape(column), length.reshape(column)
        s = s.reshape(column) if s.ndim else s
        rate = (length * func(start + s * length, y)).flatten(1)
        return torch.cat([rate, torch.zeros_like(state[:, -2:])], dim=1)

    return scaled, unit, carried, unpack


class OwnTimeField:
    """A field with its own pullback, over the unit interval of each sample's span.

    Parameters
    ----------
    func : OffersPullback
        The field over time itself.
    start, length : Tensor of shape (batch, 1, ..., 1)
        Each sample's initial time and signed span.
    """

    def __init__(self, func: OffersPullback, start: Tensor, length: Tensor) -> None:
        self.func = func
        self.start = start
        self.length = length

    def bind(self) -> OwnTimeField:
        """The same over what the field itself binds to."""
        bind = getattr(self.func, "bind", None)
        return self if bind is None else OwnTimeField(bind(), self.start, self.length)

    def __call__(self, s: float | Tensor, y: Tensor) -> Tensor:
        return self.func(self.start + s * self.length, y) * self.length

    def linearize(self, s: float | Tensor, y: Tensor) -> tuple[Tensor, Any]:
        value, residuals = self.func.linearize(self.start + s * self.length, y)
        return value * self.length, residuals

    def pullback(self, residuals: Any, cotangent: Tensor, *, with_time: bool) -> tuple[Tensor, Tensor | None, Any]:
        if with_time:
            raise NotImplementedError("per-sample times that require grad take the autograd path")
        return self.func.pullback(residuals, cotangent * self.length, with_time=False)

    def parameter_gradients(self, tape: Sequence[tuple[Any, Any]]) -> Sequence[Tensor]:
        return self.func.parameter_gradients(tape)

    def parameters(self) -> Any:
        return self.func.parameters()
