"""Outputs of each sample at times of its own, where these are on the device: read off all steps at once.

Nothing of them passes through the host, which finds out only afterwards whether they lay inside the time spans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.devices import is_asynchronous
from skode.solvers.errors import SolverError
from skode.solvers.fields.unit_interval import on_unit_interval
from skode.solvers.tableaus import ButcherTableau, Method


class OutsideError(Exception):
    """An output time lies outside its sample's span, or is infinite."""


@dataclass(frozen=True)
class OwnTimes:
    """Output times of the samples, over the unit interval of each one's span.

    Attributes
    ----------
    unit : Tensor of shape (n_samples, n_times), float64
        The times; 0 in slots without one.
    present : Tensor of bool, of that shape
        Which slots have one.
    outside : Tensor of shape (1,), float64
        Whether any of them lies outside the unit interval, or a span is not finite.
    """

    unit: Tensor
    present: Tensor
    outside: Tensor

    @classmethod
    def of(cls, func: Any, span: Tensor, times: Tensor, y0: Tensor) -> tuple[Any, OwnTimes]:
        """The field over the unit interval, and the times in it."""
        func, unit = on_unit_interval(func, span.double(), times.double(), y0)
        present = ~torch.isnan(unit)
        outside = (present & ~((unit >= 0.0) & (unit <= 1.0))).any() | ~torch.isfinite(span).all()
        outside |= ((span[:, :1] == span[:, 1:]) & present & (times != span[:, :1])).any()  # no time in no span
        return func, cls(torch.where(present, unit, 0.0), present, outside.double().view(1))

    def shaped(self, outputs: Tensor) -> Tensor:
        """Outputs as a tensor of shape (n_samples, n_times, ...), NaN where there is no time."""
        outputs = outputs.view(*self.unit.shape, *outputs.shape[1:])
        present = self.present.view(*self.unit.shape, *[1] * (outputs.ndim - 2))
        return torch.where(present, outputs, torch.nan)


def times_stay_on_device(t_span: Any, t_eval: Any, y0: Tensor, method: Method, settings: dict[str, Any]) -> bool:
    """Whether a solve is one for :class:`OwnTimes`; ``settings`` are those of ``solve_ivp`` that it does not serve."""
    return (
        isinstance(t_span, Tensor)
        and isinstance(t_eval, Tensor)
        and is_asynchronous(y0.device)
        and t_span.device == t_eval.device == y0.device
        and t_span.is_floating_point()
        and t_eval.is_floating_point()
        and y0.ndim >= 2
        and y0.numel() > 0
        and t_span.shape == (len(y0), 2)
        and t_eval.ndim == 2
        and len(t_eval) == len(y0)
        and t_eval.numel() > 0
        and not (t_span.requires_grad or t_eval.requires_grad)
        and isinstance(method, ButcherTableau)
        and method.adaptive
        and not method.implicit
        and not any(settings.values())
    )


class OwnTimesCollector:
    """Keeps the steps of a solve, and reads the outputs off them in the end.

    It has what :class:`skode.solvers.forward.outputs.Collector` has.
    """

    ended = False

    def __init__(self, own: OwnTimes, tableau: ButcherTableau, path: Any) -> None:
        self.own, self.tableau, self.path = own, tableau, path
        path.start = []
        self.outputs = self
        self.start: list[Any] = []
        self.steps: list[tuple[float, float, Any, Any, Any]] = []

    def in_step(self, step: Any) -> list[Any]:
        """Nothing is read off a step by itself; its memory is kept."""
        taken = step.taken
        self.steps.append((step.t, step.t_next, taken.y, taken.stages, taken.tape))
        return []

    def finish(self, failure: SolverError | None) -> Any:
        """The path with its outputs."""
        own, path = self.own, self.path
        path.failure = failure
        path.times = np.empty(0)
        path.reading = OwnReading(own.unit, self.tableau, self.steps)
        path.outputs = path.reading.outputs
        path.reading.let_go()
        self.steps = []
        return path


class OwnReading:
    """All outputs as sums of the steps' states and stages, ``y + h sum_i b_i(theta) k_i``.

    Parameters
    ----------
    unit : Tensor of shape (n_samples, n_times)
        The times.
    tableau : ButcherTableau
        The method.
    steps : list of tuple
        Start, end, state and stages of each step.

    Attributes
    ----------
    outputs : Tensor of shape (n_samples * n_times, ...)
        The outputs, sample by sample.
    """

    def __init__(self, unit: Tensor, tableau: ButcherTableau, steps: list[tuple]) -> None:
        n, n_times = unit.shape
        y = steps[0][2]
        self.n_steps, self.n, self.shape = len(steps), n, y.shape
        ends = torch.tensor([step[:2] for step in steps], dtype=torch.float64)
        ends = (ends.pin_memory() if unit.is_cuda else ends).to(unit.device, non_blocking=True)
        step = torch.bucketize(unit, ends[:-1, 1].contiguous())
        start, end = ends[step].unbind(-1)
        theta = ((unit - start) / (end - start)).clamp(0.0, 1.0).reshape(-1, 1)
        interpolant = torch.tensor(tableau.interpolant, dtype=torch.float64)
        interpolant = (interpolant.pin_memory() if unit.is_cuda else interpolant).to(unit.device, non_blocking=True)
        inside = theta.expand(-1, interpolant.shape[1]).cumprod(1) @ interpolant.t()
        weights = torch.cat([torch.ones_like(theta), inside * (end - start).view(-1, 1)], dim=1).to(y.dtype)
        sample = torch.arange(n, device=unit.device)[:, None]
        self.places = (step * n + sample).view(-1)
        rows = torch.stack([torch.cat([y.view(1, -1), stages]) for _, _, y, stages, _ in steps])
        rows = rows.view(self.n_steps, -1, n, rows.shape[2] // n).transpose(1, 2).flatten(0, 1)
        self.weights = weights[:, :, None]
        outputs = (rows.index_select(0, self.places) * self.weights).sum(1)
        self.outputs = outputs.view(n * n_times, *self.shape[1:])

    def let_go(self) -> None:
        """Of the outputs, which belong to autograd."""
        del self.outputs

    def pull(self, grad_outputs: Tensor) -> Tensor:
        """Cotangents of each step's state and stages, of shape (n_steps, s + 1, size); the state's come last."""
        weighted = grad_outputs.reshape(len(self.places), 1, -1) * self.weights
        total = weighted.new_zeros((self.n_steps * self.n, *weighted.shape[1:])).index_add_(0, self.places, weighted)
        total = total.view(self.n_steps, self.n, *weighted.shape[1:]).transpose(1, 2).flatten(2)
        return torch.cat([total[:, 1:], total[:, :1]], dim=1)
