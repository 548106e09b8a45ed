"""Recurrent networks that read a series backward."""

from __future__ import annotations

from torch import Tensor, nn

from skode.dynamics.uninitialised import uninitialised
from skode.solvers.solution import Solve
from skode.timeseries.encoders.base import Encoder, taken
from skode.timeseries.encoders.gru import GRU
from skode.timeseries.tensors import PanelTensors


class GRUEncoder(Encoder):
    """A gated recurrent unit, which reads backward."""

    name = "gru"

    def _new_cell(self, n_inputs: int) -> nn.Module:
        return GRU(n_inputs, self.hidden_size)

    def _read(self, inputs: Tensor, series: PanelTensors, lengths: Tensor, solver: Solve) -> Tensor:
        return self.cell(inputs, lengths)


class RNNEncoder(Encoder):
    """A plain recurrent network, ``h <- tanh(W x + b + U h + c)``, which reads backward (Chen et al. 2018)."""

    name = "rnn"

    def _new_cell(self, n_inputs: int) -> nn.Module:
        return uninitialised(nn.RNN, n_inputs, self.hidden_size, batch_first=True)

    def _read(self, inputs: Tensor, series: PanelTensors, lengths: Tensor, solver: Solve) -> Tensor:
        # Reading on through the idle slots and going back takes two thirds of the time of packed sequences.
        return taken(self.cell(inputs)[0], lengths[:, None] - 1)[:, 0]
