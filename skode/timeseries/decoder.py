"""From latent states to the parameters of the outputs' distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skode.dynamics import affine
from skode.dynamics.products import as_right_factor, outer
from skode.solvers.devices import is_asynchronous
from skode.solvers.first_order import first_order

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
        x, layers = z.flatten(0, -2), (self.linear, self.hidden, self.bent)
        weights = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *weights)):
            values = _Values.apply(x, *weights)
        elif len(x) > MOST_ROWS and not is_asynchronous(x.device):
            values = torch.cat([_values(some, *weights)[0] for some in x.split(MOST_ROWS)])
        else:
            values, _ = _values(x, *weights)
        return values.view(*z.shape[:-1], len(self.bent.weight))


class _Values(torch.autograd.Function):
    """The read-out's values, with their pullback in half of autograd's operations.

    With ``p = C x + c``, ``s = silu(p)`` and the cotangent ``g`` of ``A x + b + B s + d`` the cotangent of ``p`` is
    ``q = silu'(p) * (B^T g)``, that of ``x`` is ``A^T g + C^T q``, and those of the weights are outer products.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        values, before = _values(x, *weights)
        ctx.save_for_backward(x, *weights, before)
        return values

    @staticmethod
    @first_order
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        x, straight, _, hidden, _, bent, _, before = ctx.saved_tensors
        of_bend = torch.ops.aten.silu_backward(cotangent @ bent, before)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = torch.addmm(cotangent @ as_right_factor(straight), of_bend, as_right_factor(hidden))
        if not any(ctx.needs_input_grad[1:]):
            return (of_x, *[None] * 6)
        total = cotangent.sum(0)
        return (
            of_x,
            outer(cotangent, x),
            total,
            outer(of_bend, x),
            of_bend.sum(0),
            outer(cotangent, nn.functional.silu(before)),
            total.clone(),
        )


def _values(
    x: Tensor, straight: Tensor, b: Tensor, hidden: Tensor, c: Tensor, bent: Tensor, d: Tensor
) -> tuple[Tensor, Tensor]:
    """Values for inputs of shape (n, n_inputs), and what enters the activation."""
    # As products of matrices, the first weight in the layout that suits MKL.
    before = torch.addmm(c, x, hidden.t().contiguous())
    values = torch.addmm(b + d, x, straight.t())
    return values.addmm_(nn.functional.silu(before), bent.t()), before
