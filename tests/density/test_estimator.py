import math
import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.stats import energy_distance, ks_2samp, kstest
from sklearn.datasets import make_moons
from sklearn.mixture import GaussianMixture

from skode import CNFDensityEstimator
from skode.datasets import make_toy_density, toy_log_density
from tests.density.quadrature import Quadrature
from tests.density.tiny import TINY

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

# The density is one


def test_the_density_integrates_to_one(quadrature):
    assert quadrature.total() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("hidden_layer_sizes", [(), (8, 8), (6, 6, 6)])
def test_the_density_integrates_to_one_whatever_the_field(moons, hidden_layer_sizes):
    flow = CNFDensityEstimator(**{**TINY, "hidden_layer_sizes": hidden_layer_sizes}).fit(moons)
    assert Quadrature(flow, ((-6, 7), (-5, 5.5)), 101).total() == pytest.approx(1.0, abs=1e-3)


def test_a_one_dimensional_density_integrates_to_one_and_fits():
    rng = np.random.RandomState(0)
    X = np.concatenate([rng.normal(-2, 0.5, 150), rng.normal(2, 0.5, 150)])[:, None]
    flow = CNFDensityEstimator((16,), learning_rate_init=3e-2, max_iter=25, random_state=0).fit(X)
    grid = np.linspace(-10, 10, 2001)
    density = np.exp(flow.score_samples(grid[:, None]))
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-3)
    assert flow.score(X) > GaussianMixture(1).fit(X).score(X) + 0.3
    assert flow.sample(7).shape == (7, 1)


def test_a_linear_flow_of_normal_data_is_the_normal_density():
    rng = np.random.RandomState(0)
    X = rng.multivariate_normal([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]], 300)
    flow = CNFDensityEstimator(
        (),
        marginals="normal",
        kinetic_energy=0.0,
        learning_rate_init=3e-2,
        max_iter=200,
        early_stopping=False,
        batch_size=300,
        random_state=0,
    ).fit(X)
    gaussian = GaussianMixture(1, reg_covar=0.0).fit(X)
    np.testing.assert_allclose(flow.score_samples(X), gaussian.score_samples(X), atol=0.05)


# Samples follow the density


def test_marginals_of_samples_are_those_of_the_density(fitted, quadrature):
    samples = fitted.sample(2000, random_state=0)
    for axis in (0, 1):
        assert kstest(samples[:, axis], quadrature.marginal_cdf(axis)).pvalue > 0.01


def test_samples_have_the_log_densities_that_draws_from_the_density_have(fitted, quadrature):
    samples = fitted.sample(2000, random_state=1)
    draws = quadrature.draw(2000, np.random.RandomState(0))
    assert ks_2samp(fitted.score_samples(samples), fitted.score_samples(draws)).pvalue > 0.01


def test_samples_and_draws_from_the_density_cannot_be_told_apart_along_any_direction(fitted, quadrature):
    samples = fitted.sample(1000, random_state=2)
    draws = quadrature.draw(1000, np.random.RandomState(1))
    rng = np.random.RandomState(2)
    both, n = np.concatenate([samples, draws]), len(samples)
    directions = np.stack([[math.cos(a), math.sin(a)] for a in np.linspace(0, math.pi, 5)[:-1]])

    def distance(order):
        projected = both[order] @ directions.T
        return sum(energy_distance(p[:n], p[n:]) for p in projected.T)

    observed = distance(np.arange(2 * n))
    permuted = [distance(rng.permutation(2 * n)) for _ in range(99)]
    assert (1 + sum(d >= observed for d in permuted)) / 100 > 0.01


def test_mean_log_density_of_samples_is_minus_the_entropy(fitted, quadrature):
    p = quadrature.density
    entropy = -np.trapezoid(np.trapezoid(p * quadrature.log_density, quadrature.y, axis=1), quadrature.x)
    log_densities = fitted.score_samples(fitted.sample(4000, random_state=3))
    standard_error = log_densities.std() / math.sqrt(4000)
    assert abs(log_densities.mean() + entropy) < 4 * standard_error


