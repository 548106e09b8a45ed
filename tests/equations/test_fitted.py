import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, UndefinedMetricWarning

from skode import NeuralODERegressor, ODERegressor
from skode.io import ParquetTable
from skode.solvers import SolverError
from tests.equations.systems import decay, growth, logistic, lotka_volterra, sir, solved

T = np.linspace(0.0, 10.0, 40)
Y = logistic(T, 1.0, 8.0, 0.5) + 0.1 * np.random.default_rng(0).normal(size=40)
X = pd.DataFrame({"t": T})
PARAMS = {"rate": (0.4, 0, None), "capacity": (3.0, 0, None)}


@pytest.fixture(scope="module")
def model():
    return ODERegressor(growth, PARAMS, states=["size"], time="t", tol=1e-8, rtol=1e-8).fit(X, Y)


def closed_form(model, t):
    return logistic(t, model.params_["rate"], model.params_["capacity"], model.initial_states_["size"].iloc[0])


def test_predictions_go_on_before_and_after_the_data(model):
    t = np.array([12.0, -1.0, 5.0, 0.0, 5.0])
    np.testing.assert_allclose(model.predict(pd.DataFrame({"t": t})), closed_form(model, t), rtol=1e-6)
    states = model.predict_states(pd.DataFrame({"t": t}))
    np.testing.assert_allclose(states["size"], closed_form(model, t), rtol=1e-6)


def test_standard_deviations_are_those_of_the_delta_method(model):
    t = np.array([0.0, 3.0, 10.0])
    mean, std = model.predict(pd.DataFrame({"t": t}), return_std=True)
    estimates = model.summary()["estimate"].to_numpy()
    jacobian = np.empty((3, 3))
    for j in range(3):
        step = np.zeros(3)
        step[j] = 1e-5
        jacobian[:, j] = (logistic(t, *(estimates + step)) - logistic(t, *(estimates - step))) / 2e-5
    variance = np.diag(jacobian @ model.covariance_.to_numpy() @ jacobian.T)
    np.testing.assert_allclose(mean, logistic(t, *estimates), rtol=1e-6)
    np.testing.assert_allclose(std, np.sqrt(variance + model.noise_scale_**2), rtol=1e-4)


def test_residuals_are_what_is_left(model):
    np.testing.assert_allclose(model.residuals_["y"], Y - model.predict(X), atol=1e-6)
    assert model.noise_scale_[0] == pytest.approx(np.sqrt((model.residuals_["y"] ** 2).sum() / 37), rel=1e-6)


def test_criteria_are_of_the_likelihood(model):
    variance = (model.residuals_["y"] ** 2).mean()
    loglik = -20.0 * (np.log(2.0 * np.pi * variance) + 1.0)
    assert model.loglik_ == pytest.approx(loglik, rel=1e-6)
    assert model.aic_ == pytest.approx(2 * 4 - 2 * loglik, rel=1e-6)
    assert model.bic_ == pytest.approx(4 * np.log(40) - 2 * loglik, rel=1e-6)


def test_intervals_are_symmetric_on_the_scale_of_the_search(model):
    interval, summary = model.conf_int(0.9), model.summary()
    np.testing.assert_allclose(np.sqrt(interval["low"] * interval["high"])[:2], summary["estimate"][:2], rtol=1e-10)
    middle = interval.loc["initial size"].mean()
    assert middle == pytest.approx(summary.loc["initial size", "estimate"])
    wider = model.conf_int(0.99)
    assert (wider["low"] < interval["low"]).all()
    assert (wider["high"] > interval["high"]).all()
    with pytest.raises(ValueError, match="level must be a number between 0 and 1"):
        model.conf_int(95)


