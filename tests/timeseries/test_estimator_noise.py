"""Noise with a memory."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from skode import KnownDynamics, LatentODERegressor
from skode.timeseries import after_training
from skode.timeseries.after_training import within_series
from skode.timeseries.panel import Panel
from tests.timeseries.waves import TINY, make_waves

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


def wandering(n_series=24, n_rows=12, seed=0, span=10.0):
    """Constants and Ornstein-Uhlenbeck processes of memory 2 and variance 1, seen with noise of 0.1."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(0.0, span, (n_series, n_rows)), axis=1)
    dense = np.exp(-np.abs(t[:, None] - t[:, :, None]) / 2.0) + 0.01 * np.eye(n_rows)
    y = np.einsum("nij,nj->ni", np.linalg.cholesky(dense), rng.standard_normal(t.shape)) + 7.0
    return pd.DataFrame({"id": np.repeat(np.arange(n_series), n_rows), "t": t.ravel()}), y.ravel()


@pytest.fixture(scope="module")
def wanderers():
    """A model of wandering series, less the last three rows of each; these rows; and the same with white noise."""
    X, y = wandering(n_rows=27, span=24.0)  # so long that a series' level is not its wandering
    later = X.groupby("id").cumcount() >= 24
    settings = {**TINY, "max_iter": 10, "n_draws": 16, "warm_up": 0.0}
    models = [
        LatentODERegressor(**{**settings, "noise": noise}).fit(X[~later], y[~later]) for noise in ("coloured", "white")
    ]
    return (*models, X[later], y[later])


def test_a_memory_of_the_noise_is_found_and_its_forecasts_are_better(wanderers):
    coloured, white, X, y = wanderers
    assert coloured.noise_share_[0] > 0.7
    assert 1.0 < coloured.noise_memory_[0] < 4.0
    assert coloured.score_samples(X, y).mean() > white.score_samples(X, y).mean() + 0.1
    assert np.mean((coloured.predict(X) - y) ** 2) < 0.9 * np.mean((white.predict(X) - y) ** 2)
    assert coloured.noise_std_[0] == pytest.approx(1.0, rel=0.3)


def test_white_noise_has_no_memory(wanderers):
    white = wanderers[1]
    assert white.noise_share_.tolist() == [0.0]
    assert np.isnan(white.noise_memory_).all()


def test_the_noise_is_widened_by_forecasts_that_have_not_seen_the_answers(monkeypatch):
    seen = []
    monkeypatch.setattr(after_training, "widen_noise", lambda likelihood, y, answers: seen.extend(answers))
    model = LatentODERegressor(**{**TINY, "max_iter": 10, "noise": "coloured"}).fit(*wandering())
    prior = model.module_.likelihood.coloured**2
    variance = torch.cat([answer.coloured for answer in seen])
    assert (variance > 0.05 * prior).all()  # known values leave less than that
    assert variance.mean() > 0.4 * prior


def test_what_is_known_wears_off(wanderers):
    coloured, _, _, _ = wanderers
    last = coloured.context_.time[coloured.context_.codes == 0].max()
    query = pd.DataFrame({"id": 0, "t": last + np.array([0.0, 0.3, 1.0])})
    _, std = coloured.predict(query, return_std=True)
    assert (np.diff(std) > 0).all()
    assert std[0] < 0.7 * std[-1]


def test_densities_with_coloured_noise_integrate_to_one(wanderers):
    coloured, _, X, _ = wanderers
    grid = np.linspace(-5.0, 19.0, 1201)
    query = X.iloc[[1] * len(grid)]
    assert np.exp(coloured.score_samples(query, grid)).sum() * 0.02 == pytest.approx(1.0, abs=1e-4)


