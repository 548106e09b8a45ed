"""Inputs that drive the dynamics: columns of the long frame as functions of time, or as impulses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.equations.columns import doses_before
from skode.equations.events import Events


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
    events : Events or None
        Doses, and times at which the inputs jump; None where there are neither.
    """

    names: list[str]
    times: Tensor
    values: Tensor
    linear: bool
    events: Events | None = None

    @classmethod
    def of(
        cls,
        names: list[Any],
        codes: np.ndarray,
        t: np.ndarray,
        columns: np.ndarray,
        *,
        linear: bool,
        amounts: np.ndarray | None = None,
    ) -> Inputs:
        """The inputs of rows that are sorted by series, then time; of rows at one time the last one holds.

        Each row of ``amounts``, of shape (n_rows, n_columns), with a number that is not 0 is a dose.
        """
        n_series, amounts = int(codes.max()) + 1, np.zeros((len(t), 0)) if amounts is None else amounts
        given = (amounts != 0.0).any(axis=1)
        doses = codes[given], t[given], amounts[given]
        last = np.ones(len(t), dtype=bool)
        last[:-1] = (np.diff(codes) != 0) | (np.diff(t) != 0)
        codes, t, columns = codes[last], t[last], columns[last]
        lengths = np.bincount(codes)
        places = np.arange(len(codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        times = np.full((len(lengths), lengths.max()), np.inf)
        values = np.repeat(columns[np.cumsum(lengths) - 1][:, None], lengths.max(), axis=1)
        times[codes, places], values[codes, places] = t, columns
        jumps = np.full(times.shape, np.nan)
        if not linear:
            jumps[:, 1:] = np.where((np.diff(values, axis=1) != 0.0).any(axis=2), times[:, 1:], np.nan)
        events = Events.of(n_series, doses, jumps)
        names = [str(name) for name in names]
        events_or_none = events if len(events.time) else None
        return cls(names, torch.from_numpy(times), torch.from_numpy(values), linear, events_or_none)

    def at(self, series: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Inputs of some series at one time each, by name; ``series`` of shape (n,), ``t`` and the inputs (n, 1)."""
        if not self.names:
            return {}
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


#: Series, times, inputs and amounts of rows.
Records = tuple[np.ndarray, ...]


def joined(names: list[str], known: Records, queried: Records, *, linear: bool) -> tuple[Inputs, np.ndarray]:
    """Inputs and doses of the rows of ``fit`` and of queried ones, in any order.

    Rows of ``fit`` come first of those at one time, but for their doses where queried rows hold some at
    that time: these take their place.

    Returns
    -------
    inputs : Inputs
        Inputs and doses of all.
    before : ndarray of int
        The number of events before each queried row.
    """
    codes, t, columns, amounts = (np.concatenate(parts) for parts in zip(known, queried, strict=True))
    n_known = len(known[0])
    given = (amounts != 0.0).any(axis=1)
    told = {*zip(codes[n_known:][given[n_known:]].tolist(), t[n_known:][given[n_known:]].tolist(), strict=True)}
    replaced = [i for i in np.flatnonzero(given[:n_known]) if (codes[i], t[i]) in told]
    amounts[replaced] = 0.0
    order = np.lexsort((t, codes))
    inputs = Inputs.of(names, codes[order], t[order], columns[order], linear=linear, amounts=amounts[order])
    before = np.empty(len(t), dtype=np.int64)
    before[order] = doses_before(codes[order], t[order], amounts[order])
    if inputs.events is not None:
        before += inputs.events.until(codes, t, inclusive=False)
    return inputs, before[n_known:]