def test_a_profile_peaks_at_the_estimate_and_tells_an_interval(model):
    profile = model.profile("rate", n_points=9)
    assert list(profile) == ["rate", "loglik", "capacity", "initial size"]
    assert profile["loglik"].iloc[4] == pytest.approx(model.loglik_, abs=1e-4)
    assert profile["loglik"].idxmax() == 4
    drop = 2.0 * (model.loglik_ - profile["loglik"])
    inside = profile["rate"][drop < chi2.ppf(0.95, 1)]
    interval = model.conf_int()
    assert (inside > 0.97 * interval.loc["rate", "low"]).all()
    assert (inside < 1.03 * interval.loc["rate", "high"]).all()
    for _, row in profile.iloc[[0, 8]].iterrows():
        held = ODERegressor(growth, {**PARAMS, "rate": row["rate"]}, fixed="rate", time="t", tol=1e-8, rtol=1e-8).fit(
            X, Y
        )
        assert row["loglik"] == pytest.approx(held.loglik_, abs=1e-4)


@pytest.mark.parametrize(("name", "n_points", "message"), [("speed", 5, "name='speed'"), ("rate", 1, "n_points")])
def test_wrong_profiles_are_refused(model, name, n_points, message):
    with pytest.raises(ValueError, match=message):
        model.profile(name, n_points)


def test_simulations_start_anywhere_with_any_parameters(model):
    t = np.linspace(2.0, 6.0, 5)
    np.testing.assert_allclose(
        model.simulate([1.0], t, {"rate": 0.5, "capacity": 4.0})[:, 0], logistic(t - 2.0, 0.5, 4.0, 1.0), rtol=1e-6
    )
    batch = model.simulate([[1.0], [2.0]], t)
    assert batch.shape == (2, 5, 1)
    np.testing.assert_allclose(batch[1, :, 0], logistic(t - 2.0, *model.summary()["estimate"][:2], 2.0), rtol=1e-6)
    np.testing.assert_array_equal(model.simulate(pd.DataFrame({"size": [1.0, 2.0]}), t), batch)
    back = model.simulate(batch[0, -1], t[::-1])
    np.testing.assert_allclose(back[-1], [1.0], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], T), "y0 must be of shape"),
        (([1.0], [0.0, 2.0, 1.0]), "times must be of one dimension and in order"),
        (([1.0], T, {"speed": 1.0}), "params names 'speed'"),
        (([1.0], T, None, T), "inputs are given, but the model was fitted without any"),
    ],
)
def test_wrong_simulations_are_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.simulate(*arguments)


def test_the_vector_field_is_the_right_hand_side_at_the_estimates(model):
    size = np.linspace(0.5, 9.0, 7)
    rate, capacity = model.params_["rate"], model.params_["capacity"]
    assert model.states_ == ["size"]
    np.testing.assert_allclose(model.vector_field(size[:, None])[:, 0], rate * size * (1.0 - size / capacity))
    slower = model.vector_field(pd.DataFrame({"size": size}), {"rate": 0.1})
    np.testing.assert_allclose(slower[:, 0], 0.1 * size * (1.0 - size / capacity))
    with pytest.raises(ValueError, match=r"Y must be of shape \(n, 1\), for \['size'\]; got \(7,\)"):
        model.vector_field(size)


def test_the_vector_field_depends_on_time_and_inputs():
    def driven(t, y, p):
        return (p["gain"] * p["heat"] - t * y[..., 0])[..., None]

    t = np.linspace(0.0, 3.0, 20)
    y = 1.0 + np.exp(-(t**2) / 2.0)  # solves dy/dt = t - t y
    model = ODERegressor(driven, {"gain": 0.5}, time="t").fit(pd.DataFrame({"t": t, "heat": t}), y)
    assert model.params_["gain"] == pytest.approx(1.0, abs=1e-4)
    states = np.array([[1.0], [4.0]])
    expected = model.params_["gain"] * 5.0 - 2.0 * states
    np.testing.assert_allclose(model.vector_field(states, t=2.0, inputs=[[5.0]]), expected)
    with pytest.raises(ValueError, match="inputs must hold"):
        model.vector_field(states)


