import copy
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError, UndefinedMetricWarning
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from skode import LatentODERegressor
from skode.datasets import make_spirals
from skode.model_selection import ForecastSplit
from skode.timeseries import estimator
from skode.timeseries.encoders import ENCODERS
from skode.timeseries.posterior import Posterior
from skode.timeseries.validation import forecast_density, last_rows

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

TINY = {
    "series": "id",
    "time": "t",
    "latent_size": 3,
    "hidden_layer_sizes": (8,),
    "encoder_size": 8,
    "n_draws": 8,
    "max_iter": 2,
    "random_state": 0,
    "noise": "white",  # which spares a search; where a memory matters, tests ask for it
    # Loose, for speed; where the solver's error matters, tests set their own.
    "rtol": 1e-2,
    "atol": 1e-2,
}
#: The default tolerances.
USUAL = {"rtol": 1e-3, "atol": 1e-3}


def make_waves(n_series=8, n_rows=10, seed=0):
    """Sines of random phase at irregular times; ids are not in order."""
    rng = np.random.RandomState(seed)
    ids = np.repeat(rng.permutation(n_series), n_rows)
    t = np.sort(rng.uniform(0, 4, (n_series, n_rows)), axis=1).ravel()
    phase = rng.uniform(0, 2 * np.pi, n_series)
    y = np.sin(1.5 * t + phase[ids]) + 5.0 + 0.05 * rng.standard_normal(len(t))
    return pd.DataFrame({"id": [f"s{i}" for i in ids], "t": t}), y


@pytest.fixture(scope="module")
def waves():
    return make_waves()


@pytest.fixture(scope="module")
def fitted(waves):
    """A model that has learned something; tests must not change it."""
    settings = {**TINY, **USUAL, "hidden_layer_sizes": (16,), "encoder_size": 16, "latent_size": 4, "max_iter": 150}
    return LatentODERegressor(**{**settings, "noise": "coloured"}, early_stopping=False).fit(*waves)


@pytest.fixture(scope="module")
def brief(waves):
    return LatentODERegressor(**TINY).fit(*waves)


def weights(model):
    return [p.detach().clone() for p in model.module_.parameters()]


def same_weights(first, second):
    return all(torch.equal(p, q) for p, q in zip(weights(first), weights(second), strict=True))


def tight(model):
    return pickle.loads(pickle.dumps(model)).set_params(rtol=1e-9, atol=1e-11)


# What it learns


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
    asked = pd.DataFrame({"id": [0, 0], "t": [2.0, 2.0], "dose": [-1.0, 1.0]})
    low, high = model.predict(asked)
    assert high - low > 2  # of 6


@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
def test_every_adjoint_trains(waves, adjoint):
    model = LatentODERegressor(**{**TINY, "max_iter": 15}, adjoint=adjoint).fit(*waves)
    assert np.mean(model.loss_curve_[-3:]) < np.mean(model.loss_curve_[:3])


def test_a_fixed_step_method_trains(waves):
    model = LatentODERegressor(**{**TINY, "max_iter": 15}, method="rk4").fit(*waves)
    assert np.mean(model.loss_curve_[-3:]) < np.mean(model.loss_curve_[:3])
    assert np.isfinite(model.predict(waves[0])).all()


# Rows


