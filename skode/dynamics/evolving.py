"""Fields whose weights evolve with time by another ODE."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from skode.dynamics.activations import get_activation
from skode.dynamics.mlp import affine
from skode.dynamics.sizes import check_size, check_sizes

#: Number of sets that a field's weights are combined from.
N_SETS = 2


class WeightODE(nn.Module):
    """The linear ODE ``dc/dt = A c``, ``c(0) = (1, 0, ...)``, of the coefficients that combine sets of weights.

    The weights ``theta(t) = sum_k c_k(t) theta_k`` then obey a linear ODE themselves, as those of Zhang, Yao, Gholami,
    Keutzer, Gonzalez, Biros, Mahoney, "ANODEV2: A Coupled Neural ODE Framework", NeurIPS 2019. There its operator is
    one of reaction, diffusion and advection; here it is learned. Its solution ``c(t) = exp(t A) c(0)`` is exact, so
    that the solver need not follow it.

    Parameters
    ----------
    n_sets : int
        Number of sets of weights.
    generator : torch.Generator
        Source of the initial ``A``.
    """

    def __init__(self, n_sets: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.n_sets = n_sets
        # Flat, so that penalties on weights, which are matrices, leave it alone.
        self.entries = nn.Parameter(torch.empty(n_sets**2).uniform_(-1.0, 1.0, generator=generator))

    @property
    def operator(self) -> Tensor:
        """``A``, of shape (n_sets, n_sets)."""
        return self.entries.view(self.n_sets, self.n_sets)

    def forward(self, t: float | Tensor) -> Tensor:
        """``c(t)``, of shape (n_sets,), or (n, n_sets) at times of shape (n, 1), one for each sample."""
        operator = self.operator
        t = torch.as_tensor(t, dtype=operator.dtype, device=operator.device)
        times = t.reshape(-1, 1, 1) if t.ndim else t
        return torch.linalg.matrix_exp(times * operator)[..., 0]


class EvolvingLayer(nn.Module):
    """An affine map or a convolution whose weights are combined from several sets.

    Parameters
    ----------
    layers : sequence of nn.Linear, or of nn.Conv2d
        The sets of weights, alike in shape.
    """

    def __init__(self, layers: Sequence[nn.Linear] | Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.ParameterList([layer.bias.detach() for layer in layers if layer.bias is not None])
        first = layers[0]
        self.map: Callable[..., Tensor]
        if isinstance(first, nn.Conv2d):
            self.map = functools.partial(functional.conv2d, stride=first.stride, padding=first.padding)
        else:
            self.map = functional.linear

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """The map of ``x`` with weights combined by coefficients ``c``; see :class:`WeightODE`."""
        if c.ndim == 1:
            return self.map(x, torch.tensordot(c, self.weight, 1), torch.tensordot(c, torch.stack([*self.bias]), 1))
        # The weights differ between samples: combine the sets' outputs instead, which gives the same.
        by_set = c.t().reshape(c.shape[1], -1, *[1] * (x.ndim - 1))
        biases = [*self.bias]
        # By position: views that unpacking makes of all sets at once are an alias of the weights in exported loops.
        outputs = (self.map(x, self.weight[k], *biases[k : k + 1]) for k in range(len(by_set)))
        return sum((c_k * output for c_k, output in zip(by_set, outputs, strict=True)))


class EvolvingField(nn.Module):
    """The vector field of :class:`skode.dynamics.MLPField` with weights that evolve with time.

    Parameters
    ----------
    n_features, hidden_layer_sizes, activation, time_dependent, generator
        As those of :class:`skode.dynamics.MLPField`.
    n_sets : int, default=2
        Number of sets of weights that are combined; see :class:`WeightODE`.

    Examples
    --------
    >>> import torch
    >>> from skode.dynamics import EvolvingField
    >>> field = EvolvingField(2, hidden_layer_sizes=(16,), generator=torch.Generator().manual_seed(0))
    >>> field(0.5, torch.zeros(10, 2)).shape
    torch.Size([10, 2])
    """

    def __init__(
        self,
        n_features: int,
        hidden_layer_sizes: Sequence[int] = (64, 64),
        activation: str = "tanh",
        time_dependent: bool = True,
        *,
        n_sets: int = N_SETS,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.h = get_activation(activation).value
        self.time_dependent = time_dependent
        self.coefficients = WeightODE(n_sets, generator)
        n_features = check_size("n_features", n_features)
        sizes = [n_features + time_dependent, *check_sizes(hidden_layer_sizes), n_features]
        self.layers = nn.ModuleList(
            EvolvingLayer([affine(m, n, generator) for _ in range(n_sets)]) for m, n in pairwise(sizes)
        )

    def forward(self, t: float | Tensor, z: Tensor) -> Tensor:
        """``dz/dt`` for states of shape (n, n_features), at a time or at one for each, of shape (n, 1)."""
        c = self.coefficients(t)
        if self.time_dependent:
            time = torch.as_tensor(t, dtype=z.dtype, device=z.device).expand(len(z), 1)
            z = torch.cat([z, time], dim=1)
        *hidden, last = self.layers
        for layer in hidden:
            z = self.h(layer(z, c))
        return last(z, c)
