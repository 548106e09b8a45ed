import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import solve_ivp
from sklearn.metrics import r2_score
from torch import nn

from skode import KnownDynamics
from skode.solvers import SolverError
from tests.timeseries.decays import TIGHT, TIMES, decay, doubled, driven, known_rate, long_frame, regressor

#: Settings with which networks learn in a second or two.
QUICK = {"max_iter": 60, "batch_size": 12, "learning_rate_init": 0.05}


def closed_form(model, y, rate, median, spread):
    """Mean and standard deviation of amounts given the observations, where the rate and the noise are known."""
    e, precision = np.exp(-rate * TIMES), 1.0 / model.noise_std_[0] ** 2
    information = e @ e * precision + 1.0 / spread**2
    return (y.reshape(-1, len(TIMES)) @ e * precision + median / spread**2) / information, information**-0.5


def test_of_linear_equations_the_posterior_is_exact():
    X, y, _, _ = long_frame(noise=1.0)
    model = regressor(known_rate(initial={"dose": (4.0, None, None)}, priors={"dose": 1.5}), **TIGHT).fit(X, y)
    mean, std = closed_form(model, y, 0.7, 4.0, 1.5)
    found, spread = model.latent_states(return_std=True)
    np.testing.assert_allclose(found["dose"], mean, atol=1e-4)
    np.testing.assert_allclose(spread["dose"], std, rtol=1e-4)
    # Of a series to come by condition, from a part of its rows, at later times.
    known = slice(0, 3)
    new = model.condition(X[known].assign(series=99), y[known])
    e, precision = np.exp(-0.7 * TIMES[known]), 1.0 / model.noise_std_[0] ** 2
    expected = (y[known] @ e * precision + 4.0 / 1.5**2) / (e @ e * precision + 1.0 / 1.5**2)
    assert new.latent_states()["dose"][99] == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(new.transform(X[:1].assign(series=99)), [[expected]], atol=1e-4)


def test_a_series_never_seen_is_answered_from_the_prior():
    X, y, _, _ = long_frame()
    model = regressor(known_rate(initial={"dose": (4.0, None, None)}, priors={"dose": 1.5}), n_draws=512).fit(X, y)
    mean, std = model.predict(pd.DataFrame({"series": 99, "time": TIMES}), return_std=True)
    e = np.exp(-0.7 * TIMES)
    np.testing.assert_allclose(mean, 4.0 * e, atol=0.05)
    np.testing.assert_allclose(std, np.hypot(1.5 * e, model.noise_std_[0]), rtol=0.05)


def test_a_read_out_that_is_given_is_what_it_says():
    """Also with covariates that drive the dynamics, of time itself, and before the first row."""
    X, y, _, _ = long_frame(4, first=10.0)
    X = X.assign(u=np.cos(X["time"]))
    dynamics = KnownDynamics(
        driven, {"rate": (0.7, 0.0, None)}, states=["dose"], initial=[(5.0, 0.0, None)], observe=doubled
    )
    model = regressor(dynamics).fit(X, y)
    queried = X.assign(time=X["time"] - 0.3)
    states = model.latent_trajectory(queried)
    expected = 2.0 * states[:, 0] + 3.0 * states[:, 1] + queried["time"]
    np.testing.assert_allclose(model.predict(queried), expected, rtol=1e-9)


def test_paths_are_those_of_scipy():
    """States in the user's units, with covariates by name and times as they are, both ways from the first row."""
    rng = np.random.RandomState(0)
    time = np.sort(rng.uniform(20.0, 24.0, 8))
    X = pd.DataFrame({"series": 3, "time": time, "u": rng.uniform(50.0, 60.0, 8)})

    def field(t, y, p):
        return torch.stack([p["u"] - p["rate"] * y[..., 0] + 30.0 * torch.sin(t), 0.01 * y[..., 0]], dim=-1)

    dynamics = KnownDynamics(
        field, {"rate": (0.9, 0.0, None)}, states=["a", "b"], initial=[(100.0, 0.0, None), 0.2], observe="a"
    )
    model = regressor(dynamics, posterior="encoder").fit(X, 100.0 + rng.normal(size=8))
    model.set_params(rtol=1e-8, atol=1e-10)
    values = model.latent_states().loc[3]

    def by_hand(t, y):
        u = np.interp(t, time, X["u"])
        return [u - values["rate"] * y[0] + 30.0 * np.sin(t), 0.01 * y[0]]

    z0 = model.posterior_.mean[None]
    for queried in (time, time[0] - np.array([0.3, 0.9])):
        solution = solve_ivp(
            by_hand, (time[0], queried[-1]), values[["a", "b"]], t_eval=queried, max_step=0.02, rtol=1e-9
        )
        series = model._units.tensors(model.context_, z0)
        scaled = torch.from_numpy((queried - time[0]) / model.time_scale_)[None]
        reach = torch.stack([scaled.amin().clamp_max(0.0), scaled.amax().clamp_min(0.0)])[None]
        with torch.no_grad():
            states = model.module_.path(z0, scaled, reach, series, model._solver())[0, 0]
        np.testing.assert_allclose(states[:, :2], solution.y.T, rtol=1e-5)
        np.testing.assert_allclose(states[:, -1], queried)


