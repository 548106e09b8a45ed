"""The latent ODE's estimator: what it learns, and how a fit is repeated, continued and ended."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score

from skode import LatentODERegressor
from skode.timeseries import estimator
from skode.timeseries.elbo import NegativeELBO
from skode.timeseries.validation import forecast_density, last_rows
from tests.timeseries.waves import TINY, same_weights, weights

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


# Recovery of known dynamics


def test_it_follows_waves_of_random_phase(fitted, waves):
    assert fitted.score(*waves) > 0.8


def test_it_forecasts_decays_each_from_its_own_height():
    rng = np.random.RandomState(0)
    X = pd.DataFrame({"id": np.repeat(np.arange(16), 8), "t": np.sort(rng.uniform(0, 4, (16, 8)), axis=1).ravel()})
    y = rng.uniform(1, 6, 16)[X["id"]] * np.exp(-X["t"] / 2)
    known = (X["t"] < 2) | (X["id"] < 12)  # of the last four series only the first half
    settings = {**TINY, "max_iter": 40, "learning_rate_init": 3e-2, "batch_size": 8}
    model = LatentODERegressor(**settings, n_iter_no_change=None).fit(X[known], y[known])
    assert model.score(X[~known], y[~known]) > 0.5
    assert model.score(X[known], y[known]) > 0.9


def test_covariates_reach_the_prediction():
    rng = np.random.RandomState(0)
    X = pd.DataFrame({"id": np.repeat(np.arange(10), 6), "t": np.tile(np.arange(6.0), 10), "dose": rng.normal(size=60)})
    y = 3 * X["dose"]
    model = LatentODERegressor(**{**TINY, "max_iter": 40, "n_iter_no_change": None}).fit(X, y)
    query = pd.DataFrame({"id": [0, 0], "t": [2.0, 2.0], "dose": [-1.0, 1.0]})
    low, high = model.predict(query)
    assert high - low > 2  # of 6


@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
def test_every_adjoint_trains(waves, adjoint):
    model = LatentODERegressor(**{**TINY, "max_iter": 6}, adjoint=adjoint).fit(*waves)
    assert np.mean(model.loss_curve_[-3:]) < np.mean(model.loss_curve_[:3])


def test_a_fixed_step_method_trains(waves):
    model = LatentODERegressor(**{**TINY, "max_iter": 6}, method="rk4").fit(*waves)
    assert np.mean(model.loss_curve_[-3:]) < np.mean(model.loss_curve_[:3])
    assert np.isfinite(model.predict(waves[0])).all()


# Repeatability and scikit-learn's tools


def test_two_fits_with_one_seed_are_identical_to_the_bit(waves, brief):
    again = LatentODERegressor(**TINY).fit(*waves)
    assert same_weights(brief, again)
    assert brief.loss_curve_ == again.loss_curve_


def test_predictions_are_deterministic(fitted, waves):
    np.testing.assert_array_equal(fitted.predict(waves[0]), fitted.predict(waves[0]))


def test_pickling_keeps_predictions_to_the_bit(fitted, waves):
    restored = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(
        restored.predict(waves[0], return_std=True), fitted.predict(waves[0], return_std=True)
    )


def test_a_clone_is_not_fitted_and_fits_the_same(waves, brief):
    twin = clone(brief)
    with pytest.raises(NotFittedError):
        twin.predict(waves[0])
    with pytest.raises(NotFittedError):
        twin.condition(*waves)
    assert same_weights(twin.fit(*waves), brief)


def test_grid_search_over_tolerances(waves):
    grid = GridSearchCV(LatentODERegressor(**TINY), {"rtol": [1e-2, 1e-4], "atol": [1e-3]}, cv=2).fit(*waves)
    assert np.isfinite(grid.best_score_)


def test_cross_validation(waves):
    assert np.isfinite(cross_val_score(LatentODERegressor(**TINY), *waves, cv=2)).all()


def test_early_stopping_keeps_the_best_weights(waves):
    # a constant rate and no warm-up: these depend on max_iter
    settings = {**TINY, "max_iter": 15, "learning_rate_init": 0.1, "learning_rate": "constant", "warm_up": 0.0}
    model = LatentODERegressor(**settings, early_stopping=True).fit(*waves)
    assert len(model.validation_scores_) == model.n_iter_
    assert model.best_validation_score_ == max(model.validation_scores_)
    best = int(np.argmax(model.validation_scores_)) + 1
    assert best < model.n_iter_  # so that keeping the last would fail below
    stopped = LatentODERegressor(**{**settings, "max_iter": best}, early_stopping=True).fit(*waves)
    assert same_weights(model, stopped)


def test_noise_that_is_held_where_training_is_interrupted_is_learnt_later(waves, monkeypatch):
    X, y = waves
    calls, loss = [], NegativeELBO.loss

    def interrupted(self, rows):
        calls.append(self.progress)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return loss(self, rows)

    monkeypatch.setattr(NegativeELBO, "loss", interrupted)
    with pytest.warns(UserWarning, match="interrupted"):
        model = LatentODERegressor(**{**TINY, "max_iter": 50}, warm_start=True).fit(X, y)
    assert calls[-1] < 0.3  # in the warm-up's first part
    first = model.noise_std_
    assert first == pytest.approx(np.std(y), rel=0.3)  # nothing is explained yet
    model.set_params(max_iter=20).fit(X, y)
    assert model.noise_std_ < first


def test_warm_start_goes_on(waves):
    settings = {**TINY, "max_iter": 30, "early_stopping": False}
    model = LatentODERegressor(**settings, warm_start=True).fit(*waves)
    first, before = model.loss_curve_[0], weights(model)
    model.set_params(max_iter=1).fit(*waves)
    assert model.n_iter_ == 1
    assert model.loss_curve_[0] < first
    assert not all(torch.equal(p, q) for p, q in zip(before, weights(model), strict=True))


def test_float32_arrays_are_computed_in_float32(waves):
    X, y = waves
    codes = pd.factorize(X["id"])[0]
    array = np.column_stack([codes, X["t"]]).astype(np.float32)
    model = LatentODERegressor(**{**TINY, "series": 0, "time": 1}, device="cpu").fit(array, y)
    assert {p.dtype for p in model.module_.parameters()} == {torch.float32}


# Covariates in the dynamics


def test_wild_intensities_do_not_break_the_fit(waves):
    """Weights at which ``exp`` of the latent read-out is near the largest number there is."""
    X, y = waves
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(3):
            model = LatentODERegressor(
                **{**TINY, "random_state": seed},
                likelihood="bernoulli",
                observation_times="poisson",
                bound="iwae",
                encoder="ode_rnn",
            )
            model.fit(X[:40].assign(u=np.cos(X["t"][:40])), (y[:40] > 5).astype(float))
            assert np.isfinite(model.predict(X[:40].assign(u=0.0))).all()


def test_covariates_over_time_drive_the_dynamics():
    """``y' = u(t)``: at its end a series knows what u was, which its covariates there do not say."""
    rng = np.random.RandomState(0)
    frames = []
    for i in range(30):
        t = np.append(0.0, np.sort(rng.uniform(0, 4, 11)))
        u = np.where(t < rng.uniform(0.5, 3.5), *rng.uniform(-1, 1, 2))
        y = np.append(0.0, np.cumsum(np.diff(t) * (u[1:] + u[:-1]) / 2))
        frames.append(pd.DataFrame({"id": i, "t": t, "u": u, "y": y + 0.02 * rng.standard_normal(12)}))
    data = pd.concat(frames, ignore_index=True)
    settings = {
        **TINY,
        "latent_size": 2,
        "max_iter": 60,
        "batch_size": 10,
        "hidden_layer_sizes": (16,),
        "early_stopping": False,
    }
    model = LatentODERegressor(**settings, learning_rate_init=2e-2, n_iter_no_change=None)
    model.fit(data[["id", "t", "u"]], data["y"])
    t = np.linspace(0, 4, 9)
    ups, downs = (np.where(t < 1.9, sign * 0.8, 0.0) for sign in (1, -1))
    static = [pd.DataFrame({"id": name, "t": t, "u": u}) for name, u in ((-1, 0.8), (-2, -0.8))]
    driven = [pd.DataFrame({"id": name, "t": t, "u": u}) for name, u in ((-3, ups), (-4, downs))]
    up, down = (model.predict(query) for query in driven)
    expected = np.append(0.0, np.cumsum(np.diff(t) * (ups[1:] + ups[:-1]) / 2))
    assert up[-1] - down[-1] == pytest.approx(2 * expected[-1], rel=0.25)  # though u is 0 in both
    slopes = [np.polyfit(t, model.predict(query), 1)[0] for query in static]
    np.testing.assert_allclose(slopes, [0.8, -0.8], atol=0.2)


