"""A multilayer perceptron as a vector field, with its own pullback."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from skode.dynamics.activations import EXACT_TANH, Activation, get_activation
from skode.dynamics.mlp_tape import FoldedMLP, MLPSession, MLPTape
from skode.dynamics.products import as_right_factor, outer
from skode.dynamics.sizes import checked_size, checked_sizes, refuse_oversized
from skode.solvers.fields.pullback import is_hooked


def affine(n_in: int, n_out: int, generator: torch.Generator | None) -> nn.Linear:
    """An affine map with its initial weights from ``generator``: uniform within ``sqrt(6 / (n_in + n_out))``.

    That is the range of Glorot and Bengio (2010); biases are 0. Torch's global random state is left alone.
    """
    refuse_oversized(n_out, n_in)
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class MLPField(nn.Module):
    r"""A perceptron as a vector field, ``dz/dt = W_L h(...h(W_1 [z, t] + b_1)...) + b_L``.

    Parameters
    ----------
    n_features : int
        Size of the state.
    hidden_layer_sizes : sequence of int, default=(64, 64)
        Widths of the hidden layers; empty for a linear field.
    activation : {"tanh", "logistic", "softplus", "relu", "silu"}, default="tanh"
        The activation ``h``.
    time_dependent : bool, default=True
        Whether time is an input of the first layer, as its last column.
    fold_tanh : bool, default=True
        Whether, where no graph is recorded, ``tanh(x)`` is computed as ``2 sigmoid(2x) - 1`` with the constants folded
        into the weights, which on CPUs takes a fifth to a ninth of the time. Values are then exact to rounding
        relative to the size of the weights, not of the state: for states of size 1e-4 or less, in float32, and
        tolerances that count on it, pass False.
    generator : torch.Generator, default=None
        Source of the initial weights; torch's global one where None.

    Attributes
    ----------
    layers : nn.ModuleList of nn.Linear
        ``parameters()`` gives them in layer order, weight then bias.

    Notes
    -----
    The field offers ``linearize``, ``pullback`` and ``parameter_gradients`` (see
    :class:`skode.solvers.OffersPullback`): plain matrix products without an autograd graph.

    Examples
    --------
    >>> import torch
    >>> from skode.dynamics import MLPField
    >>> field = MLPField(2, hidden_layer_sizes=(16,), generator=torch.Generator().manual_seed(0))
    >>> field(0.5, torch.zeros(10, 2)).shape
    torch.Size([10, 2])
    """

    name = "mlp"

    #: Whether solves may be captured once and replayed: what it binds to says by ``replay_key`` what they depend on.
    recordable = True

    def __init__(
        self,
        n_features: int,
        hidden_layer_sizes: Sequence[int] = (64, 64),
        activation: str = "tanh",
        time_dependent: bool = True,
        *,
        fold_tanh: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_features = checked_size("n_features", n_features)
        self.hidden_layer_sizes = checked_sizes(hidden_layer_sizes)
        self.activation = activation
        self.time_dependent = time_dependent
        self.fold_tanh = fold_tanh
        get_activation(activation)
        sizes = [n_features + time_dependent, *self.hidden_layer_sizes, n_features]
        self.layers = nn.ModuleList(affine(m, n, generator) for m, n in pairwise(sizes))

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
        return self.bind()(t, z) if self.offers_pullback() else self._by_layers(t, z)

    def offers_pullback(self) -> bool:
        """Whether the layers are torch's own, of which the weights say all; adapted or quantised ones are called."""
        return all(
            type(layer) is nn.Linear and "forward" not in vars(layer) and not is_hooked(layer) for layer in self.layers
        )

    def _by_layers(self, t: float | Tensor, z: Tensor) -> Tensor:
        """The value where each layer is to be called."""
        if self.time_dependent:
            time = torch.as_tensor(t, dtype=z.dtype, device=z.device).reshape(-1, 1).expand(len(z), 1)
            z = torch.cat([z, time], dim=1)
        first, *rest = self.layers
        x = first(z)
        for layer in rest:
            x = layer(self.h.value(x))
        return x

    @property
    def h(self) -> Activation:
        """The activation."""
        return EXACT_TANH if self.activation == "tanh" and not self.fold_tanh else get_activation(self.activation)

    def bind(self) -> BoundMLP:
        """The field over views of its current weights, for many evaluations without the cost of a module's."""
        return BoundMLP(self.linear_layers(), self.n_features, self.h, self.time_dependent)

    def linearize(self, t: float | Tensor, z: Tensor) -> tuple[Tensor, Any]:
        """See :meth:`BoundMLP.linearize`."""
        return self.bind().linearize(t, z)

    def pullback(self, residuals: Any, cotangent: Tensor) -> tuple[Tensor, Any]:
        """See :meth:`BoundMLP.pullback`."""
        return self.bind().pullback(residuals, cotangent)

    def parameter_gradients(self, tape: Sequence[tuple[Any, Any]]) -> list[Tensor]:
        """See :meth:`BoundMLP.parameter_gradients`."""
        return self.bind().parameter_gradients(tape)

    def linear_layers(self) -> list[nn.Linear]:
        """The layers, first to last."""
        return list(self.layers)  # type: ignore[arg-type]

    @property
    def units(self) -> nn.Linear | None:
        """The affine map before the first activation; None without a hidden layer."""
        return self.linear_layers()[0] if self.hidden_layer_sizes else None


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

    @functools.cached_property
    def transposed(self) -> list[Tensor]:
        """The weights' transposes."""
        return [weight.t() for weight in self.weights]

    @functools.cached_property
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

    @functools.cached_property
    def folded(self) -> FoldedMLP:
        """The weights as the tapes use them."""
        return FoldedMLP(self)

    def replay_key(self) -> Hashable:
        """Key of recordings of evaluations: addresses and types of the parameters, and the form of the field."""
        where = tuple((p.data_ptr(), p.shape, p.dtype) for p in self.owned)
        return ("mlp", where, id(self.h), self.time_dependent)

    def over(self, parameters: Sequence[Tensor]) -> BoundMLP:
        """The same perceptron of other parameters."""
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

    def kept(self, residuals: Any) -> Any:
        """What the derivatives of the hidden layers' activations are computed from; see :class:`Activation`."""
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
