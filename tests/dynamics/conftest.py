"""Fields and small helpers that the tests of dynamics share."""

import pytest
import torch

from skode.dynamics import ACTIVATIONS
from tests.dynamics.drawn import TIMES, D, N


@pytest.fixture(params=sorted(ACTIVATIONS))
def activation(request):
    return request.param


@pytest.fixture(params=sorted(set(ACTIVATIONS) - {"relu"}))
def smooth_activation(request):
    return request.param


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=TIMES)
def t(request):
    return TIMES[request.param]


@pytest.fixture
def z(generator):
    return torch.randn(N, D, generator=generator, dtype=torch.float64)
