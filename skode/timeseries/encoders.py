"""From a series' own observations to a distribution of its latent initial state."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence


class RecurrentEncoder(nn.Module):
    """A GRU that reads a series from its last observation to its first (Chen et al. 2018, section 5).

    Each observation enters as ``[y, observed?, time since the start, gap to the observation after it, covariates]``.

    Parameters
    ----------
    n_outputs, n_covariates : int
        Sizes of an observation.
    hidden_size : int
        Size of the GRU's state.
    latent_size : int
        Size of the latent state.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(
        self, n_outputs: int, n_covariates: int, hidden_size: int, latent_size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.latent_size = latent_size
        n_inputs = 2 * n_outputs + 2 + n_covariates
        # Made on the meta device, so that torch's global random state is left alone.
        self.gru = nn.GRU(n_inputs, hidden_size, batch_first=True, device="meta").to_empty(device="cpu")
        self.head = nn.utils.skip_init(nn.Linear, hidden_size, 2 * latent_size)
        bound = 1 / math.sqrt(hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, time: Tensor, y: Tensor, covariates: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each series' latent initial state.

        Parameters
        ----------
        time : Tensor of shape (n_series, n_slots)
            Times since the series' start, each series' own in its first slots, increasing.
        y : Tensor of shape (n_series, n_slots, n_outputs)
            Observed values; NaN where nothing was observed.
        covariates : Tensor of shape (n_series, n_slots, n_covariates)
            Covariates.
        lengths : Tensor of int, of shape (n_series,)
            Slots in use. A series without any gets the prior, a standard normal.

        Returns
        -------
        mean, std : Tensor of shape (n_series, latent_size)
            The approximate posterior.
        """
        mean = time.new_zeros(len(time), self.latent_size)
        std = torch.ones_like(mean)
        some = torch.nonzero(lengths > 0).reshape(-1)
        if len(some) == 0:
            return mean, std
        # Last observation first: slot i of a reversed series is slot length - 1 - i.
        slots = lengths[some, None] - 1 - torch.arange(time.shape[1], device=time.device)
        slots = slots.clamp_min(0)
        own_time = time[some].gather(1, slots)
        gap = torch.diff(own_time, dim=1, prepend=own_time[:, :1]).neg().clamp_min(0)
        own_y = y[some].gather(1, slots[..., None].expand(-1, -1, y.shape[2]))
        own_covariates = covariates[some].gather(1, slots[..., None].expand(-1, -1, covariates.shape[2]))
        observed = ~torch.isnan(own_y)
        inputs = torch.cat(
            [
                torch.nan_to_num(own_y),
                observed.to(time.dtype),
                own_time[..., None],
                gap[..., None],
                own_covariates,
            ],
            dim=2,
        )
        packed = pack_padded_sequence(inputs, lengths[some].cpu(), batch_first=True, enforce_sorted=False)
        _, last = self.gru(packed)
        own_mean, log_std = self.head(last[0]).chunk(2, dim=1)
        # Never wider than the prior by more than e, never so narrow that its logarithm overflows.
        own_std = torch.exp(torch.clamp(log_std, -8.0, 1.0))
        return mean.index_copy(0, some, own_mean), std.index_copy(0, some, own_std)
