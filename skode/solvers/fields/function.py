"""A plain function as a field: its evaluations, and the check of its values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class FunctionTape:
    """Evaluations of a plain function, none of which can be pulled back."""

    reused = False

    def __init__(self, func: Callable[[Any, Tensor], Tensor], like: Tensor, n_slots: int) -> None:
        self.func = func
        self.like = like
        self.n_slots = n_slots
        self.states: list[Any] = [None] * n_slots

    def place(self, slot: int) -> Tensor:
        state = torch.empty_like(self.like, memory_format=torch.contiguous_format)
        self.states[slot] = state
        return state.view(-1)

    def state(self, slot: int) -> Tensor:
        return self.states[slot]

    def evaluate(self, slot: int, t: Any, out: Tensor) -> None:
        out.copy_(self.func(t, self.states[slot]))

    def nbytes(self) -> int:
        return 0

    def release(self) -> None:
        """Nothing of it is used again."""


def check_value(value: Any, y: Tensor) -> None:
    """Refuse what ``func`` returned unless it is a tensor of the state's shape, dtype and device."""
    if not isinstance(value, Tensor):
        raise TypeError(f"func(t, y) must return a tensor, got {type(value).__name__}.")
    if value.shape != y.shape:
        raise ValueError(
            f"func(t, y) returned shape {tuple(value.shape)} for a state of shape {tuple(y.shape)}; "
            "it must return dy/dt, of the same shape as y."
        )
    if value.dtype != y.dtype or value.device != y.device:
        raise TypeError(
            f"func(t, y) returned {value.dtype} on {value.device} for a state of {y.dtype} on {y.device}; "
            "they must be the same (convert y0, or func's parameters)."
        )
