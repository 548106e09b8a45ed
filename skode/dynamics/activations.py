"""Activations with their first and second derivatives, all computed from the activation's own value.

Keeping the value ``s = h(x)`` is then enough for pullbacks and for the gradient of a divergence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Activation:
    """An elementwise function.

    Attributes
    ----------
    value : callable
        ``h(x)``.
    slope : callable
        ``h'(x)`` from ``s = h(x)``.
    curvature : callable
        ``h''(x)`` from ``s = h(x)`` and ``p = h'(x)``.
    slope_into : callable
        ``h'(x)`` from ``s = h(x)``, into memory that is there.
    add_bent : callable
        Adds ``g (h''(x) / h'(x) - c)`` to ``x``, in place, from ``x``, ``g`` and ``s = h(x)``; see ``bent``.
    bent : float
        The constant ``c``, so that callers that add ``c g`` in the course of a product are spared one pass.
    replace : callable
        Replaces ``x`` by ``h(x)`` in place.
    pull : callable
        Multiplies ``g`` by ``h'(x)``, from ``s = h(x)``, in place.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor, Tensor], Tensor]
    slope_into: Callable[[Tensor, Tensor], Tensor]
    add_bent: Callable[[Tensor, Tensor, Tensor], Tensor]
    bent: float
    replace: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]


def _tanh(x: Tensor) -> Tensor:
    # 2 sigmoid(2x) - 1: on many CPUs torch's tanh costs five to ten times its sigmoid.
    return torch.sigmoid(2.0 * x).mul_(2.0).sub_(1.0) if not torch.is_grad_enabled() else torch.tanh(x)


ACTIVATIONS = {
    "tanh": Activation(
        value=_tanh,
        slope=lambda s: 1.0 - s * s,
        curvature=lambda s, p: -2.0 * s * p,
        slope_into=lambda s, out: torch.mul(s, s, out=out).neg_().add_(1.0),
        add_bent=lambda x, g, s: x.addcmul_(g, s, value=-2.0),
        bent=0.0,
        replace=torch.tanh_,
        pull=lambda g, s: torch.ops.aten.tanh_backward.grad_input(g, s, grad_input=g),
    ),
    "logistic": Activation(
        value=torch.sigmoid,
        slope=lambda s: s * (1.0 - s),
        curvature=lambda s, p: p * (1.0 - 2.0 * s),
        slope_into=lambda s, out: torch.addcmul(s, s, s, value=-1.0, out=out),
        add_bent=lambda x, g, s: x.addcmul_(g, s, value=-2.0),
        bent=1.0,
        replace=torch.sigmoid_,
        pull=lambda g, s: torch.ops.aten.sigmoid_backward.grad_input(g, s, grad_input=g),
    ),
    "softplus": Activation(
        # torch turns linear above 20 by default, which float64 can tell from softplus
        value=lambda x: functional.softplus(x, threshold=40.0),
        # h' = sigmoid(x) and exp(-softplus(x)) = 1 - sigmoid(x)
        slope=lambda s: -torch.expm1(-s),
        curvature=lambda s, p: p * (1.0 - p),
        slope_into=lambda s, out: torch.neg(s, out=out).expm1_().neg_(),
        add_bent=lambda x, g, s: x.addcmul_(g, torch.exp(-s)),  # 1 - h'
        bent=0.0,
        replace=lambda x: x.copy_(functional.softplus(x, threshold=40.0)),
        pull=lambda g, s: g.mul_(-torch.expm1(-s)),
    ),
    "relu": Activation(
        value=torch.relu,
        slope=lambda s: (s > 0).to(s.dtype),
        curvature=lambda s, p: torch.zeros_like(s),
        slope_into=lambda s, out: out.copy_(s > 0),
        add_bent=lambda x, g, s: x,
        bent=0.0,
        replace=torch.relu_,
        pull=lambda g, s: torch.ops.aten.threshold_backward.grad_input(g, s, 0.0, grad_input=g),
    ),
}

EXACT_TANH = replace(ACTIVATIONS["tanh"], value=torch.tanh)


def get_activation(name: str) -> Activation:
    """The activation of a name; ValueError with the names known where it is not one of them."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r} is not known; choose one of {sorted(ACTIVATIONS)}.")
    return ACTIVATIONS[name]
