"""Fits of CNFRegressor to simulations whose conditional densities are known, and what it answers and refuses."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skode import CNFRegressor
from skode.conditional.fitted import mean_difference, points_on_the_line
from skode.model_selection import DistributionScorer

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SMALL = {"hidden_layer_sizes": (4,), "location_layer_sizes": (4,), "max_iter": 2, "random_state": 0}


def branches(n, seed):
    """A target on either of two branches, ``+-(1 + x)``, with its log-densities."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, n)
    y = rng.choice([-1, 1], n) * (1 + x) + rng.normal(0, 0.1, n)
    density = 0.5 * (norm.pdf(y, 1 + x, 0.1) + norm.pdf(y, -1 - x, 0.1))
    return x[:, None], y, np.log(density)


@pytest.fixture(scope="module")
def fitted():
    X, y, _ = branches(500, 0)
    return CNFRegressor(random_state=0).fit(X, y)


def few(n_outputs=None):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    return X, X[:, 0] + rng.normal(size=40) if n_outputs is None else rng.normal(size=(40, n_outputs))


@pytest.fixture(scope="module")
def small():
    return CNFRegressor(**SMALL).fit(*few())


def test_two_branches_are_found(fitted):
    X, y, truth = branches(1000, 1)
    found = fitted.log_density(X, y)
    # A normal density of the right mean and spread is .9 nats a row worse than the truth.
    assert truth.mean() - found.mean() < 0.25
    normal = norm.logpdf(y, 0.0, np.hypot(1 + X[:, 0], 0.1)).mean()
    assert truth.mean() - normal > 0.8


def test_means_and_spreads_are_those_of_the_mixture(fitted):
    X = np.linspace(-0.6, 0.9, 6)[:, None]
    mean, std = fitted.predict(X, return_std=True)
    np.testing.assert_allclose(mean, 0.0, atol=0.25)
    np.testing.assert_allclose(std, np.hypot(1 + X[:, 0], 0.1), rtol=0.15)
    draws = fitted.sample_y(X, 4000)
    np.testing.assert_allclose(std, draws.std(axis=1), rtol=0.03)


def test_intervals_hold_their_share_of_new_targets(fitted):
    X, y, _ = branches(1000, 1)
    for level in (0.8, 0.95):
        low, high = fitted.predict_interval(X, level).T
        assert ((low <= y) & (y <= high)).mean() == pytest.approx(level, abs=0.08)


def test_a_spread_that_depends_on_the_features_is_learned():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (600, 1))
    y = 3 * X[:, 0] + np.exp(1.5 * X[:, 0]) * rng.normal(size=600)
    mean, std = CNFRegressor(random_state=0).fit(X, y).predict(np.array([[-0.8], [0.0], [0.8]]), return_std=True)
    np.testing.assert_allclose(std, np.exp([-1.2, 0.0, 1.2]), rtol=0.25)
    np.testing.assert_allclose(mean, [-2.4, 0.0, 2.4], atol=0.5)


def test_several_targets_have_a_joint_density():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (600, 1))
    angle = np.pi * X[:, 0] / 2
    along, across = rng.normal(size=600), 0.2 * rng.normal(size=600)
    y = np.stack([np.cos(angle) * along - np.sin(angle) * across, np.sin(angle) * along + np.cos(angle) * across], 1)
    model = CNFRegressor(random_state=0).fit(X, y)
    draws = model.sample_y(np.array([[-0.5], [0.5]]), 500)
    assert draws.shape == (2, 2, 500)
    correlations = [np.corrcoef(draw)[0, 1] for draw in draws]
    truth = 0.96 / 1.04  # (1 - .04) / (1 + .04) at an angle of 45 degrees
    np.testing.assert_allclose(correlations, [-truth, truth], atol=0.15)
    assert model.predict(X[:3]).shape == (3, 2)
    assert model.predict_interval(X[:3]).shape == (3, 2, 2)
    assert model.log_density(X[:3], y[:3]).shape == (3,)
    # The mean of the draws' log-densities is that of the density's own entropy, which is known.
    here = np.repeat([[0.5]], 500, axis=0)
    entropy = np.log(2 * np.pi * np.e) + np.log(0.2)
    assert -model.log_density(here, draws[1].T).mean() == pytest.approx(entropy, abs=0.3)


