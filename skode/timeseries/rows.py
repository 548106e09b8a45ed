"""The rows of a batch of series, flat and by slots."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from skode.timeseries.tensors import PanelTensors

#: Nodes of the Gauss-Legendre rule for the integral of an intensity over a series.
N_NODES = 24


class Rows:
    """The rows of some series in one line, with their values, covariates and weights.

    Parameters
    ----------
    series : PanelTensors
        The series.
    process : bool
        Whether the times are data themselves.

    Attributes
    ----------
    filled : tuple of Tensor of int, of shape (n_rows,)
        Series and slot of each row.
    y, covariates : Tensor of shape (n_rows, ...)
        Of each row.
    weights : Tensor of shape (n_rows,) or None
        How often each row was observed; None: all of them once.
    timed : Tensor of shape (n_rows,)
        How many events of the process a row's time is: its weight, or 0 for rows at the start of series.
    reach : Tensor of shape (n_series, 2), float64
        How far each series is to be solved, backward and forward.
    node_weights : Tensor of shape (n_series, n_nodes)
        Of the quadrature over each series' time, where times are data.
    times : Tensor of shape (n_series, n_slots + n_nodes), float64
        Times of rows and nodes, in order; NaN where there are none.
    """

    def __init__(self, series: PanelTensors, *, process: bool) -> None:
        self.series = series
        self.n_series, self.n_slots = series.time.shape
        self.filled = torch.nonzero(series.filled, as_tuple=True)
        self.y, self.covariates = series.y[self.filled], series.covariates[self.filled]
        self.weights = None if series.weights is None else series.weights[self.filled]
        self.times, self.reach = series.time, series.reach
        self.process = process
        if process:
            nodes, weights = np.polynomial.legendre.leggauss(N_NODES)
            first, last = series.window[:, :1], series.window[:, 1:]
            self.reach = torch.stack(
                [torch.minimum(self.reach[:, 0], first[:, 0]), torch.maximum(self.reach[:, 1], last[:, 0])], dim=1
            )
            self.node_times = first + (last - first) * torch.from_numpy((nodes + 1.0) / 2.0).to(last)
            self.node_weights = ((last - first) * torch.from_numpy(weights / 2.0).to(last)).to(series.y)
            self.times, order = torch.sort(torch.cat([series.time, self.node_times], dim=1), dim=1)
            self.places = torch.argsort(order, dim=1)
            if series.events is not None:
                self.series = replace(series, events=series.events.with_nodes(self.node_times, order))
            self.timed = self.weighted((series.time > first)[self.filled].to(series.y))
            self.node_covariates = series.covariates.new_zeros(self.n_series, N_NODES, series.covariates.shape[2])
            if series.paths is not None:
                codes = torch.arange(self.n_series, device=first.device).repeat_interleave(N_NODES)
                at_nodes = series.paths.at(codes, self.node_times.reshape(-1, 1))
                self.node_covariates = at_nodes.view(self.n_series, N_NODES, -1)

    def taken(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Of states at ``times``, of shape (n_copies, n_series, n_times, size), those of the rows and of the nodes."""
        if not self.process:
            return self.in_line(states), None
        places = self.places[None, :, :, None].expand(len(states), -1, -1, states.shape[3])
        states = states.gather(2, places)
        return self.in_line(states[:, :, : self.n_slots]), states[:, :, self.n_slots :]

    def in_line(self, slots: Tensor) -> Tensor:
        """Of values in slots, (n_copies, n_series, n_slots, size), those of the rows, (n_copies, n_rows, size)."""
        slots = slots.flatten(1, 2)
        if len(self.y) == slots.shape[1]:
            return slots
        places = self.filled[0] * self.n_slots + self.filled[1]
        return slots.gather(1, places[None, :, None].expand(len(slots), -1, slots.shape[2]))

    def slotted(self, values: Tensor) -> Tensor:
        """Values of shape (n_copies, n_rows, ...) in their slots, (n_copies, n_series, n_slots, ...); else 0."""
        slots = values.new_zeros(len(values), self.n_series, self.n_slots, *values.shape[2:])
        slots[:, self.filled[0], self.filled[1]] = values
        return slots

    def weighted(self, values: Tensor) -> Tensor:
        """Values of shape (..., n_rows) times the weights of the rows."""
        return values if self.weights is None else values * self.weights

    @property
    def n_values(self) -> Tensor:
        """How many values were observed, a row of weight two counting twice."""
        observed = ~torch.isnan(self.y)
        return observed.sum() if self.weights is None else self.weighted(observed.sum(1)).sum()

    def summed(self, values: Tensor) -> Tensor:
        """Sums over each series' rows, of shape (n_copies, n_series, ...), of values of (n_copies, n_rows, ...)."""
        total = values.new_zeros(len(values), self.n_series, *values.shape[2:])
        return total.index_add(1, self.filled[0], values)
