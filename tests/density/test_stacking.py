import pickle

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import kstest, norm
from sklearn.base import clone
from sklearn.model_selection import train_test_split

from skode import CNFDensityEstimator
from skode.density.stacking import PRIOR, stacking_weights
from tests.density.quadrature import Quadrature
from tests.density.tiny import TINY

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

STACKED = {**TINY, "stacking": True}


@pytest.fixture(scope="module")
def stacked(moons):
    """A flow of few updates beside mixtures."""
    return CNFDensityEstimator(**STACKED).fit(moons[:200])


@pytest.fixture(scope="module")
def heavy():
    """The same in one dimension, of a mixture with heavy tails on one side."""
    rng = np.random.RandomState(0)
    X = np.where(rng.uniform(size=400) < 0.5, rng.standard_t(2, 400), rng.normal(4.0, 0.2, 400))
    return CNFDensityEstimator(**STACKED).fit(X[:, None])


def test_weights_are_those_of_the_largest_posterior():
    rng = np.random.RandomState(0)
    logs, counts = rng.normal(size=(50, 3)), rng.uniform(0.5, 1.5, 50)
    counts /= counts.mean()

    def loss(free):
        logits = np.concatenate([[0.0], free])
        log_weights = logits - logsumexp(logits)
        return -(counts @ logsumexp(logs + log_weights, axis=1) + PRIOR / 3 * log_weights.sum())

    logits = np.concatenate([[0.0], minimize(loss, np.zeros(2), tol=1e-10).x])
    np.testing.assert_allclose(stacking_weights(logs, counts), np.exp(logits - logsumexp(logits)), atol=1e-3)


def test_a_density_that_is_infinitely_unlikely_has_no_weight_but_the_priors():
    logs = np.column_stack([np.zeros(99), np.full(99, -np.inf)])
    np.testing.assert_allclose(stacking_weights(logs, np.ones(99)), [99.5 / 100, 0.5 / 100], atol=1e-6)


@pytest.mark.parametrize("t", [0.0, 0.6, 1.0])
def test_the_stack_is_a_density_at_all_times_and_in_both_spaces(heavy, t):
    assert len(heavy.module_.beside) == len(heavy.stacking_weights_) - 1
    assert {id(scaler) for scaler in heavy._scalers} > {id(heavy.scaler_)}
    x = np.concatenate([-np.geomspace(1e6, 1e-5, 4000), np.geomspace(1e-5, 1e6, 4000)])
    assert np.trapezoid(np.exp(heavy.log_prob(x[:, None], t)), x) == pytest.approx(1.0, abs=1e-3)


def test_samples_follow_the_stack_in_both_spaces(heavy):
    x = np.concatenate([-np.geomspace(1e6, 1e-5, 4000), np.geomspace(1e-5, 1e6, 4000)])
    p = np.exp(heavy.score_samples(x[:, None]))
    cdf = np.concatenate([[0.0], np.cumsum(0.5 * (p[1:] + p[:-1]) * np.diff(x))])
    samples = heavy.sample(3000, random_state=0)[:, 0]
    assert kstest(samples, lambda value: np.interp(value, x, cdf)).pvalue > 0.01


def test_samples_follow_the_stack_in_the_plane(stacked):
    quadrature = Quadrature(stacked, n=101)
    assert quadrature.total() == pytest.approx(1.0, abs=1e-3)
    samples = stacked.sample(2000, random_state=0)
    for axis in (0, 1):
        assert kstest(samples[:, axis], quadrature.marginal_cdf(axis)).pvalue > 0.01


def test_samples_and_scores_are_kept_by_pickling_and_the_same_in_a_clone(stacked, moons):
    loaded = pickle.loads(pickle.dumps(stacked))
    np.testing.assert_array_equal(loaded.score_samples(moons), stacked.score_samples(moons))
    again = clone(stacked).fit(moons[:200])
    np.testing.assert_array_equal(again.sample(20, random_state=0), stacked.sample(20, random_state=0))


def test_it_is_not_behind_its_parts_on_held_out_samples(moons):
    X, held_out = train_test_split(moons, test_size=100, random_state=0)
    stack = CNFDensityEstimator(**STACKED).fit(X)
    flow = clone(stack).set_params(stacking=False).fit(X)
    np.testing.assert_allclose(flow.transform(held_out), stack.transform(held_out))  # the same flow
    assert stack.score(held_out) > flow.score(held_out) + 0.3


def test_copies_of_few_points_with_noise_are_followed():
    rng = np.random.RandomState(0)
    centres = rng.uniform(-1.0, 1.0, (40, 2))
    X, held_out = (np.repeat(centres, k, axis=0) + 0.02 * rng.standard_normal((40 * k, 2)) for k in (5, 2))
    stack = CNFDensityEstimator(**STACKED).fit(X)
    truth = logsumexp(norm.logpdf(held_out[:, None], centres, 0.02).sum(2) - np.log(40), axis=1).mean()
    assert stack.score(held_out) > truth - 1.0
    assert stack._flow_log_prob(held_out).mean() < truth - 1.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_and_warm_starts_and_dtypes_go_together(moons, dtype):
    X = moons[:100].astype(dtype)
    counts = 1.0 + np.arange(len(X)) % 2
    repeated = CNFDensityEstimator(**STACKED, warm_start=True).fit(np.repeat(X, counts.astype(int), axis=0))
    weighted = CNFDensityEstimator(**STACKED, warm_start=True).fit(X, sample_weight=counts)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == np.float32 else {"rtol": 1e-7}
    np.testing.assert_allclose(weighted.score_samples(X), repeated.score_samples(X), **tolerance)
    assert weighted.score_samples(X).dtype == dtype
    before = weighted.score(X)
    weighted.fit(X)
    assert weighted.score(X) != before
    assert all(buffer.dtype == weighted.module_.log_scale.dtype for buffer in weighted.module_.beside.buffers())


def test_without_rows_set_aside_the_flow_is_alone(moons):
    flow = CNFDensityEstimator(**STACKED, early_stopping=False).fit(moons)
    np.testing.assert_array_equal(flow.stacking_weights_, [1.0])


@pytest.mark.filterwarnings("ignore:max_time:sklearn.exceptions.ConvergenceWarning")
def test_a_limit_of_time_leaves_mixtures_out(moons):
    flow = CNFDensityEstimator(**STACKED, max_time=1e-3).fit(moons)
    assert len(flow.stacking_weights_) == 1
