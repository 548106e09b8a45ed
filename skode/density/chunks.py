"""Functions of a flow at many points, a chunk of them at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from skode.training import to_numpy, to_tensor

#: Number of points that are solved for together: their states and hidden layers then stay near the processor.
CHUNK = 2048


def in_chunks(function: Callable[[Tensor], Tensor], points: np.ndarray, like: Tensor, *, axis: int = 0) -> np.ndarray:
    """The values of a function at points, computed without a graph.

    Parameters
    ----------
    function : callable
        Takes a Tensor of shape (n, n_features).
    points : ndarray of shape (n_points, n_features)
        The points.
    like : Tensor
        Has the dtype and the device of the function's argument.
    axis : int, default=0
        Axis of the values that belongs to the points.

    Returns
    -------
    ndarray
        The values.
    """
    with torch.no_grad():
        parts = [
            to_numpy(function(to_tensor(points[i : i + CHUNK], like.dtype, like.device)))
            for i in range(0, len(points), CHUNK)
        ]
    return np.concatenate(parts, axis=axis)