def test_the_order_of_rows_changes_nothing(waves, brief):
    X, y = waves
    order = np.random.RandomState(1).permutation(len(X))
    shuffled = LatentODERegressor(**TINY).fit(X.iloc[order], y[order])
    for p, q in zip(weights(brief), weights(shuffled), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(shuffled.predict(X), brief.predict(X), rtol=1e-7)


def test_answers_come_in_the_order_of_the_questions(fitted, waves):
    X, _ = waves
    order = np.random.RandomState(1).permutation(len(X))
    mean, std = fitted.predict(X, return_std=True)
    asked_mean, asked_std = fitted.predict(X.iloc[order], return_std=True)
    np.testing.assert_allclose(asked_mean, mean[order], rtol=1e-5)
    np.testing.assert_allclose(asked_std, std[order], rtol=1e-4)


def test_an_answer_does_not_depend_on_what_else_is_asked(fitted, waves):
    X, _ = waves
    model = tight(fitted)
    together = model.predict(X)
    alone = np.concatenate([model.predict(X.iloc[[i]]) for i in range(0, len(X), 9)])
    np.testing.assert_allclose(alone, together[::9], rtol=1e-7)
    later = pd.DataFrame({"id": X["id"].iloc[[0]], "t": [12.0]})
    np.testing.assert_allclose(model.predict(pd.concat([X, later]))[:-1], together, rtol=1e-7)


def test_repeated_times_are_accepted(brief):
    X, y = make_waves()
    X = X.assign(t=X["t"].round())
    assert X.duplicated().any()
    model = LatentODERegressor(**TINY).fit(X, y)
    predicted = pd.Series(model.predict(X))
    assert np.isfinite(predicted).all()
    # equal questions, equal answers
    np.testing.assert_allclose(predicted.groupby([X["id"], X["t"]]).transform("first"), predicted, rtol=1e-12)


def test_a_series_of_one_row_is_accepted(waves):
    X, y = waves
    X = pd.concat([X, pd.DataFrame({"id": ["lonely"], "t": [1.0]})])
    model = LatentODERegressor(**TINY).fit(X, np.append(y, 5.0))
    assert np.isfinite(model.predict(X)).all()


def test_all_series_of_one_row_are_accepted():
    X = pd.DataFrame({"id": np.arange(5), "t": np.arange(5.0)})
    model = LatentODERegressor(**TINY).fit(X, np.arange(5.0))
    assert np.isfinite(model.predict(X)).all()


def test_one_series_without_ids():
    t = np.linspace(0, 3, 12)
    model = LatentODERegressor(**{**TINY, "series": None, "time": 0}).fit(t[:, None], np.sin(t))
    assert model.predict(t[:, None]).shape == (12,)


def test_columns_of_an_object_array_by_position(waves, brief):
    X, y = waves
    model = LatentODERegressor(**{**TINY, "series": 0, "time": 1}).fit(X.to_numpy(dtype=object), y)
    np.testing.assert_array_equal(model.predict(X.to_numpy(dtype=object)), brief.predict(X))


@pytest.mark.parametrize("kind", ["category", object])
def test_what_ids_are_stored_as_changes_nothing(waves, brief, kind):
    X, y = waves
    other = X.astype({"id": kind})
    model = LatentODERegressor(**TINY).fit(other, y)
    np.testing.assert_array_equal(model.predict(X), brief.predict(X))
    np.testing.assert_array_equal(model.predict(other), brief.predict(X))


# Dates


def test_dates_and_numbers_of_seconds_give_the_same_model(waves, brief):
    X, y = waves
    seconds = X["t"].round(3)
    numbers = LatentODERegressor(**TINY).fit(X.assign(t=seconds), y)
    dates = pd.Timestamp("1970-01-01") + pd.to_timedelta(seconds, unit="s")
    for column in (dates, dates.dt.tz_localize("Europe/Berlin"), pd.to_timedelta(seconds, unit="s")):
        dated = LatentODERegressor(**TINY).fit(X.assign(t=column), y)
        np.testing.assert_allclose(dated.predict(X.assign(t=column)), numbers.predict(X.assign(t=seconds)), rtol=1e-5)


def test_dates_of_another_unit_or_zone_are_the_same_instants(waves):
    X, y = waves
    dates = (pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(X["t"].round(), unit="D")).dt.as_unit("ns")
    model = LatentODERegressor(**TINY).fit(X.assign(t=dates), y)
    for other in (dates.dt.as_unit("s"), dates.dt.tz_convert("Asia/Tokyo")):
        np.testing.assert_array_equal(model.predict(X.assign(t=other)), model.predict(X.assign(t=dates)))


@pytest.mark.parametrize("method", ["predict", "condition"])
def test_another_kind_of_time_than_in_fit_is_refused(brief, waves, method):
    X, y = waves
    dated = X.assign(t=pd.to_datetime("2024-01-01"))
    with pytest.raises(ValueError, match="time='t' holds a date, but held a number in fit"):
        brief.predict(dated) if method == "predict" else brief.condition(dated, y)


# Missing values


def test_values_not_observed_are_data(waves):
    X, y = waves
    y = np.where(np.arange(len(y)) % 3 == 0, np.nan, y)
    model = LatentODERegressor(**TINY).fit(X, y)
    assert np.isfinite(model.predict(X)).all()


def test_rows_not_observed_say_nothing(waves):
    X, y = waves
    inside = pd.DataFrame({"id": X["id"].iloc[[5]], "t": [(X["t"].iloc[5] + X["t"].iloc[6]) / 2]})
    with_row = LatentODERegressor(**TINY).fit(pd.concat([X, inside]), np.append(y, np.nan))
    without = LatentODERegressor(**TINY).fit(X, y)
    np.testing.assert_allclose(with_row.predict(X), without.predict(X), rtol=1e-7)


def test_one_of_two_outputs_may_be_missing(waves):
    X, y = waves
    Y = np.column_stack([y, -y])
    Y[::2, 0] = np.nan
    model = LatentODERegressor(**TINY).fit(X, Y)
    mean, std = model.predict(X, return_std=True)
    assert mean.shape == std.shape == Y.shape
    assert np.isfinite(mean).all()
    assert model.noise_std_.shape == (2,)


def test_score_is_sklearns_where_nothing_is_missing(fitted, waves):
    X, y = waves
    assert fitted.score(X, y) == pytest.approx(r2_score(y, fitted.predict(X)), rel=1e-12)
    weight = np.linspace(1, 2, len(y))
    assert fitted.score(X, y, weight) == pytest.approx(r2_score(y, fitted.predict(X), sample_weight=weight), rel=1e-12)


def test_score_leaves_out_what_was_not_observed(fitted, waves):
    X, y = waves
    seen = np.arange(len(y)) % 4 != 0
    expected = r2_score(y[seen], fitted.predict(X)[seen])
    assert fitted.score(X, np.where(seen, y, np.nan)) == pytest.approx(expected, rel=1e-12)


def test_score_is_the_mean_over_outputs(waves):
    X, y = waves
    Y = np.column_stack([y, y**2])
    model = LatentODERegressor(**TINY).fit(X, Y)
    assert model.score(X, Y) == pytest.approx(r2_score(Y, model.predict(X)), rel=1e-12)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_predictions_have_the_shape_of_y(waves, shape):
    X, y = waves
    y = y.reshape(shape)
    mean, std = LatentODERegressor(**TINY).fit(X, y).predict(X, return_std=True)
    assert mean.shape == std.shape == y.shape


# Uncertainty and the prior


def test_the_prediction_is_less_certain_than_the_white_noise(fitted, waves):
    _, std = fitted.predict(waves[0], return_std=True)
    assert (std > fitted.noise_std_ * np.sqrt(1.0 - fitted.noise_share_)).all()


# Noise with a memory


def wandering(n_series=24, n_rows=12, seed=0):
    """Constants and Ornstein-Uhlenbeck processes of memory 2 and variance 1, seen with noise of 0.1."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(0.0, 10.0, (n_series, n_rows)), axis=1)
    dense = np.exp(-np.abs(t[:, None] - t[:, :, None]) / 2.0) + 0.01 * np.eye(n_rows)
    y = np.einsum("nij,nj->ni", np.linalg.cholesky(dense), rng.standard_normal(t.shape)) + 7.0
    return pd.DataFrame({"id": np.repeat(np.arange(n_series), n_rows), "t": t.ravel()}), y.ravel()


@pytest.fixture(scope="module")
def wanderers():
    """A model of wandering series, less the last three rows of each; these rows; and the same with white noise."""
    X, y = wandering()
    later = X.groupby("id").cumcount() >= 9
    settings = {**TINY, "max_iter": 10, "n_draws": 16}
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
    monkeypatch.setattr(estimator, "widen_noise", lambda likelihood, y, answers: seen.extend(answers))
    model = LatentODERegressor(**{**TINY, "max_iter": 10, "noise": "coloured"}).fit(*wandering())
    prior = model.module_.likelihood.coloured**2
    variance = torch.cat([answer.coloured for answer in seen])
    assert (variance > 0.05 * prior).all()  # known values leave less than that
    assert variance.mean() > 0.4 * prior


def test_what_is_known_wears_off(wanderers):
    coloured, _, _, _ = wanderers
    last = coloured.context_.time[coloured.context_.codes == 0].max()
    asked = pd.DataFrame({"id": 0, "t": last + np.array([0.0, 0.3, 1.0])})
    _, std = coloured.predict(asked, return_std=True)
    assert (np.diff(std) > 0).all()
    assert std[0] < 0.7 * std[-1]


def test_densities_with_coloured_noise_integrate_to_one(wanderers):
    coloured, _, X, _ = wanderers
    grid = np.linspace(-5.0, 19.0, 1201)
    asked = X.iloc[[1] * len(grid)]
    assert np.exp(coloured.score_samples(asked, grid)).sum() * 0.02 == pytest.approx(1.0, abs=1e-4)


def test_paths_with_coloured_noise_are_those_that_predictions_average(wanderers):
    coloured, _, X, _ = wanderers
    asked = pd.DataFrame({"id": 3, "t": X["t"][X["id"] == 3].iloc[0] + np.array([0.0, 0.05, 4.0])})
    drawn = coloured.sample_y(asked, 3000)
    mean, std = coloured.predict(asked, return_std=True)
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


def test_asking_for_the_spread_does_not_change_the_mean(fitted, waves):
    np.testing.assert_array_equal(fitted.predict(waves[0]), fitted.predict(waves[0], return_std=True)[0])


def test_series_never_seen_get_the_prior(fitted):
    t = np.linspace(0, 3, 6)
    first, second = (fitted.predict(pd.DataFrame({"id": [i] * 6, "t": t}), return_std=True) for i in ("new", "newer"))
    np.testing.assert_array_equal(first, second)
    _, known_std = fitted.predict(pd.DataFrame({"id": ["s0"] * 6, "t": t}), return_std=True)
    assert first[1].mean() > known_std.mean()


def test_an_id_of_another_type_is_one_never_seen(fitted):
    asked = pd.DataFrame({"id": [0], "t": [1.0]})
    with pytest.warns(UserWarning, match="ids are integer here, but were string in fit"):
        answer = fitted.predict(asked)
    np.testing.assert_array_equal(answer, fitted.predict(asked.assign(id="new")))


def test_known_and_unknown_series_may_be_asked_together(fitted, waves):
    X = waves[0].iloc[:4]
    new = X.assign(id="new")
    model = tight(fitted)
    together = model.predict(pd.concat([new, X]))
    np.testing.assert_allclose(together, np.concatenate([model.predict(new), model.predict(X)]), rtol=1e-7)


def test_times_before_the_first_observation_are_answered(fitted):
    t = [-3.0, -1.0, 0.0, 1.0]
    mean = fitted.predict(pd.DataFrame({"id": ["s1"] * 4, "t": t}))
    assert np.isfinite(mean).all()


def test_the_answer_is_continuous_at_the_first_observation(fitted, waves):
    X, _ = waves
    start = X["t"][X["id"] == "s1"].min()
    asked = pd.DataFrame({"id": ["s1"] * 3, "t": [start - 1e-6, start, start + 1e-6]})
    before, at, after = fitted.predict(asked)
    assert before == pytest.approx(at, abs=1e-4)
    assert after == pytest.approx(at, abs=1e-4)


# Conditioning


def test_conditioning_leaves_the_original_as_it_was(fitted, waves):
    X, _ = waves
    before = fitted.predict(X)
    new = X[X["id"] == "s0"].assign(id="new")
    fitted.condition(new, np.full(len(new), 5.5))
    np.testing.assert_array_equal(fitted.predict(X), before)
    np.testing.assert_array_equal(fitted.predict(new), fitted.predict(new.assign(id="other")))


def test_conditioning_shares_the_weights(fitted, waves):
    X, y = waves
    assert fitted.condition(X.assign(id="new " + X["id"]), y).module_ is fitted.module_


def test_a_new_series_with_the_observations_of_a_known_one_gets_its_answers(fitted, waves):
    X, y = waves
    known = X["id"] == "s3"
    twin = X[known].assign(id="twin")
    conditioned = fitted.condition(twin, y[known])
    for answer, expected in zip(
        conditioned.predict(twin, return_std=True), fitted.predict(X[known], return_std=True), strict=True
    ):
        np.testing.assert_allclose(answer, expected, rtol=1e-3)  # the solver's tolerance
    np.testing.assert_allclose(conditioned.predict(X), fitted.predict(X), rtol=1e-10)


def test_conditioning_in_two_parts_is_conditioning_at_once(fitted, waves):
    X, y = waves
    new, values = X[:10].assign(id="new"), y[:10]
    once = fitted.condition(new, values)
    twice = fitted.condition(new[:4], values[:4]).condition(new[4:], values[4:])
    np.testing.assert_allclose(twice.predict(new), once.predict(new), rtol=1e-10)


def test_more_observations_of_a_known_series_change_its_answers_only(fitted, waves):
    X, _ = waves
    more = pd.DataFrame({"id": ["s2"] * 3, "t": [1.0, 2.0, 3.0]})
    changed = np.abs(fitted.condition(more, [9.0, 9.0, 9.0]).predict(X) - fitted.predict(X))
    assert changed[X["id"] == "s2"].max() > 1e-3
    assert changed[X["id"] != "s2"].max() < 1e-3  # the solver's tolerance


def test_conditioning_after_a_series_without_observations(waves):
    X, y = waves
    empty = pd.DataFrame({"id": ["never"] * 2, "t": [100.0, 101.0]})
    model = LatentODERegressor(**TINY).fit(pd.concat([empty, X]), np.append([np.nan, np.nan], y))
    conditioned = model.condition(X[:5].assign(id="new"), y[:5])
    np.testing.assert_allclose(conditioned.predict(X), model.predict(X), rtol=1e-10)
    np.testing.assert_allclose(conditioned.predict(empty), model.predict(empty), rtol=1e-10)


def test_conditioning_checks_y(fitted, waves):
    X, y = waves
    with pytest.raises(ValueError, match="y has 2 outputs, but the model was fitted to 1"):
        fitted.condition(X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        fitted.condition(X, y[:-1])


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


def test_tolerance_is_read_when_predicting(fitted, waves):
    X, _ = waves
    reference = tight(fitted).predict(X)
    errors = []
    for tolerance in (1e-1, 1e-3, 1e-6):
        other = pickle.loads(pickle.dumps(fitted)).set_params(rtol=tolerance, atol=tolerance)
        errors.append(np.abs(other.predict(X) - reference).max())
    assert errors[0] > errors[2]
    assert errors[2] < 1e-4


def test_early_stopping_keeps_the_best_weights(waves):
    # a constant rate: the other one depends on max_iter
    settings = {**TINY, "max_iter": 15, "learning_rate_init": 0.1, "learning_rate": "constant"}
    model = LatentODERegressor(**settings, early_stopping=True).fit(*waves)
    assert len(model.validation_scores_) == model.n_iter_
    assert model.best_validation_score_ == max(model.validation_scores_)
    best = int(np.argmax(model.validation_scores_)) + 1
    assert best < model.n_iter_  # so that keeping the last would fail below
    stopped = LatentODERegressor(**{**settings, "max_iter": best}, early_stopping=True).fit(*waves)
    assert same_weights(model, stopped)


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


# Refusals


def test_y_without_any_observation_is_refused(waves):
    X, y = waves
    with pytest.raises(ValueError, match="Input y contains NaN only"):
        LatentODERegressor(**TINY).fit(X, np.full(len(y), np.nan))
    with pytest.raises(ValueError, match="NaN only in output 1"):
        LatentODERegressor(**TINY).fit(X, np.column_stack([y, np.full(len(y), np.nan)]))


def test_an_infinite_y_is_refused(waves):
    X, y = waves
    with pytest.raises(ValueError, match="Input y contains infinity"):
        LatentODERegressor(**TINY).fit(X, np.where(np.arange(len(y)) == 3, np.inf, y))


def test_other_columns_than_in_fit_are_refused(brief, waves):
    X, _ = waves
    with pytest.raises(ValueError, match="feature names"):
        brief.predict(X.rename(columns={"t": "time"}))
    with pytest.raises(ValueError, match="dose"):
        brief.predict(X.assign(dose=1.0))


@pytest.mark.parametrize(
    ("parameter", "bad"),
    [
        ("series", "patient"),
        ("series", 2.5),
        ("series", "t"),
        ("time", "day"),
        ("time", None),
        ("latent_size", 0),
        ("encoder_size", 0),
        ("n_draws", 0),
        ("hidden_layer_sizes", (8, 0)),
        ("method", "dopri9"),
        ("rtol", -1.0),
        ("atol", -1.0),
        ("adjoint", "exact"),
        ("device", "no such device"),
        ("likelihood", "cauchy"),
        ("observation_times", "random"),
        ("encoder", "lstm"),
        ("bound", "vlb"),
        ("n_samples", 0),
        ("kl_annealing", 1.5),
        ("forecasting", -0.1),
        ("posterior", "exact"),
        ("learning_rate", "linear"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(waves, parameter, bad):
    with pytest.raises(ValueError, match=parameter):
        LatentODERegressor(**{**TINY, parameter: bad}).fit(*waves)


def conditioned_pair():
    X, y = make_spirals(n_series=6, n_observations=6, random_state=0)
    model = LatentODERegressor("series", "time", max_iter=2, latent_size=2, hidden_layer_sizes=4, random_state=0)
    model.fit(X, y)
    return model, X, y


def test_training_a_conditioned_copy_further_leaves_the_original_as_it_was():
    model, X, y = conditioned_pair()
    before = model.predict(X)
    later = model.condition(X[:3].assign(series=77), y[:3]).set_params(warm_start=True)
    later.fit(X, -y)
    np.testing.assert_array_equal(model.predict(X), before)


def test_a_warm_start_refuses_times_and_outputs_of_another_kind():
    model, X, y = conditioned_pair()
    model.set_params(warm_start=True)
    with pytest.raises(ValueError, match="holds a date, but held a number"):
        model.fit(X.assign(time=pd.to_datetime(X["time"], unit="D")), y)
    with pytest.raises(ValueError, match="y has 1 outputs, but the model was fitted to 2"):
        model.fit(X, y["x"])
    model.predict(X)  # and it still answers


def test_many_short_series_beside_a_long_one_are_answered_as_each_alone():
    model, X, _ = conditioned_pair()
    asked = pd.concat([pd.DataFrame({"series": 0, "time": np.linspace(0, 2, 300)}), X])
    together = model.predict(asked)
    alone = np.concatenate([model.predict(asked[(asked["series"] == s).to_numpy()]) for s in range(6)])
    order = np.argsort(asked["series"].to_numpy(), kind="stable")
    np.testing.assert_allclose(together[order], alone, atol=0.02)


@pytest.mark.parametrize(
    ("parameter", "other"),
    [("likelihood", "bernoulli"), ("encoder", "rnn"), ("observation_times", "poisson"), ("latent_size", 5)],
)
def test_a_warm_start_refuses_to_build_another_network(waves, parameter, other):
    X, y = waves
    y = (y > 5).astype(float)
    model = LatentODERegressor(**TINY, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=parameter):
        model.set_params(**{parameter: other}).fit(X, y)


def test_alpha_shrinks_the_weights(waves):
    settings = {**TINY, "max_iter": 20}

    def size(alpha):
        model = LatentODERegressor(**settings, alpha=alpha).fit(*waves)
        return sum(float((w**2).sum()) for w in weights(model) if w.ndim > 1)

    assert size(100.0) < 0.9 * size(0.0)


# Each way to fit


@pytest.mark.parametrize(
    "options",
    [
        {"likelihood": "bernoulli"},
        {"likelihood": "poisson"},
        *({"encoder": name} for name in ENCODERS),
        {"bound": "iwae", "n_samples": 3},
        {"n_samples": 2},
        {"kl_annealing": 0.5},
        {"posterior": "encoder"},
        {"forecasting": 0.0},
        {"forecasting": 1.0},
        {"observation_times": "poisson"},
        {"hidden_layer_sizes": ()},
        {"likelihood": "bernoulli", "observation_times": "poisson", "encoder": "ode_rnn", "bound": "iwae"},
        {"early_stopping": True, "likelihood": "poisson", "observation_times": "poisson"},
        {"n_draws": 1},
        {"n_draws": 5},
        {"method": "rk4", "observation_times": "poisson"},
        {"adjoint": "continuous"},
        {"adjoint": "backprop"},
        {"method": "kvaerno3", "max_iter": 1, "rtol": 1e-1, "atol": 1e-1},
        {"learning_rate": "constant"},
        {"dtype": "float64"},
        {"dtype": "float32"},
        {"noise": "coloured"},
        {"noise": "coloured", "observation_times": "poisson", "early_stopping": False},
        {"noise": "coloured", "dtype": "float32", "n_draws": 1},
    ],
    ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()),
)
@pytest.mark.parametrize("with_covariates", [False, True], ids=["bare", "driven"])
def test_each_way_to_fit_answers_everything(waves, options, with_covariates):
    X, y = waves
    if "noise" not in options:  # a memory takes some series
        X, y = X[:30], y[:30]
    kind = options.get("likelihood")
    y = {"bernoulli": (y > 5).astype(float), "poisson": np.round(y)}.get(kind, y)
    if with_covariates:
        X = X.assign(u=np.cos(X["t"]))
    model = LatentODERegressor(**{**TINY, **options}).fit(X, y)
    if "noise" in options:
        assert model.noise_share_[0] > 0.1
    asked = pd.concat([X, X[:5].assign(id="new"), X[:5].assign(t=9.0)])
    mean, std = model.predict(asked, return_std=True)
    assert np.isfinite(mean).all()
    assert (std > 0).all()
    assert np.isfinite(model.score_samples(X, y)).all()
    drawn = model.sample_y(asked, 3)
    assert drawn.shape == (len(asked), 3)
    assert np.isfinite(drawn).all()
    assert np.isfinite(model.latent_trajectory(asked)).all()
    assert np.isfinite(model.latent_states().to_numpy()).all()
    sampled = model.sample(2, [0.0, 1.0, 2.0], random_state=0)
    assert np.isfinite(sampled.drop(columns="id").to_numpy()).all()
    assert np.isfinite(model.condition(X[:5].assign(id="new"), y[:5]).predict(asked)).all()
    if kind == "bernoulli":
        assert ((mean >= 0) & (mean <= 1)).all()
        assert set(np.unique(drawn)) <= {0, 1}
    if kind == "poisson":
        assert (mean > 0).all()
        np.testing.assert_array_equal(drawn, np.round(drawn))
    if "observation_times" in options:
        assert (model.predict_intensity(asked) > 0).all()
    else:
        with pytest.raises(AttributeError, match="observation_times"):
            model.predict_intensity(asked)


@pytest.mark.parametrize(("likelihood", "bad"), [("bernoulli", 2.0), ("poisson", -1.0)])
def test_values_that_cannot_be_observed_are_refused(waves, likelihood, bad):
    X, y = waves
    good = (y > 5).astype(float)
    model = LatentODERegressor(**TINY, likelihood=likelihood).fit(X, good)
    wrong = np.where(np.arange(len(y)) == 3, bad, good)
    for ask in (model.fit, model.condition, model.score_samples):
        with pytest.raises(ValueError, match=likelihood):
            ask(X, wrong)
    with pytest.raises(AttributeError, match="noise"):
        _ = model.noise_std_


def test_float32_arrays_answer_everything(waves):
    X, y = waves
    array = np.column_stack([pd.factorize(X["id"])[0], X["t"], np.cos(X["t"])]).astype(np.float32)
    settings = {**TINY, "series": 0, "time": 1}
    model = LatentODERegressor(**settings, observation_times="poisson", device="cpu").fit(array, y.astype(np.float32))
    for answers in (model.predict(array), model.score_samples(array, y), model.sample_y(array), model.transform(array)):
        assert np.isfinite(answers).all()
    assert np.isfinite(model.condition(array, y).predict(array)).all()
    assert {p.dtype for p in model.module_.parameters()} == {torch.float32}


# Densities


def test_score_samples_is_the_density_of_the_predictive_mixture(fitted, waves):
    """By hand for one latent state's worth: the posterior put at a point gives a normal density."""
    X, y = waves
    model = pickle.loads(pickle.dumps(fitted))
    model.posterior_ = replace(model.posterior_, factor=torch.zeros_like(model.posterior_.factor), n_of_prior=0)
    mean, std = model.predict(X, return_std=True)
    assert (std < model.noise_std_).all()  # of its noise the part with a memory is known in part
    np.testing.assert_allclose(model.score_samples(X, y), norm.logpdf(y, mean, std), rtol=1e-6, atol=1e-8)


def test_densities_integrate_to_one(fitted):
    asked = pd.DataFrame({"id": ["s0"], "t": [1.3]})
    mean, std = (values[0] for values in fitted.predict(asked, return_std=True))
    grid = np.linspace(mean - 12 * std, mean + 12 * std, 801)
    many = pd.concat([asked] * len(grid))
    density = np.exp(fitted.score_samples(many, grid))
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-4)
    assert np.trapezoid(density * grid, grid) == pytest.approx(mean, abs=1e-3)
    assert np.trapezoid(density * (grid - mean) ** 2, grid) == pytest.approx(std**2, rel=1e-3)


