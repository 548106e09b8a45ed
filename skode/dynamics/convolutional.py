"""Vector fields of images, and their convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn

from skode.dynamics.evolving import N_SETS, EvolvingLayer, WeightODE
from skode.dynamics.sizes import check_memory, check_size, check_sizes
from skode.dynamics.uninitialised import uninitialised

# Images are made smaller until no side is longer than this, before the first ODE.
LARGEST_SIDE = 7
# Fewer numbers than this are not normalised together: that would leave little information in them.
SMALLEST_GROUP = 16


def convolution(n_in: int, n_out: int, size: int, generator: torch.Generator, *, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps an image's size (divided by ``stride``), initialised by He et al. (2015)."""
    check_memory(n_out, n_in, size, size)
    layer = uninitialised(nn.Conv2d, n_in, n_out, size, stride=stride, padding=(size - 1) // 2)
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def normalisation(n_channels: int, n_pixels: int) -> nn.GroupNorm:
    """Group normalisation, which treats every sample by itself.

    It is by pairs of channels (the paper: 32 groups of 64), or by as many as make :data:`SMALLEST_GROUP` numbers.
    """
    least = max(2, math.ceil(SMALLEST_GROUP / n_pixels))
    n_groups = max((n for n in range(1, n_channels + 1) if n_channels % n == 0 and n_channels // n >= least), default=1)
    return nn.GroupNorm(n_groups, n_channels)


def halved(sides: Sequence[int], times: int = 1) -> list[int]:
    """An image's sides after convolutions of stride 2."""
    return [math.ceil(side / 2**times) for side in sides]


def in_bfloat16(device: torch.device, *, wanted: bool = True) -> AbstractContextManager[object]:
    """A context in which convolutions of any dtype are computed in bfloat16, or one without effect if not wanted.

    Weights are cast at every use: they change in place between evaluations that are captured once and replayed.
    """
    # Not autocast(enabled=False), which would end a caller's autocast.
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False) if wanted else nullcontext()


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
    evolving_weights : bool, default=False
        Whether the convolutions' weights evolve with time; see :class:`skode.dynamics.evolving.WeightODE`.
    n_pixels : int, default=49
        Number of pixels of the state: the fewer, the more channels are normalised together.
    autocast : bool, default=False
        Whether the convolutions are computed in bfloat16. Weights, states, normalisations and the field's value keep
        their dtype.
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
        evolving_weights: bool = False,
        *,
        n_pixels: int = LARGEST_SIDE**2,
        autocast: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.time_dependent = time_dependent
        self.autocast = autocast
        n_channels = check_size("n_channels", n_channels)
        sizes = [n_channels, *check_sizes(hidden_layer_sizes), n_channels]
        self.norms = nn.ModuleList(normalisation(n, n_pixels) for n in sizes)
        n_sets = N_SETS if evolving_weights else 1
        self.coefficients = WeightODE(n_sets, generator) if evolving_weights else None
        sets = ([convolution(m + time_dependent, n, 3, generator) for _ in range(n_sets)] for m, n in pairwise(sizes))
        self.layers = nn.ModuleList(EvolvingLayer(layers) if evolving_weights else layers[0] for layers in sets)
        # A field that is zero at the start makes easy dynamics, which training makes as hard as the data need.
        nn.init.zeros_(self.norms[-1].weight)  # type: ignore[arg-type]

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """``dz/dt`` for states of shape (n, n_channels, height, width)."""
        dtype = z.dtype
        weights = () if self.coefficients is None else (self.coefficients(t),)
        with in_bfloat16(z.device, wanted=self.autocast):
            for norm, layer in zip(self.norms, self.layers, strict=False):
                z = torch.relu(norm(z))
                if self.time_dependent:
                    time = torch.as_tensor(t, dtype=dtype, device=z.device).expand(len(z), 1, *z.shape[2:])
                    z = torch.cat([z, time], dim=1)
                z = layer(z, *weights).to(dtype)
        return self.norms[-1](z)


class InBfloat16(nn.Module):
    """A user's field under autocast to bfloat16, with values in the states' dtype.

    Parameters
    ----------
    field : nn.Module
        ``f(t, z)``.
    """

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """``dz/dt``."""
        with in_bfloat16(z.device):
            rate = self.field(t, z)
        # Values of any other dtype do not come from autocast; the solver checks them.
        return rate.to(z.dtype) if isinstance(rate, Tensor) and rate.dtype == torch.bfloat16 else rate
