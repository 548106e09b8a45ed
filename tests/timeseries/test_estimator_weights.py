"""Weights of rows."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skode import LatentODERegressor
from skode.model_selection import ForecastSplit
from tests.timeseries.waves import TINY, make_waves, same_weights

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


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
    last = X["t"] == X.groupby("id")["t"].transform("max")
    counts = np.where(last, 1, np.arange(80) % 3)  # how far series are solved stays
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
