"""What was asked of a solve, as the engine solves it: over time itself, or over the unit interval; and the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.asked import AskedTimes, padded
from skode.solvers.events import Event, EventFinder
from skode.solvers.integrate import Path, index
from skode.solvers.own_time import carrying_spans, on_unit_time
from skode.solvers.transforms import carries_derivatives
from skode.solvers.vector_field import column


@dataclass
class PosedProblem:
    """A problem as the engine solves it, and the way back from its outputs to what was asked for.

    Attributes
    ----------
    func, y0, span
        What is integrated: over time itself, or over the unit interval of each sample's span.
    times : Tensor of shape (m,), float64, or None
        The output times, flat.
    rows : ndarray of shape (m,) or None
        The samples they belong to.
    present : Tensor of bool, of shape (batch, n_times), or None
        Which of the output times per sample are no padding.
    finder : EventFinder or None
        Looks for events.
    spans : ndarray of shape (batch, 2) or None
        The spans, where the engine is to use them as they are.
    on_unit_time : bool
        Whether time is that of the unit interval.
    n_carried : int
        How many elements of the state carry its span.
    spans_t : Tensor or None
        The spans, for the way back from the unit interval.
    unpack : callable or None
        Takes states with their spans apart.
    moving_times : Tensor or None
        See :func:`skode.solvers.engine.run`.
    """

    func: Callable[..., Tensor]
    y0: Tensor
    span: tuple[float, float]
    times: Tensor | None
    rows: np.ndarray | None
    present: Tensor | None
    finder: EventFinder | None
    spans: np.ndarray | None = None
    on_unit_time: bool = False
    n_carried: int = 0
    spans_t: Tensor | None = None
    unpack: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    moving_times: Tensor | None = None

    def unpacked(self, outputs: Tensor) -> Tensor:
        """Outputs as states of the problem that was asked."""
        return outputs if self.unpack is None else self.unpack(outputs)[0]

    def real_times(self, path: Path) -> Tensor:
        """The times of all outputs."""
        times = torch.from_numpy(path.times)
        if not self.on_unit_time:
            return times
        assert self.spans_t is not None
        assert path.rows is not None
        spans = self.spans_t[torch.from_numpy(path.rows)]
        return spans[:, 0] + times * (spans[:, 1] - spans[:, 0])


def pose(
    func: Any, asked: AskedTimes, y0: Tensor, events: list[Event], *, per_sample: bool, continuous: bool
) -> PosedProblem:
    """The problem as it is to be solved."""
    n = len(y0) if y0.ndim else 1
    finder = None
    if events:
        start: Any = column(asked.span[:, 0], y0) if asked.own_time else asked.span[0]
        finder = EventFinder(events, start, y0.detach(), per_sample=per_sample or asked.own_time)
    rowwise = per_sample or asked.own_time or (finder is not None and finder.rowwise)
    eval_t = asked.by_sample(n) if rowwise else asked.eval_t
    present = None if eval_t is None or eval_t.ndim == 1 else ~torch.isnan(eval_t.detach())
    if finder is not None and not finder.rowwise and eval_t is not None and eval_t.ndim == 2:
        raise ValueError("events of the whole state need a t_eval of one dimension; return one number per sample.")
    if asked.moving and finder is not None and not finder.rowwise:
        raise ValueError(
            "t_span and t_eval must not require grad where there are events of the whole state: return one number per "
            "sample, or use odeint_event, which gives the gradient of t0."
        )
    # Where times move, events of samples have to be found in times that don't.
    unit = (asked.own_time or (asked.moving and finder is not None)) and not per_sample
    # The adjoint equation is solved over one span for all.
    carried = per_sample and (asked.moving or (asked.own_time and continuous))
    problem_func, problem_y0, unpack, span = func, y0, None, asked.span
    if unit or carried:
        spans_t = asked.spans_by_sample(n)
        out_t = torch.empty((n, 0), dtype=torch.float64) if eval_t is None else eval_t
        if unit:
            problem_func, out_t = on_unit_time(func, spans_t, out_t, y0)
        else:
            problem_func, out_t, problem_y0, unpack = carrying_spans(func, spans_t, out_t, y0)
        eval_t = None if eval_t is None else out_t
        span = np.array([0.0, 1.0])
        if finder is not None:
            finder.on_unit_time(spans_t.detach(), unpack)
    times = eval_t if present is None or eval_t is None else torch.masked_select(eval_t, present)
    rows = None if present is None else np.repeat(np.arange(n), present.sum(1).numpy())
    moving = None
    if asked.moving:
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64) if unit or carried else asked.span_t
        known = torch.empty(0, dtype=torch.float64) if times is None else times
        moving = torch.cat([ends, known])
        moving = moving if carries_derivatives(moving) else None
    return PosedProblem(
        func=problem_func,
        y0=problem_y0,
        span=(0.0, 1.0) if span.ndim == 2 else (float(span[0]), float(span[1])),
        times=times,
        rows=rows,
        present=present,
        finder=finder,
        spans=asked.span if asked.own_time and per_sample and not carried else None,
        on_unit_time=unit or carried,
        n_carried=2 if carried else 0,
        spans_t=asked.spans_by_sample(n) if unit or carried else None,
        unpack=unpack,
        moving_times=moving,
    )


def without_last(m: int, norm: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A norm of states without their last m elements."""

    def of_state(x: Tensor) -> Tensor:
        return norm(x[..., :-m])

    return of_state