def test_densities_are_in_the_units_of_y(waves):
    X, y = waves
    first, second = (LatentODERegressor(**TINY).fit(X, scale * y + 3) for scale in (1.0, 100.0))
    difference = first.score_samples(X, y + 3) - second.score_samples(X, 100 * y + 3)
    np.testing.assert_allclose(difference, np.log(100), rtol=1e-4)


def test_rows_without_observation_have_no_density_and_the_others_keep_theirs(fitted, waves):
    X, y = waves
    missing = np.where(np.arange(len(y)) % 3 == 0, np.nan, y)
    density = fitted.score_samples(X, missing)
    np.testing.assert_array_equal(np.isnan(density), np.isnan(missing))
    seen = ~np.isnan(missing)
    np.testing.assert_allclose(density[seen], fitted.score_samples(X, y)[seen], rtol=1e-7)


def test_outputs_of_a_row_are_judged_together(waves):
    X, y = waves
    Y = np.column_stack([y, 10 * y])
    model = LatentODERegressor(**TINY).fit(X, Y)
    half = np.where(np.array([True, False]), Y, np.nan)
    other = np.where(np.array([False, True]), Y, np.nan)
    # A latent state that is certain: then outputs are independent.
    model.posterior_ = replace(model.posterior_, factor=torch.zeros_like(model.posterior_.factor), n_of_prior=0)
    np.testing.assert_allclose(
        model.score_samples(X, Y), model.score_samples(X, half) + model.score_samples(X, other), rtol=1e-7
    )


