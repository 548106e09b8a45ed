"""How far predictions of numbers are off."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone

from skode import ODENetRegressor
from skode.supervised.residuals import Residuals

QUICK = {"hidden_layer_sizes": (8,), "state_size": 8, "alpha": 0.3, "max_iter": 40, "learning_rate_init": 1e-2}


def draw(n, seed):
    rng = np.random.RandomState(seed)
    X = rng.uniform(-2, 2, (n, 2))
    noise = rng.normal(size=(n, 2)) * [0.5, 3.0]
    return X, np.column_stack([X[:, 0] ** 2, 10.0 * X[:, 1]]) + noise


@pytest.fixture(scope="module")
def fitted():
    return ODENetRegressor(**QUICK, likelihood="gaussian", random_state=0).fit(*draw(250, 0))


def test_spreads_are_those_of_the_noise_and_intervals_hold_their_share(fitted):
    X, y = draw(3000, 1)
    mean, std = fitted.predict(X, return_std=True)
    np.testing.assert_array_equal(std, np.broadcast_to(fitted.noise_std_, y.shape))
    np.testing.assert_allclose(fitted.noise_std_, [0.5, 3.0], rtol=0.25)
    np.testing.assert_allclose(fitted.noise_std_, np.sqrt(np.mean((y - mean) ** 2, axis=0)), rtol=0.15)
    for level in (0.5, 0.9):
        ends = fitted.predict_interval(X, level)
        assert ends.shape == (3000, 2, 2)
        lower, upper = ends[..., 0], ends[..., 1]
        np.testing.assert_allclose(np.mean((lower <= y) & (y <= upper), axis=0), level, atol=0.07)


def test_widths_are_order_statistics_and_a_weight_is_a_number_of_copies():
    sizes = np.arange(1.0, 20.0)[:, None]
    once = Residuals(sizes, np.ones(19))
    assert once.half_width(0.9) == 18.0  # of 19 the 18th
    assert once.half_width(0.99) == 19.0
    assert once.standard_deviation == pytest.approx(np.sqrt(np.mean(sizes**2)))
    counts = np.random.RandomState(0).randint(1, 4, 19)
    weighted, repeated = Residuals(sizes, counts), Residuals(np.repeat(sizes, counts, axis=0), np.ones(counts.sum()))
    for level in (0.1, 0.5, 0.9):
        assert weighted.half_width(level) == repeated.half_width(level)


def test_one_target_units_pickles_and_refusals(fitted):
    X, y = draw(60, 2)
    few = clone(fitted).set_params(max_iter=2)
    one = few.fit(X, y[:, 0])
    mean, std, nfe = one.predict(X, return_std=True, return_nfe=True)
    assert mean.shape == std.shape == nfe.shape == (60,)
    lower, upper = pickle.loads(pickle.dumps(one)).predict_interval(X, level=0.8).T
    assert (lower < mean).all()
    assert (mean < upper).all()
    for level in (90, "0.9"):
        with pytest.raises(ValueError, match="level must be a probability between 0 and 1"):
            one.predict_interval(X, level)
    plain = clone(few).set_params(likelihood=None).fit(X, y[:, 0])
    np.testing.assert_array_equal(plain.predict(X), mean)  # which calibration does not change
    with pytest.raises(ValueError, match='likelihood="gaussian" only'):
        plain.predict_interval(X)
    with pytest.raises(ValueError, match="needs two samples"):
        clone(few).fit(X[:1].repeat(4, axis=0), y[:4])
