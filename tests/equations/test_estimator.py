"""Against truth: SciPy's least squares on solutions to ten digits, closed forms, coverage by simulation."""

import inspect
import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import curve_fit, least_squares
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import estimator_checks_generator

from skode import ODERegressor
from skode.equations import levenberg_marquardt, series_regressor, shooting
from tests.equations.systems import (
    compartments,
    decay,
    growth,
    in_numpy,
    logistic,
    lotka_volterra,
    observations,
    robertson,
    sir,
    solved,
)

UNIDENTIFIED = "ignore:The data do not identify:UserWarning"
TIMES = np.sort(np.random.default_rng(0).uniform(0.0, 10.0, 40))
GROWTH = {"rate": (0.4, 0, None), "capacity": (3.0, 0, None)}


def logistic_data(seed=0, noise=0.1, t=TIMES):
    y = logistic(t, 1.0, 8.0, 0.5) + noise * np.random.default_rng(seed).normal(size=len(t))
    return pd.DataFrame({"t": t}), pd.Series(y, name="size")


def scipys(rhs, p, y0, X, y, observed, scale):
    """Least squares of single shooting, from the truth; estimates and their standard errors."""
    t, names = X["t"].to_numpy(), list(p)

    def residuals(logs):
        values = dict(zip(names, np.exp(logs), strict=True))
        return ((solved(rhs, values, y0, np.concatenate([[0.0], t]))[1:, observed] - y) / scale).ravel()

    found = least_squares(residuals, np.log(list(p.values())), xtol=1e-12, ftol=1e-12, gtol=1e-12)
    variance = 2.0 * found.cost / (len(found.fun) - len(p))
    errors = np.sqrt(np.diag(np.linalg.inv(found.jac.T @ found.jac) * variance))
    return dict(zip(names, np.exp(found.x), strict=True)), np.exp(found.x) * errors


SIR = {"beta": 0.4, "gamma": 0.1}
COMPARTMENTS = {"ka": 1.3, "ke": 0.2, "k12": 0.4, "k21": 0.3}
LOTKA_VOLTERRA = {"a": 1.0, "b": 0.5, "c": 1.2, "d": 0.4}


