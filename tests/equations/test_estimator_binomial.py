"""Numbers of successes, against logistic regression: its probability follows dq/dt = rate q (1 - q)."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from skode import ODERegressor


def spreading(t, y, p):
    q = y[..., 0]
    return (p["rate"] * q * (1.0 - q))[..., None]


def data(seed=0):
    rng = np.random.default_rng(seed)
    t, trials = np.linspace(0.0, 8.0, 25), rng.integers(0, 40, 25)
    return pd.DataFrame({"t": t, "tested": trials}), pd.Series(rng.binomial(trials, expit(-2.0 + 0.7 * t)), name="q")


def regressor(**changed):
    arguments = {"initial": [(0.3, 0, 1)], "time": "t", "noise": "binomial", "trials": "tested"}
    return ODERegressor(spreading, {"rate": 0.2}, **{**arguments, "tol": 1e-8, "rtol": 1e-8, **changed})


def logistic_regression(X, y):
    t, n = X["t"].to_numpy(), X["tested"].to_numpy()
    both = np.concatenate([np.ones(len(t)), np.zeros(len(t))])
    weights = np.concatenate([y, n - y])
    found = LogisticRegression(C=np.inf, tol=1e-10).fit(np.tile(t, 2)[:, None], both, sample_weight=weights)
    return found.intercept_[0], found.coef_[0, 0]


def test_the_fit_is_logistic_regression():
    X, y = data()
    model = regressor().fit(X, y)
    intercept, slope = logistic_regression(X, y)
    assert model.params_["rate"] == pytest.approx(slope, rel=1e-4)
    assert model.initial_states_.iloc[0, 0] == pytest.approx(expit(intercept), rel=1e-4)
    q = expit(intercept + slope * X["t"])
    variance = X["tested"] * q * (1.0 - q)
    design = np.column_stack([np.ones(25), X["t"]])
    covariance = np.linalg.inv(design.T @ (variance.to_numpy()[:, None] * design))
    assert model.summary().loc["rate", "std_error"] == pytest.approx(np.sqrt(covariance[1, 1]), rel=1e-3)
    np.testing.assert_allclose(model.predict(X), X["tested"] * q, atol=1e-3)
    tested = X["tested"] > 0
    np.testing.assert_allclose(model.residuals_["q"], (y - X["tested"] * q)[tested], atol=1e-3)
    assert model.residuals_.index.tolist() == np.flatnonzero(tested).tolist()
    std = model.predict(X, return_std=True)[1]
    by_fit = variance**2 * np.einsum("ni,ij,nj->n", design, covariance, design)
    np.testing.assert_allclose(std, np.sqrt(variance + by_fit), rtol=1e-3)
    assert model.score(X, y) > 0.8
    assert np.isnan(model.noise_scale_).all()


def test_one_number_of_trials_for_all_rows():
    X, _ = data()
    y = np.random.default_rng(0).binomial(12, expit(-2.0 + 0.7 * X["t"]))
    loose = {"tol": 1e-6, "rtol": 1e-6}
    model = regressor(trials=12, **loose).fit(X[["t"]], y)
    column = regressor(**loose).fit(X.assign(tested=12), y)
    assert model.params_ == pytest.approx(column.params_, rel=1e-6)
    assert model.loglik_ == pytest.approx(column.loglik_, rel=1e-9)
    assert model.predict(X[["t"]]).max() > 1.0
    t, outcomes = np.repeat(X[["t"]].to_numpy(), 12, axis=0), (np.arange(12) < y[:, None]).ravel()
    bernoulli = regressor(trials=1, time=0, **loose).fit(t, outcomes)
    assert bernoulli.params_ == pytest.approx(model.params_, rel=1e-4)


def test_rows_without_trials_are_not_observed():
    X, y = data()
    more = pd.DataFrame({"t": [1.0, 3.0], "tested": [np.nan, 0.0]})
    model = regressor().fit(pd.concat([X, more]), pd.concat([y, pd.Series([np.nan, 0.0])]))
    assert model.params_ == pytest.approx(regressor().fit(X, y).params_, rel=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trials": "n"}, "trials names 'n', which is no column of X beside time and series"),
        ({"trials": 0}, "trials must be a positive integer or the name of a column of X"),
        ({"trials": 2.5}, "trials must be a positive integer or the name of a column of X"),
        ({"trials": 3}, "y holds .* from 0 to the number of trials, here 3"),
        ({"doses": {"tested": "q"}}, "doses and trials both name 'tested'"),
        ({"initial": ["tested"]}, "is neither in params nor a column of X"),
    ],
)
def test_wrong_trials_are_named(changed, message):
    X, y = data()
    with pytest.raises(ValueError, match=message):
        regressor(**changed).fit(X, y)


def test_trials_that_are_no_numbers_of_trials():
    X, y = data()
    with pytest.raises(ValueError, match=r"The column 'tested' \(trials\) holds 0.5; it must hold numbers of trials"):
        regressor().fit(X.assign(tested=0.5), y)
    with pytest.raises(ValueError, match=r"The column 'tested' \(trials\) holds 0 wherever y was observed"):
        regressor().fit(X.assign(tested=0.0), 0 * y)
