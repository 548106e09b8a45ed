"""A perceptron over views of its current weights, as plain matrix products with their pullback."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from skode.dynamics.activations import Activation
from skode.dynamics.mlp_divergence import combine_slopes, divergence_weights
from skode.dynamics.mlp_session import MLPSession
from skode.dynamics.mlp_tape import FoldedMLP, MLPTape
from skode.dynamics.products import as_right_factor, outer
from skode.solvers.cached import cached


class BoundMLP:
    """A perceptron as plain matrix products.

    Parameters
    ----------
    layers : list of nn.Linear
        Its layers.
    n_features : int
        Size of the state.
    h : Activation
        The activation.
    time_dependent : bool
        Whether the first weight's last column belongs to time.

    Attributes
    ----------
    weights : list of Tensor
        The layers' weights, the first without time's column: views, so that they follow the parameters.
    time_dependent : bool
        As given.
    """

    def __init__(self, layers: list[nn.Linear], n_features: int, h: Activation, time_dependent: bool) -> None:
        self.owned = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
        first = self.owned[0]
        self.weights = [first[:, :n_features] if time_dependent else first, *self.owned[2::2]]
        self.biases = self.owned[1::2]
        self.time_column = first[:, n_features] if time_dependent else None
        self.h = h
        self.time_dependent = time_dependent

    @cached
    def transposed(self) -> list[Tensor]:
        """The weights' transposes."""
        return [weight.t() for weight in self.weights]

    @cached
    def first_factor(self) -> Tensor:
        """The first weight in the layout for its pullback."""
        return as_right_factor(self.weights[0])

    def parameters(self) -> list[Tensor]:
        """The layers' weights and biases, as ``MLPField.parameters()`` gives them."""
        return self.owned

    def tape(self, like: Tensor, n_slots: int) -> MLPTape:
        """A tape in preallocated memory; see :class:`skode.solvers.fields.protocols.Tape`."""
        return self.folded.tape(like, n_slots)

    def session(self) -> MLPSession:
        """A reverse sweep over such tapes."""
        return MLPSession(self.folded)

    @cached
    def folded(self) -> FoldedMLP:
        """The weights as the tapes use them."""
        return FoldedMLP(self.weights, self.biases, self.time_column, self.h)

    def replay_key(self) -> Hashable:
        """Key of recordings of evaluations: addresses and types of the parameters, and the form of the field."""
        where = tuple((p.data_ptr(), p.shape, p.dtype) for p in self.owned)
        return ("mlp", where, id(self.h), self.time_dependent)

    def over(self, parameters: Sequence[Tensor]) -> BoundMLP:
        """A perceptron of the same form with other parameters."""
        layers: Any = [SimpleNamespace(weight=w, bias=b) for w, b in _pairs(parameters)]
        return BoundMLP(layers, self.weights[0].shape[1], self.h, self.time_dependent)

    def refresh(self) -> None:
        """See :meth:`FoldedMLP.refresh`."""
        self.folded.refresh()

    def __call__(self, t: float | Tensor, z: Tensor) -> Tensor:
        """The value."""
        x = self._first(t, z)
        for weight, bias in zip(self.transposed[1:], self.biases[1:], strict=True):
            x = torch.addmm(bias, self.h.value(x), weight)
        return x

    def linearize(self, t: float | Tensor, z: Tensor) -> tuple[Tensor, Any]:
        """The value, and ``(t, z, s_1, s_2, ...)`` with the hidden layers' values ``s_l``.

        Behind them come the layers' linear outputs where the activation's derivatives are computed from its input.
        """
        values: list[Tensor] = []
        inputs: list[Tensor] = []
        x = self._first(t, z)
        for weight, bias in zip(self.transposed[1:], self.biases[1:], strict=True):
            s = self.h.value(x)
            values.append(s)
            if self.h.of_input:
                inputs.append(x)
            x = torch.addmm(bias, s, weight)
        return x, (t, z, *values, *inputs)

    def value_and_divergence(self, t: float | Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The value and the exact divergence, of one or two hidden layers."""
        value, residuals = self.linearize(t, z)
        slopes = [self.h.slope(k) for k in self.kept(residuals)]
        return value, combine_slopes(divergence_weights(self.weights), slopes)

    def kept(self, residuals: Any) -> Any:
        """The tensors ``k`` of the hidden layers, which their activations' derivatives are computed from.

        See :class:`skode.dynamics.activations.Activation`.
        """
        return residuals[len(residuals) - len(self.weights) + 1 :]

    def pullback(self, residuals: Any, cotangent: Tensor) -> tuple[Tensor, Any]:
        """The state's cotangent, and each layer's ``delta_l``, the cotangents of its linear output."""
        delta = cotangent
        deltas = [delta]
        for weight, k in zip(reversed(self.weights[1:]), reversed(self.kept(residuals)), strict=True):
            delta = (delta @ weight) * self.h.slope(k)
            deltas.append(delta)
        deltas.reverse()
        return delta @ self.first_factor, tuple(deltas)

    def parameter_gradients(self, tape: Sequence[tuple[Any, Any]]) -> list[Tensor]:
        """Gradients of all weights and biases, layer by layer, summed over the evaluations on the tape."""
        gradients = []
        for i, weight in enumerate(self.weights):
            total = torch.zeros_like(weight)
            for residuals, deltas in tape:
                total += outer(deltas[i], residuals[i + 1])
            sums = [deltas[i].sum(0) for _, deltas in tape]
            if i == 0 and self.time_column is not None:
                columns = [
                    _weighted_sum(residuals[0], deltas[0], s) for (residuals, deltas), s in zip(tape, sums, strict=True)
                ]
                total = torch.cat([total, torch.stack(columns).sum(0)[:, None]], dim=1)
            gradients += [total, torch.stack(sums).sum(0)]
        return gradients

    def _first(self, t: float | Tensor, z: Tensor) -> Tensor:
        """The first layer's linear output."""
        bias, column = self.biases[0], self.time_column
        if column is None:
            return torch.addmm(bias, z, self.transposed[0])
        if isinstance(t, Tensor):
            if t.ndim:
                return torch.addmm(bias, z, self.transposed[0]) + t.reshape(-1, 1) * column
            return torch.addmm(bias + t * column, z, self.transposed[0])
        return torch.addmm(torch.add(bias, column, alpha=t), z, self.transposed[0])


def _pairs(parameters: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights and biases in pairs."""
    return zip(parameters[::2], parameters[1::2], strict=True)


def _weighted_sum(t: float | Tensor, delta: Tensor, delta_sum: Tensor) -> Tensor:
    """``sum_n t_n delta_n``, the gradient of time's column."""
    if isinstance(t, Tensor) and t.ndim:
        return t.reshape(-1) @ delta
    return delta_sum * t
