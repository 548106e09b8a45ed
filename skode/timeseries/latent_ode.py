"""The latent ODE model: encoder, latent dynamics, decoder, and the evidence lower bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from skode.dynamics import MLPField, affine
from skode.solvers import Solution, Statistics
from skode.timeseries.encoders import RecurrentEncoder
from skode.timeseries.panel import Panel

Solve = Callable[..., Solution]


@dataclass(frozen=True)
class PanelTensors:
    """A panel as tensors, rows both flat and in padded slots.

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
    """

    time: Tensor
    y: Tensor
    covariates: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, panel: Panel, time_scale: float, dtype: torch.dtype, device: torch.device) -> PanelTensors:
        """Tensors of a panel, with time in units of ``time_scale``."""
        lengths, places = panel.slots()
        shape = (panel.n_series, max(int(lengths.max(initial=0)), 1))
        time = np.full(shape, np.nan)
        y = np.full((*shape, panel.y.shape[1]), np.nan)
        covariates = np.zeros((*shape, panel.covariates.shape[1]))
        time[panel.codes, places] = panel.since_origin() / time_scale
        y[panel.codes, places] = panel.y
        covariates[panel.codes, places] = panel.covariates
        return cls(
            torch.from_numpy(time).to(device),
            torch.from_numpy(y).to(device, dtype),
            torch.from_numpy(covariates).to(device, dtype),
            torch.from_numpy(lengths).to(device),
        )

    @property
    def filled(self) -> Tensor:
        """Which slots are in use, of shape (n_series, n_slots)."""
        return ~torch.isnan(self.time)


class LatentODE(nn.Module):
    """``z(0) ~ N(0, I)``, ``dz/dt = f(z)``, ``y(t) ~ N(g(z(t), x(t)), sigma^2)`` with covariates x.

    Parameters
    ----------
    n_outputs, n_covariates : int
        Sizes of an observation.
    latent_size : int
        Size of ``z``.
    hidden_layer_sizes : tuple of int
        Hidden layers of the dynamics ``f``; the decoder ``g`` has one, as wide as their widest.
    activation : str
        Activation of the dynamics.
    encoder_size : int
        Size of the encoder's state.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(
        self,
        n_outputs: int,
        n_covariates: int,
        *,
        latent_size: int,
        hidden_layer_sizes: tuple[int, ...],
        activation: str,
        encoder_size: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.encoder = RecurrentEncoder(n_outputs, n_covariates, encoder_size, latent_size, generator)
        self.field = MLPField(latent_size, hidden_layer_sizes, activation, time_dependent=False, generator=generator)
        width = max(hidden_layer_sizes, default=encoder_size)
        self.decoder = nn.Sequential(
            affine(latent_size + n_covariates, width, generator), nn.Tanh(), affine(width, n_outputs, generator)
        )
        # Outputs are standardised: noise starts at a third of their spread.
        self.log_noise = nn.Parameter(torch.full((n_outputs,), math.log(0.3)))

    def posterior(self, context: PanelTensors) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each series' ``z(0)`` given its observations."""
        time = torch.nan_to_num(context.time).to(context.y.dtype)
        return self.encoder(time, context.y, context.covariates, context.lengths)

    def path(self, z0: Tensor, time: Tensor, solve: Solve, solves: list[Statistics], ends: Tensor) -> Tensor:
        """Latent states of each series at its own times.

        Parameters
        ----------
        z0 : Tensor of shape (n_series, latent_size)
            Latent initial states, at time 0.
        time : Tensor of shape (n_series, n_slots), float64
            Times of one sign, NaN in empty slots.
        solve : callable
            The solver.
        solves : list
            Where the solve's counts are put.
        ends : Tensor of shape (n_series,), float64
            How far to solve each series.

        Returns
        -------
        Tensor of shape (n_series, n_slots, latent_size)
            States; NaN in empty slots.
        """
        span = torch.stack([torch.zeros_like(ends), ends], dim=1)
        solution = solve(self.field, span, z0, t_eval=time)
        solves.append(solution.statistics)
        return solution.y

    def decode(self, z: Tensor, covariates: Tensor) -> Tensor:
        """Means of the observations, of shape (..., n_outputs)."""
        return self.decoder(torch.cat([z, covariates], dim=-1))

    def log_likelihood(self, mean: Tensor, y: Tensor) -> Tensor:
        """Gaussian log-density of each observed value, and 0 where nothing was observed."""
        observed = ~torch.isnan(y)
        residual = torch.where(observed, y, mean) - mean
        density = -0.5 * (residual * torch.exp(-self.log_noise)) ** 2 - self.log_noise - 0.5 * math.log(2 * math.pi)
        return density * observed

    def negative_elbo(self, batch: PanelTensors, noise: Tensor, solve: Solve, solves: list[Statistics]) -> Tensor:
        """The negative evidence lower bound per observed value.

        ``-(E_q[log p(y | z(0))] - KL(q(z(0)) || N(0, I)))`` with one reparameterised draw (Chen et al. 2018,
        appendix on latent ODEs; Kingma & Welling 2014).

        Parameters
        ----------
        batch : PanelTensors
            Some series.
        noise : Tensor of shape (n_series, latent_size)
            Standard normal.
        solve, solves
            See :meth:`path`.
        """
        mean, std = self.posterior(batch)
        ends = torch.nan_to_num(batch.time).amax(dim=1)
        states = self.path(mean + std * noise, batch.time, solve, solves, ends)
        filled = batch.filled
        predicted = self.decode(states[filled], batch.covariates[filled])
        y = batch.y[filled]
        divergence = 0.5 * (mean**2 + std**2 - 1.0 - 2.0 * torch.log(std)).sum()
        n_values = (~torch.isnan(y)).sum().clamp_min(1)
        return (divergence - self.log_likelihood(predicted, y).sum()) / n_values
