"""The network of the ODE-Net estimators on images."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skode.dynamics.convolutional import (
    LARGEST_SIDE,
    SMALLEST_GROUP,
    ConvField,
    InBfloat16,
    convolution,
    halved,
    in_bfloat16,
    normalisation,
)
from skode.dynamics.mlp import affine
from skode.solvers import Solution
from skode.solvers.solution import Solve
from skode.supervised.odenet import Network


class ConvODENet(Network):
    """Convolutions that make an image smaller, one or more ODEs over ``0 <= t <= 1``, and an affine map of the last.

    The affine map sees every pixel of the last, small image. Means over pixels, as in the paper, say much less after a
    normalisation by channels: training then takes several times the epochs.

    Parameters
    ----------
    image_shape : tuple of (channels, height, width)
        Shape of the inputs, which come flattened.
    n_outputs : int
        Number of outputs.
    n_channels : int
        Channels of the first ODE's state.
    augment_dim : int
        Number of channels of zeros appended to it.
    n_blocks : int
        Number of ODEs. Between two of them a convolution halves the image.
    hidden_layer_sizes, time_dependent, evolving_weights
        See :class:`ConvField`.
    field : nn.Module or None
        The vector field of each ODE, called as ``field(t, z)``, of which each has a copy; a :class:`ConvField` where
        None.
    generator : torch.Generator
        Source of the initial weights.

    Attributes
    ----------
    size : int
        Number of values in the last ODE's state.
    width : int
        Estimate of the largest number of values per sample: as many channels as states have, of the size of images.
    autocast : bool
        Whether all but the solver, the normalisation at the end and the head is computed under autocast to bfloat16;
        see :meth:`set_autocast`.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        n_outputs: int,
        *,
        n_channels: int,
        augment_dim: int,
        n_blocks: int,
        hidden_layer_sizes: Sequence[int],
        time_dependent: bool,
        evolving_weights: bool = False,
        field: nn.Module | None = None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        n_in, *sides = self.image_shape
        n_state = n_channels + augment_dim
        n_halvings = max(0, math.ceil(math.log2(max(sides) / LARGEST_SIDE)))
        # Where the image is halved more than once, the first convolution halves it too: it is costly at full size.
        at_once = n_halvings > 1
        sides = halved(sides, at_once)
        layers: list[nn.Module] = [convolution(n_in, n_channels, 3, generator, stride=1 + at_once)]
        for _ in range(n_halvings - at_once):
            layers.append(self._halving(n_channels, sides, generator))
            sides = halved(sides)
        self.embedding = nn.Sequential(*layers)
        self.augment_dim = augment_dim
        self.fields, self.between = nn.ModuleList(), nn.ModuleList()
        for block in range(n_blocks):
            if block:
                self.between.append(self._halving(n_state, sides, generator))
                sides = halved(sides)
            if field is not None:
                self.fields.append(copy.deepcopy(field))
            else:
                architecture = (n_state, hidden_layer_sizes, time_dependent, evolving_weights)
                self.fields.append(ConvField(*architecture, n_pixels=math.prod(sides), generator=generator))
        self.size = n_state * math.prod(sides)
        self.width = max(n_state * math.prod(self.image_shape[1:]), math.prod(self.image_shape))
        if self.size < SMALLEST_GROUP:
            raise ValueError(
                f"image_shape={self.image_shape}, n_blocks={n_blocks} and state_size={n_channels} leave a last state "
                f"of {n_state} x {sides[0]} x {sides[1]} numbers; fewer than {SMALLEST_GROUP} can't be normalised."
            )
        self.norm = normalisation(n_state, math.prod(sides))
        self.head = affine(self.size, n_outputs, generator)
        self.has_own_fields = field is not None
        self.set_autocast(False)

    def set_autocast(self, autocast: bool) -> None:
        """Compute convolutions and users' fields in bfloat16 from now on, or no longer."""
        self.autocast = autocast
        if not self.has_own_fields:
            for field in self.fields:
                field.autocast = autocast  # type: ignore[assignment]

    @staticmethod
    def _halving(n_channels: int, sides: Sequence[int], generator: torch.Generator) -> nn.Sequential:
        return nn.Sequential(
            normalisation(n_channels, math.prod(sides)),
            nn.ReLU(),
            convolution(n_channels, n_channels, 3, generator, stride=2),
        )

    def solutions(self, x: Tensor, solve: Solve, times: Sequence[float] = (1.0,)) -> list[Solution]:
        z = self._convolved(self.embedding, x.view(-1, *self.image_shape))
        if self.augment_dim:
            z = torch.cat([z, z.new_zeros((len(z), self.augment_dim, *z.shape[2:]))], dim=1)
        found = []
        for i, field in enumerate(self.fields):
            if i:
                z = self._convolved(self.between[i - 1], z)
            if self.autocast and self.has_own_fields:
                field = InBfloat16(field)
            last = i == len(self.fields) - 1
            found.append(solve(field, (0.0, 1.0), z, t_eval=times if last else (1.0,), first_step=1.0))
            z = found[-1].y[-1]
        return found

    def _convolved(self, layers: nn.Module, z: Tensor) -> Tensor:
        """Apply layers to an image and return it in the dtype that it has, whichever they compute in."""
        with in_bfloat16(z.device, wanted=self.autocast):
            return layers(z).to(z.dtype)

    def features(self, z: Tensor) -> Tensor:
        return torch.relu(self.norm(z)).flatten(1)