@pytest.mark.parametrize("likelihood", ["poisson", "bernoulli"])
def test_a_read_out_gives_means_of_counts_and_of_what_happens(likelihood):
    rng = np.random.RandomState(0)
    X, _, amounts, _ = long_frame(8)
    share = amounts[X["series"]] / 10.0 * np.exp(-0.7 * X["time"].to_numpy())
    y = rng.poisson(10.0 * share) if likelihood == "poisson" else rng.uniform(size=len(X)) < share
    scale = 10.0 if likelihood == "poisson" else 1.0
    dynamics = known_rate(initial=[(0.5, 0.0, 1.0)], observe=lambda t, y, p: scale * y)
    model = regressor(dynamics, likelihood=likelihood).fit(X, y.astype(float))
    np.testing.assert_allclose(model.predict(X), scale * model.latent_trajectory(X)[:, 0], rtol=1e-6)
    assert r2_score(scale * share, model.predict(X)) > 0.6


def test_some_outputs_may_have_a_read_out_that_is_learnt():
    X, y, _, _ = long_frame(noise=0.05)
    values = np.stack([y, 3.0 - 0.2 * y**2, y], axis=1)
    model = regressor(known_rate(observe=["dose", None, "dose"]), **QUICK).fit(X, values)
    predicted = model.predict(X)
    np.testing.assert_array_equal(predicted[:, 0], predicted[:, 2])
    assert model.score(X, values) > 0.95
    np.testing.assert_allclose(predicted[:, 0], model.latent_trajectory(X)[:, 0], rtol=1e-9)


class Learnt(nn.Module):
    """Decay at a rate of a network's own."""

    def __init__(self):
        super().__init__()
        self.log_rate = nn.Parameter(torch.tensor(-1.0))

    def forward(self, t, y, p):
        return -torch.exp(self.log_rate) * y


def test_weights_of_a_right_hand_side_are_trained_on_a_copy():
    X, y, _, _ = long_frame(noise=0.05)
    field = Learnt()
    dynamics = KnownDynamics(field, states=["dose"], observe="dose")
    model = regressor(dynamics, **QUICK).fit(X, y)
    assert field.log_rate.item() == -1.0
    assert model.module_.rhs.log_rate.exp().item() == pytest.approx(0.7, abs=0.03)


def test_times_as_data_and_single_precision():
    X, y, _, _ = long_frame(6)
    X = X.astype({"time": np.float32})
    model = regressor(known_rate(), observation_times="poisson", dtype="float32").fit(X, y)
    assert np.isfinite(model.predict_intensity(X)).all()
    assert np.isfinite(model.predict(X)).all()
    drawn = model.sample(3, random_state=0)
    assert np.isfinite(drawn).all(axis=None)
    assert model.sample_y(X, 2).shape == (len(X), 2)


def test_equations_that_cannot_be_solved_say_so():
    X, y, _, _ = long_frame(6)
    dynamics = KnownDynamics(
        lambda t, y, p: p["rate"][..., None] * y**2, {"rate": (50.0, 0.0, None)}, states=["dose"], observe="dose"
    )
    with pytest.raises(SolverError, match="step too small"):
        regressor(dynamics).fit(X, y)


def test_series_of_known_rates_are_recovered_within_their_spread():
    rng = np.random.RandomState(3)
    rates = np.exp(-0.4 + 0.4 * rng.standard_normal(80))
    X, y, amounts, _ = long_frame(80, noise=0.3, rate=rates, seed=4)
    dynamics = KnownDynamics(decay, {"rate": (1.0, 0.0, None)}, states=["dose"], observe="dose")
    model = regressor(dynamics).fit(X, y)
    values, std = model.latent_states(return_std=True)
    for name, true in (("dose", amounts), ("rate", rates)):
        standardised = (values[name] - true) / std[name]
        assert np.mean(np.abs(standardised) < 1.96) >= 0.88
        assert 0.8 < standardised.std() < 1.25
    priors = model.priors_
    assert priors["median"]["rate"] == pytest.approx(np.exp(-0.4), rel=0.15)
    assert np.log(priors["high"]["rate"] / priors["median"]["rate"]) / 1.96 == pytest.approx(0.4, rel=0.25)
    assert model.noise_std_[0] == pytest.approx(0.3, rel=0.1)
