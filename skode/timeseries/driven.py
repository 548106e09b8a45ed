"""Latent dynamics that a series' covariates drive."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skode.dynamics import affine
from skode.dynamics.activations import get_activation
from skode.dynamics.bound_mlp import BoundMLP
from skode.dynamics.fused_mlp import MLPForm, takes
from skode.solvers.cached import cached
from skode.timeseries.panel import Panel


@dataclass(frozen=True)
class CovariatePaths:
    """Each series' covariates over time: linear between its rows or as in the last one, constant before and after.

    Attributes
    ----------
    times : Tensor of shape (n_series, n_knots), float64
        Scaled times since the series' starts, increasing; infinite in empty slots.
    values : Tensor of shape (n_series, n_knots, n_covariates)
        Covariates at these times; the last ones again in empty slots.
    linear : bool
        Whether they change linearly between rows.
    """

    times: Tensor
    values: Tensor
    linear: bool = True

    @classmethod
    def of(cls, panel: Panel, time_scale: float, dtype: torch.dtype, device: torch.device) -> CovariatePaths:
        """The paths through all rows of a panel; 0, the mean, for a series without rows."""
        lengths, places = panel.slots()
        starts = np.cumsum(lengths) - lengths
        n_covariates = panel.covariates.shape[1]
        first = panel.covariates[np.minimum(starts, len(panel.time) - 1)] if len(panel.time) else np.zeros((1, 1))
        if (panel.covariates == first[panel.codes]).all():  # one knot says it all
            places, lengths = np.zeros_like(places), np.minimum(lengths, 1)
        shape = (panel.n_series, max(int(lengths.max(initial=0)), 1))
        times, values = np.full(shape, np.inf), np.zeros((*shape, n_covariates))
        times[panel.codes, places] = panel.since_origin() / time_scale
        values[panel.codes, places] = panel.covariates
        last = values[np.arange(len(lengths)), np.maximum(lengths - 1, 0)]
        empty = np.arange(shape[1]) >= lengths[:, None]
        values = np.where(empty[..., None], last[:, None], values)
        return cls(torch.from_numpy(times).to(device), torch.from_numpy(values).to(device, dtype))

    def at(self, series: Tensor, t: Tensor) -> Tensor:
        """Covariates of some series at one time each.

        Parameters
        ----------
        series : Tensor of int, of shape (n,)
            Positions of the series.
        t : Tensor of shape (n, 1)
            Times.

        Returns
        -------
        Tensor of shape (n, n_covariates)
        """
        if self.times.shape[1] == 1:
            return self.values[series, 0]
        ends, values = self._stretches
        stretch = torch.searchsorted(self.times[series], t.to(self.times).contiguous(), right=True)[:, 0]
        stretch = stretch + series * (self.times.shape[1] + 1)
        start, rate = ends[stretch].unbind(1)
        low, rise = values[stretch].chunk(2, dim=1)
        share = ((t[:, 0] - start) * rate).clamp_(0.0, 1.0).to(low)
        return torch.addcmul(low, rise, share[:, None])

    @cached
    def _stretches(self) -> tuple[Tensor, Tensor]:
        """Of all series' stretches before, between and after rows: ``[start, 1 / length]`` and ``[first value, rise]``.

        Before the first row and after the last one nothing rises. Between rows at one time no time lies, for the later
        one holds at it.
        """
        n_series = len(self.times)
        inside = torch.isfinite(self.times)
        rises = torch.zeros_like(self.values[:, :1]).repeat(1, self.times.shape[1] + 1, 1)
        if self.linear:
            rises[:, 1:-1] = self.values.diff(dim=1) * inside[:, 1:, None]
        lows = torch.cat([self.values[:, :1], self.values], dim=1)
        start = torch.where(inside, self.times, 0.0)
        lengths = torch.where(inside[:, 1:], start.diff(dim=1), torch.inf).clamp_min(torch.finfo(start.dtype).tiny)
        rates = torch.zeros(n_series, self.times.shape[1] + 1).to(start)
        rates[:, 1:-1] = 1.0 / lengths
        start = torch.cat([torch.zeros_like(start[:, :1]), start], dim=1)
        return torch.stack([start, rates], dim=-1).flatten(0, 1), torch.cat([lows, rises], dim=-1).flatten(0, 1)


class PathReader:
    """Covariates of some series at one time each, to be read again and again: in NumPy, on the CPU.

    Of a few series that takes a fifth of the time of :meth:`CovariatePaths.at`.

    Parameters
    ----------
    paths : CovariatePaths
        The covariates of all series.
    series : Tensor of int64, of shape (n,)
        Positions of the series.
    """

    def __init__(self, paths: CovariatePaths, series: Tensor) -> None:
        n_stretches = paths.times.shape[1] + 1
        ends, values = paths._stretches
        self.dtype, self.n_covariates = values.numpy().dtype, paths.values.shape[2]
        self.ends, self.values = (np.ascontiguousarray(x.numpy().T) for x in (ends, values))
        self.first, self.times = series.numpy() * n_stretches, paths.times[series]
        self.constant = self.values[: self.n_covariates, self.first] if n_stretches == 2 else None

    def take(self, rows: Tensor) -> PathReader:
        """The same for some of the series."""
        taken = copy.copy(self)
        places = rows.numpy()
        taken.first, taken.times = self.first[places], self.times[rows]
        taken.constant = None if self.constant is None else self.constant[:, places]
        return taken

    def write(self, t: float | np.ndarray, out: np.ndarray) -> None:
        """The covariates at a time, or at one of each series, into an array of shape (n_covariates, n)."""
        if self.constant is not None:
            out[...] = self.constant
            return
        times = np.empty((len(self.first), 1))
        times[:, 0] = t
        stretch = torch.searchsorted(self.times, torch.from_numpy(times), right=True).numpy()[:, 0] + self.first
        (start, rate), values = self.ends.take(stretch, axis=1), self.values.take(stretch, axis=1)
        share = (times[:, 0] - start) * rate
        np.maximum(share, 0.0, out=share)
        np.minimum(share, 1.0, out=share)
        np.multiply(values[self.n_covariates :], share.astype(self.dtype), out=out)
        out += values[: self.n_covariates]


class DrivenField(nn.Module):
    """``dz/dt = f(z, u(t))``: a perceptron of a latent state and of the series' covariates.

    Parameters
    ----------
    n_features, n_covariates : int
        Sizes of ``z`` and ``u``.
    hidden_layer_sizes : tuple of int
        Widths of the hidden layers.
    activation : str
        Their activation.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(
        self,
        n_features: int,
        n_covariates: int,
        hidden_layer_sizes: tuple[int, ...],
        activation: str,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_features = n_features
        self.activation = activation
        sizes = [n_features + n_covariates, *hidden_layer_sizes, n_features]
        self.layers = nn.ModuleList(affine(m, n, generator) for m, n in pairwise(sizes))

    def along(self, paths: CovariatePaths, n_copies: int = 1) -> DrivenBy:
        """The dynamics of all series with these covariates, or of several copies of them, one after another."""
        series = torch.arange(len(paths.times), device=paths.times.device).repeat(n_copies)
        layers: list[nn.Linear] = list(self.layers)  # type: ignore[arg-type]
        n_inputs = layers[0].in_features
        perceptron = BoundMLP(layers, n_inputs, get_activation(self.activation), False)
        return DrivenBy(perceptron, self.n_features, paths, series)


class DrivenBy:
    """The dynamics of some series, each driven by its own covariates.

    Parameters
    ----------
    perceptron : BoundMLP
        ``f``.
    n_features : int
        Size of ``z``.
    paths : CovariatePaths
        The covariates of all series.
    series : Tensor of int64, of shape (n,)
        The series that each state belongs to.
    """

    def __init__(self, perceptron: BoundMLP, n_features: int, paths: CovariatePaths, series: Tensor) -> None:
        self.perceptron, self.n_features, self.paths, self.series = perceptron, n_features, paths, series

    @cached
    def reader(self) -> PathReader | None:
        """Reader of the covariates; None where they are not on the CPU."""
        return PathReader(self.paths, self.series) if self.series.device.type == "cpu" else None

    def fused(self, like: Tensor) -> MLPForm | None:
        """Form of the dynamics for the solver's fused path; None for states that it does not take."""
        perceptron, n_features, reader = self.perceptron, self.n_features, self.reader
        if reader is None or not takes(perceptron.owned, like, n_features) or self.paths.values.dtype != like.dtype:
            return None
        return MLPForm(perceptron.owned, n_features, perceptron.h.arrays, reader.write)

    def take(self, rows: Tensor) -> DrivenBy:
        """The dynamics of some of the states, as a solver needs them where each takes its own steps."""
        taken = DrivenBy(self.perceptron, self.n_features, self.paths, self.series[rows])
        taken.reader = self.reader and self.reader.take(rows)
        return taken

    def parameters(self) -> list[Tensor]:
        """Those of the perceptron."""
        return self.perceptron.parameters()

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        return self.perceptron(0.0, self._inputs(t, z))

    def linearize(self, t: Tensor, z: Tensor) -> tuple[Tensor, Any]:
        return self.perceptron.linearize(0.0, self._inputs(t, z))

    def pullback(self, residuals: Any, cotangent: Tensor) -> tuple[Tensor, Any]:
        grad, deltas = self.perceptron.pullback(residuals, cotangent)
        return grad[:, : self.n_features], deltas

    def parameter_gradients(self, tape: Sequence[tuple[Any, Any]]) -> list[Tensor]:
        return self.perceptron.parameter_gradients(tape)

    def _inputs(self, t: Tensor, z: Tensor) -> Tensor:
        if self.reader is not None:
            covariates = np.empty((self.reader.n_covariates, len(z)), self.reader.dtype)
            self.reader.write(t.detach().reshape(-1).numpy() if isinstance(t, Tensor) else t, covariates)
            return torch.cat([z, torch.from_numpy(covariates).t()], dim=1)
        t = torch.as_tensor(t, dtype=self.paths.times.dtype, device=z.device).reshape(-1, 1).expand(len(z), 1)
        return torch.cat([z, self.paths.at(self.series, t)], dim=1)