def test_densities_come_in_the_order_of_the_rows(fitted, waves):
    X, y = waves
    order = np.random.RandomState(1).permutation(len(y))
    np.testing.assert_allclose(
        fitted.score_samples(X.iloc[order], y[order]), fitted.score_samples(X, y)[order], rtol=1e-4
    )


def test_densities_of_counts_are_probabilities(waves):
    X, y = waves
    model = LatentODERegressor(**TINY, likelihood="poisson").fit(X, np.round(y))
    many = pd.concat([X.iloc[[7]]] * 60)
    assert np.exp(model.score_samples(many, np.arange(60.0))).sum() == pytest.approx(1, abs=1e-6)


# Draws


def test_draws_agree_with_predictions(fitted):
    t = np.linspace(0.5, 3.5, 4)
    asked = pd.DataFrame({"id": np.repeat(["s0", "new"], 4), "t": np.tile(t, 2)})
    model = pickle.loads(pickle.dumps(fitted))
    drawn = model.sample_y(asked, 3000, random_state=0)
    # against as many quasi-random draws as give the moments exactly
    known = model.posterior_
    uniform = torch.full((512, len(known.mean)), -np.log(512), dtype=torch.float64)
    model.posterior_ = Posterior(known.mean, known.factor, uniform)
    mean, std = model.predict(asked, return_std=True)
    np.testing.assert_allclose(drawn.mean(1), mean, atol=4 * std.max() / np.sqrt(3000))
    np.testing.assert_allclose(drawn.std(1), std, rtol=0.07)


