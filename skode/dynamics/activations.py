"""Activations with their first and second derivatives, all computed from one tensor ``k`` that is kept of ``h(x)``.

That is the activation's own value, which the weights' gradients need anyway, or, where ``h`` is not monotone, its
input. Keeping it is enough for pullbacks and for the gradient of a divergence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from skode.dynamics.array_activations import LOGISTIC, RELU, SILU, SOFTPLUS, TANH, ArrayActivation


@dataclass(frozen=True)
class Activation:
    """An elementwise function.

    Attributes
    ----------
    value : callable
        ``h(x)``.
    slope : callable
        ``h'(x)`` from ``k``.
    curvature : callable
        ``h''(x)`` from ``k`` and ``p = h'(x)``.
    slope_into : callable
        ``h'(x)`` from ``k``, into memory that is there.
    pull_with_curvature : callable
        Replaces ``d`` by ``d p + g (h''(x) - c p)``, with the constant ``c`` of ``curvature_shift``, from ``d``, ``g``,
        ``k`` and ``p = h'(x)``.
    curvature_shift : float
        The constant ``c``, so that callers that add ``c g`` to ``d`` in the course of a product are spared one pass.
    value_into : callable
        ``h(x)`` into memory that is there: that of ``x`` itself, unless ``of_input``.
    pull : callable
        Multiplies ``g`` by ``h'(x)``, from ``k``, in place.
    arrays : ArrayActivation
        The same function on NumPy arrays.
    of_input : bool
        Whether ``k`` is the input ``x`` rather than the value ``h(x)``.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor, Tensor], Tensor]
    slope_into: Callable[[Tensor, Tensor], Tensor]
    pull_with_curvature: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    curvature_shift: float
    value_into: Callable[[Tensor, Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]
    arrays: ArrayActivation
    of_input: bool = False

    def kept(self, x: Tensor, s: Tensor) -> Tensor:
        """``k``, of the input and the value."""
        return x if self.of_input else s


def _tanh(x: Tensor) -> Tensor:
    # 2 sigmoid(2x) - 1: on many CPUs torch's tanh costs five to ten times its sigmoid.
    return torch.sigmoid(2.0 * x).mul_(2.0).sub_(1.0) if not torch.is_grad_enabled() else torch.tanh(x)


def _softplus(x: Tensor) -> Tensor:
    # torch turns linear above 20 by default, which float64 can tell from softplus
    return functional.softplus(x, threshold=40.0)


def _silu_slope(x: Tensor) -> Tensor:
    sigmoid = torch.sigmoid(x)
    return sigmoid * (1.0 + x * (1.0 - sigmoid))


def _silu_curvature(x: Tensor, p: Tensor) -> Tensor:
    sigmoid = torch.sigmoid(x)  # p = sigmoid + h (1 - sigmoid), differentiated, with its h (1 - sigmoid) put in
    return sigmoid * (1.0 - p) + p * (1.0 - sigmoid)


def _silu_pull(g: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.silu_backward.grad_input(g, x, grad_input=g)


ACTIVATIONS = {
    "tanh": Activation(
        value=_tanh,
        slope=lambda s: 1.0 - s * s,
        curvature=lambda s, p: -2.0 * s * p,
        slope_into=lambda s, out: torch.mul(s, s, out=out).neg_().add_(1.0),
        pull_with_curvature=lambda d, g, s, p: d.addcmul_(g, s, value=-2.0).mul_(p),
        curvature_shift=0.0,
        value_into=lambda x, out: torch.tanh_(x),
        pull=lambda g, s: torch.ops.aten.tanh_backward.grad_input(g, s, grad_input=g),
        arrays=TANH,
    ),
    "logistic": Activation(
        value=torch.sigmoid,
        slope=lambda s: s * (1.0 - s),
        curvature=lambda s, p: p * (1.0 - 2.0 * s),
        slope_into=lambda s, out: torch.addcmul(s, s, s, value=-1.0, out=out),
        pull_with_curvature=lambda d, g, s, p: d.addcmul_(g, s, value=-2.0).mul_(p),
        curvature_shift=1.0,
        value_into=lambda x, out: torch.sigmoid_(x),
        pull=lambda g, s: torch.ops.aten.sigmoid_backward.grad_input(g, s, grad_input=g),
        arrays=LOGISTIC,
    ),
    "softplus": Activation(
        value=_softplus,
        # h' = sigmoid(x) and exp(-softplus(x)) = 1 - sigmoid(x)
        slope=lambda s: -torch.expm1(-s),
        curvature=lambda s, p: p * (1.0 - p),
        slope_into=lambda s, out: torch.neg(s, out=out).expm1_().neg_(),
        pull_with_curvature=lambda d, g, s, p: d.addcmul_(g, torch.exp(-s)).mul_(p),  # exp(-s) = 1 - h'
        curvature_shift=0.0,
        value_into=lambda x, out: x.copy_(_softplus(x)),
        pull=lambda g, s: g.mul_(-torch.expm1(-s)),
        arrays=SOFTPLUS,
    ),
    "relu": Activation(
        value=torch.relu,
        slope=lambda s: (s > 0).to(s.dtype),
        curvature=lambda s, p: torch.zeros_like(s),
        slope_into=lambda s, out: out.copy_(s > 0),
        pull_with_curvature=lambda d, g, s, p: d.mul_(p),
        curvature_shift=0.0,
        value_into=lambda x, out: torch.relu_(x),
        pull=lambda g, s: torch.ops.aten.threshold_backward.grad_input(g, s, 0.0, grad_input=g),
        arrays=RELU,
    ),
    # x sigmoid(x) (Elfwing, Uchibe, Doya, "Sigmoid-weighted linear units for neural network function approximation in
    # reinforcement learning", Neural Networks 107, 2018)
    "silu": Activation(
        value=functional.silu,
        slope=_silu_slope,
        curvature=_silu_curvature,
        slope_into=lambda x, out: _silu_pull(out.fill_(1.0), x),
        pull_with_curvature=lambda d, g, x, p: d.mul_(p).addcmul_(g, _silu_curvature(x, p)),
        curvature_shift=0.0,
        value_into=lambda x, out: torch.ops.aten.silu.out(x, out=out),
        pull=_silu_pull,
        arrays=SILU,
        of_input=True,
    ),
}

EXACT_TANH = replace(ACTIVATIONS["tanh"], value=torch.tanh)


def get_activation(name: str) -> Activation:
    """The activation of a name; ValueError with the names known where it is not one of them."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r} is not known; choose one of {sorted(ACTIVATIONS)}.")
    return ACTIVATIONS[name]
