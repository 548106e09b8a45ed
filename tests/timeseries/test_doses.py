"""Doses and inputs that jump, in a latent ODE with known dynamics: against closed forms, and ``ODERegressor``."""

import numpy as np
import pandas as pd
import pytest
import torch

from skode import KnownDynamics, ODERegressor, load
from tests.equations.systems import one_compartment, superposed
from tests.timeseries.decays import TIGHT, decay, driven, known_rate, long_frame, regressor

RATE = 0.7
#: Doses of series 0, 1, ...: times and amounts; the others have none.
GIVEN = {0: [(0.0, 2.0), (1.0, 3.0)], 1: [(0.5, 4.0), (0.5, 1.0), (2.2, 2.0)], 3: [(3.0, 5.0)]}


def left(doses, t, rate=RATE):
    """What is left of doses at times, those at a time not counted."""
    t = np.asarray(t, dtype=float)
    return sum((amount * (t > when) * np.exp(-rate * np.maximum(t - when, 0.0)) for when, amount in doses), 0.0 * t)


def with_doses(X, y, doses=None, column="amount"):
    """Rows of doses above those of observations, in which the amount is missing."""
    doses = GIVEN if doses is None else doses
    rows = [(who, when, amount) for who, own in doses.items() for when, amount in own]
    given = pd.DataFrame(rows, columns=["series", "time", column]).astype({"series": X["series"].dtype})
    return pd.concat([X, given], ignore_index=True), np.concatenate([y, np.full(len(given), np.nan)])


def superposition(X):
    return np.array([left(GIVEN.get(who, []), t) for who, t in zip(X["series"], X["time"], strict=True)])


def dosed(**parameters):
    return known_rate(initial={"dose": (5.0, None, None)}, priors={"dose": 1.0}, doses={"amount": "dose"}, **parameters)


@pytest.fixture(scope="module")
def data():
    X, y, _, _ = long_frame(6)
    return X, y


@pytest.fixture(scope="module")
def fitted(data):
    X, y = data
    model = regressor(dosed(), dtype="float64", **TIGHT).fit(*with_doses(X, y + superposition(X)))
    return model.set_params(rtol=1e-8, atol=1e-10)


@pytest.fixture(scope="module")
def without(data):
    dynamics = known_rate(initial={"dose": (5.0, None, None)}, priors={"dose": 1.0})
    return regressor(dynamics, dtype="float64", **TIGHT).fit(*data)


def start_of(model, who):
    """The mean of the posterior's draws of an initial state, by what the model says of the time before it."""
    return model.predict(pd.DataFrame({"series": [who], "time": [-1.0], "amount": [0.0]}))[0] * np.exp(-RATE)


def test_doses_of_linear_dynamics_are_superposed(fitted, without, data):
    X, _ = data
    np.testing.assert_allclose(fitted.noise_std_, without.noise_std_, rtol=1e-3)
    found, expected = (model.latent_states(return_std=True) for model in (fitted, without))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3)
    # From before the doses at its time, for those of the fit stand below.
    at = X["time"] + 1e-9 * X["series"].isin([*GIVEN])
    np.testing.assert_allclose(fitted.predict(X.assign(amount=np.nan, time=at)), without.predict(X) + superposition(
        X.assign(time=at)), atol=5e-3)  # fmt: skip


def test_doses_to_come_before_and_after(fitted):
    amount = start_of(fitted, 1)
    times = np.array([-0.5, 0.25, 3.0, 4.0, 4.0, 6.0])
    X = pd.DataFrame({"series": 1, "time": times, "amount": [0.0, 0.0, 10.0, 5.0, 0.0, np.nan]})
    doses = [*GIVEN[1], (3.0, 10.0), (4.0, 5.0)]
    expected = amount * np.exp(-RATE * times) + left(doses, times)
    expected[4] += 5.0  # below the dose
    np.testing.assert_allclose(fitted.predict(X), expected, rtol=1e-5)
    np.testing.assert_allclose(fitted.latent_trajectory(X)[:, 0], expected, rtol=1e-5)
    # A dose at a time at which the fit saw one takes its place.
    other = pd.DataFrame({"series": 1, "time": [2.2, 3.0], "amount": [7.0, 0.0]})
    expected = amount * np.exp(-RATE * 3.0) + left([*GIVEN[1][:2], (2.2, 7.0)], 3.0)
    assert fitted.predict(other)[1] == pytest.approx(expected, rel=1e-5)
    # Of a series that is not known: from the median of the prior on, with doses of its own.
    new = pd.DataFrame({"series": 77, "time": [0.0, 2.0], "amount": [3.0, 0.0]})
    mean = fitted.predict(new)
    assert mean[1] == pytest.approx((5.0 + 3.0) * np.exp(-1.4), abs=0.05)