@pytest.mark.parametrize(
    ("rhs", "p", "y0", "states", "observed", "factors"),
    [
        (sir, SIR, [0.99, 0.01, 0.0], "SIR", [1], [3.0, 3.0]),
        (sir, SIR, [0.99, 0.01, 0.0], "SIR", [1], [1 / 3, 1 / 3]),
        (lotka_volterra, LOTKA_VOLTERRA, [3.0, 1.0], "xy", [0, 1], [3.0, 1 / 3, 3.0, 1 / 3]),
        (lotka_volterra, LOTKA_VOLTERRA, [3.0, 1.0], "xy", [0, 1], [1 / 3, 3.0, 1 / 3, 3.0]),
        (compartments, COMPARTMENTS, [10.0, 0.0, 0.0], "gbt", [1], [1 / 3, 1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_estimates_and_errors_are_those_of_scipys_least_squares(rhs, p, y0, states, observed, factors):
    t = np.linspace(0.0, {"SIR": 80.0, "xy": 15.0, "gbt": 24.0}[states], 41)[1:]
    X, y = observations(rhs, p, y0, np.concatenate([[0.0], t]), 0.02, seed=1)
    start = {name: (p[name] * factor, 0, None) for name, factor in zip(p, factors, strict=True)}
    model = ODERegressor(
        rhs,
        start,
        states=list(states),
        observe=[states[i] for i in observed],
        initial=y0,
        time="t",
        rtol=1e-8,
        tol=1e-8,
    ).fit(X, np.where(X[["t"]] == 0.0, np.nan, y[:, observed]))
    expected, errors = scipys(rhs, p, y0, X[1:], y[1:, observed], observed, model.noise_scale_)
    assert model.converged_
    summary = model.summary()
    for name, error in zip(p, errors, strict=True):
        assert abs(model.params_[name] - expected[name]) < 1e-2 * error
        assert summary.loc[name, "std_error"] == pytest.approx(error, rel=1e-2)


def test_logistic_growth_is_curve_fits():
    X, y = logistic_data()
    model = ODERegressor(growth, GROWTH, initial=[(0.3, 0, None)], time="t", tol=1e-9, rtol=1e-9).fit(
        pd.concat([pd.DataFrame({"t": [0.0]}), X]), pd.concat([pd.Series([np.nan]), y])
    )
    values, covariance = curve_fit(logistic, X["t"], y, [1.0, 8.0, 0.5])
    np.testing.assert_allclose(model.summary()["estimate"], values, rtol=1e-5)
    np.testing.assert_allclose(model.covariance_, covariance, rtol=1e-3)
    assert list(model.covariance_) == ["rate", "capacity", "initial y"]


def test_intervals_cover_the_truth():
    covered = []
    for seed in range(20):
        X, y = logistic_data(seed)
        interval = ODERegressor(growth, GROWTH, time="t", rtol=1e-4, n_segments=5).fit(X, y).conf_int(0.8)
        covered += [interval.loc["rate", "low"] < 1.0 < interval.loc["rate", "high"]]
        covered += [interval.loc["capacity", "low"] < 8.0 < interval.loc["capacity", "high"]]
    assert 0.65 < np.mean(covered) < 0.95


def test_robertsons_rates():
    rates = {"k1": 0.04, "k2": 3e7, "k3": 1e4}
    t = np.concatenate([[0.0], np.logspace(-4, 4, 12)])
    y = solved(robertson, rates, [1.0, 0.0, 0.0], t, "Radau")
    y = y * (1.0 + 0.01 * np.random.default_rng(0).normal(size=y.shape))
    start = {"k1": (0.1, 0, None), "k2": (1e7, 0, None), "k3": (2e4, 0, None)}
    model = ODERegressor(
        robertson, start, states=["a", "b", "c"], initial=[1.0, 0.0, 0.0], noise="gaussian", method="kvaerno5",
        rtol=1e-5, atol=1e-10, n_segments=6,
    ).fit(t[:, None], y)  # fmt: skip
    summary = model.summary()
    assert (np.abs(summary["estimate"] / list(rates.values()) - 1.0) < 0.05).all()


def test_each_series_may_have_parameters_of_its_own():
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.5, 1.5, 12)
    t = np.linspace(0.0, 8.0, 15)
    y = np.stack([logistic(t, rate, 5.0, 0.2) for rate in rates]) + 0.05 * rng.normal(size=(12, 15))
    X = pd.DataFrame({"plant": np.repeat(list("abcdefghijkl"), 15), "t": np.tile(t, 12)})
    model = ODERegressor(
        growth, {"rate": (1.0, 0, None), "capacity": (2.0, 0, None)}, per_series=["rate"], series="plant", time="t",
        states=["size"], initial={"size": 0.2},
    ).fit(X, y.ravel())  # fmt: skip
    assert model.params_["rate"].index.tolist() == list("abcdefghijkl")
    np.testing.assert_allclose(model.params_["rate"], rates, rtol=0.05)
    summary = model.summary()
    assert summary.loc[("capacity", ""), "estimate"] == pytest.approx(5.0, rel=0.01)

    def residuals(values):  # of all unknowns at once
        return (np.stack([logistic(t, rate, values[-1], 0.2) for rate in values[:-1]]) - y).ravel()

    found = least_squares(residuals, [*rates, 5.0], xtol=1e-12)
    np.testing.assert_allclose([*model.params_["rate"], model.params_["capacity"]], found.x, rtol=1e-4)
    errors = np.sqrt(np.diag(np.linalg.inv(found.jac.T @ found.jac)) * 2.0 * found.cost / (y.size - 13))
    np.testing.assert_allclose(summary["std_error"].loc["rate"], errors[:-1], rtol=1e-2)


def test_series_with_nothing_in_common_are_fitted_as_if_alone():
    rng = np.random.default_rng(0)
    t = np.linspace(0.0, 5.0, 12)
    X = pd.DataFrame({"s": np.repeat([0, 1, 2], 12), "t": np.tile(t, 3)})
    y = np.concatenate([a * np.exp(-r * t) for a, r in [(1.0, 0.3), (2.0, 1.0), (5.0, 2.0)]])
    y = y + 0.02 * rng.normal(size=36)
    settings = {"states": ["y"], "time": "t", "tol": 1e-9}
    model = ODERegressor(decay, {"rate": (0.7, 0, None)}, series="s", per_series=["rate"], **settings).fit(X, y)
    for s in range(3):
        rows = X["s"] == s
        alone = ODERegressor(decay, {"rate": (0.7, 0, None)}, **settings).fit(X.loc[rows, ["t"]], y[rows])
        assert model.params_["rate"][s] == pytest.approx(alone.params_["rate"], rel=1e-4)


def test_several_starts_find_the_optimum_that_one_misses():
    t = np.linspace(0.0, 8.0, 60)
    y = np.cos(2.0 * t) + 0.05 * np.random.default_rng(0).normal(size=60)

    def oscillator(t, y, p):
        return torch.stack([y[..., 1], -(p["omega"] ** 2) * y[..., 0]], dim=-1)

    settings = {
        "states": ["x", "v"], "observe": "x", "initial": [1.0, 0.0], "n_segments": 1, "random_state": 0, "rtol": 1e-4,
    }  # fmt: skip
    model = ODERegressor(oscillator, {"omega": (0.7, 0.2, 4.0)}, n_restarts=12, **settings).fit(t[:, None], y)
    assert model.params_["omega"] == pytest.approx(2.0, rel=0.01)
    assert model.restarts_["loglik"].is_monotonic_decreasing
    assert model.restarts_["loglik"].iloc[0] == model.loglik_
    again = clone(model).fit(t[:, None], y)
    pd.testing.assert_frame_equal(again.restarts_, model.restarts_)


def test_a_bound_that_holds_the_optimum_back_is_where_it_ends():
    X, y = logistic_data()
    model = ODERegressor(growth, {"rate": (0.4, 0, 0.8), "capacity": (3.0, 0, None)}, time="t").fit(X, y)
    assert model.params_["rate"] == pytest.approx(0.8)
    assert np.isnan(model.summary().loc["rate", "std_error"])
    assert model.converged_


def test_fixed_parameters_stay_where_they_start():
    X, y = logistic_data()
    model = ODERegressor(growth, {**GROWTH, "capacity": 8.0}, fixed="capacity", time="t").fit(X, y)
    assert model.params_["capacity"] == 8.0
    assert model.params_["rate"] == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("initial", [lambda p: p["start"][..., None], {"size": "start"}])
def test_initial_states_may_depend_on_parameters(initial):
    X, y = logistic_data()
    X, y = pd.concat([pd.DataFrame({"t": [0.0]}), X]), pd.concat([pd.Series([np.nan]), y])
    params = {**GROWTH, "start": (0.3, 0, None)}
    model = ODERegressor(growth, params, states=["size"], initial=initial, time="t").fit(X, y)
    free = ODERegressor(growth, GROWTH, states=["size"], time="t").fit(X, y)
    assert model.params_["start"] == pytest.approx(free.initial_states_["size"].iloc[0], rel=1e-3)


def test_initial_states_may_stand_in_a_column():
    t = np.linspace(0.0, 4.0, 8)
    X = pd.DataFrame({"s": np.repeat([0, 1], 8), "t": np.tile(t, 2), "dose": np.repeat([1.0, 3.0], 8)})
    y = X["dose"] * np.exp(-0.7 * X["t"])
    y = y + 0.01 * np.random.default_rng(0).normal(size=16)
    model = ODERegressor(
        decay, {"rate": (2.0, 0, None)}, states=["y"], initial={"y": "dose"}, series="s", time="t"
    ).fit(X, y)
    assert model.params_["rate"] == pytest.approx(0.7, rel=0.02)
    assert model.initial_states_["y"].tolist() == [1.0, 3.0]
    unseen = pd.DataFrame({"s": 9, "t": [0.0, 1.0], "dose": 2.0})
    np.testing.assert_allclose(
        model.predict(unseen), 2.0 * np.exp(-model.params_["rate"] * np.array([0.0, 1.0])), rtol=1e-5
    )


def test_inputs_drive_the_dynamics():
    t = np.linspace(0.0, 10.0, 41)
    u = np.sin(t)

    def driven(t, y, p):
        return (p["gain"] * p["u"] - p["rate"] * y[..., 0])[..., None]

    y = np.zeros(1)
    expected = solved(
        lambda t, y, p: (2.0 * torch.tensor(np.interp(t, np.linspace(0.0, 10.0, 41), u)) - 0.5 * y[0])[None], {}, y, t
    )[:, 0]
    noisy = expected + 0.01 * np.random.default_rng(0).normal(size=41)
    X = pd.DataFrame({"t": t, "u": u})
    params = {"gain": 1.0, "rate": (1.0, 0, None)}
    model = ODERegressor(driven, params, states=["y"], initial=[0.0], time="t").fit(X, noisy)
    assert model.params_["gain"] == pytest.approx(2.0, rel=0.02)
    assert model.params_["rate"] == pytest.approx(0.5, rel=0.02)
    np.testing.assert_allclose(model.predict(X), expected, atol=0.02)


def test_dates_count_in_units_of_time():
    X, y = logistic_data()
    dates = pd.DataFrame({"t": pd.Timestamp("2024-01-01") + pd.to_timedelta(X["t"] * 24, unit="h")})
    by_day = ODERegressor(growth, GROWTH, time="t").fit(dates, y)
    by_hour = ODERegressor(growth, GROWTH, time="t", time_unit="h").fit(dates, y)
    number = ODERegressor(growth, GROWTH, time="t").fit(X - X["t"].min(), y)
    assert by_day.params_["rate"] == pytest.approx(number.params_["rate"], rel=1e-5)
    assert by_hour.params_["rate"] == pytest.approx(number.params_["rate"] / 24.0, rel=1e-4)
    np.testing.assert_allclose(by_hour.predict(dates), by_day.predict(dates), rtol=1e-4)


@pytest.mark.parametrize("noise", ["student", "poisson", "lognormal"])
def test_other_noise(noise):
    rng = np.random.default_rng(1)
    t = np.linspace(0.0, 8.0, 60)
    mean = logistic(t, 1.0, 80.0, 5.0)
    if noise == "poisson":
        y = rng.poisson(mean).astype(float)
    elif noise == "lognormal":
        y = mean * np.exp(0.1 * rng.normal(size=60))
    else:
        y = mean + rng.normal(size=60)
        y[::10] += 40.0
    start = {"rate": (0.4, 0, None), "capacity": (40.0, 0, None)}
    model = ODERegressor(growth, start, noise=noise).fit(t[:, None], y)
    interval = model.conf_int(0.999)
    assert interval.loc["rate", "low"] < 1.0 < interval.loc["rate", "high"]
    assert interval.loc["capacity", "low"] < 80.0 < interval.loc["capacity", "high"]
    assert np.isnan(model.noise_scale_[0]) == (noise == "poisson")
    best = model.loglik_
    assert (
        best
        >= ODERegressor(growth, model.params_, fixed=["rate", "capacity"], noise=noise).fit(t[:, None], y).loglik_
        - 1e-3
    )


def test_weights_are_repetitions():
    X, y = logistic_data()
    weights = np.random.default_rng(0).integers(0, 3, 40)
    weights[0] = 1
    repeated = np.repeat(np.arange(40), weights)
    weighted = ODERegressor(growth, GROWTH, time="t").fit(X, y, sample_weight=weights)
    twice = ODERegressor(growth, GROWTH, time="t").fit(X.iloc[repeated], y.iloc[repeated])
    assert weighted.params_ == pytest.approx(twice.params_, rel=1e-6)
    assert weighted.loglik_ == pytest.approx(twice.loglik_, rel=1e-9)


def test_the_sandwich_is_near_where_the_noise_is_as_assumed():
    X, y = logistic_data(t=np.linspace(0.0, 10.0, 200))
    plain, robust = (
        ODERegressor(growth, GROWTH, time="t", covariance=kind).fit(X, y) for kind in ("gauss-newton", "sandwich")
    )
    np.testing.assert_allclose(robust.summary()["std_error"], plain.summary()["std_error"], rtol=0.3)
    assert not np.allclose(robust.summary()["std_error"], plain.summary()["std_error"], rtol=1e-6)


def test_what_the_data_do_not_identify_is_named():
    def product(t, y, p):
        return -(p["a"] * p["b"] * y[..., 0])[..., None]

    t = np.linspace(0.0, 3.0, 20)
    y = np.exp(-0.5 * t) + 0.01 * np.random.default_rng(0).normal(size=20)
    params = {"a": (1.0, 0, None), "b": (1.0, 0, None), "idle": (1.0, 0, None)}
    with pytest.warns(UserWarning, match="do not identify idle; a with b|do not identify a with b; idle"):
        model = ODERegressor(product, params).fit(t[:, None], y)
    assert model.params_["a"] * model.params_["b"] == pytest.approx(0.5, rel=0.05)
    assert np.isinf(model.summary().loc[["a", "b", "idle"], "std_error"]).all()
    assert np.isfinite(model.summary().loc["initial y", "std_error"])


def test_an_interrupted_fit_keeps_the_best_so_far(monkeypatch):
    X, y = logistic_data()
    shoot, calls = levenberg_marquardt.shoot, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return shoot(*args)

    monkeypatch.setattr(levenberg_marquardt, "shoot", interrupted)
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        model = ODERegressor(growth, GROWTH, time="t").fit(X, y)
    assert np.isfinite(model.predict(X)).all()
    assert not model.converged_
    assert model.stop_reason_ == "interrupted"


def test_ctrl_c_before_anything_is_solved_is_one(monkeypatch):
    X, y = logistic_data()

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(shooting, "solve_course", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ODERegressor(growth, GROWTH, time="t").fit(X, y)


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows one second more each time that it is read, the last of which are the step's."""
    ticks = itertools.count()
    for module in (levenberg_marquardt, series_regressor):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))


def test_a_time_limit_keeps_the_best_so_far(clock):
    X, y = logistic_data()
    with pytest.warns(ConvergenceWarning, match=r"ended by max_time=4.5 after 4 steps; what was best so far is kept"):
        model = ODERegressor(growth, GROWTH, time="t", max_time=4.5).fit(X, y)
    assert model.n_iter_ == 4
    assert not model.converged_
    assert model.stop_reason_ == "max_time=4.5 was reached"
    with pytest.warns(ConvergenceWarning, match="after 4 steps"):
        same = ODERegressor(growth, GROWTH, time="t", max_iter=4).fit(X, y)
    # To rounding: sums of products depend on where in memory their factors lie.
    assert model.params_ == pytest.approx(same.params_, rel=1e-13)
    assert same.stop_reason_ == "max_iter was reached"
    assert np.isfinite(model.predict(X)).all()
    whole = ODERegressor(growth, GROWTH, time="t", max_time=1e3).fit(X, y)
    assert whole.converged_
    assert whole.stop_reason_ == "no step promises to gain more than tol=1e-05"
    assert whole.loglik_ > model.loglik_


def test_a_profile_has_a_time_limit(clock):
    X, y = logistic_data()
    model = ODERegressor(growth, GROWTH, time="t", max_time=1e3).fit(X, y)
    complete = model.profile("rate", 5)["loglik"]
    with pytest.warns(ConvergenceWarning, match=r"The profile was ended by max_time=1\.5"):
        profile = model.set_params(max_time=1.5).profile("rate", 5)
    assert np.isfinite(profile["loglik"]).all()
    assert (profile["loglik"] <= complete + 1e-3).all()
    assert (profile["loglik"] < complete - 1e-3).any()


def test_ctrl_c_ends_a_profile(monkeypatch):
    X, y = logistic_data()
    model = ODERegressor(growth, GROWTH, time="t").fit(X, y)
    shoot, calls = levenberg_marquardt.shoot, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return shoot(*args)

    monkeypatch.setattr(levenberg_marquardt, "shoot", interrupted)
    with pytest.warns(ConvergenceWarning, match="The profile was interrupted"):
        assert np.isfinite(model.profile("rate", 5)["loglik"]).all()


def test_too_few_steps_are_warned_of():
    X, y = logistic_data()
    with pytest.warns(ConvergenceWarning, match="ended before an optimum, after 1 steps"):
        ODERegressor(growth, GROWTH, time="t", max_iter=1).fit(X, y)


def test_a_line_per_step(capsys):
    X, y = logistic_data()
    model = ODERegressor(growth, GROWTH, time="t", verbose=True).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_
    assert lines[0].startswith("Step 1, negative log-likelihood ")


def flat(t, y, p):
    return -p["rate"] * y[..., 0]


def detached(t, y, p):
    return -(p["rate"].detach() * y[..., 0])[..., None]


def numpys(t, y, p):
    return torch.as_tensor(-p["rate"].numpy() * y[..., 0].numpy())[..., None]


def in_place(t, y, p):
    return y.mul_(-p["rate"][..., None])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rhs": flat}, r"rhs\(t, y, p\) must return a tensor of y's shape"),
        ({"rhs": detached}, r"rhs\(t, y, p\) breaks autograd"),
        ({"rhs": in_place}, "changes y in place"),
        ({"params": {"rate": (2.0, 0.0, 1.0)}}, "exclude"),
        ({"fixed": ["speed"]}, "fixed names 'speed'"),
        ({"per_series": ["speed"]}, "per_series names 'speed'"),
        ({"per_series": ["rate"], "fixed": ["rate"]}, "fixed and per_series both name 'rate'"),
        ({"observe": "level"}, "observe names 'level', which is not a state"),
        ({"states": ["a", "b"]}, "y has 1 outputs, and there are 2 states"),
        ({"states": ["a", "a"]}, "states must hold names that differ"),
        ({"initial": {"level": 1.0}}, "initial names 'level', which is not a state"),
        ({"initial": {"y": "dose"}}, r"initial\['y'\]='dose' is neither in params nor a column of X"),
        ({"initial": [1.0, 2.0]}, "initial has 2 entries, and there are 1 states"),
        ({"initial": lambda p: torch.ones(3)}, r"initial\(p\) must return a tensor of shape"),
        ({"observe": lambda t, y, p: torch.cat([y, y], -1)}, r"observe\(t, y, p\) returns 2 outputs, but y has 1"),
        ({"observe": lambda t, y, p: y * p["gain"]}, "'gain'"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    t = np.linspace(0.0, 3.0, 20)
    arguments = {"rhs": decay, "params": {"rate": (1.0, 0, None)}, **change}
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        ODERegressor(**arguments).fit(t[:, None], np.exp(-t))


def test_numpy_in_a_right_hand_side_is_refused():
    t = np.linspace(0.0, 3.0, 20)
    with pytest.raises((ValueError, RuntimeError, TypeError)) as error:
        ODERegressor(numpys, {"rate": (1.0, 0, None)}).fit(t[:, None], np.exp(-t))
    assert "rhs(t, y, p)" in "".join([str(error.value), *getattr(error.value, "__notes__", [])])


def test_too_few_data_are_refused():
    with pytest.raises(ValueError, match="n_samples = 2 observed values, too few for 2 unknowns"):
        ODERegressor(decay, {"rate": (1.0, 0, None)}).fit([[0.0], [1.0]], [1.0, 0.5])


def test_equations_that_explode_from_their_start_are_refused():
    def explosive(t, y, p):
        return (p["rate"] * torch.sqrt(0.5 - y[..., 0]))[..., None]

    t = np.linspace(0.0, 3.0, 20)
    with pytest.raises(RuntimeError, match="can't be solved from their start"):
        ODERegressor(explosive, {"rate": (1.0, 0, None)}, initial=[1.0]).fit(t[:, None], 1.0 + t)


def test_constructor_does_nothing_but_store():
    values = {name: object() for name in inspect.signature(ODERegressor).parameters}
    made = ODERegressor(**values)
    assert made.get_params() == values


def test_every_parameter_is_documented_and_has_a_constraint():
    for name in inspect.signature(ODERegressor).parameters:
        assert name in ODERegressor.__doc__
        assert name in ODERegressor._parameter_constraints


def drift(t, y, p):
    return torch.zeros_like(y) + p["drift"][..., None]


def with_covariate(t, y, p):
    return y + (p["slope"] * p["x4"])[..., None] if "x4" in p else y


# Of scikit-learn's regression data the fifth column matters; where there are fewer, the data do not identify its slope.
@pytest.mark.filterwarnings(UNIDENTIFIED, "ignore:The fit ended:sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("estimator", "check"),
    list(
        estimator_checks_generator(
            ODERegressor(drift, {"drift": 0.1, "slope": 0.0}, observe=with_covariate, max_iter=30, rtol=1e-9),
            mark="skip",
        )
    ),
    ids=lambda value: getattr(getattr(value, "func", value), "__name__", "drift"),  # functions have addresses
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_numpy_helper_is_the_right_hand_side():
    np.testing.assert_allclose(in_numpy(decay)(0.0, np.array([2.0]), {"rate": 3.0}), [-6.0])


def test_inputs_that_jump_are_followed_exactly():
    """Against the closed form of a leaky integrator between jumps, one of them short."""

    def leaky(t, y, p):
        return (p["u"] - p["rate"] * y[..., 0])[..., None]

    knots, u = np.array([0.0, 1.0, 1.003, 4.0, 9.0]), np.array([1.0, 1e4, -20.0, 3.0, 0.0])
    t = np.sort(np.append(np.random.default_rng(0).uniform(0.0, 10.0, 12), knots))
    exact, state = np.empty_like(t), 0.0
    for k, start in enumerate(knots):
        end = knots[k + 1] if k + 1 < len(knots) else 10.0
        here, level = (t >= start) & (t <= end), u[k] / 0.7
        exact[here] = level + (state - level) * np.exp(-0.7 * (t[here] - start))
        state = level + (state - level) * np.exp(-0.7 * (end - start))
    X = pd.DataFrame({"t": t, "u": u[np.searchsorted(knots, t, side="right") - 1]})
    for n_segments in (1, "auto"):
        model = ODERegressor(
            leaky, {"rate": (0.69, 0, None)}, initial=[0.0], time="t", interpolation="previous", n_segments=n_segments,
        ).fit(X, exact)  # fmt: skip
        assert model.params_["rate"] == pytest.approx(0.7, rel=1e-5)
        np.testing.assert_allclose(model.predict(X), exact, atol=1e-3)
        at_knots = pd.DataFrame({"t": knots, "u": u})
        np.testing.assert_allclose(
            model.simulate([0.0], knots, inputs=at_knots)[:, 0], np.interp(knots, t, exact), atol=1e-3
        )
