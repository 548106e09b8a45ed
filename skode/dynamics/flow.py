"""A state carried together with its log-density: the dynamics of a continuous normalizing flow.

Along ``dz/dt = f(t, z)`` the density of ``z(t)`` follows ``d log p(z(t)) / dt = -tr(df/dz)`` (the instantaneous
change of variables, theorem 1 of Chen et al. 2018). The joint state has the log-density as its last column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skode.dynamics.divergence import combine_slopes, divergence_weights, exact_divergence, has_analytic_divergence
from skode.dynamics.mlp import BoundMLP, MLPField


def flow_field(field: Callable[[Tensor, Tensor], Tensor]) -> FlowField:
    """The joint dynamics of a field's states and their log-density, by the fastest exact divergence it allows."""
    return MLPFlowField(field) if has_analytic_divergence(field) else FlowField(field)


class FlowField(nn.Module):
    """``d[z, log p]/dt = [f, -tr(df/dz)]``, differentiated by autograd.

    Parameters
    ----------
    field : callable
        ``f(t, z)`` over states of shape (n, d), each row by itself.
    """

    def __init__(self, field: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Any, state: Tensor) -> Tensor:
        """Rates of joint states of shape (n, d + 1)."""
        value, divergence = exact_divergence(self.field, t, state[:, :-1])
        return torch.cat([value, -divergence[:, None]], dim=1)


class MLPFlowField(FlowField):
    """The same for a perceptron with one or two hidden layers: analytic divergence, and its own pullback.

    Parameters
    ----------
    field : MLPField
        The perceptron.
    """

    field: MLPField

    def forward(self, t: Any, state: Tensor) -> Tensor:
        return self.bind()(t, state)

    def bind(self) -> BoundFlow:
        """The joint dynamics over views of the current weights."""
        return BoundFlow(self.field.bind())

    def linearize(self, t: float | Tensor, state: Tensor) -> tuple[Tensor, Any]:
        """See :meth:`BoundFlow.linearize`."""
        return self.bind().linearize(t, state)

    def pullback(self, residuals: Any, cotangent: Tensor, *, with_time: bool) -> tuple[Tensor, Tensor | None, Any]:
        """See :meth:`BoundFlow.pullback`."""
        return self.bind().pullback(residuals, cotangent, with_time=with_time)

    def parameter_gradients(self, tape: Sequence[tuple[Any, Any]]) -> list[Tensor]:
        """See :meth:`BoundFlow.parameter_gradients`."""
        return self.bind().parameter_gradients(tape)


class BoundFlow:
    """A perceptron's flow as plain matrix products.

    Parameters
    ----------
    field : BoundMLP
        The perceptron, with one or two hidden layers.
    """

    def __init__(self, field: BoundMLP) -> None:
        self.field = field
        self.weights = divergence_weights(field)

    def __call__(self, t: float | Tensor, state: Tensor) -> Tensor:
        """The value."""
        return self.linearize(t, state)[0]

    def linearize(self, t: float | Tensor, state: Tensor) -> tuple[Tensor, Any]:
        """The value; kept are the field's residuals and the slopes of its hidden layers."""
        value, residuals = self.field.linearize(t, state[:, :-1])
        slopes = [self.field.h.slope(s) for s in residuals[2:]]
        divergence = combine_slopes(self.weights, slopes)
        return torch.cat([value, -divergence[:, None]], dim=1), (residuals, slopes)

    def pullback(self, residuals: Any, cotangent: Tensor, *, with_time: bool) -> tuple[Tensor, Tensor | None, Any]:
        """Reverse of :meth:`linearize`, the gradient of the divergence included.

        The divergence reaches the hidden layers' inputs through their slopes, by ``h''``: with ``c`` the cotangent
        of the divergence, ``pbar1 = c u`` (one hidden layer), or ``pbar1 = (c p2) Q`` and ``pbar2 = c (p1 Q^T)``.
        """
        (t, _, *hidden), slopes = residuals
        field, weights = self.field, self.weights
        value_bar, c = cotangent[:, :-1], -cotangent[:, -1:]
        slope_bars = [c * weights] if len(slopes) == 1 else [c * slopes[1] @ weights, c * (slopes[0] @ weights.t())]
        delta = value_bar
        deltas = [delta]
        for i in reversed(range(len(hidden))):
            s, p = hidden[i], slopes[i]
            delta = (delta @ field.weights[i + 1]) * p + slope_bars[i] * field.h.curvature(s, p)
            deltas.append(delta)
        deltas.reverse()
        grad_z, grad_t = field.pull_first(t, delta, with_time=with_time)
        grad_state = torch.cat([grad_z, torch.zeros_like(c)], dim=1)
        return grad_state, grad_t, (tuple(deltas), c)

    def parameter_gradients(self, tape: Sequence[tuple[Any, Any]]) -> list[Tensor]:
        """Gradients in the order of the field's parameters: those of its value, and through the divergence's weights.

        With ``ubar = sum c p1`` or ``Qbar = sum (c p2) p1^T`` over all samples, the product rule on
        :func:`divergence_weights` gives those of the weight matrices.
        """
        field = self.field
        gradients = field.parameter_gradients([(residuals[0], deltas[0]) for residuals, deltas in tape])
        c = torch.cat([deltas[1] for _, deltas in tape])
        slopes = [torch.cat(parts) for parts in zip(*(residuals[1] for residuals, _ in tape), strict=True)]
        first, *rest = field.weights
        to_state = gradients[0][:, : first.shape[1]]
        if len(slopes) == 1:
            u_bar = slopes[0].t() @ c
            to_state += u_bar * rest[0].t()
            gradients[2] += (u_bar * first).t()
            return gradients
        q_bar = (c * slopes[1]).t() @ slopes[0]
        product_bar = (q_bar * rest[0]).t()  # the cotangent of W1 W3
        to_state += product_bar @ rest[1].t()
        gradients[2] += q_bar * (first @ rest[1]).t()
        gradients[4] += first.t() @ product_bar
        return gradients
