"""Divergences ``tr(df/dz)``, which the log-density of a flow needs (Chen et al. 2018, theorem 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skode.dynamics.mlp import MLPField
from skode.dynamics.mlp_divergence import combine_slopes, divergence_weights


def has_analytic_divergence(field: object) -> bool:
    """Whether :func:`analytic_divergence` knows the field: an :class:`MLPField` with one or two plain hidden layers."""
    return type(field) is MLPField and len(field.hidden_layer_sizes) in (1, 2) and field.offers_pullback()


def field_divergence(field: Callable[[Any, Tensor], Tensor], t: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """Value and exact divergence of a field, analytic where it offers that.

    A field offers it by a method ``value_and_divergence(t, z)``, unless it says ``has_analytic_divergence = False``.

    Parameters
    ----------
    field, t, z : Any
        As for :func:`exact_divergence`.

    Returns
    -------
    value : Tensor of shape (n, d)
        ``f(t, z)``.
    divergence : Tensor of shape (n,)
        ``tr(df/dz)``; differentiable where grad is enabled.
    """
    if has_analytic_divergence(field):
        return analytic_divergence(field, t, z)  # type: ignore[arg-type]
    if getattr(field, "has_analytic_divergence", hasattr(field, "value_and_divergence")):
        return field.value_and_divergence(t, z)  # type: ignore[attr-defined]
    return exact_divergence(field, t, z)


def analytic_divergence(field: MLPField, t: float | Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Value and exact divergence of a perceptron with one or two hidden layers.

    ``div = sum_m u_m h'(x1_m)`` or ``div = sum_ab h'(x2_a) Q_ab h'(x1_b)``: the price of one more linear layer,
    whatever the dimension, and no derivative of a derivative. Differentiable by autograd.

    Parameters
    ----------
    field : MLPField
        The field; ValueError if it has no or more than two hidden layers.
    t : float or Tensor
        Time.
    z : Tensor of shape (n, d)
        States.

    Returns
    -------
    value : Tensor of shape (n, d)
        ``f(t, z)``.
    divergence : Tensor of shape (n,)
        ``tr(df/dz)``.
    """
    if not has_analytic_divergence(field):
        raise ValueError("analytic_divergence needs an MLPField with one or two hidden layers; use exact_divergence.")
    bound = field.bind()
    value, residuals = bound.linearize(t, z)
    slopes = [field.h.slope(k) for k in bound.kept(residuals)]
    return value, combine_slopes(divergence_weights(bound.weights), slopes)


def exact_divergence(field: Callable[[Any, Tensor], Tensor], t: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """Value and exact divergence of any field, by d vector-Jacobian products.

    Parameters
    ----------
    field : callable
        ``f(t, z)``, acting on each row of ``z`` by itself.
    t : Tensor
        Time.
    z : Tensor of shape (n, d)
        States.

    Returns
    -------
    value : Tensor of shape (n, d)
        ``f(t, z)``.
    divergence : Tensor of shape (n,)
        ``tr(df/dz)``; differentiable where grad is enabled.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        z = z if z.requires_grad else z.detach().requires_grad_()
        value = field(t, z)
        if value.shape != z.shape:
            raise ValueError(
                f"The field returned shape {tuple(value.shape)} for states of shape {tuple(z.shape)}; it must return "
                "their rates of change, of the same shape."
            )
        divergence = torch.zeros_like(value[:, 0])
        for i in range(z.shape[1]):
            if not value.requires_grad:
                break
            (row,) = torch.autograd.grad(
                value[:, i].sum(), z, create_graph=create_graph, retain_graph=True, allow_unused=True
            )
            if row is not None:
                divergence = divergence + row[:, i]
    return (value, divergence) if create_graph else (value.detach(), divergence.detach())


def noise_divergence(
    field: Callable[[Any, Tensor], Tensor], t: Any, z: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, Hutchinson's estimate of the divergence, and ``noise^T df/dz``, by one vector-Jacobian product.

    The estimate ``noise^T (df/dz) noise`` has the divergence for its mean over noise of mean 0 and covariance 1
    (Hutchinson, Communications in Statistics 19, 1990; Grathwohl et al., "FFJORD", ICLR 2019).

    Parameters
    ----------
    field, t, z : Any
        As for :func:`exact_divergence`.
    noise : Tensor of shape (n, d)
        The noise; for a solve to have a solution it must stay the same throughout.

    Returns
    -------
    value : Tensor of shape (n, d)
        ``f(t, z)``.
    estimate : Tensor of shape (n,)
        The divergence's estimate; differentiable where grad is enabled.
    pulled : Tensor of shape (n, d)
        ``noise^T df/dz``, whose mean square norm is the Jacobian's squared Frobenius norm; differentiable as well.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        z = z if z.requires_grad else z.detach().requires_grad_()
        value = field(t, z)
        pulled = None
        if value.requires_grad:
            (pulled,) = torch.autograd.grad(
                value, z, noise, create_graph=create_graph, retain_graph=True, allow_unused=True
            )
        if pulled is None:
            pulled = torch.zeros_like(z)
        estimate = (pulled * noise).sum(1)
    if create_graph:
        return value, estimate, pulled
    return value.detach(), estimate.detach(), pulled.detach()
