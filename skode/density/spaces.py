"""Points between data space and the space of the flow, with checks of what a dtype can hold."""

from __future__ import annotations

import numpy as np
import torch

from skode.density.gaussianisation import Gaussianisation
from skode.training import warn_of_overflow


def to_flow(scaler: Gaussianisation, X: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Samples in the space of the flow; ValueError where the flow's dtype cannot hold them."""
    with np.errstate(over="ignore", invalid="ignore"):
        return check_range(scaler.transform(X), dtype)


def check_range(Z: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """The same points; ValueError where a dtype cannot hold them."""
    if not (np.abs(Z) <= torch.finfo(dtype).max).all():
        raise ValueError("X holds values too large to standardise in its dtype; rescale it.")
    return Z


def to_data(scaler: Gaussianisation, Z: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Points of the flow in data space, in a dtype; a warning where it cannot hold them."""
    with np.errstate(over="ignore", invalid="ignore"):
        points = scaler.inverse_transform(Z).astype(dtype, copy=False)
    warn_of_overflow(points, "points", "infinite: they lie too far from the base's mean")
    return points
