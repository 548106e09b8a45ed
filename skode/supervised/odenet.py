"""The network behind the ODE-Net estimators: a map into the state, an ODE, and a map to the outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skode.dynamics.evolving import EvolvingField
from skode.dynamics.fields import FIELDS
from skode.dynamics.mlp import MLPField, affine
from skode.solvers import Solution
from skode.solvers.solution import Solve


class Network(nn.Module, ABC):
    """A network of one or more ODEs over ``0 <= t <= 1`` between a map of the inputs and an affine map to the outputs.

    Attributes
    ----------
    head : nn.Linear
        The affine map to the outputs.
    size : int
        Number of features that the outputs are computed from.
    width : int
        Largest number of values per sample outside of the vector field.
    """

    head: nn.Linear
    size: int
    width: int

    @abstractmethod
    def solutions(self, x: Tensor, solve: Solve, times: Sequence[float] = (1.0,)) -> list[Solution]:
        """Solutions of the ODEs for inputs of shape (n, n_features), the last one at the requested times."""

    @abstractmethod
    def features(self, z: Tensor) -> Tensor:
        """Features of shape (n, size), which outputs are affine functions of, from states at the end."""

    def outputs(self, x: Tensor, solve: Solve) -> tuple[Tensor, list[Solution]]:
        """Outputs of shape (n, n_outputs), and the solutions of the ODEs."""
        solutions = self.solutions(x, solve)
        return self.head(self.features(solutions[-1].y[-1])), solutions

    def set_autocast(self, autocast: bool) -> None:
        """Compute convolutions in bfloat16 from now on, or no longer; without convolutions there is no effect."""


class ODENet(Network):
    """An affine map into the state space, an ODE over ``0 <= t <= 1``, and an affine map to the outputs.

    Parameters
    ----------
    n_features, n_outputs : int
        Sizes of input and output.
    state_size : int or None
        Size of the state that the inputs are mapped to; None for the features themselves, without a map.
    augment_dim : int
        Number of zeros appended to that state (Dupont, Doucet, Teh, "Augmented Neural ODEs", NeurIPS 2019).
    field : nn.Module, str or None
        The vector field, called as ``field(t, z)``, or its name in :data:`skode.dynamics.fields.FIELDS`; an
        :class:`skode.dynamics.MLPField` where None.
    evolving_weights : bool
        Whether that is an :class:`skode.dynamics.EvolvingField` instead.
    field_options : dict
        Keyword arguments of either; fields given by name take ``hidden_layer_sizes`` and ``activation`` of them.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        *,
        state_size: int | None,
        augment_dim: int,
        field: nn.Module | str | None,
        evolving_weights: bool = False,
        field_options: dict[str, Any],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.embedding = affine(n_features, state_size, generator) if state_size is not None else nn.Identity()
        self.augment_dim = augment_dim
        self.size = (n_features if state_size is None else state_size) + augment_dim
        self.width = max(self.size, n_features)
        if isinstance(field, str):
            widths, activation = field_options["hidden_layer_sizes"], field_options["activation"]
            field = FIELDS[field](self.size, widths, activation, generator=generator)
        elif field is None:
            kind = EvolvingField if evolving_weights else MLPField
            field = kind(self.size, generator=generator, **field_options)
        self.field = field
        self.head = affine(self.size, n_outputs, generator)

    def solutions(self, x: Tensor, solve: Solve, times: Sequence[float] = (1.0,)) -> list[Solution]:
        z = self.embedding(x)
        if self.augment_dim:
            z = torch.cat([z, z.new_zeros((len(z), self.augment_dim))], dim=1)
        # The dynamics of a network of moderate depth are often easy enough for one step: try that first.
        return [solve(self.field, (0.0, 1.0), z, t_eval=times, first_step=1.0)]

    def features(self, z: Tensor) -> Tensor:
        return z