def test_doses_before_the_start_are_refused(fitted):
    early = pd.DataFrame({"series": [4, 4], "time": [-1.0, 1.0], "amount": [2.0, 0.0]})
    for ask in (fitted.predict, lambda X: fitted.predict(X, known="before"), lambda X: fitted.condition(X, X["time"])):
        with pytest.raises(ValueError, match="X holds a dose of series 4 before the start of that series"):
            ask(early)


def test_forecasts_with_a_plan_of_doses(fitted):
    start = [start_of(fitted, who) for who in (0, 1)]
    plan = pd.DataFrame({"series": [0, 1], "time": [4.0, 3.5], "amount": [6.0, 8.0]})
    expected = []
    for who, when, amount in plan.itertuples(index=False):
        times = np.array([5.0, 6.0])
        expected.append(start[who] * np.exp(-RATE * times) + left([*GIVEN[who], (when, amount)], times))
    expected = np.concatenate(expected)
    told = fitted.forecast(times=[5.0, 6.0], series=[0, 1], covariates=plan)
    np.testing.assert_allclose(told["y_mean"], expected, rtol=1e-5)
    conditioned = fitted.condition(plan, np.full(2, np.nan))
    np.testing.assert_allclose(conditioned.forecast(times=[5.0, 6.0], series=[0, 1])["y_mean"], expected, rtol=1e-5)
    frame = pd.DataFrame({"series": 0, "time": [4.0, 5.0, 6.0], "amount": [6.0, 0.0, 0.0]})
    np.testing.assert_allclose(fitted.forecast(times=frame)["y_mean"][1:], expected[:2], rtol=1e-5)
    by_function = fitted.forecast(times=[4.0, 5.0, 6.0], series=[0], covariates=lambda ids, times: 6.0 * (times == 4.0))
    np.testing.assert_allclose(by_function["y_mean"][1:], expected[:2], rtol=1e-5)


def test_posteriors_given_earlier_observations_have_all_doses(fitted, without, data):
    X, y = data
    rows, _ = with_doses(X, y)
    before = fitted.predict(rows, known="before")
    # The row behind a row of the fit has the dose that one above that row tells.
    watched = fitted.condition(pd.DataFrame({"series": [1], "time": [4.0], "amount": [0.0]}), [np.nan])
    later = pd.DataFrame({"series": 1, "time": [3.5, 3.5, 4.5], "amount": [9.0, 0.0, 0.0]})
    plain = without.predict(later.drop(columns="amount"), known="before")
    expected = plain + left([*GIVEN[1], (3.5, 9.0)], later["time"]) + [0.0, 9.0, 0.0]
    np.testing.assert_allclose(watched.predict(later, known="before"), expected, atol=1e-2)
    expected = without.predict(rows[["series", "time"]], known="before") + superposition(rows)
    at_dose = rows["amount"].notna() | (rows["series"].isin([0, 3]) & rows["time"].isin([0.0, 1.0, 3.0]))
    np.testing.assert_allclose(before[~at_dose], expected[~at_dose], atol=1e-2)
    # The first observation of series 0 stands above the dose at its time.
    assert before[0] == pytest.approx(5.0, abs=0.05)