def test_quantiles_are_those_of_draws_and_keep_their_order(fitted):
    X = np.array([[-0.5], [0.7]])
    levels = np.array([0.02, 0.3, 0.5, 0.9, 0.98])
    quantiles = fitted.predict_quantile(X, levels)
    assert (np.diff(quantiles, axis=1) > 0).all()
    draws = fitted.sample_y(X, 4000, random_state=1)
    shares = (draws[:, :, None] <= quantiles[:, None]).mean(1)
    np.testing.assert_allclose(shares, np.tile(levels, (2, 1)), atol=0.03)
    np.testing.assert_allclose(fitted.predict_quantile(X, 0.3), quantiles[:, 1], rtol=1e-12)
    np.testing.assert_allclose(fitted.predict_interval(X, 0.96), quantiles[:, [0, -1]], rtol=1e-6)


def test_densities_integrate_to_one_in_the_units_of_y():
    X, y, _ = branches(100, 0)
    for unit in (1.0, 1000.0):
        model = CNFRegressor(**SMALL, marginals="johnson").fit(X, unit * y)
        grid = np.linspace(-8, 8, 2001) * unit
        density = np.exp(model.log_density(np.full((2001, 1), 0.3), grid))
        assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=2e-3)


def test_the_unit_of_targets_does_not_matter(small):
    X, y = few()
    scaled = CNFRegressor(**SMALL).fit(X, 1000.0 * y + 7.0)
    np.testing.assert_allclose(scaled.predict(X), 1000.0 * small.predict(X) + 7.0, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(
        scaled.log_density(X, 1000.0 * y + 7.0), small.log_density(X, y) - np.log(1000.0), atol=1e-4
    )


def test_mean_differences_are_gaussians():
    # E |Y - Y'| = 2 sigma / sqrt(pi)
    points = np.linspace(-6, 6, 201)
    weights = norm.pdf(points) / norm.pdf(points).sum()
    found = mean_difference(np.stack([0.5 * points, 2.0 * points])[:, None], weights)
    np.testing.assert_allclose(found[:, 0], 2 * np.array([0.5, 2.0]) / np.sqrt(np.pi), rtol=1e-3)


def test_points_stand_for_a_normal_variable():
    points, weights = points_on_the_line()
    moments = [weights @ points**k for k in range(5)]
    np.testing.assert_allclose(moments, [1, 0, 1, 0, 3], atol=0.02)
    assert weights @ np.exp(points) == pytest.approx(np.exp(0.5), rel=1e-3)


def test_crps_is_that_of_its_own_draws(fitted):
    X, y, _ = branches(5, 2)
    draws = np.sort(fitted.sample_y(X, 4000, random_state=0), axis=1)
    weights = np.full(4000, 1 / 4000)
    expected = np.abs(draws - y[:, None]).mean(1) - 0.5 * mean_difference(draws[:, None], weights)[:, 0]
    np.testing.assert_allclose(fitted.crps(X, y), expected, atol=0.04)


def test_it_is_scored_and_searched():
    X, y = few()
    scores = cross_val_score(CNFRegressor(**SMALL), X, y, cv=2, scoring=DistributionScorer("neg_crps"))
    assert np.isfinite(scores).all()
    assert (scores < 0).all()
    model = make_pipeline(StandardScaler(), CNFRegressor(**SMALL))
    search = GridSearchCV(model, {"cnfregressor__rtol": [1e-2, 1e-4]}, cv=2, error_score="raise").fit(X, y)
    assert np.isfinite(search.best_score_)


def test_missing_values_and_categories_are_taken():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(size=200), "kind": pd.Categorical(rng.choice(["u", "v"], 200))})
    y = np.where(X["kind"] == "u", 5.0, -5.0) + rng.normal(size=200)
    X.loc[::7, "a"] = np.nan
    model = CNFRegressor(**SMALL | {"max_iter": 15}).fit(X, y)
    known = pd.DataFrame({"a": [np.nan, 0.0], "kind": pd.Categorical(["u", "v"])})
    np.testing.assert_allclose(model.predict(known), [5.0, -5.0], atol=1.0)