def test_sampling_is_reproducible(fitted):
    np.testing.assert_array_equal(fitted.sample(5, random_state=0), fitted.sample(5, random_state=0))
    assert not np.array_equal(fitted.sample(5, random_state=0), fitted.sample(5, random_state=1))


def test_a_random_state_object_goes_on(fitted):
    rng = np.random.RandomState(0)
    assert not np.array_equal(fitted.sample(3, random_state=rng), fitted.sample(3, random_state=rng))


def test_one_sample_is_drawn_by_default(fitted):
    assert fitted.sample().shape == (1, 2)


@pytest.mark.parametrize("n_samples", [0, -1, 2.5, "3"])
def test_a_bad_number_of_samples_is_refused(fitted, n_samples):
    with pytest.raises(ValueError, match="n_samples"):
        fitted.sample(n_samples)


# Scores


def test_score_is_the_mean_log_density(fitted, moons):
    assert fitted.score(moons) == pytest.approx(fitted.score_samples(moons).mean(), rel=1e-12)


def test_it_beats_a_single_gaussian_on_points_held_out(fitted, moons):
    held_out = make_moons(300, noise=0.1, random_state=1)[0]
    assert fitted.score(held_out) > GaussianMixture(1).fit(moons).score(held_out) + 0.3


def test_log_density_follows_the_units_of_the_data(moons):
    scale, shift = np.array([1000.0, 0.01]), np.array([5.0, -3.0])
    plain = CNFDensityEstimator(**TINY).fit(moons)
    rescaled = CNFDensityEstimator(**TINY).fit(moons * scale + shift)
    np.testing.assert_allclose(
        rescaled.score_samples(moons * scale + shift), plain.score_samples(moons) - np.log(scale).sum(), atol=1e-7
    )
    np.testing.assert_allclose(
        rescaled.sample(5, random_state=0), plain.sample(5, random_state=0) * scale + shift, rtol=1e-7
    )


