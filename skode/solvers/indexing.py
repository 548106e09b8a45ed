"""NumPy's indices into tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def index(positions: np.ndarray, like: Tensor) -> Tensor:
    """Numpy indices as torch ones, on the device of the tensor they index."""
    return torch.from_numpy(np.ascontiguousarray(positions, dtype=np.int64)).to(like.device)


def entries(x: Tensor, positions: np.ndarray) -> Tensor:
    """``x[positions]``: a view where they are neighbours in order."""
    first, m = int(positions[0]), len(positions)
    if m == 1 or bool((positions[1:] - positions[:-1] == 1).all()):
        return x[first : first + m]
    return x.index_select(0, index(positions, x))
