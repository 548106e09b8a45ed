"""Data and a classifier that the tests of supervised estimators share."""

import pytest
from sklearn.datasets import load_iris, make_moons

from skode import ODENetClassifier
from tests.supervised.tiny import TINY


@pytest.fixture(scope="module")
def moons():
    return make_moons(60, noise=0.1, random_state=0)


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True, as_frame=True)


@pytest.fixture(scope="module")
def fitted(moons):
    """A classifier that has learned something; tests must not change it."""
    return ODENetClassifier(**{**TINY, "max_iter": 30}).fit(*moons)