def test_weights_count_samples():
    X, y = few()
    weights = np.r_[np.zeros(10), np.ones(20), np.full(10, 2.0)]
    rows = np.repeat(np.arange(40), weights.astype(int))
    weighted = CNFRegressor(**SMALL).fit(X, y, sample_weight=weights)
    repeated = CNFRegressor(**SMALL).fit(X[rows], y[rows])
    np.testing.assert_array_equal(weighted.predict(X), repeated.predict(X))


def test_a_scale_that_is_too_small_for_new_targets_is_raised():
    # Columns of noise, by which a network of too many weights follows the samples that it is trained on.
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 20)), rng.normal(size=120)
    settings = {
        "hidden_layer_sizes": (8,),
        "alpha": 0.0,
        "max_iter": 20,
        "random_state": 0,
        "validation_fraction": 0.3,
        "warm_start": True,
    }
    model = CNFRegressor(**settings, early_stopping=False).fit(X, y)
    assert model.module_.base_scale.item() == 1.0
    X_new, y_new = rng.normal(size=(300, 20)), rng.normal(size=300)
    points = np.square((y_new - model.predict(X_new)) / model.predict(X_new, return_std=True)[1]).mean()
    assert points > 1.2  # it is too sure
    model = CNFRegressor(**settings).fit(X, y)
    assert model.module_.base_scale.item() > 1.05


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hidden_layer_sizes": (4, 4, 4)}, "has 3 layers, but the divergence is computed for one or two: make them"),
        ({"hidden_layer_sizes": ()}, r"has 0 layers, but .* give the width of one, as in \(64,\)"),
        ({"location_layer_sizes": (4, 0)}, "location_layer_sizes must be a sequence of integers > 0"),
        ({"activation": "relu"}, "activation"),
        ({"validation_fraction": 0.999}, "early_stopping=True can't set aside validation_fraction=0.999 of 40"),
    ],
)
def test_wrong_parameters_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        CNFRegressor(**SMALL | change).fit(*few())


def test_wrong_data_are_refused(small):
    X, y = few()
    with pytest.raises(ValueError, match="y has one value only"):
        CNFRegressor(**SMALL).fit(X, np.full(40, 3.0))
    with pytest.raises(ValueError, match="Output 1 of y has one value only"):
        CNFRegressor(**SMALL).fit(X, np.column_stack([y, np.zeros(40)]))
    with pytest.warns(UserWarning, match=r"One value makes up 53% of y: it looks discrete"):
        CNFRegressor(**SMALL).fit(
            np.repeat(X, 2, axis=0) + np.arange(80)[:, None], np.where(np.arange(80) < 40, 0.0, np.repeat(y, 2))
        )
    with pytest.raises(ValueError, match="y has 2 outputs, but the fit had 1"):
        small.log_density(X, np.column_stack([y, y]))
    for wrong in ([0.0, 0.5], [], 2.0):
        with pytest.raises(ValueError, match="quantiles must be one or more probabilities above 0 and below 1"):
            small.predict_quantile(X, wrong)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        small.log_density(X, y[:-1])
    going_on = CNFRegressor(**SMALL, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="y has 2 outputs, but the last fit had 1"):
        going_on.fit(X, np.column_stack([y, y]))


def test_too_few_samples_to_set_some_aside_are_told_from_constant_targets():
    X, y = few()
    with pytest.raises(
        ValueError, match=r"one value only \(up to rounding\) in the 1 samples that are trained on.*early"
    ):
        CNFRegressor(**SMALL).fit(X[:2], y[:2])
    assert np.isfinite(CNFRegressor(**SMALL, early_stopping=False).fit(X[:2], y[:2]).predict(X)).all()


def test_dependent_targets_are_warned_of():
    X, y = few(2)
    with pytest.warns(UserWarning, match=r"Outputs \[0, 2\] of y are linearly dependent: .* Leave out 1 of them"):
        CNFRegressor(**SMALL).fit(X, np.column_stack([y, 3.0 - 2.0 * y[:, 0]]))


def test_training_goes_on_with_warm_start():
    X, y = few()
    model = CNFRegressor(**SMALL, warm_start=True).fit(X, y)
    before = model.log_density(X, y).mean()
    for _ in range(5):
        model.fit(X, y)
    assert model.log_density(X, y).mean() > before
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=.*was built with"):
        model.set_params(hidden_layer_sizes=(5,)).fit(X, y)
