"""Cycles of known periods: their harmonics, their estimates, and the model that has them."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal

from skode import KnownDynamics, LatentODERegressor
from skode.timeseries.cycles import LOOSE, N_HARMONICS, Cycles, Effects
from skode.timeseries.latent_ode import HORIZON
from skode.timeseries.likelihoods import Gaussian
from skode.timeseries.tensors import PanelTensors
from tests.timeseries.waves import TINY

SMALL = {**TINY, "latent_size": 2, "early_stopping": False}
#: Enough for levels to be learnt beside the cycles.
TRAINED = {**SMALL, "max_iter": 15, "learning_rate_init": 0.03}


def sensors(n_series=10, n_rows=30, *, own=0.0, zone=None, seed=0):
    """Levels with a daily cycle by the clock, common and of each series' own, before and after clocks change."""
    rng = np.random.default_rng(seed)
    start = pd.Timestamp("2024-03-24", tz=zone)
    seconds = np.round(np.sort(rng.uniform(0, 14, (n_series, n_rows)), axis=1) * 86_400).ravel()
    X = pd.DataFrame({"id": np.repeat(np.arange(n_series), n_rows), "t": start + pd.to_timedelta(seconds, unit="s")})
    clock = X["t"].dt.tz_localize(None)
    phase = 2 * np.pi * (clock - clock.dt.normalize()) / pd.Timedelta("1D")
    amplitudes = np.array([2.0, -1.0]) + own * rng.standard_normal((n_series, 2))
    cycle = amplitudes[X["id"], 0] * np.sin(phase) + amplitudes[X["id"], 1] * np.cos(phase)
    clean = np.repeat(rng.normal(10, 1, n_series), n_rows) + cycle
    return X, (clean + rng.normal(0, 0.2, len(X))).to_numpy(), amplitudes


def units_of(model):
    return model._units.y_scaler.scale_[0], 2 * N_HARMONICS


def tensors(t, y, cycles, weights=None):
    n, n_slots = t.shape
    as_tensor = torch.from_numpy
    lengths = torch.full((n,), n_slots)
    weights = None if weights is None else as_tensor(weights)
    return PanelTensors(as_tensor(t), as_tensor(y), as_tensor(cycles), lengths, torch.zeros(n, 2), None, weights)


def test_harmonics_of_periods():
    model = LatentODERegressor(periods=["1D", pd.Timedelta(days=7)])
    cycles = Cycles.of(model, "date")
    day = 86_400.0
    assert cycles.frequencies == pytest.approx([1 / 7 / day, 2 / 7 / day, 3 / 7 / day, 1 / day, 2 / day, 3 / day])
    times = 1.7e9 + np.linspace(0, day, 5)
    expected = 2 * np.pi * np.outer(times, cycles.frequencies)
    np.testing.assert_allclose(cycles.at(times), np.hstack([np.sin(expected), np.cos(expected)]))
    assert len(Cycles.of(LatentODERegressor(periods=[6, 3]), "number").frequencies) == 5  # 1/3 is of both
    assert Cycles.of(LatentODERegressor(periods=[]), "number") is None


def trend(t):
    """A level and a slope over the span of a series, as good as unknown."""
    return LOOSE * np.column_stack([np.ones_like(t), (t - t.min()) / np.ptp(t) - 0.5])


def simulated(n, spread, seed=0):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(0, HORIZON, (n, 25)), axis=1)
    cycles = np.stack([np.sin(9.0 * t), np.cos(9.0 * t)], axis=-1)
    own = np.array([1.0, -0.5]) + np.array(spread) * rng.standard_normal((n, 2))
    level = rng.normal(0, 1, (n, 1)) + 0.3 * t * rng.normal(0, 1, (n, 1))
    y = level + np.einsum("nsh,nh->ns", cycles, own) + 0.3 * rng.standard_normal(t.shape)
    return tensors(t, y[..., None], cycles), own


