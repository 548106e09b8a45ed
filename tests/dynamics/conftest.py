"""Fields and small helpers that the tests of dynamics share."""

import pytest
import torch

from skode.dynamics import ACTIVATIONS


@pytest.fixture(params=sorted(ACTIVATIONS))
def activation(request):
    return request.param


@pytest.fixture(params=sorted(set(ACTIVATIONS) - {"relu"}))
def smooth_activation(request):
    return request.param


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