def test_a_rows_covariate_is_known_though_its_value_is_not():
    rng = np.random.RandomState(0)
    X = pd.DataFrame({"id": np.repeat(np.arange(6), 6), "t": np.tile(np.arange(6.0), 6), "u": rng.normal(size=36)})
    y = rng.normal(size=36)
    y[4::6] = np.nan
    model = LatentODERegressor(**TINY).fit(X, y)
    changed = X.copy()
    changed.loc[4::6, "u"] += 1.0
    other = LatentODERegressor(**TINY).fit(changed, y)
    assert np.abs(model.predict(X[5::6]) - other.predict(X[5::6])).max() > 1e-6


# Times as data


def test_intensities_are_learned():
    """Events come at a rate that depends on a covariate, and on nothing else."""
    rng = np.random.RandomState(0)
    frames = []
    for i in range(40):
        u = 1.0 if i % 2 else -1.0
        gaps = rng.exponential(1 / np.exp(0.8 + 0.8 * u), 60)
        t = np.append(0.0, np.cumsum(gaps))
        frames.append(pd.DataFrame({"id": i, "t": t[t < 6], "u": u}))
    X = pd.concat(frames, ignore_index=True)
    y = 0.1 * rng.standard_normal(len(X))
    settings = {**TINY, "latent_size": 1, "max_iter": 40, "batch_size": 20, "learning_rate_init": 2e-2}
    # All epochs: validation is of the outputs alone.
    model = LatentODERegressor(**settings, observation_times="poisson", early_stopping=False).fit(X, y)
    for u in (-1.0, 1.0):
        query = pd.DataFrame({"id": -1, "t": [1.0, 2.5, 4.0], "u": u})
        np.testing.assert_allclose(model.predict_intensity(query), np.exp(0.8 + 0.8 * u), rtol=0.25)


