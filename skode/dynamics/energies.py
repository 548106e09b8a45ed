"""Kinetic energy and Jacobian norm along a solution: rates that are integrated beside a field's own.

Finlay, Jacobsen, Nurbekyan, Oberman, "How to train your neural ODE: the world of Jacobian and kinetic regularization",
ICML 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def mean_square(x: Tensor) -> Tensor:
    """Mean square of each sample, of shape (n, 1).

    Of a field's value ``f`` it is the kinetic energy ``|f|^2 / d``, of ``eps^T df/dz`` the Jacobian norm
    ``|eps^T df/dz|^2 / d``, whose mean over noise ``eps`` of mean 0 and covariance 1 is the squared Frobenius norm of
    the Jacobian per dimension.
    """
    return x.flatten(1).square().mean(1, keepdim=True)


def value_and_noise_product(
    field: Callable[[Any, Tensor], Tensor], t: Any, z: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Value and ``noise^T df/dz`` of each sample, by one vector-Jacobian product.

    Parameters
    ----------
    field : callable
        ``f(t, z)``, each sample by itself.
    t : Tensor
        Time.
    z : Tensor of shape (n, ...)
        States.
    noise : Tensor of shape (n, ...)
        The noise.

    Returns
    -------
    value : Tensor of shape (n, ...)
        ``f(t, z)``.
    product : Tensor of shape (n, ...)
        ``noise^T df/dz``; differentiable, as the value is, where grad is enabled.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        z = z if z.requires_grad else z.detach().requires_grad_()
        value = field(t, z)
        product = None
        if value.requires_grad:
            (product,) = torch.autograd.grad(
                value, z, noise, create_graph=create_graph, retain_graph=True, allow_unused=True
            )
        if product is None:
            product = torch.zeros_like(z)
    return (value, product) if create_graph else (value.detach(), product.detach())


class EnergyField(nn.Module):
    """A field beside the rates of its kinetic energy and, given noise, of its Jacobian norm, for each sample.

    Parameters
    ----------
    field : nn.Module
        ``f(t, z)``.
    shape : torch.Size
        Shape of its states.
    noise : Tensor or None
        ``eps``, of that shape.

    Attributes
    ----------
    n_energies : int
        Number of columns behind the flattened state.
    """

    #: Each solve draws other noise.
    recordable = False

    def __init__(self, field: nn.Module, shape: torch.Size, noise: Tensor | None) -> None:
        super().__init__()
        self.field, self.shape, self.noise = field, shape, noise
        self.n_energies = 1 if noise is None else 2

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Rates of ``[z, energies]``, flattened."""
        z = y[:, : -self.n_energies].reshape(self.shape)
        if self.noise is None:
            value = self.field(t, z)
            return torch.cat([value.flatten(1), mean_square(value)], dim=1)
        value, product = value_and_noise_product(self.field, t, z, self.noise)
        return torch.cat([value.flatten(1), mean_square(value), mean_square(product)], dim=1)