def test_the_order_of_rows_at_one_time_says_what_is_before_a_dose():
    t = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 2.0])
    amount = np.array([0.0, 10.0, 0.0, 10.0, 5.0, np.nan, np.nan])
    after = 10 * np.exp(-RATE)
    y = np.array([3.0, np.nan, 13.0, 13 * np.exp(-RATE), np.nan, 13 * np.exp(-2 * RATE) + 1.5 * after, np.nan])
    X = pd.concat([pd.DataFrame({"series": who, "time": t, "amount": amount}) for who in range(6)])
    scale = np.repeat(np.linspace(0.8, 1.2, 6), len(t))
    X["amount"] *= scale
    model = regressor(dosed(), dtype="float64", **TIGHT).fit(X, np.tile(y, 6) * scale)
    np.testing.assert_allclose(model.latent_states()["dose"], 3.0 * np.linspace(0.8, 1.2, 6), rtol=1e-2)
    found = model.predict(X)[: len(t)] / 0.8
    np.testing.assert_allclose(found[~np.isnan(y)], y[~np.isnan(y)], rtol=1e-2)
    # Where X holds no dose at that time, the answer is from after those of the fit.
    np.testing.assert_allclose(model.predict(X.assign(amount=0.0))[3] / 0.8, 13 * np.exp(-RATE) + 15, rtol=1e-2)
    # The same rows again replace themselves: doses are not given twice, but two equal ones are.
    again = model.condition(X, np.tile(y, 6) * scale)
    later = pd.DataFrame({"series": 2, "time": [3.0], "amount": [0.0]})
    np.testing.assert_allclose(again.predict(later), model.predict(later), rtol=1e-3)
    twice = pd.DataFrame({"series": 2, "time": [2.5, 2.5], "amount": [4.0, 4.0]})
    gain = model.condition(twice, [np.nan, np.nan]).predict(later) - model.predict(later)
    assert gain[0] == pytest.approx(8.0 * np.exp(-RATE / 2), rel=1e-5)


def concentration(t, y, p):
    return y[..., 1:] / p["volume"][..., None]


def pharmacokinetics(n_series=6, seed=0, noise=0.005):
    """Oral doses of some people, and concentrations in their blood."""
    rng, parts = np.random.default_rng(seed), []
    rates = np.exp(rng.normal(np.log(0.25), 0.2, n_series))
    samples = np.array([0.5, 1.0, 2.0, 4.0, 7.0, 9.0, 10.0, 12.0, 16.0])
    for who, rate in enumerate(rates):
        doses = [(0.0, 100.0), (8.0, 50.0 + 10.0 * who)]
        y = superposed(samples, doses, 1.4, rate, 0.6)[:, 1] / 12.0
        parts.append(pd.DataFrame({"who": who, "hour": samples, "y": y + noise * rng.normal(size=len(samples))}))
        parts.append(pd.DataFrame({"who": who, "hour": [0.0, 8.0], "oral": [amount for _, amount in doses]}))
    rows = pd.concat(parts, ignore_index=True)
    return rows[["who", "hour", "oral"]], rows["y"]


def test_estimates_are_those_of_the_regressor_of_equations():
    X, y = pharmacokinetics()
    params = {"ka": (1.0, 0, None), "ke": (0.3, 0, None), "volume": 12.0, "F": (0.5, 0, 1)}
    same = {"states": ["gut", "blood"], "initial": [0.0, 0.0], "observe": concentration, "fixed": "volume",
            "doses": {"oral": ("gut", "F")}, "per_series": ["ke"]}  # fmt: skip
    known = KnownDynamics(one_compartment, params, priors={"ke": 3.0}, **same)
    model = regressor(known, series="who", time="hour", rtol=1e-5, atol=1e-7).fit(X, y)
    exact = ODERegressor(one_compartment, params, series="who", time="hour", rtol=1e-6, **same).fit(X, y)
    assert list(model.params_) == ["ka", "F"]
    errors = exact.summary()["std_error"]
    for name in ("ka", "F"):
        assert model.params_[name] == pytest.approx(exact.params_[name], abs=0.1 * errors.iloc[0])
    np.testing.assert_allclose(model.latent_states()["ke"], exact.params_["ke"], rtol=5e-3)
    plan = pd.DataFrame({"who": 3, "hour": [18.0, 20.0, 22.0], "oral": [200.0, 0.0, 0.0]})
    np.testing.assert_allclose(model.predict(plan), exact.predict(plan), rtol=2e-3)


