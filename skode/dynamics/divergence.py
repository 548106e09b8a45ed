"""Divergences ``tr(df/dz)``, which the log-density of a flow needs (Chen et al. 2018, theorem 1)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from skode.dynamics.energies import value_and_noise_product


class OffersDivergence(Protocol):
    """A vector field with its own divergence.

    A field that can compute it only in some configurations says so by a property ``has_analytic_divergence``.
    """

    def __call__(self, t: Any, z: Tensor) -> Tensor:
        """The field's value ``f(t, z)``."""
        ...

    def value_and_divergence(self, t: Any, z: Tensor) -> tuple[Tensor, Tensor]:
        """The value, of shape (n, d), and the exact divergence, of shape (n,); differentiable by autograd."""
        ...


def offers_divergence(field: Any) -> bool:
    """Whether a field offers a divergence that belongs to the ``forward`` it would be called with.

    A forward hook would make the two disagree, and so would a subclass that overrides ``forward`` but inherits
    ``value_and_divergence``, or a wrapper that takes it from the field inside.
    """
    if not getattr(field, "has_analytic_divergence", hasattr(field, "value_and_divergence")):
        return False
    if not isinstance(field, nn.Module) or "value_and_divergence" in vars(field):
        return True
    if "forward" in vars(field) or field._forward_hooks or field._forward_pre_hooks:
        return False
    kind: Any = type(field)
    return _defined_with_forward(kind)


@functools.cache
def _defined_with_forward(kind: Any) -> bool:
    """Whether no class of the hierarchy overrides ``forward`` below that which defines ``value_and_divergence``."""
    lowest = next(c for c in kind.__mro__ if {"forward", "value_and_divergence"} & vars(c).keys())
    return "value_and_divergence" in vars(lowest)


def field_divergence(field: Callable[[Any, Tensor], Tensor], t: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """Value and exact divergence of a field: analytic where it offers that, by vector-Jacobian products elsewhere.

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
    if offers_divergence(field):
        return field.value_and_divergence(t, z)  # type: ignore[attr-defined]
    return exact_divergence(field, t, z)


def analytic_divergence(field: OffersDivergence, t: float | Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Value and exact divergence of a field that offers them, such as a perceptron with one or two hidden layers.

    Of an :class:`MLPField` it is ``div = sum_m u_m h'(x1_m)`` or ``div = sum_ab h'(x2_a) Q_ab h'(x1_b)``: the price of
    one more linear layer, whatever the dimension, and no derivative of a derivative. Differentiable by autograd.

    Parameters
    ----------
    field : callable
        A field with a method ``value_and_divergence(t, z)``.
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

    Raises
    ------
    ValueError
        If the field offers no divergence, as an :class:`MLPField` without or with more than two hidden layers.
    """
    if not offers_divergence(field):
        raise ValueError(
            "analytic_divergence needs a field that offers its divergence, such as an MLPField with one or two hidden "
            "layers; use exact_divergence."
        )
    return field.value_and_divergence(t, z)


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
    value, pulled = value_and_noise_product(field, t, z, noise)
    return value, (pulled * noise).sum(1), pulled
