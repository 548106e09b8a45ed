"""The parameters that the networks of ODE-Net estimators are built from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import nn

#: Parameters of built-in fields only.
OF_BUILT_IN_FIELDS = ("hidden_layer_sizes", "activation", "time_dependent", "evolving_weights")


@dataclass(frozen=True)
class Architecture:
    """The parameters that a network is built from, and that cannot be changed once it is.

    Attributes
    ----------
    state_size : int or None
        Size of the ODE's state before augmentation; of images the number of channels. None: that of the input.
    augment_dim : int
        Number of zeros, or of channels of zeros, appended to the state.
    image_shape : tuple or None
        Shape of images, (channels, height, width); None for tables.
    n_blocks : int
        Number of ODEs in a row.
    field : nn.Module, str or None
        The user's vector field, the name of a built-in one, or None for the default.
    hidden_layer_sizes : tuple of int
        Widths of a built-in field's hidden layers.
    activation : str
        Activation of a built-in field.
    time_dependent : bool
        Whether a built-in field depends on time.
    evolving_weights : bool
        Whether the weights of a built-in field evolve with time.
    """

    state_size: int | None
    augment_dim: int
    image_shape: tuple[int, ...] | None
    n_blocks: int
    field: nn.Module | str | None
    hidden_layer_sizes: tuple[int, ...]
    activation: str
    time_dependent: bool
    evolving_weights: bool

    def check(self) -> None:
        """Raise a ValueError where parameters contradict each other."""
        if self.field is not None and self.evolving_weights:
            raise ValueError("evolving_weights=True is for the built-in fields; a field of your own may do it itself.")
        if isinstance(self.field, str) and not self.time_dependent:
            raise ValueError(f"time_dependent=False needs field=None: field={self.field!r} depends on time.")

    @property
    def has_own_field(self) -> bool:
        """Whether the vector field is the user's."""
        return isinstance(self.field, nn.Module)

    def effective(self) -> dict[str, Any]:
        """The parameters that affect the network, by name."""
        unused = set(OF_BUILT_IN_FIELDS) if self.has_own_field else set()
        if self.image_shape is not None:  # whose fields are rectified
            unused.add("activation")
        names = (parameter.name for parameter in fields(self))
        return {name: getattr(self, name) for name in names if name not in unused}
