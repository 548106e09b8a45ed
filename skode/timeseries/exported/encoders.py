"""Encoders as graphs: series are read in a loop, from their last observation to their first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from skode.serving import TracedSolver, asinh
from skode.timeseries.encoders.base import Encoder
from skode.timeseries.encoders.ode_rnn import ODERNNEncoder
from skode.timeseries.encoders.recurrent import GRUEncoder, RNNEncoder
from skode.timeseries.exported.series import Slots


class ExportedEncoder(nn.Module):
    """See :class:`skode.timeseries.encoders.Encoder`.

    Parameters
    ----------
    encoder : Encoder
        The fitted encoder.
    solver : TracedSolver
        Solves what an encoder has to.

    Raises
    ------
    ValueError
        Where the encoder is none of the package's.
    """

    def __init__(self, encoder: Encoder, solver: TracedSolver) -> None:
        super().__init__()
        if type(encoder) not in STEPS:
            known = sorted(kind.name for kind in STEPS)
            raise ValueError(f"encoder={encoder.name!r} can't be exported; those that can are {known}.")
        self.encoder, self.solver = encoder, solver
        self.step = STEPS[type(encoder)]

    def forward(self, rows: Slots) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each series' latent initial state."""
        seen = ~torch.isnan(rows.y)
        read = seen.any(2).flip(1)
        time = torch.where(torch.isnan(rows.time), 0.0, rows.time).flip(1)
        values = torch.cat([torch.where(seen, rows.y, 0.0), seen.to(rows.y.dtype)], dim=2).flip(1)
        covariates = rows.covariates.flip(1)
        n_slots = torch.ones_like(time[0]).sum().long()
        state = torch.zeros_like(values[:, 0, :1]).expand(-1, self.encoder.hidden_size).clone()
        start = (torch.zeros_like(n_slots), state, torch.zeros_like(time[:, 0]), torch.zeros_like(read[:, 0]))

        def goes_on(i: Tensor, state: Tensor, after: Tensor, began: Tensor) -> Tensor:
            return i < n_slots

        def following(i: Tensor, state: Tensor, after: Tensor, began: Tensor) -> tuple[Tensor, ...]:
            here = i.view(1)
            now, used = time.index_select(1, here)[:, 0], read.index_select(1, here)[:, 0]
            # The observation read first is the last one: no gap follows.
            gap = torch.where(began & used, (after - now).clamp(min=0.0), 0.0)
            times = asinh(torch.stack([now, gap], dim=1))
            inputs = torch.cat(
                [values.index_select(1, here)[:, 0], times, covariates.index_select(1, here)[:, 0]], dim=1
            )
            new = self.step(self, inputs, state, gap)
            return i + 1, torch.where(used[:, None], new, state), torch.where(used, now, after), began | used

        _, state, _, began = torch.while_loop(goes_on, following, start)
        mean, log_std = self.encoder.head(state).chunk(2, dim=1)
        std = torch.exp(torch.clamp(log_std, -8.0, 1.0))
        return torch.where(began[:, None], mean, 0.0), torch.where(began[:, None], std, 1.0)


def _gru_step(own: ExportedEncoder, inputs: Tensor, state: Tensor, gap: Tensor) -> Tensor:
    cell: Any = own.encoder.cell
    weights = cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_ih_l0, cell.bias_hh_l0
    return _gated(inputs, state, *weights)


def _rnn_step(own: ExportedEncoder, inputs: Tensor, state: Tensor, gap: Tensor) -> Tensor:
    cell: Any = own.encoder.cell
    of_inputs = nn.functional.linear(inputs, cell.weight_ih_l0, cell.bias_ih_l0)
    return torch.tanh(of_inputs + nn.functional.linear(state, cell.weight_hh_l0, cell.bias_hh_l0))


def _ode_rnn_step(own: ExportedEncoder, inputs: Tensor, state: Tensor, gap: Tensor) -> Tensor:
    encoder: Any = own.encoder
    # Backward in time, as observations are read.
    span = torch.stack([torch.zeros_like(gap), gap], dim=1)
    state = own.solver(encoder.field, span, state, t_eval=span[:, 1:]).y[:, 0]
    cell = encoder.cell
    return _gated(inputs, state, cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)


def _gated(x: Tensor, h: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """See :class:`skode.timeseries.encoders.gru.GRU`."""
    r_x, z_x, n_x = nn.functional.linear(x, weight_ih, bias_ih).chunk(3, dim=1)
    r_h, z_h, n_h = nn.functional.linear(h, weight_hh, bias_hh).chunk(3, dim=1)
    r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + r * n_h)
    return (1.0 - z) * n + z * h


#: The step of each encoder from one observation to the one before it.
STEPS: dict[type[Encoder], Callable[..., Tensor]] = {
    GRUEncoder: _gru_step,
    RNNEncoder: _rnn_step,
    ODERNNEncoder: _ode_rnn_step,
}