def test_paths_with_coloured_noise_are_those_that_predictions_average(wanderers):
    coloured, _, X, _ = wanderers
    query = pd.DataFrame({"id": 3, "t": X["t"][X["id"] == 3].iloc[0] + np.array([0.0, 0.05, 4.0])})
    drawn = coloured.sample_y(query, 3000)
    mean, std = coloured.predict(query, return_std=True)
    np.testing.assert_allclose(drawn.mean(1), mean, atol=0.15)
    np.testing.assert_allclose(drawn.std(1), std, rtol=0.2)
    near, far = np.corrcoef(drawn)[0, 1:]
    assert near > far + 0.1  # of two close rows the noise is the same in part
    new = coloured.sample(200, [0.0, 0.05], random_state=0).pivot(index="id", columns="t", values="y")
    assert np.corrcoef(new.T.to_numpy())[0, 1] > 0.5


def test_new_series_are_conditioned_on_with_coloured_noise(wanderers):
    coloured, _, X, y = wanderers
    new = X[X["id"] < 2].assign(id=lambda frame: frame["id"] + 100)
    assert coloured.predict(new).std() < 0.5  # the prior's
    known = coloured.condition(new, y[X["id"] < 2])
    assert np.abs(known.predict(new) - y[X["id"] < 2]).max() < 0.5
    assert known.noise_share_ == coloured.noise_share_


def test_training_goes_on_with_white_noise(wanderers):
    coloured = pickle.loads(pickle.dumps(wanderers[0])).set_params(warm_start=True, noise="white", early_stopping=False)
    total = coloured.noise_std_
    X, y = wandering()
    coloured.set_params(max_iter=1, learning_rate_init=1e-9).fit(X, y)
    assert coloured.noise_share_[0] == 0.0
    np.testing.assert_allclose(coloured.noise_std_, total, rtol=1e-4)


def test_without_normal_outputs_there_is_no_noise_to_speak_of():
    X, _ = make_waves()
    model = LatentODERegressor(**TINY, likelihood="poisson").fit(X, np.arange(len(X)) % 5)
    for name in ("noise_std_", "noise_share_", "noise_memory_"):
        with pytest.raises(AttributeError, match="has no noise of its own"):
            getattr(model, name)


def cycles(n_series=6, n_rows=40, period=8.0):
    """Sines of a period that is short for the series, from phases of their own."""
    rng = np.random.default_rng(0)
    t = np.tile(np.arange(float(n_rows)), n_series)
    phase = np.repeat(rng.uniform(0.0, 2.0 * np.pi, n_series), n_rows)
    X = pd.DataFrame({"id": np.repeat(np.arange(n_series), n_rows), "t": t})
    return X, pd.Series(np.sin(2.0 * np.pi * t / period + phase) + rng.normal(0.0, 0.1, len(t)), name="level")


def test_noise_that_takes_what_dynamics_should_explain_is_told():
    with pytest.warns(UserWarning, match=r"Noise with a memory makes up \d+% of how \['level'\] vary within series"):
        LatentODERegressor(**{**TINY, "max_iter": 3, "noise": "coloured"}).fit(*cycles())


def test_remedies_are_those_of_known_dynamics():
    dynamics = KnownDynamics(
        lambda t, y, p: 0.0 * y, {}, states=["level"], observe="level"
    )  # periods are refused there
    with pytest.warns(
        UserWarning, match=r"Noise with a memory.*Check the units and signs of doses, covariates and times"
    ):
        LatentODERegressor("id", "t", dynamics=dynamics, max_iter=1, n_draws=4, random_state=0).fit(*cycles())


def test_variances_within_series_leave_out_their_levels():
    X, y = cycles()
    level = np.repeat(np.arange(6.0), 40)
    values = (y + 10.0 * level).to_numpy()[:, None]
    panel = Panel.of(X["id"].to_numpy(), X["t"].to_numpy(), np.zeros((240, 0)), values)
    expected = np.mean([y[X["id"] == i].var() for i in range(6)])
    np.testing.assert_allclose(within_series(panel), [expected], rtol=1e-12)