def test_rows_of_a_series_share_a_path(fitted):
    asked = pd.DataFrame({"id": ["new", "new", "newer"], "t": [1.0, 1.001, 1.0]})
    drawn = fitted.sample_y(asked, 2000)
    correlation = np.corrcoef(drawn)
    white = fitted.noise_std_[0] ** 2 * (1.0 - fitted.noise_share_[0])
    expected = 1 - white / drawn.std() ** 2
    assert expected > 0.3
    assert correlation[0, 1] == pytest.approx(expected, abs=0.08)
    assert abs(correlation[0, 2]) < 0.1


def test_draws_are_repeatable_and_come_in_the_order_of_the_rows(fitted, waves):
    X, _ = waves
    first = fitted.sample_y(X, 3, random_state=5)
    np.testing.assert_array_equal(first, fitted.sample_y(X, 3, random_state=5))
    assert np.abs(first - fitted.sample_y(X, 3, random_state=6)).max() > 0.1
    assert fitted.sample_y(X).shape == (len(X), 1)
    order = np.random.RandomState(1).permutation(len(X))
    many = fitted.sample_y(X.iloc[order], 400).mean(1)
    np.testing.assert_allclose(many, fitted.sample_y(X, 400, random_state=1).mean(1)[order], atol=0.25)


def test_draws_of_several_outputs(waves):
    X, y = waves
    model = LatentODERegressor(**TINY).fit(X, np.column_stack([y, -100 * y]))
    drawn = model.sample_y(X, 50)
    assert drawn.shape == (len(X), 2, 50)
    assert drawn[:, 1].std() > 20 * drawn[:, 0].std()
    one = LatentODERegressor(**TINY).fit(X, y[:, None])
    assert one.sample_y(X, 4).shape == (len(X), 1, 4)


# New series


def test_new_series_are_a_long_frame(fitted):
    frame = fitted.sample(3, [2.0, 0.0, 1.0], random_state=0)
    assert frame.columns.tolist() == ["id", "t", "y"]
    assert frame["id"].tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert frame["t"].tolist() == [0.0, 1.0, 2.0] * 3
    pd.testing.assert_frame_equal(frame, fitted.sample(3, [2.0, 0.0, 1.0], random_state=0))
    assert not frame.equals(fitted.sample(3, [2.0, 0.0, 1.0], random_state=1))


def test_new_series_are_those_of_the_prior(fitted, waves):
    times = np.array([0.0, 1.0, 2.5])
    frame = fitted.sample(2000, times, random_state=0)
    drawn = frame["y"].to_numpy().reshape(2000, 3)
    # where a series never seen is taken to have its first row
    start = float(np.median(waves[0].groupby("id")["t"].min()))
    asked = pd.DataFrame({"id": "new", "t": start + times})
    expected = fitted.sample_y(asked, 2000)
    np.testing.assert_allclose(drawn.mean(0), expected.mean(1), atol=0.1)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(expected), atol=0.1)


@pytest.mark.parametrize(
    "times", [[0.0, 1.0, 2.0], pd.Series([0.0, 1.0, 2.0], index=[5, 6, 7]), pd.Index([0.0, 1.0, 2.0])]
)
def test_times_of_new_series_may_be_of_any_sequence(fitted, times):
    assert fitted.sample(2, times, random_state=0)["t"].tolist() == [0.0, 1.0, 2.0] * 2


def test_new_series_have_times_of_their_own_kind(waves):
    X, y = waves
    days = pd.to_timedelta(X["t"].round(2), unit="D")
    dates = pd.Timestamp("2024-03-01") + days
    for column, dtype in (
        (dates, "datetime64"),
        (dates.dt.tz_localize("Europe/Berlin"), "datetime64"),
        (days, "timedelta64"),
    ):
        dated = X.assign(t=column)
        model = LatentODERegressor(**TINY).fit(dated, y)
        frame = model.sample(2, random_state=0)
        assert len(frame) == 100
        assert str(frame["t"].dtype).startswith(dtype)
        assert (getattr(frame["t"].dtype, "tz", None) is None) == (getattr(column.dtype, "tz", None) is None)
        assert column.min() - pd.Timedelta(days=1) <= frame["t"].min() <= column.max()
        # It can be asked about, once its ids can't be taken for those of fit.
        asked = frame[["id", "t"]].assign(id="new" + frame["id"].astype(str))
        assert np.isfinite(model.predict(asked)).all()
        for times in (column[:4], pd.Index(column[:4]), column[:4].tolist()):
            given = model.sample(2, times, random_state=0)
            assert given["t"].tolist() == sorted(column[:4]) * 2
            assert str(given["t"].dtype).startswith(dtype)
        with pytest.raises(ValueError, match="times holds a number, but the time column held a"):
            model.sample(2, [0.0, 1.0])
    with pytest.raises(ValueError, match="n_series must be an integer, 1 or more"):
        model.sample(0)


def test_new_series_have_covariates(waves):
    X, y = waves
    X = X.assign(dose=np.linspace(1, 3, len(X)))
    model = LatentODERegressor(**TINY).fit(X, y)
    frame = model.sample(2, [0.0, 1.0], random_state=0)
    assert frame.columns.tolist() == ["id", "t", "dose", "y"]
    np.testing.assert_allclose(frame["dose"], 2.0)
    given = np.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    np.testing.assert_allclose(model.sample(2, [0.0, 1.0], covariates=given)["dose"], [1, 2, 3, 4])
    backward = model.sample(2, [1.0, 0.0], covariates=given[:, ::-1], random_state=3)
    pd.testing.assert_frame_equal(backward, model.sample(2, [0.0, 1.0], covariates=given, random_state=3))


# Latent states


def test_latent_states_are_of_each_series(fitted, waves):
    X, _ = waves
    states = fitted.latent_states()
    assert states.shape == (8, 4)
    assert states.index.name == "id"
    assert sorted(states.index) == sorted(X["id"].unique())
    assert states.columns.tolist() == list(fitted.get_feature_names_out())
    by_row = fitted.transform(X)
    assert by_row.shape == (len(X), 4)
    np.testing.assert_array_equal(by_row, states.loc[X["id"]].to_numpy())
    assert (np.abs(states.to_numpy()) > 1e-3).any()


def test_an_unseen_series_has_the_priors_latent_state(fitted, waves):
    X, _ = waves
    asked = pd.concat([X[:2].assign(id="new"), X[:1]])
    states = fitted.transform(asked)
    assert not states[:2].any()
    assert states[2].any()


