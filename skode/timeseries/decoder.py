"""From latent states to the parameters of the outputs' distribution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skode.dynamics import affine
from skode.solvers.devices import is_asynchronous

#: So many inputs are worked on at once without gradients: hidden layers of more don't stay in the processor's caches.
MOST_ROWS = 2**12


class Decoder(nn.Module):
    """``A x + b + B silu(C x + c)`` of a latent state and covariates: linear where the latent states go far.

    Parameters
    ----------
    n_inputs, n_outputs, width : int
        Sizes of ``x``, of the value, and of the hidden layer.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(self, n_inputs: int, n_outputs: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = affine(n_inputs, n_outputs, generator)
        self.hidden, self.bent = affine(n_inputs, width, generator), affine(width, n_outputs, generator)

    def forward(self, z: Tensor, covariates: Tensor) -> Tensor:
        """Values of shape (..., n_outputs)."""
        if covariates.shape[-1]:
            z = torch.cat([z, covariates.expand(*z.shape[:-1], -1)], dim=-1)
        x = z.flatten(0, -2)
        if len(x) > MOST_ROWS and not (torch.is_grad_enabled() or is_asynchronous(x.device)):
            values = torch.cat([self._of(some) for some in x.split(MOST_ROWS)])
        else:
            values = self._of(x)
        return values.view(*z.shape[:-1], len(self.bent.weight))

    def _of(self, x: Tensor) -> Tensor:
        """Of inputs of shape (n, n_inputs)."""
        linear, hidden, bent = self.linear, self.hidden, self.bent
        # As products of matrices, the first weight in the layout that suits MKL in the backward pass.
        bend = nn.functional.silu(torch.addmm(hidden.bias, x, hidden.weight.t().contiguous()))
        straight = torch.addmm(linear.bias + bent.bias, x, linear.weight.t())
        return torch.addmm(straight, bend, bent.weight.t())
