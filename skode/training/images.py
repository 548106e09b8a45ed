"""Augmentation of images in training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def shifted(images: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Images of shape (n, channels, height, width), each moved by its own random distance, edges repeated.

    Both components of a shift are uniform from ``-largest`` to ``largest`` pixels; between pixels, interpolation is
    bilinear.
    """
    n, _, height, width = images.shape
    device = generator.device
    shifts = (2.0 * torch.rand((n, 2), generator=generator, device=device) - 1.0) * largest
    # Where an output pixel is read from, in coordinates in which the image extends from -1 to 1.
    affine = torch.eye(2, 3, device=device).repeat(n, 1, 1)
    affine[:, 0, 2], affine[:, 1, 2] = shifts[:, 0] * (2.0 / width), shifts[:, 1] * (2.0 / height)
    grid = functional.affine_grid(affine.to(images), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
