"""A recurrent network whose state follows an ODE between observations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skode.distributed.share import anywhere
from skode.dynamics import MLPField
from skode.dynamics.uninitialised import uninitialised
from skode.solvers.solution import Solve
from skode.timeseries.encoders.base import Encoder
from skode.timeseries.tensors import PanelTensors


class ODERNNEncoder(Encoder):
    """A GRU whose state follows an ODE from one observation to the next (Rubanova, Chen, Duvenaud 2019, section 3)."""

    name = "ode_rnn"
    solves = True

    def __init__(
        self, n_outputs: int, n_covariates: int, hidden_size: int, latent_size: int, generator: torch.Generator
    ) -> None:
        super().__init__(n_outputs, n_covariates, hidden_size, latent_size, generator)
        self.field = MLPField(hidden_size, (hidden_size,), "tanh", time_dependent=False, generator=generator)

    def _new_cell(self, n_inputs: int) -> nn.Module:
        return uninitialised(nn.GRUCell, n_inputs, self.hidden_size)

    def _read(self, inputs: Tensor, series: PanelTensors, lengths: Tensor, solver: Solve) -> Tensor:
        slots = (lengths[:, None] - 1 - torch.arange(inputs.shape[1], device=lengths.device)).clamp_min_(0)
        time = torch.nan_to_num(series.time).gather(1, slots)
        gap = torch.diff(time, dim=1, prepend=time[:, :1]).neg().clamp_min(0)
        state = inputs.new_zeros(len(inputs), self.hidden_size)
        for i in range(inputs.shape[1]):
            going = i < lengths
            if i > 0 and anywhere(bool((gap[:, i] > 0).any()), solver):
                # Backward in time, as the observations are read. Idle slots have no gap.
                spans = torch.stack([torch.zeros_like(gap[:, i]), gap[:, i]], dim=1)
                state = solver(self.field, spans, state, t_eval=spans[:, 1:]).y[:, 0]
            state = torch.where(going[:, None], self.cell(inputs[:, i], state), state)
        return state
