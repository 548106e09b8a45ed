"""Optimisers as the training loop uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


class Optimizer:
    """Base of the optimisers.

    Parameters
    ----------
    parameters : sequence of Tensor
        The tensors to train, in place. Those without a gradient are left as they are.
    learning_rate : float
        The learning rate, which may be changed at any time.
    decay : float, default=0.0
        Derivative of the L2 penalty, as a multiple of the tensor: for those of two or more dimensions, not for biases.

    Attributes
    ----------
    found_inf : Tensor or None
        A number on the parameters' device, with which a step is skipped where it is 1; None: no step is.
    """

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float, decay: float = 0.0) -> None:
        self.parameters, self.learning_rate, self.decay = list(parameters), learning_rate, decay
        self.found_inf: Tensor | None = None

    def step(self) -> None:
        """Move the parameters that have a gradient."""
        raise NotImplementedError

    def clear(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state(self) -> dict[int, dict[str, Any]]:
        """The state from which another optimiser of the same kind and parameters can go on, by their positions."""
        raise NotImplementedError

    def go_on_from(self, state: dict[int, dict[str, Any]]) -> None:
        """Take over the state of another optimiser."""
        raise NotImplementedError
