"""Random shifts of images."""

import numpy as np
import pytest
import torch
from scipy.ndimage import shift as scipy_shift

from skode import ODENetClassifier
from skode.training import shifted


def generator():
    return torch.Generator().manual_seed(0)


def test_images_are_shifted_by_bilinear_interpolation_with_edges_repeated():
    images = torch.rand(6, 2, 7, 5, generator=generator(), dtype=torch.float64)
    moved = shifted(images, 2.0, generator())
    distances = (2.0 * torch.rand((6, 2), generator=generator()) - 1.0).double() * 2.0
    for image, found, (dx, dy) in zip(images, moved, distances.tolist(), strict=True):
        for channel in range(2):
            truth = scipy_shift(image[channel].numpy(), (-dy, -dx), order=1, mode="nearest")
            np.testing.assert_allclose(found[channel].numpy(), truth, atol=1e-6)


def test_shifts_stay_within_the_largest():
    ramp = torch.arange(20.0).expand(500, 1, 20, 20)
    inside = (shifted(ramp, 1.5, generator()) - ramp)[:, 0, 3:-3, 3:-3]
    assert 1.4 < inside.abs().max() <= 1.5 + 1e-4
    assert torch.allclose(inside, inside[:, :1, :1], atol=1e-4)
    assert abs(inside[:, 0, 0].mean()) < 0.15


def test_a_shift_of_nothing_changes_nothing():
    images = torch.rand(3, 1, 6, 6, generator=generator())
    torch.testing.assert_close(shifted(images, 0.0, generator()), images, rtol=1e-5, atol=1e-5)


def test_shifts_are_for_images_alone():
    with pytest.raises(ValueError, match=r"image_shift=0.5 is for images; pass image_shape"):
        ODENetClassifier(image_shift=0.5).fit(np.eye(4), [0, 1, 0, 1])