def test_the_posterior_of_own_amplitudes_is_that_of_a_linear_model():
    series, _ = simulated(3, [0.4, 0.7])
    series.y[1, :20] = torch.nan
    weights = np.random.default_rng(1).integers(1, 3, (3, 25)).astype(float)
    series = tensors(series.time.numpy(), series.y.numpy(), series.covariates.numpy(), weights)
    spread = np.array([0.4, 0.7])
    parts = [[0.2], [[1.0, -0.5]], [spread], [0.09]]
    effects = Effects(*(torch.tensor(np.array(part), dtype=torch.float64) for part in parts))
    mean, variance = effects.posterior(Gaussian(1), series, series.covariates)
    for i in range(3):
        t, cycles, y = series.time[i].numpy(), series.covariates[i].numpy(), series.y[i, :, 0].numpy()
        seen = ~np.isnan(y)
        loose = trend(t)
        design = np.hstack([cycles * spread, loose])[seen]
        total = design @ design.T + np.diag(0.09 / weights[i, seen])
        gain = design.T @ np.linalg.inv(total)
        np.testing.assert_allclose(mean[i, 0], (gain @ (y - 0.2 - cycles @ [1.0, -0.5])[seen])[:2], rtol=1e-8)
        np.testing.assert_allclose(variance[i, 0], np.diag(np.eye(4) - gain @ design)[:2], rtol=1e-8)


def marginal(series, effects):
    """Log-likelihood of a mixed model with levels and slopes."""
    total = 0.0
    for t, cycles, y in zip(series.time.numpy(), series.covariates.numpy(), series.y[..., 0].numpy(), strict=True):
        design = np.hstack([cycles * effects.spread[0].numpy(), trend(t)])
        covariance = design @ design.T + effects.rest[0].item() * np.eye(len(t))
        total += multivariate_normal(cycles @ effects.common[0].numpy(), covariance).logpdf(y)
    return total


def test_the_start_is_the_likeliest_mixed_model():
    series, own = simulated(40, [0.5, 0.3])
    found = Effects.none(torch.zeros(1, dtype=torch.float64), 1, 2).fitted(Gaussian(1), series)
    assert found.rest.item() == pytest.approx(0.09, rel=0.1)
    np.testing.assert_allclose(found.common[0], own.mean(axis=0), atol=0.05)
    best = marginal(series, found)
    for name in ("common", "spread", "rest"):
        value = getattr(found, name)
        for factor in (0.9, 1.1):
            other = Effects(**{**vars(found), name: value * factor})
            assert marginal(series, other) < best + 0.01
    none = Effects.none(torch.zeros(1, dtype=torch.float64), 1, 2).fitted(Gaussian(1), simulated(40, [0.5, 0.0])[0])
    assert (none.spread[0] > 0).tolist() == [True, False]


def test_a_cycle_of_days_by_the_clock():
    """Rows after the change of clocks show the same at the same hour of the clock."""
    zone = "Europe/Berlin"
    X, y, amplitudes = sensors(zone=zone)
    model = LatentODERegressor(**TRAINED, periods=["1D"]).fit(X, y)
    scale, n_columns = units_of(model)
    assert model.module_.common.shape == (1, n_columns)
    found = scale * model.module_.common.detach()[0, [0, N_HARMONICS]].double().numpy()
    np.testing.assert_allclose(found, amplitudes[0], atol=0.1)
    assert len(model.module_.outputs) == 0  # no amplitudes of series' own
    days = pd.date_range("2024-03-28 06:00", periods=8, freq="12h", tz=zone)
    frame = model.forecast(times=days, series=[3])
    morning, evening = frame["y_mean"][0::2].to_numpy(), frame["y_mean"][1::2].to_numpy()
    np.testing.assert_allclose(morning - evening, 2 * amplitudes[0, 0], atol=0.5)


def test_a_weight_of_two_is_the_row_twice():
    series, _ = simulated(6, [0.5, 0.3])
    t, y, cycles = (x.numpy() for x in (series.time, series.y, series.covariates))
    twice = tensors(*(np.concatenate([x, x[:, :10]], axis=1) for x in (t, y, cycles)))
    weights = np.repeat([[2.0] * 10 + [1.0] * 15], 6, axis=0)
    start = Effects.none(torch.zeros(1, dtype=torch.float64), 1, 2)
    first, second = (start.fitted(Gaussian(1), part) for part in (twice, tensors(t, y, cycles, weights)))
    for name in ("common", "spread", "rest"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=1e-9)