def test_latent_states_as_a_frame(fitted, waves):
    X, _ = waves
    model = pickle.loads(pickle.dumps(fitted)).set_output(transform="pandas")
    frame = model.transform(X)
    assert isinstance(frame, pd.DataFrame)
    assert frame.columns.tolist() == list(model.get_feature_names_out())
    assert frame.index.equals(X.index)


def test_latent_trajectories_start_at_the_latent_state_and_move(fitted):
    first = pd.DataFrame({"id": fitted.context_.ids, "t": fitted.context_.origins})
    model = pickle.loads(pickle.dumps(fitted))
    model.posterior_ = replace(model.posterior_, factor=torch.zeros_like(model.posterior_.factor), n_of_prior=0)
    np.testing.assert_allclose(model.latent_trajectory(first), model.transform(first), atol=1e-6)
    moved = model.latent_trajectory(first.assign(t=first["t"] + 1))
    assert np.abs(moved - model.transform(first)).max() > 0.01


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
    up, down = (model.predict(asked) for asked in driven)
    expected = np.append(0.0, np.cumsum(np.diff(t) * (ups[1:] + ups[:-1]) / 2))
    assert up[-1] - down[-1] == pytest.approx(2 * expected[-1], rel=0.25)  # though u is 0 in both
    slopes = [np.polyfit(t, model.predict(asked), 1)[0] for asked in static]
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
    model = LatentODERegressor(**settings, observation_times="poisson", n_iter_no_change=None).fit(X, y)
    for u in (-1.0, 1.0):
        asked = pd.DataFrame({"id": -1, "t": [1.0, 2.5, 4.0], "u": u})
        np.testing.assert_allclose(model.predict_intensity(asked), np.exp(0.8 + 0.8 * u), rtol=0.25)


def test_intensities_are_per_unit_of_time(waves):
    X, y = waves
    numbers = LatentODERegressor(**TINY, observation_times="poisson").fit(X, y)
    slow = X.assign(t=X["t"] * 100)
    other = LatentODERegressor(**TINY, observation_times="poisson").fit(slow, y)
    np.testing.assert_allclose(other.predict_intensity(slow) * 100, numbers.predict_intensity(X), rtol=1e-4)
    span = (X.groupby("id")["t"].max() - X.groupby("id")["t"].min()).sum()
    assert numbers.predict_intensity(X).mean() == pytest.approx((len(X) - 8) / span, rel=0.3)


# Conditioning, to the bit


def test_conditioning_one_series_leaves_the_others_as_they_were_to_the_bit(fitted, waves):
    X, _ = waves
    others = X[X["id"] != "s2"]
    before = fitted.predict(others, return_std=True)
    more = pd.DataFrame({"id": ["s2"] * 2 + ["new"] * 2, "t": [1.0, 2.0, 0.0, 1.0]})
    after = fitted.condition(more, [9.0, 8.0, 7.0, 6.0]).predict(others, return_std=True)
    np.testing.assert_array_equal(before, after)


def test_a_known_series_may_be_conditioned_on_earlier_rows(fitted, waves):
    X, _ = waves
    start = X["t"][X["id"] == "s1"].min()
    earlier = pd.DataFrame({"id": ["s1"], "t": [start - 0.5]})
    before, std = fitted.predict(earlier, return_std=True)
    value = before + 2 * std
    after = fitted.condition(earlier, value).predict(earlier)
    assert before[0] < after[0] < value[0]
    far = fitted.condition(X[:10].assign(id="new", t=X["t"][:10] + 1), np.full(10, 5.0))
    assert np.isfinite(far.condition(X[:2].assign(id="new", t=[-1.0, -2.0]), [5.0, 5.0]).predict(X)).all()


def test_the_encoders_posterior_is_the_wider_one_of_what_it_missed(waves):
    X, y = waves
    laplace = LatentODERegressor(**TINY).fit(X, y)
    plain = LatentODERegressor(**TINY, posterior="encoder").fit(X, y)
    for (name, p), q in zip(laplace.module_.named_parameters(), weights(plain), strict=True):
        assert name == "likelihood.log_noise" or torch.equal(p, q)  # the noise may be widened after training
    assert laplace.score_samples(X, y).mean() > plain.score_samples(X, y).mean()


# The answers, by brute force


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "poisson"])
@pytest.mark.parametrize("latent_size", [1, 2])
def test_predictions_and_densities_are_those_of_a_grid_of_initial_states(likelihood, latent_size, by_hand):
    rng = np.random.RandomState(1)
    X, y = make_waves(6, 6)
    y = {"gaussian": y, "bernoulli": (y > 5).astype(float), "poisson": rng.poisson(y - 3.9).astype(float)}[likelihood]
    settings = {**TINY, "latent_size": latent_size, "max_iter": 2, "dtype": "float64", "rtol": 1e-8, "atol": 1e-8}
    model = LatentODERegressor(**settings, likelihood=likelihood).set_params(n_draws=512).fit(X, y)
    scale, shift = (model.y_scaler_.scale_[0], model.y_scaler_.mean_[0]) if likelihood == "gaussian" else (1.0, 0.0)
    hand = by_hand(model.module_)
    axis = np.linspace(-5.5, 5.5, 401 if latent_size == 1 else 81)
    z0 = np.stack(np.meshgrid(*[axis] * latent_size), axis=-1).reshape(-1, latent_size)
    for name in X["id"].unique()[:2]:
        rows = (X["id"] == name).to_numpy()
        start = float(model.context_.origins[model.context_.ids.get_loc(name)])
        times, values = ((X["t"][rows] - start) / model.time_scale_).to_numpy(), (y[rows, None] - shift) / scale
        log_joint = hand.log_likelihood(z0, times, values) - 0.5 * (z0**2).sum(1)
        weights = np.exp(log_joint - log_joint.max())
        weights /= weights.sum()
        asked = start + np.array([0.0, 1.3, 2.9])
        eta = hand.eta(z0, (asked - start) / model.time_scale_)
        means = hand.mean(eta)
        mean = np.einsum("n,nto->t", weights, means)
        std = np.sqrt(np.einsum("n,nto->t", weights, hand.variance(eta) + (means - mean[:, None]) ** 2))
        given = np.full((3, 1), values[0, 0])
        density = np.log(weights @ np.exp(hand.log_prob(eta, given)[..., 0])) - np.log(scale)
        questions = pd.DataFrame({"id": name, "t": asked})
        found_mean, found_std = model.predict(questions, return_std=True)
        np.testing.assert_array_less(np.abs(found_mean - (mean * scale + shift)), 0.02 * std * scale)
        np.testing.assert_allclose(found_std, std * scale, rtol=0.02)
        np.testing.assert_allclose(model.score_samples(questions, np.full(3, y[rows][0])), density, atol=0.02)


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


@pytest.mark.parametrize(("first", "then"), [("laplace", "encoder"), ("encoder", "laplace")])
def test_posteriors_are_of_one_kind(waves, first, then):
    X, y = waves
    model = LatentODERegressor(**TINY, posterior=first).fit(X, y)
    twin = X[X["id"] == "s3"].assign(id="twin")
    plain = model.condition(twin, y[X["id"] == "s3"])
    changed = model.set_params(posterior=then).condition(twin, y[X["id"] == "s3"])
    np.testing.assert_array_equal(changed.predict(twin), plain.predict(twin))


def test_outputs_in_another_order_are_refused(waves):
    X, y = waves
    Y = pd.DataFrame({"a": y, "b": -y})
    model = LatentODERegressor(**TINY).fit(X, Y)
    for method in (model.condition, model.score, model.score_samples):
        with pytest.raises(ValueError, match="y has the columns"):
            method(X, Y[["b", "a"]])


def test_a_score_of_nothing_is_nan(brief, waves):
    X, _ = waves
    alone = np.arange(len(X)) == 3
    for y, weights in ((np.full(len(X), np.nan), None), (waves[1], alone.astype(float))):
        with pytest.warns(UndefinedMetricWarning, match="score is NaN: R\\^2 needs two rows"):
            assert np.isnan(brief.score(X, y, weights))


