"""Data and a flow that the tests of the density estimator share."""

import pytest
from sklearn.datasets import make_moons

from skode import CNFDensityEstimator
from tests.density.quadrature import Quadrature


@pytest.fixture(scope="module")
def moons():
    return make_moons(400, noise=0.1, random_state=0)[0]


@pytest.fixture(scope="module")
def fitted(moons):
    """A flow that has learned something; tests must not change it."""
    return CNFDensityEstimator((32,), learning_rate_init=1e-2, max_iter=15, stacking=False, random_state=0).fit(moons)


@pytest.fixture(scope="module")
def quadrature(fitted):
    return Quadrature(fitted)