@pytest.fixture(scope="module")
def with_own():
    X, y, amplitudes = sensors(own=0.7)
    u = np.random.default_rng(1).standard_normal(len(X))
    X = X.assign(u=u)
    y = np.column_stack([y, np.where(X["t"].dt.hour < 3, np.nan, 3 - y)])
    weights = np.random.default_rng(2).integers(1, 3, len(X))
    return LatentODERegressor(**TRAINED, periods=["1D"]).fit(X, y, sample_weight=weights), X, y, amplitudes


def test_own_amplitudes_of_new_series(with_own):
    model, _, _, _ = with_own
    X, y, amplitudes = sensors(4, own=0.7, seed=5)
    X = X.assign(id=X["id"] + 50, u=0.0)
    first = X["t"] < pd.Timestamp("2024-04-01")
    conditioned = model.condition(X[first], np.column_stack([y, 3 - y])[first])
    module, scale = model.module_, units_of(model)[0]
    states = conditioned.latent_states().loc[50:].to_numpy(copy=True)[:, model.latent_size :]
    effects = module.effects()
    for place, column in enumerate((0, N_HARMONICS)):
        at = torch.nonzero((module.outputs == 0) & (module.columns == column))[0, 0]
        found = effects.common[0, column] + effects.spread[0, column] * torch.from_numpy(states[:, at])
        np.testing.assert_allclose(scale * found.detach(), amplitudes[:, place], atol=0.35)
    # A later row lies half a day apart from another by twice the cycle.
    day = pd.DataFrame({"id": 50, "t": pd.to_datetime(["2024-04-05 06:00", "2024-04-05 18:00"]), "u": 0.0})
    morning, evening = conditioned.predict(day)[:, 0]
    assert morning - evening == pytest.approx(2 * amplitudes[0, 0], abs=0.8)


def test_everything_else_goes_with_cycles(with_own):
    model, X, y, _ = with_own
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    names = model.get_feature_names_out()
    assert model.transform(X[:3]).shape == (3, len(names)) == (3, model.module_.latent_size)
    drawn = model.sample(3, times=X["t"][:20], random_state=0)
    assert drawn.shape == (60, 5)
    paths = model.sample_y(X[:20], 200)
    mean, std = model.predict(X[:20], return_std=True)
    assert np.abs((paths.mean(-1) - mean) / std).max() < 0.6
    before = model.predict(X[:40], known="before")
    assert np.isfinite(before).all()
    more = again.set_params(warm_start=True, max_iter=1).fit(X, y)
    assert more.module_.latent_size == model.module_.latent_size


@pytest.mark.parametrize("likelihood", ["poisson", "bernoulli"])
def test_counts_and_binary_outputs_have_cycles(likelihood):
    X, y, _ = sensors(n_rows=60)
    rng = np.random.default_rng(3)
    centred = y - y.mean()
    y = (
        rng.poisson(np.exp(1 + 0.4 * centred))
        if likelihood == "poisson"
        else rng.random(len(y)) < 1 / (1 + np.exp(-centred))
    )
    model = LatentODERegressor(**SMALL, periods=["1D"], likelihood=likelihood).fit(X, y.astype(float))
    day = pd.date_range("2024-03-30", periods=8, freq="3h")
    means = model.forecast(times=day, series=[0])["y_mean"]
    phase = 2 * np.pi * np.arange(8) / 8
    assert np.corrcoef(means, 2 * np.sin(phase) - np.cos(phase))[0, 1] > 0.9


def test_what_does_not_go_with_periods():
    X, y, _ = sensors(3, 6)
    with pytest.raises(ValueError, match=r"periods=7 does not suit .* pd.Timedelta"):
        LatentODERegressor(**SMALL, periods=[7]).fit(X, y)
    with pytest.raises(ValueError, match="periods='-1D' must be positive"):
        LatentODERegressor(**SMALL, periods=["-1D"]).fit(X, y)
    with pytest.raises(ValueError, match='observation_times="poisson" does not go with'):
        LatentODERegressor(**SMALL, periods=["1D"], observation_times="poisson").fit(X, y)
    dynamics = KnownDynamics(lambda t, y, p: -y, {}, states=["a"], observe="a")
    with pytest.raises(ValueError, match="periods are for dynamics that are learnt"):
        LatentODERegressor(**SMALL, periods=["1D"], dynamics=dynamics).fit(X, y)
