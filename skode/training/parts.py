"""The state of objects that training changes, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Parts:
    """Objects that a step of a fit changes in place, as one whose state can be read and set.

    Parameters
    ----------
    parts : sequence
        Modules, tensors, generators of torch and of NumPy, and objects with methods ``state()`` and
        ``go_on_from(state)``.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)

    def state(self) -> list[Any]:
        """Copies of all that changes, for :meth:`go_on_from`."""
        return [_state(part) for part in self.parts]

    def go_on_from(self, state: list[Any]) -> None:
        """Set the objects to a state."""
        for part, own in zip(self.parts, state, strict=True):
            _set(part, own)


def global_generators(device: torch.device) -> list[torch.Generator]:
    """Torch's own sources of random numbers, from which a user's field may draw."""
    on_gpu = [torch.cuda.default_generators[device.index or 0]] if device.type == "cuda" else []
    return [torch.default_generator, *on_gpu]


def _state(part: Any) -> Any:
    if isinstance(part, nn.Module):
        tensors = {name: value.detach().clone() for name, value in part.state_dict().items()}
        return {"tensors": tensors, "learnt": [name for name, p in part.named_parameters() if p.requires_grad]}
    if isinstance(part, Tensor):
        return part.detach().clone()
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, np.random.RandomState):
        return part.get_state(legacy=False)
    return part.state()


@torch.no_grad()
def _set(part: Any, state: Any) -> None:
    if isinstance(part, nn.Module):
        part.load_state_dict(state["tensors"])
        for name, parameter in part.named_parameters():
            parameter.requires_grad_(name in state["learnt"])
    elif isinstance(part, Tensor):
        part.copy_(state)
    elif isinstance(part, torch.Generator | np.random.RandomState):
        part.set_state(state)
    else:
        part.go_on_from(state)
