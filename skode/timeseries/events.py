"""Times at which known dynamics jump, as tensors: doses, and inputs that are constant between rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from skode.equations.events import Events
from skode.timeseries.doses import Doses, n_at
from skode.timeseries.panel import Panel


@dataclass(frozen=True)
class EventTensors:
    """Events of series, each series' in slots of its own.

    Attributes
    ----------
    time : Tensor of shape (n_series, n_events), float64
        Scaled times since each series' start, sorted; infinite in empty slots.
    amounts : Tensor of shape (n_series, n_events, n_columns)
        Amounts of doses in the units of the user; 0 where inputs jump alone.
    before : Tensor of int64, of shape (n_series, n_times)
        How many of its series' events come before each time at which states are read.
    """

    time: Tensor
    amounts: Tensor
    before: Tensor

    @classmethod
    def of(cls, panel: Panel, known: Panel, like: Tensor, time_scale: float, *, linear: bool) -> EventTensors:
        """Events of a panel's series.

        Parameters
        ----------
        panel : Panel
            The rows at which states are read.
        known : Panel
            The same series, with all rows of which doses and inputs are known.
        like : Tensor
            Of the dtype, and on the device, that the tensors are to have.
        time_scale : float
            Unit of time.
        linear : bool
            Whether inputs change linearly between rows; otherwise they jump at them.
        """
        doses = known.doses or Doses(np.zeros((len(known.time), 0)), np.zeros(len(known.time), dtype=np.int64))
        given = doses.given
        jumps = np.empty((known.n_series, 0)) if linear else _jumps(known)
        at = known.codes[given], known.time[given]
        events = Events.of(known.n_series, (*at, doses.amounts[given]), jumps)
        lengths = np.diff(events.pointer)
        series = np.repeat(np.arange(known.n_series), lengths)
        places = np.arange(len(series)) - np.repeat(events.pointer[:-1], lengths)
        time = np.full((known.n_series, int(lengths.max(initial=0))), np.inf)
        amounts = np.zeros((*time.shape, doses.amounts.shape[1]))
        time[series, places] = (events.time - known.origins[series]) / time_scale
        of_doses = events.dose >= 0
        amounts[series[of_doses], places[of_doses]] = events.amounts[events.dose[of_doses]]
        row_lengths, slots = panel.slots()
        before = np.zeros((panel.n_series, max(int(row_lengths.max(initial=0)), 1)), dtype=np.int64)
        rank = 0 if panel.doses is None else np.minimum(panel.doses.rank, n_at((panel.codes, panel.time), at))
        before[panel.codes, slots] = events.until(panel.codes, panel.time, inclusive=False) + rank
        device = like.device
        tensors = torch.from_numpy(time), torch.from_numpy(amounts).to(like.dtype), torch.from_numpy(before)
        return cls(*(tensor.to(device) for tensor in tensors))

    def take(self, series: Tensor) -> EventTensors:
        """Those of some series, by position."""
        return EventTensors(self.time[series], self.amounts[series], self.before[series])

    def later(self, shift: Tensor) -> EventTensors:
        """The same with each series' start so much later, of shape (n_series, 1)."""
        return replace(self, time=self.time - shift)

    def with_nodes(self, nodes: Tensor, order: Tensor) -> EventTensors:
        """The same with other times (n_series, n_nodes) behind those of the slots, and all of them in a given order."""
        at_nodes = torch.searchsorted(self.time, nodes.contiguous(), right=True)
        return replace(self, before=torch.cat([self.before, at_nodes], dim=1).gather(1, order))

    def since_last(self) -> Tensor:
        """Amounts given between each slot and the one before it, of shape (n_series, n_slots, n_columns)."""
        total = torch.cumsum(torch.cat([torch.zeros_like(self.amounts[:, :1]), self.amounts], dim=1), dim=1)
        if not self.amounts.shape[1]:
            total = self.amounts.new_zeros(len(self.time), 1, self.amounts.shape[2])
        places = self.before[..., None].expand(-1, -1, self.amounts.shape[2])
        total = total.gather(1, places)
        return torch.diff(total, dim=1, prepend=torch.zeros_like(total[:, :1]))


def _jumps(known: Panel) -> np.ndarray:
    """Times at which inputs that are constant between rows change, of shape (n_series, n_jumps); NaN elsewhere.

    Of rows at one time the last one holds.
    """
    codes, time = known.codes, known.time
    last = np.ones(len(time), dtype=bool)
    last[:-1] = (np.diff(codes) != 0) | (np.diff(time) != 0)
    codes, time, inputs = codes[last], time[last], known.covariates[last]
    jumps = np.flatnonzero((np.diff(codes) == 0) & (np.diff(inputs, axis=0) != 0).any(axis=1)) + 1
    lengths = np.bincount(codes[jumps], minlength=known.n_series)
    found = np.full((known.n_series, int(lengths.max(initial=0))), np.nan)
    places = np.arange(len(jumps)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    found[codes[jumps], places] = time[jumps]
    return found
