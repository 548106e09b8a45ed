import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score

from skode import LatentODERegressor
from skode.datasets import make_spirals

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
}


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
    settings = {**TINY, "max_iter": 40, "latent_size": 4, "batch_size": 4, "learning_rate_init": 3e-2}
    return LatentODERegressor(**settings, n_iter_no_change=None).fit(*waves)


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
    model = LatentODERegressor(**{**TINY, "max_iter": 5}, adjoint=adjoint).fit(*waves)
    assert model.loss_curve_[-1] < model.loss_curve_[0]


def test_a_fixed_step_method_trains(waves):
    model = LatentODERegressor(**{**TINY, "max_iter": 5}, method="rk4").fit(*waves)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
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
    later = pd.DataFrame({"id": X["id"].iloc[[0]], "t": [50.0]})
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


def test_the_prediction_is_less_certain_than_the_noise(fitted, waves):
    _, std = fitted.predict(waves[0], return_std=True)
    assert (std > fitted.noise_std_).all()


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
    np.testing.assert_array_equal(fitted.predict(asked), fitted.predict(asked.assign(id="new")))


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
    settings = {**TINY, "max_iter": 15, "learning_rate_init": 0.1}
    model = LatentODERegressor(**settings, early_stopping=True).fit(*waves)
    assert len(model.validation_scores_) == model.n_iter_
    assert model.best_validation_score_ == max(model.validation_scores_)
    best = int(np.argmax(model.validation_scores_)) + 1
    assert best < model.n_iter_  # so that keeping the last would fail below
    stopped = LatentODERegressor(**{**settings, "max_iter": best}, early_stopping=True).fit(*waves)
    assert same_weights(model, stopped)


def test_warm_start_goes_on(waves):
    settings = {**TINY, "max_iter": 20}
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
