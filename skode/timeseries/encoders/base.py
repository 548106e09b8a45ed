"""Base class of encoders: from the observations of a series to a distribution of its latent initial state."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from skode.dynamics.sizes import check_memory
from skode.dynamics.uninitialised import uninitialised
from skode.solvers.devices import is_asynchronous
from skode.solvers.solution import Solve
from skode.timeseries.tensors import PanelTensors

#: Logarithm of the spread of posteriors at first: what the encoder tells is not drowned by the draws.
FIRST_LOG_STD = -2.0


class Encoder(nn.Module):
    """Reads a series from its last observation to its first; its final state gives mean and spread of ``z(0)``.

    Each observation enters as ``[y, observed?, time since the start, gap to the observation after it, covariates]``,
    times by their inverse hyperbolic sine, so that a gap of a thousand spans does not drown the rest. A row of weight w
    is observed ``log2(1 + w)``, once for w = 1, and its values fade as w falls from 1 to 0.

    Parameters
    ----------
    n_outputs, n_covariates : int
        Sizes of an observation.
    hidden_size : int
        Size of the encoder's state.
    latent_size : int
        Size of the latent state.
    generator : torch.Generator
        Source of the initial weights.

    Attributes
    ----------
    name : str
        Name of a registered encoder, which users pass as ``encoder=``.
    """

    name: ClassVar[str]

    #: Whether it solves an ODE from slot to slot, which processes that share a batch do for as many slots.
    solves: ClassVar[bool] = False

    def __init__(
        self, n_outputs: int, n_covariates: int, hidden_size: int, latent_size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.hidden_size, self.latent_size = hidden_size, latent_size
        check_memory(hidden_size, 3 * hidden_size + 2 * latent_size)
        self.cell = self._new_cell(2 * n_outputs + 2 + n_covariates)
        self.head = uninitialised(nn.Linear, hidden_size, 2 * latent_size)
        bound = 1 / math.sqrt(hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        with torch.no_grad():
            self.head.bias[latent_size:] += FIRST_LOG_STD

    def forward(self, series: PanelTensors, solver: Solve) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each series' latent initial state.

        Parameters
        ----------
        series : PanelTensors
            Their observations.
        solver : callable
            The solver, a :class:`skode.training.Solver`, for encoders that solve an ODE.

        Returns
        -------
        mean, std : Tensor of shape (n_series, latent_size)
            The approximate posterior; that of a series without observations is the prior, a standard normal.
        """
        device = series.lengths.device
        if is_asynchronous(device) or (self.solves and getattr(solver, "share", None) is not None):
            n_slots, any_empty = series.time.shape[1], True
        else:
            shortest, longest = (int(n) for n in torch.aminmax(series.lengths)) if len(series.lengths) else (1, 1)
            n_slots, any_empty = max(longest, 1), shortest == 0
        # Last observation first: slot i of a reversed series is slot length - 1 - i; what follows the first is idle.
        # A series without observations reads an empty slot, for nothing.
        lengths = series.lengths.clamp_min(1) if any_empty else series.lengths
        slots = (lengths - 1 - torch.arange(n_slots, device=device)[:, None]).clamp_min_(0)
        features = observations(series) if series.observations is None else series.observations
        places = slots + torch.arange(0, features.shape[0] * features.shape[1], features.shape[1], device=device)
        # Next to each other is what is read in one step.
        inputs = features.flatten(0, 1).index_select(0, places.flatten()).view(n_slots, -1, features.shape[2])
        inputs[0, :, 2 * series.y.shape[2] + 1] = 0.0  # what is read first has none after it
        mean, log_std = self.head(self._read(inputs.transpose(0, 1), series, lengths, solver)).chunk(2, dim=1)
        # Never wider than the prior by more than e, never so narrow that its logarithm overflows.
        std = torch.exp(torch.clamp(log_std, -8.0, 1.0))
        if not any_empty:
            return mean, std
        some = series.lengths[:, None] > 0
        return torch.where(some, mean, 0.0), torch.where(some, std, 1.0)

    @torch.no_grad()
    def rescale(self, shift: Tensor, factor: Tensor) -> None:
        """Answer in other coordinates of the latent state: ``factor * z + shift``.

        Parameters
        ----------
        shift, factor : Tensor of shape (latent_size,)
            The change, with positive factors.
        """
        mean, log_std = self.head.weight[: self.latent_size], self.head.bias[self.latent_size :]
        mean *= factor[:, None]
        self.head.bias[: self.latent_size].mul_(factor).add_(shift)
        log_std += torch.log(factor)

    def _new_cell(self, n_inputs: int) -> nn.Module:
        raise NotImplementedError

    def _read(self, inputs: Tensor, series: PanelTensors, lengths: Tensor, solver: Solve) -> Tensor:
        """The state after each series' last slot in use, of shape (n_series, hidden_size)."""
        raise NotImplementedError


@torch.no_grad()
def observations(series: PanelTensors) -> Tensor:
    """Inputs of encoders in each slot; see :class:`Encoder`. Of the last slot in use the gap is to be 0.

    Returns
    -------
    Tensor of shape (n_series, n_slots, n_inputs)
    """
    time, observed = torch.nan_to_num(series.time), ~torch.isnan(series.y)
    gap = torch.diff(time, dim=1, append=time[:, -1:]).clamp_min_(0.0)
    times = torch.asinh(torch.stack([time, gap], dim=2)).to(series.y.dtype)
    values, seen = torch.nan_to_num(series.y), observed.to(series.y.dtype)
    if series.weights is not None:
        weights = series.weights[..., None]
        values, seen = values * weights.clamp_max(1.0), seen * torch.log2(1.0 + weights)
    return torch.cat([values, seen, times, series.covariates], dim=2)


def with_observations(series: PanelTensors) -> PanelTensors:
    """The same with what encoders read of it computed in advance, for as long as its times stay as they are."""
    return replace(series, observations=observations(series))


def taken(values: Tensor, slots: Tensor) -> Tensor:
    """Values of shape (n_series, n_slots, size) at other slots."""
    return values.gather(1, slots[..., None].expand(-1, -1, values.shape[2]))
