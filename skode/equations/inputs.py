"""Inputs that drive the dynamics: columns of the long frame as functions of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """Each series' inputs over time: linear between its rows or as in the last row, constant before and after them.

    Attributes
    ----------
    names : list of str
        Names of the inputs.
    times : Tensor of shape (n_series, n_knots)
        Times of the rows, increasing; infinite in empty slots.
    values : Tensor of shape (n_series, n_knots, n_inputs)
        Inputs at these times; the last ones again in empty slots.
    linear : bool
        Whether they change linearly between rows.
    """

    names: list[str]
    times: Tensor
    values: Tensor
    linear: bool

    @classmethod
    def of(cls, names: list[Any], codes: np.ndarray, t: np.ndarray, columns: np.ndarray, *, linear: bool) -> Inputs:
        """The inputs of rows that are sorted by series, then time; of rows at one time the last one holds."""
        last = np.ones(len(t), dtype=bool)
        last[:-1] = (np.diff(codes) != 0) | (np.diff(t) != 0)
        codes, t, columns = codes[last], t[last], columns[last]
        lengths = np.bincount(codes)
        places = np.arange(len(codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        times = np.full((len(lengths), lengths.max()), np.inf)
        values = np.repeat(columns[np.cumsum(lengths) - 1][:, None], lengths.max(), axis=1)
        times[codes, places], values[codes, places] = t, columns
        return cls([str(name) for name in names], torch.from_numpy(times), torch.from_numpy(values), linear)

    def at(self, series: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Inputs of some series at one time each, by name; ``series`` of shape (n,), ``t`` and the inputs (n, 1)."""
        times, values = self.times[series], self.values[series]
        after = torch.searchsorted(times, t.contiguous(), right=True)
        n_knots = times.shape[1]
        before = (after - 1).clamp(0, n_knots - 1)
        low = _at(values, before)
        if self.linear:
            after = after.clamp(0, n_knots - 1)
            start, length = times.gather(1, before), times.gather(1, after) - times.gather(1, before)
            inside = (length > 0.0) & torch.isfinite(length)
            share = torch.where(inside, (t - start) / torch.where(inside, length, 1.0), 0.0)
            low = torch.lerp(low, _at(values, after), share)
        return dict(zip(self.names, low.unsqueeze(1).unbind(-1), strict=True))


def _at(values: Tensor, knots: Tensor) -> Tensor:
    """Inputs at a knot of each series, of shape (n, n_inputs)."""
    return values.gather(1, knots[..., None].expand(-1, 1, values.shape[2]))[:, 0]