def test_intensities_are_per_unit_of_time(waves):
    X, y = waves
    numbers = LatentODERegressor(**TINY, observation_times="poisson").fit(X, y)
    slow = X.assign(t=X["t"] * 100)
    other = LatentODERegressor(**TINY, observation_times="poisson").fit(slow, y)
    np.testing.assert_allclose(other.predict_intensity(slow) * 100, numbers.predict_intensity(X), rtol=1e-4)
    span = (X.groupby("id")["t"].max() - X.groupby("id")["t"].min()).sum()
    assert numbers.predict_intensity(X).mean() == pytest.approx((len(X) - 8) / span, rel=0.3)


# The answers, by brute force


def test_a_fit_that_fails_leaves_the_last_one_as_it_was(waves, brief):
    X, y = waves
    model = pickle.loads(pickle.dumps(brief))
    before = model.predict(X)
    with pytest.raises(ValueError, match="device"):
        model.set_params(device="no such device").fit(X.assign(more=1.0), 1e3 * y)
    np.testing.assert_array_equal(model.predict(X), before)
    unfitted = clone(model)
    with pytest.raises(ValueError, match="device"):
        unfitted.fit(X, y)
    with pytest.raises(NotFittedError):
        unfitted.predict(X)


# Faults that users found


def driven_panel():
    t = np.tile(np.arange(12.0), 10)
    X = pd.DataFrame({"id": np.repeat([f"s{i}" for i in range(10)], 12), "t": t, "u": np.where(t < 6, 1.0, 0.0)})
    return X, np.random.RandomState(0).normal(size=120)


def test_rows_set_aside_are_judged_with_the_covariates_of_those_before(monkeypatch):
    X, y = driven_panel()
    seen = []

    def spy(module, known, aside, tensors, solver):
        seen.append(tensors(aside).paths.values[..., 0])
        return forecast_density(module, known, aside, tensors, solver)

    monkeypatch.setattr(estimator, "forecast_density", spy)
    LatentODERegressor(**TINY).fit(X, y)
    assert ((seen[0][:, :6] > 0) & (seen[0][:, 6:] < 0)).all()


def test_times_set_aside_are_not_taken_for_silence():
    X, y = driven_panel()
    X = X.drop(columns="u")
    model = LatentODERegressor(**TINY, observation_times="poisson").fit(X, y)
    aside = last_rows(model.context_, 0.1, np.random.RandomState(0))
    training = model.context_.until(aside)
    assert aside.any()
    for code in range(training.n_series):
        rows = model.context_.codes == code
        n_aside = aside[rows].sum()
        assert (training.codes == code).sum() == rows.sum() - n_aside
        assert training.windows()[code, 1] == model.context_.since_origin()[rows][-1 - n_aside]


def test_one_row_each_leaves_nothing_to_set_aside():
    X = pd.DataFrame({"id": np.arange(30), "t": np.random.RandomState(0).uniform(size=30)})
    model = LatentODERegressor(**TINY).fit(X, np.random.RandomState(1).normal(size=30))
    assert model.validation_scores_ is None