def reached(asked: AskedTimes, problem: PosedProblem, path: Path, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Times and states that were asked for, up to terminal events."""
    finder = problem.finder
    if asked.eval_t is not None:
        # A slice, whole as it may be, would cost the backward pass a copy.
        known = outputs if len(outputs) == path.n_known else outputs[: path.n_known]
        if problem.present is not None:
            known = padded(known, problem.present)
            if asked.eval_t.ndim == 1:
                known = known.transpose(0, 1)
        t = asked.eval_t.detach()
        if finder is not None and not finder.rowwise:
            kept = int((np.abs(t.numpy() - problem.span[0]) <= abs(finder.stop_times[0] - problem.span[0])).sum())
            t, known = t[:kept], known[:kept]
        return t, known
    # The ends of all steps, and the terminal events that cut the last ones short.
    found = path.readout.found
    positions = np.concatenate(found) if found else np.empty(0, dtype=np.int64)
    rows = None if path.rows is None else path.rows[positions]
    if finder is not None:
        stop = finder.stop_times[0] if rows is None else finder.stop_times[rows]
        start = problem.span[0] if problem.spans is None or rows is None else problem.spans[rows, 0]
        inside = np.abs(path.times[positions] - start) < np.abs(stop - start)
        positions = np.concatenate([positions[inside], finder.stop_positions])
    times = problem.real_times(path)
    if path.rows is None:
        return times[positions].detach(), outputs[positions]
    rows = path.rows[positions]
    order = np.lexsort((np.arange(len(rows)), rows))
    counts = np.bincount(rows, minlength=len(problem.y0))
    present = torch.from_numpy(np.arange(int(counts.max(initial=0))) < counts[:, None])
    chosen = positions[order]
    return padded(times[chosen].detach(), present), padded(outputs[index(chosen, outputs)], present)


def status_of(problem: PosedProblem, path: Path, failures: dict, n: int, *, per_sample: bool) -> int | Tensor:
    """How the solve ended, as :class:`skode.solvers.Solution` says it: for the whole state, or for each sample."""
    finder = problem.finder
    if not per_sample and (finder is None or not finder.rowwise):
        if path.failure is not None:
            return -1
        return int(finder is not None and bool(finder.stopped.all()))
    status = torch.zeros(n, dtype=torch.int64) if finder is None else torch.from_numpy(finder.stopped).long()
    if path.failure is not None:
        status[status == 0] = -1
    for sample in failures:
        status[sample] = -1
    return status
