import numpy as np
import pytest
import torch

from skode.density.gaussianisation import Gaussianisation
from skode.density.spaces import check_range, to_data, to_flow

X = np.random.default_rng(0).normal(3.0, 2.0, size=(50, 2))


@pytest.fixture
def scaler():
    return Gaussianisation.fit(X, np.ones(50), marginals="normal")


def test_there_and_back(scaler):
    np.testing.assert_allclose(to_data(scaler, to_flow(scaler, X, torch.float64), X.dtype), X, rtol=1e-12)


def test_points_that_a_dtype_cannot_hold_are_refused(scaler):
    far = np.full((1, 2), 1e200)
    assert np.isfinite(to_flow(scaler, far, torch.float64)).all()
    with pytest.raises(ValueError, match="too large to standardise"):
        to_flow(scaler, far, torch.float32)
    with pytest.raises(ValueError, match="too large to standardise"):
        check_range(np.array([[np.nan, 0.0]]), torch.float64)


def test_points_that_overflow_on_the_way_to_data_space_warn(scaler):
    with pytest.warns(UserWarning, match="infinite"):
        assert np.isinf(to_data(scaler, np.full((1, 2), 1e300), np.dtype(np.float32))).any()
