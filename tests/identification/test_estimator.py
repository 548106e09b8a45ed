"""Against dynamics that are known: equations, fields, errors and forecasts from simulated series."""

import dataclasses
import itertools
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import solve_ivp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import estimator_checks_generator
from torch import nn

from skode import NeuralODERegressor
from skode.equations import levenberg_marquardt, series_regressor
from skode.identification import fitting

TIMES = np.linspace(0.0, 10.0, 80)


def solved(f, y0, t=TIMES):
    return solve_ivp(lambda t, y: f(y), (t[0], t[-1]), y0, t_eval=t, rtol=1e-9, atol=1e-11).y.T


def lotka_volterra(y):
    return np.stack([y[0] - 0.5 * y[0] * y[1], 0.4 * y[0] * y[1] - 1.2 * y[1]])


def pendulum(y):
    return np.stack([y[1], -np.sin(y[0]) - 0.1 * y[1]])


def panel(f, starts, noise, seed=0, t=TIMES, names=("x", "v")):
    """A long frame of several series, and the true states."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([solved(f, y0, t) for y0 in starts])
    X = pd.DataFrame({"s": np.repeat(np.arange(len(starts)), len(t)), "t": np.tile(t, len(starts))})
    return X, pd.DataFrame(truth + noise * rng.normal(size=truth.shape), columns=list(names)), truth


@pytest.fixture(scope="module")
def two_species():
    X, y, truth = panel(lotka_volterra, [[3.0, 1.0], [1.0, 2.0]], 0.05, names=("prey", "pred"))
    return NeuralODERegressor("polynomial", series="s", time="t").fit(X, y), X, y, truth


def test_the_terms_and_coefficients_are_those_of_the_equations(two_species):
    model = two_species[0]
    table, errors = model.coefficients_, model.coefficient_errors_
    truth = pd.DataFrame(0.0, table.index, table.columns)
    truth.loc[["prey", "prey pred"], "dprey/dt"] = [1.0, -0.5]
    truth.loc[["pred", "prey pred"], "dpred/dt"] = [-1.2, 0.4]
    kept = table.to_numpy() != 0.0
    assert kept[truth.to_numpy() != 0.0].all()
    assert kept.sum() <= 7
    z = (table - truth).to_numpy()[kept] / errors.to_numpy()[kept]
    assert np.abs(z).max() < 4.0
    assert model.equations(2)[0].startswith("dprey/dt = ")
    assert np.all(errors.to_numpy()[~kept] == 0.0)


def test_the_field_has_errors_as_large_as_it_says(two_species):
    model, _, _, truth = two_species
    value, std = model.vector_field(truth, return_std=True)
    exact = lotka_volterra(truth.T).T
    assert np.sqrt(((value - exact) ** 2).mean() / (exact**2).mean()) < 0.03
    assert 0.3 < np.sqrt((((value - exact) / std) ** 2).mean()) < 3.0


def test_the_jacobian_is_the_derivative_of_the_field(two_species):
    model, _, _, truth = two_species
    Y, step = truth[:7], 1e-6
    J = model.jacobian(Y)
    for j, shift in enumerate(step * np.eye(2)):
        difference = (model.vector_field(Y + shift) - model.vector_field(Y - shift)) / (2.0 * step)
        np.testing.assert_allclose(J[:, :, j], difference, atol=1e-7)


def test_predictions_have_the_noise_and_the_error_that_they_say(two_species):
    model, X, y, truth = two_species
    mean, std = model.predict(X, return_std=True)
    assert np.sqrt(((mean - truth) ** 2).mean()) < 0.02
    assert 0.85 < np.sqrt((((mean - y.to_numpy()) / std) ** 2).mean()) < 1.1
    np.testing.assert_allclose(model.noise_scale_, 0.05, rtol=0.15)
    assert model.score(X, y) > 0.98
    later = pd.DataFrame({"s": 0, "t": np.linspace(10.0, 20.0, 20)})
    ahead, std = model.predict(later, return_std=True)
    exact = solved(lotka_volterra, [3.0, 1.0], np.concatenate([[0.0], later["t"]]))[1:]
    assert np.sqrt(((ahead - exact) ** 2).mean() / exact.var()) < 0.1
    assert np.abs((ahead - exact) / std).max() < 4.0


def test_noise_by_the_size_of_states_is_found_and_tells_small_states(two_species):
    assert (two_species[0].noise_proportion_ == 0.0).all()  # where it does not grow
    t = np.linspace(0.0, 8.0, 100)
    truth = 5.0 / (1.0 + 49.0 * np.exp(-t))
    X, errors = t[:, None], {"auto": [], "gaussian": []}
    for seed in range(4):
        y = truth * (1.0 + 0.1 * np.random.default_rng(seed).normal(size=len(t)))
        for noise, found in errors.items():
            model = NeuralODERegressor("polynomial", noise=noise).fit(X, y)
            found.append(model.initial_states_.iloc[0, 0] - 0.1)
            if noise == "auto":
                assert model.noise_proportion_[0] == pytest.approx(0.1, rel=0.25)
                mean, std = model.predict(X, return_std=True)
                assert 0.8 < np.sqrt((((y - mean) / std) ** 2).mean()) < 1.2
                assert std[-1] > 10.0 * std[0]
            else:
                assert model.noise_proportion_[0] == 0.0
    assert np.sqrt(np.mean(np.square(errors["auto"]))) < 0.5 * np.sqrt(np.mean(np.square(errors["gaussian"])))


def test_a_field_whose_information_is_singular_has_no_evidence():
    model = NeuralODERegressor("linear").fit(TIMES[:, None], np.exp(-0.3 * TIMES))
    task, u = model._problem.task, model._paths.u
    start = fitting.Start(u, model._problem.smooth.nodes, np.ones(len(u)), np.ones(len(u), dtype=bool))
    optimum = fitting.shot(task, start, model._search())
    found = fitting.FieldOptimum(optimum, optimum.information(task, sandwich=False))
    assert np.isfinite(fitting.evidence(model._problem, found))
    singular = dataclasses.replace(found, information=dataclasses.replace(found.information, log_det=-np.inf))
    assert fitting.evidence(model._problem, singular) == -np.inf


def test_a_network_far_behind_a_polynomial_is_given_up(monkeypatch, capsys):
    X, y, _ = panel(lotka_volterra, [[3.0, 1.0]], 0.05, names=("prey", "pred"))
    monkeypatch.setattr(levenberg_marquardt, "EARLY", 4)
    polynomial = NeuralODERegressor("polynomial", series="s", time="t", random_state=0).fit(X, y)
    rivals = []

    def far_behind(problem, fits, rival):
        rivals.append(rival)
        return True

    monkeypatch.setattr(fitting, "_is_far_behind", far_behind)
    model = NeuralODERegressor(series="s", time="t", random_state=0, verbose=True).fit(X, y)
    assert rivals == [polynomial.evidence_]
    assert model.field_ == "polynomial"
    assert model.equations() == polynomial.equations()
    assert capsys.readouterr().out.splitlines()[-1].startswith("Step 4,")


def test_times_before_the_start_and_states(two_species):
    model = two_species[0]
    before = model.predict_states(pd.DataFrame({"s": [0, 1], "t": [-0.5, -0.5]}))
    exact = [solved(lotka_volterra, y0, np.array([0.0, -0.5]))[-1] for y0 in ([3.0, 1.0], [1.0, 2.0])]
    np.testing.assert_allclose(before, exact, rtol=0.1)
    assert list(before.columns) == model.states_ == ["prey", "pred"]


def test_simulations_start_anywhere(two_species):
    model = two_species[0]
    t = np.linspace(0.0, 5.0, 11)
    starts = np.array([[2.0, 2.0], [4.0, 1.0]])
    both = model.simulate(starts, t)
    np.testing.assert_allclose(both[1], model.simulate(starts[1], t), rtol=1e-4)
    np.testing.assert_allclose(both[0], solved(lotka_volterra, starts[0], t), rtol=0.1)


def test_new_series_become_known_by_condition(two_species):
    model, X, _, _ = two_species
    new = pd.DataFrame({"s": 7, "t": np.linspace(0.0, 4.0, 9)})
    truth = solved(lotka_volterra, [2.0, 3.0], np.linspace(0.0, 8.0, 17))
    noisy = truth[:9] + 0.05 * np.random.default_rng(1).normal(size=(9, 2))
    with pytest.raises(ValueError, match="Series 7 was not in fit"):
        model.predict(new)
    found = model.condition(new, noisy)
    later = pd.DataFrame({"s": 7, "t": np.linspace(4.0, 8.0, 9)})
    mean, std = found.predict(later, return_std=True)
    assert np.sqrt(((mean - truth[8:]) ** 2).mean()) < 0.15
    assert np.abs((mean - truth[8:]) / std).max() < 4.0
    np.testing.assert_array_equal(found.predict(X), model.predict(X))
    assert list(found.initial_states_.index) == [0, 1, 7]
    with pytest.raises(ValueError, match="was not in fit"):
        model.predict(new)


def test_a_pickle_answers_as_before(two_species):
    model, X, _, _ = two_species
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_velocities_are_states_of_equations_of_second_order():
    X, y, truth = panel(pendulum, [[2.0, 0.0], [-1.0, 1.0]], 0.02, seed=1)
    model = NeuralODERegressor("polynomial", order=2, series="s", time="t").fit(X, y["x"])
    assert model.states_ == ["x", "dx/dt"]
    assert model.equations()[0].startswith("d2x/dt2 = ")
    states = model.predict_states(X).to_numpy()
    assert np.sqrt(((states - truth) ** 2).mean()) < 0.05
    field = model.vector_field(truth)
    np.testing.assert_allclose(field[:, 0], truth[:, 1], rtol=1e-12, atol=1e-12)
    exact = pendulum(truth.T)[1]
    assert np.sqrt(((field[:, 1] - exact) ** 2).mean() / (exact**2).mean()) < 0.1


def test_a_network_learns_what_a_polynomial_can_not():
    def field(y):
        return np.stack([y[1], -2.0 * np.tanh(4.0 * y[0]) - 0.2 * y[1]])

    X, y, truth = panel(field, [[1.5, 0.0], [0.2, 1.0]], 0.01, seed=2)
    model = NeuralODERegressor(degree=1, series="s", time="t", random_state=0, max_iter=30, tol=3.0).fit(X, y)
    assert model.field_ == "mlp"
    assert np.sqrt(((model.vector_field(truth) - field(truth.T).T) ** 2).mean() / (field(truth.T) ** 2).mean()) < 0.12
    with pytest.raises(AttributeError, match="polynomial"):
        model.equations()


def test_known_terms_are_told_from_what_is_added_to_them():
    def known(t, y, p):
        return torch.stack([y[..., 1], -p["k"] * y[..., 0]], dim=-1)

    def truth(y):
        return np.stack([y[1], -2.0 * y[0] - 0.3 * y[1] ** 3])

    X, y, states = panel(truth, [[1.5, 0.0], [-0.5, 1.5]], 0.02, seed=3)
    fixed = NeuralODERegressor("polynomial", known, {"k": 2.0}, fixed=["k"], series="s", time="t").fit(X, y)
    assert fixed.params_ == {"k": 2.0}
    assert np.sqrt(((fixed.vector_field(states) - truth(states.T).T) ** 2).mean()) < 0.1
    assert fixed.coefficients_.loc["v^3", "dv/dt"] == pytest.approx(-0.3, abs=0.06)
    assert fixed.equations()[0].endswith("known(t, y, p)")


def test_a_known_parameter_and_a_module_are_learnt_together():
    def known(t, y, p):
        return (p["a"] - p["b"] * y[..., 0])[..., None]

    X, y, states = panel(lambda y: 1.5 - 0.5 * y + np.sin(y), [[0.2], [6.0]], 0.02, seed=4, names=["y"])
    model = NeuralODERegressor(nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)), known, series="s", time="t")
    model.set_params(params={"a": 1.0, "b": (0.4, 0.0, None)}, n_segments=10, tol=3.0).fit(X[::3], y[::3])
    assert set(model.params_) == {"a", "b"}
    exact = 1.5 - 0.5 * states + np.sin(states)
    assert np.sqrt(((model.vector_field(states) - exact) ** 2).mean()) < 0.1


def test_inputs_drive_the_field():
    rng = np.random.default_rng(5)
    t, u = np.linspace(0.0, 20.0, 161), np.repeat(rng.normal(size=21), 8)[:161]
    level = np.zeros(161)
    for i in range(160):  # exact for inputs that are constant between rows
        level[i + 1] = u[i] / 0.7 * 2.0 + (level[i] - u[i] / 0.7 * 2.0) * np.exp(-0.7 * (t[i + 1] - t[i]))
    X = pd.DataFrame({"t": t, "u": u})
    y = pd.Series(level + 0.02 * rng.normal(size=161), name="level")
    model = NeuralODERegressor("linear", time="t", interpolation="previous").fit(X[:120], y[:120])
    table = model.coefficients_["dlevel/dt"]
    assert table["level"] == pytest.approx(-0.7, abs=0.05)
    assert table["u"] == pytest.approx(2.0, abs=0.1)
    assert np.abs(model.predict(X)[120:] - level[120:]).max() < 0.1
    np.testing.assert_allclose(model.simulate([0.0], t[:50], inputs=X[["u"]][:50])[:, 0], level[:50], atol=0.1)
    with pytest.raises(ValueError, match="inputs must hold"):
        model.simulate([0.0], t)
    with pytest.raises(ValueError, match="depends on inputs"):
        model.analysis()


def test_missing_values_and_weights_are_those_of_copied_and_missing_rows():
    X, y, _ = panel(lotka_volterra, [[3.0, 1.0], [1.0, 2.0]], 0.05, names=("prey", "pred"))
    gaps = y.copy()
    gaps.loc[::3, "prey"] = np.nan
    gaps.loc[1::4, "pred"] = np.nan
    model = NeuralODERegressor("polynomial", series="s", time="t").fit(X, gaps)
    assert model.coefficients_.loc["prey pred", "dpred/dt"] == pytest.approx(0.4, abs=0.06)
    weights = np.where(np.arange(len(X)) % 5 == 0, 0.0, 1.0)
    kept = weights > 0.0
    weighted = clone(model).fit(X, y, sample_weight=weights)
    dropped = clone(model).fit(X[kept], y[kept])
    np.testing.assert_allclose(weighted.predict(X[kept]), dropped.predict(X[kept]), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"field": "cubic"}, "field"),
        ({"field": nn.Linear(3, 3)}, r"must map points of shape \(n, 2\)"),
        ({"params": {"k": 1.0}}, "known is None"),
        ({"known": lambda t, y, p: y[..., 0]}, r"must return a tensor of shape \(..., 2\)"),
        ({"known": lambda t, y, p: p["k"] * y, "params": {"k": (0.5, 1.0, 2.0)}}, "exclude"),
        ({"known": lambda t, y, p: y, "fixed": ["k"]}, "fixed names 'k'"),
        ({"hidden_layer_sizes": (2000,), "field": "auto", "degree": 1}, "field='auto' compares fields"),
        ({"order": 3}, "order"),
        ({"method": "kvaerno5"}, "method"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    X, y, _ = panel(lotka_volterra, [[3.0, 1.0]], 0.05)
    with pytest.raises(ValueError, match=message):
        NeuralODERegressor(series="s", time="t", **arguments).fit(X, y)


def test_what_a_frame_holds_goes_by_name(two_species):
    model, _, _, truth = two_species
    frame = pd.DataFrame(truth[:3], columns=["prey", "pred"])
    swapped = frame[["pred", "prey"]]
    np.testing.assert_array_equal(model.vector_field(swapped), model.vector_field(truth[:3]))
    np.testing.assert_array_equal(model.simulate(swapped, [0.0, 1.0]), model.simulate(frame, [0.0, 1.0]))
    with pytest.raises(ValueError, match="no column 'prey'"):
        model.vector_field(frame.rename(columns={"prey": "other"}))
    with pytest.raises(ValueError, match="times"):
        model.simulate(truth[0], pd.date_range("2020", periods=2))
    with pytest.raises(ValueError, match="y0"):
        model.simulate(["a", "b"], [0.0, 1.0])


def test_names_that_are_no_words_stand_in_brackets():
    X, y, _ = panel(lambda y: np.stack([y[1], -4.0 * y[0]]), [[1.0, 0.0]], 0.02, seed=6, names=["0", "1"])
    model = NeuralODERegressor("linear", time="t").fit(X[["t"]], y)
    assert {"1", "[0]", "[1]"} == set(model.coefficients_.index)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_can_not_be_told_is_refused_or_warned_of():
    X, y, _ = panel(lambda y: np.stack([y[1], -4.0 * y[0]]), [[1.0, 0.0]], 0.02, seed=6)
    X, model = X[["t"]], NeuralODERegressor("linear", time="t", max_iter=1)
    with pytest.raises(ValueError, match="no observed value of 'v'"):
        model.fit(X, y.assign(v=np.nan))
    with pytest.raises(ValueError, match="too few"):
        clone(model).fit(X, y, sample_weight=np.full(len(y), 1.0 / len(y)))
    with pytest.warns(UserWarning, match="'x' lies far from 0"):
        clone(model).fit(X, y.assign(x=y["x"] + 1e4))
    driven = clone(model).set_params(known=lambda t, y, p: torch.cos(t)[..., None] + 0.0 * y).fit(X, y)
    with pytest.raises(ValueError, match="depends on time"):
        driven.analysis()


@pytest.mark.parametrize("sizes", [(0,), (2.5,), (-1,)])
def test_widths_of_layers_are_checked(sizes):
    X, y, _ = panel(lotka_volterra, [[3.0, 1.0]], 0.05)
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        NeuralODERegressor("mlp", hidden_layer_sizes=sizes, series="s", time="t").fit(X, y)


def test_too_few_observations_are_refused():
    with pytest.raises(ValueError, match="too few for a field"):
        NeuralODERegressor(time=0).fit(np.zeros((2, 1)), [[1.0, 2.0], [1.0, 2.0]])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("estimator", "check"),
    list(estimator_checks_generator(NeuralODERegressor("linear", max_iter=5, tol=10.0), mark="skip")),
    ids=lambda value: getattr(getattr(value, "func", value), "__name__", "linear"),  # functions have addresses
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_a_time_limit_keeps_the_best_so_far(monkeypatch):
    X, y, _ = panel(pendulum, [[2.0, 0.0]], 0.05)
    ticks = itertools.count()
    for module in (levenberg_marquardt, series_regressor, fitting):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    short = {"field": "mlp", "hidden_layer_sizes": (4,), "series": "s", "time": "t", "random_state": 0}
    with pytest.warns(ConvergenceWarning, match=r"ended by max_time=4.5 after \d+ steps; what was best so far is kept"):
        model = NeuralODERegressor(**short, max_time=4.5).fit(X, y)
    assert model.stop_reason_ == "max_time=4.5 was reached"
    assert not model.converged_
    assert model.n_iter_ <= 4
    assert np.isfinite(model.predict(X)).all()
    assert clone(model).max_time == 4.5


def test_with_no_time_for_a_second_field_the_first_is_the_one(monkeypatch):
    X, y, _ = panel(pendulum, [[2.0, 0.0]], 0.05)
    ticks = itertools.count()
    for module in (levenberg_marquardt, series_regressor, fitting):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    with pytest.warns(ConvergenceWarning, match=r"max_time=2"):
        model = NeuralODERegressor("auto", series="s", time="t", max_time=2).fit(X, y)
    assert model.field_ == "polynomial"


@pytest.mark.parametrize("max_time", [0, -1.0, np.nan, "60"])
def test_what_is_no_time_is_refused(max_time):
    X, y, _ = panel(pendulum, [[2.0, 0.0]], 0.05)
    with pytest.raises(ValueError, match="The 'max_time' parameter of NeuralODERegressor must be a float"):
        NeuralODERegressor(series="s", time="t", max_time=max_time).fit(X, y)


def test_a_field_that_does_not_follow_the_observations_is_warned_of():
    """A position alone does not say whether it rises or falls; a second order does."""
    X, y, _ = panel(pendulum, [[1.0, 0.0]], 0.01)
    with pytest.warns(UserWarning, match=r"does not follow the observations of 'x': its residuals are .* order=2"):
        NeuralODERegressor("polynomial", series="s", time="t").fit(X, y[["x"]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NeuralODERegressor("polynomial", series="s", time="t", order=2).fit(X, y[["x"]])


@pytest.mark.parametrize("noise", ["gaussian", "combined"])
def test_states_that_are_0_throughout_stay_so(noise):
    t = np.linspace(0.0, 5.0, 25)
    model = NeuralODERegressor("linear", noise=noise).fit(t[:, None], np.zeros(25))
    assert model.equations() == ["dy/dt = 0"]
    np.testing.assert_array_equal(model.predict([[2.0], [9.0]]), 0.0)
