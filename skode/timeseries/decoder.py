"""From latent states to the parameters of the outputs' distribution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skode.dynamics import affine


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
        linear, hidden, bent = self.linear, self.hidden, self.bent
        x = z.flatten(0, -2)
        # As products of matrices, the first weight in the layout that suits MKL in the backward pass.
        bend = nn.functional.silu(torch.addmm(hidden.bias, x, hidden.weight.t().contiguous()))
        straight = torch.addmm(linear.bias + bent.bias, x, linear.weight.t())
        return torch.addmm(straight, bend, bent.weight.t()).view(*z.shape[:-1], len(bent.weight))
