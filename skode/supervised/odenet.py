"""The network behind the ODE-Net estimators: a map into the state, an ODE, and a map to the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skode.dynamics.evolving import EvolvingField
from skode.dynamics.fields import FIELDS
from skode.dynamics.mlp import MLPField, affine
from skode.solvers import Solution
from skode.solvers.solution import Solve


class ODENet(nn.Module):
    """An affine map into the state space, an ODE over ``0 <= t <= 1``, and an affine map to the outputs.

    Parameters
    ----------
    n_features, n_outputs : int
        Sizes of input and output.
    state_size : int or None
        Size of the state that the inputs are mapped to; None for the features themselves, without a map.
    augment_dim : int
        How many zeros are appended to that state (Dupont, Doucet, Teh, "Augmented Neural ODEs", NeurIPS 2019).
    field : nn.Module, str or None
        The vector field, called as ``field(t, z)``, or its name in :data:`skode.dynamics.fields.FIELDS`; an
        :class:`skode.dynamics.MLPField` where None.
    evolving_weights : bool
        Whether that is an :class:`skode.dynamics.EvolvingField` instead.
    field_options : dict
        Passed to either; of a field with a name ``hidden_layer_sizes`` and ``activation`` are.
    generator : torch.Generator
        Source of the initial weights.

    Attributes
    ----------
    size : int
        Size of the ODE's state.
    width : int
        Numbers of a sample in the widest place outside of the field.
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
        """The ODE's solution at some times for inputs of shape (n, n_features), alone in a list."""
        z = self.embedding(x)
        if self.augment_dim:
            z = torch.cat([z, z.new_zeros((len(z), self.augment_dim))], dim=1)
        # The dynamics of a network of moderate depth are often easy enough for one step: try that first.
        return [solve(self.field, (0.0, 1.0), z, t_eval=times, first_step=1.0)]

    def features(self, z: Tensor) -> Tensor:
        """What the outputs are an affine function of: the state at the end."""
        return z