def test_gradients_of_paths_across_doses_are_those_of_differences(data):
    X, y = data
    jump = {"amount": lambda amount, p: (amount * p["rate"])[..., None]}
    dynamics = KnownDynamics(
        driven, {"rate": (0.5, 0.0, None)}, states=["dose"], observe="dose", doses=jump, interpolation="previous"
    )
    rows, values = with_doses(X.assign(u=np.round(X["time"])), y)
    rows["u"] = rows["u"].fillna(0.5)
    model = regressor(dynamics, dtype="float64", posterior="encoder").fit(rows, values)
    module, series = model.module_, model._tensors_for(model.module_)(model.context_)
    solver = model._solver().replace(rtol=1e-10, atol=1e-10, step_control="per_sample")
    z0 = torch.randn(2, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.3

    def totals(z0):
        """Of each copy of the series."""
        states = module.path(z0, series.time, series.reach, series, solver)
        return torch.nansum(torch.sin(states[..., 0]), dim=(1, 2))

    z0.requires_grad_()
    gradient = torch.autograd.grad(totals(z0).sum(), z0)[0]
    places = [(0, 0, 0), (0, 0, 1), (1, 1, 0), (0, 3, 1)]
    moved = torch.stack([z0.detach()[copy] for copy, _, _ in places for _ in range(2)])
    for i, (_, who, unknown) in enumerate(places):
        moved[2 * i : 2 * i + 2, who, unknown] += torch.tensor([1e-5, -1e-5], dtype=torch.float64)
    with torch.no_grad():
        above, below = totals(moved).view(-1, 2).unbind(1)
    found = torch.stack([gradient[place] for place in places])
    np.testing.assert_allclose(found, (above - below) / 2e-5, rtol=1e-5, atol=1e-7)


def test_inputs_that_jump_are_solved_exactly():
    X, _, amounts, _ = long_frame(6)
    X["u"] = np.where(X["time"] < 1.2, 0.0, np.where(X["time"] < 2.4, 40.0, 5.0))
    knots = np.unique(X["time"])
    jumps = [(knots[knots >= 1.2][0], 40.0), (knots[knots >= 2.4][0], -35.0)]

    def exact(start, t):
        rise = sum(size * (1.0 - np.exp(-RATE * np.maximum(t - when, 0.0))) / RATE for when, size in jumps)
        return start * np.exp(-RATE * t) + rise

    y = np.concatenate([exact(amount, knots) for amount in amounts])
    dynamics = KnownDynamics(
        driven, {"rate": RATE}, states=["dose"], observe="dose", fixed="rate", interpolation="previous"
    )
    model = regressor(dynamics, dtype="float64", **TIGHT).fit(X, y)
    np.testing.assert_allclose(model.latent_states()["dose"], amounts, rtol=1e-4)
    later = pd.DataFrame({"series": 2, "time": [1.7, 2.9, 4.0], "u": [40.0, 5.0, 5.0]})
    np.testing.assert_allclose(model.predict(later), exact(amounts[2], later["time"].to_numpy()), rtol=1e-5)
    # Forecasts hold the last input, and solves with shared steps see jumps as well.
    np.testing.assert_allclose(model.forecast(times=[4.0], series=[2])["y_mean"], exact(amounts[2], 4.0), rtol=1e-5)
    module, series = model.module_, model._tensors_for(model.module_)(model.context_)
    for step_control in ("shared", "per_sample"):
        solver = model._solver().replace(step_control=step_control)
        with torch.no_grad():
            states = module.path(model.posterior_.mean[None], series.time, series.reach, series, solver)
        np.testing.assert_allclose(states[0, ..., 0].flatten(), y, rtol=1e-4)
    # Lines between the rows are another model.
    linear = regressor(dynamics.set_params(interpolation="linear")).fit(X, y)
    assert np.abs(linear.predict(later) - model.predict(later)).max() > 0.1


def test_draws_have_doses(fitted, without, data):
    X, _ = data
    drawn = fitted.sample_y(X.assign(amount=np.nan), 200, random_state=0).mean(axis=1)
    plain = without.sample_y(X, 200, random_state=0).mean(axis=1)
    behind = X.assign(time=np.nextafter(X["time"], np.inf))  # those at their times count
    np.testing.assert_allclose(drawn - plain, superposition(behind), atol=2e-2)
    times = np.array([0.0, 1.0, 2.0])
    given = np.array([0.0, 4.0, 0.0])[:, None]
    frame, none = (fitted.sample(50, times, covariates=c, random_state=0) for c in (given, None))
    assert list(frame.columns) == ["series", "time", "amount", "y"]
    assert frame["amount"].tolist() == [0.0, 4.0, 0.0] * 50
    assert (none["amount"] == 0.0).all()
    np.testing.assert_allclose(frame["y"] - none["y"], np.tile([0.0, 0.0, 4.0 * np.exp(-RATE)], 50), atol=1e-6)


@pytest.mark.parametrize("parameters", [{"posterior": "encoder", "max_iter": 30}, {"dtype": "float32"}, {"n_draws": 8}])
def test_an_encoder_and_floats_of_either_width(parameters, data):
    X, y = data
    model = regressor(dosed(), **parameters).fit(*with_doses(X, y + superposition(X)))
    later = pd.DataFrame({"series": 1, "time": [4.0, 4.0, 5.0], "amount": [20.0, 0.0, 0.0]})
    found = model.predict(later)
    assert found[1] - found[0] == pytest.approx(20.0, abs=1e-3)
    expected = 5.0 * np.exp(-RATE * 5.0) + left([*GIVEN[1], (4.0, 20.0)], 5.0)
    assert found[2] == pytest.approx(expected, abs=0.2)
    if parameters.get("dtype") == "float32":
        assert next(model.module_.parameters()).dtype == torch.float32
        series = model._tensors_for(model.module_)(model.context_)
        assert model.module_.starts(torch.zeros(1, 6, 1), series)[0].dtype == torch.float32


def test_times_that_are_data_and_doses(data):
    X, y = data
    model = regressor(dosed(), observation_times="poisson", max_iter=2).fit(*with_doses(X, y + superposition(X)))
    found = model.predict(pd.DataFrame({"series": 1, "time": [4.0, 4.0], "amount": [20.0, 0.0]}))
    assert found[1] - found[0] == pytest.approx(20.0, abs=1e-3)
    assert (model.predict_intensity(X.assign(amount=0.0)) > 0.0).all()


def test_columns_of_arrays_are_named_by_position(fitted, data):
    X, y = data
    rows, values = with_doses(X, y + superposition(X))
    dynamics = dosed().set_params(doses={"x2": "dose"})
    model = regressor(dynamics, series=0, time=1, dtype="float64", **TIGHT).fit(rows.to_numpy(), values)
    later = pd.DataFrame({"series": 1.0, "time": [4.0, 5.0], "amount": [20.0, np.nan]})
    np.testing.assert_allclose(
        model.predict(later.to_numpy()), fitted.predict(later.astype({"series": int})), rtol=1e-4
    )


def half(amount, p):
    return (0.5 * amount)[..., None]


def test_saved_models_know_their_doses(fitted, data, tmp_path):
    later = pd.DataFrame({"series": 1, "time": [4.0, 5.0], "amount": [20.0, np.nan]})
    fitted.save(tmp_path / "model.skode")
    again = load(tmp_path / "model.skode", trusted=[decay])
    np.testing.assert_array_equal(again.predict(later), fitted.predict(later))
    X, y = data
    model = regressor(dosed().set_params(doses={"amount": half})).fit(*with_doses(X, y))
    model.save(tmp_path / "half.skode")
    again = load(tmp_path / "half.skode", trusted=[decay, half])
    np.testing.assert_array_equal(again.predict(later), model.predict(later))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"doses": {"dosis": "dose"}},
            "doses names 'dosis', which is no column of X beside time and series.*'amount'\\]",
        ),
        ({"doses": {"amount": "gut"}}, r"doses\['amount'\] names 'gut', which is not a state"),
        ({"doses": {"amount": ("dose", "F")}}, r"doses\['amount'\] names 'F', which is not in params"),
        ({"doses": {"amount": lambda amount, p: amount}}, r"jump\(amount, p\), must return a tensor of shape"),
        ({"doses": ["amount"]}, "doses must be a dict of columns' names to states, got list"),
        ({"interpolation": "cubic"}, 'interpolation must be "linear" or "previous"'),
    ],
)
def test_bad_arguments_get_an_error_that_names_them(arguments, message, data):
    with pytest.raises(ValueError, match=message):
        regressor(known_rate(**{"doses": {"amount": "dose"}, **arguments})).fit(*with_doses(*data))


def test_rows_without_the_column_of_doses_are_refused(fitted, data):
    with pytest.raises(ValueError, match="amount"):
        fitted.predict(data[0])
    with pytest.raises(ValueError, match=r"covariates must broadcast to .* = \(2, 3, 1\)"):
        fitted.sample(2, [0.0, 1.0, 2.0], covariates=np.zeros((2, 3, 2)))


def test_pictures_show_jumps_at_doses(fitted, data):
    display = pytest.importorskip("skode.inspection").SeriesForecastDisplay
    pytest.importorskip("matplotlib").use("Agg")
    rows, values = with_doses(*data)
    picture = display.from_estimator(fitted, rows, values, series=[1], times=[0.49, 0.51, 3.5])
    drawn = picture.lines_[0, 0].get_ydata()
    expected = start_of(fitted, 1) * np.exp(-RATE * np.array([0.49, 0.51, 3.5])) + left(GIVEN[1], [0.49, 0.51, 3.5])
    np.testing.assert_allclose(drawn, expected, rtol=1e-5)
