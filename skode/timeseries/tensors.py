"""A panel as tensors: each series' rows in slots of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from skode.solvers.devices import is_asynchronous
from skode.timeseries.driven import CovariatePaths
from skode.timeseries.events import EventTensors
from skode.timeseries.panel import Panel


@dataclass(frozen=True)
class PanelTensors:
    """A panel as tensors, rows in padded slots.

    Attributes
    ----------
    time : Tensor of shape (n_series, n_slots), float64
        Scaled times since each series' start; NaN in empty slots.
    y : Tensor of shape (n_series, n_slots, n_outputs)
        Observed values; NaN where nothing was observed.
    covariates : Tensor of shape (n_series, n_slots, n_covariates)
        Covariates; 0 in empty slots.
    lengths : Tensor of int, of shape (n_series,)
        Slots in use.
    window : Tensor of shape (n_series, 2), float64
        From when to when the series was watched: times of its first and last row, observed or not.
    paths : CovariatePaths or None
        The series' covariates over time; None without any.
    weights : Tensor of shape (n_series, n_slots) or None
        How often each row was observed, 0 in empty slots; None: all of them once.
    start : Tensor of shape (n_series,), float64, or None
        Scaled times of the series' starts on the common clock that equations of the user's have; None: there is none.
    observations : Tensor of shape (n_series, n_slots, n_inputs) or None
        What encoders read in each slot, where it has been computed in advance.
    events : EventTensors or None
        Doses, and times at which inputs jump; None where there can be none.
    """

    time: Tensor
    y: Tensor
    covariates: Tensor
    lengths: Tensor
    window: Tensor
    paths: CovariatePaths | None
    weights: Tensor | None = None
    start: Tensor | None = None
    observations: Tensor | None = None
    events: EventTensors | None = None

    @classmethod
    def of(
        cls, panel: Panel, time_scale: float, dtype: torch.dtype, device: torch.device, known: Panel | None = None
    ) -> PanelTensors:
        """Tensors of a panel, with time in units of ``time_scale``.

        Parameters
        ----------
        panel : Panel
            Whose rows get slots.
        time_scale, dtype, device
            Unit of time, and what the tensors are to be.
        known : Panel, default=None
            The same series, with all rows from which their covariates and windows are known; None: ``panel``.
        """
        known = known or panel
        lengths, places = panel.slots()
        shape = (panel.n_series, max(int(lengths.max(initial=0)), 1))
        time = np.full(shape, np.nan)
        y = np.full((*shape, panel.y.shape[1]), np.nan)
        covariates = np.zeros((*shape, panel.covariates.shape[1]))
        time[panel.codes, places] = panel.since_origin() / time_scale
        y[panel.codes, places] = panel.y
        covariates[panel.codes, places] = panel.covariates
        weights = None
        if panel.weights is not None:
            in_slots = np.zeros(shape)
            in_slots[panel.codes, places] = panel.weights
            weights = torch.from_numpy(in_slots).to(device, dtype)
        return cls(
            torch.from_numpy(time).to(device),
            torch.from_numpy(y).to(device, dtype),
            torch.from_numpy(covariates).to(device, dtype),
            torch.from_numpy(lengths).to(device),
            torch.from_numpy(known.windows() / time_scale).to(device),
            CovariatePaths.of(known, time_scale, dtype, device) if covariates.shape[2] else None,
            weights,
        )

    @property
    def filled(self) -> Tensor:
        """Which slots are in use, of shape (n_series, n_slots)."""
        return ~torch.isnan(self.time)

    @property
    def reach(self) -> Tensor:
        """How far each series reaches back from its start and on from it, of shape (n_series, 2)."""
        time = torch.nan_to_num(self.time)
        return torch.stack([time.amin(dim=1).clamp_max(0.0), time.amax(dim=1).clamp_min(0.0)], dim=1)

    def take(self, series: Tensor) -> PanelTensors:
        """Those of some series, by position."""
        paths = self.paths and replace(self.paths, times=self.paths.times[series], values=self.paths.values[series])
        return PanelTensors(
            self.time[series],
            self.y[series],
            self.covariates[series],
            self.lengths[series],
            self.window[series],
            paths,
            None if self.weights is None else self.weights[series],
            None if self.start is None else self.start[series],
            None if self.observations is None else self.observations[series],
            self.events and self.events.take(series),
        )

    def trimmed(self) -> PanelTensors:
        """The same without slots that no series uses, but one; all of them where nobody waits to know which."""
        if is_asynchronous(self.time.device):
            return self
        n = max(int(self.lengths.max()), 1)
        if n == self.time.shape[1]:
            return self
        weights, observations = (None if x is None else x[:, :n] for x in (self.weights, self.observations))
        return replace(
            self,
            time=self.time[:, :n],
            y=self.y[:, :n],
            covariates=self.covariates[:, :n],
            weights=weights,
            observations=observations,
            events=self.events and replace(self.events, before=self.events.before[:, :n]),
        )

    def beginning(self, share: Tensor) -> PanelTensors:
        """The first rows of each series: a share of them, at least one. The other slots stay, out of use.

        Parameters
        ----------
        share : Tensor of shape (n_series,)
            From 0 to 1.
        """
        lengths = torch.minimum((share * self.lengths).ceil().to(self.lengths.dtype).clamp_min(1), self.lengths)
        return replace(self, lengths=lengths)

    def ending(self, share: Tensor) -> PanelTensors:
        """The last rows of each series: a share of them, at least one, in its first slots."""
        return self._from(self.lengths - self.beginning(share).lengths)

    def _from(self, dropped: Tensor) -> PanelTensors:
        """The same without the first rows of each series, as many as given."""
        lengths = self.lengths - dropped
        n_slots = self.time.shape[1]
        slots = torch.arange(n_slots, device=dropped.device) + dropped[:, None]
        idle = slots >= self.lengths[:, None]
        slots = slots.clamp_max(n_slots - 1)

        def taken(values: Tensor) -> Tensor:
            return values.gather(1, slots[..., None].expand(-1, -1, values.shape[2]))

        time = torch.where(idle, torch.nan, self.time.gather(1, slots))
        weights = None if self.weights is None else self.weights.gather(1, slots)
        events = self.events and replace(self.events, before=self.events.before.gather(1, slots))
        return replace(
            self,
            events=events,
            time=time,
            y=taken(self.y),
            covariates=taken(self.covariates),
            lengths=lengths,
            weights=weights,
            observations=None,
        )

    def excerpt(self, share: Tensor, place: Tensor) -> PanelTensors:
        """Some rows in a line of each series, in its first slots; no other row is there any more.

        Parameters
        ----------
        share : Tensor of shape (n_series,)
            The share of a series' rows, above 0 and at most 1.
        place : Tensor of shape (n_series,)
            Where these lie, from 0, the last rows, to 1, the first.
        """
        n_rows = self.beginning(share).lengths
        spare = self.lengths - n_rows
        dropped = torch.minimum(((1.0 - place) * (spare + 1)).to(spare.dtype), spare)
        rows = replace(self._from(dropped), lengths=n_rows)
        idle = torch.arange(self.time.shape[1], device=self.time.device) >= rows.lengths[:, None]
        time, y = torch.where(idle, torch.nan, rows.time), torch.where(idle[..., None], torch.nan, rows.y)
        weights = None if rows.weights is None else torch.where(idle, 0.0, rows.weights)
        last = time.gather(1, (rows.lengths - 1).clamp_min(0)[:, None])
        window = torch.nan_to_num(torch.cat([time[:, :1], last], dim=1))
        return replace(rows, time=time, y=y, weights=weights, window=window).trimmed()

    def later(self, shift: Tensor) -> PanelTensors:
        """The same with each series' start so much later; rows before it are at negative times."""
        shift = torch.nan_to_num(shift)[:, None]
        paths = self.paths and replace(self.paths, times=self.paths.times - shift)
        start = None if self.start is None else self.start + shift[:, 0]
        return replace(
            self,
            time=self.time - shift,
            window=self.window - shift,
            paths=paths,
            start=start,
            observations=None,
            events=self.events and self.events.later(shift),
        )
