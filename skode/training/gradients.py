"""Gradients of an update: how long they are together, and how they are shortened."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def norm_of(gradients: list[Tensor], device: torch.device) -> Tensor:
    """The norm of all together."""
    norms = torch._foreach_norm(gradients) if gradients else [torch.zeros((), device=device)]
    return torch.linalg.vector_norm(torch.stack(norms))


def clip(gradients: list[Tensor], device: torch.device, most: float | None) -> bool:
    """Shorten gradients whose norm is above a number, in place; False where it is not finite.

    Where only the squares are too large for their dtype the direction is kept.

    Parameters
    ----------
    gradients : list of Tensor
        The gradients.
    device : torch.device
        Where they are.
    most : float or None
        The largest norm; None: any.
    """
    size = norm_of(gradients, device).item()
    if not math.isfinite(size) and most is not None:
        largest = max((float(gradient.abs().max()) for gradient in gradients), default=math.nan)
        if math.isfinite(largest):
            torch._foreach_div_(gradients, largest / most)
            size = norm_of(gradients, device).item()
    if most is not None and most < size < math.inf:
        torch._foreach_mul_(gradients, most / (size + 1e-6))
    return math.isfinite(size)


def clip_without_waiting(gradients: list[Tensor], device: torch.device, most: float | None) -> Tensor:
    """The same on a device that is not to be waited for; returns the norm of before."""
    norm = norm_of(gradients, device)
    if most is not None:
        torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp_max(1.0))
    return norm