def test_tolerance_is_read_when_scoring(fitted, moons):
    def scored(tolerance):
        copy = pickle.loads(pickle.dumps(fitted)).set_params(rtol=tolerance, atol=tolerance)
        return copy.score_samples(moons[:50])

    errors = [np.abs(scored(tolerance) - scored(1e-11)).max() for tolerance in (1e-2, 1e-5, 1e-8)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6


def test_method_is_read_when_scoring(fitted, moons):
    tight = pickle.loads(pickle.dumps(fitted)).set_params(rtol=1e-6, atol=1e-6)
    other = pickle.loads(pickle.dumps(fitted)).set_params(method="rk4", step_size=0.02)
    np.testing.assert_allclose(other.score_samples(moons), tight.score_samples(moons), atol=1e-3)
    assert not np.array_equal(other.score_samples(moons), fitted.score_samples(moons))


def test_far_away_the_density_is_low_and_finite(fitted):
    far = fitted.score_samples([[100.0, 100.0], [-50.0, 0.0]])
    assert np.isfinite(far).all()
    assert (far < -100).all()


# To the base and back


def test_inverse_transform_returns_what_transform_was_given(fitted, moons):
    tight = pickle.loads(pickle.dumps(fitted)).set_params(rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(tight.inverse_transform(tight.transform(moons)), moons, atol=1e-7)
    np.testing.assert_allclose(fitted.inverse_transform(fitted.transform(moons)), moons, atol=1e-2)


def test_samples_come_from_a_standard_normal_base(fitted):
    base = fitted.transform(fitted.sample(2000, random_state=0))
    assert all(kstest(column, "norm").pvalue > 0.01 for column in base.T)
    again = np.random.RandomState(0).standard_normal((2000, 2))
    np.testing.assert_allclose(base, again, atol=0.02)


def test_the_density_is_the_bases_by_the_change_of_variables(fitted, moons):
    tight = pickle.loads(pickle.dumps(fitted)).set_params(rtol=1e-9, atol=1e-10)
    x, h = moons[0], 1e-5
    shifted = [tight.transform(x[None] + s) - tight.transform(x[None] - s) for s in h * np.eye(2)]
    jacobian = np.concatenate(shifted).T / (2.0 * h)
    z = tight.transform(x[None])[0]
    expected = -0.5 * z @ z - math.log(2.0 * math.pi) + np.linalg.slogdet(jacobian)[1]
    assert tight.score_samples(x[None])[0] == pytest.approx(expected, abs=1e-5)


def test_transform_names_its_columns_and_makes_frames(moons):
    frame = pd.DataFrame(moons, columns=["a", "b"])
    flow = CNFDensityEstimator(**TINY).set_output(transform="pandas").fit(frame)
    base = flow.transform(frame)
    assert base.columns.tolist() == flow.get_feature_names_out().tolist()
    assert base.index.equals(frame.index)


def test_points_of_the_base_must_have_its_dimension(fitted):
    with pytest.raises(ValueError, match="X has 3 features, but the base has 2"):
        fitted.inverse_transform(np.zeros((4, 3)))


# Along time


def test_paths_lead_from_the_base_to_the_samples(fitted, moons):
    paths = fitted.trajectory(moons[:7], [0.0, 0.25, 1.0])
    assert paths.shape == (7, 3, 2)
    np.testing.assert_allclose(paths[:, -1], moons[:7], atol=1e-10)
    base = fitted.transform(moons[:7]) * np.exp(fitted.module_.log_scale.detach().numpy())
    np.testing.assert_allclose(paths[:, 0], fitted.scaler_.inverse_transform(base), atol=1e-2)


def test_the_density_at_every_time_integrates_to_one(fitted):
    class At:
        def __init__(self, t):
            self.t = t

        def score_samples(self, X):
            return fitted.log_prob(X, self.t)

    for t in (0.0, 0.5):
        assert Quadrature(At(t), ((-6, 7), (-5, 5.5)), 101).total() == pytest.approx(1.0, abs=1e-3)


def test_the_density_of_the_data_is_that_at_the_end_and_the_bases_is_normal(fitted, moons):
    np.testing.assert_array_equal(fitted.log_prob(moons, 1.0), fitted.score_samples(moons))
    scale = np.exp(fitted.module_.log_scale.detach().numpy())
    z = fitted.scaler_.transform(moons) / scale
    expected = -0.5 * (z**2).sum(1) - np.log(2 * math.pi) - np.log(scale).sum() + fitted.scaler_.log_det(moons)
    np.testing.assert_allclose(fitted.log_prob(moons, 0.0), expected, rtol=1e-10)


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan])
def test_a_time_outside_the_flow_is_refused(fitted, moons, t):
    with pytest.raises(ValueError, match="t must be a time"):
        fitted.log_prob(moons, t)


@pytest.mark.parametrize("t", [[], [0.5, 0.2], [0.0, 1.5], 0.5])
def test_times_of_paths_must_rise_within_the_flow(fitted, moons, t):
    with pytest.raises(ValueError, match="t must be"):
        fitted.trajectory(moons, t)


# Toys


@pytest.mark.parametrize("name", ["two_circles", "eight_gaussians"])
def test_samples_of_toys_are_like_those_of_the_truth(name):
    X = make_toy_density(name, 3000, random_state=0)
    flow = CNFDensityEstimator(random_state=0, max_iter=16, learning_rate_init=1e-2).fit(X)
    fresh = make_toy_density(name, 1000, random_state=1)
    samples = flow.sample(1000, random_state=2)
    # The largest of the Kolmogorov-Smirnov distances along 8 directions, beside those of two halves mixed anew.
    angles = np.linspace(0, math.pi, 9)[:-1]
    both = np.concatenate([fresh, samples]) @ np.stack([np.cos(angles), np.sin(angles)])

    def distance(order):
        mixed = both[order]
        return max(ks_2samp(mixed[:1000, j], mixed[1000:, j]).statistic for j in range(8))

    rng = np.random.RandomState(3)
    others = [distance(rng.permutation(2000)) for _ in range(49)]
    assert distance(np.arange(2000)) <= 1.3 * max(others)
    truth = toy_log_density(name, fresh).mean()
    assert truth - flow.score(fresh) < 0.15
