"""Doses, against superposition of one-compartment models: fits, predictions after them, and simulations."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import least_squares

from skode import ODERegressor
from tests.equations.systems import decay, one_compartment, superposed

TRUE = {"ka": 1.4, "ke": 0.25, "volume": 12.0, "F": 0.6}
START = {"ka": (0.5, 0, None), "ke": (0.5, 0, None), "volume": (5.0, 0, None), "F": (0.9, 0, 1)}
#: Oral and intravenous doses of each series: times and amounts.
ORAL = {"ann": [(0.0, 100.0), (8.0, 100.0), (16.0, 50.0)], "bob": [(2.0, 80.0), (2.0, 40.0), (9.0, 60.0)]}
INTRAVENOUS = {"ann": [(5.0, 40.0)], "bob": [(0.0, 30.0), (14.0, 20.0)]}
SAMPLES = np.array([0.5, 1.0, 2.0, 3.0, 5.0, 6.0, 8.0, 9.0, 10.0, 12.0, 14.0, 17.0, 20.0])


def concentration(t, y, p):
    return y[..., 1:] / p["volume"][..., None]


def exact(who, t, ka, ke, volume, F):
    """The closed form, at the time of a dose before it."""
    before = np.nextafter(t, -np.inf)
    blood = superposed(before, ORAL[who], ka, ke, F)[:, 1]
    for when, amount in INTRAVENOUS[who]:
        blood += (before >= when) * amount * np.exp(-ke * np.maximum(before - when, 0.0))
    return blood / volume


def frame(seed=0, noise=0.05):
    """Doses and samples in any order; amounts are NaN in rows of samples, samples NaN in those of doses."""
    rng, parts = np.random.default_rng(seed), []
    for who in ORAL:
        y = exact(who, SAMPLES, **TRUE) + noise * rng.normal(size=len(SAMPLES))
        parts.append(pd.DataFrame({"who": who, "hour": SAMPLES, "y": y}))
        for column, doses in (("oral", ORAL[who]), ("iv", INTRAVENOUS[who])):
            when, amounts = zip(*doses, strict=True)
            parts.append(pd.DataFrame({"who": who, "hour": when, column: amounts}))
    data = pd.concat(parts, ignore_index=True)
    return data[["who", "hour", "oral", "iv"]], data["y"]


def regressor(**changed):
    return ODERegressor(**{
        "rhs": one_compartment, "params": START, "states": ["gut", "blood"], "observe": concentration,
        "initial": [0.0, 0.0], "series": "who", "time": "hour", "doses": {"oral": ("gut", "F"), "iv": "blood"},
        **changed,
    })  # fmt: skip


@pytest.fixture(scope="module")
def fitted():
    X, y = frame()
    return regressor(rtol=1e-7, tol=1e-8).fit(X, y)


def test_estimates_are_those_of_the_closed_form(fitted):
    X, y = frame()
    samples = [y[(X["who"] == who) & y.notna()].to_numpy() for who in ORAL]

    def residuals(logs):
        p = dict(zip(TRUE, np.exp(logs), strict=True))
        return np.concatenate([exact(who, SAMPLES, **p) - own for who, own in zip(ORAL, samples, strict=True)])

    found = least_squares(residuals, np.log([*TRUE.values()]), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    variance = 2.0 * found.cost / (len(found.fun) - 4)
    errors = np.exp(found.x) * np.sqrt(np.diag(np.linalg.inv(found.jac.T @ found.jac)) * variance)
    assert fitted.converged_
    summary = fitted.summary()
    np.testing.assert_allclose(summary["estimate"], np.exp(found.x), atol=1e-2 * errors.min(), rtol=1e-3)
    np.testing.assert_allclose(summary["std_error"], errors, rtol=1e-2)


@pytest.mark.parametrize("n_segments", [1, 2])
def test_any_number_of_segments_finds_them(fitted, n_segments):
    X, y = frame()
    model, summary = regressor(n_segments=n_segments).fit(X, y), fitted.summary()
    assert (np.abs(model.summary()["estimate"] - summary["estimate"]) < 0.02 * summary["std_error"]).all()


def test_the_order_of_rows_at_one_time_says_what_is_before_a_dose():
    X = pd.DataFrame({"t": [0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 2.0], "amt": [0, 10.0, 0, 10.0, 5.0, np.nan, np.nan]})
    y = np.array([0.0, np.nan, 10.0, 10 * np.exp(-0.5), np.nan, 10 * np.exp(-1.0) + 15 * np.exp(-0.5), np.nan])
    model = ODERegressor(
        decay, {"rate": (1.0, 0, None)}, states=["y"], initial=[0.0], doses={"amt": "y"}, time="t", rtol=1e-9
    ).fit(X, y)
    assert model.params_["rate"] == pytest.approx(0.5, rel=1e-6)
    np.testing.assert_allclose(model.predict(X)[~np.isnan(y)], y[~np.isnan(y)], atol=1e-6)
    np.testing.assert_allclose(model.residuals_.dropna(), 0.0, atol=1e-6)
    # Where X holds no dose at that time, the answer is from after those of the fit.
    np.testing.assert_allclose(model.predict(X.assign(amt=0.0))[3], 10 * np.exp(-0.5) + 15, rtol=1e-6)


def test_equal_doses_are_given_twice_and_weights_do_not_multiply_them():
    X = pd.DataFrame({"t": [0.0, 0.0, 1.0, 2.0, 3.0], "amt": [5.0, 5.0, 0.0, 0.0, 0.0]})
    y = np.array([np.nan, np.nan, *(10 * np.exp(-0.5 * np.arange(1.0, 4.0)))])
    model = ODERegressor(decay, {"rate": (1.0, 0, None)}, initial=[0.0], doses={"amt": "y"}, rtol=1e-9)
    assert model.fit(X, y).params_["rate"] == pytest.approx(0.5, rel=1e-6)
    weighted = model.fit(X, y, sample_weight=[3.0, 1.0, 2.0, 2.0, 2.0])
    assert weighted.params_["rate"] == pytest.approx(0.5, rel=1e-6)


def test_predictions_go_on_with_new_doses_and_their_uncertainty(fitted):
    X, _ = frame()
    later = pd.DataFrame(
        {"who": "ann", "hour": [24.0, 26.0, 30.0], "oral": [200.0, np.nan, np.nan], "iv": [np.nan, 10.0, 0.0]}
    )
    mean, std = fitted.predict(later, return_std=True)
    ORAL["ann"].append((24.0, 200.0))
    INTRAVENOUS["ann"].append((26.0, 10.0))
    try:
        truth = exact("ann", later["hour"].to_numpy(), **fitted.params_)
    finally:
        ORAL["ann"].pop()
        INTRAVENOUS["ann"].pop()
    np.testing.assert_allclose(mean, truth, rtol=1e-5)
    assert (std > 0.99 * fitted.noise_scale_[0]).all()
    np.testing.assert_allclose(fitted.predict(pd.concat([X, later]))[-3:], mean, rtol=1e-6)
    without = fitted.predict(later.assign(oral=0.0, iv=0.0))
    np.testing.assert_allclose(without, exact("ann", later["hour"].to_numpy(), **fitted.params_), rtol=1e-5)


def test_a_new_series_has_its_own_doses(fitted):
    X = pd.DataFrame({"who": "cid", "hour": [0.0, 2.0, 4.0], "oral": [0.0, 0.0, 0.0], "iv": [12.0, 0.0, 0.0]})
    values = fitted.params_
    expected = 12.0 / values["volume"] * np.exp(-values["ke"] * np.array([2.0, 4.0]))
    np.testing.assert_allclose(fitted.predict(X), [0.0, *expected], rtol=1e-6)
    np.testing.assert_allclose(fitted.predict_states(X)["gut"], 0.0, atol=1e-9)


def test_simulations_with_doses(fitted):
    times = np.array([0.0, 1.0, 1.5, 4.0])
    inputs = pd.DataFrame({"iv": np.nan, "oral": [10.0, np.nan, 5.0, 7.0]})
    found = fitted.simulate([[0.0, 0.0], [1.0, 0.0]], times, inputs=inputs)
    p = fitted.params_
    expected = superposed(np.nextafter(times, -1), [(0.0, 10.0), (1.5, 5.0)], p["ka"], p["ke"], p["F"])
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    np.testing.assert_allclose(found[1] - found[0], superposed(times, [(0.0, 1.0)], p["ka"], p["ke"]), atol=1e-6)
    np.testing.assert_allclose(fitted.simulate([0.0, 0.0], times, inputs=inputs[["oral", "iv"]].to_numpy()), found[0])
    without = fitted.simulate([1.0, 0.0], times[::-1])
    np.testing.assert_allclose(without[:, 0], np.exp(p["ka"] * (4.0 - times[::-1])), rtol=1e-5)
    with pytest.raises(ValueError, match="inputs hold a dose, but times go backward"):
        fitted.simulate([0.0, 0.0], times[::-1], inputs=inputs)


def test_positions_name_columns_of_arrays():
    X, y = frame()
    codes = (X["who"] == "bob").to_numpy(float)
    array = np.column_stack([codes, X[["hour", "oral", "iv"]].to_numpy()])
    model = regressor(series=0, time=1, doses={"x2": ("gut", "F"), "x3": "blood"}).fit(array, y)
    assert model.params_["volume"] == pytest.approx(TRUE["volume"], rel=0.1)


def test_many_doses_between_few_samples():
    """More events than segments, so that legs lie within them."""
    t = np.arange(0.0, 60.0)
    X = pd.DataFrame({"t": t, "amt": 1.0})
    y = np.where(t % 6 == 5, sum((t > k) * np.exp(-0.3 * np.maximum(t - k, 0.0)) for k in t), np.nan)
    model = ODERegressor(decay, {"rate": (1.0, 0, None)}, initial=[0.0], doses={"amt": "y"}).fit(X, y)
    assert model.params_["rate"] == pytest.approx(0.3, rel=1e-4)


@pytest.mark.parametrize(
    ("doses", "message"),
    [
        ({"pill": "gut"}, r"doses names 'pill', which is no column of X beside time and series"),
        ({"oral": "stomach"}, r"doses\['oral'\] names 'stomach', which is not a state"),
        ({"oral": ("gut", "share")}, r"doses\['oral'\] names 'share', which is not in params"),
        ({"oral": ("gut", "F", 1)}, r"doses\['oral'\] must be the name of a state, \(state, parameter\)"),
        ({"oral": lambda amount, p: amount}, r"jump\(amount, p\), must return a tensor of shape"),
        ({"oral": lambda amount, p: torch.stack([amount * p["F"].detach()] * 2, -1)}, "breaks autograd"),
        ({1: "gut"}, "doses must name columns by str"),
    ],
)
def test_wrong_doses_are_named(doses, message):
    X, y = frame()
    with pytest.raises(ValueError, match=message):
        regressor(doses={"iv": "blood", **doses}).fit(X, y)


def test_doses_are_no_inputs():
    X, y = frame()
    with pytest.raises(ValueError, match=r"initial\['gut'\]='oral' is neither in params nor a column of X"):
        regressor(initial={"gut": "oral"}).fit(X, y)


def test_a_dose_before_the_start_is_refused(fitted):
    with pytest.raises(ValueError, match="a dose before the start of its series"):
        fitted.predict(pd.DataFrame({"who": ["ann"], "hour": [-1.0], "oral": [1.0], "iv": [0.0]}))
