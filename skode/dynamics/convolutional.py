"""The ODE-Net for images: convolutions that make an image smaller, and ODEs over what is left of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from skode.dynamics.mlp import affine
from skode.dynamics.odenet import Solve
from skode.solvers import Solution

# Images are made smaller until no side is longer than this, before the first ODE.
LARGEST_SIDE = 7


def convolution(n_in: int, n_out: int, size: int, generator: torch.Generator, *, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps an image's size (divided by ``stride``), initialised by He et al. (2015)."""
    layer = nn.utils.skip_init(nn.Conv2d, n_in, n_out, size, stride=stride, padding=(size - 1) // 2)
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def normalisation(n_channels: int) -> nn.GroupNorm:
    """Group normalisation, which treats every sample by itself, by pairs of channels (the paper: 32 groups of 64)."""
    return nn.GroupNorm(math.gcd(max(n_channels // 2, 1), n_channels), n_channels)


class ConvField(nn.Module):
    """Vector field of images: normalisation, ReLU and 3 x 3 convolution in turns, and a normalisation.

    Parameters
    ----------
    n_channels : int
        Channels of the state.
    hidden_layer_sizes : sequence of int, default=(64,)
        Channels between the convolutions.
    time_dependent : bool, default=True
        Whether time is one more channel of each convolution's input.
    generator : torch.Generator
        Source of the initial weights.

    Notes
    -----
    The field of Chen et al. (2018), section 3, by way of pre-activation residual blocks.
    """

    def __init__(
        self,
        n_channels: int,
        hidden_layer_sizes: Sequence[int] = (64,),
        time_dependent: bool = True,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.time_dependent = time_dependent
        sizes = [n_channels, *hidden_layer_sizes, n_channels]
        self.norms = nn.ModuleList(normalisation(n) for n in sizes)
        self.layers = nn.ModuleList(convolution(m + time_dependent, n, 3, generator) for m, n in pairwise(sizes))
        # A field that starts from zero makes easy dynamics, which training then makes as hard as need be.
        nn.init.zeros_(self.norms[-1].weight)  # type: ignore[arg-type]

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """``dz/dt`` for states of shape (n, n_channels, height, width)."""
        for norm, layer in zip(self.norms, self.layers, strict=False):
            z = torch.relu(norm(z))
            if self.time_dependent:
                time = torch.as_tensor(t, dtype=z.dtype, device=z.device).expand(len(z), 1, *z.shape[2:])
                z = torch.cat([z, time], dim=1)
            z = layer(z)
        return self.norms[-1](z)


class ConvODENet(nn.Module):
    """Convolutions that make an image smaller, one or more ODEs over ``0 <= t <= 1``, and an affine map of the means.

    Parameters
    ----------
    image_shape : tuple of (channels, height, width)
        Shape of the inputs, which come flattened.
    n_outputs : int
        Number of outputs.
    n_channels : int
        Channels of the first ODE's state.
    augment_dim : int
        How many channels of zeros are appended to it.
    n_blocks : int
        Number of ODEs. Between two of them a convolution halves the image.
    hidden_layer_sizes, time_dependent
        See :class:`ConvField`.
    generator : torch.Generator
        Source of the initial weights.

    Attributes
    ----------
    size : int
        Channels of the last ODE's state, which are averaged over the image.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        *,
        n_channels: int,
        augment_dim: int,
        n_blocks: int,
        hidden_layer_sizes: Sequence[int],
        time_dependent: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        n_in, *sides = self.image_shape
        side = max(sides)
        n_halvings = 0
        while side > LARGEST_SIDE:
            n_halvings += 1
            side = (side + 1) // 2
        # Where the image is halved more than once, the first convolution does it too: at full size it would be dear.
        at_once = n_halvings > 1
        layers: list[nn.Module] = [convolution(n_in, n_channels, 3, generator, stride=1 + at_once)]
        layers += [self._halving(n_channels, generator) for _ in range(n_halvings - at_once)]
        self.embedding = nn.Sequential(*layers)
        self.augment_dim = augment_dim
        self.size = n_channels + augment_dim
        self.fields = nn.ModuleList(
            ConvField(self.size, hidden_layer_sizes, time_dependent, generator=generator) for _ in range(n_blocks)
        )
        self.between = nn.ModuleList(self._halving(self.size, generator) for _ in range(n_blocks - 1))
        self.norm = normalisation(self.size)
        self.head = affine(self.size, n_outputs, generator)

    @staticmethod
    def _halving(n_channels: int, generator: torch.Generator) -> nn.Sequential:
        return nn.Sequential(
            normalisation(n_channels), nn.ReLU(), convolution(n_channels, n_channels, 3, generator, stride=2)
        )

    def solutions(self, x: Tensor, solve: Solve, times: Sequence[float] = (1.0,)) -> list[Solution]:
        """The ODEs' solutions, the last one at the times asked for."""
        z = self.embedding(x.view(-1, *self.image_shape))
        if self.augment_dim:
            z = torch.cat([z, z.new_zeros((len(z), self.augment_dim, *z.shape[2:]))], dim=1)
        found = []
        for i, field in enumerate(self.fields):
            if i:
                z = self.between[i - 1](z)
            last = i == len(self.fields) - 1
            found.append(solve(field, (0.0, 1.0), z, t_eval=times if last else (1.0,), first_step=1.0))
            z = found[-1].y[-1]
        return found

    def features(self, z: Tensor) -> Tensor:
        """Means over the image, of which the outputs are an affine function."""
        return torch.relu(self.norm(z)).mean(dim=(2, 3))
