"""Smoothing splines against SciPy's; parameters without a solve against the truth."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.interpolate import make_smoothing_spline

from skode import ODERegressor
from skode.equations.matching import smoothing_spline
from tests.equations.systems import logistic, lotka_volterra, observations, solved

RATES = {"a": 1.0, "b": 0.5, "c": 1.2, "d": 0.4}


def test_a_smoothing_spline_is_scipys_of_some_weight():
    rng = np.random.default_rng(0)
    t = np.sort(rng.uniform(2.0, 9.0, 50))
    y = np.stack([np.sin(t), t**2 / 20.0], axis=1) + 0.1 * rng.normal(size=(50, 2))
    found = smoothing_spline(t, y)
    for column in range(2):
        # The weight that makes SciPy's residuals as large is found by bisection; then all values are to agree.
        size, low, high = np.sum((found(t)[:, column] - y[:, column]) ** 2), -12.0, 8.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            spline = make_smoothing_spline(t, y[:, column], lam=10.0**middle)
            low, high = (low, middle) if np.sum((spline(t) - y[:, column]) ** 2) > size else (middle, high)
        np.testing.assert_allclose(found(t)[:, column], spline(t), atol=1e-5)


def test_cross_validation_removes_noise():
    t = np.linspace(0.0, 10.0, 100)
    noise = 0.2 * np.random.default_rng(1).normal(size=100)
    error = smoothing_spline(t, (np.sin(t) + noise)[:, None])(t)[:, 0] - np.sin(t)
    assert np.sqrt(np.mean(error**2)) < 0.4 * np.sqrt(np.mean(noise**2))


def test_a_straight_line_stays_one():
    t = np.sort(np.random.default_rng(0).uniform(0.0, 1.0, 20))
    np.testing.assert_allclose(smoothing_spline(t, (2.0 + 3.0 * t)[:, None])(t)[:, 0], 2.0 + 3.0 * t, atol=1e-8)


def test_a_start_that_explodes_is_no_hindrance():
    # Solved from these starts prey grows to e^300; matching needs no solve. States are seen at different times.
    t = np.linspace(0.0, 15.0, 61)
    X, y = observations(lotka_volterra, RATES, [3.0, 1.0], t, 0.03, seed=1)
    y[::3, 0] = np.nan
    y[1::3, 1] = np.nan
    start = {name: (20.0 * value, 0, None) for name, value in RATES.items()}
    model = ODERegressor(lotka_volterra, start, states=["x", "y"], time="t").fit(X, y)
    assert len(model.restarts_) == 1
    summary = model.summary()
    for name, value in RATES.items():
        assert abs(summary.loc[name, "estimate"] - value) < 3.0 * summary.loc[name, "std_error"]


def test_own_parameters_of_many_series_are_matched():
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.5, 1.5, 30)  # more series than are smoothed
    t = np.linspace(0.0, 8.0, 15)
    y = np.stack([logistic(t, rate, 5.0, 0.5) for rate in rates]) + 0.05 * rng.normal(size=(30, 15))
    X = pd.DataFrame({"plant": np.repeat(np.arange(30), 15), "t": np.tile(t, 30)})

    def growth(t, y, p):
        return (p["rate"] * y[..., 0] * (1.0 - y[..., 0] / p["capacity"]))[..., None]

    start = {"rate": (30.0, 0, None), "capacity": (0.1, 0, None)}
    model = ODERegressor(growth, start, per_series=["rate"], series="plant", time="t", states=["size"]).fit(
        X, y.ravel()
    )
    np.testing.assert_allclose(model.params_["rate"], rates, rtol=0.1)
    assert model.params_["capacity"] == pytest.approx(5.0, rel=0.02)


def test_observations_where_the_equations_have_no_value_are_passed_over():
    def growth(t, y, p):  # von Bertalanffy's; NaN for negative sizes, which noise makes of small ones
        return (p["gain"] * y[..., 0] ** 0.75 - p["loss"] * y[..., 0])[..., None]

    t = np.linspace(0.0, 20.0, 80)
    y = solved(growth, {"gain": 1.1, "loss": 0.55}, [0.05], t)[:, 0]
    noisy = y + 0.3 * np.random.default_rng(3).normal(size=80)
    noisy[0] = -0.2
    start = {"gain": (2.0, 0, None), "loss": (0.2, 0, None)}
    model = ODERegressor(growth, start, states=["size"]).fit(t[:, None], noisy)
    assert torch.isfinite(torch.tensor(model.predict(t[:, None]))).all()
    assert np.sqrt(np.mean((model.predict(t[:, None]) - y) ** 2)) < 0.1