def test_score_is_the_share_of_variance(model):
    residuals = Y - model.predict(X)
    assert model.score(X, Y) == pytest.approx(1.0 - residuals.var() / Y.var(), abs=1e-3)
    with pytest.warns(UndefinedMetricWarning):
        assert np.isnan(model.score(X[:1], Y[:1]))


def test_pickles_predict_the_same(model):
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_nothing_is_answered_before_fit():
    model = ODERegressor(growth, PARAMS)
    for ask in (
        lambda: model.predict([[0.0]]),
        lambda: model.summary(),
        lambda: model.profile("rate"),
        lambda: model.score([[0.0]], [0.0]),
    ):
        with pytest.raises(NotFittedError):
            ask()


def test_several_outputs_with_gaps():
    p = {"a": 1.0, "b": 0.5, "c": 1.2, "d": 0.4}
    t = np.linspace(0.0, 10.0, 50)
    y = solved(lotka_volterra, p, [3.0, 1.0], t) + 0.05 * np.random.default_rng(0).normal(size=(50, 2))
    y[::3, 0] = np.nan
    frame = pd.DataFrame(y, columns=["prey", "predators"])
    model = ODERegressor(lotka_volterra, {name: (2.0 * value, 0, None) for name, value in p.items()}).fit(
        t[:, None], frame
    )
    assert model.predict(t[:, None]).shape == (50, 2)
    assert list(model.initial_states_) == ["prey", "predators"]
    assert {name: model.params_[name] for name in p} == pytest.approx(p, rel=0.05)
    assert model.score(t[:, None], frame) > 0.98
    assert model.residuals_.isna().sum().tolist() == [17, 0]


def test_what_was_never_seen_can_not_be_predicted():
    frame = pd.DataFrame({"s": np.repeat(["a", "b"], 10), "t": np.tile(np.linspace(0.0, 3.0, 10), 2)})
    y = np.exp(-frame["t"]) + 0.01 * np.random.default_rng(0).normal(size=20)
    model = ODERegressor(decay, {"rate": (0.5, 0, None)}, series="s", time="t").fit(frame, y)
    with pytest.raises(ValueError, match="Series 'c' was not in fit"):
        model.predict(frame.assign(s="c"))
    np.testing.assert_allclose(model.predict(frame.iloc[::-1]), model.predict(frame)[::-1], rtol=1e-10)


def test_other_kinds_of_times_are_refused(model):
    with pytest.raises(ValueError, match="holds a date, but held a number in fit"):
        model.predict(pd.DataFrame({"t": pd.date_range("2024-01-01", periods=3)}))


def test_solutions_that_explode_are_named():
    t = np.linspace(0.0, 0.8, 20)
    y = 1.0 / (1.0 - t) + 0.01 * np.random.default_rng(0).normal(size=20)

    def explosive(t, y, p):
        return (p["rate"] * y[..., 0] ** 2)[..., None]

    model = ODERegressor(explosive, {"rate": (0.5, 0, None)}, initial=[1.0]).fit(t[:, None], y)
    assert model.params_["rate"] == pytest.approx(1.0, rel=0.01)
    with pytest.raises(SolverError, match="can't be solved as far as the times of X"):
        model.predict([[2.0]])


@pytest.mark.filterwarnings("ignore:The data do not identify:UserWarning")
def test_unknown_initial_states_of_hidden_states():
    t = np.linspace(0.0, 60.0, 40)
    infected = solved(sir, {"beta": 0.4, "gamma": 0.1}, [0.99, 0.01, 0.0], t)[:, 1]
    y = infected + 0.002 * np.random.default_rng(0).normal(size=40)
    model = ODERegressor(
        sir, {"beta": (0.5, 0, None), "gamma": (0.2, 0, None)}, states=["S", "I", "R"], observe="I"
    ).fit(t[:, None], y)
    assert model.params_["beta"] == pytest.approx(0.4, rel=0.1)
    assert model.initial_states_["S"].iloc[0] == pytest.approx(0.99, rel=0.1)
    assert model.unidentified_ == ["initial R"]


