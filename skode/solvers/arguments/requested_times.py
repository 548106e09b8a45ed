"""The times that a solve is given: spans and outputs, as numbers and as tensors that may require grad."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.arguments.checks import check_monotone, check_times


class RequestedTimes:
    """Checked time spans and output times.

    Parameters
    ----------
    t_span, t_eval
        As :func:`skode.solvers.solve_ivp` takes them.
    y0 : Tensor
        The initial state.

    Attributes
    ----------
    span : ndarray of shape (2,) or (batch, 2)
        The time span.
    span_t, eval_t : Tensor, float64; ``eval_t`` may be None
        Span and output times, with their graphs where they require grad.
    own_time : bool
        Whether every sample has its own span.
    moving : bool
        Whether any of the times requires grad.
    """

    def __init__(self, t_span: Any, t_eval: Any, y0: Tensor) -> None:
        self.span, span_tensor = check_times("t_span", t_span)
        if self.span.shape not in ((2,), (len(y0) if y0.ndim else 0, 2)):
            raise ValueError(
                f"t_span must be a pair (t0, t1), or of shape (batch, 2), got shape {self.span.shape} for y0 of shape "
                f"{tuple(y0.shape)}."
            )
        self.own_time = self.span.ndim == 2
        if not (np.isfinite(self.span).all() if self.own_time else all(map(math.isfinite, self.span.tolist()))):
            raise ValueError(f"t_span contains NaN or infinity: {t_span!r}.")
        times, eval_tensor = (None, None) if t_eval is None else check_times("t_eval", t_eval)
        if times is not None:
            _check_eval_times(times, self.span, y0)
        self.moving = span_tensor is not None or eval_tensor is not None
        self.span_t = torch.from_numpy(self.span) if span_tensor is None else span_tensor.double().cpu()
        self.eval_t = eval_tensor.double().cpu() if eval_tensor is not None else None
        if self.eval_t is None and times is not None:
            self.eval_t = torch.from_numpy(times)
        if self.own_time and self.eval_t is not None and self.eval_t.ndim == 1:
            self.eval_t = self.eval_t.expand(len(y0), -1)

    def by_sample(self, n: int) -> Tensor | None:
        """Output times of each sample, of shape (batch, n_times)."""
        if self.eval_t is None or self.eval_t.ndim == 2:
            return self.eval_t
        return self.eval_t.expand(n, -1)

    def spans_by_sample(self, n: int) -> Tensor:
        """The time span of each sample, of shape (batch, 2)."""
        return self.span_t if self.own_time else self.span_t.expand(n, -1)


def _check_eval_times(times: np.ndarray, span: np.ndarray, y0: Tensor) -> None:
    if times.ndim == 1:
        if not len(times):
            return
        check_monotone("t_eval", times)
        first, last = float(times[0]), float(times[-1])  # as they are sorted, the ends tell of all
        if span.ndim == 1:
            start, end = span.tolist()
            if (last - first) * (end - start) < 0:
                raise ValueError(
                    f"t_eval must be sorted in the direction of t_span, but goes from {first} to {last}, and t_span "
                    f"from {start} to {end}."
                )
            low, high = min(start, end), max(start, end)
        else:
            low, high = span.min(axis=1).max(initial=-np.inf), span.max(axis=1).min(initial=np.inf)
        outside = [time for time in (first, last) if not low <= time <= high]
    elif times.ndim == 2 and y0.ndim and len(times) == len(y0):
        if np.isinf(times).any():
            raise ValueError("t_eval contains infinity (NaN marks padding).")
        low, high = span.min(axis=-1, keepdims=True), span.max(axis=-1, keepdims=True)
        outside = times[(times < low) | (times > high)]  # as NaN is neither
    else:
        raise ValueError(
            f"t_eval must be of shape (n_times,) or (batch, n_times), got {times.shape} for y0 of shape "
            f"{tuple(y0.shape)}."
        )
    if len(outside):
        raise ValueError(f"t_eval must lie inside t_span; {outside[0]} does not.")


def padded(values: Tensor, present: Tensor) -> Tensor:
    r"""Values of single samples as one tensor of shape (batch, n_times, \*rest), NaN where none is present."""
    shape = (*present.shape, *values.shape[1:])
    if len(values) == present.numel():
        return values.reshape(shape)
    positions = present.reshape(-1).nonzero()[:, 0].to(values.device)
    nothing = values.new_full((present.numel(), *values.shape[1:]), torch.nan)
    return nothing.index_copy(0, positions, values).view(shape)
