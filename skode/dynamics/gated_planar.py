"""Continuous planar flows: many hidden units, each with a gate that opens and closes with time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from skode.dynamics.activations import Activation, get_activation
from skode.dynamics.mlp import affine
from skode.dynamics.sizes import check_size
from skode.dynamics.times import as_column


class TimeGates(nn.Module):
    """Gates ``sigma(t) = sigmoid(A tanh(a t + c) + e)``.

    Parameters
    ----------
    n_gates : int
        Number of gates.
    hidden : int
        Width of the hidden layer.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(self, n_gates: int, hidden: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.first = affine(1, hidden, generator)
        self.last = affine(hidden, n_gates, generator)

    def forward(self, t: Tensor) -> Tensor:
        """The gates, of shape (m, n_gates), at times of shape (m, 1)."""
        return torch.sigmoid(self.last(torch.tanh(self.first(t))))


class GatedPlanarField(nn.Module):
    r"""Vector field ``f(t, z) = sum_n sigma_n(t) u_n h(w_n.z + b_n)``, the continuous planar flow with gates.

    Every unit moves the state along its own direction ``u_n``, as far as its gate ``sigma_n(t)`` in (0, 1) lets it.

    Parameters
    ----------
    n_features : int
        Size of the state.
    n_units : int or sequence of int, default=64
        Number of units; of a sequence the sum, so that it may be given the widths of other fields' hidden layers.
    activation : {"tanh", "logistic", "softplus", "relu", "silu"}, default="tanh"
        The activation ``h``.
    hidden : int, default=16
        Width of the hidden layer of the network of time that opens the gates.
    generator : torch.Generator, default=None
        Source of the initial weights; torch's global one where None.

    Attributes
    ----------
    units : nn.Linear
        The vectors ``w_n``, as the rows of its weight of shape (n_units, n_features), and the offsets ``b_n``.
    directions : nn.Parameter of shape (n_features, n_units)
        The vectors ``u_n``, as columns.
    gates : TimeGates
        The network of time.

    References
    ----------
    Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations", NeurIPS 2018, section 4, which
    leaves the gates' network open.

    Examples
    --------
    >>> import torch
    >>> from skode.dynamics import GatedPlanarField
    >>> field = GatedPlanarField(2, n_units=8, generator=torch.Generator().manual_seed(0))
    >>> value, divergence = field.value_and_divergence(0.5, torch.zeros(10, 2))
    >>> value.shape, divergence.shape
    (torch.Size([10, 2]), torch.Size([10]))
    """

    name = "gated_planar"

    #: Whether ``value_and_divergence`` works.
    has_analytic_divergence = True

    def __init__(
        self,
        n_features: int,
        n_units: int | Sequence[int] = 64,
        activation: str = "tanh",
        *,
        hidden: int = 16,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        get_activation(activation)
        self.activation = activation
        n_units = n_units if isinstance(n_units, int) else max(sum(n_units), 1)
        check_size("n_features", n_features)
        check_size("n_units", n_units)
        check_size("hidden", hidden)
        self.units = affine(n_features, n_units, generator)
        self.directions = affine(n_units, n_features, generator).weight
        self.gates = TimeGates(n_units, hidden, generator)

    @property
    def h(self) -> Activation:
        """The activation."""
        return get_activation(self.activation)

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
        return linear(self.gates(as_column(t, z)) * self.h.value(self.units(z)), self.directions)

    def value_and_divergence(self, t: float | Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Value and exact divergence ``sum_n sigma_n(t) h'(w_n.z + b_n) u_n.w_n``. Differentiable by autograd.

        The trace of a sum is the sum of the traces, so that its price is linear in the units (Chen et al. 2018,
        eq. 10).

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
        """
        gates = self.gates(as_column(t, z))
        x = self.units(z)
        s = self.h.value(x)
        alignment = (self.directions.t() * self.units.weight).sum(1)
        return linear(gates * s, self.directions), (gates * self.h.slope(self.h.kept(x, s))) @ alignment
