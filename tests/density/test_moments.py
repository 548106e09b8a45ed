"""Moments in parts are those of all samples."""

import numpy as np
import pytest

from skode.density.moments import Moments


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("cuts", [[], [1, 2, 3], [100, 101, 700], [0, 500, 500]])
def test_parts_add_up(cuts, offset):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 3)) @ rng.normal(size=(3, 3)) + offset
    weights = rng.exponential(size=1000)
    weights[1:2] = 0.0
    moments = Moments(3)
    for part, own in zip(np.split(X, cuts), np.split(weights, cuts), strict=True):
        moments.add(part, own)
    np.testing.assert_allclose(moments.weight, weights.sum(), rtol=1e-14)
    np.testing.assert_allclose(moments.mean, np.average(X, axis=0, weights=weights), rtol=1e-12)
    expected = np.cov((X - offset).T, aweights=weights, bias=True)  # by differences that are exact
    np.testing.assert_allclose(moments.covariance, expected, rtol=1e-12)