def test_samples_long_ago(waves):
    X, y = waves
    days = (X["t"] * 10).round().astype(int)
    dates = pd.Series(np.datetime64("1000-01-01", "s") + days.to_numpy() * np.timedelta64(86400, "s"))
    model = LatentODERegressor(**TINY).fit(X.assign(t=dates.to_numpy()), y)
    sampled = model.sample(1)
    assert sampled["t"].dt.year.between(999, 1001).all()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n_series": 2.5}, "n_series must be an integer"),
        ({"times": []}, "one time at least"),
        ({"times": [[0.0, 1.0]]}, "one dimension"),
        ({"covariates": np.ones((1, 50, 1))}, "fitted without any"),
    ],
)
def test_bad_samples_are_refused(brief, asked, message):
    with pytest.raises(ValueError, match=message):
        brief.sample(**asked)


def test_counts_too_large_are_refused(waves):
    X, y = waves
    with pytest.raises(ValueError, match="counts up to"):
        LatentODERegressor(**TINY, likelihood="poisson").fit(X, np.round(y) * 1e15)


def test_what_is_asked_too_far_away_says_so(brief, waves):
    X, _ = waves
    with pytest.raises(RuntimeError, match="Ask for times closer to the data"):
        brief.predict(X[:1].assign(t=-1e7))


# What a newcomer runs into


@pytest.fixture(scope="module")
def tiny_waves():
    X, y = make_waves(n_series=4)
    return LatentODERegressor(**TINY).fit(X, y), X, y


@pytest.mark.parametrize("n", [0, -1, 2.5, "a"])
def test_numbers_of_draws_are_checked(tiny_waves, n):
    model, X, _ = tiny_waves
    with pytest.raises(ValueError, match=f"n_samples must be an integer, 1 or more; got {n!r}"):
        model.sample_y(X, n)
    with pytest.raises(ValueError, match=f"n_series must be an integer, 1 or more; got {n!r}"):
        model.sample(n)


def test_times_to_sample_at_are_a_list():
    X, y = make_waves(n_series=4)
    X["u"] = 1.0 + X["t"]
    model = LatentODERegressor(**TINY).fit(X, y)
    with pytest.raises(ValueError, match=r"times must have one dimension .* got 3\.0"):
        model.sample(2, times=3.0)
    with pytest.raises(ValueError, match="The array times holds"):
        model.sample(2, times=["a", "b"])
    with pytest.raises(ValueError, match=r"covariates must broadcast to .* = \(2, 2, 1\); got shape \(5, 7\)"):
        model.sample(2, times=[1.0, 2.0], covariates=np.zeros((5, 7)))
    with pytest.raises(ValueError, match="covariates contains NaN"):
        model.sample(2, times=[1.0, 2.0], covariates=np.nan)


def test_ids_of_another_type_are_warned_of_and_others_are_the_priors_silently(tiny_waves):
    model, X, _ = tiny_waves
    with pytest.warns(UserWarning, match="ids are integer here, but were string in fit") as caught:
        from_numbers = model.predict(X.assign(id=X["id"].str[1:].astype(int)))
    assert caught[0].filename == __file__
    np.testing.assert_allclose(from_numbers, model.predict(X.assign(id="new" + X["id"])))


def test_an_unknown_series_asked_long_before_it_is_taken_to_start_is_warned_of(tiny_waves):
    model, X, _ = tiny_waves
    start = X.groupby("id")["t"].min().median()
    asked = pd.DataFrame({"id": ["s0", "typo", "typo"], "t": [start - 9.0, start, start - 0.9 * model.time_scale_]})
    model.predict(asked)  # 's0' is known
    with pytest.warns(
        UserWarning, match="Series not known are taken to start .* 'typo' is asked long before"
    ) as caught:
        model.predict(asked.assign(t=start - 1.1 * model.time_scale_))
    assert caught[0].filename == __file__


def test_an_unknown_series_is_named_as_its_id_is_written(tiny_waves):
    model, X, _ = tiny_waves
    early = {"t": [X["t"].min() - 2.0 * model.time_scale_] * 2}
    with pytest.warns(UserWarning, match="and 77 is asked long before that"):
        model.predict(pd.DataFrame({"id": [77, "s0"], **early}, dtype=object).infer_objects())
    numbers = copy.copy(model)
    numbers.context_ = replace(model.context_, ids=pd.RangeIndex(model.context_.n_series))
    with pytest.warns(UserWarning, match="and 77 is asked long before that"):
        numbers.predict(pd.DataFrame({"id": [77, 0], **early}))


def test_an_explosion_far_from_the_data_is_warned_of(tiny_waves):
    model, X, _ = tiny_waves
    wild = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        wild.module_.decoder.linear.weight.mul_(1e9)
    with pytest.warns(ConvergenceWarning, match=r"more than 1e\+06 standard deviations"):
        wild.predict(X)


def test_an_output_that_was_never_observed_is_named():
    X, y = make_waves(n_series=4)
    with pytest.raises(ValueError, match="NaN only in output 'bili'"):
        LatentODERegressor(**TINY).fit(X, pd.DataFrame({"weight": y, "bili": np.nan}))


def test_values_far_from_what_is_predicted_are_warned_of_where_their_density_underflows(tiny_waves):
    model, X, y = tiny_waves
    far = np.asarray(y, dtype=float).copy()
    far[1] = 1e200
    with pytest.warns(UserWarning, match="The log-densities of 1 of .* samples, such as number 1"):
        density = model.score_samples(X, far)
    assert density[1].item() == -np.inf
    with pytest.raises(ValueError, match="y holds values too large to square"):
        model.score(X, far)


def test_draws_that_no_memory_holds_and_covariates_that_are_none_are_named(tiny_waves):
    model, X, _ = tiny_waves
    with pytest.raises(MemoryError, match="n_samples=1000000000000000 takes more memory than there is"):
        model.sample_y(X, 10**15)
    with pytest.raises(MemoryError, match="n_series=1000000000000000 takes more memory than there is"):
        model.sample(10**15)


@pytest.mark.parametrize("ids", [[[1], [2]], [{"id": 1}, {"id": 2}], [{1}, {2}]])
def test_ids_that_have_no_hash_are_refused_by_the_column_s_name(ids):
    X = pd.DataFrame({"who": ids, "when": [0.0, 1.0]})
    with pytest.raises(ValueError, match=rf"series column 'who' holds {type(ids[0]).__name__}, which can't be told"):
        LatentODERegressor(series="who", time="when").fit(X, [0.0, 1.0])


@pytest.mark.parametrize("times", [[-1.7e308, 1.7e308], [-1e308, 0.0, 1e308]])
def test_times_that_span_more_than_there_are_numbers_are_refused_by_the_column_s_name(times):
    X = pd.DataFrame({"when": times})
    with pytest.raises(ValueError, match="time column 'when' spans more than float64 can hold"):
        LatentODERegressor(time="when").fit(X, np.zeros(len(times)))


# Weights of rows


def weighted_panel(seed=0):
    """Rows in no order with a covariate, two outputs of which some were not observed, and whole numbers as weights."""
    X, y = make_waves(6, 8, seed)
    rng = np.random.RandomState(seed)
    X, y = X.assign(u=rng.normal(size=48)), with_gaps(y)
    counts = rng.randint(0, 4, 48)
    counts[X["id"] == "s3"] = 0  # a series that vanishes
    order = rng.permutation(48)
    return X.iloc[order], y[order], counts[order]


def with_gaps(y):
    y = np.stack([y, 1.0 - 2.0 * y], axis=1)
    y[::5, 0] = np.nan
    y[7] = np.nan
    return y


