"""Times of evaluations, of the batch or of each sample, in one shape."""

from __future__ import annotations

import torch
from torch import Tensor


def as_column(t: float | Tensor, z: Tensor) -> Tensor:
    """Time, of the batch or of each sample of ``z``, as a tensor of shape (1, 1) or (n, 1), of ``z``'s dtype."""
    return torch.as_tensor(t, dtype=z.dtype, device=z.device).reshape(-1, 1)
