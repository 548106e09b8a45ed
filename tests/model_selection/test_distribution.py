"""DistributionScorer: scores of intervals and distributions, with and without an estimator's own."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import BayesianRidge
from sklearn.metrics import mean_pinball_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skode import LatentODERegressor, ODENetRegressor
from skode.model_selection import ContinuationScorer, DistributionScorer
from skode.model_selection._distribution import normal_crps
from tests.timeseries.waves import TINY, make_waves


class Uniform:
    """Outputs between 0 and 1, and -1/2 and 3/2; its CRPS are constants."""

    def predict_interval(self, X, level):
        ends = 0.5 + np.array([-0.5, 0.5]) * level * np.array([[1.0], [2.0]])
        return np.broadcast_to(ends, (len(X), 2, 2))

    def crps(self, X, y):
        return np.where(np.isnan(y), np.nan, [1.0, 3.0])


X = np.arange(4.0)[:, None]
Y = np.array([[0.5, 1.0], [0.01, np.nan], [0.99, 1.49], [0.3, 0.4]])


@pytest.mark.parametrize(("y", "mean", "std"), [(0.3, 0.1, 0.5), (-4.0, 1.0, 2.0)])
def test_the_normal_score_is_the_integral(y, mean, std):
    below = quad(lambda x: norm.cdf(x, mean, std) ** 2, -60, y)[0]
    above = quad(lambda x: norm.sf(x, mean, std) ** 2, y, 60)[0]
    assert normal_crps(y, mean, std) == pytest.approx(below + above, rel=1e-7)
    assert normal_crps(np.array(y), mean, np.array(0.0)) == abs(y - mean)


def test_only_what_was_observed_counts():
    assert DistributionScorer("coverage")(Uniform(), X, Y) == pytest.approx(4 / 7)
    assert DistributionScorer("neg_width", level=0.5)(Uniform(), X, Y) == pytest.approx(-(4 * 0.5 + 3 * 1.0) / 7)
    assert DistributionScorer()(Uniform(), X, Y) == pytest.approx(-(4 * 1 + 3 * 3) / 7)


def test_rows_have_weights():
    weights = [1.0, 2.0, 0.0, 1.0]
    assert DistributionScorer()(Uniform(), X, Y, sample_weight=weights) == pytest.approx(-(4 * 1 + 2 * 3) / 6)
    nothing = np.where(np.arange(4)[:, None] > 0, np.nan, Y)
    with pytest.raises(ValueError, match="no row that was observed has a weight"):
        DistributionScorer()(Uniform(), X, nothing, sample_weight=[0.0, 1.0, 1.0, 1.0])


def test_the_pinball_loss_is_that_of_both_ends():
    true = np.concatenate([Y[:, 0], Y[[0, 2, 3], 1]])
    scale = np.repeat([1.0, 2.0], [4, 3])
    losses = [mean_pinball_loss(true, p * scale + 0.5 * (1.0 - scale), alpha=p) for p in (0.1, 0.9)]
    assert DistributionScorer("neg_pinball_loss", level=0.8)(Uniform(), X, Y) == pytest.approx(-np.mean(losses))


def test_other_estimators_are_normal():
    rng = np.random.default_rng(0)
    y = X[:, 0] + rng.normal(0, 0.3, 4)
    model = BayesianRidge().fit(X, y)
    mean, std = model.predict(X, return_std=True)
    assert DistributionScorer()(model, X, y) == pytest.approx(-normal_crps(y, mean, std).mean())
    width = DistributionScorer("neg_width", level=0.8)
    assert width(model, X, y) == pytest.approx(-2 * norm.ppf(0.9) * std.mean())
    assert width(make_pipeline(FunctionTransformer(), model), X, y) == width(model, X, y)
    with pytest.raises(TypeError, match='BayesianRidge has no method that takes known="before"'):
        DistributionScorer(known="before")(model, X, y)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_intervals_of_residuals_are_taken_output_by_output(n_outputs):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 2)), rng.normal(size=(40, n_outputs)) * [1.0, 5.0][:n_outputs]
    y = y[:, 0] if n_outputs == 1 else y
    model = ODENetRegressor((4,), state_size=4, max_iter=2, alpha=0.1, likelihood="gaussian", random_state=0).fit(x, y)
    ends = model.predict_interval(x, level=0.5)
    covered = (ends[..., 0] <= y) & (y <= ends[..., 1])
    assert DistributionScorer("coverage", level=0.5)(model, x, y) == covered.mean()
    width = DistributionScorer("neg_width", level=0.5)(model, x, y)
    assert width == pytest.approx((ends[..., 0] - ends[..., 1]).mean())
    mean, std = model.predict(x, return_std=True)
    assert DistributionScorer()(model, x, y) == pytest.approx(-normal_crps(y, mean, std).mean())
    with pytest.raises(TypeError, match='ODENetRegressor has no method that takes known="before"'):
        DistributionScorer("coverage", known="before")(model, x, y)


def test_means_of_transformed_targets_are_no_distribution():
    x = np.random.default_rng(0).normal(size=(20, 1))
    model = TransformedTargetRegressor(BayesianRidge(), func=np.log1p, inverse_func=np.expm1).fit(x, np.exp(x[:, 0]))
    for scorer in (DistributionScorer(), DistributionScorer("coverage")):
        with pytest.raises(TypeError, match="has means only, no distribution: cross-validate the regressor inside it"):
            scorer(model, x, np.exp(x[:, 0]))


def test_parameters_are_checked():
    with pytest.raises(ValueError, match="'level' parameter"):
        DistributionScorer(level=1.0)
    with pytest.raises(ValueError, match="'scoring' parameter"):
        DistributionScorer("crps")
    with pytest.raises(ValueError, match="nothing was observed"):
        DistributionScorer()(Uniform(), X, np.full((4, 2), np.nan))


def test_series_that_are_continued(tiny_series):
    model, X, y = tiny_series
    score = ContinuationScorer(prefix=0.5, scoring=DistributionScorer("neg_crps"))(model, X, y)
    later = X.groupby("id")["t"].rank() > 5
    conditioned = model.condition(X[~later], y[~later])
    assert score == pytest.approx(-conditioned.crps(X[later], y[later]).mean())
    before = DistributionScorer("coverage", known="before")(model, X, y)
    ends = model.predict_interval(X, known="before")
    assert before == ((ends[:, 0] <= y) & (y <= ends[:, 1])).mean()


@pytest.fixture
def tiny_series():
    X, y = make_waves(n_series=4)
    return LatentODERegressor(**TINY).fit(X.assign(id="other " + X["id"]), y), X, y
