"""FFJORD's perceptron, whose every layer is scaled and shifted by time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from skode.dynamics.activations import Activation, get_activation
from skode.dynamics.mlp import affine
from skode.dynamics.sizes import check_size, check_sizes
from skode.dynamics.times import as_column


class ConcatSquashLayer(nn.Module):
    """The layer ``(W x + b) sigmoid(a t + c) + v t``, elementwise but for ``W``.

    Parameters
    ----------
    n_in, n_out : int
        Sizes of input and output.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(self, n_in: int, n_out: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.affine = affine(n_in, n_out, generator)
        self.squash = affine(1, n_out, generator)
        self.shift = affine(1, n_out, generator).weight

    def gate(self, t: Tensor) -> Tensor:
        """``sigmoid(a t + c)``, of shape (m, n_out), at times of shape (m, 1)."""
        return torch.sigmoid(self.squash(t))

    def forward(self, gate: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The output, of shape (n, n_out), with gates of shape (m, n_out), times of shape (m, 1); m is 1 or n."""
        return self.affine(x) * gate + linear(t, self.shift)


class ConcatSquashField(nn.Module):
    r"""Vector field of layers ``x -> (W x + b) sigmoid(a t + c) + v t``, with activations between them.

    Parameters
    ----------
    n_features : int
        Size of the state.
    hidden_layer_sizes : sequence of int, default=(64, 64)
        Widths of the hidden layers; empty for a field linear in the state.
    activation : {"tanh", "logistic", "softplus", "relu", "silu"}, default="tanh"
        The activation ``h``.
    generator : torch.Generator, default=None
        Source of the initial weights; torch's global one where None.

    Attributes
    ----------
    layers : nn.ModuleList of ConcatSquashLayer
        The layers, first to last.

    References
    ----------
    Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, "FFJORD: Free-form Continuous Dynamics for Scalable Reversible
    Generative Models", ICLR 2019, whose code calls the layer ConcatSquash.

    Examples
    --------
    >>> import torch
    >>> from skode.dynamics import ConcatSquashField
    >>> field = ConcatSquashField(2, hidden_layer_sizes=(16,), generator=torch.Generator().manual_seed(0))
    >>> field(0.5, torch.zeros(10, 2)).shape
    torch.Size([10, 2])
    """

    name = "concatsquash"

    def __init__(
        self,
        n_features: int,
        hidden_layer_sizes: Sequence[int] = (64, 64),
        activation: str = "tanh",
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        get_activation(activation)
        self.activation = activation
        self.hidden_layer_sizes = check_sizes(hidden_layer_sizes)
        check_size("n_features", n_features)
        sizes = [n_features, *self.hidden_layer_sizes, n_features]
        self.layers = nn.ModuleList(ConcatSquashLayer(m, n, generator) for m, n in pairwise(sizes))

    @property
    def h(self) -> Activation:
        """The activation."""
        return get_activation(self.activation)

    @property
    def has_analytic_divergence(self) -> bool:
        """Whether ``value_and_divergence`` works: with one or two hidden layers."""
        return len(self.hidden_layer_sizes) in (1, 2)

    def squash_layers(self) -> list[ConcatSquashLayer]:
        """The layers, first to last."""
        return list(self.layers)  # type: ignore[arg-type]

    def forward(self, t: float | Tensor, z: Tensor) -> Tensor:
        """``dz/dt`` at a time and at states.

        Parameters
        ----------
        t : float, 0-dimensional Tensor, or Tensor of shape (n, 1)
            The time, of the batch or of each sample.
        z : Tensor of shape (n, n_features)
            States.

        Returns
        -------
        Tensor of shape (n, n_features)
            Their rates of change.
        """
        return self._trace(as_column(t, z), z)[0]

    def value_and_divergence(self, t: float | Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Value and exact divergence. Differentiable by autograd.

        With ``p_l`` the slopes of the hidden layers, ``g_l`` the gates, ``q_l = g_l p_l`` and ``i`` a feature, it is
        ``sum_i g2_i sum_a W2_ia q1_a W1_ai`` or ``sum_i g3_i sum_ab W3_ia q2_a W2_ab q1_b W1_bi``. One more linear
        layer is its price, except that two hidden layers and a time for each sample need one for each feature.

        Parameters
        ----------
        t : float, 0-dimensional Tensor, or Tensor of shape (n, 1)
            The time, of the batch or of each sample.
        z : Tensor of shape (n, n_features)
            States.

        Returns
        -------
        value : Tensor of shape (n, n_features)
            ``f(t, z)``.
        divergence : Tensor of shape (n,)
            ``tr(df/dz)``.

        Raises
        ------
        ValueError
            If the field has no or more than two hidden layers.
        """
        if not self.has_analytic_divergence:
            raise ValueError(
                f"value_and_divergence needs one or two hidden layers, not hidden_layer_sizes="
                f"{self.hidden_layer_sizes}; use exact_divergence."
            )
        value, gates, kept = self._trace(as_column(t, z), z)
        weights = [layer.affine.weight for layer in self.squash_layers()]
        slopes = [gate * self.h.slope(k) for gate, k in zip(gates, kept, strict=False)]
        if len(slopes) == 1:
            return value, _divergence_of_two_layers(weights, slopes[0], gates[-1])
        return value, _divergence_of_three_layers(weights, slopes, gates[-1])

    def _trace(self, t: Tensor, z: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The value, all layers' gates, and the tensors ``k`` of the activations' slopes, at times of shape (m, 1)."""
        layers = self.squash_layers()
        gates = [layer.gate(t) for layer in layers]
        x = layers[0](gates[0], t, z)
        kept = []
        for layer, gate in zip(layers[1:], gates[1:], strict=True):
            s = self.h.value(x)
            kept.append(self.h.kept(x, s))
            x = layer(gate, t, s)
        return x, gates, kept


def _divergence_of_two_layers(weights: list[Tensor], q1: Tensor, g2: Tensor) -> Tensor:
    """``sum_i g2_i sum_a W2_ia q1_a W1_ai``."""
    first, last = weights
    return (q1 * (g2 @ (last * first.t()))).sum(1)


def _divergence_of_three_layers(weights: list[Tensor], slopes: list[Tensor], g3: Tensor) -> Tensor:
    """``sum_i g3_i sum_ab W3_ia q2_a W2_ab q1_b W1_bi``."""
    first, middle, last = weights
    q1, q2 = slopes
    if len(g3) == 1:  # of all samples: they share a matrix, see divergence.divergence_weights
        shared = middle * (first @ (g3.t() * last)).t()
        return ((q1 @ shared.t()) * q2).sum(1)
    # For each sample and feature, the derivative of the second hidden layer by that feature: (n, d, second width).
    tangents = (q1[:, None] * first.t()) @ middle.t()
    diagonal = ((tangents * last) @ q2[:, :, None])[..., 0]
    return (g3 * diagonal).sum(1)
