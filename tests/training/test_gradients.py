"""Gradients, shortened."""

import math

import pytest
import torch

from skode.training.gradients import clip, clip_without_waiting, norm_of

CPU = torch.device("cpu")


def gradients(scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return [scale * torch.randn(shape, generator=generator) for shape in ((3, 4), (5,))]


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e25])  # the last one's squares overflow
def test_gradients_are_shortened_to_the_norm_and_keep_their_direction(scale):
    of_one, found = gradients(), gradients(scale)
    assert clip(found, CPU, 0.5)
    norm = float(norm_of(of_one, CPU))
    for part, other in zip(found, of_one, strict=True):
        torch.testing.assert_close(part, other * (0.5 / norm), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("most", [None, 1e3])
def test_short_ones_stay(most):
    found = gradients()
    assert clip(found, CPU, most)
    norm = clip_without_waiting(found, CPU, most)
    assert float(norm) == pytest.approx(math.sqrt(sum(float((x**2).sum()) for x in gradients())))
    for part, other in zip(found, gradients(), strict=True):
        assert torch.equal(part, other)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("most", [None, 1.0])
def test_what_is_not_finite_is_told(value, most):
    found = gradients()
    found[0][1, 1] = value
    assert not clip(found, CPU, most)
    assert clip([], CPU, most)