def test_equations_without_unknown_parameters_have_initial_states_to_fit():
    t = np.linspace(0.0, 4.0, 30)
    y = 3.0 * np.exp(-0.7 * t)
    noisy = y + 0.02 * np.random.default_rng(0).normal(size=30)
    model = ODERegressor(decay, {"rate": 0.7}, fixed="rate", states=["y"]).fit(t[:, None], noisy)
    estimate, error = model.summary().loc["initial y", ["estimate", "std_error"]]
    assert abs(estimate - 3.0) < 3.0 * error
    np.testing.assert_allclose(model.predict(t[:, None]), y * estimate / 3.0, rtol=1e-4)


def test_a_simulation_asks_for_parameters_of_single_series_only_where_it_needs_them():
    X = pd.DataFrame({"s": np.repeat(["a", "b"], 10), "t": np.tile(np.linspace(0.0, 3.0, 10), 2)})
    rates, shares = np.repeat([0.5, 1.0], 10), np.repeat([2.0, 3.0], 10)
    y = shares * np.exp(-rates * X["t"])
    rng = np.random.default_rng(0)

    def fitted(rhs):
        model = ODERegressor(
            rhs,
            {"rate": 1.0, "share": (1.0, 0, None)},
            states=["x"],
            observe=lambda t, y, p: p["share"] * y[..., 0],
            initial=[1.0],
            per_series=["rate", "share"],
            series="s",
            time="t",
        )
        return model.fit(X, y * (1.0 + 0.01 * rng.normal(size=20)))

    model = fitted(lambda t, y, p: -(p["rate"] * y[..., 0])[..., None])
    calls = partial(model.simulate, [1.0], [0.0, 1.0]), partial(model.vector_field, [[1.0]])
    for call in calls:
        with pytest.raises(ValueError, match=r"needs \['rate', 'share'\], which each series has its own: .* series="):
            call()
        told = call(params={"rate": model.params_["rate"]["b"]})
        np.testing.assert_array_equal(told, call(series="b"))
        with pytest.raises(ValueError, match="series='c' was not in fit"):
            call(series="c")
        with pytest.raises(TypeError, match=r"series=\['a', 'b'\] must be the id of one series"):
            call(series=["a", "b"])
    np.testing.assert_allclose(model.simulate([1.0], [0.0, 1.0], series="a")[1], np.exp(-0.5), rtol=0.05)


@pytest.mark.parametrize("kind", ["table", "dataset"])
def test_tables_on_disk_are_read_in(tmp_path, kind):
    dataset = pytest.importorskip("pyarrow.dataset")
    frame = pd.DataFrame({"s": np.repeat(["a", "b"], 10), "t": np.tile(np.linspace(0.0, 3.0, 10), 2)})
    y = 2.0 * np.exp(-0.5 * frame["t"]) + 0.01 * np.random.default_rng(0).normal(size=20)
    frame.to_parquet(tmp_path / "X.parquet")
    pd.DataFrame({"size": y}).to_parquet(tmp_path / "y.parquet")
    given = [tmp_path / "X.parquet", tmp_path / "y.parquet"]
    X_there, y_there = (ParquetTable(path) if kind == "table" else dataset.dataset(path) for path in given)
    for model in (
        ODERegressor(lambda t, y, p: -p["rate"][..., None] * y, {"rate": 1.0}, series="s", time="t"),
        NeuralODERegressor("linear", series="s", time="t"),
    ):
        expected = clone(model).fit(frame, pd.DataFrame({"size": y}))
        found = model.fit(X_there, y_there)
        pd.testing.assert_frame_equal(found.initial_states_, expected.initial_states_, rtol=1e-9)
        np.testing.assert_allclose(found.predict(X_there), expected.predict(frame), rtol=1e-9)
        assert found.score(X_there, y_there) == pytest.approx(expected.score(frame, y), rel=1e-9)
