"""A problem as the engine solves it, over time itself or the unit interval, and its outputs as the user gets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.arguments.requested_times import RequestedTimes, padded
from skode.solvers.fields.times import column, time_dtype_of
from skode.solvers.fields.unit_interval import on_unit_interval
from skode.solvers.forward.events import Event, EventFinder
from skode.solvers.forward.problem import RequestedOutputs, TimeSpan
from skode.solvers.forward.run import Path
from skode.solvers.indexing import index
from skode.solvers.transforms import carries_derivatives, numbers


@dataclass
class Formulation:
    """A problem as the engine solves it, with what is needed to turn its outputs into those that the user wants.

    Attributes
    ----------
    func, span
        The vector field and its time span: over time itself, or over the unit interval of each sample's span.
    outputs : RequestedOutputs
        The output times, flat, and the samples that they belong to.
    present : Tensor of bool, of shape (batch, n_times), or None
        Which of the output times per sample are not padding.
    finder : EventFinder or None
        Looks for events.
    unit_spans : Tensor of shape (batch, 2) or None
        The spans, where the engine integrates over the unit interval.
    """

    func: Callable[..., Tensor]
    span: TimeSpan
    outputs: RequestedOutputs
    present: Tensor | None
    finder: EventFinder | None
    unit_spans: Tensor | None = None

    def real_times(self, path: Path) -> Tensor:
        """The times of all outputs."""
        times = torch.from_numpy(path.times)
        if self.unit_spans is None:
            return times
        assert path.rows is not None
        spans = self.unit_spans[torch.from_numpy(path.rows)]
        return spans[:, 0] + times * (spans[:, 1] - spans[:, 0])


def formulate(
    func: Any, given: RequestedTimes, y0: Tensor, events: list[Event], outputs: RequestedOutputs, *, per_sample: bool
) -> Formulation:
    """Formulate a problem for the engine, in which all times are constants, those of ``outputs`` included."""
    n = len(y0) if y0.ndim else 1
    finder = None
    if events:
        dtype = time_dtype_of(func, y0)
        start: Any = column(given.span[:, 0], y0, dtype) if given.own_time else given.span[0]
        finder = EventFinder(events, start, y0.detach(), per_sample=per_sample or given.own_time, time_dtype=dtype)
    rowwise = per_sample or given.own_time or (finder is not None and finder.rowwise)
    eval_t = given.by_sample(n) if rowwise else given.eval_t
    if eval_t is not None and eval_t.ndim == 1:
        outputs = RequestedOutputs(numbers(eval_t).copy(), dense=outputs.dense, on_failure=outputs.on_failure)
        return Formulation(func, TimeSpan(*given.span.tolist()), outputs, None, finder)
    eval_t = None if eval_t is None else torch.from_numpy(numbers(eval_t))
    present = None if eval_t is None else ~torch.isnan(eval_t)
    if finder is not None and not finder.rowwise and eval_t is not None and eval_t.ndim == 2:
        raise ValueError("events of the whole state need a t_eval of one dimension; return one number per sample.")
    problem_func, span, unit_spans = func, given.span, None
    if given.own_time and not per_sample:
        unit_spans, span = torch.from_numpy(given.span), np.array([0.0, 1.0])
        assert eval_t is not None
        problem_func, eval_t = on_unit_interval(func, unit_spans, eval_t, y0.detach())
        if finder is not None:
            finder.on_unit_interval(unit_spans)
    times = eval_t if present is None or eval_t is None else torch.masked_select(eval_t, present)
    return Formulation(
        func=problem_func,
        span=TimeSpan(*span.tolist()) if span.ndim == 1 else TimeSpan(float(span.min()), float(span.max()), span),
        outputs=RequestedOutputs(
            times=None if times is None else numbers(times).copy(),
            rows=None if present is None else np.repeat(np.arange(n), numbers(present.sum(1))),
            dense=outputs.dense,
            on_failure=outputs.on_failure,
        ),
        present=present,
        finder=finder,
        unit_spans=unit_spans,
    )


def moving_times(given: RequestedTimes, formulation: Formulation, path: Path) -> Tensor | None:
    """The times of the outputs that are known in advance, as functions of the user's; None where these are constants.

    Without ``t_eval`` the ends of the steps are constants, except for the first and the last.
    """
    if given.eval_t is not None:
        if not carries_derivatives(given.eval_t):
            return None
        if formulation.present is None:
            return given.eval_t
        eval_t = given.by_sample(len(formulation.present))
        assert eval_t is not None
        return torch.masked_select(eval_t, formulation.present)
    if not carries_derivatives(given.span_t):
        return None
    times = torch.from_numpy(path.times)
    rows = np.zeros(len(times), dtype=np.int64) if path.rows is None else path.rows
    spans = given.spans_by_sample(int(rows.max(initial=0)) + 1)[torch.from_numpy(rows)]
    ends_of_steps = torch.zeros(len(times), dtype=torch.bool)  # and not events
    ends_of_steps[np.concatenate([*path.readout.found, np.empty(0, dtype=np.int64)])] = True
    for end in (1, 0):
        times = torch.where(ends_of_steps & (times == spans[:, end].detach()), spans[:, end], times)
    return times


def reached(
    given: RequestedTimes, formulation: Formulation, path: Path, outputs: Tensor, n_samples: int
) -> tuple[Tensor, Tensor]:
    """Times and states of the solution, up to terminal events."""
    finder = formulation.finder
    if given.eval_t is not None:
        # A slice, whole as it may be, would cost the backward pass a copy.
        known = outputs if len(outputs) == path.n_known else outputs[: path.n_known]
        if formulation.present is not None:
            known = padded(known, formulation.present)
            if given.eval_t.ndim == 1:
                known = known.transpose(0, 1)
        t = given.eval_t.detach()
        if finder is not None and not finder.rowwise:
            t0, end = formulation.span.t0, finder.terminal_times[0]
            kept = int((np.abs(numbers(t) - t0) <= abs(end - t0)).sum())
            t, known = t[:kept], known[:kept]
        return t, known
    # The ends of all steps, and the terminal events that cut the last ones short.
    found = path.readout.found
    positions = np.concatenate(found) if found else np.empty(0, dtype=np.int64)
    rows = None if path.rows is None else path.rows[positions]
    if finder is not None:
        stop = finder.terminal_times[0] if rows is None else finder.terminal_times[rows]
        by_sample = formulation.span.by_sample
        start = formulation.span.t0 if by_sample is None or rows is None else by_sample[rows, 0]
        inside = np.abs(path.times[positions] - start) < np.abs(stop - start)
        positions = np.concatenate([positions[inside], finder.stop_positions])
    times = formulation.real_times(path)
    if path.rows is None:
        return times[positions].detach(), outputs[positions]
    rows = path.rows[positions]
    order = np.lexsort((np.arange(len(rows)), rows))
    counts = np.bincount(rows, minlength=n_samples)
    present = torch.from_numpy(np.arange(int(counts.max(initial=0))) < counts[:, None])
    chosen = positions[order]
    return padded(times[chosen].detach(), present), padded(outputs[index(chosen, outputs)], present)


def status_of(formulation: Formulation, path: Path, failures: dict, n: int, *, per_sample: bool) -> int | Tensor:
    """How the solve ended, as :class:`skode.solvers.Solution` says it: for the whole state, or for each sample."""
    finder = formulation.finder
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
