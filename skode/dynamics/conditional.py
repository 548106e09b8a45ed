"""Flows that depend on a context: a perceptron of state, context and time, and its joint dynamics for given contexts.

With ``dz/dt = f(t, z; x)``, where ``x`` is the context of a sample and does not change along its path, the density of
``z(t)`` given ``x`` follows the instantaneous change of variables with the divergence over ``z`` alone (C. Winkler,
D. Worrall, E. Hoogeboom, M. Welling, "Learning likelihoods with conditional normalizing flows", arXiv 1912.00042, with
the continuous flow of Chen et al. 2018).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from skode.dynamics.activations import get_activation
from skode.dynamics.bound_mlp import BoundMLP
from skode.dynamics.flow import FlowProducts
from skode.dynamics.fused_flow import FlowForm
from skode.dynamics.fused_mlp import MLPForm, takes
from skode.dynamics.mlp import affine


class ConditionalMLPField(nn.Module):
    """``dz/dt = W_L h(... h(W_1 [z, x, t] + b_1) ...) + b_L`` with a context ``x`` of each sample.

    Parameters
    ----------
    n_features, n_context : int
        Sizes of ``z`` and ``x``.
    hidden_layer_sizes : tuple of int
        Widths of one or two hidden layers.
    activation : str
        Their activation, which must be smooth.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(
        self,
        n_features: int,
        n_context: int,
        hidden_layer_sizes: tuple[int, ...],
        activation: str,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_features, self.n_context, self.activation = n_features, n_context, activation
        sizes = [n_features + n_context + 1, *hidden_layer_sizes, n_features]
        self.layers = nn.ModuleList(affine(m, n, generator) for m, n in pairwise(sizes))

    def flow(self, context: Tensor, *, energy: bool = False) -> ConditionalFlow:
        """The joint dynamics of states, log-densities and, where it is wanted, kinetic energies.

        Parameters
        ----------
        context : Tensor of shape (n, n_context)
            The context of each sample, which has no gradient.
        energy : bool, default=False
            See :func:`skode.dynamics.flow_field`.
        """
        layers: list[nn.Linear] = list(self.layers)  # type: ignore[arg-type]
        perceptron = BoundMLP(layers, self.n_features + self.n_context, get_activation(self.activation), True)
        return ConditionalFlow(perceptron, context, 1 + energy)


class ConditionalFlow(FlowProducts):
    """``d[z, log p, ...]/dt`` for samples with a context each.

    Parameters
    ----------
    field : BoundMLP
        The perceptron of ``[z, x]`` and time.
    context : Tensor of shape (n, n_context)
        ``x``.
    n_columns : int, default=1
        1, or 2 with the kinetic energy.
    """

    def __init__(self, field: BoundMLP, context: Tensor, n_columns: int = 1) -> None:
        super().__init__(field, n_columns)
        self.context = context

    def perceptron_inputs(self, z: Tensor) -> Tensor:
        return torch.cat([z, self.context], dim=1)

    def take(self, rows: Tensor) -> ConditionalFlow:
        """The dynamics of some of the samples, as a solver needs them where each takes its own steps."""
        return ConditionalFlow(self.field, self.context[rows], self.n_columns)

    def fused(self, like: Tensor) -> FlowForm | None:
        """Form of the dynamics for the solver's fused path; None for states that it does not take."""
        d, owned, context = self.n_features, self.field.owned, self.context
        if like.shape[1] != d + self.n_columns or not takes(owned, like[:, :d], d) or context.dtype != like.dtype:
            return None
        rows = np.ascontiguousarray(context.numpy().T)

        def write(t: float | np.ndarray, out: np.ndarray) -> None:
            out[:-1] = rows
            out[-1] = t

        return FlowForm(MLPForm(owned, d, self.field.h.arrays, write), self.n_columns)