def repeated(X, y, counts, seed=1):
    rows = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(X)), counts))
    return X.iloc[rows], y[rows]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"early_stopping": False, "noise": "coloured", "bound": "iwae", "n_samples": 2},
        {"likelihood": "bernoulli", "observation_times": "poisson"},
        {"likelihood": "poisson", "posterior": "encoder"},
    ],
    ids=["held out", "coloured", "bernoulli and times", "poisson and encoder"],
)
def test_a_row_of_weight_k_is_k_rows_and_one_without_weight_is_left_out(changed):
    X, y, counts = weighted_panel()
    if "likelihood" in changed:
        y = np.where(np.isnan(y), np.nan, (y > np.nanmean(y, axis=0)).astype(float))
    model = LatentODERegressor(**{**TINY, **changed})
    weighted = clone(model).fit(X, y, sample_weight=counts)
    expected = clone(model).fit(*repeated(X, y, counts))
    assert same_weights(weighted, expected)
    assert weighted.loss_curve_ == expected.loss_curve_
    assert weighted.validation_scores_ == expected.validation_scores_
    for found, other in zip(weighted.predict(X, return_std=True), expected.predict(X, return_std=True), strict=True):
        np.testing.assert_array_equal(found, other)
    assert "s3" not in weighted.context_.ids
    assert not same_weights(weighted, clone(model).fit(X, y))


def test_noise_with_a_memory_is_found_from_weights_as_from_repeated_rows():
    rng = np.random.RandomState(0)
    X, _ = make_waves(12, 10)
    y = pd.Series(rng.standard_normal(120)).groupby(X["id"]).cumsum().to_numpy()
    counts = rng.randint(1, 4, 120)
    model = LatentODERegressor(**{**TINY, "noise": "coloured"}, early_stopping=False)
    weighted, expected = model.fit(X, y, counts), clone(model).fit(*repeated(X, y, counts))
    assert weighted.noise_share_[0] > 0.1
    assert weighted.noise_share_ == expected.noise_share_
    np.testing.assert_array_equal(weighted.sample_y(X, 3), expected.sample_y(X, 3))


def test_weights_of_one_are_no_weights(waves):
    weighted = LatentODERegressor(**TINY).fit(*waves, sample_weight=np.ones(80))
    assert same_weights(weighted, LatentODERegressor(**TINY).fit(*waves))
    assert weighted.context_.weights is None


def test_units_are_those_of_the_weighted_values():
    X, y, counts = weighted_panel()
    fitted = LatentODERegressor(**{**TINY, "max_iter": 1}).fit(X, y, sample_weight=counts)
    seen = ~np.isnan(y)
    mean = [np.average(y[seen[:, k], k], weights=counts[seen[:, k]]) for k in range(2)]
    np.testing.assert_allclose(fitted.y_scaler_.mean_, mean, rtol=1e-12)
    np.testing.assert_allclose(fitted.covariate_scaler_.mean_, np.average(X["u"], weights=counts), rtol=1e-12)


def test_predictions_go_to_the_rows_that_weigh_more():
    t = np.tile(np.arange(8.0), 8)
    X = pd.DataFrame({"id": np.repeat(np.arange(4), 16), "t": t[:64]})
    y = np.where(np.arange(64) % 16 < 8, 1.0, -1.0)  # both at each time
    for weight in (1.0, 3.0):
        settings = {**TINY, "max_iter": 60, "learning_rate_init": 3e-2}
        model = LatentODERegressor(**settings, early_stopping=False).fit(X, y, sample_weight=np.where(y > 0, weight, 1))
        # The weighted mean of the values, and their spread about it.
        mean, std = model.predict(X, return_std=True)
        share = weight / (1.0 + weight)
        np.testing.assert_allclose(mean.mean(), 2.0 * share - 1.0, atol=0.1)
        np.testing.assert_allclose(std.mean(), 2.0 * np.sqrt(share * (1.0 - share)), atol=0.15)


def test_conditioning_on_a_row_of_weight_k_is_conditioning_on_k_rows(fitted):
    X, y = make_waves(3, 6, seed=5)
    X = X.assign(id="new " + X["id"])
    counts = np.arange(18) % 3
    found = fitted.condition(X, y, sample_weight=counts)
    expected = fitted.condition(*repeated(X, y, counts))
    for answer, other in zip(found.predict(X, return_std=True), expected.predict(X, return_std=True), strict=True):
        np.testing.assert_array_equal(answer, other)
    assert np.abs(found.predict(X) - fitted.condition(X, y).predict(X)).max() > 1e-3


@pytest.mark.parametrize("posterior", ["laplace", "encoder"])
def test_a_row_that_is_passed_again_in_another_call_counts_twice(posterior, waves):
    model = LatentODERegressor(**{**TINY, "max_iter": 1, "posterior": posterior}).fit(*waves)
    X, y = make_waves(3, 6, seed=5)
    X = X.assign(id="new " + X["id"])
    found = model.condition(X, y).condition(X[:4], y[:4])
    expected = model.condition(X, y, sample_weight=1.0 + (np.arange(18) < 4))
    for answer, other in zip(found.predict(X, return_std=True), expected.predict(X, return_std=True), strict=True):
        np.testing.assert_allclose(answer, other, rtol=1e-9)


def test_the_score_leaves_rows_without_weight_out(fitted, waves):
    X, y = waves
    counts = np.arange(80) % 3
    assert fitted.score(X, y, counts) == pytest.approx(fitted.score(*repeated(X, y, counts)), rel=1e-12)
    spoilt = np.where(counts == 0, 1e9, y)
    assert fitted.score(X, spoilt, counts) == fitted.score(X, y, counts)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.ones(79), r"sample_weight.shape == \(79,\), expected \(80,\)"),
        (-np.ones(80), "Negative values in data passed to `sample_weight`"),
        (np.zeros(80), "non-zero"),
        (np.full(80, np.nan), "sample_weight contains NaN"),
        (["x"] * 80, "could not convert string to float"),
    ],
)
def test_weights_that_are_none_are_refused(waves, wrong, message):
    model = LatentODERegressor(**TINY)
    with pytest.raises(ValueError, match=message):
        model.fit(*waves, sample_weight=wrong)
    assert not hasattr(model, "module_")


def test_an_output_that_is_seen_in_rows_without_weight_only_was_never_observed(waves):
    X, y = waves
    values = np.column_stack([y, np.where(np.arange(80) < 10, y, np.nan)])
    with pytest.raises(ValueError, match="NaN only in output 1 in rows with weight"):
        LatentODERegressor(**TINY).fit(X, values, sample_weight=(np.arange(80) >= 10).astype(float))


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_weights_of_any_scale_train(waves, scale):
    model = LatentODERegressor(**TINY).fit(*waves, sample_weight=np.full(80, scale))
    assert np.isfinite(model.predict(waves[0])).all()


def test_weights_are_routed_through_pipelines_and_searches():
    X, y = make_waves(6, 8)
    weights = np.random.RandomState(0).randint(0, 3, 48).astype(float)
    with config_context(enable_metadata_routing=True):
        model = LatentODERegressor(**TINY).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        piped = make_pipeline("passthrough", model).fit(X, y, sample_weight=weights)
        assert same_weights(piped[-1], LatentODERegressor(**TINY).fit(X, y, weights))
        cv = ForecastSplit(n_splits=1, series="id", time="t")
        search = GridSearchCV(model, {"n_draws": [4]}, cv=cv, error_score="raise").fit(X, y, sample_weight=weights)
    ((train, test),) = cv.split(X)
    alone = LatentODERegressor(**{**TINY, "n_draws": 4}).fit(X.iloc[train], y[train], weights[train])
    assert search.best_score_ == alone.score(X.iloc[test], y[test], weights[test])


def test_fitting_on_with_weights_keeps_what_was_learned(waves):
    X, y = waves
    counts = np.arange(80) % 3
    model = LatentODERegressor(**TINY, warm_start=True).fit(X, y)
    other = pickle.loads(pickle.dumps(model))
    model.fit(X, y, sample_weight=counts)
    assert same_weights(model, other.fit(*repeated(X, y, counts)))
