"""A multilayer perceptron as a vector field, with its own pullback."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from skode.dynamics.activations import EXACT_TANH, Activation, get_activation
from skode.dynamics.bound_mlp import BoundMLP
from skode.dynamics.fused_mlp import MLPForm, takes, write_time
from skode.dynamics.sizes import check_memory, check_size, check_sizes
from skode.dynamics.uninitialised import uninitialised
from skode.solvers.fields.pullback import is_hooked


def affine(n_in: int, n_out: int, generator: torch.Generator | None) -> nn.Linear:
    """An affine map with its initial weights from ``generator``: uniform within ``sqrt(6 / (n_in + n_out))``.

    That is the range of Glorot and Bengio (2010); biases are 0. Torch's global random state is left alone.
    """
    check_memory(n_out, n_in)
    layer = uninitialised(nn.Linear, n_in, n_out)
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
    :class:`skode.solvers.OffersPullback`): plain matrix products without an autograd graph. With one or two hidden
    layers it also offers ``value_and_divergence``.

    Examples
    --------
    >>> import torch
    >>> from skode.dynamics import MLPField
    >>> field = MLPField(2, hidden_layer_sizes=(16,), generator=torch.Generator().manual_seed(0))
    >>> field(0.5, torch.zeros(10, 2)).shape
    torch.Size([10, 2])
    """

    name = "mlp"

    #: Whether solves may be captured once and replayed: the bound field's ``replay_key`` says which can be.
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
        self.n_features = check_size("n_features", n_features)
        self.hidden_layer_sizes = check_sizes(hidden_layer_sizes)
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
        return self.bind()(t, z) if self._is_plain() else self._by_layers(t, z)

    def offers_pullback(self) -> bool:
        """Whether the layers are torch's own, of which the weights say all; adapted or quantised ones are called.

        Whether they have hooks the solver sees for itself.
        """
        return all(type(layer) is nn.Linear and "forward" not in vars(layer) for layer in self.layers._modules.values())

    def _is_plain(self) -> bool:
        """Whether the weights say all of what the layers compute."""
        return self.offers_pullback() and not is_hooked(self.layers)

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

    def fused(self, like: Tensor) -> MLPForm | None:
        """Form of the field for the solver's fused path; None for states that it does not take."""
        parameters = self._owned()
        if not takes(parameters, like, self.n_features):
            return None
        write = write_time if self.time_dependent else None
        return MLPForm(parameters, self.n_features, get_activation(self.activation).arrays, write)

    def _owned(self) -> list[Tensor]:
        """The layers' weights and biases: ``parameters()`` in a tenth of its time."""
        held = [layer._parameters for layer in self.layers._modules.values() if layer is not None]
        return [parameter[name] for parameter in held for name in ("weight", "bias")]  # type: ignore[misc]

    def linearize(self, t: float | Tensor, z: Tensor) -> tuple[Tensor, Any]:
        """See :meth:`BoundMLP.linearize`."""
        return self.bind().linearize(t, z)

    def pullback(self, residuals: Any, cotangent: Tensor) -> tuple[Tensor, Any]:
        """See :meth:`BoundMLP.pullback`."""
        return self.bind().pullback(residuals, cotangent)

    def parameter_gradients(self, tape: Sequence[tuple[Any, Any]]) -> list[Tensor]:
        """See :meth:`BoundMLP.parameter_gradients`."""
        return self.bind().parameter_gradients(tape)

    @property
    def has_analytic_divergence(self) -> bool:
        """Whether ``value_and_divergence`` works: with one or two hidden layers, all layers torch's own."""
        return len(self.hidden_layer_sizes) in (1, 2) and self._is_plain()

    def value_and_divergence(self, t: float | Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Value and exact divergence, at the price of one more linear layer. Differentiable by autograd.

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
            If the field has no or more than two hidden layers, or layers other than torch's own.
        """
        if not self.has_analytic_divergence:
            raise ValueError(
                f"value_and_divergence needs one or two hidden layers, all of them plain nn.Linear, not "
                f"hidden_layer_sizes={self.hidden_layer_sizes} and {self.layers}; use exact_divergence."
            )
        return self.bind().value_and_divergence(t, z)

    def linear_layers(self) -> list[nn.Linear]:
        """The layers, first to last."""
        return list(self.layers)  # type: ignore[arg-type]

    @property
    def units(self) -> nn.Linear | None:
        """The affine map before the first activation; None without a hidden layer."""
        return self.linear_layers()[0] if self.hidden_layer_sizes else None
